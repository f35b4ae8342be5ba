"""count: what a step really did, by public counters and by the tensors themselves.

A counter is evidence, not truth: what it missed is always listed. ``step`` counts one eager step of a case for
records and audits alike; ``caches`` sums bytes; ``ncu`` asks the GPU.
"""
