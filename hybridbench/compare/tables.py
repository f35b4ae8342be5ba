"""tables: a comparison as tables and sentences, for every format, and as plain values for CSV and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hybridbench.compare.cell import ComparedCell
from hybridbench.compare.interval import DOUBT, confidence
from hybridbench.compare.judging import Comparison, JudgedPair, Verdict, differing_words
from hybridbench.compare.sides import CROSSINGS, ComparedSide
from hybridbench.report.display import ShownUnit, unit_for
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.units import format_number

HIDDEN = ("spec",)
"""Fields that tell cells apart and mean nothing to a reader."""
_DTYPES = ("state dtype", "weight dtype", "kv dtype")
_PLAIN = {
    **dict.fromkeys(_DTYPES, "as dtype"),
    "seed": "0",
    "streams": "1",
    "gpus": "1",
    "tp": "1",
    "checkpoint": "none",
    "backends": "auto",
    "sampling": "timed",
}
"""Conditions that are not worth a word where they are these."""
_UNSAID = ("cpu", "cores", "threads", "schema", "python", "driver", "cuda", "packages")
"""Conditions that all shown cells of a row share, or that the lines about each side tell."""
_NAMED = ("context", "batch", "prompt", "depths", *_DTYPES, "seed", "streams", "gpus", "tp", "checkpoint")
"""Fields whose value needs their name beside it."""
_DIGITS = 4
"""Digits of a ratio: a graphed step is known to 0.1%."""


def verdict_word(row: JudgedPair, comparison: Comparison) -> str:
    """A verdict in the words of the metric."""
    words = {
        Verdict.WORSE: comparison.asked.worse_word,
        Verdict.BETTER: comparison.asked.better_word,
        Verdict.GONE: "only in A",
        Verdict.NEW: f"only in {row.pair.side}",
    }
    return words.get(row.verdict, row.verdict.value)


def fields_of(comparison: Comparison) -> tuple[list[str], list[str]]:
    """The fields that differ from row to row, which are columns, and those that all rows share."""
    crossed = {field for name in comparison.across for field in CROSSINGS[name]}
    shown = [row.pair.shown for row in comparison.rows]
    names = [
        name
        for name in dict.fromkeys(name for cell in shown for name in (*cell.what, *cell.how))
        if name not in (*HIDDEN, *_UNSAID) and name not in crossed
    ]
    varying = [name for name in names if len({field(cell, name) for cell in shown}) > 1]
    return varying, [name for name in names if name not in varying]


def field(cell: ComparedCell, name: str) -> str:
    """One field of a cell's identity; empty if its kind has none of that name."""
    return cell.what.get(name) or cell.how.get(name) or ""


def about(comparison: Comparison) -> str:
    """What all rows share, in one line."""
    first = comparison.rows[0].pair.shown
    _, shared = fields_of(comparison)
    return ", ".join(
        f"{name} {value}" if name in _NAMED else value
        for name, value in ((name, field(first, name)) for name in shared)
        if value and value != _PLAIN.get(name)
    )


def title(comparison: Comparison) -> str:
    """What the ratios are of."""
    letters = [side.letter for side in comparison.sides]
    over = f"{letters[1]} / {letters[0]}" if len(letters) == 2 else f"each side / {letters[0]}"
    return f"{comparison.asked.title}, {over}"


def comparison_table(comparison: Comparison) -> Table:
    """A row per pair: both amounts, their ratio with its interval, the verdict, and memory beside time."""
    names, _ = fields_of(comparison)
    several = len(comparison.sides) > 2
    amounts = unit_for((cell.amount for row in comparison.rows for cell in _cells(row)), comparison.asked.unit)
    memory = unit_for((cell.memory_bytes for row in comparison.rows for cell in _cells(row)), "B")
    beside = comparison.asked.timed and any(cell.memory_bytes for row in comparison.rows for cell in _cells(row))
    table = Table(
        title(comparison),
        [
            *(Column(name, name, numeric=False) for name in names),
            *([Column("side", "side", numeric=False)] if several else []),
            Column("base", amounts.heading("A")),
            Column("other", amounts.heading("other" if several else "B")),
            Column("ratio", "ratio"),
            Column("interval", "interval", numeric=False),
            Column("noise", "between runs", wide=True),
            *([Column("peaks", memory.heading("peak"), numeric=False)] if beside else []),
            Column("verdict", "verdict", numeric=False),
        ],
        about(comparison),
    )
    for row in comparison.rows:
        shown = [TableCell(field(row.pair.shown, name), field(row.pair.shown, name)) for name in names]
        shown += [TableCell(row.pair.side, row.pair.side)] if several else []
        shown += [_amount(cell, amounts) for cell in (row.pair.base, row.pair.other)]
        shown += [_ratio(row), _interval(row), _noise(row)]
        shown += [_peaks(row, memory)] if beside else []
        table.rows.append([*shown, _verdict(row, comparison, table)])
    for sentence in remarks(comparison):
        table.remark(sentence)
    return table


