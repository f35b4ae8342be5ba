"""build: a report as data, built once from records and rendered in any format by ``report.render``.

    records ──► build_report ──► Report ──► render.terminal   tables on the terminal
                                        ├─► render.markdown   one page
                                        ├─► render.csv        every number in SI
                                        ├─► render.latex      tables for a paper
                                        ├─► render.html       one self-contained page with interactive charts
                                        ├─► render.charts     PNG, SVG and PDF
                                        └─► render.json       one document

A format decides only how a report looks. The report already contains every number, sentence and footnote.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from hybridbench.errors import BadResults
from hybridbench.record import Record
from hybridbench.record.traced import TraceRecord
from hybridbench.report.chart import Plot, Scatter, Spread
from hybridbench.report.findings import findings
from hybridbench.report.groups import NO_RUNS, Group, file_stem, group_records, latest
from hybridbench.report.leaders import leaders_table
from hybridbench.report.measured import detail_tables, headline_table, summary_table
from hybridbench.report.paper.compare import PaperComparison, compare
from hybridbench.report.paper.sentences import sentences
from hybridbench.report.paper.tables import paper_tables
from hybridbench.report.part import ReportPart
from hybridbench.report.plots import group_plots
from hybridbench.report.provenance import differing_software, kernels_that_ran, machines
from hybridbench.report.repeat import command
from hybridbench.report.scaling import TITLE as SCALING
from hybridbench.report.scaling import scaling_parts
from hybridbench.report.scatters import group_scatters
from hybridbench.report.serving import serving_part
from hybridbench.report.spreads import group_spread
from hybridbench.report.table import Table
from hybridbench.report.traces import TraceSection, trace_sections


@dataclass(frozen=True)
class GroupSection:
    """What a report says about one group of comparable records.

    Attributes:
        findings: sentences that say which model is fastest, by how much, and how near its floor it is.
        headline: throughput, with a row per model and a column per context or batch.
        leaders: the fastest model by context or batch, None where none has a rival.
        summary: time, throughput and share of the floor, with a row per case.
        plots: plots by file name, without the ending.
        scatters: charts with two values per case: the roofline, and predictions against measurements.
        spread: the distributions of step times, if there are any.
        kernels: a line for each operation and the kernel that ran.
        software: a sentence if the records come from several software environments, else None.
        stem: how the names of its files begin.
        repeat: the command that measures its cases again; None where no single one does.
    """

    group: Group
    findings: tuple[str, ...]
    headline: Table
    leaders: Table | None
    summary: Table
    plots: dict[str, Plot]
    scatters: tuple[Scatter, ...]
    spread: Spread | None
    kernels: tuple[str, ...]
    software: str | None
    stem: str
    repeat: str | None

    @cached_property
    def details(self) -> tuple[Table, ...]:
        """Every other table with a row per case: made when it is shown, since a page in HTML has none of them."""
        return tuple(detail_tables(self.group))

    @property
    def tables(self) -> dict[str, Table]:
        """Every table by file name, without the ending: the group's, and the first word of its title."""
        every = (self.headline, *([self.leaders] if self.leaders else ()), self.summary, *self.details)
        return {f"{self.stem}-{re.split('[ ,]', table.title)[0].lower()}": table for table in every}


@dataclass(frozen=True)
class PaperSection:
    """The source paper's numbers beside those of one machine.

    Attributes:
        chart: the file name of its chart, without the ending.
        tables: tables by file name, without the ending.
    """

    comparison: PaperComparison
    sentences: tuple[str, ...]
    chart: str
    tables: dict[str, Table]


@dataclass(frozen=True)
class Report:
    """The whole report of some records.

    Attributes:
        records: those that are shown, in the order given.
        machines: a line for each machine and set of software.
        runs: the name of the run of a ``run_id`` where several runs are compared, else empty.
        parts: sections that other packages made.
        traces: time by class of operation, where it was traced.
    """

    records: tuple[Record, ...]
    groups: tuple[GroupSection, ...]
    papers: tuple[PaperSection, ...]
    machines: tuple[str, ...]
    runs: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[ReportPart, ...] = ()
    traces: tuple[TraceSection, ...] = ()

    @property
    def scaling(self) -> list[Table]:
        """What several GPUs give over one; empty if no case ran on several."""
        return [table for part in self.parts if part.title == SCALING for table in part.tables]

    @property
    def workloads(self) -> dict[str, list[Record]]:
        """The records of each kind of work, in the order of the groups."""
        kinds = dict.fromkeys(section.group.workload for section in self.groups)
        return {kind: [record for record in self.records if record.case.workload.kind == kind] for kind in kinds}


def build_report(
    records: Sequence[Record],
    runs: Mapping[str, str] = NO_RUNS,
    parts: Sequence[ReportPart] = (),
    traces: Sequence[TraceRecord] = (),
) -> Report:
    """Build the report of some records.

    Args:
        records: of a case that was measured more than once in a run, the latest record is shown.
        runs: a name for the run of each ``run_id``, to show runs that measured the same cells side by side.
        parts: sections that other packages made.
        traces: cases that were traced.

    Raises:
        BadResults: there is nothing to report.
    """
    if not (records or parts or traces):
        raise BadResults("there is no record to report: measure something with 'hybridbench run' first.")
    groups = group_records(records, runs)
    shown = latest(records, runs)
    compared = compare(shown)
    served = serving_part(shown, runs)
    names = ["generate-paper"] if len(compared) == 1 else [f"generate-paper-{n + 1}" for n in range(len(compared))]
    return Report(
        tuple(shown),
        tuple(_group_section(group, stem) for group, stem in zip(groups, _file_names(groups), strict=True)),
        tuple(_paper_section(one, name) for one, name in zip(compared, names, strict=True)),
        tuple(machines(shown)),
        runs if len(set(runs.values())) > 1 else {},
        (*scaling_parts(shown), *parts, *([served] if served else [])),
        tuple(trace_sections(traces)),
    )


def _file_names(groups: Sequence[Group]) -> list[str]:
    """A file name for each group; where several groups would have the same name, later ones get a number."""
    taken: Counter[str] = Counter()
    names = []
    for group in groups:
        stem = file_stem(group, groups)
        taken[stem] += 1
        names.append(f"{stem}-{taken[stem]}" if taken[stem] > 1 else stem)
    return names


def _group_section(group: Group, stem: str) -> GroupSection:
    return GroupSection(
        group,
        tuple(findings(group)),
        headline_table(group),
        leaders_table(group),
        summary_table(group),
        {f"{stem}-{plot.name}": plot for plot in group_plots(group)},
        tuple(group_scatters(group)),
        group_spread(group),
        tuple(kernels_that_ran(group)),
        differing_software(group),
        stem,
        command(group),
    )


def _paper_section(comparison: PaperComparison, name: str) -> PaperSection:
    tables = {f"{name}-{part}": table for part, table in paper_tables(comparison).items()}
    return PaperSection(comparison, tuple(sentences(comparison)), name, tables)
