"""store: results on disk: one JSONL file per run, appended record by record, and read back as records.

    <folder>/records-20261121T180512Z-4711-9f3a.jsonl      one run, one writer, one record a line
    <folder>/records-20261121T180512Z-4711-9f3a-81-0c2d.jsonl      the same run, by another of its workers
    <folder>/kernels-20261121T180713Z-4730-07c1.jsonl      the same, of operations that were timed by themselves
    <folder>/learn-20261121T181022Z-4790-1d2e.jsonl        the same, of training runs
    <folder>/traces-20261121T181139Z-4802-55b0.jsonl       the same, of steps that were profiled
    <folder>/solve-, <folder>/contexts-                    the same, of synthetic tasks and of long contexts

Each run has its own file, so two runs into one folder never mix lines. A record is on disk before the next case starts:
a run that is killed loses at most the line it was writing, which ``load`` skips with a warning.

Measuring a case again adds a record and deletes none. Within a run the latest record of a case counts; ``newest`` keeps
the latest of each case and machine, which is what tables and charts show.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from hybridbench.errors import BadInput, BadResults
from hybridbench.files import Damaged, NotJson, decoded, from_json, read_lines
from hybridbench.record import Environment, Record, Status

_FIRST_BYTES = b'{"key":"'
"""How every line of a results file begins; tells a record that was cut short from another kind of file."""


class _Case(Protocol):
    @property
    def key(self) -> str: ...


class StoredRecord(Protocol):
    """A kind of record, as far as it is stored: ``Record``, or that of another suite."""

    FILES: ClassVar[str]

    @property
    def case(self) -> _Case:
        """What was to be run."""

    @property
    def run_id(self) -> str:
        """The run that wrote it."""

    @property
    def started_at(self) -> str:
        """When the case began, as written."""

    @property
    def started(self) -> datetime:
        """When the case began."""

    @property
    def environment(self) -> Environment:
        """The machine and its software."""

    @property
    def status(self) -> Status:
        """How the case ended."""

    def to_json(self) -> str:
        """One line of JSON."""

    @classmethod
    def from_json(cls, line: str) -> Any:
        """Read one line back."""


R = TypeVar("R", bound=StoredRecord)

OTHERS = {
    "kernels": "operations timed by themselves",
    "learn": "training runs",
    "traces": "steps that were profiled",
    "solve": "synthetic tasks",
    "contexts": "long contexts",
}
"""Kinds of records beside ``Record``, by how names of their files begin, with what they are of."""
OTHER_FILES = tuple(f"{name}-" for name in OTHERS)
"""How the names of files begin that hold another kind of record than ``Record``."""


def make_folder(folder: Path) -> Path:
    """The folder, made with its parents where it is missing.

    Raises:
        BadInput: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise BadInput(f"{folder} cannot be a folder for output ({exc.strerror}): choose another with --out.") from exc
    return folder


def free_path(folder: Path, name: str, suffix: str) -> Path:
    """A file that an earlier run has not written: ``trace.json``, then ``trace-2.json`` and so on."""
    numbered = (folder / f"{name}{'' if at == 1 else f'-{at}'}{suffix}" for at in itertools.count(1))
    return next(path for path in numbered if not path.exists())


