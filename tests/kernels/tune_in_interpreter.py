"""Searches tilings of a tiny step on the CPU in triton's interpreter, with a scripted clock; prints what it found.

Of two products two tilings each are tried: one whose loop never runs, so that its product is 0, and a right one, for
which the clock says half of the rules' time.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch
from decode_in_interpreter import mend_the_interpreter

from hybridbench.arch.families import Options, pattern_spec
from hybridbench.model import tune
from hybridbench.model.tiling import Tiling
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import DECODE, Workload

RIGHT, EMPTY = Tiling(64, 1, 64, 2, 4), Tiling(64, 1, 256, 2, 4)


def main() -> None:
    """Print what was found."""
    mend_the_interpreter()
    spec = pattern_spec("*-", "tiny", Options(vocab_size=100))
    case = Case(spec, Workload(DECODE, 3, 17), Execution("cpu", "float32", "graph"))
    tune.candidates = lambda *_: [EMPTY, RIGHT]
    asked: list[Any] = []

    def timer(launches: Any) -> float:
        asked.append(len(launches))
        return 50.0 if len(asked) > len(search.tried) else 100.0

    def step_timer(plans: Any) -> float:
        """A step that is slower by 5 with the head cut so, and faster by 10 with the projections cut so."""
        (plan,) = plans
        cut = {name: tiling for (name, *_), tiling in plan.cut.items()}
        return 100.0 + 5 * (cut["head"] == RIGHT) - 10 * (cut["qkv"] == RIGHT)

    with torch.no_grad():
        search = tune.TilingSearch(tune.inputs_of(case, torch.device("cpu")), timer, only=("qkv", "head"))
        seen: list[tuple[int, int]] = []
        found = search.run(lambda told: seen.append((told.done, told.total)))
        search.timer = step_timer
        head = {product: one for product, one in found.items() if product.name == "head"}
        other = {replace(product, k=4096): one for product, one in head.items()}
        rules = search.rules.cut["qkv", 256, 128]
        neither = {product: replace(one, tiling=rules) for product, one in found.items() if product.name == "qkv"}
        whole = [
            search.together(found, {}),
            search.together({}, {**found, **other}),
            search.together(neither, {}),
        ]
    body = {
        "found": [[product.name, product.tokens, one.tiling == RIGHT, one.us] for product, one in found.items()],
        "dropped": search.dropped,
        "seen": seen,
        "whole": [
            [sorted(one.name for one in it.kept), sorted(one.name for one in it.slower), it.us, it.rules_us]
            for it in whole
        ],
        "seconds": search.seconds,
    }
    json.dump(body, sys.stdout)


if __name__ == "__main__":
    main()
