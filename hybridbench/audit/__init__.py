"""audit: the FLOPs of one step counted six ways, operation by operation, and every difference named.

Three closed forms (exact, paper, hardware), two public operator counters and the GPU's own counters through Nsight
Compute. A reason for a difference is computed from shapes, or is a figure the counters give by themselves; what no
reason explains is shown as unexplained.

What is seen and what is made of it are apart: programs in ``observe`` build and run a case with torch, and tell what
they saw through files (``exchange``); ``judge`` compares, names and shows, and needs no torch.
"""
