"""Reference implementations agree with independent ones, written token by token, and with each other, gradients too."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hybridbench.kernels.attention import reference as attention_reference
from hybridbench.kernels.dense import reference as dense_reference
from hybridbench.kernels.loss import reference as loss_reference
from hybridbench.kernels.scan import reference as scan_reference


def random(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_(grad)


def naive_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None, sinks: int) -> Tensor:
    """One query and one head at a time, keys listed one by one."""
    B, T, H, P = q.shape
    shared = H // k.shape[2]
    rows = []
    for b in range(B):
        for t in range(T):
            for h in range(H):
                seen = [j for j in range(t + 1) if window is None or t - j < window or j < sinks]
                weights = torch.stack([q[b, t, h] @ k[b, j, h // shared] for j in seen]).div(P**0.5).softmax(0)
                rows.append(sum(w * v[b, j, h // shared] for w, j in zip(weights, seen, strict=True)))
    return torch.stack(rows).reshape(B, T, H, -1)


def recurrence(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The SSM token by token: h = exp(dt A) h + dt x B^T, y = C h + D x."""
    batch, T, H, P = x.shape
    repeats = H // B.shape[2]
    B, C = B.repeat_interleave(repeats, 2), C.repeat_interleave(repeats, 2)
    h = torch.zeros(batch, H, P, B.shape[3], dtype=x.dtype) if state is None else state
    outputs = []
    for t in range(T):
        step = torch.log1p(torch.exp(dt[:, t] + dt_bias))
        h = torch.exp(step * A)[:, :, None, None] * h
        h = h + step[:, :, None, None] * x[:, t, :, :, None] * B[:, t, :, None, :]
        outputs.append((h * C[:, t, :, None, :]).sum(-1) + D[:, None] * x[:, t])
    return torch.stack(outputs, 1), h


def ssd_inputs(T: int, H: int = 4, G: int = 2, P: int = 3, N: int = 5, grad: bool = False) -> tuple[Tensor, ...]:
    A = -torch.rand(H, dtype=torch.float64, generator=torch.Generator().manual_seed(T)) * 4 - 0.1
    return (
        random(2, T, H, P, grad=grad),
        random(2, T, H, seed=1, grad=grad),
        A.requires_grad_(grad),
        random(2, T, G, N, seed=2, grad=grad),
        random(2, T, G, N, seed=3, grad=grad),
        random(H, seed=4, grad=grad),
        random(H, seed=5, grad=grad),
    )


def same_gradients(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], inputs: tuple[Tensor, ...]) -> None:
    upstream = [random(*y.shape, seed=9) for y in ours]
    mine = torch.autograd.grad(ours, inputs, upstream)
    for a, b in zip(mine, torch.autograd.grad(theirs, inputs, upstream), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("window", "sinks"), [(None, 0), (4, 0), (1, 0), (4, 2), (100, 3), (3, 50)])
@pytest.mark.parametrize(("H", "K", "P", "V"), [(4, 2, 3, 5), (3, 3, 4, 4), (4, 1, 5, 2)])
def test_attention_is_softmax_over_the_visible_keys(
    H: int, K: int, P: int, V: int, window: int | None, sinks: int
) -> None:
    inputs = (
        random(2, 11, H, P, grad=True),
        random(2, 11, K, P, seed=1, grad=True),
        random(2, 11, K, V, seed=2, grad=True),
    )
    ours = attention_reference.attention(*inputs, window=window, sinks=sinks)
    theirs = naive_attention(*inputs, window, sinks)
    torch.testing.assert_close(ours, theirs)
    same_gradients((ours,), (theirs,), inputs)


@pytest.mark.parametrize(("window", "sinks"), [(None, 0), (7, 0), (7, 3), (30, 18)])
def test_attention_in_query_blocks_is_attention_at_once(
    monkeypatch: pytest.MonkeyPatch, window: int | None, sinks: int
) -> None:
    inputs = (
        random(2, 50, 4, 3, grad=True),
        random(2, 50, 2, 3, seed=1, grad=True),
        random(2, 50, 2, 5, seed=2, grad=True),
    )
    whole = attention_reference.attention(*inputs, window=window, sinks=sinks)
    monkeypatch.setattr(attention_reference, "SCORE_ELEMENTS", 1)
    blocks = attention_reference.attention(*inputs, window=window, sinks=sinks)
    torch.testing.assert_close(blocks, whole)
    same_gradients((blocks,), (whole,), inputs)
    with torch.no_grad():
        torch.testing.assert_close(attention_reference.attention(*inputs, window=window, sinks=sinks), whole.detach())


class Largest(TorchDispatchMode):
    """Remembers the most elements any tensor had that an operation returned, and counts the operations."""

    elements = 0
    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize(("window", "sinks"), [(None, 0), (256, 16)])
