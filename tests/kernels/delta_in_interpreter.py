"""Runs the Triton kernels of the delta rules on the CPU in triton's interpreter; prints a JSON list of [case, error].

A program of its own, because ``TRITON_INTERPRET`` has to be set before triton is first imported and then holds for the
whole process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

os.environ["TRITON_INTERPRET"] = "1"

import torch
from decode_in_interpreter import mend_the_interpreter
from fakes import HeldToFakes
from torch import Tensor
from train_in_interpreter import errors, some

from hybridbench.kernels import reference_of
from hybridbench.kernels.delta import triton_delta


def relative(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def step_errors(dtype: torch.dtype, state_dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    """Two steps in a row from a random state; every input lies in a wider row; large and very negative dt."""
    for per_channel, H, G, P, V in ((False, 4, 2, 16, 24), (False, 3, 3, 24, 40), (True, 2, 2, 16, 16)):
        op = "kda_step" if per_channel else "gated_delta_step"
        state = torch.randn(2, H, P, V).to(state_dtype)
        exact = state.double()
        channel = (P,) if per_channel else ()
        parameters = [torch.rand(H) * 2, torch.randn(H, *channel)]
        for step in range(2):
            wide = torch.randn(2, 2 * G * P + H * V + 5).to(dtype)
            q, k, v = wide[:, 3:-2].split([G * P, G * P, H * V], -1)
            inputs = [q.unflatten(1, (G, P)), k.unflatten(1, (G, P)), v.unflatten(1, (H, V))]
            dt = some(2, H, *channel, dtype=dtype)
            dt[0, 0], dt[1, 0] = 25.0, -12.0
            inputs += [dt, some(2, H, dtype=dtype)]
            found = getattr(triton_delta, op)(state, *inputs, *parameters)
            expected = reference_of(op)(exact, *(x.double() for x in (*inputs, *parameters)))
            assert found.dtype == dtype
            label = f"{op} {H} {G} {P} {V} {str(state_dtype)[6:]} step {step}"
            yield f"{label} output", relative(found, expected)
            yield f"{label} state", relative(state, exact)
            exact = state.double()


def norm_gate_errors(dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    """Outputs and gradients over sequences and in a step; heads wider than one tile of several, and odd ones."""
    for lead, H, V in (((2, 5), 3, 16), ((3,), 2, 24), ((2, 70), 5, 40), ((2, 3), 1, 100), ((2, 3), 1, 2100)):
        y = torch.randn(*lead, H, V).to(dtype)
        z = some(*lead, H * V, dtype=dtype).unflatten(-1, (H, V))
        for activation in ("silu", "sigmoid"):
            settings = {"eps": 1e-5, "activation": activation}
            tensors: list[Tensor | None] = [y, z, torch.randn(V).to(dtype)]
            yield f"norm_gate {H} {V} {activation}", errors("norm_gate", tensors, settings, triton_delta.norm_gate)


def all_errors() -> Iterator[tuple[str, float]]:
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype)[6:]
        for state_dtype in dict.fromkeys((torch.float32, dtype)):
            yield from ((f"{name} {case}", error) for case, error in step_errors(dtype, state_dtype))
        yield from ((f"{name} {case}", error) for case, error in norm_gate_errors(dtype))


if __name__ == "__main__":
    mend_the_interpreter()
    torch.manual_seed(0)
    with HeldToFakes() as fakes:
        found = list(all_errors())
    assert fakes.checked >= {"hybridbench::delta_step", "hybridbench::norm_gate_backward"}
    json.dump(found, sys.stdout)
