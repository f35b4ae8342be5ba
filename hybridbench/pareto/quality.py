"""quality: figures of how good stacks are: those that the paper publishes, and those of a CSV of one's own.

    arch,scale,ratio,recipe,mixer,pattern,metric,value,seeds,std,tokens,flops,source
    inter,1b,1:5,,,,dclm_nll,2.716,1,,73e9,4.5e20,"arXiv 2510.04800 v3, table 9"

The first six name the stack as records do (``stacks``). ``value`` is the mean over ``seeds`` runs, and ``std`` their
standard deviation. ``tokens`` and ``flops`` say how long the stack was trained: figures of different budgets are never
compared. Fractions are from 0 to 1. Columns may stand in any order; all but ``scale``, ``metric`` and ``value`` may be
empty or missing.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput, unknown_name
from hybridbench.files import MIB, Damaged, read_text
from hybridbench.pareto.stacks import NAMING, identity, stack_named
from hybridbench.text import shown

COLUMNS = (*NAMING, "metric", "value", "seeds", "std", "tokens", "flops", "source")
NEEDED = ("scale", "metric", "value")
SEED_NOISE_NATS = 0.0013
"""Standard deviation of a validation loss between seeds, where no other is given: modded-nanogpt's log of runs."""


@dataclass(frozen=True)
class Score:
    """A measure of quality.

    Args:
        name: as in the column ``metric``.
        title: as in a heading, without the unit.
        unit: ``nats`` per token, ``bits`` per byte, ``frac``, or empty.
        better: which direction is an improvement.
        noise: standard deviation between seeds where a row gives none, in ``unit``; 0 where it is not known.
    """

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    noise: float = 0.0


def _nll(name: str, title: str) -> Score:
    return Score(name, title, "nats", "lower", SEED_NOISE_NATS)


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        _nll("dclm_nll", "DCLM loss"),
        _nll("pg19_nll", "PG19 loss"),
        Score("accuracy", "mean accuracy of 5 tasks", "frac", "higher"),
        _nll("dclm_nll_16k", "DCLM loss, trained at 16k"),
        _nll("pg19_nll_16k", "PG19 loss, trained at 16k"),
        Score("accuracy_16k", "mean accuracy of 5 tasks, trained at 16k", "frac", "higher"),
        _nll("dclm_nll_32k", "DCLM loss, trained at 32k"),
        _nll("pg19_nll_32k", "PG19 loss, trained at 32k"),
        Score("accuracy_32k", "mean accuracy of 5 tasks, trained at 32k", "frac", "higher"),
        _nll("loss", "validation loss"),
        Score("bits_per_byte", "bits per byte", "bits", "lower"),
    )
}
"""What can be a metric of quality, by name."""


@dataclass(frozen=True)
class Quality:
    """One figure of one stack: ``value`` in the unit of its score, and what it took to train, if that is known."""

    spec: ModelSpec
    score: Score
    value: float
    seeds: int = 1
    std: float | None = None
    tokens: float | None = None
    flops: float | None = None
    source: str = ""

    @property
    def stack(self) -> str:
        """A text that is equal for equal stacks."""
        return identity(self.spec)

    @property
    def noise(self) -> float:
        """Standard error of the mean over seeds, in the unit of the score; 0 where nothing is known of it."""
        return (self.score.noise if self.std is None else self.std) / math.sqrt(self.seeds)


def paper_figures() -> list[Quality]:
    """The figures that the source paper publishes."""
    file = resources.files("hybridbench.pareto").joinpath("paper.csv")
    return _rows(file.read_text(encoding="utf-8"), "paper.csv")


def read_quality(path: Path) -> list[Quality]:
    """The figures of a CSV.

    Raises:
        BadInput: it cannot be read, has an unknown column or lacks one, or a row whose stack, metric or number is none.
    """
    try:
        text = read_text(path, 16 * MIB)
    except Damaged as exc:
        raise BadInput(f"--quality {path} {exc}.") from exc
    return _rows(text, str(path))


def _rows(text: str, name: str) -> list[Quality]:
    reader = csv.reader(text.splitlines(), strict=True)
    try:
        lines = [(reader.line_num, [part.strip() for part in line]) for line in reader if any(line)]
    except csv.Error as exc:
        raise BadInput(f"{name}: line {reader.line_num} is not CSV ({exc}).") from exc
    if not lines:
        raise BadInput(f"{name} is empty: it needs the columns {', '.join(COLUMNS)}.")
    (_, heading), *rows = lines
    _check_heading(heading, bool(rows), name)
    found: dict[tuple[object, ...], int] = {}
    made = []
    for number, parts in rows:
        if len(parts) != len(heading):
            raise BadInput(f"{name}, line {number}: it has {len(parts)} fields, where the heading has {len(heading)}.")
        try:
            quality = _quality(dict(zip(heading, parts, strict=True)))
        except BadInput as exc:
            raise _at(name, number, exc) from exc
        same = (quality.stack, quality.score.name, quality.tokens, quality.flops)
        if same in found:
            raise BadInput(
                f"{name}, line {number} has the stack, metric and budget of line {found[same]}: write the mean "
                "over runs as one row, with seeds and std."
            )
        found[same] = number
        made.append(quality)
    return made


def _check_heading(heading: list[str], has_rows: bool, name: str) -> None:
    for column in heading:
        if column not in COLUMNS:
            raise _at(name, 1, unknown_name("column", column, COLUMNS))
    if missing := [column for column in NEEDED if column not in heading]:
        raise BadInput(
            f"{name} has no column {' and no '.join(missing)}: it needs {', '.join(NEEDED)} and arch or pattern."
        )
    if len(set(heading)) < len(heading):
        raise BadInput(f"{name} has a column twice: {', '.join(heading)}.")
    if not has_rows:
        raise BadInput(f"{name} has a heading and no rows: write one for each stack.")


def _at(name: str, number: int, exc: BadInput) -> BadInput:
    return BadInput(f"{name}, line {number}: {exc}")


def _quality(row: Mapping[str, str]) -> Quality:
    if row["metric"] not in SCORES:
        raise unknown_name("metric", row["metric"], SCORES)
    score = SCORES[row["metric"]]
    value = _number(row, "value")
    if value is None:
        raise BadInput("value is empty: a row has one.")
    if score.unit == "frac" and not 0 <= value <= 1:
        raise BadInput(f"value {value:g} of {score.name} is no fraction from 0 to 1: divide percent by 100.")
    seeds = _number(row, "seeds")
    if seeds is not None and (seeds < 1 or seeds != int(seeds)):
        raise BadInput(f"seeds is {seeds:g}, where a whole number from 1 is expected.")
    return Quality(
        spec=stack_named(row),
        score=score,
        value=value,
        seeds=int(seeds or 1),
        std=_number(row, "std"),
        tokens=_number(row, "tokens"),
        flops=_number(row, "flops"),
        source=row.get("source", ""),
    )


def _number(row: Mapping[str, str], name: str) -> float | None:
    """A number from 0; None where the field is empty."""
    text = row.get(name, "")
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise BadInput(f"{name} is {shown(text)}, where a number from 0 is expected.")
    return number
