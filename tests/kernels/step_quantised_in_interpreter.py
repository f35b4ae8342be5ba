"""Runs the fused decode step on quantised weights, keys and values on the CPU, in triton's interpreter.

Prints one JSON list of [case, errors]: the largest distance of its logits from those of the plain modules, which
dequantise, over some tokens, relative to their spread, and that of the caches after them.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch
from decode_in_interpreter import mend_the_interpreter
from narrow_kernels import wrong
from step_in_interpreter import SMALL, _Always, compared, tensors

from hybridbench.arch.families import Options, pattern_spec
from hybridbench.kernels.attention import reference
from hybridbench.kernels.attention.triton_decode import DecodePlan, launch_attention_decode
from hybridbench.model.build import build_model, resolve_backends
from hybridbench.model.cache import AttentionCache
from hybridbench.model.fused import FusedStep
from hybridbench.model.quantised_cache import QuantisedAttentionCache
from hybridbench.model.tiling import Tiling
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import Workload

STEPS, CONTEXT = 2, 9
CASES = [
    # pattern, options, weights, keys and values, dtype, sequences, tiling
    ("*-S-", Options(window=6, sinks=2, **SMALL), "fp8", "fp8", "float32", 2, Tiling(128, 1, 128, 2, 4)),
    ("M-*-", Options(**SMALL), "fp8", None, "float32", 3, Tiling(64, 2, 64, 2, 4)),
    ("M-*-", Options(**SMALL), None, "fp8", "float32", 3, Tiling(32, 2, 64, 2, 4)),
    ("M-*-", Options(**SMALL), "int8", "fp8", "bfloat16", 3, Tiling(64, 2, 64, 2, 4)),
    ("(*&M)-", Options(**SMALL), "fp8", "fp8", "float32", 2, Tiling(128, 2, 64, 2, 4)),
    ("(*&M)M", Options(recipe="falcon-h1", **SMALL), "fp8", "fp8", "float32", 1, None),
    ("(S&M)", Options(recipe="concat", fusion_op="concat", **SMALL), "fp8", "fp8", "float32", 9, None),
    ("(*&M)-", Options(recipe="paper", fusion_op="subtract", **SMALL), "int8", "fp8", "float32", 2, None),
    ("M-*-", Options(**SMALL), "fp8", "fp8", "float32", 33, None),
    ("G-K-L-", Options(**SMALL), "fp8", None, "float32", 3, Tiling(64, 2, 64, 2, 4)),
    ("3-7-7-m-", Options(**SMALL), "fp8", None, "float32", 3, Tiling(64, 2, 64, 2, 4)),
    ("3-7-(*&G)m-", Options(**SMALL), "fp8", "fp8", "bfloat16", 3, Tiling(64, 2, 64, 2, 4)),
]


def errors(
    pattern: str, options: Options, weights: str | None, kv: str | None, dtype: str, batch: int, tiling: Tiling | None
) -> list[float]:
    execution = Execution("cpu", dtype, "eager", weight_dtype=weights, kv_dtype=kv)
    case = Case(pattern_spec(pattern, "tiny", options), Workload("decode", CONTEXT, batch), execution)
    model = build_model(case, resolve_backends(case))
    model.allocate(torch.device("cpu"), seed=0)
    if weights is not None:
        model.quantise(weights)
    plain, fused = (model.new_caches(batch, CONTEXT + STEPS, execution.storage) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    for mine, theirs in zip(fused, plain, strict=True):
        if mine is not None and theirs is not None:
            theirs.fill(generator)
            for one, other in zip(tensors([mine]), tensors([theirs]), strict=True):
                one.copy_(other)
    token_B = torch.randint(case.model.vocab_size, (batch,), generator=generator)
    position_B = torch.full((batch,), CONTEXT)
    fed_B, at_B = token_B.clone(), position_B.clone()
    worst = 0.0
    with torch.no_grad():
        step = FusedStep(model, fused, fed_B, at_B, advance=True, tilings=None if tiling is None else _Always(tiling))
        for _ in range(STEPS):
            logits, mine = model.decode(token_B, position_B, plain).double(), step().double()
            worst = max(worst, float((mine - logits).abs().max() / logits.std()))
            token_B = fed_B.clone()
            position_B += 1
    kept = max(
        float((mine.double() - theirs.double()).norm() / theirs.double().norm())
        for mine, theirs in zip(compared(fused), compared(plain), strict=True)
    )
    return [worst, kept]


def attention_error(dtype: str, H: int, K: int, P: int, V: int, S: int, lengths: tuple[int, int], splits: int) -> float:
    """The distance of attention's kernel over codes from the reference over the numbers they stand for, of the worse of
    two sequences.
    """
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, *shape, generator=generator) for shape in ((H, P), (S, K, P), (S, K, V)))
    scale_B = torch.tensor([1e-2, 50.0])[:, None, None, None]  # sequences of quite different sizes
    plain = AttentionCache(k * scale_B, v / scale_B)
    cache = QuantisedAttentionCache.of(plain, torch.float8_e4m3fn)
    length_B, out, q = torch.tensor(lengths, dtype=torch.int32), torch.empty(2, H, V), q.to(getattr(torch, dtype))
    dead = torch.arange(S) >= length_B[:, None]
    for codes in cache.slotted:
        codes.view(torch.uint8)[dead] = 127  # NaN, which nobody may read
    plan = DecodePlan.make(2, H, K, P, V, S, cache.k_BSKP, splits=splits)
    launch_attention_decode(plan, q, cache.k_BSKP, cache.v_BSKV, length_B, out, scales_BK=cache.scales)
    expected = reference.attention_decode(q.double(), *(x.double().nan_to_num() for x in cache.keys_values()), length_B)
    return float(((out.double() - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).max())


ATTENTIONS = [
    ("float32", 8, 2, 64, 64, 300, (1, 300), 4),
    ("float32", 4, 2, 72, 128, 130, (63, 129), 3),
    ("bfloat16", 8, 2, 64, 64, 300, (64, 299), 5),
]

if __name__ == "__main__":
    mend_the_interpreter()
    wanted = [CASES[int(place)] for place in sys.argv[1:]] or CASES
    found = [[f"{one[0]} {one[2]} {one[3]} {one[4]} {one[5]}", *errors(*one)] for one in wanted]
    found += [[f"attention {one}", attention_error(*one), 0.0] for one in ATTENTIONS]
    found.append(["conversions float32", float(len(wrong("cpu"))), 0.0])
    json.dump(found, sys.stdout)
