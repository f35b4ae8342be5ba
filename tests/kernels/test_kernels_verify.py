"""Verification passes what is right and stops what is slightly wrong, whatever is wrong with it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridbench.errors import Unsupported, WrongResult
from hybridbench.kernels import Backend, Problem, backends, resolve, verify
from hybridbench.kernels.attention import reference as attention_reference
from hybridbench.kernels.delta import reference as delta_reference
from hybridbench.kernels.dense import reference as dense_reference
from hybridbench.kernels.drawing import Draw
from hybridbench.kernels.loading import draw_of
from hybridbench.kernels.loss import reference as loss_reference
from hybridbench.kernels.resolver import by_path
from hybridbench.kernels.scan import reference as scan_reference
from hybridbench.kernels.scan.reference import mamba3 as mamba3_reference
from hybridbench.kernels.verify import BOUNDS, _Few
from hybridbench.operations import OPERATIONS

KERNELS = {op: backends(op) for op, row in OPERATIONS.items() if row.inputs}
"""What runs each operation of tensors."""

ATTENTION = Problem("cpu", "bfloat16", head_dim=64, n_heads=8, n_kv_heads=2, training=True)
WINDOWED = dataclasses.replace(ATTENTION, window=40, sinks=4)
SSD = Problem("cpu", "bfloat16", head_dim=16, n_heads=4, n_groups=2, d_state=32, chunk_size=64, training=True)
MAMBA3 = Problem("cpu", "bfloat16", head_dim=16, n_heads=2, d_state=16, n_angles=4, chunk_size=32, training=True)
DELTA = Problem("cpu", "bfloat16", head_dim=16, n_heads=2, chunk_size=32, training=True)
CONV = Problem("cpu", "bfloat16", d_conv=4, training=True)
LOSS = Problem("cpu", "bfloat16", training=True)


def broken(op: str, function: Callable[..., Any]) -> Backend:
    return dataclasses.replace(backends(op)["reference"], name="broken", load=lambda: function)


def unscaled_gradient(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    loss = loss_reference.linear_cross_entropy(hidden, weight, target)
    return loss.detach() + 2 * (loss - loss.detach())


def stale_state(state: Tensor, *rest: Tensor) -> Tensor:
    return scan_reference.ssd_step(state.clone(), *rest)


def one_slot_too_many(q: Tensor, k: Tensor, v: Tensor, length: Tensor) -> Tensor:
    return attention_reference.attention_decode(q, k, v, (length + 1).clamp(max=k.shape[1]))


def forgets_the_tail(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    out = attention_reference.attention(q, k, v, **settings)
    whole = q.shape[1] // 64 * 64
    return torch.cat([out[:, :whole], torch.full_like(out[:, whole:], torch.nan)], 1)


def forgets_later_turns(*given: Tensor, chunk_size: int) -> tuple[Tensor, ...]:
    """What the angles turn after position 40 does not reach the gradients of those before it."""
    sequences, parameters = given[:8], given[8:]
    first = mamba3_reference.mamba3_scan(*(t[:, :40] for t in sequences), *parameters, chunk_size=chunk_size)
    if int(sequences[0].shape[1]) <= 40:
        return first
    _, angle, state, k, x = first
    kept = angle.detach(), state, k, x
    late = (t[:, 40:] for t in sequences)
    second = mamba3_reference.mamba3_scan(*late, *parameters, chunk_size=chunk_size, initial=kept)
    return torch.cat([first[0], second[0]], 1), *second[1:]


class Rounded(torch.autograd.Function):
    """A tensor that is kept in bfloat16, and its gradient too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.bfloat16().to(tensor.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.bfloat16().to(gradient.dtype)


NO_ERROR = "out_BTHV has another shape than it should, or holds NaN or infinity. It is not timed"
WRONG = {
    "scale": (
        "attention",
        ATTENTION,
        lambda q, k, v, **s: attention_reference.attention(q * 1.1, k, v, **s),
        "out_BTHV",
    ),
    "value": (
        "attention",
        ATTENTION,
        lambda q, k, v, **s: attention_reference.attention(q, k, v, **s) * 1.02,
        "out_BTHV",
    ),
    "gradient": (
        "attention",
        ATTENTION,
        lambda q, k, v, **s: attention_reference.attention(q, k.detach() + 0.9 * (k - k.detach()), v, **s),
        "gradient of k_BTKP",
    ),
    "tail": ("attention", ATTENTION, forgets_the_tail, NO_ERROR),
    "window": (
        "attention",
        WINDOWED,
        lambda q, k, v, window, sinks: attention_reference.attention(q, k, v, window=window + 1, sinks=sinks),
        "out_BTHV",
    ),
    "sinks": (
        "attention",
        WINDOWED,
        lambda q, k, v, window, sinks: attention_reference.attention(q, k, v, window=window),
        "out_BTHV",
    ),
    "heads": (
        "attention",
        ATTENTION,
        lambda q, k, v, **s: attention_reference.attention(q, k.flip(2), v.flip(2), **s),
        "out_BTHV",
    ),
    "shape": (
        "attention",
        ATTENTION,
        lambda q, k, v, **s: attention_reference.attention(q, k, v, **s)[:, :, :1],
        NO_ERROR,
    ),
    "length": ("attention_decode", ATTENTION, one_slot_too_many, "out_BHV"),
    "chunks": (
        "ssd",
        SSD,
        lambda *t, chunk_size, initial_state_BHPN: scan_reference.ssd(*t, chunk_size=chunk_size),
        "length 65",
    ),
    "final": (
        "ssd",
        SSD,
        lambda *t, **s: (scan_reference.ssd(*t, **s)[0], scan_reference.ssd(*t, **s)[1] * 0.98),
        "final_state_BHPN",
    ),
    "skip": (
        "ssd",
        SSD,
        lambda x, dt, A, B, C, D, bias, **s: scan_reference.ssd(x, dt, A, B, C, D * 0, bias, **s),
        "y_BTHP",
    ),
    "groups": ("ssd", SSD, lambda x, dt, A, B, *t, **s: scan_reference.ssd(x, dt, A, B.flip(2), *t, **s), "y_BTHP"),
    "state": ("ssd_step", SSD, stale_state, "state_BHPN"),
    "taps": ("conv1d", CONV, lambda x, w, b: scan_reference.conv1d(x, w.flip(1), b), "y_BTC"),
    "shift": ("conv1d_step", CONV, lambda s, x, w, b: scan_reference.conv1d_step(s.clone(), x, w, b), "BC"),
    "decay": (
        "gated_delta",
        DELTA,
        lambda q, k, v, dt, *t, **s: delta_reference.gated_delta(q, k, v, dt + 0.2, *t, **s),
        "o_BTHV",
    ),
    "beta": ("kda", DELTA, lambda *t, **s: delta_reference.kda(*t[:4], t[4] * 0.9, *t[5:], **s), "o_BTHV"),
    "gate": ("norm_gate", DELTA, lambda y, z, w, **s: delta_reference.norm_gate(y, z * 1.05, w, **s), "out_BTHV"),
    "scan": (
        "selective_scan",
        SSD,
        lambda x, dt, A, *t: scan_reference.selective_scan(x, dt, A.roll(1, 1), *t),
        "y_BTI",
    ),
    "turns": (
        "mamba3_scan",
        MAMBA3,
        lambda *t, **s: mamba3_reference.mamba3_scan(*t[:6], t[6] * 1.5, *t[7:], **s),
        "y_BTHP",
    ),
    "no later turn": ("mamba3_scan", MAMBA3, forgets_later_turns, "gradient of dt_BTH"),
    "gradient of turns": (
        "mamba3_scan",
        MAMBA3,
        lambda *t, **s: mamba3_reference.mamba3_scan(*t[:6], t[6].detach() + 0.9 * (t[6] - t[6].detach()), *t[7:], **s),
        "gradient of angle_BTR",
    ),
    "trapezoid": (
        "mamba3_step",
        MAMBA3,
        lambda angle, h, k, x, *t: mamba3_reference.mamba3_step(angle, h, k, x.zero_(), *t),
        "BH",
    ),
    "loss": ("linear_cross_entropy", LOSS, unscaled_gradient, "gradient of hidden_ND"),
}


@pytest.mark.parametrize(("op", "problem", "function", "names"), WRONG.values(), ids=WRONG)
def test_a_wrong_backend_has_no_speed(op: str, problem: Problem, function: Callable[..., Any], names: str) -> None:
    with pytest.raises(WrongResult) as wrong:
        verify(broken(op, function), problem, device="cpu", seed=0)
    text = str(wrong.value)
    assert text.startswith(f"{op} backend 'broken' disagrees with the reference in bfloat16 at ")
    assert names in text
    assert ("the bound is 0.0" in text) == (names != NO_ERROR)


def test_a_window_one_too_wide_is_seen_even_where_windows_are_wide() -> None:
    problem = dataclasses.replace(ATTENTION, window=512, training=False)
    wide = broken("attention", lambda q, k, v, window, sinks: attention_reference.attention(q, k, v, window=window + 1))
    with pytest.raises(WrongResult, match=r"at length 513: out_BTHV is off by 0\.0[2-9]"):
        verify(wide, problem, device="cpu", seed=0)


def test_a_wrong_gradient_of_a_few_elements_is_seen_over_all_inputs_together() -> None:
    def steeper(x, dt, A, B, C, D, dt_bias, **settings):
        return scan_reference.ssd(x, dt, A, B, C, 1.05 * D - (0.05 * D).detach(), dt_bias, **settings)

    with pytest.raises(WrongResult, match=r"at all lengths together: gradient of D_H is off by 0\.05 "):
        verify(broken("ssd", steeper), dataclasses.replace(SSD, training=True), device="cpu", seed=0)


def test_a_gradient_that_is_small_by_chance_counts_with_the_others() -> None:
    few, noise = _Few(), torch.tensor([1e-3, -1e-3])
    for expected in (torch.tensor([0.01, 0.005]), torch.tensor([1.0, -0.5]), torch.tensor([0.3, 0.8])):
        assert few.takes("D", expected + noise, expected)
    ((name, error),) = few.errors()
    assert name == "D"
    assert error == pytest.approx(math.sqrt(3 * 2e-6) / math.sqrt(1e-4 + 2.5e-5 + 1.25 + 0.73), rel=1e-3)
    assert not few.takes("D", torch.tensor([math.nan, 1.0]), torch.ones(2)), "what is not finite is off by itself"
    assert not few.takes("D", torch.ones(3), torch.ones(2))
    assert not few.takes("D", torch.ones(64), torch.ones(64))


@pytest.mark.slow
def test_what_the_published_kernels_of_mamba3_round_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The accumulated angles and what they turn, in bfloat16 beside exact arithmetic: more than other gradients may."""
    turned: Callable[..., Tensor] = mamba3_reference._turned
    rounded: Callable[[Tensor], Tensor] = Rounded.apply

    def as_published(*given: Tensor, **settings: Any) -> tuple[Tensor, ...]:
        with monkeypatch.context() as patch:
            patch.setattr(
                mamba3_reference, "_turned", lambda v, bias, angles: rounded(turned(v, bias, rounded(angles)))
            )
            return mamba3_reference.mamba3_scan(*given, **settings)

    sizes = {"head_dim": 64, "n_heads": 2, "d_state": 128, "n_angles": 32, "chunk_size": 1024}
    problem = Problem("cpu", "bfloat16", training=True, **sizes)
    check = verify(broken("mamba3_scan", as_published), problem, device="cpu", seed=1)
    assert BOUNDS["bfloat16"][1] < check.error < 0.75 * check.bound
    assert check.bound == OPERATIONS["mamba3_scan"].cancels["angle_BTR"] * BOUNDS["bfloat16"][1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.sampled
def test_the_references_pass_with_room(dtype: str, seed: int) -> None:
    for op, problem in (("attention", WINDOWED), ("ssd", SSD), ("conv1d", CONV), ("linear_cross_entropy", LOSS)):
        given = dataclasses.replace(problem, dtype=dtype)
        check = verify(backends(op)["reference"], given, device="cpu", seed=seed)
        assert check.error < check.bound / 2


def test_a_seed_gives_the_same_check_and_another_seed_other_inputs() -> None:
    checks = [verify(backends("ssd")["reference"], SSD, device="cpu", seed=seed) for seed in (1, 1, 2)]
    assert checks[0] == checks[1]
    assert checks[0] != checks[2]


def test_inference_takes_no_gradients() -> None:
    def without_gradients(*given: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not any(tensor is not None and tensor.requires_grad for tensor in given)
        return scan_reference.conv1d(*given)

    verify(broken("conv1d", without_gradients), dataclasses.replace(CONV, training=False), device="cpu", seed=0)


def test_what_is_constant_has_no_gradient() -> None:
    learnt = []

    def watched(*given: Tensor, **settings: Any) -> Any:
        learnt.append([tensor.requires_grad for tensor in given])
        return dense_reference.rotary(*given, **settings)

    problem = Problem("cpu", "float32", head_dim=16, n_heads=4, training=True)
    verify(broken("rotary", watched), problem, device="cpu", seed=0)
    assert {tuple(one) for one in learnt} == {(True, False, False)}


def test_verification_is_quick_enough_to_run_in_every_worker() -> None:
    problem = Problem("cpu", "float32", head_dim=64, n_heads=32, n_kv_heads=8, d_state=128, chunk_size=256, d_conv=4)
    for op, table in KERNELS.items():
        began = time.process_time()  # of this process alone, however busy the machine is
        verify(table["reference"], problem, device="cpu", seed=0)
        assert time.process_time() - began < 10, op  # 0.1 s on an idle core


WIDE = Problem(
    "cpu", "float32", head_dim=16, n_heads=4, n_kv_heads=2, d_state=16, n_angles=4, chunk_size=16, d_conv=4, window=8
)


@pytest.mark.parametrize("op", KERNELS)
def test_each_input_has_tensors_of_its_own(op: str) -> None:
    """One that another takes over and adds to would be tried as the other."""
    draw = Draw(WIDE, torch.device("cpu"), torch.Generator().manual_seed(0))
    cases = list(draw_of(op)(WIDE, draw))
    assert len({id(case.tensors) for case in cases}) == len(cases)


def test_a_scan_of_ones_own_needs_no_initial_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is verified without one, and says so when a prefill would go on from it."""

    def plain(x, dt, A, B, C, D, dt_bias, *, chunk_size):
        return scan_reference.ssd(x, dt, A, B, C, D, dt_bias, chunk_size=chunk_size)

    monkeypatch.setattr(scan_reference, "of_ones_own", plain, raising=False)
    backend = by_path("ssd", "hybridbench.kernels.scan.reference:of_ones_own")
    problem = Problem("cpu", "float32", head_dim=8, n_heads=4, d_state=8, n_groups=2, chunk_size=16, training=True)
    assert not backend.continues
    tried, all_inputs = (
        verify(one, problem, device="cpu", seed=0).cases for one in (backend, resolve("ssd", "auto", problem))
    )
    assert tried == all_inputs - 1
    with pytest.raises(Unsupported, match="no parameter initial_state_BHPN"):
        backend.load()(*[torch.zeros(1)] * 7, chunk_size=16, initial_state_BHPN=torch.zeros(1))
