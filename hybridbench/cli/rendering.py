"""rendering: records as tables on the terminal or as one JSON document, and as files in a folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybridbench.cli.output import Plain
from hybridbench.record import Record
from hybridbench.report.build import Report, build_report
from hybridbench.report.groups import NO_RUNS, group_records
from hybridbench.report.plots import metric_plot
from hybridbench.report.render.json import document
from hybridbench.report.render.terminal import print_report, print_table

if TYPE_CHECKING:
    from hybridbench.kernel_suite.record import KernelRecord
    from hybridbench.kernel_suite.report import KernelReport
    from hybridbench.quality.contexts.record import ContextRecord
    from hybridbench.quality.tasks.record import TaskRecord
    from hybridbench.quality.training.record import LearnRecord
    from hybridbench.record.traced import TraceRecord
    from hybridbench.report.part import ReportPart
    from hybridbench.report.table import Table


def render(
    records: Sequence[Record],
    folder: Path,
    *,
    as_json: bool,
    brief: bool = False,
    written: Sequence[Record] = (),
    runs: Mapping[str, str] = NO_RUNS,
    kernels: Sequence[KernelRecord] = (),
    parts: Sequence[ReportPart] = (),
    traces: Sequence[TraceRecord] = (),
    plot: bool = False,
) -> None:
    """Write the report into ``folder`` and show the tables (``brief``: throughput only), or print one JSON document.

    If ``written`` is given, the report covers those records, so that it includes earlier runs in the same folder. If
    the chart libraries are missing, as on many cluster nodes, no report is written, and a message says how to make it
    later from the records. If ``runs`` names the runs of some ``run_id``, they are shown side by side. Records of
    ``kernels`` have a report of their own in ``folder``, and stand in the same JSON document. ``parts`` are further
    sections of the report, and ``traces`` sections by class of operation. ``plot`` draws throughput below the tables.
    """
    report = build_report(records, runs, [*parts, *_kernels_part(kernels)], traces)
    whole = build_report(written) if written and list(written) != list(records) else report
    where = _written_by(lambda: _page(whole, folder), folder)
    if as_json:
        body = document(report, where)
        if kernels:
            of_kernels = _kernels_document(kernels, folder)
            body |= {"kernels": of_kernels["kernels"], "kernels_report": of_kernels["report"]}
        click.echo(json.dumps(body))
        return
    console = Plain()
    print_report(report, console, brief=brief)
    if plot:
        print_plots(records, "tokens_per_s", runs)
    if where and not brief:
        more = len(written) - len(records)
        of_all = f", with {more} more of the records in {folder.parent}" if more > 0 else ""
        console.print(f"Report: {where}{of_all}", soft_wrap=True)
    if kernels:
        render_kernels(kernels, folder, as_json=False)


def _kernels_part(kernels: Sequence[KernelRecord]) -> list[ReportPart]:
    if not kernels:
        return []
    from hybridbench.kernel_suite.report import as_part, build

    return [as_part(build(kernels))]


def print_plots(records: Sequence[Record], metric: str, runs: Mapping[str, str] = NO_RUNS) -> None:
    """Draw one metric of each group of comparable records on the terminal; ``runs`` as for ``render``."""
    from hybridbench.report.render.characters import draw

    console = Plain()
    for group in group_records(records, runs):
        console.print(draw(metric_plot(group, metric), console.width))


def _page(report: Report, folder: Path) -> Path:
    from hybridbench.report.render.folder import write_report

    return write_report(report, folder).page


def _written_by(write: Callable[[], Path], folder: Path) -> str | None:
    """The page that was written; None, with a message, where the chart libraries are missing."""
    try:
        return str(write())
    except ModuleNotFoundError as missing:
        Plain(stderr=True, soft_wrap=True).print(
            f"No report written: {missing.name} is not installed. Records are kept; where it is installed, "
            f"hybridbench report {shlex.quote(str(folder.parent))} makes tables and charts of them.",
        )
        return None


def render_kernels(
    records: Sequence[KernelRecord],
    folder: Path,
    *,
    as_json: bool,
    brief: bool = False,
    written: Sequence[KernelRecord] = (),
    over: str | None = None,
    self_test: dict[str, Any] | None = None,
) -> None:
    """Write the report of kernels into ``folder`` and show its tables, or print one JSON document; as ``render``.

    Of several records of a cell the newest is shown, and all of them tell its noise between processes.
    """
    from hybridbench.kernel_suite.report import build
    from hybridbench.store import newest

    latest = newest(records)
    report = build(latest, over, records)
    whole = build(written, every=records) if written and list(written) != latest else report
    where = _written_by(lambda: _kernels_page(whole, folder), folder)
    if as_json:
        from hybridbench.kernel_suite.render import document as kernels_document

        click.echo(json.dumps(kernels_document(report, where, self_test)))
        return
    console = Plain()
    for table in report.tables.values():
        print_table(table, console)
    if where and not brief:
        console.print(f"Report: {where}", soft_wrap=True)


def render_learn(
    records: Sequence[LearnRecord],
    folder: Path,
    *,
    as_json: bool,
    brief: bool = False,
    written: Sequence[LearnRecord] = (),
) -> None:
    """Write the report of training runs into ``folder`` and show its tables, or print one JSON document; as ``render``.

    What is shown is the whole folder's: runs of seeds that were added stand beside the earlier ones.
    """
    from hybridbench.quality.training.report import build

    report = build(written or records)
    names = ("learn-rates", "learn", "learn-pairs", "learn-equal")
    shown = [report.tables[name] for name in names if name in report.tables]
    _tell_quality("training", report, shown, folder, as_json=as_json, brief=brief)


def render_solve(
    records: Sequence[TaskRecord],
    folder: Path,
    *,
    as_json: bool,
    brief: bool = False,
    written: Sequence[TaskRecord] = (),
) -> None:
    """As ``render_learn``, of tasks."""
    from hybridbench.quality.tasks.report import build

    report = build(written or records)
    shown = [table for name, table in report.tables.items() if name != "solve-runs"]
    _tell_quality("tasks", report, shown, folder, as_json=as_json, brief=brief)


def render_contexts(
    records: Sequence[ContextRecord],
    folder: Path,
    *,
    as_json: bool,
    brief: bool = False,
    written: Sequence[ContextRecord] = (),
) -> None:
    """As ``render_learn``, of trained models at long contexts."""
    from hybridbench.quality.contexts.report import SHOWN, build

    report = build(written or records)
    shown = [report.tables[name] for name in SHOWN if name in report.tables]
    _tell_quality("contexts", report, shown, folder, as_json=as_json, brief=brief)


def _tell_quality(
    package: str, report: Any, shown: Sequence[Table], folder: Path, *, as_json: bool, brief: bool
) -> None:
    """Write a report by the ``render`` of a package of ``quality``; show tables, or print one JSON document."""
    import importlib

    def render() -> Any:
        return importlib.import_module(f"hybridbench.quality.{package}.render")  # it needs the chart libraries

    where = _written_by(lambda: render().write(report, folder), folder)
    if as_json:
        click.echo(json.dumps(render().document(report, where)))
        return
    console = Plain()
    for table in shown:
        print_table(table, console)
    if where and not brief:
        console.print(f"Report: {where}", soft_wrap=True)


def _kernels_document(records: Sequence[KernelRecord], folder: Path) -> dict[str, Any]:
    from hybridbench.kernel_suite.render import document as kernels_document
    from hybridbench.kernel_suite.report import build
    from hybridbench.store import newest

    report = build(newest(records), every=records)
    return kernels_document(report, _written_by(lambda: _kernels_page(report, folder), folder))


def _kernels_page(report: KernelReport, folder: Path) -> Path:
    from hybridbench.kernel_suite.render import write

    return write(report, folder)


def write_page(parts: Sequence[ReportPart], folder: Path) -> None:
    """Write the page in HTML of sections alone, of a report without records of models."""
    from hybridbench.report.render.folder import write_web

    _written_by(lambda: write_web(build_report([], parts=parts), folder), folder)
