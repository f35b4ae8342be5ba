"""caches: the caches of models in the layouts of libraries and engines, as a table and as plain values."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from hybridbench.arch.block import CacheBytes
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.stored import Dtypes
from hybridbench.predict.layouts import Paged
from hybridbench.report.columns import ColumnOf, by_words, gpu_counts, model_fields, names_of, said, sized, table_of
from hybridbench.report.display import unit_for
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.units import format_bytes, format_tokens


@dataclass(frozen=True)
class CacheLine:
    """A batch's cache in one layout: by formula, in built tensors, as allocated, and in pages; None where unknown.

    With ``tp`` it is that of one of so many GPUs which share the model.
    """

    spec: ModelSpec
    context: int
    batch: int
    layout: str
    formula: CacheBytes
    tensors: int | None
    allocated: int | None
    pages: Paged
    dtypes: Dtypes
    tp: int | None = None


def cache_table(rows: Sequence[CacheLine]) -> Table:
    """The table of cache bytes of whole batches, computed and observed in four ways."""
    specs = [row.spec for row in rows]
    scales = dict.fromkeys(spec.scale for spec in specs)
    unit = unit_for([row.formula.total for row in rows], "B")

    def shown(key: str, heading: str, numbers: Sequence[int | None]) -> ColumnOf:
        cells = [TableCell(NO_VALUE if number is None else unit.show(number), number) for number in numbers]
        return Column(key, heading), cells

    inflation = [row.batch * row.pages.total / row.formula.total - 1 if row.formula.total else 0.0 for row in rows]
    columns = [
        said("model", "model", names_of(specs)),
        *gpu_counts([row.tp for row in rows]),
        said("context", "ctx", [format_tokens(row.context) for row in rows], numeric=True),
        said("layout", "layout", [row.layout for row in rows]),
        shown("kv", "KV", [row.formula.kv for row in rows]),
        shown("ssm", "SSM", [row.formula.ssm for row in rows]),
        shown("conv", "conv", [row.formula.conv for row in rows]),
        shown("formula", "formula", [row.formula.total for row in rows]),
        shown("tensors", "tensors", [row.tensors for row in rows]),
    ]
    if any(row.allocated is not None for row in rows):
        columns.append(shown("allocated", "allocated", [row.allocated for row in rows]))
    columns += [
        shown("paged", "in pages", [row.batch * row.pages.total for row in rows]),
        sized("inflation", "more", "frac", inflation),
        said("page_tokens", "page [tokens]", [str(row.pages.page_tokens) for row in rows], numeric=True),
    ]
    batches = ", ".join(dict.fromkeys(str(row.batch) for row in rows))
    names = [f"{name} {row.layout}" for name, row in zip(names_of(specs), rows, strict=True)]
    dtypes_of: dict[str, set[Dtypes]] = {}
    for row in rows:
        dtypes_of.setdefault(row.layout, set()).add(row.dtypes)
    alike = all(len(dtypes) == 1 for dtypes in dtypes_of.values())
    stored = by_words([row.layout for row in rows] if alike else names, [row.dtypes.of_caches for row in rows])
    per_gpu = "" if rows[0].tp is None else ", per GPU"
    title = f"cache of a batch of {batches}{per_gpu}, {', '.join(scales)}, in {unit.label}; {stored}"
    table = table_of(title, columns, specs)
    sharing: dict[Hashable, list[str]] = {}
    for row in rows:
        sharing.setdefault(_pages_key(row), []).append(row.layout)
    for row in rows:
        layouts = ", ".join(sharing[_pages_key(row)])
        layouts += "" if row.tp is None else f", {row.tp} GPUs"
        last, padding = row.batch * row.pages.last_pages, row.batch * row.pages.padding
        if last or padding:
            table.remark(
                f"{row.spec.label} at {format_tokens(row.context)}, {layouts}: {format_bytes(last)} unused "
                f"in last pages, {format_bytes(padding)} of padding to pages of {row.pages.page_tokens} tokens"
            )
        if row.tensors is not None and row.tensors != row.formula.total:
            table.remark(
                f"{row.spec.label}, {row.layout}: {row.tensors:,} bytes in tensors where the formula says "
                f"{row.formula.total:,}: one of them is wrong"
            )
    return table


def _pages_key(row: CacheLine) -> Hashable:
    """Equal for rows whose caches take the same pages."""
    return row.spec, row.tp, row.context, row.batch, row.pages


def cache_row(row: CacheLine) -> dict[str, Any]:
    """One cache as plain values, for the whole batch."""
    return {
        **model_fields(row.spec),
        "context": row.context,
        "batch": row.batch,
        **({} if row.tp is None else {"tp": row.tp}),
        "layout": row.layout,
        **row.dtypes.to_dict(),
        "kv_cache_bytes": row.formula.kv,
        "ssm_state_bytes": row.formula.ssm,
        "conv_state_bytes": row.formula.conv,
        "formula_bytes": row.formula.total,
        "tensor_bytes": row.tensors,
        "allocated_bytes": row.allocated,
        "paged_bytes": row.batch * row.pages.total,
        "last_pages_bytes": row.batch * row.pages.last_pages,
        "padding_bytes": row.batch * row.pages.padding,
        "page_tokens": row.pages.page_tokens,
    }
