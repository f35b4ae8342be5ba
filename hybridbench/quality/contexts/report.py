"""report: records of long contexts as tables: loss by position in trained lengths, and needles found."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybridbench.errors import BadResults
from hybridbench.quality.contexts.case import ContextCase
from hybridbench.quality.contexts.record import ContextRecord, Needle, StretchLoss
from hybridbench.quality.training.figures import Estimate, estimate
from hybridbench.record import ADVICE, Status
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.text import counted
from hybridbench.units import format_number, format_si, format_tokens

SHOWN = ("contexts-positions", "contexts-needles")
"""The tables that a terminal shows."""
DIGITS = 4
_HEADINGS = 6
"""Lengths of needles that a table has columns for."""


@dataclass(frozen=True)
class StretchedStack:
    """The trained models of one architecture that differ in their seeds only.

    Attributes:
        name: in tables and charts; no other of its scale has it.
    """

    records: tuple[ContextRecord, ...]
    name: str

    @property
    def case(self) -> ContextCase:
        """Of the first seed."""
        return self.records[0].case

    def by_document(self, first: int, last: int) -> list[float]:
        """The mean loss of each document at the positions of a range, over seeds; nats a token."""
        of_seeds = [_by_document(record.observed.stretches, first, last) for record in self.records if record.observed]
        return [statistics.fmean(losses) for losses in zip(*of_seeds, strict=True)]

    @property
    def stretches(self) -> list[StretchLoss]:
        """The ranges of positions, of a seed that went well."""
        return next((record.observed.stretches for record in self.records if record.observed), [])

    @property
    def needles(self) -> list[Needle]:
        """Each length and depth with the trials of all seeds together."""
        cells: dict[tuple[int, int], list[Needle]] = {}
        for record in self.records:
            for cell in record.observed.needles if record.observed else []:
                cells.setdefault((cell.length, cell.depth), []).append(cell)
        return [
            Needle(*place, sum(one.trials for one in some), sum(one.found for one in some), _mean_loss(some))
            for place, some in cells.items()
        ]

    @property
    def growth(self) -> Estimate | None:
        """How much more loss documents have in the last trained length than within it, without its first quarter."""
        trained, times = self.case.trained, self.case.beyond.times
        if times < 2 or not self.stretches:
            return None
        within = self.by_document(trained // 4, trained)
        beyond = self.by_document(trained * (times - 1), trained * times)
        return estimate([far - near for far, near in zip(beyond, within, strict=True)])


def _mean_loss(cells: Sequence[Needle]) -> float:
    return sum(cell.loss * cell.trials for cell in cells) / sum(cell.trials for cell in cells)


def _by_document(stretches: Sequence[StretchLoss], first: int, last: int) -> list[float]:
    some = [one for one in stretches if one.first >= first and one.last <= last]
    tokens = sum(one.last - one.first for one in some)
    weighted = ([loss * (one.last - one.first) for loss in one.losses] for one in some)
    return [sum(losses) / tokens for losses in zip(*weighted, strict=True)]


@dataclass(frozen=True)
class ContextReport:
    """The whole report: its records, the stacks, and its tables by file name without the ending."""

    records: tuple[ContextRecord, ...]
    stacks: tuple[StretchedStack, ...]
    tables: dict[str, Table]


def build(records: Sequence[ContextRecord]) -> ContextReport:
    """Build the report.

    Raises:
        BadResults: there are no records.
    """
    if not records:
        raise BadResults("there is no record of long contexts to report: run hybridbench contexts first.")
    stacks = _stacks(records)
    tables = {"contexts-positions": _positions(stacks), "contexts-curves": _curves(stacks)}
    if any(stack.needles for stack in stacks):
        tables |= {"contexts-needles": _needles(stacks), "contexts-cells": _cells(stacks)}
    return ContextReport(tuple(records), stacks, tables)


def _stacks(records: Sequence[ContextRecord]) -> tuple[StretchedStack, ...]:
    """The records by what they are of, but for the seed; of several of one case the last."""
    groups: dict[tuple[object, ...], dict[str, ContextRecord]] = {}
    for record in records:
        case = record.case
        group = (case.model, case.corpus, case.trained, case.tokens, case.beyond, case.how, case.arm)
        groups.setdefault(group, {})[case.key] = record
    found: list[list[ContextRecord]] = []
    for group_records in groups.values():
        some = list(group_records.values())
        if len({record.case.seed for record in some}) == len(some):
            found.append(sorted(some, key=lambda one: one.case.seed))
        else:  # of trainings that earlier records do not tell apart
            found += [[record] for record in some]
    alike: dict[tuple[str, str], list[ContextCase]] = {}
    for some in found:
        case = some[0].case
        alike.setdefault((case.model.label, case.model.scale), []).append(case)
    return tuple(
        StretchedStack(tuple(some), _name(some[0].case, alike[some[0].case.model.label, some[0].case.model.scale]))
        for some in found
    )


def _name(case: ContextCase, alike: Sequence[ContextCase]) -> str:
    """The model's label and, where several stacks have it, the first of what parts them all: their rates, tokens, or
    the key of the first seed's training.
    """
    ways: tuple[Callable[[ContextCase], str], ...] = (
        lambda _case: "",
        lambda one: "" if one.lr is None else f" lr {one.lr:.3g}",
        lambda one: f" {format_tokens(one.tokens)} tokens",
        lambda one: f" {one.learned}",
        lambda one: f" {one.learned} {one.key}",
    )
    way = next((way for way in ways if len({way(one) for one in alike}) == len(alike)), ways[-1])
    return f"{case.model.label}{way(case)}"


def about(stack: StretchedStack) -> str:
    """What the runs of a table have in common, in words."""
    case, record = stack.case, stack.records[0]
    return (
        f"{record.environment.device}, {case.how}: trained on sequences of {case.trained:,}, read on held-out text of "
        f"corpus {case.corpus}"
    )


def _labels(stack: StretchedStack) -> list[TableCell]:
    scale = stack.case.model.scale
    seeds = len([record for record in stack.records if record.observed])
    return [TableCell(stack.name, stack.name), TableCell(scale, scale), TableCell(str(seeds), seeds)]


def _label_columns() -> list[Column]:
    return [Column("model", "model", numeric=False), Column("scale", "scale", numeric=False), Column("seeds", "seeds")]


def _positions(stacks: Sequence[StretchedStack]) -> Table:
    """Mean loss in each multiple of the trained length, and how it grows."""
    times = max(stack.case.beyond.times for stack in stacks)
    table = Table(
        "loss by position, nats/token",
        [
            *_label_columns(),
            *(Column(f"loss_nats_{n}x", f"to {n}x") for n in range(1, times + 1)),
            Column("growth_nats", "last over trained"),
            Column("growth_half_interval_nats", "±"),
            Column("verdict", "", numeric=False),
            Column("status", "status", numeric=False),
        ],
        about(stacks[0]),
    )
    for stack in stacks:
        trained = stack.case.trained
        losses = [
            statistics.fmean(by_document)
            if (by_document := stack.by_document(trained * n, trained * (n + 1)))
            else None
            for n in range(times)
        ]
        table.rows.append([*_labels(stack), *map(_number, losses), *_growth(stack), _status(stack, table)])
    documents = max((len(one.losses) for stack in stacks for one in stack.stretches[:1]), default=0)
    table.remark(
        f"{counted(documents, 'document')}, read from their start. 'to 2x' are the positions from one to two trained "
        "lengths. Last over trained: the last of them less the trained length without its first quarter, ± half the "
        f"95% interval over documents. A model read about "
        f"{format_si(max(stack.case.tokens_read for stack in stacks))} tokens, prompts with needles included."
    )
    return table


def _growth(stack: StretchedStack) -> list[TableCell]:
    growth = stack.growth
    if growth is None:
        return [TableCell(NO_VALUE), TableCell(NO_VALUE), TableCell(NO_VALUE)]
    verdict = "tie" if growth.tie else "holds" if growth.mean < 0 else "worse"
    half = TableCell(NO_VALUE) if growth.half is None else TableCell(f"{growth.half:.3f}", growth.half)
    word = "best" if verdict == "holds" else verdict
    return [TableCell(f"{growth.mean:+.3f}", growth.mean), half, TableCell(verdict, verdict, word=word)]


def _number(value: float | None) -> TableCell:
    return TableCell(NO_VALUE) if value is None else TableCell(format_number(value, DIGITS), value)


def _status(stack: StretchedStack, table: Table) -> TableCell:
    words = dict.fromkeys(record.status.value.replace("_", " ") for record in stack.records)
    marks = dict.fromkeys(table.note(sentence) for record in stack.records for sentence in notes(record))
    word = next((one for one in words if one != Status.OK.value), Status.OK.value)
    return TableCell(" ".join([", ".join(words), *marks]), word, word=word)


def notes(record: ContextRecord) -> list[str]:
    """What a reader must know of a run: why it failed, and each caveat."""
    who = f"{record.case.model.label} {record.case.model.scale}, seed {record.case.seed}"
    found = [] if record.message is None else [f"{who}: {' '.join(record.message.split())}"]
    return found + [f"{caveat.value.replace('_', ' ')}: {ADVICE[caveat]}" for caveat in record.caveats]


def _curves(stacks: Sequence[StretchedStack]) -> Table:
    """Loss at every range of positions, with its interval over documents."""
    keys = ("first", "last", "loss_nats", "half_interval_nats", "bits_per_byte", "documents")
    table = Table("loss by position", [*_label_columns(), *(Column(key, key.replace("_", " ")) for key in keys)])
    for stack in stacks:
        for one in stack.stretches:
            found = estimate(stack.by_document(one.first, one.last))
            tokens = (one.last - one.first) * found.n
            bits = found.mean / math.log(2) * tokens / one.text_bytes if one.text_bytes else None
            values = (one.first, one.last, found.mean, found.half, bits, found.n)
            table.rows.append([*_labels(stack), *map(_number, values)])
    return table


def _needles(stacks: Sequence[StretchedStack]) -> Table:
    """The share of needles found at some lengths, over all depths."""
    lengths = sorted({cell.length for stack in stacks for cell in stack.needles})
    shown = lengths[:: -(-len(lengths) // _HEADINGS)]
    table = Table(
        "needles found, over all depths",
        [
            *_label_columns(),
            *(Column(f"found_frac_{length}", format_tokens(length)) for length in shown),
            Column("loss_nats", "nats/token"),
            Column("trials", "trials"),
        ],
        about(stacks[0]),
    )
    for stack in stacks:
        cells = stack.needles
        shares = []
        for length in shown:
            some = [cell for cell in cells if cell.length == length]
            trials = sum(cell.trials for cell in some)
            share = sum(cell.found for cell in some) / trials if trials else None
            shares.append(TableCell(NO_VALUE) if share is None else TableCell(f"{share:.3f}", share))
        loss = _mean_loss(cells) if cells else None
        total = sum(cell.trials for cell in cells)
        table.rows.append([*_labels(stack), *shares, _number(loss), TableCell(f"{total:,}", total)])
    table.remark(
        "A needle is found if its number of seven digits is in the 20 likeliest tokens after the prompt; nats are of "
        "the number's own tokens, which tell more where nothing is found. contexts-cells.csv has all cells."
    )
    table.remark(
        "The paper's 1B models (arXiv 2510.04800): a Transformer finds next to nothing beyond its trained length, "
        "window attention and Mamba fail outside window, sinks or recent text, both hybrids hold to 1.5 times it."
    )
    return table


def _cells(stacks: Sequence[StretchedStack]) -> Table:
    keys = ("length", "depth_percent", "trials", "found_frac", "loss_nats")
    table = Table(
        "needles by length and depth", [*_label_columns(), *(Column(key, key.replace("_", " ")) for key in keys)]
    )
    for stack in stacks:
        for cell in stack.needles:
            values = (cell.length, cell.depth, cell.trials, cell.found / cell.trials, cell.loss)
            table.rows.append([*_labels(stack), *map(_number, values)])
    return table


def rows(report: ContextReport) -> list[dict[str, object]]:
    """Every run as plain values: its identity, losses by position, needles, and how it ended."""
    found: list[dict[str, object]] = []
    for record in report.records:
        case, seen = record.case, record.observed
        found.append(
            {
                "key": case.key,
                "learned": case.learned,
                "run_id": record.run_id,
                "model": case.model.label,
                "arch": case.model.arch,
                "pattern": case.model.pattern,
                "scale": case.model.scale,
                "seed": case.seed,
                "lr": case.lr,
                "trained_tokens_per_sequence": case.trained,
                "corpus": case.corpus,
                "device": record.environment.device,
                "positions": [
                    {"first": one.first, "last": one.last, "loss_nats": statistics.fmean(one.losses)}
                    for one in (seen.stretches if seen else [])
                ],
                "needles": [
                    {
                        "length": cell.length,
                        "depth_percent": cell.depth,
                        "trials": cell.trials,
                        "found_frac": cell.found / cell.trials,
                        "loss_nats": cell.loss,
                    }
                    for cell in (seen.needles if seen else [])
                ],
                "status": record.status.value,
                "message": record.message,
                "caveats": [caveat.value for caveat in record.caveats],
            }
        )
    return found
