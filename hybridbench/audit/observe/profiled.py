"""profiled: the process that Nsight Compute watches: one case built, warmed up, and one eager step of it profiled.

Every launch under the profiler is slow. So this process leaves out what an unprofiled one can do: it counts no
operators, and it does not tune: the case comes with the configurations that autotuning chose before (``tuned``).

    ncu --profile-from-start off ... python -m hybridbench.audit.observe.profiled CASE.json

It ends itself when the process that asked for it is gone, which is not its parent: its parent is the profiler.
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
from hybridbench.audit.observe.tuned import using
from hybridbench.processes import end_with_starter


def profiled(step: Callable[[], object]) -> None:
    """Run one step inside the profiler's range."""
    runtime: Any = torch.cuda.cudart()
    torch.cuda.synchronize()
    runtime.cudaProfilerStart()
    step()
    torch.cuda.synchronize()
    runtime.cudaProfilerStop()


def main(path: Path) -> None:
    """Run the case of a file that ``exchange.ask`` wrote, with the configurations it names."""
    case, tuned, tempfile.tempdir = asked(path)
    with using(tuned):
        session = warmed(case, None)  # without proofs: the process that observed the case has checked it
        profiled(session.work.eager_step)


if __name__ == "__main__":
    end_with_starter()
    main(Path(sys.argv[1]))
