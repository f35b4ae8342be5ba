"""Fused steps of many sequences at 1b widths on a GPU: against the modules, captured against not, and stage by stage.

The last test is a table, not a judgement: where the time of a step goes. In one call, of a few minutes:

    python -m pytest tests/gpu/test_many_gpu.py -m gpu -s -k stages
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed, so there is no fused step")

from hybridbench.arch.families import ARCHS, Options, build_spec, pattern_spec
from hybridbench.arch.model import ModelSpec
from hybridbench.capture import captured
from hybridbench.kernels.tuning import compile_together
from hybridbench.model.fused import FusedStep
from hybridbench.model.step import BOUND, both_ways
from hybridbench.model.tune import StepInputs, graph_timer, inputs_of
from hybridbench.suite.case import GRAPH, Case, Execution
from hybridbench.suite.workloads import DECODE, Workload

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

FEW_WORDS = Options(vocab_size=4096)
BLOCKS = {
    "transformer": "*-*-",
    "swa": "S-*-",
    "mamba": "M-M-",
    "inter": "M-*-",
    "intra": "M-(*&M)-",
}
"""Two blocks of each family."""

STEPS = 64
BATCHES = (17, 32, 64, 128, 200, 256)


def inputs(spec: ModelSpec, batch: int, context: int) -> StepInputs:
    case = Case(spec, Workload(DECODE, context, batch), Execution("cuda", "bfloat16", GRAPH))
    with torch.no_grad():
        made = inputs_of(case, torch.device("cuda"))
        made.fill()
    return made


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("arch", BLOCKS)
@pytest.mark.parametrize("scale", ["1b", "3b"])
def test_a_step_is_what_the_modules_compute(arch: str, batch: int, scale: str) -> None:
    at = inputs(pattern_spec(BLOCKS[arch], scale, FEW_WORDS), batch, 700)
    present = [cache for cache in at.caches if cache is not None]
    with torch.no_grad():
        at.token_B.copy_(torch.randint(4096, (batch,), device="cuda"))
        plan = at.plan({})
        compile_together(plan.compilations)
        plain = partial(at.model.decode, at.token_B, at.position_B, at.caches)
        errors = both_ways(plain, plan, present, (at.token_B, at.position_B))
    print(f"{arch} {scale} b{batch}: " + ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))  # noqa: T201
    assert all(error < BOUND for error in errors.values()), errors


@pytest.mark.parametrize("batch", [33, 64, 128])
@pytest.mark.parametrize("arch", BLOCKS)
def test_a_captured_step_decodes_the_same_tokens_bit_for_bit(arch: str, batch: int) -> None:
    at = inputs(pattern_spec(BLOCKS[arch], "1b", FEW_WORDS), batch, 700 + STEPS)
    plan = FusedStep(at.model, at.caches, at.token_B, at.position_B, advance=True)

    def decoded(step: Callable[[], object]) -> tuple[torch.Tensor, torch.Tensor]:
        at.fill()
        at.position_B.fill_(700)
        tokens = []
        for _ in range(STEPS):
            step()
            tokens.append(at.token_B.clone())
        return torch.stack(tokens), plan.logits_BV.clone()

    with torch.no_grad():
        eager, logits = decoded(plan)
        at.position_B.fill_(700)
        replay = captured(plan, put_back=lambda: at.position_B.fill_(700))
        tokens, again = decoded(replay)
    assert torch.equal(tokens, eager)
    assert torch.equal(again, logits)


def timed(plan: FusedStep) -> dict[str, float]:
    """The time of each kind of launch over all layers, and of the whole step; us."""
    found: dict[str, float] = {}
    counted = set()
    for key, launches in plan.products.items():
        found[f"{key[0]} {key[1]} x {key[2]} {plan.cut[key]}"] = graph_timer([launch for launch, _ in launches])
        counted |= {id(launch) for launch, _ in launches}
    rest: Sequence[Callable[[], object]] = [launch for launch in plan.launches if id(launch) not in counted]
    attention = [launch for launch in rest if launch.__name__ == "attend"]
    if attention:
        found["attention"] = graph_timer(attention)
    others = [launch for launch in rest if launch.__name__ != "attend"]
    found["begin and finish, and others without a tiling"] = graph_timer(others)
    return {**found, "whole step": graph_timer([plan])}


@pytest.mark.parametrize("batch", [32, 64, 128])
@pytest.mark.parametrize("arch", [arch for arch in ARCHS if arch in ("transformer", "mamba", "inter")])
def test_where_the_time_of_stages_goes(arch: str, batch: int) -> None:
    """Each product's launches of all layers in one graph, so that weights come from memory; shown with ``-s``."""
    at = inputs(build_spec(arch, "1b"), batch, 4096)
    with torch.no_grad():
        plan = FusedStep(at.model, at.caches, at.token_B, at.position_B, advance=False)
        plan()
        found = timed(plan)
    size = 2
    for name, us in found.items():
        words = name.split()
        line = f"{arch} b{batch} {name}: {us:.1f} us"
        if len(words) > 3 and words[2] == "x" and not words[0].endswith("state"):
            key = next(key for key in plan.products if name.startswith(f"{key[0]} {key[1]} x {key[2]} "))
            moved = key[1] * key[2] * size * len(plan.products[key])
            line += f", {moved / us / 1e6:.2f} TB/s of weights"
        print(line)  # noqa: T201
    assert all(
        0 < us < float("inf") for us in found.values()
    )  # how long each takes is read by people: others use the card
    launches = [launch for launches in plan.products.values() for launch, _ in launches]
    assert {id(launch) for launch in launches} <= {id(launch) for launch in plan.launches}
    assert len({id(launch) for launch in launches}) == len(launches)
