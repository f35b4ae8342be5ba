"""Stored records of an H200, of which tests make other runs: scaled, failed, of other conditions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridbench.compare.cell import ASKED, ComparedMetric
from hybridbench.compare.judging import Comparison, compare
from hybridbench.compare.sides import ComparedSide, crossed_fields
from hybridbench.compare.steps import step_cells
from hybridbench.record import Record
from hybridbench.store import RecordWriter, load

RESULTS = Path(__file__).parents[2] / "results" / "nvidia-h200"


@functools.cache
def _stored() -> tuple[Record, ...]:
    return tuple(load([RESULTS / "efficiency"], pytest.fail))


@pytest.fixture(name="stored")
def _stored_records() -> list[Record]:
    """55 records of one run: training, prefill and decode of five models."""
    return list(_stored())


@pytest.fixture(name="decodes")
def _decodes(stored: list[Record]) -> list[Record]:
    """30 graphed decode steps of that run."""
    return [record for record in stored if record.case.workload.kind == "decode"]


def rerun(record: Record, scale: float = 1.0, run: str = "later", **changes: Any) -> Record:
    """The same record as another run would have it, its samples scaled."""
    seen = record.observed
    assert seen is not None
    samples = [round(sample * scale) for sample in seen.samples_ns]
    later = replace(
        record, run_id=run, started_at="2026-12-01T00:00:00+00:00", observed=replace(seen, samples_ns=samples)
    )
    return replace(later, **changes)


@pytest.fixture(name="again")
def _again() -> Callable[..., Record]:
    return rerun


def compared(
    *sides: Sequence[Record], metric: str = "step", across: Sequence[str] = (), limit: float | None = None
) -> Comparison:
    """Records compared as the command does, one side per list."""
    asked: ComparedMetric = ASKED[metric]
    cells = iter(step_cells([record for side in sides for record in side], asked))
    made = [
        ComparedSide(letter, f"side {letter}", tuple(next(cells) for _ in side))
        for letter, side in zip("ABCDE", sides, strict=False)
    ]
    return compare(made, asked, across, crossed_fields(across), limit)


@pytest.fixture(name="compared")
def _compared() -> Callable[..., Comparison]:
    return compared


@pytest.fixture(name="written")
def _written(tmp_path: Path) -> Callable[[str, Iterable[Record]], Path]:
    """Writes records into a folder of their own below ``tmp_path``."""

    def write(name: str, records: Iterable[Record]) -> Path:
        by_run: dict[str, list[Record]] = {}
        for record in records:
            by_run.setdefault(record.run_id, []).append(record)
        for run, some in by_run.items():
            with RecordWriter(tmp_path / name, run) as writer:
                for record in some:
                    writer.append(record)
        return tmp_path / name

    return write
