"""Records of kernels are cells like those of steps: paired by operation, problem and direction, apart by backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from hybridbench.compare.calibrated import Calibrations
from hybridbench.compare.cell import ASKED
from hybridbench.compare.interval import ratio_of
from hybridbench.compare.judging import Comparison, Verdict, compare
from hybridbench.compare.kernels import kernel_cells, noise_of
from hybridbench.compare.noise import CLOCKS_MOVED, KERNELS, LAUNCHES, PRODUCTS, RESTED
from hybridbench.compare.sides import ComparedSide, crossed_fields, load_sides
from hybridbench.errors import NotComparable
from hybridbench.gate.calibration import Calibrated, Calibration, machine_of, write_calibration
from hybridbench.gate.cells import of_kernel
from hybridbench.kernel_suite.cell import Budget, Cell
from hybridbench.kernel_suite.record import Agreement, KernelObserved, KernelRecord
from hybridbench.problem import Problem
from hybridbench.record import Caveat, Record, Status
from hybridbench.store import RecordWriter

PROBLEM = Problem("cuda", "bfloat16", batch=4, length=8192, width=8192)
SAMPLES = [400_000 + 100 * (place % 7) for place in range(60)]


@pytest.fixture(name="made")
def _made(decodes: list[Record]) -> Callable[..., KernelRecord]:
    """A record of a kernel on the machine of the stored steps; ``cell`` and ``seen`` change parts of it."""

    def make(
        scale: float = 1.0,
        run: str = "one",
        cell: dict[str, Any] | None = None,
        seen: dict[str, Any] | None = None,
        **more: Any,
    ) -> KernelRecord:
        case = Cell(**{"op": "swiglu", "backend": "triton", "problem": PROBLEM, **(cell or {})})
        samples = [round(sample * scale) for sample in SAMPLES]
        agreement = Agreement("reference", 1, "out", 1e-3, 1e-2)
        observed = KernelObserved(
            samples, [20, 20, 20], 1, True, True, 10**8, "cuda events", case.backend, "ours", None, agreement, 10**8
        )
        record = KernelRecord(
            case, Status.OK, run, "2026-12-01T00:00:00+00:00", decodes[0].environment, replace(observed, **(seen or {}))
        )
        return replace(record, **more)

    return make


def compared(*sides: Sequence[KernelRecord], across: Sequence[str] = (), metric: str = "step") -> Comparison:
    made = [
        ComparedSide(letter, letter, tuple(kernel_cells(side, ASKED[metric])))
        for letter, side in zip("AB", sides, strict=True)
    ]
    return compare(made, ASKED[metric], across, crossed_fields(across))


def test_a_planted_change_is_found(made: Callable[..., KernelRecord]) -> None:
    (row,) = compared([made()], [made(1.2, "two")]).rows
    assert row.verdict is Verdict.WORSE
    assert row.ratio is not None
    assert row.ratio.value == pytest.approx(1.2, rel=1e-4)
    (row,) = compared([made()], [made(1.02, "two")]).rows
    assert row.verdict is Verdict.NOISE
    (row,) = compared([made()], [made(1.02)]).rows  # of one run
    assert row.verdict is Verdict.WORSE


def test_backends_of_one_run_are_compared_across(made: Callable[..., KernelRecord]) -> None:
    other = made(1.5, cell={"backend": "reference"})
    with pytest.raises(NotComparable, match=r"backends triton / reference.*--across backend"):
        compared([made()], [other])
    (row,) = compared([made()], [other], across=["backend"]).rows
    assert row.verdict is Verdict.WORSE
    assert not row.pair.separate


@pytest.mark.parametrize(
    ("field", "change"),
    [("dtype", {"problem": replace(PROBLEM, dtype="float16")}), ("cache", {"sampling": Budget(cold=False)})],
)
def test_other_conditions_are_refused(made: Callable[..., KernelRecord], field: str, change: dict[str, Any]) -> None:
    with pytest.raises(NotComparable, match=rf"{field} "):
        compared([made()], [made(cell=change)])


def test_other_problems_and_directions_are_other_cells(made: Callable[..., KernelRecord]) -> None:
    longer = made(cell={"problem": replace(PROBLEM, length=4096)})
    backward = made(cell={"direction": "backward"})
    found = compared([made(), longer], [made(), backward])
    assert sorted(row.verdict for row in found.rows) == sorted([Verdict.NOISE, Verdict.GONE, Verdict.NEW])


def test_failures_are_rows(made: Callable[..., KernelRecord]) -> None:
    wrong = made(status=Status.WRONG, observed=None, message="out is off by 3")
    (row,) = compared([made()], [wrong]).rows
    assert (row.verdict, row.reasons) == (Verdict.BROKE, ("wrong in B: out is off by 3",))


def test_noise_is_by_class_and_at_least_what_allocations_differ_by(made: Callable[..., KernelRecord]) -> None:
    assert noise_of(made()).between_frac == KERNELS.frac
    assert noise_of(made(cell={"op": "product"})).between_frac == PRODUCTS.frac
    assert noise_of(made(cell={"op": "product"}, seen={"rested": True})).between_frac == RESTED.frac
    assert noise_of(made(caveats=[Caveat.CLOCK_DROPPED])).between_frac == CLOCKS_MOVED.frac
    assert noise_of(made(caveats=[Caveat.CLOCK_DROPPED], seen={"rested": True})).between_frac == RESTED.frac
    assert noise_of(made(0.03, seen={"rested": True})).between_frac == KERNELS.frac, "short calls scatter by more"
    assert noise_of(made(0.03, seen={"graph": False})).between_frac == LAUNCHES.frac
    apart = made(seen={"samples_ns": [400_000] * 20 + [500_000] * 20 + [600_000] * 20})
    assert 0.1 < noise_of(apart).between_frac < 0.2
    cells = kernel_cells([apart, made(run="two")], ASKED["step"])
    ratio = ratio_of(*cells)
    assert ratio is not None
    assert ratio.low is not None
    assert ratio.low < 0.7


def test_peaks_of_memory_stand_beside_time_and_are_compared_as_counts(made: Callable[..., KernelRecord]) -> None:
    small, large = made(seen={"peak_allocated_bytes": 2_000}), made(run="two", seen={"peak_allocated_bytes": 3_000})
    (row,) = compared([small], [large]).rows
    assert row.pair.base is not None
    assert row.pair.other is not None
    assert (row.pair.base.memory_bytes, row.pair.other.memory_bytes) == (2_000, 3_000)
    (row,) = compared([small], [large], metric="peak-memory").rows
    assert row.verdict is Verdict.WORSE
    assert row.ratio is not None
    assert (row.ratio.value, row.ratio.low, row.ratio.high) == (1.5, 1.5, 1.5)
    (row,) = compared([small], [made(run="two")], metric="peak-memory").rows
    assert row.verdict is Verdict.UNKNOWN, "a CPU has no such peak"


def test_a_side_of_several_processes_brings_its_own_noise(made: Callable[..., KernelRecord]) -> None:
    scales = (1.0, 1.001, 0.999)
    side = [made(scale, f"run{place}") for place, scale in enumerate(scales)]
    cells = kernel_cells(side, ASKED["step"])
    assert [cell.noise.between_frac for cell in cells] == [pytest.approx(stdev(map(math.log, scales)), rel=0.02)] * 3
    assert {cell.noise.source for cell in cells} == {"between 3 processes of the same side"}
    assert kernel_cells(side[:2], ASKED["step"])[0].noise.between_frac == KERNELS.frac
    slower = [made(scale * 1.01, f"next{place}") for place, scale in enumerate(scales)]
    (row,) = compared(side, slower).rows
    assert row.verdict is Verdict.WORSE, "1% stands out of 0.1%"


@pytest.mark.parametrize("named", [True, False])
def test_what_was_calibrated_on_the_machine_takes_the_place_of_the_class(
    made: Callable[..., KernelRecord], tmp_path: Path, named: bool
) -> None:
    record = made()
    cell = record.case if named else replace(record.case, backend="auto")
    one = Calibrated("kernel", 0.004, 12, 0.01, 0.0, backend=None if named else "triton")
    path = tmp_path / "calibration.json"
    write_calibration(Calibration(machine_of(record.environment), {of_kernel(cell).name: one}), path)
    known = Calibrations.read([path])
    found = noise_of(record, known)
    assert found.between_frac == pytest.approx(0.004 / 2**0.5), "a pair has the noise of two processes"
    assert found.source.startswith("calibrated on this machine, 12 pairs")
    (base, other) = kernel_cells([record, made(1.02, "two")], ASKED["step"], known)
    ratio = ratio_of(base, other)
    assert ratio is not None
    assert ratio.low is not None
    assert ratio.low > 1, "2% stands out of 0.3%, and not out of the class's 2.7%"
    for elsewhere in (
        replace(record, environment=replace(record.environment, driver="1.2")),
        replace(record, case=replace(record.case, backend="liger")),
        replace(record, case=replace(record.case, sampling=Budget(cold=False))),
    ):
        assert noise_of(elsewhere, known).between_frac == KERNELS.frac


def test_a_folder_of_both_kinds_has_both_kinds_of_cells(
    made: Callable[..., KernelRecord], decodes: list[Record], tmp_path: Path
) -> None:
    for side, scale in (("a", 1.0), ("b", 2.0)):
        with RecordWriter(tmp_path / side, side) as steps, RecordWriter(tmp_path / side, side, KernelRecord) as kernels:
            steps.append(replace(decodes[0], run_id=side))
            kernels.append(made(scale, run=side))
    sides = load_sides([tmp_path / "a", tmp_path / "b"], (), ASKED["step"], pytest.fail)
    found = compare(sides, ASKED["step"], (), frozenset())
    assert [(row.verdict, row.pair.shown.what.get("op")) for row in found.rows] == [
        (Verdict.WORSE, "swiglu"),
        (Verdict.NOISE, None),
    ]
