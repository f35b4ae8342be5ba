"""page: the whole page: what was run, what came out, charts and tables by group, failures, what the columns mean.

The page holds its style, its script, the chart library and all data, and its policy forbids every request.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from importlib.resources import files

from hybridbench.arch.families import ABOUT as ABOUT_FAMILIES
from hybridbench.derive.doubts import doubts
from hybridbench.metrics import METRICS
from hybridbench.record import ADVICE, Record, Status
from hybridbench.report.build import GroupSection, PaperSection, Report
from hybridbench.report.paper.sentences import ABOUT
from hybridbench.report.part import ReportPart
from hybridbench.report.render.html.elements import bullets, code_script, json_script, rows_to_html, text, to_html
from hybridbench.report.render.html.figures import Figures
from hybridbench.report.render.html.library import chart_library
from hybridbench.report.render.page import OPENINGS
from hybridbench.report.table import Column, Table, TableCell
from hybridbench.report.traces import TraceSection

_MOST_SAID = 3
"""Sentences of a part that the head of the page repeats."""
_MOST_OPEN = 40
"""Rows of a table that is open from the start."""
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def html_page(report: Report) -> str:
    """A report as one page that opens from disk and makes no request."""
    figures = Figures()
    names = [f"group-{number}" for number in range(len(report.groups))]
    title = f"hybridbench report: {_cards(report)}"
    body = [
        f"<h1>{text(title)}</h1>",
        _headline(report, names),
        _ways(report),
        _setting(report),
        *(_paper(section, figures) for section in report.papers),
        *(_part(part, f"part-{number}", figures) for number, part in enumerate(report.parts)),
        *(_group(section, name, figures) for section, name in zip(report.groups, names, strict=True)),
        *(_traced(section, f"trace-{number}", figures) for number, section in enumerate(report.traces)),
        _failures(report),
        _repeat(report),
        _unsaid(report),
        _meanings(report),
    ]
    return whole(title, body, figures)


def _cards(report: Report) -> str:
    return ", ".join(dict.fromkeys(record.environment.device for record in report.records))


def whole(title: str, body: Iterable[str], figures: Figures) -> str:
    """A document of some sections, with everything that draws their figures."""
    return "\n".join(
        [
            OPENINGS["index.html"] + '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{text(_POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title><style>{_own('page.css')}</style></head><body>",
            *body,
            "<noscript><p>Charts need JavaScript; report.md beside this page has them as pictures.</p></noscript>",
            json_script("charts", figures.data()),
            code_script(chart_library()) if figures.charts else "",
            code_script(_own("page.js")) if figures.charts else "",
            "</body></html>\n",
        ]
    )


@functools.cache
def _own(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _headline(report: Report, names: list[str]) -> str:
    items = "".join(
        f'<li><a href="#{name}">{text(section.group.title)}</a>. {text(" ".join(section.findings))}</li>'
        for section, name in zip(report.groups, names, strict=True)
    )
    items += "".join(
        f'<li><a href="#part-{number}">{text(part.title)}</a>. {text(" ".join(part.sentences[:_MOST_SAID]))}</li>'
        for number, part in enumerate(report.parts)
    )
    items += "".join(
        f'<li><a href="#trace-{number}">Where the time goes, {text(section.group.title)}</a>. '
        f"{text(' '.join(section.sentences[:_MOST_SAID]))}</li>"
        for number, section in enumerate(report.traces)
    )
    return f'<ul class="headline">{items}</ul>'


def _ways(report: Report) -> str:
    """Links to what stands below the groups, where nobody would look for it on a long page."""
    if not report.records:
        return ""
    below = {"setting": "What was run, on what", "failures": "Failures"}
    if any(section.repeat for section in report.groups):
        below["repeat"] = "How to repeat it"
    below["unsaid"] = "What this page does not say"
    links = "".join(f'<a href="#{name}">{words}</a>' for name, words in below.items())
    return f"<nav>{links}</nav>"


def _setting(report: Report) -> str:
    runs = sorted(set(report.runs.values()))
    beside = (
        f"<p>Side by side: {text(', '.join(runs))}. They are separate runs: hybridbench compare says which differences "
        "are more than noise.</p>"
        if runs
        else ""
    )
    if not report.records:
        return ""
    total = len(report.records)
    count = f"<p>{total:,} case{'' if total == 1 else 's'}.</p>"
    return (
        f'<h2 id="setting">What was run, on what</h2>'
        f"{count}{beside}{_families(report)}{bullets(report.machines)}"
        f"{_caveats(report.records)}"
    )


def _families(report: Report) -> str:
    """What the models are, by family, in the colour that each has everywhere; empty where no family is known."""
    there = {series.model.arch for section in report.groups for series in section.group.series}
    return bullets(f"{arch}: {words}." for arch, words in ABOUT_FAMILIES.items() if arch in there)


def _repeat(report: Report) -> str:
    """The commands that measure the groups again."""
    commands = [section.repeat for section in report.groups if section.repeat]
    if not commands:
        return ""
    left = len(report.groups) - len(commands)
    rest = f"<p>{left} other group{'s' * (left != 1)} came of a suite or of several commands.</p>" if left else ""
    items = "".join(f"<li><code>{text(one)}</code></li>" for one in dict.fromkeys(commands))
    return f'<h2 id="repeat">How to repeat it</h2><ul>{items}</ul>{rest}'


def _unsaid(report: Report) -> str:
    """What nobody may conclude from the page."""
    if not report.records:
        return ""
    lines = [
        f"Whether it holds on another kind of GPU: all of it was measured on {_cards(report)}. hybridbench price "
        "--gpu all --efficiency RESULTS predicts the steps of others from these records.",
        "Whether a model is good: speed, memory and energy are measured here, not loss or accuracy. hybridbench pareto "
        "joins them.",
        "How far another process, day or card would differ: an interval knows the noise within one process. "
        "hybridbench compare adds what processes of the same code differ by.",
        "What other sizes, batches, contexts or kernels do: each group holds for the conditions in its title. "
        "hybridbench cost predicts others.",
        "What a server makes: all sequences of a batch have one length, and nothing waits in a queue.",
    ]
    return f'<h2 id="unsaid">What this page does not say</h2>{bullets(lines)}'


def _caveats(records: Iterable[Record]) -> str:
    counts = Counter(caveat for record in records for caveat in doubts(record))
    if not counts:
        return "<p>No case has a caveat of its own. What holds for a whole table stands below it.</p>"
    columns = [Column("caveat", "caveat", False), Column("cases", "cases"), Column("advice", "what it means", False)]
    rows = [
        [TableCell(caveat.value.replace("_", " ")), TableCell(f"{count:,}"), TableCell(ADVICE[caveat])]
        for caveat, count in counts.most_common()
    ]
    return f'<div class="said">{rows_to_html("Caveats", columns, rows)}</div>'


def _paper(section: PaperSection, figures: Figures) -> str:
    tables = "".join(to_html(table) for table in section.tables.values())
    return (
        f"<h2>The paper, twice: {text(section.comparison.machine)}</h2><p>{text(ABOUT)}</p>"
        f'{bullets(section.sentences)}<div class="charts single">{figures.panels(section.comparison)}</div>'
        f"<details><summary>tables</summary>{tables}</details>"
    )


def _part(part: ReportPart, name: str, figures: Figures) -> str:
    drawn = "".join(figures.plot(plot) for plot in part.plots if plot.points)
    tables = "".join(map(_of_part, part.tables))
    return f'<h2 id="{name}">{text(part.title)}</h2>{bullets(part.sentences)}<div class="charts">{drawn}</div>{tables}'


def _of_part(table: Table) -> str:
    """A table with the whole of its title; a long one opens on a click."""
    shown = to_html(replace(table, title=table.full_title))
    if len(table.rows) <= _MOST_OPEN:
        return shown
    return f"<details><summary>{text(table.full_title)}: {len(table.rows)} rows</summary>{shown}</details>"


def _group(section: GroupSection, name: str, figures: Figures) -> str:
    drawn = [figures.plot(plot) for plot in section.plots.values()]
    if section.spread is not None:
        drawn.append(figures.spread(section.spread))
    drawn += [figures.scatter(chart) for chart in section.scatters]
    kernels = f"<details><summary>kernels</summary>{bullets(section.kernels)}</details>" if section.kernels else ""
    software = f"<p>{text(section.software)}</p>" if section.software else ""
    return (
        f'<h2 id="{name}">{text(section.group.title)}</h2>{bullets(section.findings)}{to_html(section.headline)}'
        f"{to_html(section.leaders) if section.leaders else ''}"
        f'<div class="charts">{"".join(drawn)}</div>'
        f"<details><summary>every case</summary>{to_html(section.summary)}</details>{kernels}{software}"
    )


def _traced(section: TraceSection, name: str, figures: Figures) -> str:
    return (
        f'<h2 id="{name}">Where the time goes: {text(section.group.title)}</h2>{bullets(section.sentences)}'
        f'<div class="charts single">{figures.stack(section.stack)}</div>{to_html(section.table)}'
    )


def _failures(report: Report) -> str:
    if not report.records:  # a part has its failures in its own tables
        return ""
    columns = [
        Column("group", "group", False),
        Column("model", "model", False),
        Column("place", "context or batch"),
        Column("status", "status", False),
        Column("reason", "reason", False),
    ]
    rows = [
        [
            TableCell(section.group.title),
            TableCell(series.name),
            TableCell(section.group.place_label(place)),
            TableCell(word := record.status.value.replace("_", " "), word=word),
            TableCell(" ".join((record.message or "no reason was recorded").split())),
        ]
        for section in report.groups
        for series in section.group.series
        for place, record in series.cells.items()
        if record.status is not Status.OK
    ]
    table = rows_to_html("Cases without a value", columns, rows) if rows else "<p>Every case has a value.</p>"
    return f'<h2 id="failures">Failures</h2><div class="said">{table}</div>'


def _meanings(report: Report) -> str:
    if not report.records:
        return ""
    items = "".join(
        f"<li><b>{text(metric.title + (f' [{metric.unit}]' if metric.unit else ''))}</b>: {text(metric.formula)}</li>"
        for metric in METRICS.values()
    )
    links = ", ".join(f'<a href="tables/{text(name)}.csv">{text(name)}.csv</a>' for name in report.workloads)
    return (
        f"<h2>What the columns mean</h2><p>Every number of every record, in SI and in full: {links}.</p>"
        f"<details><summary>every figure and its formula</summary><ul>{items}</ul></details>"
    )