def test_long_attention_never_holds_all_scores(monkeypatch: pytest.MonkeyPatch, window: int | None, sinks: int) -> None:
    monkeypatch.setattr(attention_reference, "SCORE_ELEMENTS", 1 << 20)
    T, H = 2048, 2
    q, k, v = torch.randn(1, T, H, 8), torch.randn(1, T, 1, 8), torch.randn(1, T, 1, 8)
    with torch.no_grad(), Largest() as seen:
        attention_reference.attention(q, k, v, window=window, sinks=sinks)
    assert seen.elements <= 1 << 20 < H * T * T


def test_attention_is_a_row_of_decode_steps() -> None:
    q, k, v = random(2, 9, 4, 3), random(2, 9, 2, 3, seed=1), random(2, 9, 2, 5, seed=2)
    whole = attention_reference.attention(q, k, v)
    for t in range(9):
        length = torch.full((2,), t + 1, dtype=torch.int32)
        torch.testing.assert_close(attention_reference.attention_decode(q[:, t], k, v, length), whole[:, t])


def test_windowed_attention_is_decode_on_a_ring_buffer() -> None:
    """Slots of a ring are out of order and the window and sinks are what it still holds."""
    window, sinks, T = 4, 2, 15
    q, k, v = random(1, T, 2, 3), random(1, T, 1, 3, seed=1), random(1, T, 1, 5, seed=2)
    whole = attention_reference.attention(q, k, v, window=window, sinks=sinks)
    k_ring = torch.full((1, sinks + window, 1, 3), math.nan, dtype=torch.float64)
    v_ring = torch.full((1, sinks + window, 1, 5), math.nan, dtype=torch.float64)
    for t in range(T):
        slot = t if t < sinks else sinks + (t - sinks) % window
        k_ring[:, slot], v_ring[:, slot] = k[:, t], v[:, t]
        length = torch.tensor([min(t + 1, sinks + window)], dtype=torch.int32)
        torch.testing.assert_close(attention_reference.attention_decode(q[:, t], k_ring, v_ring, length), whole[:, t])


@pytest.mark.parametrize("T", [1, 7, 8, 9, 21])
@pytest.mark.parametrize(("H", "G"), [(4, 2), (4, 1), (3, 3)])
def test_ssd_is_the_recurrence(T: int, H: int, G: int) -> None:
    inputs = ssd_inputs(T, H, G, grad=True)
    start = random(2, H, 3, 5, seed=6, grad=True)
    for state in (None, start):
        ours = scan_reference.ssd(*inputs, chunk_size=8, initial_state_BHPN=state)
        theirs = recurrence(*inputs, state)
        torch.testing.assert_close(ours[0], theirs[0])
        torch.testing.assert_close(ours[1], theirs[1])
        same_gradients(ours, theirs, (*inputs, start) if state is not None else inputs)


def test_ssd_gradients_are_numerical_gradients() -> None:
    inputs = ssd_inputs(5, H=2, G=1, P=2, N=2, grad=True)
    assert torch.autograd.gradcheck(lambda *given: scan_reference.ssd(*given, chunk_size=2), inputs)


def test_ssd_in_segments_is_ssd_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = ssd_inputs(45)
    whole = scan_reference.ssd(*inputs, chunk_size=8)
    monkeypatch.setattr(scan_reference.mamba2, "CHUNK_ELEMENTS", 2 * 2 * 4 * 8 * 8)
    for a, b in zip(scan_reference.ssd(*inputs, chunk_size=8), whole, strict=True):
        torch.testing.assert_close(a, b)


def test_ssd_twice_is_ssd_once_is_many_steps() -> None:
    x, dt, A, B, C, D, bias = ssd_inputs(23)
    whole, final = scan_reference.ssd(x, dt, A, B, C, D, bias, chunk_size=8)
    y1, state = scan_reference.ssd(x[:, :10], dt[:, :10], A, B[:, :10], C[:, :10], D, bias, chunk_size=8)
    y2, last = scan_reference.ssd(
        x[:, 10:], dt[:, 10:], A, B[:, 10:], C[:, 10:], D, bias, chunk_size=8, initial_state_BHPN=state
    )
    torch.testing.assert_close(torch.cat([y1, y2], 1), whole)
    torch.testing.assert_close(last, final)
    running = torch.zeros_like(final)
    for t in range(23):
        y = scan_reference.ssd_step(running, x[:, t], dt[:, t], A, B[:, t], C[:, t], D, bias)
        torch.testing.assert_close(y, whole[:, t])
    torch.testing.assert_close(running, final)


def test_ssd_of_strong_decay_stays_finite() -> None:
    """The exp of a sum of decays of the wrong sign overflows float32; its gradient is NaN even where masked."""
    x, dt, _, B, C, D, bias = (t.float() for t in ssd_inputs(300))
    A = torch.full((4,), -16.0, requires_grad=True)
    y, state = scan_reference.ssd(x, dt + 3, A, B, C, D, bias, chunk_size=256)
    assert y.isfinite().all()
    assert state.isfinite().all()
    assert torch.autograd.grad(y.sum(), A)[0].isfinite().all()


