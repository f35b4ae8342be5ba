"""build: documents become a corpus: without duplicates, some held out, encoded and written shard by shard.

Nothing is held in memory but a batch of documents, one shard of each split and 16 bytes for each document. A document's
own hash says whether it is held out, so it falls on the same side in every corpus that has it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
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
    MOST_OFF_FRAC,
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
    BPE_SIZE,
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
_BATCH, _BATCH_CHARACTERS = 256, 16 << 20
"""Documents that are encoded at one time, and characters of theirs after which no more join them."""
_COMPARED = 1 << 20
"""Characters of held-out text that are decoded again, to see whether a tokenizer gives text back."""
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


class _CorpusFiles:
    """The files of a corpus as they are written, so that a build that fails leaves none.

    Raises:
        BadInput: the folder cannot be made or holds a corpus.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._was_there = os.path.exists(folder)
        self._paths: list[Path] = []
        make_folder(folder)
        if os.path.exists(folder / MANIFEST):
            raise BadInput(f"{folder} holds a corpus already: choose another folder with -o, or remove it.")

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """The path of a file that is about to be written.

        Raises:
            BadInput: what is done within says that it cannot be.
        """
        self._paths.append(self.folder / name)
        try:
            yield self._paths[-1]
        except OSError as exc:
            reason = exc.strerror or exc
            raise BadInput(f"{self.folder} cannot take the corpus ({reason}): make room or choose another -o.") from exc

    def array(self, name: str, array: NDArray[Any]) -> str:
        """Write an array as ``numpy.save`` does, which does not say why it fails; the file's hash."""
        with self.writing(name) as path:
            with path.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
                file.write(np.ascontiguousarray(array).data)
            return file_hash(path)

    def remove(self) -> None:
        """Remove what was written, and the folder if it is new and nothing else is in it."""
        with contextlib.suppress(OSError):
            for path in self._paths:
                path.unlink(missing_ok=True)
            if not self._was_there:
                self.folder.rmdir()


@dataclass
class _Writer:
    """The shards of one split as they are written.

    Attributes:
        told_bytes: of text that the ids stand for, each by itself.
    """

    files: _CorpusFiles
    name: str
    dtype: Any
    shard_tokens: int
    shards: list[Shard] = field(default_factory=list)
    tokens: int = 0
    documents: int = 0
    text_bytes: int = 0
    told_bytes: int = 0
    _held: list[NDArray[np.unsignedinteger]] = field(default_factory=list)
    _held_tokens: int = 0

    def add(self, ids: Tokens, eos: int, text_bytes: int, told_bytes: int) -> None:
        """One document and its EOS."""
        self.documents += 1
        self.text_bytes += text_bytes
        self.told_bytes += told_bytes
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
        name = f"{self.name}-{len(self.shards):05}.npy"
        self.shards.append(Shard(name, self._held_tokens, self.files.array(name, np.concatenate(self._held))))
        self._held, self._held_tokens = [], 0

    def split(self) -> Split:
        """What was written in all."""
        self.flush()
        return Split(self.tokens, self.documents, self.text_bytes, self.shards)


@dataclass
class _Comparison:
    """How much of the held-out text comes back from its ids, by the first of it.

    Args:
        characters, changed: seen so far, and those of them that do not come back or that others replace.
    """

    vocabulary: Vocabulary
    named: str
    characters: int = 0
    changed: int = 0

    def see(self, text: str) -> None:
        """Encode and decode the text again.

        Raises:
            BadInput: enough was seen, and too much of it changes.
        """
        if self.vocabulary.kind == BYTES or self.characters >= _COMPARED:
            return
        part = text[: _COMPARED - self.characters]
        given = Counter(part)
        back = Counter(self.vocabulary.decode(self.vocabulary.encode([part])[0].tolist()))
        self.characters += len(part)
        self.changed += max((given - back).total(), (back - given).total())
        if self.characters >= _COMPARED:
            self.judge()

    def judge(self) -> None:
        """Raise for a tokenizer whose bits per byte would be those of another text."""
        if self.changed > MOST_OFF_FRAC * self.characters:
            raise BadInput(
                f"{100 * self.changed / self.characters:.1f}% of the held-out text does not come back from the ids of "
                f"{self.named}: it changes text, or has no ids for it, so bits per byte would be those of another "
                f"text. Give --vocab bytes, bpe or a tokenizer that gives text back."
            )


def _check_bytes(held_out: _Writer, named: str) -> None:
    """Raise where the bytes of the held-out text are not those that its ids stand for, each by itself."""
    off = held_out.told_bytes - held_out.text_bytes
    if abs(off) > MOST_OFF_FRAC * held_out.text_bytes:
        raise BadInput(
            f"the held-out text has {held_out.text_bytes:,} bytes, and the ids that {named} makes of it stand for "
            f"{held_out.told_bytes:,}, so bits per byte would be wrong by {100 * abs(off) / held_out.text_bytes:.1f}%. "
            f"A space that it puts before each document is too much for documents as short as these, or its ids do "
            f"not say what they stand for: give longer documents, or --vocab bytes or bpe."
        )


