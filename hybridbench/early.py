"""early: workers started while kernels are compiled ahead, which import meanwhile what their cases will use.

A worker imports PyTorch in seconds, and its first cases what their kernels come in (mamba_ssm imports transformers) and
Dynamo. On an H200 whose kernels were compiled, the worker of twenty cases took 4 s to start, and 7 s to build the
models of its first three. None of it needs a quiet machine.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hybridbench.machine import thread_settings
from hybridbench.processes import Answering
from hybridbench.record import Record

if TYPE_CHECKING:
    from hybridbench.suite.case import Case

SOON = "soon"
"""The one key of a line that tells a worker which cases will come."""


def settings_of(gpu: str | None, workers: int) -> dict[str, str]:
    """The environment of a worker: its GPU, and its share of the cores where it has none."""
    settings = thread_settings(1 if gpu is not None else workers)
    return settings if gpu is None else settings | {"CUDA_VISIBLE_DEVICES": gpu}


class Early:
    """Workers by their GPU, until the runner takes them.

    Args:
        gpus: values for CUDA_VISIBLE_DEVICES, one for each worker.
        soon: the cases that will come.
        folder: for their logs.

    Raises:
        OSError: one cannot be started.
    """

    def __init__(self, gpus: Sequence[str], soon: Sequence[Case], folder: Path) -> None:
        self._waiting: dict[str, Answering] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for number, gpu in enumerate(dict.fromkeys(gpus)):
            log = folder / f"worker-early-{os.getpid()}-{number}.log"
            try:
                process = Answering([sys.executable, "-m", Record.WORKER], log, settings_of(gpu, 1))
            except OSError:
                self.end()
                raise
            process.ask(json.dumps({SOON: [case.to_dict() for case in soon]}))
            self._waiting[gpu] = process

    def take(self, gpu: str | None) -> Answering | None:
        """The worker of a GPU, which is the caller's from now on; None where there is none, or it has been taken."""
        return None if gpu is None else self._waiting.pop(gpu, None)

    def end(self) -> None:
        """Ends those that nobody took."""
        while self._waiting:
            self._waiting.popitem()[1].end()
