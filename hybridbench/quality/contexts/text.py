"""text: what long contexts are made of: held-out documents that are long enough, and prompts with a needle.

A prompt with a needle, after the paper (arXiv 2510.04800, on NIAH), is a text of exactly so many tokens:

    <context>
    ... text ... The special magic Oslo number is: 1234567. ... text ...
    </context>
    The special magic Oslo number is:

and the model goes on. A base model, which follows no instruction, completes the pattern.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridbench.errors import BadInput
from hybridbench.quality.contexts.case import Beyond
from hybridbench.quality.corpus.manifest import HELD_OUT, Manifest, read_manifest
from hybridbench.quality.corpus.vocabulary import BYTES, ByteVocabulary, Vocabulary, from_file

Ids = NDArray[np.int64]

SEED = 20_251_006
"""Of documents and needles, which are the same for every model."""
SLACK = 8
"""Tokens by which numbers of seven digits may differ in length."""
CITIES = (
    *("Accra", "Athens", "Bergen", "Bogota", "Cairo", "Dakar", "Delhi", "Dublin", "Hanoi", "Havana", "Kyoto", "Lagos"),
    *("Lima", "London", "Lyon", "Madrid", "Milan", "Nairobi", "Osaka", "Oslo", "Paris", "Porto", "Prague", "Quito"),
    *("Riga", "Rome", "Seoul", "Sofia", "Sydney", "Tokyo", "Tunis", "Turin", "Vienna", "Warsaw", "Zagreb", "Zurich"),
)


def vocabulary_of(folder: Path, manifest: Manifest) -> Vocabulary:
    """The corpus's vocabulary."""
    return ByteVocabulary() if manifest.vocabulary.kind == BYTES else from_file(folder / "tokenizer.json")


def held_out_documents(folder: Path, manifest: Manifest, at_least: int) -> list[Ids]:
    """Held-out documents of at least so many tokens, without their EOS, in the corpus's order."""
    found = []
    for shard in manifest.split(HELD_OUT).shards:
        ids = np.load(folder / shard.file, mmap_mode="r")
        start = 0
        for end in np.flatnonzero(np.asarray(ids) == manifest.vocabulary.eos).tolist():
            if end - start >= at_least:
                found.append(np.asarray(ids[start:end]).astype(np.int64))
            start = end + 1
    return found


def drawn_documents(documents: Sequence[Ids], count: int, length: int) -> Ids:
    """The first ``length`` tokens of ``count`` documents at random, or of all where there are fewer (N, T)."""
    order = np.random.default_rng(SEED).permutation(len(documents))[:count]
    return np.stack([documents[place][:length] for place in sorted(order)])


