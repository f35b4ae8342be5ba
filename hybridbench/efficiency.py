"""efficiency: how near recorded steps came to the data sheet's floor, to predict similar steps on other GPUs.

Efficiency is the floor over the measured step, in the same phase and family, with weights, keys and values stored in
the same formats, at the nearest scale and batch, and interpolated over the context.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hybridbench.arch.model import CUSTOM, ModelSpec, cache_bytes
from hybridbench.arch.model import params as params_of
from hybridbench.arch.stored import Dtypes
from hybridbench.arch.weights import Quantised
from hybridbench.derive.doubts import problems
from hybridbench.derive.floors import datasheet_floor_s
from hybridbench.machine import find_peak
from hybridbench.metrics import value
from hybridbench.predict.group import GpuGroup
from hybridbench.predict.pricing import Efficiency
from hybridbench.record import Record, Status
from hybridbench.suite.case import stored_text
from hybridbench.suite.workloads import Workload
from hybridbench.units import format_tokens


@dataclass(frozen=True)
class _Step:
    """A valid record: its model's parameters, the data sheet's floor over its step, its power over the board limit."""

    record: Record
    params: int
    floor_frac: float
    power_frac: float | None

    @property
    def batch(self) -> int:
        return self.record.case.workload.batch

    @property
    def dtypes(self) -> Dtypes:
        return self.record.case.execution.dtypes

    @property
    def context(self) -> int:
        return self.record.case.workload.context


_Group = tuple[str, str, Quantised | None, str | None, str, str | None]
"""Workload, dtype, how weights are quantised, format of keys and values if the model has any, family, and the pattern
of a model that is of no family."""


class MeasuredSteps:
    """Records that predict steps. Each is examined once, when the first prediction asks for its group."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._records: dict[_Group, list[Record]] = defaultdict(list)
        for record in records:
            case = record.case
            self._records[_group(case.model, case.workload.kind, case.execution.dtypes)].append(record)
        self._steps: dict[_Group, list[_Step]] = {}

    def efficiency_of(
        self, spec: ModelSpec, workload: Workload, dtypes: Dtypes, group: GpuGroup | None = None
    ) -> Efficiency | None:
        """The measured efficiency of a phase and family; None if no record covers them.

        Records are of one GPU, so several in ``group`` are beyond what was measured.

        It uses the valid records of this workload, family and dtype, whose weights, keys and values are stored alike.
        Of these it takes those whose states are, if there are any, then the nearest scale in parameters, then the
        nearest batch, with one stream and no checkpointing, and at each context the fastest record. Between contexts
        it interpolates linearly in the logarithm of the context; outside them it takes the nearest end.
        """
        alike = _group(spec, workload.kind, dtypes)
        if alike not in self._steps:
            found = filter(None, map(_step, self._records.get(alike, ())))
            # Of several records at one context, the last and fastest shows what the GPU can reach.
            self._steps[alike] = sorted(found, key=lambda step: step.floor_frac)
        known = self._steps[alike]
        if not known:
            return None
        known = [step for step in known if _state(step.record.case.model, step.dtypes) == _state(spec, dtypes)] or known
        known = _nearest(known, lambda step: step.params, params_of(spec))
        known = _nearest(known, lambda step: step.batch, workload.batch)
        points = [step for _, step in sorted({step.context: step for step in known}.items())]
        powers = [(step.context, step.power_frac) for step in points if step.power_frac is not None]
        first = points[0].record
        ends = dict.fromkeys(format_tokens(step.context) for step in (points[0], points[-1]))
        formats = "".join(f"{words}, " for words in stored_text(first.case.execution).values() if words)
        count = f"{len(points)} record{'s' if len(points) > 1 else ''}"
        about = (
            f"{workload.kind} of {first.case.model.label} {first.case.model.scale}, batch {points[0].batch}, "
            f"{' to '.join(ends)}, {formats}on {first.environment.device} ({count})"
        )
        return Efficiency(
            floor_frac=_interpolated([(step.context, step.floor_frac) for step in points], workload.context),
            power_frac=_interpolated(powers, workload.context) if powers else None,
            about=about,
            beyond=_beyond(points, spec, workload, dtypes, group),
        )


def _group(spec: ModelSpec, kind: str, dtypes: Dtypes) -> _Group:
    kv = dtypes.kv if cache_bytes(spec, 1, dtypes.storage).kv else None
    return kind, dtypes.weights, dtypes.quantised, kv, spec.arch, spec.pattern if spec.arch == CUSTOM else None


def _state(spec: ModelSpec, dtypes: Dtypes) -> str | None:
    """The dtype of a model's states; None where it has none."""
    return dtypes.state if cache_bytes(spec, 1, dtypes.storage).ssm else None


def _step(record: Record) -> _Step | None:
    """What a record says of a step; None where it is not valid, or of another execution than the plain one."""
    execution = record.case.execution
    if (
        record.status is not Status.OK
        or execution.streams != 1
        or execution.checkpoint != "none"
        or execution.ranks > 1
    ):
        return None
    floor_s, step_s = datasheet_floor_s(record), value(record, "step_s")
    if floor_s is None or not step_s or problems(record):
        return None
    return _Step(record, params_of(record.case.model), floor_s / step_s, _power_frac(record))


def _beyond(steps: Sequence[_Step], spec: ModelSpec, workload: Workload, dtypes: Dtypes, group: GpuGroup | None) -> str:
    """Respects in which the workload lies outside the records, all of one batch and scale, such as ``ctx, batch``."""
    model = steps[0].record.case.model
    differs = {
        "model": model.label != spec.label and model.scale == spec.scale,
        "scale": model.scale != spec.scale,
        "ctx": not steps[0].context <= workload.context <= steps[-1].context,
        "batch": steps[0].batch != workload.batch,
        "SSM state": _state(model, steps[0].dtypes) != _state(spec, dtypes),
        "GPUs": group is not None and group.gpus > 1,
    }
    return ", ".join(word for word, is_so in differs.items() if is_so)


def _nearest(steps: Sequence[_Step], size: Callable[[_Step], int], wanted: int) -> list[_Step]:
    """The steps whose size is nearest to the wanted one, by ratio."""
    best = min((abs(math.log(size(step) / wanted)), size(step)) for step in steps)[1]
    return [step for step in steps if size(step) == best]


def _power_frac(record: Record) -> float | None:
    power_w, peak = value(record, "power_w"), find_peak(record.environment.device)
    return None if power_w is None or peak is None else power_w / peak.tdp_w


def _interpolated(points: Sequence[tuple[int, float]], context: int) -> float:
    """The value at a context, linear in the logarithm of the context, constant outside."""
    if context <= points[0][0]:
        return points[0][1]
    for (low, left), (high, right) in itertools.pairwise(points):
        if context <= high:
            share = math.log(context / low) / math.log(high / low)
            return left + share * (right - left)
    return points[-1][1]
