"""write: a report as a folder: ``report.md``, ``tables/*.csv``, and ``charts/*.png`` and ``*.svg``.

The page goes from what was found to how: a sentence per comparison, the machines, then per group of comparable records
its tables and charts, and at the end what every column means. The CSV files hold every metric of every record in SI.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hybridbench.arch.model import Cost, ModelSpec
from hybridbench.errors import BadInput, BadResults
from hybridbench.metrics import METRICS, doubts, peak_flops_per_s, peak_of, problems, value
from hybridbench.record import Caveat, Environment, Record, Status
from hybridbench.report.charts import cost_plots, group_plots, save, save_definition
from hybridbench.report.frame import to_frame
from hybridbench.report.groups import CONTEXT, Group, file_stem, group_records
from hybridbench.report.panels import draw_panels
from hybridbench.report.paper import ABOUT, Comparison, compare, paper_tables, sentences
from hybridbench.report.tables import (
    cost_table,
    detail_tables,
    escape,
    headline_table,
    summary_table,
    to_csv,
    to_markdown,
)
from hybridbench.store import make_folder
from hybridbench.suite.workloads import WORKLOADS
from hybridbench.units import format_bytes, format_number, format_si


@dataclass
class ReportFiles:
    """What was written."""

    page: Path
    tables: list[Path] = field(default_factory=list)
    charts: list[Path] = field(default_factory=list)


def write_report(records: Sequence[Record], out: Path) -> ReportFiles:
    """Writes a report of records into ``out``, over an earlier one of the same name.

    Raises:
        BadInput: the folder cannot be written.
        BadResults: no records.
    """
    if not records:
        raise BadResults("there is no record to report: measure something with 'hybridbench run' first.")
    files = ReportFiles(make_folder(out) / "report.md")
    table_folder, chart_folder = make_folder(out / "tables"), make_folder(out / "charts")
    groups = group_records(records)
    before = files.page.read_text(encoding="utf-8") if files.page.is_file() else ""
    for folder, endings in ((table_folder, (".csv",)), (chart_folder, (".png", ".svg"))):
        _clear(folder, endings, before)
    for workload in dict.fromkeys(group.workload for group in groups):
        of_workload = [record for record in records if record.case.workload.kind == workload]
        files.tables.append(table_folder / f"{workload}.csv")
        _write(files.tables[-1], str(to_frame(of_workload).to_csv(index=False, lineterminator="\n")))
    sections = []
    taken: Counter[str] = Counter()
    for group in groups:
        stem = file_stem(group, groups)
        taken[stem] += 1
        if taken[stem] > 1:
            stem = f"{stem}-{taken[stem]}"
        pictures = []
        for plot in group_plots(group):
            png, svg = save(plot, chart_folder / f"{stem}-{plot.name}")
            files.charts += [png, svg]
            pictures.append(f"![{plot.title}: {plot.subtitle}](charts/{svg.name})\n")
        sections.append(_section(group, pictures))
    compared = compare(records)
    papers = [_paper_section(one, files, out, _numbered(index, compared)) for index, one in enumerate(compared)]
    _write(
        files.page,
        "\n".join(
            ["# hybridbench report\n", _findings(groups), *papers, _machines(records), *sections, _meanings(files)]
        ),
    )
    return files


def _numbered(index: int, compared: Sequence[Comparison]) -> str:
    """The name of a comparison's files."""
    return f"generate-paper-{index + 1}" if len(compared) > 1 else "generate-paper"


def _paper_section(comparison: Comparison, files: ReportFiles, out: Path, stem: str) -> str:
    """The paper's numbers beside ours: what they say, a chart, tables."""
    tables = paper_tables(comparison)
    picture = save_definition(draw_panels(comparison), out / "charts" / stem)
    files.charts += picture
    for name, table in tables.items():
        path = out / "tables" / f"{stem}-{name}.csv"
        files.tables.append(path)
        _write(path, to_csv(table))
    lines = [f"## The paper, twice: {escape(comparison.machine)}\n", f"{escape(ABOUT)}\n"]
    lines += [*(f"- {escape(sentence)}" for sentence in sentences(comparison)), ""]
    lines += [f"![Decode throughput against total length, paper and ours](charts/{picture[1].name})\n"]
    return "\n".join([*lines, *(to_markdown(table, alone=False) for table in tables.values())])


