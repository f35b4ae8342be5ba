"""vocabulary: how text becomes token ids: bytes, a BPE trained on the text itself, or a tokenizer file.

Every vocabulary has a BOS and an EOS id. A byte vocabulary has 256 bytes, BOS 256 and EOS 257. A BPE works on bytes, so
each text comes back byte by byte, and every token stands for a known number of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hybridbench.errors import BadInput

Tokens = NDArray[np.uint32]

BYTES, BPE, FILE = "bytes", "bpe", "file"
BPE_SIZE = 4096
"""Token ids of a BPE that is trained here, with BOS and EOS."""
TOKENIZER = "tokenizer.json"
"""The file of a corpus that holds its tokenizer."""
_BOS = ("<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>", "[CLS]")
_EOS = ("<eos>", "</s>", "<|end_of_text|>", "<|endoftext|>", "[SEP]")
_PADDED = 64
"""A model's embedding has a multiple of so many rows: rows of logits then suit a GPU's fast kernels."""


class Vocabulary(Protocol):
    """What a corpus needs of a vocabulary.

    Attributes:
        kind: ``bytes``, ``bpe`` or ``file``.
        size: token ids, BOS and EOS among them.
    """

    kind: str
    size: int
    bos: int
    eos: int

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The ids of each text, without BOS and EOS."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, without BOS, EOS and other marks."""
        ...

    def token_bytes(self) -> NDArray[np.uint16]:
        """How many bytes of text each id stands for; 0 for BOS, EOS and other marks."""
        ...

    def save(self, folder: Path) -> None:
        """Write what is needed to read the ids again."""
        ...


class ByteVocabulary:
    """The bytes of UTF-8.

    >>> [list(map(int, ids)) for ids in ByteVocabulary().encode(["ab"])]
    [[97, 98]]
    """

    kind = BYTES
    bos, eos, size = 256, 257, 258

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The bytes of each text."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.uint32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some bytes; what is no UTF-8 becomes a mark of replacement."""
        return bytes(one for one in ids if one < self.bos).decode(errors="replace")

    def token_bytes(self) -> NDArray[np.uint16]:
        """One for a byte."""
        return np.array([1] * 256 + [0, 0], np.uint16)

    def save(self, folder: Path) -> None:
        """There is nothing to write."""


class TokenizerVocabulary:
    """A tokenizer of the package ``tokenizers``. Marks that it lacks for BOS or EOS get ids behind its own."""

    def __init__(self, tokenizer: Any, kind: str) -> None:
        self.kind = kind
        self._tokenizer = tokenizer
        self.size = int(tokenizer.get_vocab_size(with_added_tokens=True))
        self.bos, self.eos = self._mark(_BOS), self._mark(_EOS)

    def _mark(self, names: Sequence[str]) -> int:
        known = (self._tokenizer.token_to_id(name) for name in names)
        found = next((number for number in known if number is not None), None)
        if found is not None:
            return int(found)
        self.size += 1
        return self.size - 1

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The ids of each text."""
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, np.uint32) for one in found]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids."""
        known = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return str(self._tokenizer.decode([one for one in ids if one < known], skip_special_tokens=True))

    def token_bytes(self) -> NDArray[np.uint16]:
        """Of a tokenizer on bytes the bytes of each id; of any other the bytes of the id's own text."""
        marks = {self.bos, self.eos, *self._tokenizer.get_added_tokens_decoder()}
        on_bytes = self._on_bytes()
        sizes = np.zeros(self.size, np.uint16)
        for text, number in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if number not in marks:
                sizes[number] = len(text) if on_bytes else len(self._tokenizer.decode([number]).encode())
        return sizes

    def _on_bytes(self) -> bool:
        """Whether each character of a token's name stands for one byte, as in GPT-2's tokenizer."""
        return "ByteLevel" in type(self._tokenizer.decoder).__name__

    def save(self, folder: Path) -> None:
        """Write the tokenizer's own file."""
        (folder / TOKENIZER).write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")


def _package() -> Any:
    try:
        import tokenizers
    except ImportError as exc:
        raise BadInput("this vocabulary needs the package tokenizers: pip install 'hybridbench[quality]'.") from exc
    return tokenizers


def trained(texts: Iterable[str], size: int = BPE_SIZE) -> TokenizerVocabulary:
    """A BPE on bytes with ``size`` ids, trained on the texts.

    Raises:
        BadInput: ``tokenizers`` is missing, or the texts are too few for so many ids.
    """
    package = _package()
    tokenizer = package.Tokenizer(package.models.BPE())
    tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = package.decoders.ByteLevel()
    trainer = package.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < size:
        raise BadInput(
            f"the text makes a BPE of {tokenizer.get_vocab_size():,} tokens, where {size:,} are due: give more text, "
            f"or leave --vocab at bytes."
        )
    return TokenizerVocabulary(tokenizer, BPE)


def from_file(path: Path) -> TokenizerVocabulary:
    """The vocabulary of a ``tokenizer.json``.

    Raises:
        BadInput: it cannot be read, or is no such file.
    """
    package = _package()
    try:
        return TokenizerVocabulary(package.Tokenizer.from_file(str(path)), FILE)
    except Exception as exc:  # the package raises plain Exceptions
        reason = str(exc).splitlines()[0]
        raise BadInput(f"{path} is no tokenizer file ({reason}): give bytes, bpe or a tokenizer.json.") from exc


def of_corpus(folder: Path, kind: str) -> Vocabulary:
    """The vocabulary of a corpus, whose kind its manifest has.

    Raises:
        BadInput: its tokenizer file cannot be read.
    """
    return ByteVocabulary() if kind == BYTES else from_file(folder / TOKENIZER)


def model_vocabulary(size: int) -> int:
    """Rows of the embedding of a model that is trained on ids below ``size``.

    >>> model_vocabulary(258)
    320
    """
    return -(-size // _PADDED) * _PADDED
