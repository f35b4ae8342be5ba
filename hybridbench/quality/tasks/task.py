"""task: the table of tasks: how each is drawn, its published setting, and a small one for a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hybridbench.errors import unknown_name
from hybridbench.quality.tasks import mad, tracking
from hybridbench.quality.tasks.examples import ExamplePart, Examples
from hybridbench.quality.tasks.mqar import mqar

FULL, TOY = "full", "toy"
TEST_SEED = 20_251_006
"""Of the examples that every run is judged on."""

Draw = Callable[[ExamplePart, int, np.random.Generator, bool], Examples]
"""Draws the examples of a part, with a vocabulary, to train on or to judge on."""


@dataclass(frozen=True)
class Setting:
    """What is learned and judged, and the recipe that belongs to it.

    Args:
        vocabulary: ids.
        train, test: sets of examples.
        width: of the models.
        batch: sequences of a step, all of one part.
        epochs: over the training examples.
        solved: the accuracy on every part that is no larger than those trained on, at which a run ends early; above 1
            for runs that do not.
    """

    vocabulary: int
    train: tuple[ExamplePart, ...]
    test: tuple[ExamplePart, ...]
    width: int
    batch: int
    epochs: int
    lr: float
    weight_decay: float
    least_lr: float = 0.0
    solved: float = 2.0

    @property
    def steps_per_epoch(self) -> int:
        """Updates in which every training example is seen once; what is left over of a part is left out."""
        return sum(part.examples // self.batch for part in self.train)

    @property
    def context(self) -> int:
        """Tokens of the longest sequence to train on."""
        return max(part.length for part in self.train)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence of all."""
        return max(part.length for part in (*self.train, *self.test))

    def within(self, part: ExamplePart) -> bool:
        """Whether a part to judge on is no larger than what is trained on."""
        return any(part.length <= one.length and part.pairs <= one.pairs for one in self.train)


@dataclass(frozen=True)
class Task:
    """One task.

    Args:
        about: in a few words.
        source: where its setting is from.
        chance: the accuracy of a guess.
        pooled: whether all is asked of what the model has at the last token, by a decoder that knows positions.
        positions: whether, at full size, stacks of attention only learn a vector of each position in place of RoPE.
    """

    name: str
    about: str
    source: str
    draw: Draw
    full: Setting
    toy: Setting
    chance: Callable[[Setting], float]
    pooled: bool = False
    positions: bool = False

    def setting(self, size: str) -> Setting:
        """``full`` or ``toy``."""
        return self.full if size == FULL else self.toy

    def train(self, setting: Setting, seed: int) -> list[Examples]:
        """The training examples of each part."""
        return [
            self.draw(part, setting.vocabulary, np.random.default_rng([seed, place]), True)
            for place, part in enumerate(setting.train)
        ]

    def test(self, setting: Setting) -> list[Examples]:
        """The examples of each part that models are judged on, the same for all seeds."""
        return [
            self.draw(part, setting.vocabulary, np.random.default_rng([TEST_SEED, place]), False)
            for place, part in enumerate(setting.test)
        ]


def _mqar() -> Task:
    sizes = ((64, 4, 100_000), (128, 8, 20_000), (256, 16, 20_000), (256, 32, 20_000), (256, 64, 20_000))
    tests = ((64, 4), (64, 8), (64, 16), (128, 32), (256, 64), (512, 128), (1024, 256))
    full = Setting(
        8192,
        tuple(ExamplePart(length, count, pairs) for length, pairs, count in sizes),
        tuple(ExamplePart(length, 1000, pairs) for length, pairs in tests),
        width=64,
        batch=256,
        epochs=32,
        lr=3e-3,
        weight_decay=0.1,
        solved=0.99,
    )
    toy = Setting(  # on shorter sequences of fewer ids attention did not solve it in as many steps
        64,
        (ExamplePart(32, 4096, 2), ExamplePart(32, 4096, 4)),
        (ExamplePart(32, 256, 2), ExamplePart(32, 256, 4), ExamplePart(64, 256, 8)),
        width=64,
        batch=64,
        epochs=12,
        lr=3e-3,
        weight_decay=0.1,
        solved=0.99,
    )
    about = "multi-query recall: the value of each key that comes again"
    return Task("mqar", about, "zoology", mqar, full, toy, lambda setting: 2 / setting.vocabulary, positions=True)