def _clear(folder: Path, endings: tuple[str, ...], before: str) -> None:
    """Removes an earlier report's files, which other records may leave without a successor: those that it shows."""
    for path in folder.iterdir():
        if path.suffix in endings and f"({folder.name}/{path.stem}." in before:
            path.unlink()


def write_cost(rows: Sequence[tuple[ModelSpec, Cost]], out: Path) -> ReportFiles:
    """Writes predicted costs into ``out``: the table as Markdown and CSV, and charts against context.

    Raises:
        BadInput: the folder cannot be written.
    """
    files = ReportFiles(make_folder(out) / "cost.md", tables=[out / "cost.csv"])
    table = cost_table(rows)
    pictures = []
    scales = list(dict.fromkeys(spec.scale for spec, _ in rows))
    for scale in scales:
        # One chart a scale, and of one batch: what they show is of one sequence.
        of_scale = [(spec, cost) for spec, cost in rows if spec.scale == scale and cost.batch == rows[0][1].batch]
        stem = f"cost-{scale}" if len(scales) > 1 else "cost"
        for plot in cost_plots(of_scale):
            png, svg = save(plot, make_folder(out / "charts") / f"{stem}-{plot.name}")
            files.charts += [png, svg]
            pictures.append(f"![{plot.title}: {plot.subtitle}](charts/{svg.name})\n")
    _write(files.tables[0], to_csv(table))
    _write(files.page, "\n".join(["# Predicted cost\n", to_markdown(table), *pictures]))
    return files


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise BadInput(f"{path} cannot be written ({exc.strerror}): choose another folder with --out.") from exc


def _findings(groups: Sequence[Group]) -> str:
    lines = [f"- **{escape(group.title)}.** {escape(' '.join(headline(group)))}" for group in groups]
    return "\n".join(["## Findings\n", *lines, ""])


def headline(group: Group) -> list[str]:
    """Sentences: how the cases ended, who is fastest at the last place where several are, and how near its floor."""
    ends = Counter(record.status for record in group.records)
    total = sum(ends.values())
    bad = [f"{count} {status.value.replace('_', ' ')}" for status, count in ends.items() if status is not Status.OK]
    sentences = []
    if bad:
        sentences.append(f"{ends[Status.OK]} of {total} cases ended ok, {', '.join(bad)}.")
    believed = [
        (place, series.name, record)
        for series in group.series
        for place, record in series.cells.items()
        if record.status is Status.OK and not problems(record)
    ]
    invalid = ends[Status.OK] - len(believed)
    if invalid:
        sentences.append(f"{invalid} measured faster or other than can be, and are marked invalid.")
    if not believed:
        return [*sentences, "No case has a speed."]
    rivals = Counter(place for place, _, _ in believed)
    place = max([place for place, count in rivals.items() if count > 1] or rivals)
    here = [(name, record) for at, name, record in believed if at == place]
    here.sort(key=lambda pair: -(value(pair[1], "tokens_per_s") or 0.0))
    name, best = here[0]
    rate = value(best, "tokens_per_s")
    where = f"At context {group.place_label(place)}" if group.axis == CONTEXT else f"At batch {place}"
    if len(here) == 1:
        sentences.append(f"{where} {name} makes {format_number(rate)} tokens/s.")
    else:
        other, slower = next((pair for pair in here[1:] if pair[0] == "transformer"), here[-1])
        slow_rate = value(slower, "tokens_per_s")
        times = format_number(rate / slow_rate) if rate and slow_rate else "unknown"
        sentences.append(
            f"{where} {name} is fastest with {format_number(rate)} tokens/s, {times} times {other} with "
            f"{format_number(slow_rate)}."
        )
        if (value(here[1][1], "step_low_s") or 0.0) <= (value(best, "step_high_s") or 0.0):
            sentences.append(f"Its lead over {here[1][0]} is within the 95% intervals of the medians.")
    sentences += _unequal(here)
    share = value(best, "floor_frac")
    if share is None:
        sentences.append("The machine's peaks are unknown, so there is no floor to compare with.")
    else:
        sentences.append(f"{name} reaches {format_number(100 * share)}% of the speed its floor allows.")
    return sentences


UNEQUAL = {
    Caveat.NOT_CHECKED: "was not checked at this size",
    Caveat.BEYOND_LIMIT: "ran a kernel beyond the size it is right at",
    Caveat.PLAIN_PYTORCH: "ran an operation as plain PyTorch, for want of a kernel",
}
"""Caveats that make a comparison with others unfair, as a finding says them."""


