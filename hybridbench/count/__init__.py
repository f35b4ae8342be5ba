"""count: what a step really did, as public counters and the tensors themselves tell it.

A counter is evidence, not truth: ``operators`` always lists what a counter did not see. ``caches`` sums bytes.
"""
