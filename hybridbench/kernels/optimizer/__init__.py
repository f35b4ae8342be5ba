"""optimizer: the update of a training step."""
