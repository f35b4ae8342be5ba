"""place: where a run keeps its checkpoint and its weights, below the folder of results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hybridbench.quality.training.case import LearnCase
from hybridbench.quality.training.record import LearnRecord
from hybridbench.record import Status


def checkpoint_path(case: LearnCase) -> Path:
    """The file from which an interrupted run goes on."""
    return Path(case.place.out, "checkpoints", f"{case.key}.safetensors")


def weights_path(case: LearnCase) -> Path:
    """The file of a finished run's weights."""
    return Path(case.place.out, "weights", f"{case.key}.safetensors")


def remove_checkpoints(records: Iterable[LearnRecord]) -> None:
    """Removes the checkpoints of runs that ended, whose records are on disk, and their folder once it is empty."""
    for record in records:
        path = checkpoint_path(record.case)
        if record.status is Status.OK and path.exists():
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