def build(sources: Sequence[Source], folder: Path, plan: CorpusPlan, tell: Callable[[str], None]) -> Manifest:
    """Makes a corpus and returns its manifest, which is written last. What fails or is stopped leaves no file.

    Args:
        tell: called with the progress as a sentence.

    Raises:
        BadInput: a folder that holds a corpus or cannot be written, a source that cannot be read, ids of another
            vocabulary, a tokenizer whose ids do not stand for the text's bytes, or too little text.
    """
    files = _CorpusFiles(folder)
    try:
        return _built(sources, files, plan, _vocabulary(sources, plan, tell), tell)
    except BaseException:
        files.remove()
        raise


def _built(
    sources: Sequence[Source],
    files: _CorpusFiles,
    plan: CorpusPlan,
    vocabulary: Vocabulary,
    tell: Callable[[str], None],
) -> Manifest:
    dtype: Any = np.uint16 if vocabulary.size <= 1 << 16 else np.uint32
    writers = {name: _Writer(files, name, dtype, plan.shard_tokens) for name in (TRAIN, HELD_OUT)}
    token_bytes = vocabulary.token_bytes()
    comparison = _Comparison(vocabulary, plan.vocabulary)
    seen: set[bytes] = set()
    origins = []
    left = plan.max_bytes
    for source in sources:
        gathered = _Gathered(seen)
        for batch in _batches(gathered.new(_cut(source, vocabulary, token_bytes, left))):
            for one in _encoded(batch, vocabulary, token_bytes):
                side = HELD_OUT if int.from_bytes(one.digest[:8]) < plan.held_out_frac * 2**64 else TRAIN
                writers[side].add(one.ids, vocabulary.eos, one.text_bytes, one.told_bytes)
                gathered.text_bytes += one.text_bytes
                if side == HELD_OUT and isinstance(one.document, str):
                    comparison.see(one.document)
            tell(f"{source.name}: {gathered.documents:,} documents, {gathered.text_bytes / 1e6:.1f} MB")
        passed = dict(source.passed_over)
        origins.append(
            Origin(source.name, source.licence, gathered.documents, gathered.text_bytes, gathered.duplicates, passed)
        )
        left = None if left is None else max(0, left - gathered.text_bytes)
    comparison.judge()
    train, held_out = (writer.split() for writer in writers.values())
    _check_enough(train, held_out, plan, origins)
    _check_bytes(writers[HELD_OUT], plan.vocabulary)
    bytes_sha256 = files.array(TOKEN_BYTES, token_bytes)
    sha256 = None
    if vocabulary.kind != BYTES:
        with files.writing(TOKENIZER) as path:
            vocabulary.save(files.folder)
            sha256 = file_hash(path)
    words = Words(vocabulary.kind, vocabulary.size, vocabulary.bos, vocabulary.eos, sha256)
    manifest = Manifest(words, train, held_out, plan.held_out_frac, bytes_sha256, origins)
    with files.writing(MANIFEST):
        manifest.write(files.folder)
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
        for text in source.documents(BPE_SIZE)
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


def _cut(
    source: Source, vocabulary: Vocabulary, token_bytes: NDArray[np.uint16], left: int | None
) -> Iterator[Document]:
    """A source's documents up to so many bytes; an array of ids is split behind each EOS."""
    for document in source.documents(vocabulary.size):
        for part in [document] if isinstance(document, str) else _split(document, vocabulary.eos):
            if left is not None:
                if left <= 0:
                    return
                left -= len(part.encode()) if isinstance(part, str) else int(token_bytes[part].sum())
            if len(part):
                yield part


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
    batch, characters = list[tuple[bytes, Document]](), 0
    for digest, document in documents:
        batch.append((digest, document))
        characters += len(document)
        if len(batch) == _BATCH or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


@dataclass(frozen=True)
class _Encoded:
    """A document, its hash, its ids, and the bytes of its text and those that its ids stand for."""

    digest: bytes
    document: Document
    ids: Tokens
    text_bytes: int
    told_bytes: int


def _encoded(
    batch: list[tuple[bytes, Document]], vocabulary: Vocabulary, token_bytes: NDArray[np.uint16]
) -> Iterator[_Encoded]:
    made = iter(vocabulary.encode([text for _, text in batch if isinstance(text, str)]))
    for digest, document in batch:
        ids = next(made) if isinstance(document, str) else document.astype(np.uint32)
        told = int(token_bytes[ids].sum())
        yield _Encoded(digest, document, ids, len(document.encode()) if isinstance(document, str) else told, told)


def _check_enough(train: Split, held_out: Split, plan: CorpusPlan, origins: Sequence[Origin]) -> None:
    """Raise for a corpus that nothing can be learned from or judged on."""
    documents = train.documents + held_out.documents
    if not documents:
        passed = sum((Counter(origin.passed_over) for origin in origins), Counter[str]())
        said = ", ".join(f"{count:,} {reason}" for reason, count in sorted(passed.items()))
        over = f" (passed over: {said})" if said else ""
        raise BadInput(f"the sources hold no text at all{over}: name others with --from, or their field with --field.")
    if train.tokens < LEAST_TOKENS:
        raise BadInput(f"the sources hold {train.tokens:,} tokens to train on, fewer than {LEAST_TOKENS:,}: give more.")
    if held_out.tokens < LEAST_TOKENS:
        raise BadInput(
            f"{held_out.documents:,} of {documents:,} documents are held out, with {held_out.tokens:,} tokens, fewer "
            f"than {LEAST_TOKENS:,}: raise --held-out above {100 * plan.held_out_frac:g}, or give more documents (a "
            f"file of text is one; JSON Lines has one a line)."
        )
