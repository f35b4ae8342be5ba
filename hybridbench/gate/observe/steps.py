"""steps: what torch makes of a step of small cases on a CPU: operators, graphs, graph breaks and recompilations.

Prints them as JSON, with torch's version. An operator is one call that the dispatcher sees and that computes something:
views launch nothing. Graphs are those that torch.compile captures in building the case and in its first step, breaks
those on the way, and recompilations the graphs of two further steps. Graphs are run as they were captured, without the
compiler behind them, whose code does not change their number.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from hybridbench.arch.families import ARCHS, build_spec
from hybridbench.session import device_for, open_session
from hybridbench.suite.case import COMPILE, EAGER, Case, Execution
from hybridbench.suite.workloads import DECODE, PREFILL, TRAIN, Workload

CONTEXT, BATCH = 128, 2
FURTHER_STEPS = 2


class Operators(TorchDispatchMode):
    """Counts the operators that compute something."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.count = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operator and run it."""
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def of_case(arch: str, kind: str) -> dict[str, int | None]:
    """The figures of a family's step at scale tiny."""
    spec = build_spec(arch, "tiny")
    eager = _opened(Case(spec, Workload(kind, CONTEXT, BATCH), Execution("cpu", "float32", EAGER)))
    eager.eager_step()
    with Operators() as seen:
        eager.eager_step()
    with _as_captured():
        torch._dynamo.reset()
        counters.clear()
        compiled = _opened(Case(spec, Workload(kind, CONTEXT, BATCH), Execution("cpu", "float32", COMPILE)))
        compiled.step()
        first = _graphs()
        for _ in range(FURTHER_STEPS):
            compiled.step()
    return {
        "operators": seen.count,
        "graphs": first,
        "graph breaks": sum(counters["graph_break"].values()),
        "recompilations": _graphs() - first,
    }


def _opened(case: Case) -> Any:
    return open_session(case, device_for("cpu"), None).work


def _graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@contextmanager
def _as_captured() -> Iterator[None]:
    """Inside, torch.compile captures graphs and runs them as they are."""
    compile = torch.compile
    torch.compile = functools.partial(compile, backend="eager")
    try:
        yield
    finally:
        torch.compile = compile


def main() -> None:
    """Print the figures."""
    figures = {f"{arch}/tiny {kind}": of_case(arch, kind) for arch in ARCHS for kind in (TRAIN, PREFILL, DECODE)}
    json.dump({"versions": {"torch": torch.__version__.partition("+")[0]}, "figures": figures}, sys.stdout)


if __name__ == "__main__":
    main()
