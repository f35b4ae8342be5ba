"""row: what the fused decode step knows of a mixer, and sizes that its kernels cannot hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hybridbench.model.mixed import Mixed


@dataclass(frozen=True)
class MixerStep:
    """The row of a mixer.

    Attributes:
        plan: ``plan(chain, module, cache, head_eps)`` plans the launches up to a ``Mixed``. Where ``head_eps`` is not
            None, each head's output is divided by its own root mean square with that epsilon, as a parallel block
            wants it, and no ``squares`` are left.
        unfused: says why the kernels cannot run a block, or None.
        unfused_branch: the same for a branch of a parallel block, beside ``unfused``.
    """

    plan: Callable[[Any, Any, Any, float | None], Mixed]
    unfused: Callable[[Any], str | None]
    unfused_branch: Callable[[Any], str | None] = lambda _block: None


def odd_width(*widths: int) -> str | None:
    """Why widths are unsupported: products take blocks of 16 columns, the least of a tensor-core product."""
    odd = next((width for width in widths if width % 16), None)
    return None if odd is None else f"widths must be multiples of 16, and one is {odd}"


STATE_ELEMENTS = 32_768
"""The most of one head's state that the registers of a program hold, in float32 and padded to powers of two."""


def large_state(*sizes: int) -> str | None:
    """Why a head's state is unsupported."""
    padded = 1
    for size in sizes:
        padded *= 1 << (size - 1).bit_length()
    if padded <= STATE_ELEMENTS:
        return None
    return f"a program holds one head's state in its registers, and {' x '.join(map(str, sizes))} is too large"


STATE_OF_THREAD = 64
"""Elements of a state that a thread updates where a sum goes over rows of the state, and so over warps. With 32 a
thread, twice as many warps wait for one another: at 64 sequences at 1b, an H200 updates a layer of lightning attention
in 73 us, and with 64 in 49; of RWKV-7 in 69 and 41.
"""

MOST_WARPS = 8
"""Of a program that updates a state. With 16 of 64 registers a thread, gated delta net's took 116 us in place of 72."""


def state_warps(elements: int, most: int = MOST_WARPS) -> int:
    """Warps of a program that updates so many elements of a state, a power of two."""
    return max(1, min(most, elements // (32 * STATE_OF_THREAD)))
