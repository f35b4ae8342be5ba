"""formats: the documents in files: text, JSON Lines, Parquet and arrays of token ids; gzip is read through."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from hybridbench.errors import BadInput
from hybridbench.quality.corpus.vocabulary import Tokens

Document = str | Tokens
"""Text, or ids of the corpus's own vocabulary."""

MOST_TEXT = 256 << 20
"""Bytes of text that are read as one document; a larger file must hold documents line by line."""


class Unreadable(Exception):
    """Why a file gives no documents, as the end of a sentence that begins with its name."""


def documents_in(path: Path, field: str) -> Iterator[Document]:
    """The documents of a file in their order, one in memory at a time.

    ``.jsonl`` has one a line and ``.parquet`` one a row, both in the column ``field``; ``.npy`` holds ids, without EOS
    one document, else one before each EOS (which its reader splits); any other file is one document of text.

    Raises:
        Unreadable: it cannot be read, or is not what its name says.
    """
    stem = path.name.removesuffix(".gz")
    reader = next((reader for ending, reader in READERS.items() if stem.endswith(ending)), _text)
    try:
        yield from reader(path, field)
    except (OSError, EOFError, zlib.error) as exc:
        raise Unreadable(f"cannot be read ({getattr(exc, 'strerror', None) or exc})") from exc


def _opened(path: Path) -> BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _text(path: Path, _field: str) -> Iterator[Document]:
    with _opened(path) as file:
        content = file.read(MOST_TEXT + 1)
    if len(content) > MOST_TEXT:
        raise Unreadable(f"has more than {MOST_TEXT >> 20} MiB as one document: write it as JSON Lines")
    if b"\0" in content[:4096]:
        raise Unreadable("is not text")
    try:
        yield content.decode()
    except UnicodeDecodeError as exc:
        raise Unreadable(f"is not text in UTF-8 (byte {exc.start + 1:,})") from exc


def _json_lines(path: Path, field: str) -> Iterator[Document]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as exc:
                raise Unreadable(f"is not JSON at line {number:,}") from exc
            yield _field_of(row, field, f"line {number:,}")


def _field_of(row: object, field: str, place: str) -> str:
    text = row.get(field) if isinstance(row, dict) else None
    if not isinstance(text, str):
        has = f"it has {', '.join(map(str, row))}" if isinstance(row, dict) else "it is no object"
        raise Unreadable(f"has no text in the field {field} at {place} ({has}): name the field with --field")
    return text.encode("utf-8", "replace").decode()  # JSON can spell halves of characters, which no text has


def _parquet(path: Path, field: str) -> Iterator[Document]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as exc:
        raise BadInput(f"{path} needs the package pyarrow: pip install 'hybridbench[quality]'.") from exc
    try:
        with parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                there = ", ".join(file.schema_arrow.names)
                raise Unreadable(f"has no column {field} (it has {there}): name the column with --field")
            for batch in file.iter_batches(batch_size=256, columns=[field]):
                yield from (text for text in batch.column(0).to_pylist() if isinstance(text, str))
    except pyarrow.ArrowInvalid as exc:
        raise Unreadable(f"is no Parquet file ({str(exc).splitlines()[0]})") from exc


def _array(path: Path, _field: str) -> Iterator[Document]:
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as exc:
        raise Unreadable(f"is no array of numbers ({str(exc).splitlines()[0]})") from exc
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise Unreadable("is no array of token ids: write whole numbers in one dimension")
    yield ids


READERS: dict[str, Callable[[Path, str], Iterator[Document]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
    ".npy": _array,
}
