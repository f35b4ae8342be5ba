"""plan: the training runs that options ask for, with what is left open filled in by scale and device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput, unknown_name
from hybridbench.machine import device_of
from hybridbench.quality.corpus.manifest import HELD_OUT, TRAIN, Manifest
from hybridbench.quality.training.case import TUNING_SEED, Judging, LearnCase, RunFiles
from hybridbench.quality.training.recipe import LearnRecipe, rate_for
from hybridbench.suite.case import COMPILE, EAGER, GRAPH, Execution
from hybridbench.units import parse_count


@dataclass(frozen=True)
class Size:
    """What a scale learns from when nothing is said: tokens, and the sequences of a step."""

    tokens: str
    context: int
    batch: int
    judged: int


SIZES: dict[str, Size] = {
    "toy": Size("100k", 256, 4, 64),
    "tiny": Size("1m", 512, 8, 64),
}
"""Sizes of scales for a CPU."""
LARGE = Size("50m", 1024, 128, 512)
"""The size of every other scale: 131,072 tokens a step."""
DTYPES = ("bfloat16", "float32")
"""Of weights and activations; float16 would need its loss scaled."""
EVALUATIONS = 10
SEEDS = 3
MOST_SEEDS, MOST_AT_ONCE = 1000, 64


@dataclass(frozen=True)
class LearnOptions:
    """What a person asks for; None is left to the scale and the device."""

    tokens: str | None = None
    ctx: str | None = None
    batch: str | None = None
    seeds: int = SEEDS
    lr: float | None = None
    sweep_lr: str | None = None
    device: str | None = None
    dtype: str | None = None
    mode: str | None = None
    backends: dict[str, str] | None = None
    evaluations: int = EVALUATIONS
    limit_s: float = 3600.0
    at_once: int = 1


def planned(
    specs: Sequence[ModelSpec], manifest: Manifest, place: RunFiles, ask: LearnOptions, has_gpu: bool
) -> list[LearnCase]:
    """One run of each model and seed, in the order of seeds, so that every model has a result early.

    Raises:
        BadInput: numbers that cannot be, or text that is too short for them.
    """
    if not 1 <= ask.seeds <= MOST_SEEDS:
        raise BadInput(f"--seeds {ask.seeds}: give a number from 1 to {MOST_SEEDS:,}.")
    if not 1 <= ask.evaluations <= 10_000:
        raise BadInput(f"--evals {ask.evaluations}: give a number from 1 to 10,000.")
    if not ask.limit_s > 0:
        raise BadInput(f"--limit {ask.limit_s:g}: give seconds above 0.")
    if not 1 <= ask.at_once <= MOST_AT_ONCE:
        raise BadInput(f"--at-once {ask.at_once}: give a number from 1 to {MOST_AT_ONCE}.")
    place = replace(place, at_once=min(ask.at_once, ask.seeds * len(dict.fromkeys(specs))))
    first = [_case(spec, manifest, place, ask, _execution(spec, ask, has_gpu)) for spec in dict.fromkeys(specs)]
    return [with_seed(case, seed) for seed in range(ask.seeds) for case in first]


def tuning_runs(cases: Sequence[LearnCase], multiples: Sequence[float]) -> list[LearnCase]:
    """The runs that choose a learning rate: each model once at each multiple of its rate, with a seed of their own."""
    arms = {case.arm: case for case in cases}.values()
    return [with_seed(with_rate(case, times * case.recipe.lr), TUNING_SEED) for case in arms for times in multiples]


def with_seed(case: LearnCase, seed: int) -> LearnCase:
    """The same run from another seed."""
    return replace(case, execution=replace(case.execution, seed=seed))


def with_rate(case: LearnCase, lr: float) -> LearnCase:
    """The same run at another learning rate."""
    return replace(case, recipe=replace(case.recipe, lr=lr))


def parse_multiples(text: str) -> list[float]:
    """The multiples of ``--sweep-lr``.

    >>> parse_multiples("0.5,1,2")
    [0.5, 1.0, 2.0]

    Raises:
        BadInput: one is no number above 0, or there are fewer than two.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as exc:
        raise BadInput(f"--sweep-lr '{text}' is no list of numbers: write 0.5,1,2.") from exc
    if not all(math.isfinite(one) and 0 < one <= 1000 for one in found):
        raise BadInput(f"--sweep-lr '{text}': every multiple must be above 0 and at most 1000.")
    if len(set(found)) < 2:
        raise BadInput(f"--sweep-lr '{text}' leaves nothing to choose: give two or more, or --lr.")
    return list(dict.fromkeys(found))


