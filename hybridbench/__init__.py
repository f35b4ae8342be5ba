"""hybridbench: benchmark, profile and predict language models that mix attention with state-space layers."""

__version__ = "0.1.0"
