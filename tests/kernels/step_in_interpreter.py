"""Runs the fused decode step on the CPU in triton's interpreter; prints one JSON list of [case, errors].

    step_in_interpreter.py [LETTER OF A MIXER ...]

For each case: the largest distance of its logits from the plain modules' over some tokens, relative to their spread,
and of the caches after them.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch
from decode_in_interpreter import mend_the_interpreter

from hybridbench.arch.families import Options, pattern_spec
from hybridbench.arch.model import ModelSpec
from hybridbench.model.build import build_model, resolve_backends
from hybridbench.model.cache import Cache
from hybridbench.model.fused import FusedStep
from hybridbench.model.tiling import Tiling
from hybridbench.model.tiling_table import STATES
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import Workload

STEPS = 2


def tensors(caches: list[Cache | None]) -> list[torch.Tensor]:
    return [t for cache in caches if cache is not None for kind in cache.tensors().values() for t in kind]


def compared(caches: list[Cache | None]) -> list[torch.Tensor]:
    return [t for cache in caches if cache is not None for t in cache.compared().values()]


def errors(
    spec: ModelSpec, dtype: str, batch: int, prompt: int, tilings: dict[tuple[str, int, int], Tiling] | None
) -> list[float]:
    case = Case(spec, Workload("generate", prompt + STEPS, batch, prompt), Execution("cpu", dtype, "eager"))
    model = build_model(case, resolve_backends(case))
    model.allocate(torch.device("cpu"), seed=0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # of ones and zeros nobody could say whether they were read
        for parameter in model.parameters():
            if parameter.dim() == 1 or not parameter.float().std():
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype) / 10)
    token = torch.randint(spec.vocab_size, (batch, prompt), generator=torch.Generator().manual_seed(1))
    plain = model.new_caches(batch, prompt + STEPS, case.execution.storage)
    fused = model.new_caches(batch, prompt + STEPS, case.execution.storage)
    with torch.no_grad():
        next_B = model.prefill(token, plain).argmax(-1)
        for mine, theirs in zip(tensors(fused), tensors(plain), strict=True):
            mine.copy_(theirs)
        position_B = torch.full((batch,), prompt)
        fed_B, at_B = next_B.clone(), position_B.clone()
        step = FusedStep(model, fused, fed_B, at_B, advance=True, tilings=tilings)
        worst = 0.0
        for _ in range(STEPS):
            logits = model.decode(next_B, position_B, plain)
            mine = step()
            worst = max(worst, float((mine.double() - logits.double()).abs().max() / logits.double().std()))
            assert torch.equal(fed_B, mine.argmax(-1)), "the token is not the largest logit's"
            next_B = fed_B.clone()
            position_B += 1
            assert torch.equal(at_B, position_B)
    kept = max(
        float((mine.double() - theirs.double()).norm() / theirs.double().norm())
        for mine, theirs in zip(compared(fused), compared(plain), strict=True)
    )
    return [worst, kept]


class _Always(dict[Any, Any]):
    """The same tiling for every product, and the rules' for states, of which heads may have fewer rows."""

    def __init__(self, tiling: Tiling) -> None:
        self.tiling = tiling

    def get(self, key: tuple[str, int, int], default: object = None) -> Tiling | None:
        return None if key[0] in STATES else self.tiling


SMALL = {"vocab_size": 100}
CASES = [
    # pattern, options, dtype, batch, prompt, tiling
    ("*-S-", Options(window=6, sinks=2, **SMALL), "float32", 2, 9, Tiling(128, 1, 128, 2, 4)),
    ("M-*-", Options(**SMALL), "float32", 3, 3, Tiling(64, 2, 64, 2, 4)),
    ("M-S-*", Options(**SMALL), "bfloat16", 3, 5, Tiling(128, 4, 32, 2, 4)),
    ("(*&M)-", Options(**SMALL), "float32", 2, 5, Tiling(128, 1, 64, 2, 4)),
    ("(*&M)M", Options(recipe="falcon-h1", **SMALL), "float32", 1, 5, None),
    ("(S&M)", Options(recipe="concat", fusion_op="concat", **SMALL), "float32", 9, 2, None),
]

MIXERS = [
    ("G-*-", Options(**SMALL), "float32", 3, 5, Tiling(64, 2, 64, 2, 4)),
    ("(*&G)G", Options(**SMALL), "float32", 2, 5, None),
    ("G-*", Options(**SMALL), "bfloat16", 3, 5, Tiling(64, 2, 64, 2, 4)),
    ("K-*-", Options(**SMALL), "float32", 9, 5, Tiling(64, 2, 64, 2, 4)),
    ("(*&K)K", Options(**SMALL), "float32", 2, 5, None),
    ("K-*", Options(**SMALL), "bfloat16", 3, 5, Tiling(64, 2, 64, 2, 4)),
    ("L-*-", Options(**SMALL), "float32", 3, 5, Tiling(64, 2, 64, 2, 4)),
    ("(*&L)L", Options(**SMALL), "float32", 2, 5, None),
    ("L-*", Options(**SMALL), "bfloat16", 3, 5, Tiling(64, 2, 64, 2, 4)),
    ("3-*-", Options(**SMALL), "float32", 3, 5, Tiling(64, 2, 64, 2, 4)),
    ("(*&3)3", Options(**SMALL), "float32", 2, 5, None),
    ("3-*", Options(**SMALL), "bfloat16", 3, 5, Tiling(64, 2, 64, 2, 4)),
    ("7-7-*", Options(**SMALL), "float32", 9, 5, Tiling(64, 2, 64, 2, 4)),
    ("(*&7)7(*&7)7", Options(**SMALL), "float32", 2, 5, None),
    ("7-7", Options(**SMALL), "bfloat16", 3, 5, Tiling(64, 2, 64, 2, 4)),
    ("m-*-", Options(**SMALL), "float32", 9, 5, Tiling(64, 2, 64, 2, 4)),
    ("(*&m)m", Options(**SMALL), "float32", 2, 5, None),
    ("m-*", Options(**SMALL), "bfloat16", 3, 5, Tiling(64, 2, 64, 2, 4)),
]

if __name__ == "__main__":
    mend_the_interpreter()
    found = []
    letters = sys.argv[1:]  # of the mixers to run; without any, the blocks of the five families
    for pattern, options, dtype, batch, prompt, tiling in MIXERS if letters else CASES:
        if letters and not any(letter in pattern for letter in letters):
            continue
        spec = pattern_spec(pattern, "tiny", options)
        always = None if tiling is None else _Always(tiling)
        found.append([f"{pattern} {options.recipe} {dtype}", *errors(spec, dtype, batch, prompt, always)])
    json.dump(found, sys.stdout)
