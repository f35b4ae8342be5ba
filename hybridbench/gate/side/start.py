"""start: one side's program, begun so that both sides are timed by the same clock.

The base may be another revision of this package. Its kernels, models and draws of inputs are what is timed; how they
are timed belongs to the change on both sides, or a change of the clock would look like a change of a kernel. So this
file is run by its path, loads the modules that time from the folder that it lies in, and all others from the path of
Python, which is the side's own.

    python -P .../hybridbench/gate/side/start.py MODULE ... ANSWER_FD
"""

from __future__ import annotations

import ctypes
import importlib.util
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CARRIED = (
    "hybridbench.measure.clock",
    "hybridbench.measure.cpu",
    "hybridbench.kernel_suite.flush",
    "hybridbench.kernel_suite.pace",
    "hybridbench.kernel_suite.warming",
    "hybridbench.kernel_suite.replayed",
    "hybridbench.kernel_suite.timing",
    "hybridbench.kernel_suite.traced",
    "hybridbench.gate.side.identity",
    "hybridbench.gate.side.spin",
    "hybridbench.gate.side.planted",
    "hybridbench.gate.side.understood",
    "hybridbench.gate.side.program",
)
"""The modules that come from here on both sides, each after those that it imports. What else they import, an older base
must have (``tests/gate/test_side.py`` lists it)."""
FOR_TRACES = ("hybridbench.trace", "hybridbench.gate.side.where")
"""The same for traces of a regression. A base that lacks what they import is timed all the same, and not traced."""


_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Has Linux kill this process with the one that started it, also while it is stopped and cannot watch."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def carry(root: Path = ROOT) -> None:
    """Load the modules that time from one folder, under their own names.

    Raises:
        ImportError: they need something that this side's package does not have.
    """
    for name in CARRIED:
        _load(name, root)
    for name in FOR_TRACES:
        try:
            _load(name, root)
        except ImportError:
            sys.modules.pop(name, None)
            break


def _load(name: str, root: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, root.joinpath(*name.split(".")).with_suffix(".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    end_with_parent()  # before it imports anything that takes long, during which it may be stopped
    carry()
    sys.modules["hybridbench.gate.side.program"].main()
