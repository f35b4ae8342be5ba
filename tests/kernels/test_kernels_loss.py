"""The chunked loss gives the whole-logits loss and gradients while never holding the whole logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hybridbench.kernels.loss import chunked, reference

N, V, D = 100, 300, 16


class Largest(TorchDispatchMode):
    """Remembers the most elements any tensor had that an operation returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.fixture(params=[1, 7, 64, 1000])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Chunks of so many tokens, the last one shorter."""
    monkeypatch.setattr(chunked, "CHUNK_BYTES", 4 * V * request.param)
    assert chunked.chunk_rows(N, V) == min(N, {1000: 960}.get(request.param, request.param))
    return int(request.param)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(V, (N,), generator=generator)


def test_chunks_add_up_to_the_whole(rows: int) -> None:
    hidden, weight, target = inputs()
    ours, theirs = chunked.chunked(hidden, weight, target), reference.linear_cross_entropy(hidden, weight, target)
    torch.testing.assert_close(ours, theirs)
    mine = torch.autograd.grad(3 * ours, (hidden, weight))
    for a, b in zip(mine, torch.autograd.grad(3 * theirs, (hidden, weight)), strict=True):
        torch.testing.assert_close(a, b)


def test_bfloat16_chunks_are_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred chunks of one token, all adding to the same row of the weight: a bfloat16 sum would lose a percent."""
    monkeypatch.setattr(chunked, "CHUNK_BYTES", 1)
    hidden, weight, target = inputs(torch.bfloat16)
    hidden, target = hidden.detach().abs().requires_grad_(), torch.zeros_like(target)
    value = chunked.chunked(hidden, weight, target)
    assert value.dtype == torch.float32
    expected = reference.linear_cross_entropy(hidden.double(), weight.double(), target)
    assert abs(float(value.detach()) / float(expected.detach()) - 1) < 1e-3
    ours = torch.autograd.grad(value, (hidden, weight))
    for a, b in zip(ours, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        assert a.dtype == torch.bfloat16
        assert float((a.double() - b.double()).norm() / b.double().norm()) < 5e-3


def test_the_whole_logits_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK_BYTES", 4 * V * 20)
    hidden, weight, target = inputs(torch.float32)
    with Largest() as seen:
        chunked.chunked(hidden, weight, target).backward()
    assert seen.elements == 20 * V
    with Largest() as whole:
        reference.linear_cross_entropy(hidden, weight, target).backward()
    assert whole.elements == N * V


def test_a_real_vocabulary_gets_chunks_of_about_128_mib() -> None:
    rows = chunked.chunk_rows(1 << 20, 128256)
    assert 64 << 20 <= rows * 128256 * 4 <= 128 << 20
    assert rows % 64 == 0


@pytest.mark.parametrize(("hidden_grad", "weight_grad"), [(True, False), (False, True), (False, False)])
def test_only_wanted_gradients_are_made(hidden_grad: bool, weight_grad: bool) -> None:
    hidden, weight, target = inputs()
    hidden.requires_grad_(hidden_grad), weight.requires_grad_(weight_grad)
    value = chunked.chunked(hidden, weight, target)
    assert value.requires_grad == (hidden_grad or weight_grad)
    if value.requires_grad:
        value.backward()
    assert (hidden.grad is not None) == hidden_grad
    assert (weight.grad is not None) == weight_grad


def test_no_gradient_mode_makes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "_accumulate", lambda *_: pytest.fail("the weight's gradient was computed"))
    hidden, weight, target = inputs()
    with torch.no_grad():
        assert not chunked.chunked(hidden, weight, target).requires_grad
