"""flash_attn_4: flash-attn 4's attention as operators that PyTorch can trace through, forward and backward.

flash-attn 4 compiles its kernels from Python at the first problem of a kind, which takes 2 to 4 s each; a new length is
not a new kind. It can keep them on disk, as Triton always does. This module makes it do so, unless the environment says
otherwise or has no user name, which is part of the folder's name.

Its own autograd function compiles as it runs, which ``torch.compile`` cannot trace. So its two calls, forward and
backward, are custom operators here. Written against flash-attn-4 4.0.0b36 with nvidia-cutlass-dsl 4.8.1, which
importing this module needs.
"""

from __future__ import annotations

import contextlib
import getpass
import math
import os
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from hybridbench.errors import Unsupported


def keep_compiled() -> None:
    """Makes flash-attn 4 keep its kernels on disk: it reads the environment when it is imported."""
    with contextlib.suppress(KeyError, OSError):
        getpass.getuser()
        os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")


keep_compiled()
from flash_attn.cute.interface import _flash_attn_bwd, _flash_attn_fwd  # noqa: E402

warnings.filterwarnings("ignore", message="Argument aux_data", category=UserWarning)  # at each kernel's compilation

UNLIMITED = -1
"""The window that stands for no window."""


def _settings(q: Tensor, window: int) -> dict[str, Any]:
    """Arguments of a call. A window includes the query's own position; flash-attn's sides do not."""
    sides = (None, None) if window == UNLIMITED else (window - 1, 0)
    return {
        "softmax_scale": 1 / math.sqrt(q.shape[-1]),
        "causal": True,
        **dict(zip(("window_size_left", "window_size_right"), sides, strict=True)),
    }


def _run(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    out, lse, *_ = _flash_attn_fwd(q, k, v, return_lse=True, **_settings(q, window))
    return out, lse


def _run_backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    d_q, d_k, d_v, *_ = _flash_attn_bwd(q, k, v, out, d_out, lse, **_settings(q, window))
    return d_q, d_k, d_v


_op = custom_op(
    "hybridbench::flash_attention_4",
    _run,
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, int window) -> (Tensor, Tensor)",
)
_backward_op = custom_op(
    "hybridbench::flash_attention_4_backward",
    _run_backward,
    mutates_args=(),
    schema="(Tensor d_out, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, int window)"
    " -> (Tensor, Tensor, Tensor)",
)


@_op.register_fake
def _(q: Tensor, _k: Tensor, v: Tensor, _window: int) -> tuple[Tensor, Tensor]:
    B, T, H, _ = q.shape
    return q.new_empty(B, T, H, v.shape[-1]), q.new_empty(B, H, T, dtype=torch.float32)


@_backward_op.register_fake
def _(_d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.window = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, *output)


def _undo(ctx: Any, d_out: Tensor, _d_lse: Tensor | None) -> tuple[Any, ...]:
    return (*_backward_op(d_out, *ctx.saved_tensors, ctx.window), None)


_op.register_autograd(_undo, setup_context=_keep)


def attention(q_BTHP: Tensor, k_BTKP: Tensor, v_BTKV: Tensor, *, window: int | None = None, sinks: int = 0) -> Tensor:
    """Causal attention as ``reference.attention`` defines it, without sinks.

    Raises:
        Unsupported: sinks were asked for.
    """
    if window is not None and sinks:
        raise Unsupported(f"flash-attn 4 has windows but no sinks, and {sinks} were asked for; use flex.")
    out_BTHV: Tensor = _op(q_BTHP, k_BTKP, v_BTKV, UNLIMITED if window is None else window)[0]
    return out_BTHV
