"""predict: what work costs on a GPU that nobody has to own: FLOPs, bytes moved, floor and memory of a step, and what
follows from them: prices, fits, matches, crossovers and cache layouts.
"""