def _execution(spec: ModelSpec, ask: LearnOptions, has_gpu: bool) -> Execution:
    device = device_of(ask.device, has_gpu)
    modes = (EAGER, COMPILE, GRAPH)
    return execution_for(device, ask.dtype, mode_for(spec, device, ask.mode, modes), ask.backends, modes)


def execution_for(
    device: str, dtype: str | None, mode: str | None, backends: dict[str, str] | None, modes: Sequence[str]
) -> Execution:
    """How models are trained, with what is left open filled in by the device.

    Args:
        modes: those that the kind of run has; the first where none is given.

    Raises:
        BadInput: a name that is none of a dtype or mode of training.
    """
    mode = mode or modes[0]
    if mode not in modes:
        raise unknown_name("mode of training", mode, modes)
    dtype = dtype or ("bfloat16" if device == "cuda" else "float32")
    if dtype not in DTYPES:
        raise unknown_name("dtype of training", dtype, DTYPES)
    return Execution(device, dtype, mode, backends=backends or {})


def mode_for(spec: ModelSpec, device: str, mode: str | None, modes: Sequence[str]) -> str:
    """The mode that is asked for, or the default of a model on a device.

    Args:
        modes: those that the kind of run has.

    Raises:
        BadInput: a graph of what no graph can hold, or without a GPU.
    """
    default = default_mode(spec, device, modes)
    if mode == GRAPH and device != "cuda":
        raise BadInput("--mode graph captures a CUDA graph: leave --mode out on a CPU, or give --device cuda.")
    if mode == GRAPH and default != GRAPH:
        raise BadInput(
            f"--mode graph: {spec.label} has experts, whose tokens are counted on the host; give --mode {default}."
        )
    return mode or default


def default_mode(spec: ModelSpec, device: str, modes: Sequence[str]) -> str:
    """How a model is trained when nothing is said: on a GPU in a CUDA graph; if no graph can hold it, compiled where
    that is one of the ``modes``.
    """
    if device != "cuda":
        return EAGER
    if not _counts_on_host(spec):
        return GRAPH
    return COMPILE if COMPILE in modes else EAGER


def _counts_on_host(spec: ModelSpec) -> bool:
    """Whether a step waits for the GPU, which no graph can hold: experts' tokens are counted on the host."""
    return "E" in spec.layers


def _case(spec: ModelSpec, manifest: Manifest, place: RunFiles, ask: LearnOptions, execution: Execution) -> LearnCase:
    size = SIZES.get(spec.scale, LARGE)
    context = parse_count(ask.ctx, "--ctx") if ask.ctx else size.context
    batch = parse_count(ask.batch, "--batch") if ask.batch else size.batch
    steps = parse_count(ask.tokens or size.tokens, "--tokens") // (context * batch)
    if not steps:
        raise BadInput(
            f"--tokens {ask.tokens or size.tokens} is less than one step of {batch} sequences of {context:,} tokens: "
            f"give more, or a smaller --batch."
        )
    there = {name: _sequences(manifest, name, context) for name in (TRAIN, HELD_OUT)}
    for name, count in there.items():
        needed = batch if name == TRAIN else 1
        if count < needed:
            raise BadInput(
                f"sequences of {context:,} tokens are longer than the data: the {name} part holds {count} of them "
                f"where {needed} must be; give a shorter --ctx, a smaller --batch or more text."
            )
    lr = rate_for(spec.d_model, batch * context) if ask.lr is None else ask.lr
    return LearnCase(
        model=replace(spec, vocab_size=manifest.model_vocabulary),
        corpus=manifest.key,
        context=context,
        batch=batch,
        steps=steps,
        recipe=LearnRecipe(lr),
        execution=execution,
        sampling=Judging(min(ask.evaluations, steps), min(size.judged, there[HELD_OUT])),
        place=place,
        limit_s=ask.limit_s,
    )


def _sequences(manifest: Manifest, name: str, context: int) -> int:
    return sum(shard.tokens // context for shard in manifest.split(name).shards)


def remarks(cases: Sequence[LearnCase], manifest: Manifest) -> list[str]:
    """What a person should know before runs start: epochs above one."""
    found = []
    for tokens, context in dict.fromkeys((case.tokens, case.context) for case in cases):
        there = _sequences(manifest, TRAIN, context) * context
        if tokens > there:
            found.append(f"The corpus holds {there:,} tokens to train on: {tokens:,} are {tokens / there:.2g} epochs.")
    return found


def place_of(corpus: Path, out: Path, resume: bool) -> RunFiles:
    """Where runs read and write."""
    return RunFiles(str(corpus), str(out), resume)
