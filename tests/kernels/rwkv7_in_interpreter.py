"""Runs the Triton kernels of RWKV-7 on the CPU in triton's interpreter; prints a JSON list of [case, error].

A program of its own, because ``TRITON_INTERPRET`` has to be set before triton is first imported and then holds for the
whole process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence

os.environ["TRITON_INTERPRET"] = "1"

import torch
from decode_in_interpreter import mend_the_interpreter
from fakes import HeldToFakes
from torch import Tensor
from train_in_interpreter import relative, some

from hybridbench.kernels.rwkv7 import reference, triton_keys, triton_shift

Function = Callable[..., tuple[Tensor, ...]]

SHIFTS = (
    # sequences, positions, channels, mixes, behind a token
    (3, 1, 16, 6, False),
    (3, 1, 40, 5, True),
    (2, 19, 100, 6, False),  # four programs, none of which ends where a sequence does
    (2, 5, 60, 6, True),
    (1, 5, 1100, 6, False),  # more channels than a program has
    (5, 3, 24, 1, False),
    (1, 1, 8, 2, True),  # fewer rows than programs
)
KEYS = (((2, 5), 3, 16), ((3,), 2, 24), ((1, 1), 1, 64), ((2, 1), 33, 40), ((1, 2), 1, 2100))
"""Leading sizes, heads, channels of a head."""


def errors(ours: Function, theirs: Function, tensors: list[Tensor], used: Sequence[int]) -> Iterator[tuple[str, float]]:
    """The worst of the outputs, and of the gradients that some of them give; in float32 a second run's are equal."""
    given = [tensor.detach().requires_grad_() for tensor in tensors]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    found, expected = ours(*given), theirs(*exact)
    assert all(one.dtype == tensors[0].dtype for one in found)
    storages = {one.untyped_storage().data_ptr() for one in found}
    assert len(storages) == len(found), "a view of a shared buffer cannot be made again by itself"
    upstream = [some(*found[which].shape, dtype=found[which].dtype) for which in used]
    yield "outputs", max(relative(f, e) for f, e in zip(found, expected, strict=True))
    mine = torch.autograd.grad([found[which] for which in used], given, upstream, allow_unused=True)
    their = torch.autograd.grad(
        [expected[which] for which in used], exact, [u.double() for u in upstream], allow_unused=True
    )
    worst = 0.0
    for tensor, m, t in zip(tensors, mine, their, strict=True):
        assert m is not None
        assert m.dtype == tensor.dtype
        if t is None or not t.any():
            assert not m.any(), "what no used output depends on has a gradient"
        else:
            worst = max(worst, relative(m, t))
    yield "gradients", worst
    if tensors[0].dtype != torch.float32:
        return
    again = ours(*given)
    twice = torch.autograd.grad([again[which] for which in used], given, upstream, allow_unused=True)
    pairs = zip((*found, *mine), (*again, *twice), strict=True)
    assert all(m is not None and n is not None and torch.equal(m, n) for m, n in pairs), "equal from run to run"


def shift_errors(dtype: torch.dtype, share: slice) -> Iterator[tuple[str, float]]:
    """All outputs used, and only some."""

    def behind(shift: Function) -> Function:
        return lambda x, share, *front: shift(x, share, front_BD=front[0] if front else None)

    for B, T, D, L, front in SHIFTS[share]:
        tensors = [some(B, T, D, dtype=dtype), torch.rand(L, D).to(dtype)]
        if front:
            tensors.append(some(B, 2 * D, dtype=dtype)[:, ::2])
        for used in dict.fromkeys((tuple(range(L)), tuple(range(L))[1::3] or (0,))):
            ours, theirs = behind(triton_shift.rwkv7_shift), behind(reference.rwkv7_shift)
            for name, error in errors(ours, theirs, tensors, used):
                yield f"shift {B} {T} {D} {L} {front}, used {used}, {name}", error


def keys_errors(dtype: torch.dtype, share: slice) -> Iterator[tuple[str, float]]:
    """All outputs used, and one; keys as short as what a length is at least."""
    for lead, H, P in KEYS[share]:
        k, rate = (some(*lead, H * P, dtype=dtype).unflatten(-1, (H, P)) for _ in range(2))
        parameters = [torch.randn(H, P).to(dtype) for _ in range(2)]
        for used in ((0, 1, 2), (1,)) if len(lead) == 1 else ((0, 1, 2),):
            for name, error in errors(triton_keys.rwkv7_keys, reference.rwkv7_keys, [k, rate, *parameters], used):
                yield f"keys {lead} {H} {P}, used {used}, {name}", error
    if dtype == torch.float32:
        short = 1e-13 * torch.randn(2, 3, 16)
        tensors = [short, torch.randn(2, 3, 16), torch.randn(3, 16), torch.randn(3, 16)]
        for name, error in errors(triton_keys.rwkv7_keys, reference.rwkv7_keys, tensors, (0, 1, 2)):
            yield f"keys shorter than what divides them, {name}", error


def all_errors() -> Iterator[tuple[str, float]]:
    """All cases in float32; the narrower dtypes, which take the same branches, share them."""
    parts = (shift_errors, keys_errors)
    for name, share in (("float32", slice(None)), ("bfloat16", slice(0, None, 2))):
        for part in parts:
            yield from ((f"{name} {case}", error) for case, error in part(getattr(torch, name), share))
    triton_keys.GROUP_ELEMENTS, triton_keys.COLUMNS, triton_shift.COLUMNS = 32, 32, 32  # several programs a row
    for part in parts:
        errors_of_part = part(torch.float16, slice(1, None, 2))
        yield from ((f"float16 {case}, few columns a program", error) for case, error in errors_of_part)


if __name__ == "__main__":
    mend_the_interpreter()
    torch.manual_seed(0)
    with HeldToFakes() as fakes:
        made = list(all_errors())
    ways = ("forward", "backward")
    assert fakes.checked >= {f"hybridbench::rwkv7_{op}_{way}" for op in ("shift", "keys") for way in ways}
    json.dump(made, sys.stdout)
