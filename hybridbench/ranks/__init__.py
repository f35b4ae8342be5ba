"""ranks: one case on several processes: how its model is placed on them, and what they measure together."""
