"""count: what a step really did, as public counters and the tensors themselves tell it.

A counter is evidence, not truth: what it did not see is always listed. ``step`` counts one eager step of a case for
records and audits alike; ``caches`` sums bytes; ``ncu`` asks the GPU.
"""
