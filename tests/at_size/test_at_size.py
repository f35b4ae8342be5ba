"""What is wrong at the size that is timed is never timed, though it passes verification; what is right says what it was
held to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hybridbench.arch.families import pattern_spec
from hybridbench.errors import DeviceFault, WrongResult
from hybridbench.kernels import kept, release
from hybridbench.model.build import resolve_backends
from hybridbench.record import Caveat, Status
from hybridbench.runner import run_sweep
from hybridbench.session import Proofs, Session, open_session
from hybridbench.store import RecordWriter
from hybridbench.suite.case import Case, Execution, Sampling
from hybridbench.suite.workloads import DECODE, GENERATE, PREFILL, TRAIN, Workload
from hybridbench.workload import decode
from hybridbench.workload.at_size.errors import (
    BLOCK_POSITIONS,
    SHORT,
    Errors,
    SizeComparison,
    judged,
    of_whole,
    over_positions,
)
from hybridbench.workload.at_size.gradients import MOST_ROWS, sampled
from hybridbench.workload.at_size.sequence import piece_count, pieces

HERE = Path(__file__).parent
LONG = 1200


@pytest.fixture(autouse=True)
def _importable_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def a_case(pattern: str, kind: str, context: int, batch: int, dtype: str = "float32", **backends: str) -> Case:
    named = {op: f"wrong_at_size:{name}" for op, name in backends.items()}
    prompt = context - 8 if kind == GENERATE else 0
    sampling = Sampling(warmup_max_s=0.0, warmup_min_steps=1, min_samples=1, max_samples=1, max_time_s=0.1)
    return Case(
        pattern_spec(pattern, "tiny"),
        Workload(kind, context, batch, prompt),
        Execution("cpu", dtype, "eager", backends=named),
        sampling,
    )


def _capture(
    step: Callable[[], object], *, put_back: Callable[[], object] = lambda: None, collect: bool = True
) -> Callable[[], object]:
    """What a capture does to a step's tensors, without a GPU: it runs three times before."""
    for _ in range(3):
        step()
        put_back()
    return step


