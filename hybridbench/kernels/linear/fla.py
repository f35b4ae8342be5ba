"""fla: flash-linear-attention's kernels of simple gated linear attention as lightning attention, behind our signatures.

Written against fla-core 0.6.0, imported only when one of them is asked for. Its own ``lightning_attn`` has other decays
than transformers' MiniMax; ``simple_gla`` takes any, one a head (``g_gamma``). What Triton miscompiles for Hopper
(``kernels.delta.fla``) is the branch of its backward for decays of every position, which is not taken here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hybridbench.kernels.backend import Implementation, imported, needs_cuda_and_float32
from hybridbench.kernels.delta.fla import (
    NO_FLA,
    one_position,
    unsupported_16_bit_products,
    unsupported_chunk_size,
    wide_state,
)
from hybridbench.problem import Problem

CHUNKS = (16, 32, 64)
"""Chunk sizes that are taken: powers of two from the least side of a product to fla's own."""

UNSCALED = {"scale": 1.0, "output_final_state": True}
"""Scores are not divided by the root of a head's channels, and the state comes back."""


def load_lightning() -> Callable[..., Any]:
    """``lightning`` by fla's chunk kernels. The states between chunks are in the activations' dtype, the last one in
    float32; a state to start from has gradients too.
    """
    chunked: Callable[..., Any] = imported("fla.ops.simple_gla", NO_FLA).chunk_simple_gla

    def lightning(
        q_BTHP: Tensor,
        k_BTHP: Tensor,
        v_BTHP: Tensor,
        log_decay_H: Tensor,
        *,
        chunk_size: int,
        initial_state_BHPP: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        state = wide_state(initial_state_BHPP)
        o_BTHP, final_state_BHPP = chunked(
            q_BTHP, k_BTHP, v_BTHP, g_gamma=log_decay_H, initial_state=state, chunk_size=chunk_size, **UNSCALED
        )
        return o_BTHP, final_state_BHPP

    return lightning


def load_lightning_step() -> Callable[..., Any]:
    """``lightning_step`` by fla's recurrent kernel over one position, whose new state is copied over the old one."""
    recurrent: Callable[..., Any] = imported("fla.ops.simple_gla", NO_FLA).fused_recurrent_simple_gla

    def lightning_step(state_BHPP: Tensor, q_BHP: Tensor, k_BHP: Tensor, v_BHP: Tensor, log_decay_H: Tensor) -> Tensor:
        return one_position(recurrent, state_BHPP, (q_BHP, k_BHP, v_BHP), g_gamma=log_decay_H, **UNSCALED)

    return lightning_step


def unsupported_lightning(problem: Problem) -> str | None:
    """Why the chunk kernels do not support a problem: also heads of an odd number of channels."""
    if reason := unsupported_16_bit_products(problem):
        return reason
    if problem.head_dim % 2:
        return f"its backward takes an even number of channels a head, and head_dim is {problem.head_dim}"
    return unsupported_chunk_size(problem, CHUNKS)


lightning = Implementation(load_lightning, unsupported_lightning)
lightning_step = Implementation(load_lightning_step, needs_cuda_and_float32)
