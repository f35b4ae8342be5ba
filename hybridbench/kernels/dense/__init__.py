"""dense: what has no memory of other positions: activations, norms, gates, rotations and routed experts."""
