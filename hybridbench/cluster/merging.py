"""merging: folders of results joined into a new one, once it is known that nothing different is mixed in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput, NotComparable
from hybridbench.kernel_suite.record import KernelRecord
from hybridbench.record import Record
from hybridbench.store import RecordWriter, exists, holds, load, machine_of
from hybridbench.text import counted

KINDS: tuple[type[Any], ...] = (Record, KernelRecord)
MACHINES, VERSIONS = "machines", "versions"


@dataclass(frozen=True)
class Merged:
    """What was joined: ``dropped`` counts the records that stood in several of the folders."""

    out: Path
    records: int
    folders: int
    dropped: int

    @property
    def sentence(self) -> str:
        """The same in words."""
        again = f"; {counted(self.dropped, 'record')} stood in several of them" if self.dropped else ""
        return f"{counted(self.records, 'record')} of {counted(self.folders, 'folder')} are in {self.out}{again}."


def merge(folders: Sequence[Path], out: Path, allow: frozenset[str] = frozenset()) -> Merged:
    """Writes the records of all folders into a new one, a file for each run.

    Args:
        out: a folder that is not there or empty.
        allow: in what records may differ: ``machines`` and ``versions``.

    Raises:
        BadInput: ``out`` holds something.
        BadResults: a folder has no records, or a line that is none.
        NotComparable: the records differ in what ``allow`` does not name; the text names the values and where.
    """
    if exists(out) and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} holds something already: choose a new folder with -o.")
    found: list[tuple[Path, Any]] = []
    for folder in folders:
        kinds = [kind for kind in KINDS if holds([folder], kind)] or [Record]
        found += [(folder, record) for kind in kinds for record in load([folder], _refuse, kind=kind)]
    _check_alike(found, allow)
    runs: dict[tuple[type[Any], str], dict[str, Any]] = {}
    for _, record in found:
        runs.setdefault((type(record), record.run_id), {}).setdefault(record.case.key, record)
    for (kind, run_id), records in runs.items():
        with RecordWriter(out, run_id, kind) as writer:
            for record in records.values():
                writer.append(record)
    written = sum(map(len, runs.values()))
    return Merged(out, written, len(folders), len(found) - written)


def _refuse(sentence: str) -> None:
    """A line cut short loses nothing: its case was never recorded. Whoever loads the folder is told."""


def _machine(record: Any) -> str:
    device, cpu, cores, threads = machine_of(record)
    host = f" on {cpu}, {cores} cores, {threads} threads" if record.environment.device_kind != "cuda" else f" on {cpu}"
    return f"{device}{host}"


def _version(record: Any) -> str:
    seen = record.environment
    packages = [f"{name} {seen.packages[name]}" for name in ("torch", "triton") if name in seen.packages]
    own = f"hybridbench {seen.hybridbench}" + (f" ({seen.git_commit[:12]})" if seen.git_commit else "")
    return ", ".join([own, *packages, *([f"driver {seen.driver}"] if seen.driver else [])])


def _check_alike(found: Sequence[tuple[Path, Any]], allow: frozenset[str]) -> None:
    for name, told in ((MACHINES, _machine), (VERSIONS, _version)):
        if name in allow:
            continue
        where: dict[str, Path] = {}
        for folder, record in found:
            if record.environment.device_kind != "unknown":  # a worker that died before it said where it was
                where.setdefault(told(record), folder)
        if len(where) > 1:
            said = "; ".join(f"{folder} has {value}" for value, folder in where.items())
            raise NotComparable(
                f"the records are of different {name}: {said}. Give --allow {name} to join them all the same: each "
                "record keeps what it is of."
            )
