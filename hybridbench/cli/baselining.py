"""baselining: ``hybridbench baseline`` and ``check --baseline``: stored records to compare with, and their trend."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from hybridbench.cli.options import GIVEN_PATH, RESULTS
from hybridbench.cli.output import Plain
from hybridbench.cli.placing import needs_gpu
from hybridbench.cli.stored import damaged, warn
from hybridbench.cli.typed import Command
from hybridbench.errors import BadInput, unknown_name
from hybridbench.gate.exits import WORST_FIRST, Exit, exit_name, worst
from hybridbench.machine import visible_gpus

ACTIONS = ("update", "show")
FOLDER, MAIN = Path("results/baselines"), "main"


@click.command(cls=Command)
@click.argument("action", metavar="update|show")
@click.argument("results", nargs=-1, type=GIVEN_PATH)
@click.option("--name", default=MAIN, show_default=True, help="Of the baseline, such as a release.")
@click.option("--into", type=GIVEN_PATH, default=FOLDER, show_default=True, help="The folder of all baselines.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")
def baseline(*, action: str, results: tuple[Path, ...], name: str, into: Path, as_json: bool) -> None:
    """Keep measured records as what later ones are compared with, and show how they went over time.

    update RESULTS: append the newest record of each cell in folders or .jsonl files, by run, kernels and the commands
    that time steps, to a file of this class of machine. check --baseline FILE compares with it.

    show FILE: the trend of each cell over the updates.
    """
    if action not in ACTIONS:
        raise unknown_name("action", action, ACTIONS)
    if not results:
        raise BadInput(f"{action} of what? Name {'results' if action == 'update' else 'a file of baselines'}.")
    if action == "show":
        _show_trend(results, as_json)
        return
    from hybridbench.compare.baselines import add
    from hybridbench.kernel_suite.record import KernelRecord
    from hybridbench.record import Record
    from hybridbench.store import exists, holds, load

    found: list[Any] = []
    for path in results:
        of_kernels = exists(path) and holds([path], KernelRecord)
        found += load([path], warn, damaged, KernelRecord) if of_kernels else []
        found += load([path], warn, damaged) if not of_kernels or holds([path], Record) else []
    written = add(found, name, into, warn)
    if as_json:
        click.echo(json.dumps({"written": {str(file): count for file, count in written.items()}}))
        return
    for file, count in written.items():
        added = "nothing new" if not count else f"{count} record{'s' * (count != 1)} added"
        Plain().print(f"{added}: {file}", soft_wrap=True)


def _show_trend(paths: Sequence[Path], as_json: bool) -> None:
    from hybridbench.compare.cell import ASKED
    from hybridbench.compare.sides import load_cells
    from hybridbench.compare.trend import plain, trend_table, trends

    asked = ASKED["step"]
    found = trends([cell for cells in load_cells(paths, asked, warn, damaged) for cell in cells])
    if as_json:
        click.echo(json.dumps({"trend": plain(found, asked)}))
        return
    _print_trend(trend_table(found, asked) if found else None)


def _print_trend(table: Any) -> None:
    from hybridbench.compare.trend import FEWEST
    from hybridbench.report.render.terminal import print_table

    console = Plain()
    if table is None:
        console.print(f"No trend yet: it takes {FEWEST} runs of a cell under the same conditions.")
    else:
        print_table(table, console)


def check_past(
    path: Path,
    words: Sequence[str],
    *,
    across: str | None,
    fail_above: str | None,
    failing: tuple[Exit, ...] = WORST_FIRST,
    summary: Path | None = None,
    as_json: bool = False,
) -> Exit:
    """Compare what runs here now with stored records, show it with the trend, and return the exit code.

    Args:
        path: the file of a baseline.
        words: results that were measured already, or operations and workloads of the baseline to measure; empty
            measures every cell of it.
        fail_above: the slowdown that fails, such as ``5%``; without it nothing fails for being slower.

    Raises:
        BadInput, BadResults: a file that cannot be read, or words that name nothing.
        NotComparable: nothing is comparable; names the fields that differ.
    """
    from hybridbench.cli.comparing import names_of, parse_limit
    from hybridbench.compare.cell import ASKED
    from hybridbench.compare.judging import compare
    from hybridbench.compare.render import document, print_comparison
    from hybridbench.compare.sides import crossed_fields, lettered, load_cells
    from hybridbench.compare.trend import plain, trend_table, trends

    limit, crossings, asked = parse_limit(fail_above), names_of(across), ASKED["step"]
    crossed = crossed_fields(crossings)

    def compared(now: Sequence[Path]) -> tuple[Any, list[Any]]:
        stored, *rest = load_cells([path, *now], asked, warn, damaged)
        here = [cell for cells in rest for cell in cells]
        return compare(lettered([(str(path), stored), ("now", here)]), asked, crossings, crossed, limit), [
            *stored,
            *here,
        ]

    given = [Path(word) for word in words if word.endswith(".jsonl") or Path(word).is_dir()]
    if given and len(given) < len(words):
        raise BadInput("results and names of operations: name what was measured, or what is to be measured.")
    found, cells = compared(given or [_measured(path, words, lambda folder: compared([folder]))])
    if not given and words:
        rows = tuple(row for row in found.rows if row.pair.other is not None)
        found = type(found)(found.sides, found.asked, found.across, rows, found.judged, found.limit_frac)
    drift = trends(cells)
    code = worst({Exit(found.exit_code)}, failing)
    table = trend_table(drift, asked) if drift else None
    if summary is not None:
        _append_summary(summary, found, table)
    if as_json:
        body = {**json.loads(document(found)), "exit_code": int(code), "outcome": exit_name(Exit(found.exit_code))}
        click.echo(json.dumps({**body, "advisory": limit is None, "trend": plain(drift, asked)}))
        return code
    console = Plain()
    print_comparison(found, console)
    _print_trend(table)
    if limit is None:
        console.print("Stored records are of another day: this fails nothing. Give --fail-above 5% to make it fail.")
    return code


def _measured(path: Path, words: Sequence[str], first: Callable[[Path], object]) -> Path:
    """Measures cells of a baseline here; the folder of their records.

    Args:
        first: called with the folder after the first cell, so that what is not comparable is told before the rest.
    """
    from hybridbench.kernel_suite.record import KernelRecord
    from hybridbench.record import Record
    from hybridbench.runner import Events, run_sweep
    from hybridbench.store import RecordWriter, is_of, load, newest

    kind: Any = KernelRecord if is_of(path, KernelRecord) else Record
    cases = {record.case.key: record.case for record in newest(load([path], warn, damaged, kind))}
    names = {key: case.op if kind is KernelRecord else case.workload.kind for key, case in cases.items()}
    for word in words:
        if word not in names.values():
            raise unknown_name("operation or workload of the baseline", word, sorted(set(names.values())))
    chosen = [case for key, case in cases.items() if not words or names[key] in words]
    gpus = visible_gpus()
    needs_gpu(chosen, gpus)
    devices = gpus[:1] if any(case.device == "cuda" for case in chosen) else ()
    folder = RESULTS / f"check-{datetime.now():%Y%m%d-%H%M%S}"
    console = Plain(stderr=True, soft_wrap=True)
    events = Events(started=lambda case: console.print(f"measuring {case.label}"))
    with RecordWriter(folder, kind=kind) as writer:
        run_sweep(chosen[:1], writer, gpus=devices, events=events)
        first(folder)
        run_sweep(chosen[1:], writer, gpus=devices, events=events)
    console.print(f"Records: {folder}")
    return folder


def _append_summary(path: Path, found: Any, trend: Any) -> None:
    from hybridbench.compare.render import outline
    from hybridbench.report.render.markdown import to_markdown

    text = f"## Against stored records\n\n{outline(found)}"
    if trend is not None:
        text += f"\n### Trend\n\n{to_markdown(trend)}"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as exc:
        raise BadInput(f"{path} cannot be written ({exc.strerror}): give a path in a folder that can.") from exc
