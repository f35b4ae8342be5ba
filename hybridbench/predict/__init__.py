"""predict: what a model would need and take on a GPU that nobody has to own: prices, fits, matches and crossovers."""
