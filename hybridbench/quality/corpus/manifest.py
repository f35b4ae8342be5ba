"""manifest: what a corpus holds, as its folder's manifest.json says, and whether the folder still holds it.

DIR/manifest.json       vocabulary, splits, shards with their hashes, sources with their licences
DIR/tokenizer.json      unless the vocabulary is of bytes
DIR/token-bytes.npy     how many bytes of text each id stands for
DIR/train-00000.npy     ids, document after document, each followed by EOS
DIR/held-out-00000.npy  the same, of documents that no model is trained on
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridbench.errors import BadInput
from hybridbench.files import CONFIG_BYTES, Damaged, Missing, from_json, read_text
from hybridbench.plain import check_values, from_plain, to_plain
from hybridbench.quality.corpus.vocabulary import BPE, BYTES, FILE, TOKENIZER, model_vocabulary
from hybridbench.text import shown

MANIFEST, TOKEN_BYTES = "manifest.json", "token-bytes.npy"
TRAIN, HELD_OUT = "train", "held-out"
SCHEMA = 1
MOST_OFF_FRAC = 0.01
"""The share by which the bytes that the ids of held-out text stand for may differ from the bytes of that text."""
_PIECE = 1 << 20


@dataclass(frozen=True)
class Shard:
    """One file of ids."""

    file: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """The documents that models are trained on, or those that are held out.

    Args:
        tokens: with one EOS for each document.
        text_bytes: of the documents as UTF-8.
    """

    tokens: int
    documents: int
    text_bytes: int
    shards: list[Shard]


@dataclass(frozen=True)
class Origin:
    """What one source gave.

    Args:
        duplicates: documents that an earlier one equals.
        passed_over: files and rows that gave nothing or were not read to their end, by reason.
    """

    name: str
    licence: str
    documents: int
    text_bytes: int
    duplicates: int
    passed_over: dict[str, int]


@dataclass(frozen=True)
class Words:
    """The vocabulary: its kind, the number of ids, and the hash of its tokenizer file, if any."""

    kind: str
    size: int
    bos: int
    eos: int
    sha256: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A corpus.

    Args:
        held_out_frac: the share of documents that were to be held out; a document's own hash decides.
    """

    vocabulary: Words
    train: Split
    held_out: Split
    held_out_frac: float
    token_bytes_sha256: str
    sources: list[Origin] = field(default_factory=list)
    schema: int = SCHEMA

    @property
    def key(self) -> str:
        """Identity of the tokens: corpora with equal keys hold the same ids in the same order."""
        shards = [shard.sha256 for split in (self.train, self.held_out) for shard in split.shards]
        body = [to_plain(self.vocabulary), shards]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def model_vocabulary(self) -> int:
        """Rows of the embedding of a model that is trained on it."""
        return model_vocabulary(self.vocabulary.size)

    def split(self, name: str) -> Split:
        """``train`` or ``held-out``."""
        return self.train if name == TRAIN else self.held_out

    def write(self, folder: Path) -> None:
        """Write the manifest into the corpus's folder."""
        (folder / MANIFEST).write_text(json.dumps(to_plain(self), indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a corpus.

    Raises:
        BadInput: the folder holds no corpus, or its manifest cannot be right.
    """
    path = folder / MANIFEST
    try:
        body = from_json(read_text(path, CONFIG_BYTES))
        manifest = from_plain(Manifest, body)
        check_values(manifest)
        _check_sums(manifest)
    except Missing as exc:
        raise BadInput(f"{folder} holds no corpus: make one with hybridbench corpus build -o {folder}.") from exc
    except Damaged as exc:
        raise BadInput(f"{path} {exc}: build the corpus again.") from exc
    except (TypeError, ValueError) as exc:
        raise BadInput(f"{path} is no manifest of a corpus ({exc}): build the corpus again.") from exc
    if manifest.schema > SCHEMA:
        raise BadInput(f"{path} has schema {manifest.schema}, this hybridbench reads {SCHEMA}: upgrade hybridbench.")
    return manifest


def _check_sums(manifest: Manifest) -> None:
    """Check that the numbers of a manifest agree with each other.

    Raises:
        ValueError: some do not.
    """
    words, splits = manifest.vocabulary, (manifest.train, manifest.held_out)
    if words.kind not in (BYTES, BPE, FILE):
        raise ValueError(f"vocabulary.kind: {shown(words.kind)}, where {BYTES}, {BPE} or {FILE} is expected")
    if max(words.bos, words.eos) >= words.size or words.bos == words.eos:
        raise ValueError(f"vocabulary: BOS {words.bos:,} and EOS {words.eos:,} are no two of {words.size:,} ids")
    if not 0 < manifest.held_out_frac < 1:
        raise ValueError(f"held_out_frac: {manifest.held_out_frac:g}, where a number between 0 and 1 is expected")
    for name, split in zip((TRAIN, HELD_OUT), splits, strict=True):
        held = sum(shard.tokens for shard in split.shards)
        if held != split.tokens:
            raise ValueError(f"{name} has {split.tokens:,} tokens, and its shards have {held:,}")
        strange = [shard.file for shard in split.shards if Path(shard.file).name != shard.file]
        if strange:
            raise ValueError(f"{name} has the shard {shown(strange[0])}, which is no name of a file")
    for what in ("documents", "text_bytes"):
        of_splits, of_sources = (sum(getattr(one, what) for one in each) for each in (splits, manifest.sources))
        if of_splits != of_sources:
            raise ValueError(f"{what}: {of_splits:,} in the splits, {of_sources:,} from the sources")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that every file of a corpus is there, is the one that was written, and holds what the manifest says.

    Raises:
        BadInput: one is missing, has another hash, or holds other numbers of tokens, ids, documents or bytes.
    """
    shards = [*manifest.train.shards, *manifest.held_out.shards]
    expected = {shard.file: shard.sha256 for shard in shards} | {TOKEN_BYTES: manifest.token_bytes_sha256}
    if manifest.vocabulary.sha256 is not None:
        expected[TOKENIZER] = manifest.vocabulary.sha256
    for name, sha256 in expected.items():
        path = folder / name
        try:
            found = file_hash(path)
        except OSError as exc:
            raise BadInput(f"{path} of the corpus cannot be read ({exc.strerror}): build the corpus again.") from exc
        if found != sha256:
            raise BadInput(f"{path} is not the file that was written (another SHA-256): build the corpus again.")
    size = manifest.vocabulary.size
    sizes = _mapped(folder / TOKEN_BYTES)
    if len(sizes) != size:
        raise _another(folder, f"a vocabulary of {size:,} ids", f"{TOKEN_BYTES} has {len(sizes):,}")
    for name in (TRAIN, HELD_OUT):
        _check_split(folder, manifest, name, _counted(folder, manifest.split(name), size), sizes)


def _counted(folder: Path, split: Split, size: int) -> NDArray[np.int64]:
    """How often each id stands in the shards of a split.

    Raises:
        BadInput: a shard holds another number of tokens than the manifest says, or an id that the vocabulary lacks.
    """
    counts = np.zeros(size, np.int64)
    for shard in split.shards:
        ids = _mapped(folder / shard.file)
        if len(ids) != shard.tokens:
            raise _another(folder, f"{shard.tokens:,} tokens of {shard.file}", f"it holds {len(ids):,}")
        for first in range(0, len(ids), _PIECE):
            piece = ids[first : first + _PIECE]
            largest = int(piece.max())
            if largest >= size:
                raise _another(folder, f"a vocabulary of {size:,} ids", f"{shard.file} holds the id {largest:,}")
            counts += np.bincount(piece, minlength=size)
    return counts


def _check_split(
    folder: Path, manifest: Manifest, name: str, counts: NDArray[np.int64], sizes: NDArray[np.uint16]
) -> None:
    """Compare documents and bytes of a split with its ids.

    Only of bytes is every number exact. A tokenizer file may differ a little, and is held to that on held-out text.
    """
    split, words = manifest.split(name), manifest.vocabulary
    ends = int(counts[words.eos])
    if ends < split.documents or (words.kind == BYTES and ends > split.documents):
        raise _another(folder, f"{split.documents:,} documents in {name}", f"the shards hold {ends:,} EOS")
    told = int((counts * sizes).sum())
    most = 0 if words.kind == BYTES else MOST_OFF_FRAC * split.text_bytes
    if abs(told - split.text_bytes) > most and (name == HELD_OUT or words.kind != FILE):
        raise _another(folder, f"{split.text_bytes:,} bytes of text in {name}", f"its ids stand for {told:,}")


def _another(folder: Path, said: str, found: str) -> BadInput:
    return BadInput(f"{folder / MANIFEST} says {said}, and {found}: build the corpus again.")


def _mapped(path: Path) -> NDArray[Any]:
    """An array of whole numbers in one dimension.

    Raises:
        BadInput: the file holds none.
    """
    try:
        array = np.lib.format.open_memmap(path, "r")
    except (OSError, ValueError) as exc:
        raise BadInput(f"{path} of the corpus is no array ({exc}): build the corpus again.") from exc
    if array.ndim != 1 or array.dtype.kind != "u":
        raise BadInput(f"{path} of the corpus is no array of ids in one dimension: build the corpus again.")
    return array


class Tokens:
    """The ids of a split as sequences of equal length, mapped and not loaded. A sequence lies in one shard.

    Args:
        length: ids of a sequence.
    """

    def __init__(self, folder: Path, split: Split, length: int) -> None:
        self.length = length
        self._maps = [np.load(folder / shard.file, mmap_mode="r") for shard in split.shards]
        counts = np.array([len(one) // length for one in self._maps])
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        """The number of whole sequences."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ids of some sequences (numbers, length)."""
        found = np.empty((len(numbers), self.length), np.int64)
        shards = np.searchsorted(self._ends, numbers, side="right")
        for row, (number, shard) in enumerate(zip(numbers, shards, strict=True)):
            first = int(number - (self._ends[shard - 1] if shard else 0)) * self.length
            found[row] = self._maps[shard][first : first + self.length]
        return found
