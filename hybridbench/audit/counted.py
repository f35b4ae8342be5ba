"""counted: the process that Nsight Compute watches: one case built, warmed up, and one eager step of it profiled.

Whatever is launched under it is slow, so it does nothing that a process without it can do: no operator is counted here,
and nothing tuned, since what autotuning took before comes with the case.

    ncu --profile-from-start off ... python -m hybridbench.audit.counted CASE.json

It ends itself when the process that asked for it is gone: between the two stands the profiler.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hybridbench.audit.observe import warmed
from hybridbench.audit.tuned import Taken, take
from hybridbench.processes import end_with_starter
from hybridbench.suite.case import Case


def ask(file: Path, case: Case, tuned: Sequence[Taken]) -> None:
    """Writes the file that tells this program what to run."""
    body = {"case": case.to_dict(), "tuned": [asdict(one) for one in tuned], "temporary": tempfile.gettempdir()}
    file.write_text(json.dumps(body), encoding="utf-8")


def profiled(step: Callable[[], object]) -> None:
    """One step inside the profiler's range."""
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    runtime.cudaProfilerStart()
    step()
    torch.cuda.synchronize()
    runtime.cudaProfilerStop()


def main(path: Path) -> None:
    """Runs the case of a file that ``ask`` wrote, with the configurations it names.

    Temporary files go where they went for who asked: there PyTorch and flash-attn 4 keep what they compiled, and the
    profiler may have been given a folder of its own.
    """
    body = json.loads(path.read_text(encoding="utf-8"))
    tempfile.tempdir = body["temporary"]
    take(Taken(**one) for one in body["tuned"])
    # The process that observed the case has checked it.
    session = warmed(Case.from_dict(body["case"]), None)
    profiled(session.work.eager_step)


if __name__ == "__main__":
    end_with_starter()
    main(Path(sys.argv[1]))