def _cells(row: JudgedPair) -> list[ComparedCell]:
    return [cell for cell in (row.pair.base, row.pair.other) if cell is not None]


def _amount(cell: ComparedCell | None, shown_in: ShownUnit) -> TableCell:
    if cell is None or cell.amount is None:
        return TableCell(NO_VALUE if cell is None or cell.ok else cell.status, None)
    return TableCell(shown_in.show(cell.amount), cell.amount)


def _ratio(row: JudgedPair) -> TableCell:
    return TableCell(format_number(row.ratio.value, _DIGITS), row.ratio.value) if row.ratio else TableCell(NO_VALUE)


def _interval(row: JudgedPair) -> TableCell:
    if row.ratio is None or row.ratio.low is None or row.ratio.high is None:
        return TableCell(NO_VALUE)
    if row.ratio.low == row.ratio.high:
        return TableCell("counted")
    return TableCell(f"{format_number(row.ratio.low, _DIGITS)}..{format_number(row.ratio.high, _DIGITS)}")


def _noise(row: JudgedPair) -> TableCell:
    if row.ratio is None or not row.pair.separate:
        return TableCell(NO_VALUE)
    largest = max(cell.noise.between_frac for cell in _cells(row))
    return TableCell(f"{format_number(100 * largest, 2)}%", largest)


def _peaks(row: JudgedPair, shown_in: ShownUnit) -> TableCell:
    base, other = (None if cell is None else cell.memory_bytes for cell in (row.pair.base, row.pair.other))
    if base is None and other is None:
        return TableCell(NO_VALUE)
    shown = [NO_VALUE if peak is None else shown_in.show(peak) for peak in (base, other)]
    return TableCell(shown[0] if shown[0] == shown[1] else " to ".join(shown))


_STYLES = {
    Verdict.WORSE: "wrong",  # a verdict's colour is that of a status: red
    Verdict.BROKE: "wrong",
    Verdict.INCOMPARABLE: "wrong",
    Verdict.BETTER: "ok",
    Verdict.FIXED: "ok",
    Verdict.DOUBTFUL: "unsupported",
    Verdict.FEW: "unsupported",
    Verdict.FAILS: "unsupported",
}


def _verdict(row: JudgedPair, comparison: Comparison, table: Table) -> TableCell:
    word = verdict_word(row, comparison)
    markers = "".join(table.note(reason) for reason in (*row.reasons, *_kernels(row)))
    failed = " FAILS" if row.failed else ""
    return TableCell(f"{word}{failed} {markers}".rstrip(), word, _STYLES.get(row.verdict))


def _kernels(row: JudgedPair) -> list[str]:
    """A sentence for each operation that ran on another backend."""
    base, other = row.pair.base, row.pair.other
    if row.ratio is None or base is None or other is None:
        return []
    return [
        f"{op} ran on {base.ran[op]} in A and on {other.ran[op]} in {row.pair.side}"
        for op in base.ran
        if op in other.ran and base.ran[op] != other.ran[op]
    ]


def side_lines(comparison: Comparison) -> list[str]:
    """A line for each side, with the runs, machines and versions of its cells, and one for conditions that differ."""
    lines = [_side_line(side) for side in comparison.sides]
    differing: dict[tuple[str, str, str], tuple[str, str]] = {}
    for row in comparison.rows:
        for name, values in row.pair.crossed.items():
            if name in row.pair.shown.how:
                differing[(row.pair.side, name, " / ".join(values))] = values
    words = [f"{differing_words({name: values})} ({side})" for (side, name, _), values in differing.items()]
    return [*lines, f"crossed, A / other: {'; '.join(words)}"] if words else lines


def _side_line(side: ComparedSide) -> str:
    runs = list(dict.fromkeys(cell.run for cell in side.cells))
    machines = list(dict.fromkeys(cell.how["device"] for cell in side.cells if "device" in cell.how))
    made_by = list(dict.fromkeys(cell.made_by for cell in side.cells))
    parts = [
        f"{len(side.cells)} record{'s' * (len(side.cells) != 1)}",
        f"run {runs[0]}" if len(runs) == 1 else f"{len(runs)} runs",
        " and ".join(machines),
        made_by[0] if len(made_by) == 1 else f"{len(made_by)} versions of hybridbench",
    ]
    return f"{side.letter}: {side.title} ({'; '.join(part for part in parts if part)})"


def summary(comparison: Comparison) -> str:
    """How many rows have each verdict, in the order of the table."""
    words = [verdict_word(row, comparison) for row in comparison.rows]
    counts = Counter(words)
    return ", ".join(f"{counts[word]} {word}" for word in dict.fromkeys(words)) + "."


