"""repeat: the command that measures the cases of a group again, where one command does."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hybridbench.errors import BadInput
from hybridbench.report.groups import Group
from hybridbench.suite.case import Sampling
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.suite.workloads import workload_row
from hybridbench.units import format_tokens


def command(group: Group) -> str | None:
    """The command whose cases are exactly those of a group; None if no command of few words makes them.

    It is tried: the cases that its words make must have the keys of the group's.
    """
    keys = {record.case.key for record in group.records}
    on_gpu = group.records[0].case.device == "cuda"
    for sweep in _guesses(group):
        values = {**vars(sweep), "backends": tuple(sorted(sweep.backends.items()))}
        if _keys(tuple(values.items()), on_gpu) == keys:
            return _typed(sweep)
    return None


@functools.lru_cache(maxsize=256)
def _keys(values: tuple[tuple[str, Any], ...], on_gpu: bool) -> frozenset[str]:
    """The keys of the cases of a sweep, given by its fields; none if it makes no cases."""
    fields = dict(values)
    try:
        made = cases(Sweep(**{**fields, "backends": dict(fields["backends"])}), has_gpu=on_gpu)
    except BadInput:
        return frozenset()
    return frozenset(case.key for case in made)


def _guesses(group: Group) -> Iterator[Sweep]:
    """Sweeps over a group's families, contexts and batches: with the default ratio, then with those of its models."""
    first = group.records[0].case
    work, execution, sampling = first.workload, first.execution, first.sampling
    specs = [series.model for series in group.series]
    contexts = sorted({record.case.workload.context for record in group.records})
    batches = sorted({record.case.workload.batch for record in group.records})
    plain = Sweep(
        workload=group.workload,
        arch=",".join(dict.fromkeys(spec.arch for spec in specs)),
        scale=first.model.scale,
        ctx=",".join(map(format_tokens, contexts)),
        batch=",".join(map(str, batches)),
        dtype=execution.dtype,
        mode=execution.mode,
        state_dtype=execution.state_dtype,
        weight_dtype=execution.weight_dtype,
        kv_dtype=execution.kv_dtype,
        backends=execution.backends,
        streams=execution.streams,
        checkpoint=execution.checkpoint,
        gpus=str(execution.gpus),
        tp=str(execution.tp),
        seed=execution.seed,
        prompt=work.prompt or Sweep.prompt,
        depths=work.depths or None,
        max_time_s=None if sampling.max_time_s == Sampling.max_time_s else sampling.max_time_s,
        min_samples=sampling.min_samples if sampling.insist else None,
    )
    yield plain
    yield replace(plain, mode=None, as_published=True)
    yield replace(plain, ratio=",".join(dict.fromkeys(spec.ratio for spec in specs if spec.ratio)) or None)


def _typed(sweep: Sweep) -> str:
    """A sweep as a person types it: what it asks for, and what differs from the defaults of options."""
    words = ["hybridbench", workload_row(sweep.workload).command]
    for name in ("arch", "scale", "ratio", "ctx", "batch", "dtype", "state_dtype", "weight_dtype", "kv_dtype", "mode"):
        given = getattr(sweep, name)
        if given is not None:
            words += [f"--{name.replace('_', '-')}", str(given)]
    for name in ("streams", "checkpoint", "gpus", "tp", "seed", "prompt", "depths", "max_time_s", "min_samples"):
        given = getattr(sweep, name)
        if given != getattr(Sweep, name):
            words += [
                f"--{name.removesuffix('_s').replace('_', '-')}",
                f"{given:g}" if name == "max_time_s" else str(given),
            ]
    words += [word for op, backend in sorted(sweep.backends.items()) for word in ("--backend", f"{op}={backend}")]
    words += ["--as-published"] if sweep.as_published else []
    return shlex.join(words)
