"""triton_narrow: numbers of 8 and 16 bits in the kernels of a decode step: how they are rounded, and codes multiplied.

Codes of 8 bits are multiplied in float16, which holds them exactly: a Hopper GPU turns two codes of E4M3 into float16
by one instruction, and into bfloat16 by four, two of them slow ones. So what multiplies codes is stored in float16 too.
It has three more bits than bfloat16, but ends at 65504, where it saturates, and at 6e-8.

Importing this module needs triton.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hybridbench.kernels.triton_jit import jit

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Whether kernels run in triton's interpreter, which has no machine instructions."""

LARGEST_HALF = tl.constexpr(65504.0)
"""The largest number of float16."""


@jit
def as_kind(x: tl.tensor, kind: tl.constexpr) -> tl.tensor:
    """``x`` rounded to a dtype. Float16 saturates; NaN stays."""
    if kind == tl.float16 and x.dtype != tl.float16:
        x = tl.minimum(x.to(tl.float32), LARGEST_HALF, propagate_nan=tl.PropagateNan.ALL)
        x = tl.maximum(x, -LARGEST_HALF, propagate_nan=tl.PropagateNan.ALL)
    return x.to(kind)


@jit
def as_pointed(x: tl.tensor, ptr: tl.tensor) -> tl.tensor:
    """``x`` in the dtype of what is stored at ``ptr``."""
    return as_kind(x, ptr.dtype.element_ty)


@jit
def as_factor(w: tl.tensor, x: tl.tensor) -> tl.tensor:
    """Weights or codes ``w`` in the dtype of what they are multiplied with.

    Integers become float16 by a sum: their bits plus 128, below those of 1024, are the number 1152 more. Triton's own
    conversion is one slow instruction for each.
    """
    if w.dtype == tl.int8 and x.dtype == tl.float16 and not INTERPRETED:
        wide = tl.inline_asm_elementwise(
            """{
            .reg .b32 t, m;
            mov.b32 m, 0x64806480;
            xor.b32 t, $2, 0x80808080;
            prmt.b32 $0, t, 0x64646464, 0x4140;
            prmt.b32 $1, t, 0x64646464, 0x4342;
            sub.f16x2 $0, $0, m;
            sub.f16x2 $1, $1, m;
            }""",
            "=&r,=&r,r",
            [w],
            dtype=tl.float16,
            is_pure=True,
            pack=4,
        )
    else:
        wide = w.to(x.dtype)
    return wide


@jit
def pairs_as_factors(pairs: tl.tensor, x: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The first and the second of two codes of E4M3 in each integer of 16 bits, in the dtype of ``x``."""
    if x.dtype == tl.float16 and not INTERPRETED:
        first, second = tl.inline_asm_elementwise(
            """{
            .reg .b32 t;
            .reg .b16 a, b;
            prmt.b32 t, $4, $5, 0x6420;
            mov.b32 {a, b}, t;
            cvt.rn.f16x2.e4m3x2 $0, a;
            cvt.rn.f16x2.e4m3x2 $1, b;
            prmt.b32 t, $4, $5, 0x7531;
            mov.b32 {a, b}, t;
            cvt.rn.f16x2.e4m3x2 $2, a;
            cvt.rn.f16x2.e4m3x2 $3, b;
            }""",
            "=&r,=&r,=&r,=&r,r,r",
            [pairs],
            dtype=(tl.float16, tl.float16),
            is_pure=True,
            pack=4,
        )
    else:
        bits = pairs.to(tl.uint16, bitcast=True)
        first = (bits & 255).to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(x.dtype)
        second = (bits >> 8).to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(x.dtype)
    return first, second