def outcome(comparison: Comparison) -> list[str]:
    """What ``--fail-above`` found, with its rule, and why else the exit code is not 0."""
    found = []
    if comparison.limit_frac is not None:
        failed = sum(row.failed for row in comparison.rows)
        limit = f"{format_number(100 * comparison.limit_frac)}%"
        found.append(
            f"--fail-above {limit}: {failed} of {len(comparison.rows)} cells fail; one fails if its whole interval is "
            f"{comparison.asked.worse_word} than A by more than {limit}, or if it worked in A and does not work now."
        )
    if comparison.exit_code == 4:
        found.append("Exit code 4: cells could not be compared; the table names them.")
    if comparison.exit_code == 6:
        found.append("Exit code 6: nothing was compared.")
    return found


def remarks(comparison: Comparison) -> list[str]:
    """What the intervals hold, what of separate runs is in them, and which records are not shown."""
    found = []
    each = 100 * confidence(comparison.judged)
    if comparison.judged > 1:
        found.append(
            f"intervals: all {comparison.judged} together hold the true ratios with {100 * (1 - DOUBT):g}% "
            f"({each:.4g}% each)"
        )
    elif comparison.judged:
        found.append(f"interval: holds the true ratio with {each:g}%")
    ratios = [row for row in comparison.rows if row.ratio and row.ratio.judged]
    separate = [row for row in ratios if row.pair.separate]
    if separate and comparison.asked.timed:
        which = "all" if len(separate) == len(ratios) else f"{len(separate)} of {len(ratios)}"
        sources = dict.fromkeys(cell.noise.source for row in separate for cell in _cells(row))
        found.append(
            f"two separate runs: {which} ratios are of cells from two runs, which may differ as a whole; their "
            "intervals include what processes of the same code are known to differ by: " + "; ".join(sources)
        )
    passed_over = sum(row.pair.passed_over for row in comparison.rows)
    if passed_over:
        found.append(f"{passed_over} earlier record{'s' * (passed_over != 1)} of the same cells are not shown")
    return found


def flat_table(comparison: Comparison) -> Table:
    """A row per pair with every value in SI and in full, for CSV."""
    rows = plain_rows(comparison)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title(comparison), [Column(name, name) for name in columns])
    table.rows = [[TableCell(str(row.get(name)), row.get(name)) for name in columns] for row in rows]
    return table


def plain_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Each row as plain values; what is unknown is None."""
    return [_plain(row, comparison) for row in comparison.rows]


def _plain(row: JudgedPair, comparison: Comparison) -> dict[str, Any]:
    shown, ratio = row.pair.shown, row.ratio
    metric = comparison.asked.metric
    values: dict[str, Any] = {"side": row.pair.side, "verdict": verdict_word(row, comparison), "failed": row.failed}
    values |= {name.replace(" ", "_"): value for name, value in (*shown.what.items(), *shown.how.items())}
    values |= {
        "ratio": ratio.value if ratio else None,
        "ratio_low": ratio.low if ratio else None,
        "ratio_high": ratio.high if ratio else None,
        "separate_runs": row.pair.separate,
        "passed_over": row.pair.passed_over,
        "differing": _differing(row.pair.differing),
        "crossed": _differing(row.pair.crossed),
        "reasons": "; ".join(row.reasons),
    }
    for which, cell in (("base", row.pair.base), ("other", row.pair.other)):
        values |= {
            f"{which}_{metric}": cell.amount if cell else None,
            f"{which}_low": cell.low if cell else None,
            f"{which}_high": cell.high if cell else None,
            f"{which}_samples": cell.samples if cell else None,
            f"{which}_noise_between_frac": cell.noise.between_frac if cell else None,
            f"{which}_drift_frac": cell.noise.drift_frac if cell else None,
            f"{which}_noise_source": cell.noise.source if cell else None,
            f"{which}_memory_bytes": cell.memory_bytes if cell else None,
            f"{which}_status": cell.status if cell else None,
            f"{which}_run": cell.run if cell else None,
            f"{which}_started_at": cell.started_at if cell else None,
            f"{which}_made_by": cell.made_by if cell else None,
        }
    return values


def _differing(fields: dict[str, tuple[str, str]]) -> str:
    return "; ".join(f"{name}: {ours} / {theirs}" for name, (ours, theirs) in fields.items() if name not in HIDDEN)


def row_name(row: JudgedPair, names: Sequence[str], comparison: Comparison) -> str:
    """A row in one line: the fields that tell it from others, and its side if there are several."""
    cell = row.pair.shown
    words = [f"{name} {field(cell, name)}" if name in _NAMED else field(cell, name) for name in names]
    if len(comparison.sides) > 2:
        words.append(f"{row.pair.side} / A")
    return " ".join(word for word in words if word) or title(comparison)
