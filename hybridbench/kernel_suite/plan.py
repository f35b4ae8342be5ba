"""plan: which cells a person asks for: operations, their problems, backends and directions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hybridbench import units
from hybridbench.arch.block import DTYPE_BYTES
from hybridbench.arch.families import MAMBA2
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.presets import preset_spec
from hybridbench.errors import BadInput, unknown_name
from hybridbench.kernel_suite.cell import BACKWARD, DIRECTIONS, Budget, Cell, check_directions
from hybridbench.kernel_suite.problems import TIMED, needs, of_models, parse_problem
from hybridbench.machine import device_of
from hybridbench.operations import OPERATIONS
from hybridbench.problem import Problem
from hybridbench.suite.models import ALL_ARCHS, model_specs
from hybridbench.suite.sweep import check_seconds

Asked = dict[tuple[str, Problem], tuple[str, ...]]
"""Operations and problems, with the labels of the models that have them."""


@dataclass(frozen=True)
class KernelOptions:
    """What to time, with the names of the command line's options; a list or a range is text, as typed.

    None means the device's default: scale 1b, bfloat16, contexts of 8k and a batch of 4 on a GPU; tiny, float32, 512
    and 1 on a CPU.

    Args:
        ops: operations, with commas between them; None is all of the models'.
        backends: names, or ``OP=NAME``; empty for every one that an operation has on the device.
        kernel: ``package.module:function``, timed beside the backends.
        problem: sizes instead of a model's, such as ``head_dim=64,n_heads=32``.
        model: published models instead of families.
        hot: the cache is not flushed between calls.
        sustained: no rests where power limits the clocks.
    """

    ops: str | None = None
    backends: tuple[str, ...] = ()
    kernel: str | None = None
    problem: str | None = None
    arch: str = ALL_ARCHS
    scale: str | None = None
    ratio: str | None = None
    pattern: str | None = None
    mixer: str | None = None
    model: str | None = None
    ctx: str | None = None
    batch: str | None = None
    dtype: str | None = None
    device: str | None = None
    direction: str | None = None
    hot: bool = False
    sustained: bool = False
    seed: int = 0
    max_time_s: float | None = None
    min_samples: int | None = None
    limit_s: float | None = None


def cells(ask: KernelOptions, *, has_gpu: bool, specs: Sequence[ModelSpec] | None = None) -> list[Cell]:
    """The cells of what is asked for, each once: operations vary slowest and backends fastest.

    Args:
        specs: the models, where the caller has made them already.

    Raises:
        BadInput: an unknown name, a problem that an operation cannot have, or options that do not go together.
    """
    device = device_of(ask.device, has_gpu)
    dtype = ("bfloat16" if device == "cuda" else "float32") if ask.dtype is None else ask.dtype
    if dtype not in DTYPE_BYTES:
        raise unknown_name("dtype", dtype, DTYPE_BYTES)
    ops = _operations(ask.ops)
    directions = DIRECTIONS if ask.direction is None else tuple(_listed(ask.direction))
    check_directions(list(directions))
    budget, limit_s = _budget(ask), Cell.limit_s if ask.limit_s is None else ask.limit_s
    check_seconds(limit_s, "limit", "to run")
    asked = _typed(ask, ops, device, dtype) if ask.problem is not None else _of_models(ask, ops, device, dtype, specs)
    names = _backends_of(ask, sorted({op for op, _ in asked}), device)
    made = [
        Cell(op, name, replace(problem, training=direction == BACKWARD), direction, budget, ask.seed, models, limit_s)
        for (op, problem), models in asked.items()
        for direction in _of_op(op, problem, models, directions)
        for name in names[op]
    ]
    if not made and ask.direction is not None and asked:
        raise BadInput(f"{', '.join(sorted({op for op, _ in asked}))} has no backward: leave --direction out.")
    return list({cell.key: cell for cell in made}.values())


def _listed(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _of_op(op: str, problem: Problem, models: tuple[str, ...], directions: Iterable[str]) -> list[str]:
    """The directions that an operation has; a model's single token is of a decode step, which has no backward."""
    learns = OPERATIONS[op].learns and not (models and problem.length == 1)
    return [one for one in directions if one != BACKWARD or learns]


def _operations(text: str | None) -> list[str]:
    names = [] if text is None else _listed(text)
    for name in names:
        if name not in TIMED:
            raise unknown_name("operation", name, TIMED)
    return names


