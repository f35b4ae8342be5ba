"""A kernel of a person's own that is wrong in one way is refused with a sentence that says which, where and how far."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from hybridbench.bench import Bench
from hybridbench.errors import BadInput, WrongResult
from hybridbench.kernel_suite.agree import agreement
from hybridbench.kernel_suite.bind import arguments, bound, drawn
from hybridbench.kernel_suite.cell import BACKWARD, FORWARD, Budget, Cell
from hybridbench.kernel_suite.guard import Guarded, poisoned
from hybridbench.kernel_suite.problems import TIMED, of_models
from hybridbench.kernel_suite.run import check_kernel, longest_first, run_cell
from hybridbench.kernel_suite.signature import SETTINGS, check_signature, signature_text
from hybridbench.kernels.loading import backends, reference_of
from hybridbench.operations import OPERATIONS
from hybridbench.problem import Problem
from hybridbench.record import Caveat
from hybridbench.suite.models import model_specs
from hybridbench.worker import answer_for

SMALL = Budget(max_time_s=0.01, min_samples=3, max_samples=3)
PROBLEM = Problem("cpu", "float32", width=16, length=8, batch=2)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _faulty() -> None:
    """The faulty kernels as a module that is found by name."""
    path = Path(__file__).with_name("faulty.py")
    spec = importlib.util.spec_from_file_location("faulty_own_kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


def bench() -> Bench:
    return Bench(CPU, None, None, ceilings={"float32": None, "bfloat16": None})


def answer(name: str, direction: str = FORWARD, op: str = "swiglu", problem: Problem = PROBLEM) -> dict:
    cell = Cell(op, f"faulty_own_kernels:{name}", problem, direction, SMALL)
    return answer_for(cell, bench(), run_cell)


def test_what_is_compiled_is_what_is_checked() -> None:
    """A mode of PyTorch that poisons memory switches compiled code off, and the plain function would be checked."""
    for _ in range(2):
        wrong, right = answer("compiled_wrongly"), answer("compiled")
        assert (wrong["status"], right["status"]) == ("wrong", "ok"), "also where an earlier cell has compiled it"
    assert right["observed"]["agreement"]["guarded"]
    assert not right["observed"]["agreement"]["poisoned"]
    assert answer("right")["observed"]["agreement"]["poisoned"]


def test_guards_stand_around_published_backends_too() -> None:
    problem = Problem("cpu", "float32", head_dim=16, n_heads=2, n_kv_heads=2, length=12, batch=1)
    cell = Cell("attention", "sdpa-flash", problem)
    backend = backends("attention")["sdpa-flash"]

    def spoils(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **settings: object) -> torch.Tensor:
        out = backend.load()(q, k, v, **settings)
        k[0, 3] = 0
        return out

    assert agreement(cell, backend, backend.load(), CPU).guarded
    with pytest.raises(WrongResult, match="changes its input k_BTKP, first at"):
        agreement(cell, backend, spoils, CPU)


def test_without_room_for_guards_outputs_are_compared_and_the_record_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(Guarded, "__call__", full)
    found = answer("right")
    assert found["status"] == "ok"
    agreed = found["observed"]["agreement"]
    assert (agreed["against"], agreed["guarded"]) == ("the reference", False)
    assert agreed["why_unguarded"] == "guards around its inputs do not fit in memory"
    assert answer("swapped")["status"] == "wrong"


@pytest.mark.parametrize("direction", [FORWARD, BACKWARD])
def test_what_is_right_is_timed(direction: str) -> None:
    found = answer("right", direction)
    assert found["status"] == "ok", found
    assert found["observed"]["agreement"]["against"] == "the reference"
    assert found["observed"]["agreement"]["compared"] == (1 if direction == FORWARD else 2)
    assert len(found["observed"]["samples_ns"]) == sum(found["observed"]["by_allocation"]) >= 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("swapped", "out_NF is off by"),
        ("off_at_one_place", "furthest off at [3, 7]"),
        ("unwritten", "out_NF holds what is no number, as memory does that is never written, at [15, 0]"),
        ("outside", "writes outside packed_NC, which has shape (16, 32)"),
        ("changes_input", "changes its input packed_NC, first at [2, 5]: 1 of 512 elements"),
    ],
)
def test_what_is_wrong_is_not_timed(name: str, said: str) -> None:
    found = answer(name)
    assert found["status"] == "wrong"
    assert said in found["message"]
    assert found["message"].endswith("It is not timed.")


@pytest.mark.parametrize(
    ("name", "said"), [("wrong_gradient", "gradient of packed_NF is off by 0.1 "), ("no_gradient", "has a gradient")]
)
def test_a_wrong_backward_is_found_in_the_backward_only(name: str, said: str) -> None:
    assert answer(name)["status"] == "ok"
    found = answer(name, BACKWARD)
    assert found["status"] == "wrong"
    assert said in found["message"]


def test_what_raises_is_a_row_with_its_last_lines() -> None:
    found = answer("raises")
    assert (found["status"], found["fit"]) == ("crashed", False)
    assert found["message"] == "RuntimeError: no kernel image is available"
    assert "in raises" in found["traceback"]


# Signatures.


def test_each_argument_that_is_not_as_wanted_has_a_sentence() -> None:
    with pytest.raises(BadInput) as refused:
        check_kernel("swiglu", "faulty_own_kernels:other_signature")
    for sentence in (
        "Argument 1 is called x, and packed is what it gets.",
        "y is required, and nobody gives it: give it a default.",
        "width is required, and nobody gives it: give it a default.",
    ):
        assert sentence in str(refused.value)
    with pytest.raises(BadInput) as refused:
        check_kernel("ssd", "faulty_own_kernels:short_ssd")
    for sentence in (
        "Argument 4 is called C, and B_BTGN (or B) is what it gets.",
        "Argument 6, D_H, is missing.",
        "Setting chunk_size is missing: it is given by name.",
    ):
        assert sentence in str(refused.value)
    with pytest.raises(BadInput, match="no attribute 'absent'"):
        check_kernel("ssd", "faulty_own_kernels:absent")
    with pytest.raises(BadInput, match="is of type int, not a function"):
        check_kernel("ssd", "sys:maxsize")


@pytest.mark.parametrize("op", TIMED)
def test_a_printed_signature_is_one_and_passes(op: str) -> None:
    text = signature_text(op)
    found: dict[str, object] = {}
    exec(compile(text, op, "exec"), found)
    pasted = found[op]
    assert callable(pasted)
    check_signature(op, f"pasted:{op}", pasted)
    check_signature(op, "the reference", reference_of(op))
    assert pasted.__doc__ is not None
    assert all(tensor.name in pasted.__doc__ for tensor in OPERATIONS[op].tensors)
    assert set(OPERATIONS[op].settings) <= set(SETTINGS)


# Guards, draws and calls.


def test_memory_that_nobody_wrote_shows() -> None:
    with poisoned():
        floats, like, whole = torch.empty(3), torch.empty_like(torch.ones(2)), torch.empty(2, dtype=torch.int32)
        assert bool(torch.zeros(2).eq(0).all()), "what is written stays"
    assert bool(floats.isnan().all())
    assert bool(like.isnan().all())
    assert whole.tolist() == [2**31 - 1] * 2


def test_guards_keep_strides_and_hand_on_what_is_updated() -> None:
    state, x = torch.ones(2, 4, 3), torch.arange(24.0).reshape(2, 12)[:, 2:6]
    seen = []

    def step(state_BCW: torch.Tensor, x_BC: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        seen.append((x_BC.stride(), x_BC.clone()))
        state_BCW.mul_(3)
        return x_BC + 1

    out = Guarded("conv1d_step", step)(state, x, torch.ones(4, 3), torch.ones(4))
    assert seen[0][0] == (12, 1)
    assert torch.equal(seen[0][1], x)
    assert torch.equal(out, x + 1)
    assert bool((state == 3).all())


def problems() -> list[tuple[str, Problem]]:
    """A problem of each operation, as some model has it."""
    mixers = ("mamba1", "mamba3", "gated-delta", "kda", "lightning", "rwkv7")
    specs = model_specs(arch="inter,intra", scale="tiny", moe=True) + model_specs(
        arch="mamba", scale="tiny", mixer=",".join(mixers)
    )
    found: dict[str, Problem] = {}
    for op, problem in of_models(specs, [48], [2], "cpu", "float32"):
        found.setdefault(op, problem)
    return list(found.items())


def test_models_ask_for_every_operation() -> None:
    assert {op for op, _ in problems()} == set(TIMED)


@pytest.mark.parametrize(("op", "problem"), [pytest.param(*one, id=one[0]) for one in problems()])
def test_every_operation_is_called_with_what_its_row_says_at_the_size_of_its_problem(op: str, problem: Problem) -> None:
    """Elements of what is passed, against the row's sizes: draws that stayed small would be timed as if large."""
    cell = Cell(op, "reference", problem)
    trial = drawn(cell, CPU)
    if op != "adamw":
        given, _ = arguments(trial)
        row = OPERATIONS[op]
        for tensor, value in zip([one for one in row.tensors if not one.optional], given, strict=False):
            if op == "mamba2_core" and tensor.name == "packed_BTE":
                continue  # a row has columns behind it that nobody reads
            assert list(value.shape) == [row.size(letter, problem) for letter in tensor.dimensions], tensor.name
    else:
        assert trial.tensors["first_I"].numel() == problem.n_params
    call = bound(cell, reference_of(op), trial)
    call()
    call()


