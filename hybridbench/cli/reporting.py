"""reporting: ``hybridbench report``: tables and charts from stored records."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybridbench.cli.options import GIVEN_PATH, check_plot, out_options, plot_option
from hybridbench.cli.stored import all_records
from hybridbench.cli.typed import Command
from hybridbench.errors import BadInput, NotComparable, NothingCompared
from hybridbench.record import Record

if TYPE_CHECKING:
    from hybridbench.report.part import ReportPart


@click.command(cls=Command)
@click.argument("results", nargs=-1, required=True, type=GIVEN_PATH)
@plot_option("Draw throughput against context or batch on the terminal, too.")
@out_options
def report(results: tuple[Path, ...], plot: bool, as_json: bool, out: Path | None) -> None:
    """Make tables and charts from stored records. RESULTS are folders or .jsonl files.

    Several RESULTS are shown side by side where they hold the same cases, such as those before and after a change. Of
    a case that one of them holds more than once, the newest record is shown. What is damaged is named and left out, and
    the exit code is 2. Without -o the report goes into the folder ``report`` beside the first of RESULTS.
    """
    check_plot(plot, as_json)
    from hybridbench.cli.rendering import (
        render,
        render_contexts,
        render_kernels,
        render_learn,
        render_solve,
        write_page,
    )
    from hybridbench.kernel_suite.record import KernelRecord
    from hybridbench.kernel_suite.report import as_part, build
    from hybridbench.quality.contexts.record import ContextRecord
    from hybridbench.quality.tasks.record import TaskRecord
    from hybridbench.quality.training.record import LearnRecord
    from hybridbench.record import Record
    from hybridbench.record.traced import TraceRecord
    from hybridbench.report.render.page import own_page
    from hybridbench.store import exists, holds, newest

    there = [path for path in results if exists(path)]
    first = results[0]
    folder = out or (first if os.path.isdir(first) else first.parent) / "report"

    kernels = [path for path in there if holds([path], KernelRecord)]
    traced = [path for path in there if holds([path], TraceRecord)]
    of_quality: dict[type[Any], Callable[..., None]] = {
        LearnRecord: render_learn,
        TaskRecord: render_solve,
        ContextRecord: render_contexts,
    }
    learned = {kind: [path for path in there if holds([path], kind)] for kind in of_quality}
    taken = [*kernels, *traced, *(path for paths in learned.values() for path in paths)]
    others = [path for path in results if path not in taken or holds([path], Record)]
    records: dict[tuple[str, str], Record] = {}
    runs: dict[str, str] = {}
    for path, name in zip(others, _names(others), strict=True):
        for record in all_records([path], Record):
            records.setdefault((record.run_id, record.case.key), record)
            runs.setdefault(record.run_id, name)
    of_kernels = all_records(kernels, KernelRecord) if kernels else []
    of_learning: dict[type[Any], list[Any]] = {
        kind: newest(all_records(paths, kind)) for kind, paths in learned.items() if paths
    }
    traces = newest(all_records(traced, TraceRecord)) if traced else []
    own_page(folder, "index.html")  # before anything is written
    compared = _compared(there) if others or kernels else []
    if as_json and of_learning and (others or kernels or traces or len(of_learning) > 1):
        raise BadInput("--json prints one document: name results of training runs apart from others.")
    for kind, found in of_learning.items():
        of_quality[kind](found, folder, as_json=as_json)
    if others or traces:
        side_by_side = runs if len(others) > 1 else {}
        steps = list(records.values())
        render(
            steps,
            folder,
            as_json=as_json,
            runs=side_by_side,
            kernels=of_kernels,
            parts=compared,
            traces=traces,
            plot=plot,
        )
    elif kernels:
        render_kernels(of_kernels, folder, as_json=as_json)
        write_page([*compared, as_part(build(of_kernels))], folder)


def _compared(paths: Sequence[Path]) -> list[ReportPart]:
    """Two results cell by cell, as ``hybridbench compare`` judges them; why they cannot be, where they cannot."""
    if len(paths) != 2:
        return []
    from hybridbench.compare.cell import ASKED
    from hybridbench.compare.judging import compare
    from hybridbench.compare.render import as_part
    from hybridbench.compare.sides import load_sides
    from hybridbench.report.part import ReportPart

    asked = ASKED["step"]
    try:  # what is damaged was named when the records were read
        sides = load_sides(paths, (), asked, lambda _: None, lambda _: None)
        return [as_part(compare(sides, asked, (), frozenset()))]
    except (NotComparable, NothingCompared) as why:
        return [ReportPart("Two runs side by side", [f"No verdict: {why}"], [])]


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for what each path holds: its own, or the whole path where two would be called alike."""
    own = [path.resolve().name.removesuffix(".jsonl") for path in paths]
    return [str(path) if own.count(name) > 1 else name for path, name in zip(paths, own, strict=True)]
