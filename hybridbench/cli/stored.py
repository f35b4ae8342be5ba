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
    from hybridbench.store import Stored

R = TypeVar("R", bound="Stored")

_DAMAGED = "hybridbench.damaged"


def all_records(paths: Sequence[Path], kind: type[R]) -> list[R]:
    """Every record of a kind in files and folders.

    Raises:
        BadResults: none of them holds a record.
    """
    from hybridbench.store import load

    told = Plain(stderr=True, soft_wrap=True)

    def damaged(sentence: str) -> None:
        told.print(f"error: {sentence}", style="red")
        click.get_current_context().meta[_DAMAGED] = True

    return load(paths, lambda text: told.print(f"warning: {text}", style="yellow"), damaged, kind)


def stored_records(paths: Sequence[Path]) -> list[Record]:
    """The latest record of every case and machine in files and folders.

    Raises:
        BadResults: none of them holds a record.
    """
    from hybridbench.record import Record
    from hybridbench.store import newest

    return newest(all_records(paths, Record))


def some_were_damaged(ctx: click.Context) -> bool:
    """Whether ``all_records`` left anything out."""
    return bool(ctx.meta.get(_DAMAGED))
