"""audit: the FLOPs of one step counted six ways, operation by operation, with a reason for every difference.

Three closed forms (exact, paper, hardware), two public operator counters and the GPU's own counters through Nsight
Compute. The FLOPs of a reason are computed from shapes, or are a figure of the counters themselves. A difference that
no reason explains is shown as unexplained.

Observation and judgement are separate. Programs in ``observe`` build and run a case with torch and write what they saw
into files (``exchange``). ``judge`` compares, gives reasons and makes tables, without torch.
"""
