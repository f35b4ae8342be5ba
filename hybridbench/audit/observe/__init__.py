"""observe: programs that build and run one case after another and write what they observed; needs torch."""
