"""Runs the fused decode step on two ranks in triton's interpreter; prints one JSON list of [model, error of logits].

Each rank has a part of every sublayer. The error is the largest distance of its logits from those of the modules of one
rank over some tokens, relative to their spread. The next tokens must be the same. Last come the bytes that a
step's all-reduces add up, over those predicted.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch
import torch.distributed as dist
from decode_in_interpreter import mend_the_interpreter
from two_ranks import on_ranks

from hybridbench.arch.families import Options, pattern_spec
from hybridbench.arch.held import held_words
from hybridbench.arch.model import ModelSpec
from hybridbench.model.build import build_model, resolve_backends
from hybridbench.model.fused import FusedStep
from hybridbench.predict.group import GpuGroup, link_bytes
from hybridbench.ranks.place import place_of
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import Workload

PROMPT, STEPS, BATCH = 5, 2, 2
MODELS = {
    "attention and mlp": pattern_spec("*-", "toy"),
    "mamba": pattern_spec("M-", "toy"),
    "intra": pattern_spec("(*&M)-", "toy"),
    "gated delta and KDA": pattern_spec("GK-", "tiny"),
    "Mamba-3": pattern_spec("3-", "tiny"),
    "RWKV-7": pattern_spec("77-", "tiny"),
    "KDA beside attention": pattern_spec("(*&K)-", "tiny"),
    "joint": pattern_spec("(*&M)-", "toy", Options(fusion_op="concat", fusion_out="joint")),
}


def steps(spec: ModelSpec, tp: int, fused: bool) -> tuple[list[object], list[list[int]], int]:
    """The logits and the next tokens of some steps after a prompt, and the bytes that the last step added up."""
    work = Workload("generate", PROMPT + STEPS, BATCH, PROMPT)
    case = Case(spec, work, Execution("cpu", "float32", "eager", tp=tp))
    place = place_of(case)
    part = case if place is None else place.part
    resolved = resolve_backends(part)
    model = build_model(part, resolved)
    if place is None:
        model.allocate(torch.device("cpu"), 0)
    else:
        place.allocate(model, resolved, torch.device("cpu"))
    tokens = torch.randint(spec.vocab_size, (BATCH, PROMPT), generator=torch.Generator().manual_seed(1))
    caches = model.new_caches(BATCH, PROMPT + STEPS, case.execution.storage)
    logits, fed = [], []
    added, reduce = [0], dist.all_reduce

    def counting(tensor: torch.Tensor, **options: Any) -> None:
        added[0] += tensor.numel() * tensor.element_size()
        reduce(tensor, **options)

    dist.all_reduce = counting
    with torch.no_grad():
        token_B, position_B = model.pick(model.prefill(tokens, caches)), torch.full((BATCH,), PROMPT)
        plan = FusedStep(model, caches, token_B, position_B, advance=True) if fused else None
        for _ in range(STEPS):
            added[0] = 0
            if plan is None:
                logits.append(model.decode(token_B, position_B, caches))
                token_B = logits[-1].argmax(-1)
                position_B += 1
            else:
                logits.append(plan().clone())
            fed.append(token_B.tolist())
        assert position_B.tolist() == [PROMPT + STEPS] * BATCH
    return [one.numpy().copy() for one in logits], fed, added[0]


def main() -> None:
    mend_the_interpreter()
    torch.set_num_threads(1)
    found = []
    for name in sys.argv[1:] or MODELS:
        expected, tokens, _ = steps(MODELS[name], 1, False)
        storage, work = Execution("cpu", "bfloat16", "eager").storage, Workload("decode", PROMPT, BATCH)
        predicted = link_bytes(MODELS[name], work, storage, GpuGroup(2, 2), fused=True).all_reduced
        worst, moved = 0.0, set()
        for rank, (logits, fed, added) in enumerate(on_ranks(2, steps, MODELS[name], 2, True)):
            assert fed == tokens, f"{name}: other tokens"
            moved.add(added / predicted)
            own = slice(*held_words(MODELS[name].vocab_size, 2, rank))
            for mine, one in zip(logits, expected, strict=True):
                right = torch.as_tensor(one).double()[:, own]
                worst = max(worst, float((torch.as_tensor(mine).double() - right).abs().max() / right.std()))
        found.append([name, worst, *moved])
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
