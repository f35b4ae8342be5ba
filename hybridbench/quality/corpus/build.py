"""build: documents become a corpus: without duplicates, some held out, encoded and written shard by shard.

Nothing is held in memory but a batch of documents, one shard of each split and 16 bytes for each document. A document's
own hash says whether it is held out, so it falls on the same side in every corpus that has it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridbench.errors import BadInput
from hybridbench.quality.corpus.formats import Document
from hybridbench.quality.corpus.manifest import (
    HELD_OUT,
    MANIFEST,
    TOKEN_BYTES,
    TRAIN,
    Manifest,
    Origin,
    Shard,
    Split,
    Words,
    file_hash,
)
from hybridbench.quality.corpus.sources import Source
from hybridbench.quality.corpus.vocabulary import (
    BPE,
    BYTES,
    TOKENIZER,
    ByteVocabulary,
    Tokens,
    Vocabulary,
    from_file,
    trained,
)
from hybridbench.store import make_folder

SHARD_TOKENS = 1 << 24
HELD_OUT_FRAC = 0.01
LEAST_TOKENS = 1024
"""Ids that a split must have at least."""
_BATCH = 256
_TRAINED_ON = 64 << 20
"""Bytes of text that a BPE is trained on: the first ones."""


@dataclass(frozen=True)
class CorpusPlan:
    """How a corpus is made.

    Args:
        vocabulary: ``bytes``, ``bpe`` or the path of a tokenizer file.
        held_out_frac: the share of documents to hold out.
        max_bytes: bytes of text after which no more is read; None reads all.
        shard_tokens: ids of a shard.
    """

    vocabulary: str = BYTES
    held_out_frac: float = HELD_OUT_FRAC
    max_bytes: int | None = None
    shard_tokens: int = SHARD_TOKENS

    def __post_init__(self) -> None:
        if not 0 < self.held_out_frac < 1:
            raise BadInput(f"--held-out {100 * self.held_out_frac:g}: give percent above 0 and below 100.")


@dataclass
class _Writer:
    """The shards of one split as they are written."""

    folder: Path
    name: str
    dtype: Any
    shard_tokens: int
    shards: list[Shard] = field(default_factory=list)
    tokens: int = 0
    documents: int = 0
    text_bytes: int = 0
    _held: list[NDArray[np.unsignedinteger]] = field(default_factory=list)
    _held_tokens: int = 0

    def add(self, ids: Tokens, eos: int, text_bytes: int) -> None:
        """One document and its EOS."""
        self.documents += 1
        self.text_bytes += text_bytes
        self._hold(np.append(ids, eos).astype(self.dtype))

    def _hold(self, ids: NDArray[np.unsignedinteger]) -> None:
        self.tokens += len(ids)
        while len(ids):
            part = ids[: self.shard_tokens - self._held_tokens]
            ids = ids[len(part) :]
            self._held.append(part)
            self._held_tokens += len(part)
            if self._held_tokens == self.shard_tokens:
                self.flush()

    def flush(self) -> None:
        """Write what is held as a shard."""
        if not self._held:
            return
        path = self.folder / f"{self.name}-{len(self.shards):05}.npy"
        np.save(path, np.concatenate(self._held))
        self.shards.append(Shard(path.name, self._held_tokens, file_hash(path)))
        self._held, self._held_tokens = [], 0

    def split(self) -> Split:
        """What was written in all."""
        self.flush()
        return Split(self.tokens, self.documents, self.text_bytes, self.shards)


def build(sources: Sequence[Source], folder: Path, plan: CorpusPlan, tell: Callable[[str], None]) -> Manifest:
    """Makes a corpus and returns its manifest, which is written last.

    Args:
        tell: called with the progress as a sentence.

    Raises:
        BadInput: a folder that holds a corpus or cannot be written, a source that cannot be read, ids of another
            vocabulary, or too little text.
    """
    if (folder / MANIFEST).exists():
        raise BadInput(f"{folder} holds a corpus already: choose another folder with -o, or remove it.")
    make_folder(folder)
    vocabulary = _vocabulary(sources, plan, tell)
    try:
        return _built(sources, folder, plan, vocabulary, tell)
    except OSError as exc:
        raise BadInput(f"{folder} cannot take the corpus ({exc.strerror}): make room or choose another -o.") from exc


def _built(
    sources: Sequence[Source], folder: Path, plan: CorpusPlan, vocabulary: Vocabulary, tell: Callable[[str], None]
) -> Manifest:
    dtype: Any = np.uint16 if vocabulary.size <= 1 << 16 else np.uint32
    writers = {name: _Writer(folder, name, dtype, plan.shard_tokens) for name in (TRAIN, HELD_OUT)}
    token_bytes = vocabulary.token_bytes()
    seen: set[bytes] = set()
    origins = []
    left = plan.max_bytes
    for source in sources:
        gathered = _Gathered(seen)
        for batch in _batches(gathered.new(_cut(source, vocabulary.eos, left))):
            for digest, ids, size in _encoded(batch, vocabulary, token_bytes, source.name):
                side = HELD_OUT if int.from_bytes(digest[:8]) < plan.held_out_frac * 2**64 else TRAIN
                writers[side].add(ids, vocabulary.eos, size)
                gathered.text_bytes += size
            tell(f"{source.name}: {gathered.documents:,} documents, {gathered.text_bytes / 1e6:.1f} MB")
        passed = dict(source.passed_over)
        origins.append(
            Origin(source.name, source.licence, gathered.documents, gathered.text_bytes, gathered.duplicates, passed)
        )
        left = None if left is None else max(0, left - gathered.text_bytes)
    train, held_out = (writer.split() for writer in writers.values())
    _check_enough(train, held_out, plan)
    np.save(folder / TOKEN_BYTES, token_bytes)
    vocabulary.save(folder)
    sha256 = file_hash(folder / TOKENIZER) if vocabulary.kind != BYTES else None
    words = Words(vocabulary.kind, vocabulary.size, vocabulary.bos, vocabulary.eos, sha256)
    manifest = Manifest(words, train, held_out, plan.held_out_frac, file_hash(folder / TOKEN_BYTES), origins)
    manifest.write(folder)
    return manifest


def _vocabulary(sources: Sequence[Source], plan: CorpusPlan, tell: Callable[[str], None]) -> Vocabulary:
    if plan.vocabulary == BYTES:
        return ByteVocabulary()
    if plan.vocabulary != BPE:
        return from_file(Path(plan.vocabulary))
    tell("training a BPE")
    most = min(_TRAINED_ON, plan.max_bytes or _TRAINED_ON)
    texts = (
        text
        for source in sources
        for text in source.documents()
        if isinstance(text, str) and not _held(text, plan.held_out_frac)
    )
    return trained(_first_bytes(texts, most))


def _held(text: str, share: float) -> bool:
    """Whether a document is held out, so that no BPE is trained on it either."""
    return int.from_bytes(_digest(text.encode())[:8]) < share * 2**64


def _first_bytes(texts: Iterator[str], most: int) -> Iterator[str]:
    for text in texts:
        if most <= 0:
            return
        yield text
        most -= len(text)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _cut(source: Source, eos: int, left: int | None) -> Iterator[Document]:
    """A source's documents up to so many bytes; an array of ids is split behind each EOS."""
    for document in source.documents():
        if left is not None and left <= 0:
            return
        if isinstance(document, str):
            left = None if left is None else left - len(document.encode())
            yield document
        else:
            yield from (part for part in _split(document, eos) if len(part))


