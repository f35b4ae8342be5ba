"""tracing: ``hybridbench trace``: where the time of a case's step goes, by class of operation."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from hybridbench import units
from hybridbench.cli.measuring import check_backends
from hybridbench.cli.options import (
    as_typed,
    checkpoint_option,
    execution_options,
    model_options,
    out_options,
    parse_backends,
    stored_options,
)
from hybridbench.cli.output import Plain
from hybridbench.cli.placing import needs_gpu
from hybridbench.cli.typed import Command
from hybridbench.machine import thread_settings, visible_gpus
from hybridbench.suite.models import ALL_ARCHS
from hybridbench.suite.ops import check_backends_used
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.suite.workloads import DECODE, WORKLOADS

if TYPE_CHECKING:
    from hybridbench.record.traced import Trace
    from hybridbench.suite.case import Case

SHOWN_KERNELS = 15
MOST_STEPS = 1000
"""Steps that may be profiled: the profiler keeps every launch of each in memory."""


@click.command(cls=Command)
@click.option("--workload", default=DECODE, show_default=True, help=f"{', '.join(WORKLOADS)}.")
@model_options(arch=None)
@execution_options
@stored_options
@click.option("--steps", type=click.IntRange(1, MOST_STEPS), default=5, show_default=True, help="Steps to profile.")
@out_options
def trace(
    *, workload: str, backend: tuple[str, ...], steps: int, as_json: bool, out: Path | None, **options: Any
) -> None:
    """Profile a few steps of each case: time by class of operation, launches, and the share in which nothing ran.

    Without --arch or --pattern the case is of inter, and without --ctx of the first context that is measured otherwise.
    With -o it also stores the classes, which report and show read, and a Chrome trace of each case, for
    chrome://tracing or Perfetto. Profiling slows a step down, so compare shares here and take times from the other
    commands.

    Exit code 1: one of several cases could not be traced; the others are.
    """
    if options["arch"] is None:
        options["arch"] = ALL_ARCHS if options["pattern"] is not None else "inter"
    sweep = Sweep(workload=workload, backends=parse_backends(backend), **options)
    gpus = visible_gpus()
    planned = cases(sweep, has_gpu=bool(gpus), spelled=as_typed)
    if options["ctx"] is None:
        first = planned[0].workload.context
        planned = [case for case in planned if case.workload.context == first]
    check_backends_used(sweep.backends, planned)
    needs_gpu(planned, gpus)
    os.environ.update(thread_settings())  # PyTorch, which is imported below, reads them once
    check_backends(planned)
    from hybridbench.traces import NotTraced, each_traced

    told, documents, failed = Plain(stderr=True, soft_wrap=True), [], 0
    for case, seen in each_traced(planned, steps, out):
        if isinstance(seen, NotTraced):
            failed += 1
            told.print(f"{case.label} was not traced: {seen.why}")
            continue
        documents.append(_document(case, seen.trace, seen.chrome))
        if not as_json:
            _told(case, seen.trace, seen.chrome)
    if left := len(planned) - len(documents) - failed:
        told.print(f"{left} more were not tried: what failed may have left the device in any state.")
    if as_json:
        click.echo(json.dumps(documents[0] if len(planned) == 1 else {"traces": documents}))
    elif out and documents:
        Plain(soft_wrap=True).print(f"Stored for hybridbench show and report: {out}")
    if failed:
        click.get_current_context().exit(1)


def _document(case: Case, found: Trace, chrome: Path | None) -> dict[str, Any]:
    """A trace as JSON."""
    document = {"case": case.to_dict(), **asdict(found), "gap_s": found.gap_s, "launches": found.launches}
    return {**document, "chrome_trace": str(chrome) if chrome else None}


def _told(case: Case, found: Trace, chrome: Path | None) -> None:
    """Print a trace."""
    show(found, f"{case.label}, {case.execution.mode}")
    if chrome:
        Plain(soft_wrap=True).print(f"Chrome trace: {chrome}\n")


trace.params.append(checkpoint_option())


def show(found: Trace, title: str) -> None:
    """Print the classes of operations, the longest kernels, and a sentence about gaps."""
    console = Plain()
    console.print(title, style="bold")
    classes = _table("class of operation", "launches", "time a step", "share [%]")
    launches = {spent.name: f"{spent.launches:,.0f}" for spent in found.classes}
    for name, seconds in found.parts_s.items():
        share = units.format_number(100 * found.shares[name])
        classes.add_row(name, launches.get(name, ""), units.format_seconds(seconds), share)
    console.print(classes)
    console.print(
        f"A step takes {units.format_seconds(found.step_s)} while profiled and makes {found.launches:,.0f} launches; "
        f"something runs in {units.format_number(100 * found.busy_s / found.step_s)}% of it."
    )
    longest = _table("longest", "class", "launches", "time a step")
    for spent in found.kernels[:SHOWN_KERNELS]:
        kernel = Text(spent.name, no_wrap=True, overflow="ellipsis")
        longest.add_row(kernel, spent.kind, f"{spent.launches:.0f}", units.format_seconds(spent.seconds))
    console.print(longest)


def _table(*headings: str) -> Table:
    """A table without borders; on a narrow terminal it cuts the names of kernels, never a figure."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for heading in headings:
        text = heading in ("class of operation", "longest", "class")
        table.add_column(heading, justify="left" if text else "right", no_wrap=heading != "longest")
    return table
