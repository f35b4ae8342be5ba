"""audit: the FLOPs of one step counted six ways, operation by operation, and every difference named.

Three closed forms (exact, paper, hardware), two public operator counters and the GPU's own counters through Nsight
Compute. A reason for a difference is computed from shapes, or is a figure the counters give by themselves; what no
reason explains is shown as unexplained.
"""
