"""paper: the efficiency section of the source paper (arXiv 2510.04800 v3) beside records of the same experiments."""
