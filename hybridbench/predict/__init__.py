"""predict: what work costs on any GPU, without that GPU: FLOPs, bytes moved, floor and memory of a step, and what
follows from them: prices, fits, matches, crossovers and cache layouts.
"""
