"""answers: quick questions put to stored records: which cases, which metrics, and a small table of them.

A condition is a field with its values: ``arch=inter,intra`` holds for either, ``ctx=4k..32k`` for 4k, 8k, 16k and 32k.
All conditions must hold. A field that no record has, or a value that occurs nowhere, is an error that names what there
is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybridbench.errors import BadInput, unknown_name
from hybridbench.metrics import METRICS, value
from hybridbench.record import Record, Status
from hybridbench.report.display import unit_for
from hybridbench.report.groups import arch_order, conditions_of, names_in_scales
from hybridbench.report.identity import identity
from hybridbench.report.measured import outcome, power_limits
from hybridbench.report.places import scale_place
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.suite.workloads import WORKLOADS
from hybridbench.units import format_tokens, parse_range

_TOKENS = ("context", "prompt")
_COUNTS = (*_TOKENS, "batch", "depths", "streams", "gpus", "tp", "seed")
_TEXTS = (
    *("arch", "model", "scale", "ratio", "recipe", "pattern", "workload", "device", "dtype", "state_dtype", "mode"),
    *("weight_dtype", "kv_dtype", "checkpoint", "backends", "status", "run_id", "caveats"),
)
_PLURAL = ("backends", "caveats", "depths", "streams")
"""Fields whose names are plural, for sentences."""
_SHORT = {"ctx": "context"}
FIELDS = (*_SHORT, *_TEXTS, *_COUNTS)
"""What a condition may name."""

ASKED = ("tokens_per_s", "step_s", "floor_frac")
"""The metrics that are shown where none is named."""

_TELLING = (
    *("scale", "batch", "prompt", "depths", "device", "dtype", "state_dtype", "mode", "streams", "checkpoint"),
    *("weight_dtype", "kv_dtype", "gpus", "tp", "backends"),
)
"""Fields with a column of their own where records differ in them."""

_FIELDS_OF = {"state": ("state_dtype",), "weights": ("weight_dtype",), "kv": ("kv_dtype",), "ranks": ("gpus", "tp")}
"""The fields that a condition of ``conditions_of`` says, where its name is another."""


def selected(records: Sequence[Record], conditions: Sequence[str]) -> list[Record]:
    """The records for which all conditions hold, in the order given.

    Args:
        conditions: ``FIELD=VALUE[,VALUE]``; token counts and other numbers in the syntax of ranges.

    Raises:
        BadInput: a condition of another form, an unknown field, a value that no record has, or conditions that hold for
            no record together.
    """
    fields = [identity(record) for record in records]
    kept = list(range(len(records)))
    for condition in conditions:
        name, values = _parsed(condition)
        there = [_values_of(name, known) for known in fields]
        wanted = _wanted(name, values, sorted({one for found in there for one in found}, key=_order))
        kept = [at for at in kept if wanted & there[at]]
    if not kept:
        raise BadInput(
            f"no case has {' and '.join(conditions)} together: each alone has some; leave one --where out, or see "
            "which cases there are without it."
        )
    return [records[at] for at in kept]


def _parsed(condition: str) -> tuple[str, str]:
    name, equals, values = (part.strip() for part in condition.partition("="))
    if not (name and equals and values):
        raise BadInput(f"--where '{condition}' is not FIELD=VALUE: write arch=inter, or ctx=4k..32k.")
    if name not in FIELDS:
        raise unknown_name("field", name, FIELDS)
    return _SHORT.get(name, name), values


def _values_of(name: str, known: dict[str, Any]) -> set[Any]:
    """The values that a record has of a field: as many as it has caveats, else one, or none where it is empty."""
    found = known[name]
    if name == "caveats":
        return set(found.split())
    return set() if found in (None, "") else {found}


def _wanted(name: str, typed: str, there: Sequence[Any]) -> set[Any]:
    if not there:
        one = "any" if name in _PLURAL else "a"
        raise BadInput(f"--where {name}={typed}: no case here has {one} {name}; leave it out.")
    if name in _COUNTS:
        numbers = set(parse_range(typed, name))
        if not numbers & set(there):
            raise BadInput(f"--where {name}={typed}: no case here has that; there are {_listed(name, there)}.")
        return numbers
    wanted = {one.strip() for one in typed.split(",")}
    for one in sorted(wanted - set(there)):
        raise unknown_name(f"{name} here", one, there)
    return wanted


def _listed(name: str, values: Sequence[int]) -> str:
    return ", ".join(format_tokens(one) if name in _TOKENS else str(one) for one in values)


def _order(one: object) -> tuple[bool, Any]:
    return isinstance(one, str), one


def metrics_named(names: str | None) -> tuple[str, ...]:
    """The metrics that a text names, with commas; ``ASKED`` for None.

    Raises:
        BadInput: an unknown one; the text has the nearest.
    """
    if names is None:
        return ASKED
    found = tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in found:
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
    return found


def answer(records: Sequence[Record], metrics: Sequence[str]) -> Table:
    """A row per record: its model, its context, what else tells it from the others, the metrics, and how it ended."""
    models = [record.case.model for record in records]
    names = dict(zip(models, names_in_scales(models), strict=True))
    order = list(WORKLOADS)
    rows = sorted(
        records,
        key=lambda one: (
            order.index(one.case.workload.kind),
            arch_order(one.case.model),
            scale_place(one.case.model.scale) or 0,
            names[one.case.model],
            one.case.workload.context,
        ),
    )
    known = [identity(record) for record in rows]
    telling = [name for name in ("workload", *_TELLING) if len({str(fields[name]) for fields in known}) > 1]
    units = {name: unit_for([value(record, name) for record in rows], METRICS[name].unit) for name in metrics}
    table = Table(
        f"{len(rows):,} case{'s' * (len(rows) != 1)}",
        [
            Column("model", "model", numeric=False),
            Column("context", "ctx"),
            *(Column(name, name.replace("_", " "), numeric=name in _COUNTS) for name in telling),
            *(Column(name, units[name].heading(METRICS[name].title)) for name in metrics),
            Column("status", "status", numeric=False),
        ],
        _common(rows[0], telling),
    )
    for record, fields in zip(rows, known, strict=True):
        numbers = [value(record, name) for name in metrics]
        failed = record.status is not Status.OK
        table.rows.append(
            [
                TableCell(names[record.case.model], record.case.model.label),
                TableCell(format_tokens(record.case.workload.context), record.case.workload.context),
                *(_cell(name, fields[name]) for name in telling),
                *(
                    TableCell(NO_VALUE if failed and number is None else units[name].show(number), number)
                    for name, number in zip(metrics, numbers, strict=True)
                ),
                outcome(table, record),
            ]
        )
    for sentence in power_limits(rows):
        table.remark(sentence)
    return table


def _cell(name: str, found: Any) -> TableCell:
    if found in (None, ""):
        return TableCell(NO_VALUE)
    return TableCell(format_tokens(found) if name in _TOKENS else str(found), found)


def _common(record: Record, telling: Sequence[str]) -> str:
    """What all cases have in common, in words."""
    apart = set(telling)
    shared = [text for name, text in conditions_of(record).items() if not apart & set(_FIELDS_OF.get(name, (name,)))]
    return ", ".join(shared)


def rows(records: Sequence[Record], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The same as plain values in SI: the identity of each record, and its metrics; None is unknown."""
    return [{**identity(record), **{name: value(record, name) for name in metrics}} for record in records]