def _budget(ask: KernelOptions) -> Budget:
    budget = Budget(cold=not ask.hot, sustained=ask.sustained)
    if ask.max_time_s is not None:
        check_seconds(ask.max_time_s, "max_time", "to sample")
        budget = replace(budget, max_time_s=float(ask.max_time_s))
    if ask.min_samples is not None:
        if ask.min_samples < 1:
            raise BadInput(f"min_samples {ask.min_samples}: give 1 or more.")
        most = max(budget.max_samples, ask.min_samples)
        budget = replace(budget, min_samples=ask.min_samples, max_samples=most)
    return budget


def _sizes(ask: KernelOptions, device: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Contexts and batches."""
    on_gpu = device == "cuda"
    ctx = ("8k" if on_gpu else "512") if ask.ctx is None else ask.ctx
    batch = ("4" if on_gpu else "1") if ask.batch is None else ask.batch
    return units.parse_range(ctx, "context"), units.parse_range(batch, "batch")


def _of_models(ask: KernelOptions, ops: list[str], device: str, dtype: str, specs: Sequence[ModelSpec] | None) -> Asked:
    contexts, batches = _sizes(ask, device)
    models = _specs(ask, device) if specs is None else list(specs)
    units.check_rows(models, contexts, batches)
    found = of_models(models, contexts, batches, device, dtype, ops)
    missing = [op for op in ops if op not in {name for name, _ in found}]
    if missing:
        of_these = sorted({op for op, _ in of_models(models, contexts[:1], batches[:1], device, dtype)})
        raise BadInput(
            f"no model here runs {missing[0]}; they run {', '.join(of_these)}: name others, or type its sizes with "
            f"--problem {','.join(f'{name}=...' for name in needs(missing[0]))}."
        )
    return found


def _specs(ask: KernelOptions, device: str) -> list[ModelSpec]:
    if ask.model is not None:
        return [preset_spec(name.lower()) for name in _listed(ask.model)]
    scale = ("1b" if device == "cuda" else "tiny") if ask.scale is None else ask.scale
    mixer = ask.mixer or MAMBA2
    return model_specs(arch=ask.arch, scale=scale, ratio=ask.ratio, pattern=ask.pattern, mixer=mixer)


def _typed(ask: KernelOptions, ops: list[str], device: str, dtype: str) -> Asked:
    """The typed problem for each operation; contexts and batches vary where they are given."""
    assert ask.problem is not None
    if not ops:
        raise BadInput("--problem without an operation: name the one that has these sizes, such as attention.")
    if ask.arch != ALL_ARCHS or ask.pattern is not None or ask.model is not None:
        raise BadInput("--problem with a model: the sizes are the one's or the other's; leave one of them out.")
    contexts = (0,) if ask.ctx is None else units.parse_range(ask.ctx, "context")
    batches = (0,) if ask.batch is None else units.parse_range(ask.batch, "batch")
    found: Asked = {}
    for op, context, batch in itertools.product(ops, contexts, batches):
        more = {"length": context, "batch": batch}
        text = ",".join([ask.problem, *(f"{name}={value}" for name, value in more.items() if value)])
        found[op, parse_problem(text, op, device, dtype)] = ()
    return found


def _backends_of(ask: KernelOptions, ops: Sequence[str], device: str) -> dict[str, list[str]]:
    """The backends of each operation, and a person's own kernel first."""
    names: dict[str, list[str]] = {op: [] for op in ops}
    for text in ask.backends:
        op, equals, name = text.partition("=")
        if equals and op not in names:
            raise BadInput(f"backend for {op}: it is not timed here; timed are {', '.join(ops)}.")
        wanted = [op] if equals else [one for one in ops if text in OPERATIONS[one].by_name]
        name = name if equals else text
        known = {known for one in ([op] if equals else ops) for known in OPERATIONS[one].by_name}
        if name not in known:
            raise unknown_name(f"{op} backend" if equals else "backend", name, sorted(known))
        for one in wanted:
            names[one].append(name)
    for op, found in names.items():
        if not ask.backends:
            found += OPERATIONS[op].order[device]
        found[:] = dict.fromkeys(found)
    if ask.kernel is not None:
        if len(ops) != 1:
            raise BadInput(f"--kernel with {len(ops)} operations: name the one that it implements.")
        if ":" not in ask.kernel:
            raise BadInput(f"kernel '{ask.kernel}' names no function: write package.module:function.")
        names[ops[0]].insert(0, ask.kernel)
    return names
