"""flash-attn 4's two calls as operators: gradients, windows, promises, compiled graphs, on a stand-in for both calls.

The stand-in is the reference and autograd behind flash-attn 4's signatures. The kernels themselves run on a GPU only.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from fakes import HeldToFakes
from torch import Tensor

from hybridbench.errors import Unsupported
from hybridbench.kernels.attention import reference

MODULE = "hybridbench.kernels.attention.flash_attn_4"
KEEPS = "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED"


def window_of(left: int | None, right: int | None) -> int | None:
    """Sides do not count the query's own position, as flash-attn's do not."""
    assert (left is None) == (right is None)
    if left is None:
        return None
    assert right == 0
    return left + 1


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    softmax_scale: float,
    causal: bool,
    return_lse: bool,
    window_size_left: int | None,
    window_size_right: int | None,
) -> tuple[Tensor, Tensor]:
    assert causal
    assert return_lse
    assert math.isclose(softmax_scale, q.shape[-1] ** -0.5)
    out = reference.attention(q, k, v, window=window_of(window_size_left, window_size_right), sinks=0)
    scores = torch.einsum("bthp,bshp->bhts", q, k.repeat_interleave(q.shape[2] // k.shape[2], 2)).float()
    return out.contiguous(), torch.logsumexp(scores * softmax_scale, -1)


def backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, dout: Tensor, lse: Tensor, **settings: Any
) -> tuple[Tensor, ...]:
    def run() -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in (q, k, v)]
        made, sums = forward(*leaves, return_lse=True, **settings)
        torch.testing.assert_close(made.detach(), out)
        torch.testing.assert_close(sums.detach(), lse)
        return torch.autograd.grad(made, leaves, dout)

    with ThreadPoolExecutor(1) as pool:  # inside a custom operator autograd is off, but for its thread only
        return tuple(torch.empty_like(x).copy_(g) for x, g in zip((q, k, v), pool.submit(run).result(), strict=True))


@pytest.fixture(scope="module")
def attention() -> Iterator[Any]:
    """``attention`` of the module, on the stand-in."""
    if importlib.util.find_spec("flash_attn"):
        pytest.skip("flash_attn is installed, which the tests of a GPU run")
    names = ("flash_attn", "flash_attn.cute", "flash_attn.cute.interface")
    before, kept = {name: sys.modules.get(name) for name in names}, os.environ.pop(KEEPS, None)
    sys.modules.update({name: types.ModuleType(name) for name in names})
    vars(sys.modules[names[-1]]).update(_flash_attn_fwd=forward, _flash_attn_bwd=backward)
    yield importlib.import_module(MODULE).attention
    del sys.modules[MODULE], os.environ[KEEPS]
    if kept is not None:
        os.environ[KEEPS] = kept
    for name, module in before.items():
        if module is None:
            del sys.modules[name]
        else:
            sys.modules[name] = module


def test_what_is_compiled_is_kept_on_disk(attention: Any) -> None:
    assert os.environ[KEEPS] == "1"


@pytest.mark.parametrize("unknown", [KeyError, OSError])
def test_a_user_without_a_name_keeps_nothing(
    attention: Any, unknown: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """flash-attn 4 could not be imported: it calls its folder by that name."""

    def getuser() -> str:
        raise unknown

    monkeypatch.delenv(KEEPS)
    monkeypatch.setattr("getpass.getuser", getuser)
    sys.modules[MODULE].keep_compiled()
    assert KEEPS not in os.environ


def draw(dtype: torch.dtype, v_width: int = 16) -> list[Tensor]:
    """Queries, keys and values of 4 and 2 heads over 24 tokens, the values in wider rows."""
    torch.manual_seed(0)
    wide = torch.randn(2, 24, 2, v_width + 8).to(dtype)
    parts = [torch.randn(2, 24, 4, 16).to(dtype), torch.randn(2, 24, 2, 16).to(dtype), wide[..., 8:]]
    return [part.requires_grad_() for part in parts]


@pytest.mark.parametrize("window", [None, 1, 7])
def test_gradients_are_the_references(attention: Any, window: int | None) -> None:
    inputs = draw(torch.float64)
    upstream = torch.randn(2, 24, 4, 16, dtype=torch.float64)
    found, expected = attention(*inputs, window=window), reference.attention(*inputs, window=window, sinks=0)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_it_keeps_its_promises_and_compiles(attention: Any) -> None:
    inputs = draw(torch.bfloat16)
    with HeldToFakes() as fakes:
        torch.autograd.grad(attention(*inputs).sum(), inputs)
    assert fakes.checked == {"hybridbench::flash_attention_4", "hybridbench::flash_attention_4_backward"}

    def layer(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q * 2, k, v + 1).flatten(2) * 3

    compiled = torch.compile(layer, fullgraph=True, dynamic=False, backend="aot_eager")
    both = [torch.autograd.grad(run(*inputs).float().square().sum(), inputs) for run in (layer, compiled)]
    for mine, theirs in zip(*both, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_wider_values_run_forward_and_sinks_are_refused(attention: Any) -> None:
    with torch.no_grad():
        assert attention(*draw(torch.float32, v_width=24)).shape == (2, 24, 4, 24)
    with pytest.raises(Unsupported, match="4 were asked for"):
        attention(*draw(torch.float32), window=8, sinks=4)
