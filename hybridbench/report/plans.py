"""plans: predictions for a GPU as tables: fits and crossovers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hybridbench.arch.model import ModelSpec
from hybridbench.predict.crossover import Search, Stretch
from hybridbench.predict.fit import Fit
from hybridbench.report.columns import (
    ColumnOf,
    dtype_words,
    group_columns,
    group_fields,
    model_fields,
    names_of,
    said,
    table_of,
)
from hybridbench.report.display import unit_for
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.searches import Verified
from hybridbench.units import format_bytes, format_seconds, format_tokens

ANY = "any"

_PARTS = ("weights", "gradients", "optimizer", "activations", "head", "cache", "workspace", "gathered")


def fit_table(fits: Sequence[Fit], verified: Sequence[Verified | None]) -> Table:
    """The largest batch or context that fits for each model and GPU, with the parts of its predicted peak."""
    specs = [fit.spec for fit in fits]
    scales = dict.fromkeys(spec.scale for spec in specs)
    peaks = [fit.footprint.total for fit in fits]
    unit = unit_for(peaks, "B")

    def shown(key: str, heading: str, numbers: Sequence[int | None]) -> ColumnOf:
        cells = [TableCell(NO_VALUE if number is None else unit.show(number), number) for number in numbers]
        return Column(key, heading), cells

    columns = [
        said("model", "model", names_of(specs)),
        said("gpu", "GPU", [fit.gpu.name for fit in fits]),
        *group_columns([fit.group for fit in fits]),
        said("context", "ctx", [_solved(fit, "context") for fit in fits], numeric=True),
        said("batch", "batch", [_solved(fit, "batch") for fit in fits], numeric=True),
    ]
    if any(one is not None for one in verified):
        columns.append(said("found", "found", [_found(one) for one in verified], True))
    columns += [
        shown("peak", "peak", peaks),
        *(
            shown(part, part, [getattr(fit.footprint, part) for fit in fits])
            for part in _PARTS
            if any(getattr(fit.footprint, part) for fit in fits)
        ),
        shown("budget", "of", [fit.budget for fit in fits]),
        said("fits", "fits", ["yes" if fit.fits else "no" for fit in fits]),
    ]
    solved, stored = fits[0].solved, dtype_words(specs, [fit.dtypes for fit in fits])
    title = f"largest {solved} that fits" if solved else "whether it fits"
    per_gpu = "" if fits[0].group is None else ", per GPU"
    about = f"{fits[0].workload.kind}, {', '.join(scales)}{per_gpu}, in {unit.label}"
    table = table_of(f"predicted: {title}, {about}; {stored}", columns, specs)
    for fit in fits:
        if fit.solved and not fit.fits:
            table.remark(
                f"{fit.spec.label} on {fit.gpu.name}: not even {fit.solved} 1 fits; its row shows what that needs"
            )
    for fit, one in zip(fits, verified, strict=True):
        if one is not None and one.peak_bytes is not None:
            table.remark(
                f"{fit.spec.label}: in {one.trials} trial{'s' * (one.trials > 1)} {fit.solved} {one.fits} ran with a "
                f"peak of {format_bytes(one.peak_bytes)}, "
                + (f"{one.fails} did not" if one.fails else "and none failed")
                + (", then they were stopped" if one.stopped else "")
            )
    return table


def _solved(fit: Fit, part: str) -> str:
    value = getattr(fit.workload, part)
    if fit.solved != part:
        return format_tokens(value) if part == "context" else str(value)
    if fit.unlimited:
        return ANY
    return f"{value:,}" if fit.fits else "0"


def _found(one: Verified | None) -> str:
    if one is None:
        return NO_VALUE
    if one.stopped:
        return f"{one.fits:,} or more" if one.fails is None else f"{one.fits:,} to {one.fails - 1:,}"
    return f"{one.fits:,}"


def fit_row(fit: Fit, verified: Verified | None) -> dict[str, Any]:
    """One fit as plain values."""
    return {
        **model_fields(fit.spec),
        "prediction": True,
        "gpu": fit.gpu.name,
        "workload": fit.workload.kind,
        "context": fit.workload.context,
        "batch": fit.workload.batch,
        **group_fields(fit.group),
        **fit.dtypes.to_dict(),
        "solved": fit.solved or None,
        "fits": fit.fits,
        "unlimited": fit.unlimited,
        "budget_bytes": fit.budget,
        "peak_bytes": fit.footprint.total,
        **{
            f"{part}_bytes": getattr(fit.footprint, part)
            for part in (*_PARTS, "inputs")
            if part != "gathered" or fit.group is not None
        },
        "found": verified.fits if verified else None,
        "found_fails": verified.fails if verified else None,
        "found_peak_bytes": verified.peak_bytes if verified else None,
        "found_is_final": not verified.stopped if verified else None,
    }


def crossover_table(
    pair: tuple[ModelSpec, ModelSpec], metric: str, about: str, found: Sequence[Stretch], search: Search | None
) -> Table:
    """The ranges of contexts in which one model has less, and what a measured search found."""
    names = pair_names(pair)
    rows = [
        (f"{stretch.first:,}", f"{stretch.last:,}", "equal" if stretch.less is None else names[stretch.less])
        for stretch in found
    ]
    table = table_of(
        f"predicted {metric} of {names[0]} and {names[1]} by context, {about}",
        [
            said("first", "from", [row[0] for row in rows], numeric=True),
            said("last", "to", [row[1] for row in rows], numeric=True),
            said("less", "less in", [row[2] for row in rows]),
        ],
    )
    table.remark(crossover_sentence(names, found))
    if search is not None:
        table.remark(search_sentence(names, search))
    return table


def search_table(pair: tuple[ModelSpec, ModelSpec], search: Search, about: str) -> Table:
    """Every context that a search measured: both medians' intervals, and the faster model where they do not overlap.

    ``about`` names the device.
    """
    names = pair_names(pair)
    columns = [said("context", "ctx", [format_tokens(seen.context) for seen in search.seen], numeric=True)]
    for index, name in enumerate(names):
        intervals = [seen.intervals[index] for seen in search.seen]
        texts = [f"{format_seconds(low)} to {format_seconds(high)}" for low, high in intervals]
        columns.append(said(f"step_{index}", f"{name}, step", texts, numeric=True))
    faster = ["undecided" if seen.less is None else names[seen.less] for seen in search.seen]
    return table_of(f"measured on {about}: 95% intervals of the median", [*columns, said("faster", "faster", faster)])


def crossover_sentence(names: Sequence[str], found: Sequence[Stretch]) -> str:
    """Where one model becomes cheaper than the other, in words."""
    decided = [stretch for stretch in found if stretch.less is not None]
    if not decided:
        return f"{names[0]} and {names[1]} are equal at every context up to {found[-1].last:,}"
    turns = [
        f"{names[stretch.less or 0]} has less from {stretch.first:,} on"
        for before, stretch in itertools.pairwise(decided)
        if before.less != stretch.less
    ]
    if not turns:
        return f"no crossing: {names[decided[0].less or 0]} never has more, up to {found[-1].last:,}"
    return "; then ".join(turns)


def search_sentence(names: Sequence[str], search: Search) -> str:
    """What a measured search found, in words."""
    if search.interval is not None:
        low, high = search.interval
        return (
            f"measured: the faster one changes between {low:,} and {high:,}, the last and first contexts whose 95% "
            f"intervals of the median do not overlap"
        )
    first, last = search.seen[0], search.seen[-1]
    if first.less is not None and first.less == last.less:
        return (
            f"measured: {names[first.less]} is faster at {first.context:,} and at {last.context:,}: no crossing found"
        )
    undecided = [f"{seen.context:,}" for seen in (first, last) if seen.less is None]
    return f"measured: undecided at {' and '.join(undecided)}, where intervals overlap: give a wider --ctx or more time"


def pair_names(pair: tuple[ModelSpec, ModelSpec]) -> list[str]:
    """A name for each of two models; equal names get (A) and (B)."""
    first, second = names_of(pair)
    return [first, second] if first != second else [f"{first} (A)", f"{second} (B)"]
