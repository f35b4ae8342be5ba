"""The plain selective scan, delta rules and scan of Mamba-3 agree with loops over tokens, with transformers (but it has
no Mamba-3) and with their steps.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridbench.kernels import reference_of
from hybridbench.kernels.delta import reference as delta_reference
from hybridbench.kernels.linear import reference as linear_reference
from hybridbench.kernels.scan import reference as scan_reference
from hybridbench.kernels.scan.reference import mamba3 as mamba3_reference


def random(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_(grad)


def same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], inputs: list[Tensor]) -> None:
    """Outputs and gradients."""
    upstream = []
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
        upstream.append(random(*a.shape, seed=9))
    mine, their = (torch.autograd.grad(made, inputs, upstream) for made in (ours, theirs))
    for a, b in zip(mine, their, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def scan_inputs(T: int, width: int = 6, N: int = 4, grad: bool = False) -> list[Tensor]:
    A = -random(width, N, seed=7).abs().detach() - 0.1
    sequences = [random(2, T, n, seed=i, grad=grad) for i, n in enumerate((width, width, N, N, width))]
    x, dt, B, C, z = sequences
    return [x, dt, A.requires_grad_(grad), B, C, random(width, seed=5, grad=grad), z, random(width, seed=6, grad=grad)]


def token_by_token(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor) -> Any:
    h = torch.zeros(x.shape[0], *A.shape, dtype=x.dtype)
    rows = []
    for t in range(x.shape[1]):
        step = torch.log1p(torch.exp(dt[:, t] + bias))
        h = torch.exp(step[..., None] * A) * h + step[..., None] * x[:, t, :, None] * B[:, t, None, :]
        rows.append(((h * C[:, t, None, :]).sum(-1) + D * x[:, t]) * z[:, t] * torch.sigmoid(z[:, t]))
    return torch.stack(rows, 1), h


@pytest.mark.parametrize("T", [1, 2, 3, 9, 10, 26])
def test_the_selective_scan_is_its_recurrence_and_a_row_of_steps(T: int) -> None:
    inputs = scan_inputs(T, grad=True)
    ours = scan_reference.selective_scan(*inputs)
    same(ours, token_by_token(*inputs), inputs)
    x, dt, A, B, C, D, z, bias = (tensor.detach() for tensor in inputs)
    state = torch.zeros(2, 6, 4, dtype=torch.float64)
    for t in range(T):
        y = scan_reference.selective_step(state, x[:, t], dt[:, t], A, B[:, t], C[:, t], D, z[:, t], bias)
        torch.testing.assert_close(y, ours[0][:, t])
    torch.testing.assert_close(state, ours[1])


def test_the_selective_scan_in_segments_is_the_scan_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = scan_inputs(45, grad=True)
    whole = scan_reference.selective_scan(*inputs)
    monkeypatch.setattr(scan_reference.mamba1, "CHUNK_ELEMENTS", 2 * 6 * 4 * 10)
    same(scan_reference.selective_scan(*inputs), whole, inputs)


def test_the_selective_scan_is_transformers_own() -> None:
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    x, dt, A, B, C, D, z, bias = (tensor.float() for tensor in scan_inputs(19))
    across = [tensor.transpose(1, 2) for tensor in (x, dt, B, C, z)]
    theirs = mamba_selective_scan(
        across[0], across[1], A, across[2], across[3], D=D, z=across[4], delta_bias=bias, delta_softplus=True,
        return_last_state=True,
    )  # fmt: skip
    ours = scan_reference.selective_scan(x, dt, A, B, C, D, z, bias)
    torch.testing.assert_close(ours[0], theirs[0].transpose(1, 2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-4, atol=1e-5)


def delta_inputs(op: str, T: int, H: int = 4, G: int = 2, P: int = 3, V: int = 5, grad: bool = False) -> list[Tensor]:
    channel = (P,) if op == "kda" else ()
    G = H if op == "kda" else G
    shapes = [(2, T, G, P), (2, T, G, P), (2, T, H, V), (2, T, H, *channel), (2, T, H), (H,), (H, *channel)]
    return [random(*shape, seed=i, grad=grad) for i, shape in enumerate(shapes)]


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, dt: Tensor, beta: Tensor, A_log: Tensor, bias: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Token by token, every value head with its own copy of its query and key: S = g S + b k (v - (g S)^T k)^T."""
    batch, T, H, V = v.shape
    P = q.shape[-1]
    q, k = (x.repeat_interleave(H // x.shape[2], 2) for x in (q, k))
    q, k = (x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    S = torch.zeros(batch, H, P, V, dtype=v.dtype) if state is None else state
    rows = []
    for t in range(T):
        rate = torch.exp(A_log)[:, None] if dt.dim() == 4 else torch.exp(A_log)
        decay = torch.exp(-rate * torch.log1p(torch.exp(dt[:, t] + bias)))
        S = S * (decay[..., None] if dt.dim() == 4 else decay[..., None, None])
        known = torch.einsum("bhpv,bhp->bhv", S, k[:, t])
        S = S + torch.einsum("bhp,bhv->bhpv", k[:, t], torch.sigmoid(beta[:, t])[..., None] * (v[:, t] - known))
        rows.append(torch.einsum("bhpv,bhp->bhv", S, q[:, t]) / math.sqrt(P))
    return torch.stack(rows, 1), S


@pytest.mark.parametrize("op", ["gated_delta", "kda"])
@pytest.mark.parametrize("T", [1, 7, 8, 9, 21])
def test_a_delta_rule_is_its_recurrence(op: str, T: int) -> None:
    inputs = delta_inputs(op, T, grad=True)
    start = random(2, 4, 3, 5, seed=8, grad=True)
    for state in (None, start):
        ours = reference_of(op)(*inputs, chunk_size=8, initial_state_BHPV=state)
        same(ours, delta_rule(*inputs, state), inputs if state is None else [*inputs, start])


@pytest.mark.parametrize("op", ["gated_delta", "kda"])
def test_chunks_and_segments_change_nothing_and_steps_are_the_same(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, step = reference_of(op), reference_of(f"{op}_step")
    inputs = delta_inputs(op, 45)
    whole = rule(*inputs, chunk_size=64)
    for chunk in (1, 5, 16):
        torch.testing.assert_close(rule(*inputs, chunk_size=chunk), whole)
    monkeypatch.setattr(delta_reference, "CHUNK_ELEMENTS", 2 * 4 * 8 * 8 * 3)
    torch.testing.assert_close(rule(*inputs, chunk_size=8), whole)
    sequences, parameters = inputs[:5], inputs[5:]
    state = torch.zeros_like(whole[1])
    for t in range(45):
        o = step(state, *(x[:, t] for x in sequences), *parameters)
        torch.testing.assert_close(o, whole[0][:, t])
    torch.testing.assert_close(state, whole[1])


@pytest.mark.parametrize("op", ["gated_delta", "kda"])
def test_a_delta_rule_of_strong_decay_stays_finite(op: str) -> None:
    """The exp of a sum of decays of the wrong sign overflows float32; its gradient is NaN even where masked."""
    inputs = [x.float().requires_grad_() for x in delta_inputs(op, 200)]
    inputs[5] = torch.full((4,), math.log(16.0)).requires_grad_()
    o, state = reference_of(op)(*inputs[:3], inputs[3] + 3, *inputs[4:], chunk_size=64)
    assert o.isfinite().all()
    gradients = torch.autograd.grad(o.sum() + state.sum(), inputs)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_gated_delta_rule_is_transformers_own() -> None:
    from transformers.models.qwen3_next import modeling_qwen3_next as qwen

    q, k, v, dt, beta, A_log, bias = (x.float() for x in delta_inputs("gated_delta", 70))
    decay = -A_log.exp() * torch.nn.functional.softplus(dt + bias)
    settings = {"g": decay, "beta": beta.sigmoid(), "output_final_state": True, "use_qk_l2norm_in_kernel": True}
    ours = delta_reference.gated_delta(q, k, v, dt, beta, A_log, bias, chunk_size=64)
    for theirs in (qwen.torch_chunk_gated_delta_rule, qwen.torch_recurrent_gated_delta_rule):
        torch.testing.assert_close(ours, theirs(q, k, v, **settings), rtol=1e-4, atol=1e-5)


def test_kimi_delta_attention_is_transformers_own() -> None:
    from transformers.models.kimi_linear import modeling_kimi_linear as kimi

    q, k, v, dt, beta, A_log, bias = (x.float() for x in delta_inputs("kda", 70))
    decay = -A_log.exp()[:, None] * torch.nn.functional.softplus(dt + bias)
    settings = {"g": decay, "beta": beta.sigmoid(), "output_final_state": True, "use_qk_l2norm_in_kernel": True}
    ours = delta_reference.kda(q, k, v, dt, beta, A_log, bias, chunk_size=64)
    recurrent = {**settings, "initial_state": None}
    for theirs, given in (
        (kimi.chunk_kimi_delta_attention, settings),
        (kimi.recurrent_kimi_delta_attention, recurrent),
    ):
        torch.testing.assert_close(ours, theirs(q, k, v, **given), rtol=1e-4, atol=1e-5)


def test_steps_round_their_state_after_they_read_it() -> None:
    for op in ("gated_delta", "kda"):
        sequences = [x[:, 0].float() for x in delta_inputs(op, 1)[:5]]
        parameters = [x.float() for x in delta_inputs(op, 1)[5:]]
        start = torch.randn(2, 4, 3, 5).bfloat16()
        wide, narrow = start.float(), start.clone()
        step = reference_of(f"{op}_step")
        assert torch.equal(step(wide, *sequences, *parameters), step(narrow, *sequences, *parameters))
        assert torch.equal(narrow, wide.bfloat16())


def lightning_inputs(T: int, grad: bool = False) -> list[Tensor]:
    """q, k, v and the logarithms of four decays, from one that forgets at once to one that does not forget."""
    return [*(random(2, T, 4, 5, seed=i, grad=grad) for i in range(3)), -torch.tensor([9.0, 0.5, 1e-2, 0.0]).double()]


def decaying(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Every output as a sum over all positions before it, and the state as one."""
    T, rows = q.shape[1], []
    later = torch.zeros(2, 4, 5, 5, dtype=q.dtype) if state is None else state
    for t in range(T):
        age = torch.arange(t, -1, -1)
        share = torch.exp(log_decay * age[:, None])  # by position and head
        total = torch.einsum("sh,bshp,bshv->bhpv", share, k[:, : t + 1], v[:, : t + 1])
        total = total + torch.exp(log_decay * (t + 1))[:, None, None] * later
        rows.append(torch.einsum("bhpv,bhp->bhv", total, q[:, t]))
    return torch.stack(rows, 1), total


@pytest.mark.parametrize("T", [1, 7, 8, 9, 21])
def test_lightning_attention_is_its_sum(T: int) -> None:
    inputs, start = lightning_inputs(T, grad=True), random(2, 4, 5, 5, seed=8, grad=True)
    for state in (None, start):
        ours = linear_reference.lightning(*inputs, chunk_size=8, initial_state_BHPP=state)
        same(ours, decaying(*inputs, state), inputs[:3] if state is None else [*inputs[:3], start])


def test_the_gradients_of_lightning_attention_are_those_of_its_differences() -> None:
    inputs = [*lightning_inputs(5, grad=True)[:3], -torch.tensor([2.0, 0.5, 0.1, 0.01]).double().requires_grad_()]
    start = random(2, 4, 5, 5, seed=8, grad=True)

    def of(*given: Tensor) -> tuple[Tensor, Tensor]:
        return linear_reference.lightning(*given[:4], chunk_size=2, initial_state_BHPP=given[4])

    assert torch.autograd.gradcheck(of, (*inputs, start), fast_mode=True)


def test_chunks_and_steps_of_lightning_attention_are_the_whole() -> None:
    inputs = lightning_inputs(45)
    whole = linear_reference.lightning(*inputs, chunk_size=64)
    for chunk in (1, 5, 16):
        torch.testing.assert_close(linear_reference.lightning(*inputs, chunk_size=chunk), whole)
    state = torch.zeros_like(whole[1])
    for t in range(45):
        o = linear_reference.lightning_step(state, *(x[:, t] for x in inputs[:3]), inputs[3])
        torch.testing.assert_close(o, whole[0][:, t])
    torch.testing.assert_close(state, whole[1])
    narrow = torch.randn(2, 4, 5, 5).bfloat16()
    exact, one = narrow.double(), [x[:, 0] for x in inputs[:3]]
    ours, theirs = (linear_reference.lightning_step(kept, *one, inputs[3]) for kept in (narrow, exact))
    assert torch.equal(ours, theirs)
    assert torch.equal(narrow, exact.bfloat16())


H, G, P, N, R = 4, 2, 3, 6, 2
KEPT = [(H, R), (H, P, N), (H, N), (H, P)]
"""Shapes of what a step needs from the last one: angles, state, k and x."""


def mamba3_inputs(T: int, grad: bool = False) -> list[Tensor]:
    """x, dt, rate, trap, B, C, angle, z, and the parameters; two heads a group, two of three pairs turned."""
    shapes = [(H, P), (H,), (H,), (H,), (G, N), (G, N), (R,), (H, P)]
    sequences = [random(2, T, *shape, seed=i, grad=grad) for i, shape in enumerate(shapes)]
    return sequences + [random(*shape, seed=20 + i, grad=grad) for i, shape in enumerate([(H,), (H, N), (H, N), (H,)])]


def as_complex(pairs: Tensor) -> Tensor:
    """Neighbours of the last dimension as real and imaginary parts."""
    return torch.view_as_complex(pairs.unflatten(-1, (-1, 2)).contiguous())


def complex_by_token(inputs: list[Tensor], initial: list[Tensor]) -> tuple[Tensor, ...]:
    """Head by head and token by token, pairs of channels as complex numbers, in which a turn is a product."""
    x, dt, rate, trap, B, C, angle, z, dt_bias, B_bias, C_bias, D = inputs
    still = torch.zeros(*x.shape[:2], N // 2 - R, dtype=x.dtype)
    speed = torch.cat((math.pi * torch.tanh(angle), still), -1)
    rows, kept = [], []
    for head in range(H):
        group = head // (H // G)
        w, h, k_last, x_last = (v[:, head] for v in initial)
        w, h, k_last = torch.cat((w, still[:, 0]), -1), as_complex(h), as_complex(k_last)
        outputs = []
        for t in range(x.shape[1]):
            step = torch.log1p(torch.exp(dt[:, t, head] + dt_bias[head]))
            decay = torch.exp(-torch.log1p(torch.exp(rate[:, t, head])) * step)[:, None, None]
            now = 1 / (1 + torch.exp(-trap[:, t, head]))
            w = w + speed[:, t] * step[:, None]
            turn = torch.polar(torch.ones_like(w), w)
            k, q = (turn * as_complex(v[:, t, group] + b[head]) for v, b in ((B, B_bias), (C, C_bias)))
            h = decay * (h + ((1 - now) * step)[:, None, None] * x_last[..., None] * k_last[:, None])
            k_last, x_last = k, x[:, t, head]
            h = h + (now * step)[:, None, None] * x_last[..., None] * k[:, None]
            read = (h * q.conj()[:, None]).sum(-1).real + D[head] * x_last
            outputs.append(read * z[:, t, head] * torch.sigmoid(z[:, t, head]))
        rows.append(torch.stack(outputs, 1))
        kept.append((w[:, :R], *(torch.view_as_real(v).flatten(-2) for v in (h, k_last)), x_last))
    return torch.stack(rows, 2), *(torch.stack(of_heads, 1) for of_heads in zip(*kept, strict=True))


def on_the_circle(results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Angles are the same where their cosines and sines are."""
    y, w, *rest = results
    return y, w.cos(), w.sin(), *rest


@pytest.mark.parametrize("T", [1, 2, 7, 8, 9, 21])
def test_the_scan_of_mamba3_is_its_recurrence(T: int) -> None:
    inputs = mamba3_inputs(T, grad=True)
    start = [random(2, *shape, seed=40 + i, grad=True) for i, shape in enumerate(KEPT)]
    ours = mamba3_reference.mamba3_scan(*inputs, chunk_size=8, initial=tuple(start))
    same(on_the_circle(ours), on_the_circle(complex_by_token(inputs, start)), [*inputs, *start])
    assert 0 <= float(ours[1].detach().min()) <= float(ours[1].detach().max()) < 2 * math.pi
    empty = [torch.zeros_like(v) for v in start]
    ours, theirs = mamba3_reference.mamba3_scan(*inputs, chunk_size=8), complex_by_token(inputs, empty)
    depended_on = [v for i, v in enumerate(inputs) if T > 1 or i != 2]  # an empty state has nothing to lose
    same(on_the_circle(ours), on_the_circle(theirs), depended_on)


def test_chunks_segments_parts_and_steps_of_mamba3_are_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = mamba3_inputs(45)
    sequences, parameters = inputs[:8], inputs[8:]
    whole = on_the_circle(mamba3_reference.mamba3_scan(*inputs, chunk_size=64))
    for chunk in (1, 5, 16):
        torch.testing.assert_close(on_the_circle(mamba3_reference.mamba3_scan(*inputs, chunk_size=chunk)), whole)
    monkeypatch.setattr(mamba3_reference, "CHUNK_ELEMENTS", 2 * H * 8 * 8 * 2)
    torch.testing.assert_close(on_the_circle(mamba3_reference.mamba3_scan(*inputs, chunk_size=8)), whole)
    first, *kept = mamba3_reference.mamba3_scan(*(v[:, :19] for v in sequences), *parameters, chunk_size=8)
    second, *rest = mamba3_reference.mamba3_scan(
        *(v[:, 19:] for v in sequences), *parameters, chunk_size=8, initial=tuple(kept)
    )
    torch.testing.assert_close(on_the_circle((torch.cat((first, second), 1), *rest)), whole)
    state = [torch.zeros(2, *shape, dtype=torch.float64) for shape in KEPT]
    rows = [mamba3_reference.mamba3_step(*state, *(v[:, t] for v in sequences), *parameters) for t in range(45)]
    torch.testing.assert_close(on_the_circle((torch.stack(rows, 1), *state)), whole)


def test_mamba3_decays_no_slower_than_its_floor_and_stays_finite() -> None:
    x, dt, rate, *rest = mamba3_inputs(200)
    floored = [
        mamba3_reference.mamba3_scan(x, dt, torch.full_like(rate, low), *rest, chunk_size=64) for low in (-50.0, -9.3)
    ]
    torch.testing.assert_close(*floored)
    inputs = [v.float().requires_grad_() for v in (x, dt + 5, rate + 20, *rest)]
    y, *kept = mamba3_reference.mamba3_scan(*inputs, chunk_size=64)
    gradients = torch.autograd.grad(y.sum() + sum(v.sum() for v in kept), inputs)
    assert all(v.isfinite().all() for v in (y, *kept, *gradients))


def test_a_step_of_mamba3_rounds_what_it_keeps_after_it_read_it() -> None:
    sequences, parameters = [v[:, 0].float() for v in mamba3_inputs(1)[:8]], [v.float() for v in mamba3_inputs(1)[8:]]
    narrow = [random(2, *shape, seed=50).bfloat16() for shape in KEPT]
    exact = [v.float() for v in narrow]
    ours, theirs = (mamba3_reference.mamba3_step(*state, *sequences, *parameters) for state in (narrow, exact))
    assert torch.equal(ours, theirs)
    assert all(torch.equal(a, b.bfloat16()) for a, b in zip(narrow, exact, strict=True))
