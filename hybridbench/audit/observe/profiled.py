"""profiled: the process that Nsight Compute watches: one case built, warmed up, and one eager step of it profiled.

Whatever is launched under it is slow, so it does nothing that a process without it can do: no operator is counted here,
and nothing tuned, since what autotuning took before comes with the case.

    ncu --profile-from-start off ... python -m hybridbench.audit.observe.profiled CASE.json

It ends itself when the process that asked for it is gone: between the two stands the profiler.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hybridbench.audit.exchange import asked
from hybridbench.audit.observe.counters import warmed
from hybridbench.audit.observe.tuned import take
from hybridbench.processes import end_with_starter


def profiled(step: Callable[[], object]) -> None:
    """One step inside the profiler's range."""
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    runtime.cudaProfilerStart()
    step()
    torch.cuda.synchronize()
    runtime.cudaProfilerStop()


def main(path: Path) -> None:
    """Runs the case of a file that ``exchange.ask`` wrote, with the configurations it names."""
    case, tuned, tempfile.tempdir = asked(path)
    take(tuned)
    # The process that observed the case has checked it.
    session = warmed(case, None)
    profiled(session.work.eager_step)


if __name__ == "__main__":
    end_with_starter()
    main(Path(sys.argv[1]))
