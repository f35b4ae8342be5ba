"""Committed records, held out one at a time, are predicted as well as docs/predicting.md says."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from hybridbench.arch.model import params
from hybridbench.derive.floors import datasheet_floor_s
from hybridbench.efficiency import MeasuredSteps
from hybridbench.metrics import value
from hybridbench.record import Record
from hybridbench.store import load
from hybridbench.suite.workloads import DECODE, PREFILL, TRAIN

ROOT = Path(__file__).parents[2]
FOLDERS = ("batch-readings", "efficiency", "long")
DIMENSIONS = ("scale", "batch", "context")


@dataclass(frozen=True)
class Held:
    """A record, the dimensions in which others lie on both sides, and the predicted step over the measured, less 1."""

    record: Record
    inside: tuple[str, ...]
    error: float


def sizes(record: Record) -> dict[str, int]:
    work = record.case.workload
    return {"scale": params(record.case.model), "batch": work.batch, "context": work.context}


def inside(record: Record, others: Iterable[Record]) -> tuple[str, ...]:
    """The dimensions in which others lie on both sides, all else equal."""
    case, here, found = record.case, sizes(record), []
    alike = [
        sizes(one)
        for one in others
        if (one.case.workload.kind, one.case.model.arch) == (case.workload.kind, case.model.arch)
    ]
    for name in DIMENSIONS:
        line = [one[name] for one in alike if all(one[rest] == here[rest] for rest in DIMENSIONS if rest != name)]
        if line and min(line) < here[name] < max(line):
            found.append(name)
    return tuple(found)


@cache
def held_out() -> tuple[Held, ...]:
    """Every valid record that the others of its folder predict, without those of the same model and workload."""
    found = []
    for folder in FOLDERS:
        stored = load([ROOT / "results" / "nvidia-h200" / folder], print)
        records = [record for record in stored if value(record, "step_s") is not None]
        for record in records:
            case, floor_s, step_s = record.case, datasheet_floor_s(record), value(record, "step_s")
            assert floor_s is not None
            assert step_s is not None
            others = [one for one in records if (one.case.model, one.case.workload) != (case.model, case.workload)]
            share = MeasuredSteps(others).efficiency_of(case.model, case.workload, case.execution.dtypes)
            if share is not None:
                found.append(Held(record, inside(record, others), floor_s / share.floor_frac / step_s - 1))
    return tuple(found)


def errors(kinds: Sequence[str], where: str) -> list[float]:
    """Errors of records with others on both sides in a dimension; of those at 1b with any such; of those with none."""
    of_kind = [held for held in held_out() if held.record.case.workload.kind in kinds]
    chosen = {
        "1b": [held for held in of_kind if held.inside and held.record.case.model.scale == "1b"],
        "end": [held for held in of_kind if not held.inside],
        **{name: [held for held in of_kind if name in held.inside] for name in DIMENSIONS},
    }
    return [abs(held.error) for held in chosen[where]]


@pytest.mark.parametrize("arch", ["transformer", "swa", "mamba", "inter", "intra"])
def test_decode_at_1b_is_predicted_within_10_percent(arch: str) -> None:
    of_arch = [
        held
        for held in held_out()
        if held.inside
        and held.record.case.workload.kind == DECODE
        and (held.record.case.model.arch, held.record.case.model.scale) == (arch, "1b")
    ]
    assert len(of_arch) >= 14
    wrong = {f"{held.record.case.label}: {held.error:+.1%}" for held in of_arch if abs(held.error) > 0.1}
    assert wrong == set()


ROWS = {
    "decode, batch": ((DECODE,), "batch"),
    "decode, context": ((DECODE,), "context"),
    "decode, scale": ((DECODE,), "scale"),
    "decode at 1b, any": ((DECODE,), "1b"),
    "prefill, context": ((PREFILL,), "context"),
    "prefill, scale": ((PREFILL,), "scale"),
    "decode, at an end": ((DECODE,), "end"),
    "prefill and train, at an end": ((PREFILL, TRAIN), "end"),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_page_says_how_far_off_predictions_are(name: str) -> None:
    found = errors(*ROWS[name])
    figures = len(found), f"{statistics.median(found):.1%}", f"{max(found):.1%}", sum(error > 0.1 for error in found)
    row = f"| {name} | {' | '.join(map(str, figures))} |"
    assert row in (ROOT / "docs" / "predicting.md").read_text(encoding="utf-8"), row
