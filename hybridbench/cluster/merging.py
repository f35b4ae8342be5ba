"""merging: folders of results joined into a new one, once it is known that nothing different is mixed in silence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput, NotComparable
from hybridbench.record import Record
from hybridbench.store import RecordWriter, exists, holds, load, machine_of
from hybridbench.text import counted

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


def merge(
    folders: Sequence[Path],
    out: Path,
    allow: frozenset[str],
    kinds: Sequence[type[Any]],
    weights_of: Callable[[Any], str | None] = lambda _record: None,
) -> Merged:
    """Writes the records of all folders into a new one, a file for each kind and run.

    Args:
        out: a folder that is not there or empty.
        allow: in what records may differ: ``machines`` and ``versions``.
        kinds: of records, those to join.
        weights_of: the file of trained weights that a record names, below its folder, which is taken along. Two runs of
            one case keep both.

    Raises:
        BadInput: ``out`` holds something, or weights cannot be copied.
        BadResults: a folder has no records, or a line that is none.
        NotComparable: the records differ in what ``allow`` does not name; the text names the values and where.
    """
    if exists(out) and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} holds something already: choose a new folder with -o.")
    found: list[tuple[Path, Any]] = []
    for folder in folders:
        there = [kind for kind in kinds if holds([folder], kind)] or [Record]
        found += [(folder, record) for kind in there for record in load([folder], _refuse, kind=kind)]
    _check_alike(found, allow)
    runs: dict[tuple[type[Any], str], dict[str, Any]] = {}
    weights: dict[str, str] = {}
    for folder, record in found:
        kept = runs.setdefault((type(record), record.run_id), {})
        if record.case.key not in kept:
            name = weights_of(record)
            kept[record.case.key] = record if name is None else _with_weights(folder, record, name, out, weights)
    for (kind, run_id), records in runs.items():
        with RecordWriter(out, run_id, kind) as writer:
            for record in records.values():
                writer.append(record)
    written = sum(map(len, runs.values()))
    return Merged(out, written, len(folders), len(found) - written)


def _with_weights(folder: Path, record: Any, name: str, out: Path, taken: dict[str, str]) -> Any:
    """Takes a record's weights along; the record, with their place in the new folder.

    Args:
        taken: the run that has each place there.
    """
    place = name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return record  # not below its folder
    if taken.setdefault(place, record.run_id) != record.run_id:
        place = str(Path(name).with_name(f"{record.run_id}-{Path(name).name}"))
    files = [folder] if folder.is_file() else sorted(folder.rglob(f"{record.FILES}-{record.run_id}*.jsonl"))
    source = next((file.parent / name for file in files if (file.parent / name).is_file()), None)
    if source is not None:
        try:
            (out / place).parent.mkdir(parents=True, exist_ok=True)
            _link(source, out / place)
        except OSError as exc:
            raise BadInput(
                f"{out / place} cannot be written ({exc.strerror}): make room, or choose another folder."
            ) from exc
    return record if place == name else replace(record, observed=replace(record.observed, weights=place))


def _link(source: Path, target: Path) -> None:
    """The same file by another name, where the file system allows that, else a copy."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise  # a copy would write over what may be another name of a source
    except OSError:
        shutil.copyfile(source, target)


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
