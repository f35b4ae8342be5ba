"""formats: the documents in files: text, JSON Lines, Parquet and arrays of token ids; gzip is read through."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

from hybridbench.errors import BadInput
from hybridbench.quality.corpus.vocabulary import Tokens

Document = str | Tokens
"""Text, or ids of the corpus's own vocabulary."""

MOST_TEXT = 256 << 20
"""Bytes of text that are read as one document or one line; a larger file must hold documents line by line."""


NO_TEXT = "has a row without text"
"""Why a row of a data set or of Parquet is passed over."""


class Unreadable(Exception):
    """Why a file gives no documents, as the end of a sentence that begins with its name.

    What differs from file to file stands in brackets, so that files with one reason can be counted.
    """


@dataclass(frozen=True)
class Reading:
    """How a file is read.

    Args:
        field: of JSON Lines and Parquet that holds the text.
        ids: of the corpus's vocabulary; an array may hold those below.
        note: takes why a row was passed over, in the same form as ``Unreadable``.
    """

    field: str
    ids: int
    note: Callable[[str], None]


def documents_in(path: Path, reading: Reading) -> Iterator[Document]:
    """The documents of a file in their order, one in memory at a time.

    ``.jsonl`` has one a line and ``.parquet`` one a row, both in the column ``field``; ``.npy`` holds ids, without EOS
    one document, else one before each EOS (which its reader splits); any other file is one document of text.

    Raises:
        Unreadable: it cannot be read, or is not what its name says.
    """
    stem = path.name.removesuffix(".gz")
    reader = next((reader for ending, reader in READERS.items() if stem.endswith(ending)), _text)
    try:
        yield from reader(path, reading)
    except (OSError, EOFError, zlib.error) as exc:
        raise Unreadable(f"cannot be read ({getattr(exc, 'strerror', None) or exc})") from exc


def _opened(path: Path) -> BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _text(path: Path, _reading: Reading) -> Iterator[Document]:
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


def _json_lines(path: Path, reading: Reading) -> Iterator[Document]:
    with _opened(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(MOST_TEXT + 1), b""), start=1):
            if len(line) > MOST_TEXT:
                raise Unreadable(
                    f"has a line of more than {MOST_TEXT >> 20} MiB (line {number:,}): write one a document"
                )
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as exc:  # RecursionError: lists within lists without end
                raise Unreadable(f"is not JSON (line {number:,})") from exc
            yield _field_of(row, reading.field, f"line {number:,}")


def _field_of(row: object, field: str, place: str) -> str:
    text = row.get(field) if isinstance(row, dict) else None
    if isinstance(text, str):
        return text.encode("utf-8", "replace").decode()  # JSON can spell halves of characters, which no text has
    if not isinstance(row, dict):
        has = "is no object"
    elif field in row:
        has = f"holds {_kind_in_words(text)} there"
    else:
        has = f"has {', '.join(map(str, row)) or 'no field'}"
    raise Unreadable(f"has no text in the field {field} ({place} {has}): name the field with --field")


def _kind_in_words(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return "a number" if isinstance(value, int | float) else "a list" if isinstance(value, list) else "an object"


def _parquet(path: Path, reading: Reading) -> Iterator[Document]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as exc:
        raise BadInput(f"{path} needs the package pyarrow: pip install 'hybridbench[quality]'.") from exc
    try:
        with parquet.ParquetFile(path) as file:
            _check_column(file.schema_arrow, reading.field)
            for batch in file.iter_batches(batch_size=256, columns=[reading.field]):
                for text in batch.column(0).to_pylist():
                    if isinstance(text, str):
                        yield text
                    else:
                        reading.note(NO_TEXT)
    except (pyarrow.ArrowException, UnicodeDecodeError) as exc:
        raise Unreadable(f"is no Parquet file ({_first_line(exc)})") from exc


def _check_column(schema: Any, field: str) -> None:
    """Raise for a column that is not there or holds no text."""
    import pyarrow

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        return str(kind) in ("string", "large_string", "string_view")

    if field not in schema.names:
        raise Unreadable(f"has no column {field} (it has {', '.join(schema.names)}): name the column with --field")
    kind = schema.field(field).type
    if not is_text(kind):
        others = ", ".join(one.name for one in schema if is_text(one.type)) or "no column"
        raise Unreadable(
            f"has no text in the column {field} (it holds {kind}; text is in {others}): name the column with --field"
        )


def _array(path: Path, reading: Reading) -> Iterator[Document]:
    try:
        ids = _loaded(path)
    except (ValueError, MemoryError) as exc:  # MemoryError: of a size that its first bytes claim
        raise Unreadable(f"is no array of numbers ({_first_line(exc)})") from exc
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise Unreadable("is no array of token ids: write whole numbers in one dimension")
    if not len(ids):
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= reading.ids:
        raise Unreadable(
            f"has ids of another vocabulary ({low if low < 0 else high} is none of the {reading.ids:,} here): give the "
            f"one that it was made with by --vocab"
        )
    yield ids


def _loaded(path: Path) -> Any:
    """The array of a file, mapped where it is not compressed; ``numpy.load`` leaves what is none open."""
    if path.suffix != ".gz":
        return np.lib.format.open_memmap(path, "r")
    with gzip.open(path, "rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _first_line(exc: Exception) -> str:
    return next(iter(str(exc).splitlines()), type(exc).__name__)


READERS: dict[str, Callable[[Path, Reading], Iterator[Document]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
    ".npy": _array,
}
