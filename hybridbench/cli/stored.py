"""stored: records that a command reads, with a sentence about what is damaged among them.

The rest is used, and the command ends with exit code 2 once it has shown it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from hybridbench.cli.output import Plain

if TYPE_CHECKING:
    from hybridbench.record import Record
    from hybridbench.store import StoredRecord

R = TypeVar("R", bound="StoredRecord")

_DAMAGED = "hybridbench.damaged"


def all_records(paths: Sequence[Path], kind: type[R]) -> list[R]:
    """Every record of a kind in files and folders.

    Raises:
        BadResults: none of them holds a record.
    """
    from hybridbench.store import load

    return load(paths, warn, damaged, kind)


def stored_kinds() -> tuple[type[StoredRecord], ...]:
    """Every kind of record that a command stores."""
    from hybridbench.kernel_suite.record import KernelRecord
    from hybridbench.quality.contexts.record import ContextRecord
    from hybridbench.quality.tasks.record import TaskRecord
    from hybridbench.quality.training.record import LearnRecord
    from hybridbench.record import Record
    from hybridbench.record.traced import TraceRecord

    return Record, KernelRecord, TraceRecord, LearnRecord, TaskRecord, ContextRecord


def warn(sentence: str) -> None:
    """Say what was passed over."""
    Plain(stderr=True, soft_wrap=True).print(f"warning: {sentence}", style="yellow")


def damaged(sentence: str) -> None:
    """Say what is damaged and left out, for which the command ends with exit code 2."""
    Plain(stderr=True, soft_wrap=True).print(f"error: {sentence}", style="red")
    click.get_current_context().meta[_DAMAGED] = True


def stored_records(paths: Sequence[Path]) -> list[Record]:
    """The latest record of every case and machine in files and folders.

    Raises:
        BadResults: none of them holds a record.
    """
    from hybridbench.record import Record
    from hybridbench.store import newest

    return newest(all_records(paths, Record))


def some_were_damaged(ctx: click.Context) -> bool:
    """Whether ``damaged`` was called."""
    return bool(ctx.meta.get(_DAMAGED))
