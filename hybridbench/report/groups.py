"""groups: which records are comparable, what the axis of a group is, and how its series are named.

Speeds are comparable only if machine, scale, dtype, mode, backends and batch are the same. Each combination of these is
a group with its own tables and charts. In a group, a series is one model and the axis is the context; if the group has
one context and several batches, the axis is the batch. A cell that was measured more than once shows its latest record.

Records of several runs, such as before and after a change, may be shown side by side: where two of them measured the
same cell, each run has a series of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybridbench.arch.families import ARCHS
from hybridbench.arch.model import ModelSpec
from hybridbench.record import Record
from hybridbench.report.places import BATCH, CONTEXT, place_text
from hybridbench.store import newest
from hybridbench.suite.case import Execution, spread_text, stored_text
from hybridbench.suite.models import distinct
from hybridbench.suite.workloads import WORKLOADS
from hybridbench.units import format_tokens


@dataclass(frozen=True)
class Series:
    """One model of a group, with its records by place on the axis, in order.

    ``run`` names the run where the group shows several side by side; empty otherwise.
    """

    name: str
    model: ModelSpec
    cells: dict[int, Record]
    run: str = ""


@dataclass(frozen=True)
class Group:
    """Records that are comparable.

    Args:
        conditions: what all records have in common, in words: workload, device, scale and so on.
        axis: ``context`` or ``batch``.
        series: one per model, in the order of ``arch_order``.
        superseded: the number of records that are not shown because a later one has the same cell.
    """

    conditions: dict[str, str]
    axis: str
    series: tuple[Series, ...]
    superseded: int = 0

    @property
    def workload(self) -> str:
        """Kind of work."""
        return self.conditions["workload"]

    @property
    def subtitle(self) -> str:
        """The conditions in one line, without the workload."""
        return ", ".join(text for name, text in self.conditions.items() if name != "workload")

    @property
    def title(self) -> str:
        """The conditions in one line."""
        return f"{self.workload}: {self.subtitle}"

    @property
    def places(self) -> list[int]:
        """The contexts (or batches) at which any series has a record, in order."""
        return sorted({place for series in self.series for place in series.cells})

    @property
    def records(self) -> list[Record]:
        """All shown records, series by series."""
        return [record for series in self.series for record in series.cells.values()]

    def place_label(self, place: int) -> str:
        """A place on the axis as a user types it."""
        return place_text(self.axis, place)


NO_RUNS: Mapping[str, str] = {}


def latest(records: Sequence[Record], runs: Mapping[str, str] = NO_RUNS) -> list[Record]:
    """The latest record of every case on every machine, in each run, in the order given.

    Args:
        records: some records.
        runs: the name of the run to show for a ``run_id``; run ids that are not in it belong to one run.
    """
    of_run: dict[str, list[Record]] = {}
    for record in records:
        of_run.setdefault(runs.get(record.run_id, ""), []).append(record)
    kept = {id(record) for part in of_run.values() for record in newest(part)}
    return [record for record in records if id(record) in kept]


def group_records(records: Iterable[Record], runs: Mapping[str, str] = NO_RUNS) -> list[Group]:
    """The groups of the latest records, ordered by workload and then by the time of their first record.

    ``runs`` is that of ``latest``.
    """
    listed = list(records)
    hosts = {record.environment.device: set[str]() for record in listed}
    for record in listed:
        hosts[record.environment.device].add(_host(record))
    found: dict[tuple[tuple[str, str], ...], list[Record]] = {}
    for record in listed:
        conditions = conditions_of(record)
        if len(hosts[record.environment.device]) > 1:
            conditions["host"] = _host(record)
        found.setdefault(tuple(conditions.items()), []).append(record)
    merged: dict[tuple[tuple[str, str], ...], list[list[Record]]] = {}
    for key, members in found.items():
        merged.setdefault(tuple(item for item in key if item[0] != "batch"), []).append(members)
    groups: list[Group] = []
    for key, parts in merged.items():
        contexts = {record.case.workload.context for members in parts for record in members}
        if len(parts) > 1 and len(contexts) == 1:
            words = {**dict(key), "context": f"context {format_tokens(contexts.pop())}"}
            groups.append(_group(words, BATCH, [record for members in parts for record in members], runs))
        else:
            for members in parts:
                batch = members[0].case.workload.batch
                groups.append(_group(_with_batch(dict(key), batch), CONTEXT, members, runs))
    return sorted(groups, key=lambda group: list(WORKLOADS).index(group.workload))


def conditions_of(record: Record) -> dict[str, str]:
    """What a record has to have in common with another to be comparable, in words, without what says nothing."""
    case, work, execution = record.case, record.case.workload, record.case.execution
    conditions = {
        "workload": work.kind,
        "device": record.environment.device,
        "scale": case.model.scale,
        "batch": _batch(work.batch),
        "prompt": f"prompt {format_tokens(work.prompt)}" if work.prompt else "",
        "depths": f"integrated over {work.depths} depths" if work.depths else "",
        "dtype": execution.dtype,
        **stored_text(execution),
        "mode": execution.mode,
        "streams": f"{execution.streams} streams" if execution.streams > 1 else "",
        "checkpoint": "" if execution.checkpoint == "none" else f"{execution.checkpoint} checkpointing",
        "ranks": spread_text(execution),
        "backends": backends_text(execution),
    }
    return {name: text for name, text in conditions.items() if text}


def _batch(batch: int) -> str:
    return f"batch {batch}"


def _with_batch(conditions: dict[str, str], batch: int) -> dict[str, str]:
    """The conditions with the batch inserted after the scale."""
    words: dict[str, str] = {}
    for name, text in conditions.items():
        words[name] = text
        if name == "scale":
            words["batch"] = _batch(batch)
    return words


def _host(record: Record) -> str:
    environment = record.environment
    if environment.device != environment.cpu:
        return f"{environment.cores} cores of {environment.cpu}"
    threads = environment.threads
    on = "" if threads is None else f", {threads} thread{'s' if threads > 1 else ''}"
    return f"{environment.cores} cores{on}"


def backends_text(execution: Execution) -> str:
    """The backends that were requested by name; empty if all were chosen automatically."""
    return " ".join(f"{op}={name}" for op, name in sorted(execution.backends.items()) if name != "auto")


def _group(conditions: dict[str, str], axis: str, records: list[Record], runs: Mapping[str, str]) -> Group:
    cells: list[tuple[ModelSpec, dict[str, dict[int, Record]]]] = []
    for record in sorted(records, key=lambda record: record.started):
        of_model = next((found for model, found in cells if model == record.case.model), None)
        if of_model is None:
            of_model = {}
            cells.append((record.case.model, of_model))
        place = record.case.workload.context if axis == CONTEXT else record.case.workload.batch
        of_model.setdefault(runs.get(record.run_id, ""), {})[place] = record
    cells.sort(key=lambda cell: arch_order(cell[0]))
    names = series_names([model for model, _ in cells])
    apart = any(_overlap(of_run.values()) for _, of_run in cells)
    order = list(dict.fromkeys(["", *runs.values()]))
    series: list[Series] = []
    for name, (model, of_run) in zip(names, cells, strict=True):
        if apart:
            for run in sorted(of_run, key=order.index):
                told = f"{name} ({run})" if run else name
                series.append(Series(told, model, dict(sorted(of_run[run].items())), run))
        else:
            merged = {place: record for places in of_run.values() for place, record in places.items()}
            series.append(Series(name, model, dict(sorted(merged.items()))))
    return Group(conditions, axis, tuple(series), len(records) - sum(len(one.cells) for one in series))


def _overlap(runs: Iterable[Mapping[int, Record]]) -> bool:
    """Whether several runs of a model have a record at the same place."""
    places = [place for places in runs for place in places]
    return len(set(places)) < len(places)


def arch_order(model: ModelSpec) -> int:
    """The position of a family in tables and legends; custom patterns come last."""
    return ARCHS.index(model.arch) if model.arch in ARCHS else len(ARCHS)


def series_names(models: Sequence[ModelSpec]) -> list[str]:
    """A name for each model: its label, followed by a distinguishing field where labels are equal."""
    names = [model.label for model in models]
    for clash in {name for name in names if names.count(name) > 1}:
        places = [place for place, name in enumerate(names) if name == clash]
        words = _telling([models[place] for place in places])
        for place, word in zip(places, words, strict=True):
            names[place] = f"{clash} {word}"
    return names


def names_in_scales(models: Sequence[ModelSpec]) -> list[str]:
    """A name for each model that no other one of its scale has: for what says the scale beside it."""
    names: dict[ModelSpec, str] = {}
    several = distinct(models)
    for scale in dict.fromkeys(model.scale for model in several):
        alike = [model for model in several if model.scale == scale]
        names |= zip(alike, series_names(alike), strict=True)
    return [names[model] for model in models]


_PLAIN = (("recipe",), ("ratio",), ("pattern",))
"""Fields whose value is clear without the field's name."""


