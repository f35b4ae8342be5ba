"""counted: the process that Nsight Compute watches: cases built, warmed up, and one eager step of each profiled.

Nothing is profiled but one step a case, each behind a kernel that no model runs, so that a report of many cases can be
taken apart. What both operator counters saw goes to a JSON file after every case.

    ncu --profile-from-start off ... python -m hybridbench.audit.counted CASES.json SEEN.json PID

It ends itself when the process PID, which waits for it, is gone: between the two stands the profiler.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hybridbench.audit.observe import observe
from hybridbench.suite import Case


def profiled(step: Callable[[], object]) -> None:
    """One step inside the profiler's range, behind the marker (``count.ncu.MARKER``)."""
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    runtime.cudaProfilerStart()
    torch.cuda._sleep(1)  # type: ignore[no-untyped-call]
    step()
    torch.cuda.synchronize()
    runtime.cudaProfilerStop()


def _end_with(pid: int) -> None:
    """Ends this process when another is gone: a killed command must not leave a GPU busy."""

    def watch() -> None:
        while True:
            try:
                os.kill(pid, 0)
            except OSError:
                os._exit(1)
            time.sleep(1.0)

    threading.Thread(target=watch, daemon=True).start()


def main(cases: Path, seen: Path) -> None:
    """Runs the cases of one file and writes what was seen to another."""
    found = []
    for body in json.loads(cases.read_text(encoding="utf-8")):
        found.append(observe(Case.from_dict(body), then=profiled).to_dict())
        gc.collect()
        torch.cuda.empty_cache()  # the next case starts from an empty device
        seen.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    _end_with(int(sys.argv[3]))
    main(Path(sys.argv[1]), Path(sys.argv[2]))
