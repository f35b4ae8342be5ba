"""prices: predicted prices of a workload on GPUs: their table, its order, and their charts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hybridbench.errors import unknown_name
from hybridbench.predict.pricing import Efficiency, Price
from hybridbench.report.chart import MEASURED, PREDICTED, Plot, Point
from hybridbench.report.columns import (
    ColumnOf,
    dtype_words,
    group_columns,
    group_fields,
    model_fields,
    names_of,
    said,
    sized,
    table_of,
)
from hybridbench.report.display import ShownUnit, unit_for
from hybridbench.report.places import CONTEXT
from hybridbench.report.predicted import PredictedReport
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.units import format_tokens

SORTS: dict[str, Callable[[Price], float | None]] = {
    "floor": lambda price: price.floor_s,
    "step": lambda price: price.step_s,
    "throughput": lambda price: -(price.floor_tokens_per_s if price.step_s is None else price.step_tokens_per_s or 0.0),
    "energy": lambda price: price.energy_at_tdp_j if price.step_s is None else price.energy_per_token_j,
    "peak": lambda price: price.peak_bytes,
    "weights": lambda price: price.weight_bytes,
    "cache": lambda price: price.kv_cache_bytes + price.state_bytes,
}
"""What rows may be sorted by: the best first, and what is unknown last."""


def sorted_prices(prices: Sequence[Price], by: str | None) -> list[Price]:
    """The prices in an order of ``SORTS``, or as given.

    Raises:
        BadInput: an unknown order.
    """
    if by is None:
        return list(prices)
    if by not in SORTS:
        raise unknown_name("sort", by, SORTS)

    def place(price: Price) -> tuple[bool, float]:
        amount = SORTS[by](price)
        return amount is None, amount or 0.0

    return sorted(prices, key=place)


def price_table(prices: Sequence[Price], measured: bool) -> Table:
    """Predicted prices: the floor and, if ``measured``, the step at a measured efficiency."""
    work = prices[0].workload
    specs = [price.spec for price in prices]
    scales = dict.fromkeys(spec.scale for spec in specs)
    shared = [*(price.floor_s for price in prices), *(price.step_s for price in prices if price.step_s)]
    step = unit_for(shared, "s")
    rate = unit_for([price.floor_tokens_per_s for price in prices], "tokens/s")

    def shown(key: str, heading: str, shown_in: ShownUnit, numbers: Sequence[float | None]) -> ColumnOf:
        cells = [TableCell(NO_VALUE if number is None else shown_in.show(number), number) for number in numbers]
        return Column(key, shown_in.heading(heading)), cells

    grouped = any(price.group is not None for price in prices)
    columns = [
        said("model", "model", names_of(specs)),
        said("gpu", "GPU", [price.gpu.name for price in prices]),
        *group_columns([price.group for price in prices]),
        (
            Column("context", "ctx"),
            [TableCell(format_tokens(price.workload.context), price.workload.context) for price in prices],
        ),
        (Column("batch", "batch"), [TableCell(str(price.workload.batch), price.workload.batch) for price in prices]),
        said("bound", "bound by", [price.bound for price in prices]),
        shown("floor_s", "floor", step, [price.floor_s for price in prices]),
        shown("floor_tokens_per_s", "at most", rate, [price.floor_tokens_per_s for price in prices]),
        *([_rate_per_gpu(prices, rate)] if grouped else []),
        sized("energy_at_tdp_j", "a token at TDP", "J", [price.energy_at_tdp_j for price in prices]),
    ]
    if measured:
        shares = [price.efficiency.floor_frac if price.efficiency else None for price in prices]
        columns += [
            sized("floor_frac", "of floor", "frac", shares),
            shown("step_s", "predicted step", step, [price.step_s for price in prices]),
            shown("step_tokens_per_s", "predicted", rate, [price.step_tokens_per_s for price in prices]),
            sized("energy_per_token_j", "a token", "J", [price.energy_per_token_j for price in prices]),
        ]
    fits = {True: "yes", False: "no", None: "unknown"}
    columns += [
        *_links(prices),
        *_memory(prices),
        sized("peak_bytes", "peak", "B", [price.peak_bytes for price in prices]),
        said("fits", "fits", [fits[price.fits] for price in prices]),
    ]
    stored = dtype_words(specs, [price.dtypes for price in prices])
    per_gpu = ", bytes per GPU" if grouped else ""
    table = table_of(f"predicted, nothing was run: {work.kind}, {', '.join(scales)}{per_gpu}; {stored}", columns, specs)
    known = [price.efficiency for price in prices]
    if any(one.between or one.beyond for one in known if one):
        place = next(index for index, column in enumerate(table.columns) if column.key == "floor_frac") + 1
        table.columns.insert(place, Column("among", "among records", numeric=False, wraps=True))
        for row, one in zip(table.rows, known, strict=True):
            words = _among(one) if one else ""
            row.insert(place, TableCell(words or NO_VALUE, words))
    table.remark(
        "floor: max(model FLOPs / dense peak, must-move bytes / bandwidth), by the datasheet; at TDP: the board power "
        "limit times the floor's time, which is no lower bound: a card may draw less"
    )
    for sentence in _link_sentences(prices):
        table.remark(sentence)
    if any(price.dtypes.quantised for price in prices):
        table.remark(
            "quantised weights: arithmetic at the peak of the activations' dtype; kernels that multiply in fewer bits "
            "may be faster"
        )
    for price in prices:
        if price.efficiency is not None:
            table.remark(f"measured share of the datasheet's floor: {price.efficiency.about}")
        elif measured:
            table.remark(f"no record of {price.workload.kind} of {price.spec.label} with {price.dtypes.words}")
    return table


def _among(efficiency: Efficiency) -> str:
    """Where a step lies among the records that predict it, such as ``between: batch; beyond: ctx``."""
    words = {"between": efficiency.between, "beyond": efficiency.beyond}
    return "; ".join(f"{word}: {sizes}" for word, sizes in words.items() if sizes) or "measured"


def _rate_per_gpu(prices: Sequence[Price], shown_in: ShownUnit) -> ColumnOf:
    numbers = [price.floor_gpu_tokens_per_s for price in prices]
    heading = Column("floor_gpu_tokens_per_s", shown_in.heading("a GPU"))
    return heading, [TableCell(shown_in.show(number), number) for number in numbers]


def _links(prices: Sequence[Price]) -> list[ColumnOf]:
    """What a GPU exchanges with others in a step, and how long its links take for it; nothing without a group."""
    if all(price.group is None for price in prices):
        return []
    found = [sized("link_s", "links", "s", [0.0 if _alone(price) else price.link_s for price in prices])]
    for key, heading in (("all_reduced", "all-reduce"), ("gathered", "gathered"), ("scattered", "scattered")):
        sizes = [getattr(price.links, key) for price in prices]
        if any(sizes):
            found.append(sized(f"{key}_bytes", heading, "B", sizes))
    return found


def _alone(price: Price) -> bool:
    return price.group is None or price.group.gpus == 1


def _link_sentences(prices: Sequence[Price]) -> list[str]:
    """What a table of groups has to say of links and batches."""
    groups = [price for price in prices if not _alone(price)]
    if not groups:
        return []
    found = [
        "links: the bytes that a GPU sends in rings over the rate of its links in one direction; they may overlap with "
        "its other work, so the floor is the larger of both; the batch is that of the GPUs that share a matrix (tp)"
    ]
    unknown = dict.fromkeys(price.gpu.name for price in groups if price.link_s is None)
    if unknown:
        found.append(f"no sourced rate of links for {', '.join(unknown)}: the floor leaves them out; give --link")
    return found


def _memory(prices: Sequence[Price]) -> list[ColumnOf]:
    """What weights and caches of a whole batch take; a workload without a cache has columns of weights only."""
    columns = [sized("weight_bytes", "weights", "B", [price.weight_bytes for price in prices])]
    for key, heading in (("kv_cache_bytes", "KV"), ("state_bytes", "state")):
        sizes = [getattr(price, key) for price in prices]
        if any(sizes):
            columns.append(sized(key, heading, "B", sizes))
    return columns


def price_report(prices: Sequence[Price], measured: bool, table: Table) -> PredictedReport:
    """The table of prices with its charts: throughput and energy against context, one of each for a GPU and scale.

    A chart is of the first batch and the first group of GPUs.
    """
    plots: dict[str, Plot] = {}
    kinds = dict.fromkeys((price.gpu.name, price.spec.scale) for price in prices)
    for gpu, scale in kinds:
        shown = [
            price
            for price in prices
            if (price.gpu.name, price.spec.scale, price.workload.batch, price.group)
            == (gpu, scale, prices[0].workload.batch, prices[0].group)
        ]
        for plot in _plots(shown, measured):
            stem = "-".join(part.lower().replace(" ", "-") for part in ("price", gpu, scale) if part)
            plots[f"{stem}-{plot.name}"] = plot
    return PredictedReport("price", "Predicted price", table, plots)


def _plots(prices: Sequence[Price], measured: bool) -> list[Plot]:
    work, names = prices[0].workload, names_of([price.spec for price in prices])
    stored = dtype_words([price.spec for price in prices], [price.dtypes for price in prices])
    group = prices[0].group
    cards = prices[0].gpu.name if group is None else f"{group.gpus} x {prices[0].gpu.name}, tp {group.tp}"
    told = f"{cards}, {prices[0].spec.scale}, batch {work.batch}; {stored}"
    wanted: tuple[tuple[str, str, str, str, Callable[[Price], float | None], Callable[[Price], float]], ...] = (
        (
            *("throughput", "Throughput", "throughput", "tokens/s"),
            *(lambda price: price.step_tokens_per_s, lambda price: price.floor_tokens_per_s),
        ),
        (
            *("energy", "Energy of a token", "energy", "J"),
            *(lambda price: price.energy_per_token_j, lambda price: price.energy_at_tdp_j),
        ),
    )
    made = []
    for name, title, quantity, unit, step, floor in wanted:
        points = [
            Point(model, price.workload.context, amount, kind)
            for model, price in zip(names, prices, strict=True)
            for amount, kind in ((step(price) if measured else None, MEASURED), (floor(price), PREDICTED))
            if amount is not None
        ]
        models = dict(zip(names, (price.spec for price in prices), strict=True))
        kinds = ("predicted from measured shares", "at the floor")
        words = f"{title} of {work.kind}, predicted"
        made.append(Plot(name, words, told, quantity, unit, CONTEXT, models, points, [], kinds))
    return made


def price_row(price: Price) -> dict[str, Any]:
    """One price as plain values."""
    return {
        **model_fields(price.spec),
        "prediction": True,
        "gpu": price.gpu.name,
        "workload": price.workload.kind,
        "context": price.workload.context,
        "batch": price.workload.batch,
        **group_fields(price.group),
        **price.dtypes.to_dict(),
        "model_flops": price.flops,
        "must_move_bytes": price.moved_bytes,
        "weight_bytes": price.weight_bytes,
        "kv_cache_bytes": price.kv_cache_bytes,
        "state_bytes": price.state_bytes,
        "bound": price.bound,
        "floor_s": price.floor_s,
        "floor_tokens_per_s": price.floor_tokens_per_s,
        "energy_at_tdp_j": price.energy_at_tdp_j,
        "floor_frac": price.efficiency.floor_frac if price.efficiency else None,
        "efficiency_of": price.efficiency.about if price.efficiency else None,
        "efficiency_between": price.efficiency.between if price.efficiency else None,
        "efficiency_beyond": price.efficiency.beyond if price.efficiency else None,
        "step_s": price.step_s,
        "step_tokens_per_s": price.step_tokens_per_s,
        "energy_per_token_j": price.energy_per_token_j,
        "peak_bytes": price.peak_bytes,
        "fits": price.fits,
        **_link_fields(price),
        "source": price.gpu.source,
    }


def _link_fields(price: Price) -> dict[str, Any]:
    """What a GPU of a group exchanges, as plain values."""
    if price.group is None:
        return {}
    return {
        "floor_gpu_tokens_per_s": price.floor_gpu_tokens_per_s,
        "all_reduced_bytes": price.links.all_reduced,
        "gathered_bytes": price.links.gathered,
        "scattered_bytes": price.links.scattered,
        "link_bytes": price.links.sent,
        "link_s": price.link_s,
        "link_source": price.gpu.link.source if price.gpu.link else None,
    }
