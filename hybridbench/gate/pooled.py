"""pooled: verdicts from stored pairs of the same code, some with planted work, counted by what was planted.

The pairs of each cell are gone through in their order, as many as the judge asks for to one verdict, then on with the
next pairs to the next verdict. The rule of "same code" is off, so that all are judged by their times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hybridbench.errors import BadInput
from hybridbench.gate.calibration import LEAST_PAIRS, LEAST_SD, SEEN, robust_sd
from hybridbench.gate.judge import usable
from hybridbench.gate.kinds import KINDS, CellKind
from hybridbench.gate.pairs import PairedCell, TimedPair
from hybridbench.gate.sequential import Outcome, decide, least_visible

SUITE = 15
"""Cells of the suite that bounds are split over; a file may hold more, with those that are planted."""
Pool = Mapping[tuple[str, str], Sequence[TimedPair]]
"""Pairs by kind and name of the cell."""


def planted_name(name: str, share: float) -> str:
    """The name of a cell with planted work.

    >>> planted_name("decode", 0.01)
    'decode, planted 1%'
    """
    return f"{name}, planted {share:.0%}"


def share_of(name: str) -> float:
    """The planted share in a name; 0 without one."""
    _, found, share = name.rpartition(", planted ")
    return float(share.removesuffix("%")) / 100 if found else 0.0


@dataclass(frozen=True)
class Tally:
    """Verdicts of cells of one kind with one planted share.

    Args:
        counts: verdicts by outcome.
        cells: how many cells they are of.
        pairs: how many pairs those cells have.
        effect: median of the change's times over the base's, less 1.
        sd: median over cells of the robust standard deviation of log ratios.
        advisory: cells that are too noisy by their calibration, of which nothing else here is said.
    """

    kind: str
    share: float
    counts: Mapping[Outcome, int]
    cells: int
    pairs: int
    effect: float
    sd: float
    advisory: int = 0

    @property
    def verdicts(self) -> int:
        """How many there are."""
        return sum(self.counts.values())


def verdicts(
    pairs: Sequence[TimedPair], kind: CellKind, n_cells: int = SUITE, sd: float | None = None
) -> list[Outcome]:
    """The verdicts of disjoint runs of pairs, each as long as the judge asks for; an unfinished one is left out.

    Args:
        sd: the calibrated standard deviation of a pair; None takes that of the kind.
    """
    sd = kind.sd if sd is None else sd
    left = [pair.log_ratio for pair in usable(PairedCell("", "", pairs=tuple(pairs)), pairs)]
    found, at = list[Outcome](), 0
    while True:
        seen = np.full((1, kind.looks[-1]), np.nan)
        fresh = np.full((1, len(kind.looks), kind.confirm), np.nan)
        while True:
            said = decide(seen, fresh, kind, sd, n_cells)
            outcome, look = Outcome(int(said.outcome[0])), int(said.look[0])
            if outcome is Outcome.NEEDS_PAIRS:
                have = int(np.isfinite(seen).sum())
                row, count = seen[0, have:], kind.looks[look] - have
            elif outcome is Outcome.NEEDS_FRESH:
                row, count = fresh[0, look], kind.confirm
            else:
                found.append(outcome)
                break
            if at + count > len(left):
                return found
            row[:count] = left[at : at + count]
            at += count


def tallied(pool: Pool, n_cells: int = SUITE, calibrate_on: int = 0) -> list[Tally]:
    """The verdicts by kind and planted share.

    Args:
        calibrate_on: so many first pairs of each cell calibrate it, as ``check --calibrate`` does, and are not judged.
            A cell with planted work has the calibration of the cell without.

    Raises:
        BadInput: an unknown kind, or too few pairs to calibrate on.
    """
    groups: dict[tuple[str, float], list[tuple[Sequence[TimedPair], float]]] = {}
    for (kind, name), pairs in pool.items():
        if kind not in KINDS:
            raise BadInput(f"{name}: unknown kind of cell '{kind}': known are {', '.join(KINDS)}.")
        sd = KINDS[kind].sd
        if calibrate_on:
            sd = _calibrated_sd(pool, kind, name, calibrate_on)
        groups.setdefault((kind, share_of(name)), []).append((pairs[calibrate_on:], sd))
    return [_tally(kind, share, cells, n_cells) for (kind, share), cells in sorted(groups.items())]


def _calibrated_sd(pool: Pool, kind: str, name: str, pairs: int) -> float:
    plain = name.rpartition(", planted ")[0] or name
    first = pool.get((kind, plain), ())[:pairs]
    if len(first) < max(pairs, LEAST_PAIRS):
        raise BadInput(f"{plain} has {len(first)} pairs without planted work: {max(pairs, LEAST_PAIRS)} calibrate it.")
    return max(robust_sd(np.array([pair.log_ratio for pair in first])), LEAST_SD)


def _tally(kind: str, share: float, cells: Sequence[tuple[Sequence[TimedPair], float]], n_cells: int) -> Tally:
    judged = KINDS[kind]
    least = min(SEEN, judged.margin)
    counted = [(pairs, sd) for pairs, sd in cells if least_visible(judged, sd, n_cells) <= least or sd == judged.sd]
    every = [one for pairs, sd in counted for one in verdicts(pairs, judged, n_cells, sd)]
    ratios = [np.array([pair.log_ratio for pair in pairs]) for pairs, _ in counted]
    pooled_ratios = np.concatenate([*ratios, np.array([])])
    return Tally(
        kind,
        share,
        {outcome: every.count(outcome) for outcome in (Outcome.SLOWER, Outcome.PASS, Outcome.FASTER, Outcome.OPEN)},
        len(counted),
        len(pooled_ratios),
        float(np.expm1(np.median(pooled_ratios))) if len(pooled_ratios) else 0.0,
        float(np.median([robust_sd(one) for one in ratios])) if ratios else 0.0,
        len(cells) - len(counted),
    )


def table(found: Sequence[Tally]) -> str:
    """The tallies in Markdown."""
    heading = ("kind", "planted", "cells (advisory), pairs", "effect", "sd of a pair", "verdicts")
    outcomes = ("regression", "pass", "improvement", "inconclusive")
    lines = [_line((*heading, *outcomes)), "|---" * len((*heading, *outcomes)) + "|"]
    for one in found:
        planted = f"{one.share:.0%}" if one.share else "none"
        cells = f"{one.cells} ({one.advisory}), {one.pairs}"
        figures = (f"{one.effect:+.2%}", f"{one.sd:.2%}", str(one.verdicts))
        lines.append(_line((KINDS[one.kind].title, planted, cells, *figures, *map(str, one.counts.values()))))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
