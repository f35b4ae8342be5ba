"""sources: where documents come from: files of your own, what this machine ships, or a Hugging Face data set.

    python      the modules of Python's standard library
    packages    the modules of installed packages
    docs        text below /usr/share/doc
    man         manual pages
    hf:NAME     a data set of Hugging Face, by the package datasets; NAME may be a folder with Parquet files
    PATH        a file, or a folder with all files below it

A file of a folder that cannot be read is passed over and counted. A file that is named by itself must be readable.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput, nearest_name
from hybridbench.quality.corpus.formats import NO_TEXT, Document, Reading, Unreadable, documents_in
from hybridbench.store import exists

HF = "hf:"
DOCS, MAN = Path("/usr/share/doc"), Path("/usr/share/man")


@dataclass
class Source:
    """Documents of one origin; they can be gone through more than once.

    Attributes:
        name: as typed.
        licence: what is known of their licence.
        read: makes an iterator over the documents, of the number of ids of the vocabulary and of what takes why a file
            or row was passed over.
        passed_over: files and rows that gave nothing in the latest reading, by reason.
    """

    name: str
    licence: str
    read: Callable[[int, Callable[[str], None]], Iterator[Document]]
    passed_over: Counter[str] = field(default_factory=Counter)

    def documents(self, ids: int) -> Iterator[Document]:
        """The documents, one in memory at a time.

        Args:
            ids: of the vocabulary; an array with others is of another one.

        Raises:
            BadInput: a file that is named by itself gives no documents, or a data set breaks off.
        """
        self.passed_over.clear()

        def note(reason: str) -> None:
            self.passed_over[reason] += 1

        return self.read(ids, note)


def named_source(name: str, column: str, licence: str | None) -> Source:
    """The source of a word or path of ``--from``.

    Args:
        column: of JSON Lines, Parquet and data sets that holds the text.
        licence: what a person says of the licence of files of their own.

    Raises:
        BadInput: it is not there.
    """
    if name.startswith(HF):
        return _hugging_face(name.removeprefix(HF), column, licence)
    if name in SHIPPED:
        folder, ending, known = SHIPPED[name]()
        if not folder.is_dir():
            raise BadInput(f"--from {name}: this machine has no {folder}; give files of your own.")
        return Source(name, known, lambda ids, note: _below(folder, ending, Reading(column, ids, note)))
    path = Path(name)
    if not exists(path):
        near = nearest_name(name, SHIPPED)
        hint = f"did you mean {near}? " if near else ""
        raise BadInput(f"--from {name} is not there: {hint}Give a path, {', '.join(SHIPPED)} or hf:NAME.")
    given = licence or "not given"
    if path.is_dir():
        return Source(name, given, lambda ids, note: _below(path, "", Reading(column, ids, note)))
    return Source(name, given, lambda ids, note: _one(path, Reading(column, ids, note)))


def _python() -> tuple[Path, str, str]:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Path(sysconfig.get_paths()["stdlib"]), ".py", f"PSF-2.0, as Python {version} says"


SHIPPED: dict[str, Callable[[], tuple[Path, str, str]]] = {
    "python": _python,
    "packages": lambda: (Path(sysconfig.get_paths()["purelib"]), ".py", "each package's own, in its metadata"),
    "docs": lambda: (DOCS, "", "each package's own, in its file copyright"),
    "man": lambda: (MAN, ".gz", "each package's own, in /usr/share/doc"),
}
"""What machines ship: the folder, how names of its files end, and what is known of the licence."""

_INSTALLED = ("site-packages", "dist-packages")


def _one(path: Path, reading: Reading) -> Iterator[Document]:
    try:
        yield from documents_in(path, reading)
    except Unreadable as exc:
        raise BadInput(f"{path} {exc}.") from exc


def _below(folder: Path, ending: str, reading: Reading) -> Iterator[Document]:
    """The documents of all files below a folder, in the order of their paths; what links lead to is left out."""
    for path in _files(folder):
        if not path.name.endswith(ending):
            continue
        try:
            yield from documents_in(path, reading)
        except Unreadable as exc:
            reading.note(str(exc).partition(" (")[0])


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in (*_INSTALLED, "__pycache__")
        )
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path


def _hugging_face(name: str, column: str, licence: str | None) -> Source:
    """A data set's rows as they arrive, so that it need not fit into memory or on the disk."""
    try:
        import datasets
    except ImportError as exc:
        raise BadInput(f"--from hf:{name} needs the package datasets: pip install 'hybridbench[quality]'.") from exc
    try:
        rows: Any = datasets.load_dataset(name, split="train", streaming=True)
    except Exception as exc:  # the package raises errors of many kinds, also those of the network
        raise BadInput(f"--from hf:{name} cannot be had ({_said(exc)}): check the name and the network.") from exc
    known = rows.column_names
    if known and column not in known:
        raise BadInput(f"--from hf:{name} has no column {column} (it has {', '.join(known)}): name it with --field.")

    def read(_ids: int, note: Callable[[str], None]) -> Iterator[Document]:
        try:
            for row in rows:
                text = row.get(column)
                if isinstance(text, str):
                    yield text.encode("utf-8", "replace").decode()
                else:
                    note(NO_TEXT)
        except Exception as exc:  # as above, while the rows arrive
            raise BadInput(f"--from hf:{name} broke off ({_said(exc)}): check the network, and build again.") from exc

    return Source(f"{HF}{name}", licence or rows.info.license or "not given", read)


def _said(exc: Exception) -> str:
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)
