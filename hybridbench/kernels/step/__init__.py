"""step: the kernels of one decode step of a whole model."""
