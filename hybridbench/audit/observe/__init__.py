"""observe: programs that build and run one case after another, and tell what they saw; the part that needs torch."""
