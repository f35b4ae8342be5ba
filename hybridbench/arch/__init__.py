"""arch: what a model is and what it must cost: plain arithmetic, no torch."""
