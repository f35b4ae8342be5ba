"""blocks: one file per kind of block: its fields and what it must cost: parameters, FLOPs, cache bytes, activations."""
