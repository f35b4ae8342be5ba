"""baselines: stored records that later ones are compared with, kept in a file for each class of machine.

    results/baselines/nvidia-h200/kernels-main.jsonl      operations, one line per cell and update
    results/baselines/nvidia-h200/records-main.jsonl      steps

The files hold records as they were measured, so that every other command reads them too. An update appends; what stands
there stays, since a trend needs all of it. A release has a name of its own in place of ``main``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hybridbench.compare.conditions import denied
from hybridbench.errors import BadInput
from hybridbench.record import Environment, Status
from hybridbench.store import StoredRecord, load, make_folder, newest
from hybridbench.text import shown

FOLDER = Path("results/baselines")
MAIN = "main"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def machine_class(environment: Environment) -> str:
    """The folder of a machine's baselines, such as ``nvidia-h200``: its device in lower case."""
    return re.sub(r"[^a-z0-9]+", "-", environment.device.lower()).strip("-") or "unknown"


def baseline_file(record: StoredRecord, name: str = MAIN, folder: Path = FOLDER) -> Path:
    """Where a record belongs.

    Raises:
        BadInput: a name that no file can have.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"{shown(name)} cannot name a baseline: use up to 100 letters, digits, '.', '_' and '-', such as v0.1."
        )
    kind: Any = type(record)
    return folder / machine_class(record.environment) / f"{kind.FILES}-{name}.jsonl"


def add(
    records: Sequence[StoredRecord], name: str, folder: Path, warn: Callable[[str], None] = lambda _text: None
) -> dict[Path, int]:
    """Append the newest record of each cell, where it can carry a comparison; how many, by file.

    Args:
        warn: called with a sentence about each record that is left out.

    Raises:
        BadInput: a name that no file can have, no record that can be kept, or a file that cannot be written.
    """
    by_file: dict[Path, list[StoredRecord]] = {}
    for record in newest(list(records)):
        why = _unfit(record)
        if why:
            warn(f"Left out: {_label(record)}: {why}.")
        else:
            by_file.setdefault(baseline_file(record, name, folder), []).append(record)
    if not by_file:
        raise BadInput("none of these records can be a baseline: measure again, with nothing else on the machine.")
    return {file: _appended(file, some) for file, some in by_file.items()}


def _appended(file: Path, records: Iterable[StoredRecord]) -> int:
    records = list(records)
    there = load([file], _ignored, _ignored, type(records[0])) if file.exists() else []
    known = {(one.run_id, one.case.key) for one in there}
    new = [one for one in records if (one.run_id, one.case.key) not in known]
    if new:
        make_folder(file.parent)
        try:
            with file.open("a", encoding="utf-8") as lines:
                lines.writelines(f"{one.to_json()}\n" for one in new)
        except OSError as exc:
            raise BadInput(f"{file} cannot be written ({exc.strerror}): make it writable.") from exc
    return len(new)


def _ignored(_text: str) -> None:
    """What is damaged stays as it is."""


def _unfit(record: Any) -> str:
    """Why a record cannot carry a comparison; empty where it can."""
    if record.status is not Status.OK:
        return f"its status is {record.status.value.replace('_', ' ')}"
    doubts = denied(record.environment, record.caveats)
    return f"its time is doubtful ({', '.join(one.value.replace('_', ' ') for one in doubts)})" if doubts else ""


def _label(record: Any) -> str:
    return str(record.case.label)