def test_ssd_takes_a_few_large_steps_in_bounded_memory() -> None:
    """16 chunks take a handful of operations each, where a loop over tokens takes thousands."""
    T = 4096
    x, B, C = torch.randn(1, T, 16, 32), torch.randn(1, T, 1, 16), torch.randn(1, T, 1, 16)
    inputs = x, torch.randn(1, T, 16), -torch.rand(16), B, C, torch.ones(16), torch.ones(16)
    with torch.no_grad(), Largest() as seen:
        scan_reference.ssd(*inputs, chunk_size=256)
    assert seen.elements <= scan_reference.CHUNK_ELEMENTS
    assert seen.operations < 400


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_references_can_be_traced() -> None:
    inputs = tuple(t.float() for t in ssd_inputs(20))
    traced = torch.jit.trace(lambda *given: scan_reference.ssd(*given, chunk_size=8), inputs, check_trace=False)
    torch.testing.assert_close(traced(*inputs), scan_reference.ssd(*inputs, chunk_size=8))
    q = torch.randn(1, 12, 4, 8)
    traced = torch.jit.trace(
        lambda q: attention_reference.attention(q, q[:, :, :2], q[:, :, :2]), (q,), check_trace=False
    )
    torch.testing.assert_close(traced(q), attention_reference.attention(q, q[:, :, :2], q[:, :, :2]))


@pytest.mark.parametrize("T", [1, 3, 10])
def test_conv1d_is_a_sum_over_taps_and_a_row_of_steps(T: int) -> None:
    x, weight, bias = random(2, T, 6, grad=True), random(6, 4, grad=True), random(6, grad=True)
    ours = scan_reference.conv1d(x, weight, bias)
    rows = []
    for t in range(T):
        total = bias
        for w in range(4):
            if t - 3 + w >= 0:
                total = total + weight[:, w] * x[:, t - 3 + w]
        rows.append(total * torch.sigmoid(total))
    theirs = torch.stack([row.expand(2, 6) for row in rows], 1)
    torch.testing.assert_close(ours, theirs)
    same_gradients((ours,), (theirs,), (x, weight, bias))
    state = torch.zeros(2, 6, 4, dtype=torch.float64)
    with torch.no_grad():
        for t in range(T):
            torch.testing.assert_close(scan_reference.conv1d_step(state, x[:, t], weight, bias), ours[:, t])
        torch.testing.assert_close(state, F.pad(x, (0, 0, 4, 0))[:, -4:].transpose(1, 2))


def test_loss_is_cross_entropy_of_the_logits() -> None:
    hidden, weight, target = random(7, 5, grad=True), random(11, 5, grad=True), torch.arange(7) % 11
    ours = loss_reference.linear_cross_entropy(hidden, weight, target)
    p = (hidden @ weight.T).exp()
    theirs = -(p[torch.arange(7), target] / p.sum(1)).log().mean()
    torch.testing.assert_close(ours, theirs)
    same_gradients((ours,), (theirs,), (hidden, weight))


def test_results_come_back_in_the_inputs_dtype_and_states_wide() -> None:
    inputs = [t.bfloat16() for t in ssd_inputs(9)]
    inputs[2] = inputs[2].float()
    y, state = scan_reference.ssd(*inputs, chunk_size=8)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    q = torch.randn(1, 3, 2, 4).bfloat16()
    assert attention_reference.attention(q, q, q).dtype == torch.bfloat16
    assert loss_reference.linear_cross_entropy(q[0, 0], q[0, 1], torch.tensor([0, 1])).dtype == torch.float32


def test_a_step_reads_its_output_before_rounding_the_state() -> None:
    x, dt, A, B, C, D, bias = (t[:, 0].float() if t.dim() > 1 else t.float() for t in ssd_inputs(1))
    start = torch.randn(2, 4, 3, 5).bfloat16()
    wide_state, narrow_state = start.float(), start.clone()
    y_wide = scan_reference.ssd_step(wide_state, x, dt, A, B, C, D, bias)
    y_narrow = scan_reference.ssd_step(narrow_state, x, dt, A, B, C, D, bias)
    assert torch.equal(y_wide, y_narrow)
    assert narrow_state.dtype == torch.bfloat16
    assert torch.equal(narrow_state, wide_state.bfloat16())


def test_experts_are_a_weighted_sum_of_each_tokens_mlps() -> None:
    generator = torch.Generator().manual_seed(7)
    x, w_in, w_out = (torch.randn(*shape, generator=generator) for shape in ((9, 6), (3, 8, 6), (3, 6, 4)))
    chosen = torch.tensor([[0, 2], [2, 0], [1, 2]] * 3)
    weight = torch.rand(9, 2, generator=generator)
    expected = torch.zeros(9, 6)
    for n in range(9):
        for k in range(2):
            e = chosen[n, k]
            hidden = w_in[e] @ x[n]
            expected[n] += weight[n, k] * (w_out[e] @ (torch.nn.functional.silu(hidden[:4]) * hidden[4:]))
    assert torch.allclose(dense_reference.experts(x, chosen, weight, w_in, w_out), expected, atol=1e-5)
