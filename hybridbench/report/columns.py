"""columns: what tables of predictions share: columns of numbers and words, names of models, a model's plain values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hybridbench.arch.model import ModelSpec
from hybridbench.arch.stored import Dtypes
from hybridbench.predict.group import GpuGroup
from hybridbench.report.display import unit_for
from hybridbench.report.groups import names_in_scales
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.suite.models import same_stacks

ColumnOf = tuple[Column, list[TableCell]]
"""A column and its cells, one per row."""


def sized(key: str, heading: str, unit: str, numbers: Sequence[float | None]) -> ColumnOf:
    """A column of SI numbers in the unit that suits them."""
    shown_in = unit_for(numbers, unit)
    cells = [TableCell(NO_VALUE if number is None else shown_in.show(number), number) for number in numbers]
    return Column(key, shown_in.heading(heading)), cells


def said(key: str, heading: str, words: Sequence[str], numeric: bool = False) -> ColumnOf:
    """A column of words."""
    return Column(key, heading, numeric=numeric), [TableCell(word, word) for word in words]


def gpu_counts(numbers: Sequence[int | None], key: str = "gpus", heading: str = "GPUs") -> list[ColumnOf]:
    """A column of numbers of GPUs that share a model; none where that was not asked for."""
    if all(number is None for number in numbers):
        return []
    cells = [TableCell(NO_VALUE if number is None else str(number), number) for number in numbers]
    return [(Column(key, heading), cells)]


def group_columns(groups: Sequence[GpuGroup | None]) -> list[ColumnOf]:
    """How many GPUs run a model, and how many of them share a matrix."""
    found = gpu_counts([None if group is None else group.gpus for group in groups])
    return found and [*found, *gpu_counts([None if group is None else group.tp for group in groups], "tp", "tp")]


def table_of(title: str, columns: Iterable[ColumnOf], specs: Sequence[ModelSpec] = ()) -> Table:
    """A table of columns. It says which ratios of ``specs`` make the same stack."""
    made = list(columns)
    table = Table(title, [column for column, _ in made])
    table.rows = [list(row) for row in zip(*(cells for _, cells in made), strict=True)]
    for sentence in same_stacks(specs):
        table.remark(sentence)
    return table


def names_of(specs: Sequence[ModelSpec]) -> list[str]:
    """A name for each model, with the scale if there are several scales."""
    several = len({spec.scale for spec in specs}) > 1
    named = zip(names_in_scales(specs), specs, strict=True)
    return [f"{name} {spec.scale}" if several else name for name, spec in named]


def model_fields(spec: ModelSpec) -> dict[str, Any]:
    """What names a model, as plain values, with what its file leaves out where it was read from one."""
    return {
        "arch": spec.arch,
        "label": spec.label,
        "scale": spec.scale,
        "ratio": spec.ratio,
        "recipe": spec.recipe,
        "pattern": spec.pattern,
        "d_model": spec.d_model,
        **({"notes": list(spec.notes)} if spec.notes else {}),
    }


def group_fields(group: GpuGroup | None) -> dict[str, Any]:
    """The GPUs that share a model, as plain values; none where that was not asked for."""
    return {} if group is None else {"gpus": group.gpus, "tp": group.tp}


def dtype_words(specs: Sequence[ModelSpec], dtypes: Sequence[Dtypes]) -> str:
    """The dtypes that a table's bytes are in, for its title; by model where models differ."""
    return by_words(names_of(specs), [one.words for one in dtypes])


def by_words(names: Sequence[str], words: Sequence[str]) -> str:
    """What is said of each name, once where it is the same of all, and else behind the names that it is said of."""
    said_of: dict[str, list[str]] = {}
    for name, text in dict.fromkeys(zip(names, words, strict=True)):
        said_of.setdefault(text, []).append(name)
    if len(said_of) == 1:
        return words[0]
    return "; ".join(f"{', '.join(of)}: {text}" for text, of in said_of.items())
