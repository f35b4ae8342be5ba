"""RWKV-7's rule, its step and its ends against the paper's equations token by token, and what fla's kernels get."""

from __future__ import annotations

import math
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hybridbench.kernels.delta import fla
from hybridbench.kernels.rwkv7 import reference

B, H, P = 2, 3, 8


def drawn(T: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """r, w before its sigmoid, k, v, kk and a."""
    generator = torch.Generator().manual_seed(T)
    r, w, k, v, kk, a = (torch.randn(B, T, H, P, generator=generator, dtype=torch.float64) for _ in range(6))
    kk = kk / kk.norm(dim=-1, keepdim=True)
    return [x.to(dtype) for x in (r, 3 * w, k, v, kk, 1 / (1 + (-a).exp()))]


def token_by_token(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, kk: Tensor, a: Tensor, start_BHPV: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The paper's equations 16 and 17 with its state, values x keys: every transition is a whole matrix
    ``diag(d) - kk^T (a kk)``, which the state is multiplied with from the right.
    """
    state = r.new_zeros(B, H, P, P) if start_BHPV is None else start_BHPV.mT
    outputs = []
    for t in range(r.shape[1]):
        decay = torch.exp(-math.exp(-0.5) / (1 + torch.exp(-w[:, t])))
        transition = torch.diag_embed(decay) - torch.einsum("bhi,bhj->bhij", kk[:, t], a[:, t] * kk[:, t])
        state = state @ transition + torch.einsum("bhv,bhk->bhvk", v[:, t], k[:, t])
        outputs.append(torch.einsum("bhvk,bhk->bhv", state, r[:, t]))
    return torch.stack(outputs, 1), state.mT


@pytest.mark.parametrize("T", [1, 15, 16, 17, 50])
@pytest.mark.parametrize("started", [False, True])
def test_the_reference_is_the_recurrence_of_the_paper_with_its_gradients(T: int, started: bool) -> None:
    given = [x.requires_grad_() for x in drawn(T)]
    start = torch.randn(B, H, P, P, dtype=torch.float64).requires_grad_() if started else None
    found = reference.rwkv7(*given, chunk_size=64, initial_state_BHPV=start)
    expected = token_by_token(*given, start_BHPV=start)
    leaves = [*given, *([] if start is None else [start])]
    up = [torch.randn_like(x) for x in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    mine = torch.autograd.grad(found, leaves, up, retain_graph=True)
    theirs = torch.autograd.grad(expected, leaves, up, materialize_grads=True)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_the_reference_computes_in_float32_and_gives_the_dtype_back() -> None:
    given = drawn(70, torch.bfloat16)
    o, state = reference.rwkv7(*given, chunk_size=16)
    exact, last = token_by_token(*(x.double() for x in given))
    assert (o.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert float((o - exact).norm() / exact.norm()) < 4e-3
    assert float((state - last).norm() / last.norm()) < 1e-5


def test_the_fastest_decays_stay_exact_in_float32() -> None:
    """Every chunk divides by its decays: 16 of exp(-0.61)."""
    r, w, *rest = drawn(200)
    given = [r, torch.full_like(w, 40.0), *rest]
    found, _ = reference.rwkv7(*(x.float() for x in given), chunk_size=64)
    expected, _ = token_by_token(*given)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.float64])
def test_steps_are_the_recurrence(state_dtype: torch.dtype) -> None:
    given = drawn(20)
    start = torch.randn(B, H, P, P, dtype=state_dtype)
    state, expected = start.clone(), token_by_token(*given, start_BHPV=start.double())
    outs = torch.stack([reference.rwkv7_step(state, *(x[:, t] for x in given)) for t in range(20)], 1)
    bound = 1e-5 if state_dtype == torch.float32 else 1e-12
    torch.testing.assert_close(outs, expected[0], rtol=bound, atol=bound)
    torch.testing.assert_close(state.double(), expected[1], rtol=bound, atol=bound)


def test_the_end_is_a_group_norm_a_bonus_and_a_gate() -> None:
    y, r, k, v, gate, _ = drawn(5)
    weight, bias, bonus = (torch.randn(H, P, dtype=torch.float64) for _ in range(3))
    found = reference.rwkv7_output(y, r, k, v, gate, weight, bias, bonus, eps=64e-5)
    normed = F.group_norm(y.reshape(-1, H * P), H, weight.flatten(), bias.flatten(), 64e-5).view_as(y)
    expected = (normed + torch.einsum("bthp,bthp,hp->bth", r, k, bonus)[..., None] * v) * gate
    torch.testing.assert_close(found, expected)
    of_step = reference.rwkv7_output(*(x[:, 2] for x in (y, r, k, v, gate)), weight, bias, bonus, eps=64e-5)
    torch.testing.assert_close(of_step, expected[:, 2])


# What the rule reads: the gradients that the kernels compute, written out.


def close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("T", "L"), [(1, 5), (9, 6)])
@pytest.mark.parametrize("started", [False, True])
def test_a_token_shift_mixes_in_the_token_before_and_its_gradients_are_these_sums(
    T: int, L: int, started: bool
) -> None:
    D = 7
    x, share = torch.randn(B, T, D, dtype=torch.float64), torch.rand(L, D, dtype=torch.float64)
    front = torch.randn(B, D, dtype=torch.float64)
    leaves = [tensor.requires_grad_() for tensor in ((x, share, front) if started else (x, share))]
    found = reference.rwkv7_shift(x, share, **({"front_BD": front} if started else {}))
    up = tuple(torch.randn_like(x) for _ in range(L))
    d_x, d_share = torch.zeros_like(x), torch.zeros_like(share)
    d_front = torch.zeros_like(front)
    for t in range(T):
        before = x[:, t - 1] if t else front if started else torch.zeros_like(front)
        for mix in range(L):
            torch.testing.assert_close(found[mix][:, t], (1 - share[mix]) * x[:, t] + share[mix] * before)
            with torch.no_grad():
                d_x[:, t] += up[mix][:, t] * (1 - share[mix])
                (d_x[:, t - 1] if t else d_front).add_(up[mix][:, t] * share[mix])
                d_share[mix] += (up[mix][:, t] * (before - x[:, t])).sum(0)
    close(torch.autograd.grad(found, leaves, up), (d_x, d_share, d_front)[: len(leaves)])


def test_keys_are_of_length_one_and_scaled_and_their_gradients_are_these() -> None:
    k, rate = (torch.randn(B, 4, H, P, dtype=torch.float64) for _ in range(2))
    removal, added = (torch.randn(H, P, dtype=torch.float64) for _ in range(2))
    k[0, 0, 0] *= 1e-14  # shorter than what a length is at least
    leaves = [tensor.requires_grad_() for tensor in (k, rate, removal, added)]
    found = reference.rwkv7_keys(*leaves)
    d_kk, d_key, d_a = up = tuple(torch.randn_like(k) for _ in range(3))
    d_kk[0, 0, 0] *= 1e-12
    with torch.no_grad():
        a, u = 1 / (1 + torch.exp(-rate)), k * removal
        length = u.square().sum(-1, keepdim=True).sqrt()
        n, factor = length.clamp(min=1e-12), 1 + (a - 1) * added
        kk = u / n
        close(found, (kk, k * factor, a))
        d_u = (d_kk - (length >= 1e-12) * kk * (kk * d_kk).sum(-1, keepdim=True)) / n
        d_k = d_u * removal + d_key * factor
        d_rate = (d_a + d_key * k * added) * a * (1 - a)
        expected = (d_k, d_rate, (d_u * k).sum((0, 1)), (d_key * k * (a - 1)).sum((0, 1)))
    close(torch.autograd.grad(found, leaves, up), expected)
    whole = reference.rwkv7_keys(*(x.detach() for x in leaves))
    close(
        reference.rwkv7_keys(k[:, 2].detach(), rate[:, 2].detach(), removal.detach(), added.detach()),
        tuple(x[:, 2] for x in whole),
    )


# What fla's kernels are given: functions of their signatures stand in for them.


def of_dplr(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, *, scale: float, initial_state: Any = None,
    output_final_state: bool = False, chunk_size: int = 16, lower_bound: float = -9.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``chunk_rwkv7`` as its documentation says it: ``S = exp(w) S + b (a^T S) + k v^T`` and ``o = scale S^T r``."""
    assert output_final_state
    assert all(x.dtype == torch.bfloat16 for x in (r, w, k, v, a, b))
    assert bool(((lower_bound <= w) & (w <= 0)).all()), "what the caller guarantees"
    # gate_bound_is_safe: half a chunk of the fastest decays, and one, as powers of two below 2^124
    assert -lower_bound * (chunk_size // 2 + 1) / math.log(2) <= 124
    state = r.new_zeros(B, H, P, P, dtype=torch.float32) if initial_state is None else initial_state
    assert state.dtype == torch.float32
    outputs = []
    for t in range(r.shape[1]):
        rt, wt, kt, vt, at, bt = (x[:, t].float() for x in (r, w, k, v, a, b))
        read = torch.einsum("bhk,bhkv->bhv", at, state)
        state = wt.exp()[..., None] * state + bt[..., None] * read[..., None, :] + kt[..., None] * vt[..., None, :]
        outputs.append(scale * torch.einsum("bhkv,bhk->bhv", state, rt))
    return torch.stack(outputs, 1).to(v.dtype), state


def of_recurrent(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, kk: Tensor, a: Tensor, *, scale: float, initial_state: Tensor,
    output_final_state: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``fused_mul_recurrent_rwkv7``."""
    options: Any = {"scale": scale, "output_final_state": output_final_state}
    return of_dplr(r, w, k, v, -kk, kk * a, initial_state=initial_state.float(), **options)


def of_correction(o: Tensor, r: Tensor, k: Tensor, r_k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """``gate_output_correction``: o and g (B, T, H P), all else by heads."""
    assert o.dim() == 3
    return (o + ((r * k * r_k).sum(-1, keepdim=True) * v).view(o.shape)) * g


def of_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float, num_groups: int) -> Tensor:
    """``group_norm``, over the last dimension."""
    return F.group_norm(x.reshape(-1, x.shape[-1]), num_groups, weight, bias, eps).view_as(x)


@pytest.fixture(autouse=True)
def _published(monkeypatch: pytest.MonkeyPatch) -> None:
    published = types.SimpleNamespace(
        chunk_rwkv7=of_dplr,
        fused_mul_recurrent_rwkv7=of_recurrent,
        group_norm=of_norm,
        gate_output_correction=of_correction,
    )
    monkeypatch.setattr(fla, "imported", lambda *_: published)


@pytest.mark.parametrize("started", [False, True])
def test_flas_chunks_are_given_what_makes_them_rwkv7(started: bool) -> None:
    given = drawn(40, torch.bfloat16)
    given[1][0, 0] = 90.0  # the fastest decay there is
    start = torch.randn(B, H, P, P).bfloat16() if started else None
    found = fla.load_rwkv7()(*given, chunk_size=64, initial_state_BHPV=start)
    expected = token_by_token(*(x.double() for x in given), start_BHPV=None if start is None else start.double())
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-2


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
def test_flas_step_leaves_the_new_state_in_place(state_dtype: torch.dtype) -> None:
    given = [x[:, 0] for x in drawn(1, torch.bfloat16)]
    state = torch.randn(B, H, P, P).to(state_dtype)
    expected = state.float().clone()
    out = reference.rwkv7_step(expected, *(x.float() for x in given))
    found = fla.load_rwkv7_step()(state, *given)
    assert state.dtype == state_dtype
    assert float((found - out).norm() / out.norm()) < 1e-2
    assert float((state - expected).norm() / expected.norm()) < 1e-2


@pytest.mark.parametrize("step", [False, True])
def test_flas_end_is_that_of_the_reference(step: bool) -> None:
    lead = [x[:, 0] if step else x for x in drawn(6)[:5]]
    parameters = [torch.randn(H, P, dtype=torch.float64) for _ in range(3)]
    expected = reference.rwkv7_output(*lead, *parameters, eps=64e-5)
    torch.testing.assert_close(fla.load_rwkv7_output()(*lead, *parameters, eps=64e-5), expected)