def _mad(
    name: str,
    about: str,
    draw: Draw,
    chance: Callable[[Setting], float],
    *,
    vocabulary: int = 16,
    length: int = 128,
    examples: int = 12_800,
    toy_length: int = 32,
    toy_examples: int = 2048,
    pooled: bool = False,
) -> Task:
    full = Setting(
        vocabulary,
        (ExamplePart(length, examples),),
        (ExamplePart(length, 1280),),
        width=128,
        batch=128,
        epochs=200,
        lr=5e-4,
        weight_decay=0.0,
        least_lr=1e-6,
    )
    toy = Setting(
        vocabulary,
        (ExamplePart(toy_length, toy_examples),),
        (ExamplePart(toy_length, 256),),
        width=64,
        batch=64 if toy_examples >= 64 * 8 else 32,
        epochs=8 if toy_examples >= 64 * 8 else 40,
        lr=3e-3,
        weight_decay=0.0,
    )
    return Task(f"mad-{name}", about, "MAD", draw, full, toy, chance, pooled)


def _tracking(name: str, about: str, draw: Draw, elements: int, trained: int) -> Task:
    ends = (64, 128, 256)

    def tests(count: int, ends: tuple[int, ...]) -> tuple[ExamplePart, ...]:
        begins = (trained, *ends)
        beyond = (ExamplePart(end, count, first=first) for first, end in zip(begins, ends, strict=False))
        return ExamplePart(trained, count), *beyond

    full = Setting(
        elements,
        (ExamplePart(trained, 102_400),),
        tests(1024, ends),
        width=128,
        batch=256,
        epochs=40,
        lr=1e-3,
        weight_decay=0.1,
    )
    toy = Setting(
        elements,
        (ExamplePart(trained, 4096),),
        tests(128, ends[:2]),
        width=64,
        batch=64,
        epochs=4,
        lr=3e-3,
        weight_decay=0.1,
    )
    return Task(name, about, "arXiv 2411.12537", draw, full, toy, lambda _setting: 1 / elements)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _mqar(),
        _mad(
            "in-context-recall",
            "the value of a key that came before",
            mad.in_context_recall,
            lambda setting: 2 / setting.vocabulary,
        ),
        _mad(
            "noisy-recall",
            "the same among noise",
            mad.noisy_recall,
            lambda setting: 4 / setting.vocabulary,
            vocabulary=32,
        ),
        _mad(
            "fuzzy-recall",
            "the same with keys and values of up to three tokens",
            mad.fuzzy_recall,
            lambda setting: 2 / setting.vocabulary,
            toy_length=64,
        ),
        _mad(
            "selective-copying",
            "16 tokens among blanks, in order",
            mad.selective_copying,
            lambda setting: 1 / (setting.vocabulary - 2),
            length=256,
            toy_length=64,
        ),
        _mad(
            "compression",
            "a whole sequence of what is kept at its end",
            mad.compression,
            lambda setting: 1 / (setting.vocabulary - 1),
            length=32,
            toy_length=16,
            pooled=True,
        ),
        _mad(
            "memorisation",
            "a fixed map from keys to values, learned by heart",
            mad.memorisation,
            lambda setting: 2 / setting.vocabulary,
            vocabulary=256,
            length=32,
            examples=256,
            toy_examples=256,
        ),
        _tracking("parity", "whether the ones so far are odd", tracking.parity, 2, 40),
        _tracking("s5", "the product of the permutations so far", tracking.s5, 120, 32),
    )
}
"""Every task by its name."""


def named(names: str) -> list[Task]:
    """The tasks of a list with commas; ``mad`` stands for its six, ``all`` for every one.

    Raises:
        BadInput: an unknown name.
    """
    found: dict[str, Task] = {}
    for name in (part.strip() for part in names.split(",")):
        group = [one for one in TASKS if name == "all" or (name == "mad" and one.startswith("mad-"))]
        for one in group or [name]:
            if one not in TASKS:
                raise unknown_name("task", one, [*TASKS, "mad", "all"])
            found[one] = TASKS[one]
    return list(found.values())


def check_size(size: str) -> str:
    """``full`` or ``toy``.

    Raises:
        BadInput: neither.
    """
    if size not in (FULL, TOY):
        raise unknown_name("size", size, (FULL, TOY))
    return size
