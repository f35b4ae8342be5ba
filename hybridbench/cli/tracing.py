"""tracing: ``hybridbench trace``: where the time of one case's step goes, by class of operation."""

from __future__ import annotations

import itertools
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
)
from hybridbench.cli.output import Plain
from hybridbench.cli.placing import needs_gpu
from hybridbench.cli.typed import Command
from hybridbench.errors import BadInput
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
@click.option("--steps", type=click.IntRange(1, MOST_STEPS), default=5, show_default=True, help="Steps to profile.")
@out_options
def trace(
    *, workload: str, backend: tuple[str, ...], steps: int, as_json: bool, out: Path | None, **options: Any
) -> None:
    """Profile a few steps of one case: time by class of operation, launches, and the share in which nothing ran.

    Without --arch or --pattern the case is of inter. With -o it also stores the classes, which report and show read,
    and a Chrome trace, for chrome://tracing or Perfetto. Profiling slows a step down, so compare shares here and take
    times from the other commands.
    """
    if options["arch"] is None:
        options["arch"] = ALL_ARCHS if options["pattern"] is not None else "inter"
    sweep = Sweep(workload=workload, backends=parse_backends(backend), **options)
    gpus = visible_gpus()
    planned = cases(sweep, has_gpu=bool(gpus), spelled=as_typed)
    # Contexts vary fastest: without --ctx, take the first of the default range.
    if options["ctx"] is None:
        planned = planned[:1] if len({case.model.label for case in planned}) == 1 else planned
    if len(planned) != 1:
        raise BadInput(f"trace profiles one case, and {len(planned)} were named: narrow --arch, --ctx or --batch.")
    check_backends_used(sweep.backends, planned)
    needs_gpu(planned, gpus)
    os.environ.update(thread_settings())  # PyTorch, which is imported below, reads them once
    check_backends(planned)
    from hybridbench.trace import trace_case

    if out:
        chrome, found = _stored(planned[0], steps, out)
    else:
        chrome, found = None, trace_case(planned[0], steps=steps)
    if as_json:
        document = {"case": planned[0].to_dict(), **asdict(found), "gap_s": found.gap_s, "launches": found.launches}
        click.echo(json.dumps({**document, "chrome_trace": str(chrome) if chrome else None}))
        return
    show(found, f"{planned[0].label}, {planned[0].execution.mode}")
    if chrome and out:
        console = Plain(soft_wrap=True)
        console.print(f"Chrome trace: {chrome}")
        console.print(f"Stored for hybridbench show and report: {out}")


def _stored(case: Case, steps: int, out: Path) -> tuple[Path, Trace]:
    """Trace a case, and store what was seen in a folder, beside the Chrome trace whose path is returned."""
    from hybridbench.record.traced import TraceRecord
    from hybridbench.store import RecordWriter
    from hybridbench.trace import traced

    with RecordWriter(out, kind=TraceRecord) as writer:
        chrome = _free(out)
        record = traced(case, writer.run_id, steps=steps, chrome=chrome)
        writer.append(record)
    return chrome, record.observed


def _free(folder: Path) -> Path:
    """The Chrome trace's file: ``trace.json``, or ``trace-2.json`` and so on where that is of an earlier trace."""
    numbered = (folder / ("trace.json" if at == 1 else f"trace-{at}.json") for at in itertools.count(1))
    return next(path for path in numbered if not path.exists())


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