def _split(ids: Tokens, eos: int) -> Iterator[Tokens]:
    start = 0
    for end in [*np.flatnonzero(np.asarray(ids) == eos).tolist(), len(ids)]:
        yield np.asarray(ids[start:end])
        start = end + 1


@dataclass
class _Gathered:
    """What a source has given so far, without duplicates of what was given before."""

    seen: set[bytes]
    documents: int = 0
    duplicates: int = 0
    text_bytes: int = 0

    def new(self, documents: Iterator[Document]) -> Iterator[tuple[bytes, Document]]:
        """The documents that no earlier one equals, with the hashes that they are told apart by."""
        for document in documents:
            content = document.encode() if isinstance(document, str) else document.astype(np.uint32).tobytes()
            if not content:
                continue
            digest = _digest(content)
            if digest in self.seen:
                self.duplicates += 1
                continue
            self.seen.add(digest)
            self.documents += 1
            yield digest, document


def _batches(documents: Iterator[tuple[bytes, Document]]) -> Iterator[list[tuple[bytes, Document]]]:
    while batch := list(itertools.islice(documents, _BATCH)):
        yield batch


def _encoded(
    batch: list[tuple[bytes, Document]], vocabulary: Vocabulary, token_bytes: NDArray[np.uint16], source: str
) -> Iterator[tuple[bytes, Tokens, int]]:
    """Hash, ids and bytes of text of each document."""
    made = iter(vocabulary.encode([text for _, text in batch if isinstance(text, str)]))
    for digest, document in batch:
        if isinstance(document, str):
            yield digest, next(made), len(document.encode())
            continue
        low, high = int(document.min()), int(document.max())
        if low < 0 or high >= vocabulary.size:
            raise BadInput(
                f"{source} has the id {low if low < 0 else high}, which is none of the {vocabulary.size:,} of "
                f"vocabulary {vocabulary.kind}: it was made with another vocabulary; give that with --vocab."
            )
        yield digest, document.astype(np.uint32), int(token_bytes[document].sum())


def _check_enough(train: Split, held_out: Split, plan: CorpusPlan) -> None:
    """Raise for a corpus that nothing can be learned from or judged on."""
    documents = train.documents + held_out.documents
    if not documents:
        raise BadInput("the sources hold no text at all: name others with --from.")
    if train.tokens < LEAST_TOKENS:
        raise BadInput(f"the sources hold {train.tokens:,} tokens to train on, fewer than {LEAST_TOKENS:,}: give more.")
    if held_out.tokens < LEAST_TOKENS:
        raise BadInput(
            f"{held_out.documents:,} of {documents:,} documents are held out, with {held_out.tokens:,} tokens, fewer "
            f"than {LEAST_TOKENS:,}: raise --held-out above {100 * plan.held_out_frac:g}, or give more documents (a "
            f"file of text is one; JSON Lines has one a line)."
        )