def new_run_id() -> str:
    """A new name of a run."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}-{secrets.token_hex(2)}"


class RecordWriter:
    """Append the records of one run to its own file; ``run_id`` names the run and the file.

    Args:
        folder: where the file goes; made if missing.
        run_id: the name of the run; None makes one from the time and the process.
        kind: the kind of its records.
        worker: where several workers write records of the run, which of them this is; it ends the file's name.

    Raises:
        BadInput: the folder or the file cannot be made.
    """

    def __init__(
        self, folder: Path, run_id: str | None = None, kind: type[Any] = Record, worker: str | None = None
    ) -> None:
        make_folder(folder)
        self.kind = kind
        self.run_id = run_id or new_run_id()
        self.path = folder / f"{'-'.join(filter(None, (kind.FILES, self.run_id, worker)))}.jsonl"
        self._written = 0
        try:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        except OSError as exc:
            raise BadInput(
                f"{folder} cannot hold results ({exc.strerror}): make it writable or choose another with --out."
            ) from exc

    def append(self, record: StoredRecord) -> None:
        """Write one record; once this returns, the record survives a crash of the process or the machine.

        Raises:
            BadInput: the disk is full or gone, or somebody removed the file.
        """
        line = (record.to_json() + "\n").encode()
        try:
            while line:  # one write takes a whole line unless the disk is filling up
                line = line[os.write(self._fd, line) :]
            os.fsync(self._fd)
        except OSError as exc:
            raise BadInput(
                f"{self.path} cannot take another record ({exc.strerror}): make room, then go on with --resume."
            ) from exc
        if not os.fstat(self._fd).st_nlink:
            raise BadInput(f"{self.path} was removed during the run, with its records: run again with another --out.")
        self._written += 1

    def close(self) -> None:
        """Close the file; a run without a record leaves no file behind."""
        os.close(self._fd)
        if not self._written and self.path.exists() and not self.path.stat().st_size:
            self.path.unlink()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    paths: Sequence[Path],
    warn: Callable[[str], None],
    damaged: Callable[[str], None] | None = None,
    kind: type[R] = Record,  # type: ignore[assignment]  # a default of a variable type
) -> list[R]:
    """The records of a kind in files and in all ``*.jsonl`` files below folders, the earliest first.

    Args:
        paths: files and folders; a file named twice is read once.
        warn: called with a sentence about every line or file that was passed over.
        damaged: called with a sentence about the first line of each file that is not a record, and about a file that
            cannot be read; the other records are used. If None, the first such sentence is raised.

    Raises:
        BadResults: no file, only empty or damaged files, or what ``damaged`` is not there to take.
    """
    records: dict[tuple[str, str], R] = {}
    files = _files(paths, kind)
    wrong: list[str] = []
    for file in files:
        found = _read(file, warn, kind)
        if found.damage is not None:
            wrong.append(found.damage)
            if damaged is None:
                raise BadResults(found.damage)
        for record in found.records:
            identity = (record.case.key, record.run_id)
            if identity not in records or records[identity].started <= record.started:
                records[identity] = record
    if not records and len(wrong) == 1:
        raise BadResults(wrong[0])
    if damaged is not None:
        for sentence in wrong:
            damaged(sentence)
    if not records:
        what = f"{files[0]} holds no record" if len(files) == 1 else f"none of {len(files)} files holds a record"
        raise BadResults(f"{what}: the run ended before its first case was done; run it again.")
    return sorted(records.values(), key=lambda record: record.started)


def newest(records: Iterable[R]) -> list[R]:
    """The latest record of every case on every machine, in the order given."""
    latest: dict[tuple[str, ...], R] = {}
    for record in records:
        identity = (record.case.key, *machine_of(record))
        if identity not in latest or latest[identity].started <= record.started:
            latest[identity] = record
    kept = {id(record) for record in latest.values()}
    return [record for record in records if id(record) in kept]


def machine_of(record: StoredRecord) -> tuple[str, ...]:
    """What must be equal for two speeds to be of the same machine: device, host and threads."""
    environment = record.environment
    return environment.device, environment.cpu, str(environment.cores), str(environment.threads)


def recorded(folder: Path, kind: type[R] = Record) -> dict[str, R]:  # type: ignore[assignment]
    """The latest record of every case in a folder, by its key, however it ended: the cases ``--resume`` skips.

    A case that failed is recorded too; to try it again, measure it without ``--resume``. A record that was cut short
    does not count. A folder that is missing or empty has no records.

    Raises:
        BadResults: a line that is not a record, with its place.
    """
    if not exists(folder):
        return {}
    records: list[R] = []
    for file in _jsonl_below(folder, kind):
        found = _read(file, lambda _cut_short: None, kind)
        if found.damage is not None:
            raise BadResults(found.damage)
        records += found.records
    return {record.case.key: record for record in sorted(records, key=lambda record: record.started)}


def holds(paths: Sequence[Path], kind: type[StoredRecord]) -> bool:
    """Whether a kind of record is in files or below folders, by the files' names."""
    return any(_jsonl_below(path, kind) if path.is_dir() else is_of(path, kind) for path in paths)


def folders(paths: Sequence[Path], kinds: Sequence[type[StoredRecord]]) -> dict[Path, list[Path]]:
    """The folders that hold results files of some kinds, at or below paths, each with its files.

    Raises:
        BadResults: a path that is not there or cannot be read.
    """
    found: dict[Path, list[Path]] = {}
    for path in paths:
        if not exists(path):
            raise BadResults(f"{path} does not exist: give a folder of results or a *.jsonl file.")
        for kind in kinds:
            for file in _jsonl_below(path, kind) if path.is_dir() else [path] if is_of(path, kind) else []:
                files = found.setdefault(file.parent, [])
                if file not in files:
                    files.append(file)
    return dict(sorted(found.items()))


def is_of(file: Path, kind: type[StoredRecord]) -> bool:
    """Whether a file is for a kind of record; any name but those of another kind is for ``Record``."""
    return file.name.startswith(f"{kind.FILES}-") or (
        kind.FILES == Record.FILES and not file.name.startswith(OTHER_FILES)
    )


