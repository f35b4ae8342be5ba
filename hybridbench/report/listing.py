"""listing: the folders of results on a disk as a table: their runs, when, on what, of which kinds, and how cases ended.

A folder is a row. It may hold several runs, such as one that was interrupted and the one that went on. Of a case that
was run more than once on one machine, the newest record counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridbench.record import Record, Status
from hybridbench.report.table import Column, Table, TableCell
from hybridbench.store import OTHERS, StoredRecord, newest
from hybridbench.suite.workloads import WORKLOADS


@dataclass(frozen=True)
class Folder:
    """What a folder of results holds.

    Attributes:
        name: its path, as short as it was given.
        runs: the number of runs.
        first, last: when the earliest and the latest case began, in UTC: ``2026-11-22T09:20:59+00:00``.
        machines: the devices.
        kinds: the number of cases of each workload, and of each of ``store.OTHERS``.
        statuses: the number of cases that ended in each way.
    """

    name: str
    runs: int
    first: str
    last: str
    machines: tuple[str, ...]
    kinds: dict[str, int]
    statuses: dict[str, int]

    @property
    def cases(self) -> int:
        """The number of cases."""
        return sum(self.kinds.values())


def folder_of(path: Path, records: Sequence[StoredRecord]) -> Folder:
    """What the records of a folder, at least one, say of it."""
    shown = newest(records)
    kinds = Counter(_kind(one) for one in shown)
    ended = Counter(record.status for record in shown)
    times = [record.started for record in records]
    return Folder(
        str(path),
        len({record.run_id for record in records}),
        min(times).isoformat(timespec="seconds"),
        max(times).isoformat(timespec="seconds"),
        tuple(dict.fromkeys(record.environment.device for record in shown)),
        {kind: kinds[kind] for kind in (*WORKLOADS, *OTHERS) if kinds[kind]},
        {status.value: ended[status] for status in Status if ended[status]},
    )


def _kind(record: StoredRecord) -> str:
    return record.case.workload.kind if isinstance(record, Record) else record.FILES


def listing_table(folders: Sequence[Folder]) -> Table:
    """A row per folder, the one with the oldest results first."""
    machines = {folder.machines for folder in folders}
    table = Table(
        f"{len(folders)} folder{'s' * (len(folders) != 1)} of results",
        [
            Column("folder", "results", numeric=False),
            Column("runs", "runs"),
            Column("last", "newest", numeric=False),
            *([Column("machines", "machine", numeric=False, wraps=True)] if len(machines) > 1 else []),
            Column("kinds", "kinds", numeric=False, wraps=True),
            Column("statuses", "cases", numeric=False, wraps=True),
        ],
        ", ".join(machines.pop()) if len(machines) == 1 else "",
    )
    for folder in sorted(folders, key=lambda one: one.last):
        device = ", ".join(folder.machines)
        table.rows.append(
            [
                TableCell(folder.name, folder.name),
                TableCell(f"{folder.runs:,}", folder.runs),
                TableCell(folder.last[:10], folder.last),
                *([TableCell(device, device)] if table.columns[3].key == "machines" else []),
                TableCell(", ".join(folder.kinds)),
                TableCell(", ".join(f"{count:,} {word.replace('_', ' ')}" for word, count in folder.statuses.items())),
            ]
        )
    return table
