"""simulation: how often the judge alarms, catches and stays undecided on synthetic pairs, by ``python -m``.

A pair's log ratio has normal noise of the standard deviation s that the row states. On top come:

- a random walk over the processes, 0.2 s a process, and a linear drift over the whole cell, up to 2 s in all;
- restarts that are slower by 3 to 20%: 2% of processes, on a CPU 5%;
- in a cell of five, autotuning that takes one of two modes, 2% apart. Modes are recorded, so that both processes of a
  pair have the same; in the row that says so they are not.

Sides take turns: A B, B A, and so on.

    python -m hybridbench.gate.simulation --cells 100000
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hybridbench.gate.kinds import KINDS, CellKind
from hybridbench.gate.sequential import Array, Flags, Outcome, decide

SUITE = 15
"""Cells of a suite, over which the bounds are split."""
CHUNK = 20_000
WALK = 0.2
DRIFT = 2.0
OUTLIER = (0.03, 0.20)
BIMODAL_CELLS = 0.2
MODES_APART = 0.02
SECOND_MODE = 0.3
"""Share of processes that take the slower mode."""


@dataclass(frozen=True)
class SimulatedKind:
    """One row of the table.

    Args:
        title: what is simulated.
        kind: how it is judged; its ``sd`` is the true and the calibrated one.
        planted: true slowdowns of the change; fractions.
        outliers: share of processes that are slower for no reason of the code.
        pinned: whether both processes of a pair have the same tuning.
    """

    title: str
    kind: CellKind
    planted: tuple[float, ...]
    outliers: float = 0.02
    pinned: bool = True


ROWS = (
    SimulatedKind("graphed step", KINDS["step"], (0.01,)),
    SimulatedKind("kernel", KINDS["kernel"], (0.01, 0.02)),
    SimulatedKind("kernel, margin 1%", replace(KINDS["kernel"], margin=0.01), (0.01, 0.02)),
    SimulatedKind("kernel, tuning not recorded", KINDS["kernel"], (0.02,), pinned=False),
    SimulatedKind("training step", KINDS["training"], (0.03,)),
    SimulatedKind("CPU", KINDS["cpu"], (0.10,), outliers=0.05),
    SimulatedKind(
        "CPU, noisier, 8 and 16 pairs",
        replace(KINDS["cpu"], sd=0.03, looks=(8, 16), confirm=8),
        (0.10,),
        outliers=0.05,
    ),
)


@dataclass(frozen=True)
class Rates:
    """Shares of simulated cells.

    Args:
        alarms: of unchanged cells that are judged slower.
        inconclusive: of unchanged cells that stay undecided.
        caught: of slower cells that are judged slower, by planted slowdown.
        missed: of slower cells that are judged to pass, by planted slowdown.
    """

    alarms: float
    inconclusive: float
    caught: dict[float, float]
    missed: dict[float, float]

    @property
    def suite_alarms(self) -> float:
        """Probability that a suite of ``SUITE`` unchanged cells has an alarm."""
        return float(1 - (1 - self.alarms) ** SUITE)


def simulate(row: SimulatedKind, cells: int, seed: int = 0) -> Rates:
    """The rates of a row, from so many cells unchanged and as many with each planted slowdown."""
    draw = np.random.default_rng(seed)
    unchanged = _outcomes(draw, row, 0.0, cells)
    slower = {size: _outcomes(draw, row, size, cells) for size in row.planted}
    return Rates(
        float((unchanged == Outcome.SLOWER).mean()),
        float((unchanged == Outcome.OPEN).mean()),
        {size: float((found == Outcome.SLOWER).mean()) for size, found in slower.items()},
        {size: float(np.isin(found, (Outcome.PASS, Outcome.FASTER)).mean()) for size, found in slower.items()},
    )


def _outcomes(draw: np.random.Generator, row: SimulatedKind, planted: float, cells: int) -> Array:
    found = []
    for start in range(0, cells, CHUNK):
        pairs, fresh = log_ratios(draw, row, planted, min(CHUNK, cells - start))
        found.append(decide(pairs, fresh, row.kind, row.kind.sd, SUITE).outcome)
    return np.concatenate(found).astype(np.float64)


def log_ratios(draw: np.random.Generator, row: SimulatedKind, planted: float, cells: int) -> tuple[Array, Array]:
    """Pairs (cells, last look) and confirming pairs (cells, looks, confirm) of cells, measured one after the other."""
    kind = row.kind
    last, looks = kind.looks[-1], len(kind.looks)
    n = last + looks * kind.confirm
    times = draw.normal(0, kind.sd / np.sqrt(2), (cells, n, 2))
    walk = draw.normal(0, WALK * kind.sd, (cells, n * 2)).cumsum(axis=1).reshape(cells, n, 2)
    slope = draw.uniform(-DRIFT, DRIFT, (cells, 1)) * kind.sd
    times += walk + (slope * np.linspace(0, 1, 2 * n)).reshape(cells, n, 2)
    times += (draw.random(times.shape) < row.outliers) * draw.uniform(*OUTLIER, times.shape)
    bimodal = draw.random((cells, 1, 1)) < BIMODAL_CELLS
    mode: Flags = draw.random((cells, n, 1 if row.pinned else 2)) < SECOND_MODE
    times += bimodal * mode * MODES_APART
    first, second = times[..., 0], times[..., 1]
    turned = np.arange(n) % 2 == 1  # B A
    ratios = np.where(turned, first - second, second - first) + np.log1p(planted)
    return ratios[:, :last], ratios[:, last:].reshape(cells, looks, kind.confirm)


def main(words: Sequence[str] | None = None) -> int:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description="Rates of the judge on synthetic pairs.")
    parser.add_argument("--cells", type=int, default=100_000, help="cells per figure")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(words)
    if asked.cells < 1 or asked.seed < 0:
        parser.error("--cells must be 1 or more, and --seed 0 or more")
    lines = [
        f"| kind, margin, sd of a pair | pairs at the looks; to confirm | alarms a verdict (a suite of {SUITE}) | "
        "planted: caught, passed | unchanged: inconclusive |",
        "|---|---|---|---|---|",
    ]
    for row in ROWS:
        rates, kind = simulate(row, asked.cells, asked.seed), row.kind
        looks = ", ".join(str(n) for n in kind.looks)
        caught = "; ".join(f"{size:.0%}: {rates.caught[size]:.2%}, {rates.missed[size]:.2%}" for size in row.planted)
        lines.append(
            f"| {row.title}, {kind.margin:.2%}, {kind.sd:.2%} | {looks}; {kind.confirm} | {rates.alarms:.3%} "
            f"({rates.suite_alarms:.2%}) | {caught} | {rates.inconclusive:.2%} |"
        )
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
