"""derive: what follows from a record: pure functions that the entries of ``metrics`` are made of."""