@dataclass(frozen=True)
class Prompt:
    """A prompt, and the number that must follow.

    Args:
        ids: of the prompt, BOS first.
        answer: the ids of the number as the needle has it after its prefix.
        number: as text.
    """

    ids: Ids
    answer: Ids
    number: str


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one length as one array: those of the first depth, then those of the next.

    Attributes:
        length: tokens of a prompt.
        ids: int32 (N, W): each prompt, the answer that must follow, and zeros behind shorter answers.
        answers: int64 (N): tokens of each answer.
        numbers: as text.
    """

    length: int
    ids: NDArray[np.int32]
    answers: Ids
    numbers: tuple[str, ...]

    @classmethod
    def of(cls, prompts: Sequence[Prompt]) -> PromptSet:
        """Prompts of one length together."""
        length, answers = len(prompts[0].ids), [len(prompt.answer) for prompt in prompts]
        ids = np.zeros((len(prompts), length + max(answers)), np.int32)
        for row, prompt in zip(ids, prompts, strict=True):
            row[:length] = prompt.ids
            row[length : length + len(prompt.answer)] = prompt.answer
        return cls(length, ids, np.array(answers, np.int64), tuple(prompt.number for prompt in prompts))


class Haystack:
    """Prompts of text of a corpus, with needles.

    Args:
        documents: text around needles, one document after the other.
    """

    def __init__(self, vocabulary: Vocabulary, bos: int, documents: Sequence[Ids]) -> None:
        self._vocabulary, self._bos = vocabulary, bos
        self._known: dict[str, Ids] = {}
        self._text = np.concatenate(list(documents)) if documents else np.empty(0, np.int64)

    def prompts(self, length: int, depth: int, trials: int) -> Iterator[Prompt]:
        """Prompts of ``length`` tokens whose needle has ``depth`` percent of the text before it.

        Raises:
            BadInput: the needle alone is longer, or the text is too short.
        """
        draw = random.Random(f"{SEED} {length} {depth}")
        for _ in range(trials):
            yield self._prompt(length, depth, draw)

    def prompt_set(self, length: int, depths: Sequence[int], trials: int) -> PromptSet:
        """The ``prompts`` of every depth at one length.

        Raises:
            BadInput: as ``prompts``.
        """
        return PromptSet.of([prompt for depth in depths for prompt in self.prompts(length, depth, trials)])

    def _prompt(self, length: int, depth: int, draw: random.Random) -> Prompt:
        city, number = draw.choice(CITIES), str(draw.randrange(10**6, 10**7))
        opening, needle, answer, end, question = self._pieces(city, number)
        left = length - 1 - sum(map(len, (opening, needle, answer, end, question)))
        if left < 0:
            raise BadInput(f"a prompt of {length} tokens has no room for a needle: give {self.shortest()} or more.")
        if len(self._text) < left:
            raise BadInput(
                f"the held-out text around needles holds {len(self._text):,} tokens, fewer than a prompt of "
                f"{length:,}: build a larger corpus."
            )
        start = draw.randrange(len(self._text) - left + 1)
        text, at = self._text[start : start + left], round(left * depth / 100)
        bos = np.array([self._bos], np.int64)
        ids = np.concatenate((bos, opening, text[:at], needle, answer, end, text[at:], question))
        return Prompt(ids, answer, number)

    def _pieces(self, city: str, number: str) -> list[Ids]:
        """The ids of what stands around and between text: opening, needle to its number, number, its end, question."""
        prefix = f"The special magic {city} number is:"
        pieces = ("<context>\n", f"\n{prefix}", f" {number}", ".\n", f"\n</context>\n{prefix}")
        new = [piece for piece in pieces if piece not in self._known]
        made = dict(zip(new, (ids.astype(np.int64) for ids in self._vocabulary.encode(new)), strict=True))
        self._known |= {piece: ids for piece, ids in made.items() if piece != pieces[2]}
        return [made[piece] if piece in made else self._known[piece] for piece in pieces]

    def shortest(self) -> int:
        """Tokens of the shortest prompt that has room for every needle."""
        return 1 + max(sum(map(len, self._pieces(city, "9999999"))) for city in CITIES) + SLACK


@dataclass(frozen=True)
class Texts:
    """All that one model after the other reads of a corpus.

    Attributes:
        vocabulary: the corpus's.
        token_NT: documents (N, T), from their first token.
        prompts: one set for each length.
    """

    manifest: Manifest
    vocabulary: Vocabulary
    token_NT: Ids
    prompts: tuple[PromptSet, ...]


@functools.lru_cache(maxsize=1)
def texts_of(folder: Path, corpus: str, span: int, beyond: Beyond) -> Texts:
    """What is read. The last is kept: the models of a process mostly read the same.

    Args:
        corpus: its key.
        span: tokens of a document.

    Raises:
        BadInput: the folder holds another corpus, no document is so long, or the text is too short for a prompt.
    """
    manifest = read_manifest(folder)
    if manifest.key != corpus:
        raise BadInput(f"{folder} holds another corpus ({manifest.key}) than the run's ({corpus}).")
    there, vocabulary = held_out_documents(folder, manifest, 1), vocabulary_of(folder, manifest)
    long_enough = [document for document in there if len(document) >= span]
    if not long_enough:
        raise BadInput(f"no held-out document of {folder} has {span:,} tokens: build a corpus with longer documents.")
    haystack = Haystack(vocabulary, manifest.vocabulary.bos, there)
    sets = tuple(haystack.prompt_set(length, beyond.depths, beyond.trials) for length in beyond.lengths)
    return Texts(manifest, vocabulary, drawn_documents(long_enough, beyond.documents, span), sets)
