"""row: what one comparison yielded, its stored form, and all of them as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hybridbench.plain import to_plain
from hybridbench.record import GpuState, Status
from hybridbench.stats import median, median_interval
from hybridbench.units import format_params, format_tokens

HEADER = ("family", "scale", "ctx", "batch", "ours ms", "theirs ms", "theirs", "ratio", "95%", "parameters", "logits")


@dataclass(frozen=True)
class Centre:
    """A median and its 95% interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Centre:
        """That of some values."""
        return cls(median(values), *median_interval(values))


@dataclass(frozen=True)
class PublicRow:
    """A step of ours beside one way in which a public library runs it.

    Attributes:
        workload, arch, scale, context, batch: what both do.
        device, dtype, mode: how ours is run.
        library, library_version: whose step it is compared with.
        way: how the library runs it, in words.
        status, reason, traceback: how it ended. Nothing was timed unless it is ok.
        parameters, their_parameters: of both models.
        weights: ``ours`` where their model has our weights; else None.
        logits_error, logits_bound: how far logits of a prompt are apart, relative to ours, and how far they may be;
            None where they were not compared.
        kernels: what runs our step, by operation.
        ours_ns, theirs_ns: samples of both sides, block by block in the order of their rounds; ns.
        notes: what else a reader must know of this way.
        before, after: the GPU before and after the samples; None without NVML.
    """

    workload: str
    arch: str
    scale: str
    context: int
    batch: int
    device: str
    dtype: str
    mode: str
    library: str
    library_version: str | None
    way: str
    status: Status = Status.OK
    reason: str | None = None
    traceback: str | None = None
    parameters: int | None = None
    their_parameters: int | None = None
    weights: str | None = None
    logits_error: float | None = None
    logits_bound: float | None = None
    kernels: dict[str, str] = field(default_factory=dict)
    ours_ns: list[list[int]] = field(default_factory=list)
    theirs_ns: list[list[int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    before: GpuState | None = None
    after: GpuState | None = None

    @property
    def cell(self) -> tuple[str, str, str, int, int]:
        """What is done, whoever does it."""
        return self.workload, self.arch, self.scale, self.context, self.batch

    @property
    def timed(self) -> bool:
        """Whether there are samples of both sides."""
        return bool(self.ours_ns and self.theirs_ns)

    @property
    def ours_ms(self) -> Centre:
        """Our step; ms."""
        return _ms(self.ours_ns)

    @property
    def theirs_ms(self) -> Centre:
        """Their step; ms."""
        return _ms(self.theirs_ns)

    @property
    def ratio(self) -> Centre:
        """Their time over ours, from the medians of both blocks of each round: above 1 ours is faster."""
        return Centre.of([median(b) / median(a) for a, b in zip(self.ours_ns, self.theirs_ns, strict=True)])

    def failed(self, status: Status, reason: str, traceback: str | None) -> PublicRow:
        """The same without samples."""
        return replace(self, status=status, reason=reason, traceback=traceback, ours_ns=[], theirs_ns=[])

    def line(self) -> dict[str, Any]:
        """Plain JSON values: all fields, whether logits were compared, and what follows from the samples."""
        derived: dict[str, Any] = {}
        if self.timed:
            derived = {name: to_plain(getattr(self, name)) for name in ("ours_ms", "theirs_ms", "ratio")}
        fields: dict[str, Any] = to_plain(self)
        return {"kind": "row", "logits_checked": self.logits_error is not None, **derived, **fields}


def _ms(blocks_ns: Sequence[Sequence[int]]) -> Centre:
    return Centre.of([sample_ns / 1e6 for block in blocks_ns for sample_ns in block])


def fastest(rows: Sequence[PublicRow]) -> set[int]:
    """Places of the rows with the fastest of their ways in each cell."""
    best: dict[tuple[str, str, str, int, int], int] = {}
    for place, row in enumerate(rows):
        if row.timed:
            known = best.get(row.cell)
            if known is None or row.theirs_ms.median < rows[known].theirs_ms.median:
                best[row.cell] = place
    return set(best.values())


def table(rows: Sequence[PublicRow]) -> str:
    """All rows as one Markdown table, with an asterisk at their fastest way, and a line for each that was not timed."""
    stars = fastest(rows)
    lines = [_cells(row, "*" if place in stars else "") for place, row in enumerate(rows)]
    widths = [max(map(len, column)) for column in zip(HEADER, *lines, strict=True)]
    shown = [_line(HEADER, widths), _line(["-" * width for width in widths], widths)]
    shown += [_line(line, widths) for line in lines]
    if stars:
        shown += ["", "ratio: their time over ours, so above 1 ours is faster. *: the fastest of their ways."]
    for row in rows:
        what = f"{row.arch} {row.scale} {format_tokens(row.context)} b{row.batch}, {row.library}, {row.way}"
        shown += [f"{what}: {row.status}: {row.reason}"] * (row.reason is not None)
        shown += [f"{what}: {note}" for note in row.notes]
    return "\n".join(shown) + "\n"


def _cells(row: PublicRow, star: str) -> list[str]:
    if row.timed:
        ratio = row.ratio
        times = [f"{row.ours_ms.median:.4g}", f"{row.theirs_ms.median:.4g}"]
        ratios = [f"{ratio.median:.3f}{star}", f"{ratio.low:.3f} to {ratio.high:.3f}"]
    else:
        times, ratios = ["-", "-"], [str(row.status), "-"]
    counts = (row.parameters, row.their_parameters)
    parameters = " / ".join("-" if count is None else format_params(count) for count in counts)
    logits = "not compared" if row.logits_error is None else f"{row.logits_error:.1e}"
    what = [row.arch, row.scale, format_tokens(row.context), str(row.batch)]
    return [*what, *times, f"{row.library}: {row.way}", *ratios, parameters, logits]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
