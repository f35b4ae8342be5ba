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

import numpy as np
from numpy.typing import NDArray

from hybridbench.errors import BadInput
from hybridbench.files import CONFIG_BYTES, Damaged, Missing, from_json, read_text
from hybridbench.plain import check_values, from_plain, to_plain
from hybridbench.quality.corpus.vocabulary import TOKENIZER, model_vocabulary

MANIFEST, TOKEN_BYTES = "manifest.json", "token-bytes.npy"
TRAIN, HELD_OUT = "train", "held-out"
SCHEMA = 1


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
        passed_over: files that gave nothing, by reason.
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
    except Missing as exc:
        raise BadInput(f"{folder} holds no corpus: make one with hybridbench corpus build -o {folder}.") from exc
    except Damaged as exc:
        raise BadInput(f"{path} {exc}: build the corpus again.") from exc
    except (TypeError, ValueError) as exc:
        raise BadInput(f"{path} is no manifest of a corpus ({exc}): build the corpus again.") from exc
    if manifest.schema > SCHEMA:
        raise BadInput(f"{path} has schema {manifest.schema}, this hybridbench reads {SCHEMA}: upgrade hybridbench.")
    return manifest


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that every file of a corpus is there and is the one that was written.

    Raises:
        BadInput: one is missing, or has another hash.
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
