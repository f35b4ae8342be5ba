"""cells: what tables of training runs share: numbers with their digits, an estimate with its interval, common words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hybridbench.arch.block import Convention
from hybridbench.arch.model import params
from hybridbench.quality.training.figures import Arm, Estimate
from hybridbench.quality.training.record import LearnRecord
from hybridbench.report.table import NO_VALUE, TableCell
from hybridbench.text import counted
from hybridbench.units import format_number

DIGITS = 4
"""Significant digits of losses: seeds differ in the third decimal."""


def about(records: Iterable[LearnRecord]) -> str:
    """What runs of a table have in common, in words, and in what they differ."""
    runs = list(records)

    def same(of: Callable[[LearnRecord], str], otherwise: str) -> str:
        found = dict.fromkeys(map(of, runs))
        return next(iter(found)) if len(found) == 1 else otherwise

    place = same(lambda run: run.environment.device + _threads(run), "several devices")
    amount = same(lambda run: f"{run.case.tokens:,} tokens", "different numbers of tokens")
    corpus = same(lambda run: f"corpus {run.case.corpus}", "several corpora")
    length = same(lambda run: f"sequences of {run.case.context:,}", "sequences of several lengths")
    step = same(lambda run: f"{run.case.tokens_per_step:,} a step", "steps of several sizes")
    how = same(lambda run: run.case.how, "several ways to run")
    return f"{place}: {amount} of {corpus} in {length}, {step}, {how}"


def _threads(record: LearnRecord) -> str:
    count = record.environment.threads
    return "" if count is None else f", {counted(count, 'thread')}"


def non_embedding(record: LearnRecord) -> int:
    """Parameters without the embedding, as the paper counts them."""
    spec = record.case.model
    return params(spec, Convention.PAPER) - spec.vocab_size * spec.d_model


def number(value: float | None, digits: int = DIGITS) -> TableCell:
    """A number, or that there is none."""
    return TableCell(NO_VALUE) if value is None else TableCell(format_number(value, digits), value)


def estimated(found: Estimate | None) -> list[TableCell]:
    """A mean and half its interval."""
    return [number(found.mean), half(found.half)] if found else [TableCell(NO_VALUE), TableCell(NO_VALUE)]


def signed(mean: float | None, half_interval: float | None) -> list[TableCell]:
    """A difference with its sign, and half its interval."""
    return [TableCell(NO_VALUE) if mean is None else TableCell(f"{mean:+.4f}", mean), half(half_interval)]


def half(value: float | None) -> TableCell:
    """Half an interval."""
    return TableCell(NO_VALUE) if value is None else TableCell(f"{value:.4f}", value)


def probability(value: float | None) -> TableCell:
    """A p-value."""
    if value is None:
        return TableCell(NO_VALUE)
    return TableCell("<0.0001" if value < 1e-4 else f"{value:.2g}", value)


def names(arms: Sequence[Arm]) -> list[str]:
    """A name for each arm: its model, with what tells it from others of that name: scale, rate, corpus and the like."""
    found = [arm.first.case.model.label for arm in arms]
    more = (
        [str(arm.first.case.model.scale) for arm in arms],
        [f"lr {arm.first.case.recipe.lr:.3g}" for arm in arms],
        [arm.first.case.how for arm in arms],
        [f"{arm.first.case.tokens:,} tokens" for arm in arms],
        [f"corpus {arm.first.case.corpus[:4]}" for arm in arms],
        [arm.first.case.arm[:4] for arm in arms],
    )
    for words in more:
        alike: dict[str, set[str]] = {}
        for name, word in zip(found, words, strict=True):
            alike.setdefault(name, set()).add(word)
        found = [f"{name} {word}" if len(alike[name]) > 1 else name for name, word in zip(found, words, strict=True)]
    return found