def test_the_gradients_that_are_timed_are_those_of_the_operation() -> None:
    cell = Cell("swiglu", "reference", PROBLEM, BACKWARD)
    trial = drawn(cell, CPU)
    gradients = bound(cell, reference_of("swiglu"), trial)()
    assert isinstance(gradients, tuple | list)
    (found,) = gradients
    assert found.shape == trial.tensors["packed_NF"].shape
    assert float(found.abs().sum()) > 0


def test_a_batch_is_compared_sequence_by_sequence_where_the_whole_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hybridbench.kernel_suite import agree

    monkeypatch.setattr(agree, "_reference_seconds", lambda *_: 1.5 * agree.MOST_REFERENCE_S)
    problem = Problem("cpu", "float32", head_dim=16, n_heads=4, n_kv_heads=2, length=40, batch=3, row=128)
    for direction in (FORWARD, BACKWARD):
        observed, caveats = run_cell(Cell("attention", "sdpa-flash", problem, direction, SMALL), bench())
        assert observed.agreement.against == "the reference, sequence by sequence"
        assert observed.agreement.compared == 3 * (1 if direction == FORWARD else 4)
        assert Caveat.NOT_CHECKED not in caveats
    monkeypatch.setattr(agree, "_reference_seconds", lambda *_: 100 * agree.MOST_REFERENCE_S)
    observed, caveats = run_cell(
        Cell("product", "torch", Problem("cpu", "float32", d_model=8, width=8, length=4, batch=1), FORWARD, SMALL),
        bench(),
    )
    assert observed.agreement.against is None
    assert Caveat.NOT_CHECKED in caveats


def test_blocks_are_of_the_kernel_that_takes_longest() -> None:
    events = [
        {"cat": "kernel", "name": "short", "dur": 2, "args": {"blocks per SM": 9.0}},
        {"cat": "kernel", "name": "long", "dur": 3, "args": {"blocks per SM": 0.5}},
        {"cat": "kernel", "name": "long", "dur": 3, "args": {"blocks per SM": 0.5}},
        {"cat": "cpu_op", "name": "other", "dur": 99},
    ]
    assert longest_first(events) == (["long", "short"], 0.5)
    assert longest_first([]) == ([], None)
