"""reasons: why an operation is counted differently in two conventions, and the FLOPs that this explains.

The FLOPs of a reason are computed from shapes, never from the difference that they explain. Each kind of block gives
its own reasons (``Block.reasons``).
"""

from __future__ import annotations

from dataclasses import dataclass

SCORES_AGAIN = "scores computed again in the backward"
TILES = "whole tiles of 128 x 128 where a pair in them is visible"
CHUNKED = "chunked or parallel scan in place of the recurrence"
SCAN_BACKWARD = "a backward of the scan that is not twice its forward"
PADDED = "columns in whole tiles of 256"

PAPER_TEXTS = {
    "core": "the new token's own key left out",
    "conv": "conv priced by its parameters",
    "scan": "recurrence priced at 9 FLOPs a state, not 5",
    "parameters": "all parameters priced as products",
    "router": "the router left out",
    "gate": "the gate priced by its parameters",
}
"""Last word of an operation's name to what the paper's formula does to it: that formula is a definition, and needs no
other reason."""


@dataclass(frozen=True)
class Reason:
    """Why an operation is counted differently, and the FLOPs of one sequence that this explains, with sign."""

    operation: str
    text: str
    flops: int
