"""scan: the recurrences of Mamba-1, Mamba-2 and Mamba-3, over a sequence and in one step, and their convolution."""
