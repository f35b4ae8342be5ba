"""rope: rotary embedding: the base of its frequencies, and how they are scaled for longer contexts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding; ``factor`` 1 means no frequency scaling (Llama-3 scaling otherwise)."""

    theta: float = 500_000.0
    factor: float = 32.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


LLAMA_ROPE = Rope()
WINDOW_ROPE = Rope(theta=10_000.0, factor=1.0)
"""Sliding-window layers use theta 10,000; positions inside a window need no frequency scaling."""