def _telling(models: Sequence[ModelSpec]) -> list[str]:
    """Words that distinguish models: recipe, ratio or pattern, else one field of their blocks, else several."""
    leaves = [dict(_leaves(model.to_dict())) for model in models]
    paths = list(dict.fromkeys([*_PLAIN, *(path for found in leaves for path in found)]))
    single = [path for path in paths if len({found.get(path) for found in leaves}) == len(models)]
    chosen: list[tuple[str, ...]] = single[:1]
    parts = [tuple[Any, ...]() for _ in models]
    for path in paths if not single else ():
        more = [(*part, found.get(path)) for part, found in zip(parts, leaves, strict=True)]
        if len(set(more)) > len(set(parts)):
            chosen.append(path)
            parts = more
    told = [" ".join(_said(path, found.get(path)) for path in chosen) for found in leaves]
    return told if len(set(told)) == len(models) else [f"#{index}" for index in range(1, len(models) + 1)]


def _said(path: tuple[str, ...], value: Any) -> str:
    plain = path in _PLAIN or path[-1] == "kind"
    return str(value) if plain else f"{path[-1].replace('_', ' ')} {value}"


def _leaves(body: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The plain values in nested JSON, each with the keys that lead to it."""
    if isinstance(body, dict | list):
        for key, value in body.items() if isinstance(body, dict) else enumerate(body):
            yield from _leaves(value, (*path, str(key)))
    else:
        yield path, body


def file_stem(group: Group, groups: Sequence[Group]) -> str:
    """A file name for a group: its workload, and the conditions that distinguish it from other groups of it."""
    rivals = [other for other in groups if other.workload == group.workload]
    telling = [
        text for name, text in group.conditions.items() if any(other.conditions.get(name) != text for other in rivals)
    ]
    return "-".join(re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") for text in (group.workload, *telling))
