"""noise: how much the figure of a cell differs between processes that run the same code, by class of cell.

The figures are standard deviations of a process's median. Those of a GPU were measured with CUDA events on H200s that
nothing else used, in fresh processes: six or more of each kind one after the other on one card, and of graphed decode
steps on three cards of one host, since a record does not say which card of a host it is of. A figure that was
calibrated on the record's machine for the record's cell takes their place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hybridbench.compare.calibrated import NONE, Calibrations, MeasuredNoise
from hybridbench.compare.cell import Noise
from hybridbench.kernel_suite.record import KernelRecord
from hybridbench.record import Caveat, Record, clock_dropped
from hybridbench.stats import log_spread
from hybridbench.suite.case import GRAPH
from hybridbench.suite.workloads import DECODE, PREFILL, TRAIN
from hybridbench.units import format_number


@dataclass(frozen=True)
class NoiseClass:
    """Cells that are alike in what disturbs them.

    Args:
        cells: which, in words.
        frac: standard deviation of the median between fresh processes, as a fraction.
        source: what that was seen on.
    """

    cells: str
    frac: float
    source: str

    @property
    def sentence(self) -> str:
        """The class in one line."""
        return f"{self.cells} {format_number(100 * self.frac, 2)}% ({self.source})"


GRAPHED = NoiseClass(
    "graphed decode steps of at most 8 sequences",
    0.0014,
    "suites/batch.toml on three cards, 35 cells; 0.06% between processes on one card",
)
GRAPHED_MANY = NoiseClass(
    "graphed decode steps of more sequences",
    0.0027,
    "suites/batch.toml on three cards, 10 cells of 16; 44 cells of 64 and more 0.20%",
)
GRAPHED_32 = NoiseClass(
    "graphed decode steps of 17 to 32 sequences",
    0.012,
    "suites/batch.toml on three cards, 10 cells of 32: from 4.1% faster to 2.3% slower, cause unknown",
)
TRAINING = NoiseClass("training steps on a GPU", 0.01, "assumed of a GPU at its power limit, not measured")
SEQUENCES = NoiseClass(
    "prefills, and generations, which begin with one", 0.016, "causal attention, 4 x 8k, at the power limit"
)
CLOCKS_MOVED = NoiseClass(
    "steps whose clock dropped by 5% while they were sampled",
    0.059,
    "a product, 32768 x 2048 x 16384, at the power limit",
)
LAUNCHED = NoiseClass(
    "decoding without a graph on a GPU",
    0.42,
    "steps that wait for the host: the same generation differed by up to 1.8 times, and log 1.8 / sqrt 2 is 42%",
)
ON_CPU = NoiseClass(
    "steps on a CPU",
    0.03,
    "or the spread of their samples where that is more, and by how much fixed work beside them differs",
)
KERNELS = NoiseClass("kernels by themselves on a GPU", 0.027, "the SSD scan, 4 x 8k, tuned in each process")
PRODUCTS = NoiseClass("products by themselves on a GPU", 0.059, CLOCKS_MOVED.source)
RESTED = NoiseClass(
    "kernels of 50 us or more, timed with rests on a GPU",
    0.0062,
    "the loss with its backward, 81 ms a call, in eight processes; the other six such cells differed by 0.02 to 0.54%",
)
LAUNCHES = NoiseClass(
    "kernels of less than 50 us, launched one by one",
    1.0,
    "the norm of 4 rows, 12 us, whose medians went from 5 to 98 us",
)
CLASSES = (
    GRAPHED,
    GRAPHED_MANY,
    GRAPHED_32,
    TRAINING,
    SEQUENCES,
    CLOCKS_MOVED,
    LAUNCHED,
    ON_CPU,
    KERNELS,
    PRODUCTS,
    RESTED,
    LAUNCHES,
)


_GRAPHED_BY_BATCH = ((8, GRAPHED), (16, GRAPHED_MANY), (32, GRAPHED_32), (math.inf, GRAPHED_MANY))


def clocks_moved(record: Record | KernelRecord) -> bool:
    """Whether the SM clock dropped while a cell was sampled, by a limit of power or for another reason."""
    seen = record.observed
    dropped = seen is not None and clock_dropped(seen.gpu_before, seen.gpu_after)
    return Caveat.CLOCK_DROPPED in record.caveats or dropped


def noise_between(record: Record, known: Calibrations = NONE) -> Noise:
    """What the samples of a record's own process cannot show about its figure: calibrated where it is, else by class.

    On a CPU others use the same cores for seconds or minutes, so that what spreads the samples of a process moves whole
    processes too. On a GPU this holds for samples that never became steady only.
    """
    frac, source = between(known.of_step(record), class_of(record))
    spread = spread_frac(record)
    drift = spread if Caveat.UNSTEADY in record.caveats else 0.0
    return Noise(max(frac, spread) if record.environment.device_kind == "cpu" else frac, drift, source)


def between(measured: MeasuredNoise | None, assumed: NoiseClass) -> tuple[float, str]:
    """The standard deviation between processes and where it comes from: what was calibrated, else that of the class."""
    return (assumed.frac, assumed.sentence) if measured is None else (measured.frac, measured.source)


def class_of(record: Record) -> NoiseClass:
    """The class of cells that a record belongs to."""
    if record.environment.device_kind == "cpu":
        return ON_CPU
    if clocks_moved(record):
        return CLOCKS_MOVED
    kind = record.case.workload.kind
    if kind == TRAIN:
        return TRAINING
    if kind == PREFILL:
        return SEQUENCES
    if record.case.execution.mode != GRAPH:
        return LAUNCHED
    if kind != DECODE:
        return SEQUENCES  # a generation begins with a prefill
    return next(noise for most, noise in _GRAPHED_BY_BATCH if record.case.workload.batch <= most)


def spread_frac(record: Record) -> float:
    """The spread of a record's samples; of a generation that was timed in parts, each part beside its own median."""
    seen = record.observed
    return log_spread([seen.samples_ns, *(part.samples_ns for part in seen.parts)]) if seen else 0.0