@pytest.mark.parametrize("mode", ["graph", "published"])
@pytest.mark.parametrize("pattern", ["*-", "S-", "M-*-", "(*&M)-"])
@pytest.mark.sampled
def test_a_generation_is_captured_within_its_caches(pattern: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step of a generation fills the last slot: a warm-up that moved on would write behind it, into the next
    sequence, and leave other keys and values than those the sequence alone is decoded with.
    """
    monkeypatch.setattr(decode, "captured", _capture)
    if mode == "published":
        made = decode.PaperDecode
        monkeypatch.setattr(decode, "PaperDecode", lambda *given: made(*given[:-1], _capture))
    case = a_case(pattern, GENERATE, 40, 3)
    case = replace(case, execution=replace(case.execution, mode=mode))
    session = open_session(case, torch.device("cpu"), Proofs())
    assert {check.what for check in session.sized} == {"prefill", "a decode step"}
    session.work.step()


def test_a_proof_leaves_nothing_in_the_peak_of_the_first_case() -> None:
    """Masks of the small shapes that a kernel was verified on are not there when a case is timed."""
    release()
    proofs = Proofs()
    proofs.verify(resolve_backends(a_case("S-", PREFILL, 64, 2, attention="windowed")), torch.device("cpu"))
    assert proofs.checks
    assert not any(kept._all)


def opened(*given: Any, **named: Any) -> Session:
    return open_session(a_case(*given, **named), torch.device("cpu"), Proofs())


@pytest.mark.parametrize(
    ("kernel", "kind", "batch", "said"),
    [
        ("last_row", PREFILL, 3, r"output of \* \(layer 1, row 3\)"),
        ("end_of_last_row", PREFILL, 3, r"output of \* \(layer 1, row 3\)"),
        ("late", PREFILL, 1, r"output of \* \(layer 1, positions 601 to 1200 of row 1\)"),
        ("last_row", TRAIN, 3, r"output of \* \(layer 1, row 3\)"),
        ("late", TRAIN, 1, r"output of \* \(layer 1, row 1\)"),
        ("gradient", TRAIN, 3, r"gradient of .*(row 3|layer 1)"),
        ("last_row", GENERATE, 2, r"output of \* \(layer 1, row 2\)"),
    ],
)
@pytest.mark.sampled
def test_a_kernel_that_is_wrong_at_size_is_named_with_its_layer_and_row(
    kernel: str, kind: str, batch: int, said: str
) -> None:
    with pytest.raises(WrongResult, match=said) as caught:
        opened("*-", kind, LONG, batch, attention=kernel)
    assert f"attention=wrong_at_size:{kernel}" in str(caught.value)
    assert "It is not timed" in str(caught.value)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_decode_step_that_leaves_out_a_tenth_of_its_cache_is_wrong(batch: int) -> None:
    """Beside the residual stream what attention reads is small, and so is that error in the logits."""
    with pytest.raises(WrongResult, match="what attention reads"):
        opened("*-*-", DECODE, 2000, batch, attention_decode="attention_decode")


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("letter", "Mm3GKL7*S")
def test_every_mixers_decode_step_passes_its_check(letter: str, batch: int) -> None:
    (step,) = (check for check in opened(f"{letter}-", DECODE, 64, batch).sized if check.what == "a decode step")
    assert step.error < step.bound


def test_the_second_of_several_outputs_is_compared_too() -> None:
    with pytest.raises(WrongResult, match=r"output of rwkv7_keys \(rwkv7_keys 1, output 2\)"):
        opened("7-", DECODE, 64, 1, rwkv7_keys="rwkv7_keys")


def test_a_state_that_only_the_last_row_gets_wrong_is_wrong() -> None:
    with pytest.raises(WrongResult, match=r"state of M \(layer 1, row 3\)"):
        opened("M-", PREFILL, LONG, 3, ssd="ssd")
    with pytest.raises(WrongResult, match=r"in the state \(row 4, cache 1\)"):
        opened("M-", DECODE, 64, 4, ssd_step="ssd_step")


PATTERNS = ("*-", "S-", "M-", "m-", "3-", "G-", "K-", "(*&M)-", "M-E")


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    ("kind", "context", "batch"),
    [(TRAIN, 80, 2), (TRAIN, 80, 1), (PREFILL, 150, 3), (PREFILL, 150, 1), (DECODE, 99, 2)],
)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.sampled
def test_right_kernels_are_checked_in_every_workload(
    pattern: str, kind: str, context: int, batch: int, dtype: str
) -> None:
    session = opened(pattern, kind, context, batch, dtype=dtype)
    assert not session.unchecked
    assert session.check_ns > 0
    (check,) = session.sized
    assert (check.batch, check.context) == (batch, context)
    assert 0 <= check.error <= check.bound
    assert check.compared >= 3
    assert check.against == "each row alone" if batch > 1 else "each row" not in check.against


@pytest.mark.slow
def test_beyond_the_short_length_a_bound_follows_from_the_error_there() -> None:
    proofs = Proofs()
    case = a_case("M-*-", PREFILL, SHORT + 100, 2, dtype="bfloat16")
    (check,) = open_session(case, torch.device("cpu"), proofs).sized
    assert check.error_at_short is not None
    assert 4e-3 <= check.bound <= 1e-2
    assert len(proofs.known.worst) == 1
    open_session(a_case("M-*-", PREFILL, SHORT + 300, 2, dtype="bfloat16"), torch.device("cpu"), proofs)
    assert len(proofs.known.worst) == 1, "the short one was taken once"


def test_no_room_for_a_row_beside_the_batch_is_no_failure_of_the_case() -> None:
    session = opened("*-", PREFILL, LONG, 2, attention="no_room")
    assert not session.sized
    assert "do not fit" in session.unchecked[0]


def test_a_broken_device_is_a_wrong_result() -> None:
    with pytest.raises(DeviceFault, match="illegal memory access"):
        opened("*-", PREFILL, LONG, 2, attention="breaks")


@pytest.mark.slow
def test_records_say_what_was_compared_and_failures_cost_one_case(tmp_path: Path) -> None:
    """Only what may have harmed the device ends the worker process."""
    planned = [
        a_case("*-", PREFILL, LONG, 2, attention=kernel)
        for kernel in ("right", "breaks", "last_row", "no_room", "right")
    ]
    with RecordWriter(tmp_path) as writer:
        records = run_sweep(planned, writer)
    good, broke, wrong, unchecked, again = records
    assert [record.status for record in records] == [Status.OK, Status.WRONG, Status.WRONG, Status.OK, Status.OK]
    assert "illegal memory access" in str(broke.message)
    assert "row 2" in str(wrong.message)
    for record in (good, again):
        assert record.observed is not None
        (check,) = record.observed.sized
        assert (check.what, check.against) == ("prefill", "each row alone")
        assert record.observed.check_ns
        assert Caveat.NOT_CHECKED not in record.caveats
    assert Caveat.NOT_CHECKED in unchecked.caveats
    assert unchecked.observed is not None
    assert unchecked.observed.sized == []


def test_an_error_is_that_of_the_worst_block_of_positions() -> None:
    expected = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    found = expected.clone()
    found[999] *= 2
    error = float(over_positions(found, expected))
    last = expected[1000 // BLOCK_POSITIONS * BLOCK_POSITIONS :]
    assert error == pytest.approx(float(expected[999].norm() / last.norm()), rel=1e-5)
    assert float(of_whole(found, expected)) < 0.1 < error
    found[3, 2] = float("nan")
    assert over_positions(found, expected).isnan()
    assert float(over_positions(torch.zeros(5, 2), torch.zeros(5, 2))) == 0
    assert float(over_positions(torch.ones(5, 2), torch.zeros(5, 2))) == float("inf")


def test_nothing_passes_by_being_no_number() -> None:
    asked = SizeComparison("prefill", "each row alone", 2, 100, "float32", "take another")
    for value in (float("nan"), float("inf"), 1.1e-4):
        errors = Errors()
        errors.add("output", "layer 1", torch.tensor(0.0))
        errors.add("logits", "row 2", torch.tensor(value))
        with pytest.raises(WrongResult, match=r"logits \(row 2\)"):
            judged(asked, errors, {})


def test_pieces_cover_a_row_and_stay_below_two_to_the_31_elements() -> None:
    layer = torch.nn.Linear(8, 16_384, device="meta")
    for length in (1, 2, 4096, 131_072, 1 << 20):
        count = piece_count(layer, length)
        parts = pieces(0, length, count)
        assert [part.first for part in parts[1:]] == [part.last for part in parts[:-1]]
        assert (parts[0].first, parts[-1].last) == (0, length)
        assert all((part.last - part.first) * 16_384 < 1 << 31 for part in parts)


def test_of_many_rows_the_outer_and_some_inner_ones_are_run_alone() -> None:
    assert sampled(1) == [0]
    assert sampled(MOST_ROWS) == list(range(MOST_ROWS))
    rows = sampled(64)
    assert len(rows) == MOST_ROWS
    assert (rows[0], rows[-1]) == (0, 63)
