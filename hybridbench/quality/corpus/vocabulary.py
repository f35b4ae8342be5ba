"""vocabulary: how text becomes token ids: bytes, a BPE trained on the text itself, or a tokenizer file.

Every vocabulary has a BOS and an EOS id. A byte vocabulary has 256 bytes, BOS 256 and EOS 257. A BPE works on bytes, so
each text comes back byte by byte, and every token stands for a known number of bytes.

An id of a tokenizer file stands for the text that its decoder makes of it between two others: ``▁the`` for a space
and three letters. ``<0x80>`` of a byte fallback is one byte, and a token of a ByteLevel tokenizer has a byte for each
character. Marks and the unknown token stand for none.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

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
_LARGEST = 1 << 24
"""Ids that a tokenizer file may have: a model has a row of its embedding for each number up to the largest."""
_FALLBACK = re.compile("<0x[0-9A-Fa-f]{2}>")
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
        """The ids of each text, without BOS and EOS, also where a text spells them.

        Raises:
            BadInput: the tokenizer cannot encode a text.
        """
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
    """A tokenizer of the package ``tokenizers``. Marks that it lacks for BOS or EOS get ids behind its largest.

    Args:
        tokenizer: is changed: it reads a text that spells ``<eos>`` as text, and cuts and pads none.

    Raises:
        BadInput: an id is too large.
    """

    def __init__(self, tokenizer: Any, kind: str) -> None:
        self.kind = kind
        self._tokenizer = tokenizer
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        self.size = max(self._ids.values(), default=-1) + 1
        if self.size > _LARGEST:
            raise BadInput(f"it has the id {self.size - 1:,}, where ids below {_LARGEST:,} are due")
        self._parts: dict[str, Any] = json.loads(tokenizer.to_str())
        self._falls_back = bool(self._parts["model"].get("byte_fallback")) or "ByteFallback" in self._kinds("decoder")
        added = tokenizer.get_added_tokens_decoder().items()
        self._special = {number for number, one in added if one.special and not self._is_byte(one.content)}
        self.bos, self.eos = self._mark(_BOS), self._mark(_EOS)
        self._special |= {self.bos, self.eos}

    def _kinds(self, *parts: str) -> set[str]:
        """The kinds of steps that parts of the tokenizer have, also within sequences of them."""
        found, left = set[str](), [self._parts.get(part) for part in parts]
        while left:
            one = left.pop()
            if isinstance(one, dict):
                found.add(str(one.get("type")))
                left += one.values()
            elif isinstance(one, list):
                left += one
        return found

    def _is_byte(self, token: str) -> bool:
        return self._falls_back and _FALLBACK.fullmatch(token) is not None

    def _mark(self, names: Sequence[str]) -> int:
        """The id of the first name that is a mark, before one that is a word which no text yields, else a new id."""
        known = {name: self._ids[name] for name in names if name in self._ids}
        for number in known.values():
            if number in self._special:
                return number
        for name, number in known.items():
            if number not in self._encoded([name])[0].ids:
                return number
        self.size += 1
        return self.size - 1

    def _encoded(self, texts: Sequence[str]) -> list[Any]:
        try:
            return list(self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False))
        except Exception as exc:  # the package raises plain Exceptions
            raise BadInput(f"the tokenizer cannot encode the text ({_reason(exc)}): give another to --vocab.") from exc

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The ids of each text."""
        found = [np.array(one.ids, np.uint32) for one in self._encoded(texts)]
        return [ids[(ids != self.bos) & (ids != self.eos)] for ids in found]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids."""
        return str(self._tokenizer.decode([one for one in ids if one not in self._special], skip_special_tokens=False))

    def token_bytes(self) -> NDArray[np.uint16]:
        """The bytes of each id by what it spells; 0 for marks, the unknown token and numbers that are no id."""
        sizes = np.zeros(self.size, np.uint16)
        model = self._parts["model"]
        unknown = {self._ids.get(model.get("unk_token") or ""), model.get("unk_id")}
        alphabet = self._byte_alphabet()
        added = set(self._tokenizer.get_added_tokens_decoder()) if alphabet else set()
        others = list[int]()
        for token, number in self._ids.items():
            if number in self._special or number in unknown:
                continue
            if self._is_byte(token):
                sizes[number] = 1
            elif number in added:
                sizes[number] = len(token.encode())
            elif alphabet.issuperset(token):
                sizes[number] = len(token)
            else:
                others.append(number)
        sizes[others] = self._spelled(others)
        return sizes

    def _byte_alphabet(self) -> set[str]:
        """The characters that stand for one byte each, as in GPT-2's tokenizer; none if the tokenizer has no such."""
        if "ByteLevel" not in self._kinds("decoder", "pre_tokenizer", "normalizer"):
            return set()
        return set(_package().pre_tokenizers.ByteLevel.alphabet())

    def _spelled(self, ids: Sequence[int]) -> list[int]:
        """Bytes of the text that each id adds between two words, where no decoder strips or capitalizes it."""
        words = sorted(one for one in self._ids if one.isascii() and one.isalpha())
        before, after = ([self._ids[one] for one in part] for part in (words[:1], words[1:2] or words[:1]))
        rows = [before + after, *([*before, number, *after] for number in ids)]
        without, *texts = self._tokenizer.decode_batch(rows, skip_special_tokens=False)
        return [max(0, len(text.encode()) - len(without.encode())) for text in texts]

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
        KeyboardInterrupt: at once.
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
    stopped = threading.Event()
    _interruptible(lambda: tokenizer.train_from_iterator(_until(stopped, texts), trainer), stopped)
    if tokenizer.get_vocab_size() < size:
        raise BadInput(
            f"the text makes a BPE of {tokenizer.get_vocab_size():,} tokens, where {size:,} are due: give more text, "
            f"or leave --vocab at bytes."
        )
    return TokenizerVocabulary(tokenizer, BPE)


_T = TypeVar("_T")


def _until(stopped: threading.Event, items: Iterable[_T]) -> Iterator[_T]:
    for item in items:
        if stopped.is_set():
            raise KeyboardInterrupt
        yield item


def _interruptible(call: Callable[[], object], stopped: threading.Event) -> None:
    """Calls what does not heed Ctrl-C, in a thread that ends with the program; here Ctrl-C acts at once.

    Args:
        stopped: set when the call's result is no longer wanted.

    Raises:
        BaseException: what the call raises.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as exc:  # noqa: BLE001  # raised again by the caller
            raised.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        stopped.set()
        raise
    if raised:
        raise raised[0]


def _reason(exc: Exception) -> str:
    return next(iter(str(exc).splitlines()), type(exc).__name__)


def from_file(path: Path) -> TokenizerVocabulary:
    """The vocabulary of a ``tokenizer.json``.

    Raises:
        BadInput: it cannot be read, or is no such file.
    """
    package = _package()
    try:
        tokenizer = package.Tokenizer.from_file(str(path))
    except Exception as exc:  # the package raises plain Exceptions
        said = f"{path} is no tokenizer file ({_reason(exc)}): give bytes, bpe or a tokenizer.json."
        raise BadInput(said) from exc
    try:
        return TokenizerVocabulary(tokenizer, FILE)
    except BadInput as exc:
        raise BadInput(f"{path} cannot be used: {str(exc).rstrip('.')}.") from exc


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
