"""Runs the Triton decode kernel on the CPU in triton's interpreter; prints one JSON list of [case, relative error].

A program of its own, because ``TRITON_INTERPRET`` has to be set before triton is first imported and then holds for the
whole process.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton.language as tl
import triton.runtime.interpreter as interpreter

from hybridbench.kernels.attention import reference, triton_decode

CASES = [
    # dtype, H, K, P, V, S, lengths, splits
    ("float32", 8, 2, 64, 64, 300, (1, 300), 4),
    ("float32", 8, 2, 72, 128, 300, (63, 129), 4),
    ("float32", 3, 3, 24, 48, 130, (64, 65), 3),
    ("float32", 20, 1, 16, 8, 200, (200, 7), 1),
    ("float32", 4, 2, 96, 192, 500, (499, 33), 7),
    ("float32", 12, 4, 96, 192, 700, (699, 33), 40),  # 22 splits are used, of which 16 are added up at a time
    ("bfloat16", 8, 2, 64, 64, 300, (1, 300), 5),
    ("bfloat16", 4, 1, 72, 128, 300, (257, 128), 2),
    ("float16", 8, 2, 96, 96, 300, (300, 100), 3),
]


def mend_the_interpreter() -> None:
    """Gaps of triton 3.6's interpreter: loop bounds under NumPy 2.4, products of bfloat16, conversions, sums into
    tiles, which it lacks.

    It calls ``int()`` on one-element arrays, which NumPy now refuses, it multiplies the 16-bit patterns that stand for
    bfloat16 as if they were integers, and so it converts integers to them. Where a mantissa of E4M3 rounds up to the
    next power of two it loses the bit.
    """
    patch_lang, create_dot = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot
    convert_float = interpreter._convert_float

    def patched_convert(given: Any, kind: Any, wanted: Any, rounding: Any) -> Any:
        if kind != tl.float32 or wanted != tl.float8e4nv:
            return convert_float(given, kind, wanted, rounding)
        numbers = np.frombuffer(given.tobytes(), dtype=np.float32).reshape(given.shape)
        return torch.from_numpy(numbers.copy()).to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    def patched_lang(tensor: Any, scope: Any) -> None:
        patch_lang(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def as_float32(handle: Any) -> Any:
        if handle.dtype != tl.bfloat16:
            return handle
        bits = handle.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def patched_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(self, as_float32(a), as_float32(b), *rest)

    def patched_from_int(self: Any, given: Any, kind: Any) -> Any:
        wide = self.cast_impl(given, tl.float32)
        return self.cast_impl(wide, kind) if kind.scalar == tl.bfloat16 else self.cast_impl(given, kind)

    def sum_into_tile(self: Any, _kind: Any, tiles: Any, value: Any, indices: Any) -> Any:
        there = self.create_descriptor_load(tiles, indices, None, None)
        total = self.create_fadd(as_float32(there), as_float32(value))
        return self.create_descriptor_store(tiles, self.cast_impl(total, value.dtype), indices)

    interpreter.InterpreterBuilder.create_si_to_fp = patched_from_int
    interpreter.InterpreterBuilder.create_descriptor_reduce = sum_into_tile
    interpreter._convert_float = patched_convert
    interpreter._patch_lang_tensor = patched_lang
    interpreter.InterpreterBuilder.create_dot = patched_dot


def relative_error(dtype: str, H: int, K: int, P: int, V: int, S: int, lengths: tuple[int, ...], splits: int) -> float:
    """The kernel's distance from the float64 reference; dead slots hold NaN, which nobody may read."""
    kind = getattr(torch, dtype)
    length = torch.tensor(lengths, dtype=torch.int32)
    dead = (torch.arange(S) >= length[:, None])[:, :, None, None]
    q = torch.randn(2, H + 1, P + 8)[:, 1:, 8:].to(kind)
    k, v = torch.randn(2, S, K, P).to(kind), torch.randn(2, S, K, V).to(kind)
    expected = reference.attention_decode(q.double(), k.double(), v.double(), length)
    k, v = k.masked_fill(dead, torch.nan), v.masked_fill(dead, torch.nan)
    out = triton_decode.attention_decode(q, k, v, length, splits=splits)
    assert out.shape == (2, H, V)
    assert out.dtype == kind
    return float((out.double() - expected).norm() / expected.norm())


if __name__ == "__main__":
    mend_the_interpreter()
    torch.manual_seed(0)
    json.dump([[str(case), relative_error(*case)] for case in CASES], sys.stdout)
