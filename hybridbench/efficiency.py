"""efficiency: how near recorded steps came to the data sheet's floor, to predict similar steps on other GPUs.

Efficiency is the floor over the measured step, in the same phase and family, with weights, keys and values stored in
the same formats, interpolated over parameters, batch and context between the records around the wanted step
(``predict.neighbours``).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
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
from hybridbench.predict.neighbours import Around, Grid, Sizes
from hybridbench.predict.pricing import Efficiency
from hybridbench.record import Record, Status
from hybridbench.suite.case import stored_text
from hybridbench.suite.workloads import Workload
from hybridbench.units import format_tokens

_PLACES = {"scale": 0, "ctx": 2, "batch": 1}
"""What the sizes of a step are called, in the order of tables, and where each stands in ``_sizes``."""
_COUNTS = (2.0, 1.0, 1.0)
"""How much a ratio of parameters, batch and context counts. The share changes most with the parameters: of an H200's
records held out at an end of what was measured, 14 of 145 are more than 10% off with these, and 24 if all count alike.
"""


@dataclass(frozen=True)
class _Step:
    """A valid record: the data sheet's floor over its step, its power over the board limit."""

    record: Record
    floor_frac: float
    power_frac: float | None

    @property
    def model(self) -> ModelSpec:
        return self.record.case.model

    @property
    def workload(self) -> Workload:
        return self.record.case.workload


class _Steps:
    """The steps that speak of a model, of each scale those of one model, and of each size the fastest."""

    def __init__(self, known: Sequence[_Step], spec: ModelSpec, other_state: bool) -> None:
        models: dict[str, list[ModelSpec]] = defaultdict(list)
        for step in known:
            models[step.model.scale].append(step.model)
        chosen = {scale: min(found, key=lambda model: _unlikeness(model, spec)) for scale, found in models.items()}
        # Of several records of one size, the last and fastest shows what the GPU can reach.
        kept = sorted(
            (step for step in known if step.model == chosen[step.model.scale]), key=lambda one: one.floor_frac
        )
        self.spec, self._other_state = spec, other_state
        self.of_size = {_sizes(step.model, spec, step.workload): step for step in kept}
        self._grid = Grid(self.of_size, _COUNTS)
        self._power_fracs = {
            size: step.power_frac for size, step in self.of_size.items() if step.power_frac is not None
        }
        self._about = _about(list(self.of_size.values()))

    def efficiency(self, workload: Workload, group: GpuGroup | None) -> Efficiency:
        around = self._grid.around(_sizes(self.spec, self.spec, workload))
        return Efficiency(
            floor_frac=sum(weight * self.of_size[size].floor_frac for size, weight in around.weights.items()),
            power_frac=around.mean(self._power_fracs),
            about=self._about,
            between=", ".join(word for word, place in _PLACES.items() if around.between(place)),
            beyond=self._beyond(around, group),
        )

    def _beyond(self, around: Around, group: GpuGroup | None) -> str:
        """Respects in which a workload lies outside the steps, such as ``ctx, batch``."""
        differs = {
            "model": any(not _is_alike(self.of_size[size].model, self.spec) for size in around.weights),
            **{word: around.outside[place] > 0 for word, place in _PLACES.items()},
            "SSM state": self._other_state,
            "GPUs": group is not None and group.gpus > 1,
        }
        return ", ".join(word for word, is_so in differs.items() if is_so)


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
        self._known: dict[_Group, list[_Step]] = {}
        self._steps: dict[tuple[_Group, str | None, ModelSpec], _Steps] = {}

    def efficiency_of(
        self, spec: ModelSpec, workload: Workload, dtypes: Dtypes, group: GpuGroup | None = None
    ) -> Efficiency | None:
        """The measured efficiency of a phase and family; None if no record covers them.

        Records are of one GPU, so several in ``group`` are beyond what was measured.

        It uses the valid records of this workload, family and dtype, whose weights, keys and values are stored alike,
        with one stream and no checkpointing; of these only those whose states are too, if there are any. Of each scale
        it takes one model, the wanted one or the most like it, and of records of one size the fastest. Between them it
        interpolates linearly in the logarithm of parameters, batch and context; outside, it takes the nearest.
        """
        alike, state = _group(spec, workload.kind, dtypes), _state(spec, dtypes)
        if alike not in self._known:
            self._known[alike] = list(filter(None, map(_step, self._records.get(alike, ()))))
        if not self._known[alike]:
            return None
        if (alike, state, spec) not in self._steps:
            same = [one for one in self._known[alike] if _state(one.model, one.record.case.execution.dtypes) == state]
            self._steps[alike, state, spec] = _Steps(same or self._known[alike], spec, other_state=not same)
        return self._steps[alike, state, spec].efficiency(workload, group)


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
    return _Step(record, floor_s / step_s, _power_frac(record))


def _power_frac(record: Record) -> float | None:
    power_w, peak = value(record, "power_w"), find_peak(record.environment.device)
    return None if power_w is None or peak is None else power_w / peak.tdp_w


def _sizes(model: ModelSpec, wanted: ModelSpec, workload: Workload) -> Sizes:
    """Sizes of a step. Models of one scale are of one size, so that a variant of the wanted one stands for it."""
    return params_of(wanted if model.scale == wanted.scale else model), workload.batch, workload.context


def _is_alike(model: ModelSpec, spec: ModelSpec) -> bool:
    """Whether models are the same, or the same but for their scale."""
    if model.scale == spec.scale:
        return model.label == spec.label
    return (model.ratio, model.recipe) == (spec.ratio, spec.recipe)


def _unlikeness(model: ModelSpec, spec: ModelSpec) -> tuple[bool, bool, float, str]:
    """What sorts models of one scale by how little they are like another."""
    far = abs(math.log(params_of(model) / params_of(spec)))
    return model != spec, not _is_alike(model, spec), far, model.label


def _about(steps: Sequence[_Step]) -> str:
    """Which steps, in words: ``decode of mamba 100m to 3b, batch 1 to 64, 4k to 128k, on NVIDIA H200 (9 records)``."""
    models = sorted({step.model for step in steps}, key=params_of)
    labels = {model.label for model in models}
    name = labels.pop() if len(labels) == 1 else models[0].arch
    scales = _ends([model.scale for model in models])
    batches = _ends([str(batch) for batch in sorted({step.workload.batch for step in steps})])
    contexts = _ends([format_tokens(context) for context in sorted({step.workload.context for step in steps})])
    formats = "".join(f"{words}, " for words in stored_text(steps[0].record.case.execution).values() if words)
    devices = " and ".join(sorted({step.record.environment.device for step in steps}))
    return (
        f"{steps[0].workload.kind} of {name} {scales}, batch {batches}, {contexts}, {formats}on {devices} "
        f"({len(steps)} record{'s' if len(steps) > 1 else ''})"
    )


def _ends(words: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys((words[0], words[-1])))