def _unequal(here: Sequence[tuple[str, Record]]) -> list[str]:
    """A sentence for each caveat that makes a comparison of models unfair, with the models it is of."""
    sentences = []
    for caveat, what in UNEQUAL.items():
        names = [name for name, record in here if caveat in doubts(record)]
        if names:
            sentences.append(f"{', '.join(names)} {what}: not the equal of the others.")
    return sentences


def _machines(records: Sequence[Record]) -> str:
    lines = ["## Machines\n"]
    seen: list[Environment] = []
    for record in records:
        environment = record.environment
        if environment in seen:
            continue
        seen.append(environment)
        packages = ", ".join(f"{name} {version}" for name, version in sorted(environment.packages.items()))
        facts = [
            f"{environment.device} ({format_bytes(environment.device_memory_bytes)})"
            if environment.device_kind != "cpu"
            else environment.device,
            f"{environment.cores} cores of {environment.cpu}, {format_bytes(environment.memory_bytes)}",
            f"driver {environment.driver or 'unknown'}, CUDA {environment.cuda or 'unknown'}"
            if environment.device_kind != "cpu"
            else f"no GPU used, {_threads(environment.threads)}",
            f"Python {environment.python}, {environment.platform}",
            packages,
            f"hybridbench {environment.hybridbench}, commit {environment.git_commit or 'unknown'}",
            _peaks(record),
        ]
        lines.append(f"- {escape('; '.join(fact for fact in facts if fact))}")
    return "\n".join([*lines, ""])


def _threads(count: int | None) -> str:
    return "threads unknown" if count is None else f"operators on {count} thread{'s' if count > 1 else ''}"


def _peaks(record: Record) -> str:
    peak = peak_of(record)
    if peak is None:
        seen = record.observed
        floors = "floors by rates measured here" if seen and seen.ceilings else "no floor"
        return f"peaks unknown: no MFU or MBU, {floors}"
    rate = format_si(peak_flops_per_s(record), "FLOP/s")
    dtype = record.case.execution.dtype
    return f"peaks {rate} dense for {dtype}, {format_si(peak.memory_bytes_per_s, 'B/s')} ({peak.source})"


def _section(group: Group, pictures: Sequence[str]) -> str:
    lines = [f"## {escape(group.title)}\n", to_markdown(headline_table(group), alone=False), *pictures]
    lines += [to_markdown(table, alone=False) for table in (summary_table(group), *detail_tables(group))]
    return "\n".join([*lines, *_provenance(group)])


def _provenance(group: Group) -> list[str]:
    """What ran, in what software."""
    uses = {
        f"{use.op}: asked for {use.asked}, ran {use.ran} ({' '.join((use.package, use.version or 'unknown'))})"
        for record in group.records
        if record.observed
        for use in record.observed.backends
    }
    lines = ["### kernels\n", *(f"- {escape(use)}" for use in sorted(uses)), ""] if uses else []
    software = {(record.environment.driver, *sorted(record.environment.packages.items())) for record in group.records}
    if len(software) > 1:
        lines.append(f"These records come from {len(software)} software environments: see Machines.\n")
    return lines


def _meanings(files: ReportFiles) -> str:
    lines = ["## What the columns mean\n"]
    lines.append(
        "Predicted FLOPs count a multiply-add as 2. Convention exact: causal pairs only, an SSM as its recurrence, the "
        "head included. Convention paper: the formulas of arXiv 2510.04800, without embedding and head. Convention "
        "hardware: whole tiles, the chunked scan, recomputation. MFU is of convention exact, HFU of hardware.\n"
    )
    lines += [
        f"- **{escape(metric.title)}** (`{metric.name}`{f', {metric.unit}' if metric.unit else ''}): "
        f"{escape(metric.formula)}"
        for metric in METRICS.values()
    ]
    whole = [path.name for path in files.tables if path.stem in WORKLOADS]
    others = [path.name for path in files.tables if path.stem not in WORKLOADS]
    lines += ["", f"Every number of every record, in SI and in full: {_linked(whole)}."]
    if others:
        lines += ["", f"The comparison with the paper: {_linked(others)}."]
    return "\n".join([*lines, ""])


def _linked(tables: Sequence[str]) -> str:
    return ", ".join(f"[{name}](tables/{name})" for name in tables)
