"""sweep: a product of lists in the words of the command line, the rules of its options, and the cases it makes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from hybridbench import units
from hybridbench.arch.block import DTYPE_BYTES
from hybridbench.arch.families import MAMBA2
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.stored import check_dtype
from hybridbench.errors import BadInput, unknown_name
from hybridbench.machine import device_of
from hybridbench.suite.case import (
    CHECKPOINTS,
    COMPILE,
    EAGER,
    GRAPH,
    MODES,
    PUBLISHED,
    Case,
    Execution,
    Sampling,
)
from hybridbench.suite.models import ALL_ARCHS, model_specs, ratios_by_stack, same_stacks
from hybridbench.suite.ops import CORE, CORE_PARTS, DECODE_STEP, OPS, backends_used
from hybridbench.suite.quantised import check_quantised
from hybridbench.suite.spread import check_spread, spreads_of
from hybridbench.suite.workloads import Workload, WorkloadRow, names_where, workload_row


@dataclass(frozen=True)
class Sweep:
    """A product of lists, with the names of the command line's options; a list or a range is text, as typed.

    None means the device's default: scale 1b and bfloat16 on a GPU, tiny and float32 on a CPU; mode ``graph`` for
    decode and generate on a GPU, else ``eager``.
    """

    workload: str
    arch: str = ALL_ARCHS
    scale: str | None = None
    ctx: str | None = None
    batch: str | None = None
    ratio: str | None = None
    positions: str | None = None
    pattern: str | None = None
    recipe: str = "paper"
    fusion_norm: str | None = None
    fusion_scale: str | None = None
    fusion_op: str | None = None
    fusion_value: str | None = None
    fusion_out: str | None = None
    split: str | None = None
    moe: bool = False
    window: int | None = None
    sinks: int | None = None
    mixer: str = MAMBA2
    prompt: int = 512
    depths: int | None = None
    as_published: bool = False
    device: str | None = None
    dtype: str | None = None
    state_dtype: str | None = None
    weight_dtype: str | None = None
    kv_dtype: str | None = None
    mode: str | None = None
    backends: dict[str, str] = field(default_factory=dict)
    streams: int = 1
    checkpoint: str = "none"
    gpus: str = "1"
    tp: str = "1"
    seed: int = 0
    max_time_s: float | None = None
    min_samples: int | None = None
    limit_s: float | None = None


ENERGY_WINDOW_S = 1.1
"""The least sampled time on a GPU, in seconds: a little more than ten ticks of its energy counter."""


def cases(sweep: Sweep, *, has_gpu: bool, spelled: Callable[[str], str] = str) -> list[Case]:
    """The cases of a sweep; contexts vary fastest and models slowest.

    Args:
        sweep: what is asked for.
        has_gpu: this machine has a GPU.
        spelled: how messages write a field of the sweep: by default as the key of a suite.

    Raises:
        BadInput: an unknown name, or options that do not go together.
    """
    row = workload_row(sweep.workload)
    device = device_of(sweep.device, has_gpu)
    on_gpu = device == "cuda"
    specs = ratios_by_stack(_specs(sweep, on_gpu))
    contexts = units.parse_range(_given(sweep.ctx, row.ctx_on_gpu if on_gpu else row.ctx_on_cpu), "context")
    batches = units.parse_range(_given(sweep.batch, "4" if on_gpu else "1"), "batch")
    units.check_rows(specs, contexts, batches)
    prompt, depths = _prompt(sweep, row, contexts)
    execution = _execution(sweep, device, spelled)
    sampling = _sampling(sweep, device, spelled)
    limit_s = Case.limit_s if sweep.limit_s is None else sweep.limit_s
    check_seconds(limit_s, spelled("limit_s"), "to run")
    if not 0 <= sweep.seed < 2**62:
        raise BadInput(f"seed {sweep.seed}: give a whole number from 0 to {2**62 - 1}.")
    spreads = spreads_of(sweep.gpus, sweep.tp, spelled)
    for spread in spreads:
        check_spread(spread, [spec for spec, _ in specs], batches, execution, sweep.workload, spelled)
    return [
        Case(
            model=spec,
            workload=Workload(sweep.workload, context, batch, prompt, depths),
            execution=_fitted(replace(execution, gpus=spread.gpus, tp=spread.tp), spec, sweep.workload),
            sampling=sampling,
            limit_s=limit_s,
            ratios=ratios,
        )
        for (spec, ratios), spread, batch, context in itertools.product(specs, spreads, batches, contexts)
    ]


def merged_ratios(sweep: Sweep, *, has_gpu: bool) -> list[str]:
    """A sentence for each stack that several ratios of a sweep round to, and that is one case therefore."""
    device = _given(sweep.device, "cuda" if has_gpu else "cpu")
    return same_stacks(_specs(sweep, device == "cuda"))


def _specs(sweep: Sweep, on_gpu: bool) -> list[ModelSpec]:
    """The models of a sweep; those of several ratios that make the same stack once for each."""
    names = (
        *("arch", "ratio", "positions", "pattern", "mixer", "recipe", "split", "moe", "window", "sinks"),
        *("fusion_norm", "fusion_scale", "fusion_op", "fusion_value", "fusion_out"),
    )
    scale = _given(sweep.scale, "1b" if on_gpu else "tiny")
    return model_specs(scale=scale, every_ratio=True, **{name: getattr(sweep, name) for name in names})


def _prompt(sweep: Sweep, row: WorkloadRow, contexts: Sequence[int]) -> tuple[int, int]:
    """Prompt tokens and the number of depths; both are 0 for a workload without a prompt."""
    if not row.prompted:
        if sweep.depths is not None:
            raise BadInput(f"depths for {row.name}: only a generation is integrated over depths.")
        return 0, 0
    if sweep.prompt < 1:
        raise BadInput(f"prompt {sweep.prompt}: a generation starts from 1 token or more.")
    short = [context for context in contexts if context <= sweep.prompt]
    if short:
        raise BadInput(f"context {short[0]} leaves nothing to generate after a prompt of {sweep.prompt}: give more.")
    return sweep.prompt, _depths(sweep.depths, min(contexts) - sweep.prompt)


def _depths(asked: int | None, fewest_steps: int) -> int:
    """The number of depths of an integrated generation; 0 if every token is generated."""
    if asked is None:
        return 0
    if asked < 3 or asked % 2 == 0:
        # With an odd number, every second depth gives a coarser sum with the same ends; the difference is the error.
        raise BadInput(
            f"depths {asked}: give an odd number from 3 on, such as 5, or leave it out to generate all tokens."
        )
    if asked > fewest_steps:
        raise BadInput(f"depths {asked} for a generation of {fewest_steps} tokens: leave it out to generate them all.")
    return asked


def _fitted(execution: Execution, spec: ModelSpec, workload: str) -> Execution:
    """The execution without backends that only other models of the list run."""
    branches = any(block.branches for block, _ in spec.uses)
    streams = execution.streams if branches else 1
    return replace(execution, backends=backends_used(execution.backends, spec, workload), streams=streams)


def _given(text: str | None, default: str) -> str:
    """The default if nothing was given. An empty text, as from an unset variable, is an error."""
    return default if text is None else text


def default_mode(row: WorkloadRow, device: str) -> str:
    """The mode if none is given: ``graph`` for a workload that decodes on a GPU, else ``eager``."""
    return GRAPH if device == "cuda" and row.decodes else EAGER


def _execution(sweep: Sweep, device: str, spelled: Callable[[str], str]) -> Execution:
    """How the sweep's cases are run.

    Raises:
        BadInput: options that do not go together, or an unknown name.
    """
    row = workload_row(sweep.workload)
    dtype = _given(sweep.dtype, "bfloat16" if device == "cuda" else "float32")
    _check_dtypes(dtype, sweep.state_dtype, spelled)
    if sweep.as_published and sweep.mode not in (None, PUBLISHED):
        raise BadInput(f"as-published is a mode of its own, and mode {sweep.mode} another: give one of them.")
    mode = PUBLISHED if sweep.as_published else _given(sweep.mode, default_mode(row, device))
    _check_mode(mode, row, device)
    _check_backends(sweep, mode)
    if sweep.streams not in (1, 2):
        raise BadInput(f"streams {sweep.streams}: a parallel block has two branches, so give 1 or 2.")
    if sweep.streams == 2 and mode != GRAPH:
        raise BadInput(f"2 streams for {row.name} in mode {mode}: only a decode step in mode graph has them.")
    check_checkpoint(sweep.checkpoint, row)
    if sweep.checkpoint == "selective" and mode == COMPILE:
        raise BadInput("checkpoint selective in mode compile: the compiler decides there; use full, or --mode eager.")
    execution = Execution(
        device,
        dtype,
        mode,
        sweep.state_dtype,
        dict(sweep.backends),
        sweep.seed,
        sweep.streams,
        sweep.checkpoint,
        weight_dtype=None if sweep.weight_dtype == dtype else sweep.weight_dtype,
        kv_dtype=None if sweep.kv_dtype == dtype else sweep.kv_dtype,
    )
    check_quantised(execution, sweep.workload, spelled)
    return execution


def _check_dtypes(dtype: str, state_dtype: str | None, spelled: Callable[[str], str]) -> None:
    for name in (dtype, state_dtype):
        if name is not None:
            check_dtype(name)
    if state_dtype not in (None, dtype) and DTYPE_BYTES[state_dtype or dtype] <= DTYPE_BYTES[dtype]:
        name = spelled("state_dtype")
        raise BadInput(f"{name} {state_dtype} with {dtype} weights: give a wider one, or leave it out.")


def _check_mode(mode: str, row: WorkloadRow, device: str) -> None:
    if mode not in MODES:
        raise unknown_name("mode", mode, MODES)
    decoding = names_where(lambda one: one.decodes)
    if mode == PUBLISHED and not row.decodes:
        raise BadInput(f"mode published for {row.name}: only {decoding} can be run as published.")
    if mode == GRAPH and device != "cuda":
        raise BadInput("mode graph on the CPU: a CUDA graph needs a GPU; use --mode eager or compile.")
    if mode == GRAPH and not row.decodes:
        raise BadInput(f"mode graph for {row.name}: only {decoding} are captured; use eager or compile.")


def _check_backends(sweep: Sweep, mode: str) -> None:
    for op in ("attention_decode", DECODE_STEP):
        if mode == PUBLISHED and op in sweep.backends:
            raise BadInput(f"mode published has its own {op}, attention as plain eager code: leave its backend out.")
    for op in sweep.backends:
        if op not in OPS:
            raise unknown_name("operation", op, OPS)
    parts = [op for op in CORE_PARTS if op in sweep.backends]
    if CORE in sweep.backends and parts:
        raise BadInput(f"backends for {CORE} and for {parts[0]}: the first runs the second itself, so ask for one.")


def check_checkpoint(checkpoint: str, row: WorkloadRow, option: str = "checkpoint") -> None:
    """Check that a way of checkpointing exists, and that the workload trains if it is not ``none``.

    Args:
        option: the name of the option, for the message.

    Raises:
        BadInput: it does not; the text lists the ways.
    """
    if checkpoint not in CHECKPOINTS:
        raise unknown_name("checkpoint", checkpoint, CHECKPOINTS)
    if checkpoint != "none" and not row.trains:
        raise BadInput(f"{option} {checkpoint} for {row.name}: only training keeps activations; leave it out.")


LONGEST_S = 30 * 24 * 3600.0
"""The longest time that an option may give; seconds."""


def check_seconds(seconds: float, name: str, purpose: str) -> None:
    """Check that an option gives a time that can pass.

    Args:
        name: the option, for the message.
        purpose: what there would be no time for.

    Raises:
        BadInput: not a number, nothing, or more than 30 days.
    """
    if not math.isfinite(seconds) or seconds > LONGEST_S:
        raise BadInput(f"{name} {seconds} s: give seconds, at most {LONGEST_S:.0f} (30 days).")
    if seconds <= 0:
        raise BadInput(f"{name} {seconds} s leaves no time {purpose}: give more than 0.")


def _sampling(sweep: Sweep, device: str, spelled: Callable[[str], str]) -> Sampling:
    sampling = Sampling(min_time_s=ENERGY_WINDOW_S if device == "cuda" else 0.0)
    if sweep.max_time_s is not None:
        check_seconds(sweep.max_time_s, spelled("max_time_s"), "to sample")
        sampling = replace(
            sampling,
            max_time_s=sweep.max_time_s,
            min_time_s=min(sampling.min_time_s, sweep.max_time_s),
            warmup_max_s=min(sampling.warmup_max_s, sweep.max_time_s),
        )
    if sweep.min_samples is not None:
        if sweep.min_samples < 1:
            raise BadInput(f"{spelled('min_samples')} {sweep.min_samples}: give 1 or more.")
        most = max(sampling.max_samples, sweep.min_samples)
        sampling = replace(sampling, min_samples=sweep.min_samples, max_samples=most, insist=True)
    return sampling