def _files(paths: Sequence[Path], kind: type[StoredRecord]) -> list[Path]:
    files: dict[Path, Path] = {}
    for path in paths:
        if not exists(path):
            raise BadResults(f"{path} does not exist: give a results folder or a {kind.FILES}-*.jsonl file.")
        if path.is_dir():
            found = _jsonl_below(path, kind)
            if not found:
                raise BadResults(_nothing_of(path))
        else:
            found = [path]
        files.update((file.resolve(), file) for file in found)
    if not files:
        raise BadResults(f"no results were named: give a results folder or a {kind.FILES}-*.jsonl file.")
    return list(files.values())


def _nothing_of(folder: Path) -> str:
    """Why a folder has no file of a kind: it has those of others, or none."""
    others = [what for name, what in OTHERS.items() if next(folder.rglob(f"{name}-*.jsonl"), None) is not None]
    if others:
        return f"{folder} holds only {' and '.join(others)}: hybridbench report {folder} shows them."
    return f"{folder} has no *.jsonl file in it: measure something with '-o {folder}' first."


def exists(path: Path) -> bool:
    """Whether a path is there.

    Raises:
        BadResults: it cannot be, such as a name that is too long.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as exc:
        raise BadResults(f"{path} cannot be read ({exc.strerror}): give a results folder or a records file.") from exc
    return True


def _jsonl_below(folder: Path, kind: type[StoredRecord]) -> list[Path]:
    """The results files below a folder.

    Raises:
        BadResults: it is the root of all folders, or one below it cannot be listed.
    """
    if folder.resolve() == folder.resolve().parent:
        raise BadResults(f"{folder} holds every file of this machine: name the folder of the results.")
    try:
        return sorted(file for file in folder.rglob("*.jsonl") if file.is_file() and is_of(file, kind))
    except OSError as exc:
        raise BadResults(f"{exc.filename or folder} cannot be read ({exc.strerror}): name another folder.") from exc


@dataclass
class _Found(Generic[R]):
    """What a file holds: its records, and a sentence about the first line that is none, if any."""

    records: list[R] = field(default_factory=list)
    damage: str | None = None


_MOST_DAMAGED = 1000
"""After so many damaged lines a file is not read on: it is none of ours."""


def _read(file: Path, warn: Callable[[str], None], kind: type[R]) -> _Found[R]:
    """The records of one file.

    The last line may be cut short: without its line feed, with garbage that a crash of the machine left in it, or with
    NUL bytes in place of its rest, which a power cut leaves.
    """
    found: _Found[R] = _Found()
    damaged, lines, empty = 0, _numbered(file), True
    try:
        for number, line, is_last in lines:
            if not line.strip(b"\0 \t\r") and (is_last or not line.strip()):
                if b"\0" in line:
                    warn(_cut(file, number))
                    empty = False
                continue
            empty = False
            if is_last and _was_cut(line):
                warn(_cut(file, number))
                continue
            try:
                found.records.append(_record(line, kind))
            except BadResults as exc:
                damaged += 1
                found.damage = found.damage or f"{file}:{number}: {exc}"
                if damaged == _MOST_DAMAGED:
                    break
    except Damaged as exc:
        found.damage = found.damage or f"{file} {exc}."
        return found
    if found.damage is not None:
        others = f" {damaged - 1:,} more lines of the file are none either." if damaged > 1 else ""
        told = found.damage.removesuffix(".")
        found.damage = f"{told}.{others} Delete the line{'s' * (damaged > 1)}, or name the other files."
    if empty:
        warn(f"{file} is empty: its run ended before the first case was done.")
    return found


def _cut(file: Path, number: int) -> str:
    return f"{file}: line {number}, the last, was cut short and is left out: its case has to run again."


def _numbered(file: Path) -> Iterator[tuple[int, bytes, bool]]:
    """The lines of a file with their numbers from 1, and whether each is the last.

    Raises:
        Damaged: the file cannot be read.
    """
    held: tuple[int, bytes] | None = None
    for number, line in enumerate(read_lines(file), start=1):
        if held is not None:
            yield *held, False
        held = number, line
    if held is not None:
        yield *held, True


def _record(line: bytes, kind: type[R]) -> R:
    try:
        record: R = kind.from_json(decoded(line))
        return record
    except Damaged as exc:
        raise BadResults(f"the line {exc}: this is not a results file.") from exc


def _was_cut(line: bytes) -> bool:
    """Whether a line begins like a record but is not a complete JSON document."""
    if not (line.startswith(_FIRST_BYTES) or _FIRST_BYTES.startswith(line)):
        return False
    try:
        from_json(line.decode("utf-8"))
    except (NotJson, UnicodeDecodeError):
        return True
    except Damaged:
        return False
    return False
