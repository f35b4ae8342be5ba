"""Tunes a kernel of Triton's for a GPU that is not there: it is compiled as for one, and launched nowhere.

Prints, as JSON, what happened to its configurations in order (compiled: whether in the main thread), the one taken, and
what a record would say of the compilations.
A program of its own, because a driver holds for a whole process.

    tune_without_gpu.py [side-by-side]
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from triton.runtime.driver import driver

from hybridbench.gate.observe.nowhere import Nowhere
from hybridbench.kernels.compiling import noting
from hybridbench.kernels.tuning import side_by_side
from hybridbench.plain import to_plain

happened: list[list[Any]] = []


def timed(call: Callable[[], object], quantiles: tuple[float, ...]) -> list[float]:
    """The least block is the fastest."""
    call()
    happened.append(["timed", happened[-1][1]])
    return [float(happened[-1][1])] * len(quantiles)


class Timing(Nowhere):
    """One that has something to time."""

    def get_benchmarker(self) -> Callable[..., list[float]]:
        return timed


@triton.autotune(configs=[triton.Config({"BLOCK": block}) for block in (64, 8, 16, 32)], key=[])
@triton.heuristics({"MASKED": lambda given: given["BLOCK"] > 1})
@triton.jit
def filled(out: tl.tensor, BLOCK: tl.constexpr, MASKED: tl.constexpr) -> None:
    tl.static_assert(BLOCK != 8)
    tl.store(out + tl.arange(0, BLOCK), 1.0, mask=tl.arange(0, BLOCK) < 64 if MASKED else None)


def main() -> None:
    driver.set_active(Timing(lambda source, metadata: happened.append(["launched", source.constants[1,]])))
    build = triton.compiler.compiler.compile

    def told(source: Any, *given: Any, **more: Any) -> Any:
        happened.append(["compiled", source.constants[1,], threading.current_thread() is threading.main_thread()])
        return build(source, *given, **more)

    triton.compiler.compile = triton.compiler.compiler.compile = told
    with noting() as compiled, side_by_side() if "side-by-side" in sys.argv else nullcontext():
        out = torch.empty(64)
        for _ in range(2):
            filled[(1,)](out)
    sys.stdout.write(json.dumps({"happened": happened, "best": filled.best_config.kwargs, "noted": to_plain(compiled)}))


if __name__ == "__main__":
    main()
