"""Runs fused decode steps of many sequences on the CPU in triton's interpreter; prints one JSON list of [case, errors].

As ``step_in_interpreter``, whose errors they are: every kind of block with as many sequences as fill tiles of 32 to 256
tokens in part, by the rules' own tilings and by others.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from step_in_interpreter import SMALL, errors, mend_the_interpreter

from hybridbench.arch.families import Options, pattern_spec
from hybridbench.model.steps import delta
from hybridbench.model.tiling import Tiling
from hybridbench.model.tiling_table import STATES

WINDOW = {"window": 3, "sinks": 1}
SLICES = {(name, 64, 64): Tiling(16, 1, 64, 2, 1) for name in STATES}
SPLIT = {("qkv", 256, 128): Tiling(64, 2, 32, 2, 4), ("mamba2", 644, 128): Tiling(64, 4, 32, 2, 4)}
SPLIT |= {("residual", 128, 256): Tiling(64, 3, 32, 2, 4), ("swiglu", 768, 128): Tiling(128, 2, 64, 2, 4)}

CASES: list[tuple[str, dict[str, Any], str, int, Any]] = [
    # pattern, options, dtype, sequences, tilings. A convolution's state has words of 8 bytes in 16 bit only
    ("*-", {}, "float32", 17, None),
    ("M-", {}, "float32", 17, None),
    ("S*", WINDOW, "float32", 33, None),
    ("M(*&M)-", {}, "bfloat16", 33, SPLIT),
    ("M*-", {}, "float32", 64, SPLIT),
    ("G-", {}, "bfloat16", 33, None),
    ("(*&M)", {}, "bfloat16", 64, SLICES),
    ("M-S", WINDOW, "bfloat16", 130, SLICES),
    ("(*&M)", {}, "bfloat16", 130, None),
    ("K-", {}, "float32", 17, None),
    ("(*&K)", {}, "bfloat16", 17, None),
    ("7-7", {}, "float32", 17, None),
    ("7*7-", {}, "bfloat16", 17, None),
    ("m-", {}, "float32", 17, None),
]


def main() -> None:
    """Print the errors of the cases with the numbers given, or of all."""
    mend_the_interpreter()
    delta.PIECE = 16  # several programs share a head of so small a model
    found = []
    for pattern, options, dtype, batch, tilings in CASES:
        spec = pattern_spec(pattern, "tiny", Options(**SMALL, **options))
        found.append([f"{pattern} {dtype} b{batch}", *errors(spec, dtype, batch, 3, tilings)])
        print(found[-1], file=sys.stderr, flush=True)  # noqa: T201
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
