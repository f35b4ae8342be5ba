"""Kernels that convert every code of 8 bits, and round numbers to float16, as those of a decode step do."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_narrow import as_factor, as_pointed, pairs_as_factors

EDGES = (0.0, -1.0, 65519.0, 65520.0, -1e5, float("inf"), -float("inf"), float("nan"))
"""Numbers that float16 rounds, and numbers beyond it."""


@jit
def _convert(code_ptr: tl.tensor, out_ptr: tl.tensor) -> None:
    i = tl.arange(0, 256)
    x = tl.zeros((1,), out_ptr.dtype.element_ty)
    tl.store(out_ptr + i, as_factor(tl.load(code_ptr + i), x))


@jit
def _convert_pairs(pair_ptr: tl.tensor, first_ptr: tl.tensor, second_ptr: tl.tensor) -> None:
    i = tl.arange(0, 128)
    x = tl.zeros((1,), first_ptr.dtype.element_ty)
    first, second = pairs_as_factors(tl.load(pair_ptr + i), x)
    tl.store(first_ptr + i, first)
    tl.store(second_ptr + i, second)


@jit
def _round(x_ptr: tl.tensor, out_ptr: tl.tensor) -> None:
    i = tl.arange(0, 8)
    tl.store(out_ptr + i, as_pointed(tl.load(x_ptr + i), out_ptr))


def wrong(device: str) -> list[str]:
    """The conversions that differ from PyTorch's anywhere but in codes of NaN, which the interpreter takes for 480."""
    found = []
    codes = torch.arange(256, device=device).to(torch.uint8)

    def check(what: str, got: Tensor, expected: Tensor, *, of_codes: bool = True) -> None:
        got, expected = got.float(), expected.float()
        if not torch.allclose(got, torch.where(expected.isnan() & of_codes, got, expected), 0, 0, equal_nan=True):
            found.append(f"{what}: {got} and not {expected}")

    for kind in (torch.float16, torch.float32):
        for stored in (torch.float8_e4m3fn, torch.int8):
            out = torch.empty(256, dtype=kind, device=device)
            _convert[(1,)](codes.view(stored), out)
            check(f"{stored} as {kind}", out, codes.view(stored))
        first, second = torch.empty(2, 128, dtype=kind, device=device)
        _convert_pairs[(1,)](codes.view(torch.int16), first, second)
        expected = codes.view(torch.float8_e4m3fn).float()
        check(f"the first of two as {kind}", first, expected[::2])
        check(f"the second of two as {kind}", second, expected[1::2])
    edges = torch.tensor(EDGES, device=device)
    half, wide = torch.empty(8, dtype=torch.float16, device=device), torch.empty(8, device=device)
    _round[(1,)](edges, half)
    check("saturated", half, edges.clamp(-65504, 65504), of_codes=False)
    _round[(1,)](edges, wide)
    check("float32", wide, edges, of_codes=False)
    return found
