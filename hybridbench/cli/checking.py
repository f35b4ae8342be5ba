"""checking: ``hybridbench check``: whether a change made performance worse."""

from __future__ import annotations

from pathlib import Path

import click

from hybridbench.cli.output import Plain
from hybridbench.cli.typed import Command, listed
from hybridbench.errors import BadInput, Unsupported, unknown_name
from hybridbench.gate.baseline import (
    Budget,
    Difference,
    Section,
    check_budgets,
    differences,
    exit_of,
    not_compared,
    read_baseline,
    read_budgets,
    write_baseline,
)
from hybridbench.gate.exact import PARTS
from hybridbench.gate.exits import WORST_FIRST, Exit, exit_name, parse_fail_on

BASELINE = Path("results/baselines/exact.json")


@click.command(cls=Command)
@click.option("--exact", is_flag=True, help="Compare figures that have no noise with a committed file.")
@listed("--parts", default="formulas", show_default=True,
        help=f"{', '.join(PARTS)}; lists too. None needs a GPU; kernels takes minutes.")  # fmt: skip
@click.option("--baseline", type=click.Path(path_type=Path, dir_okay=False), help=f"The file.  [{BASELINE}]")
@click.option("--update", is_flag=True, help="Write the figures into the file instead.")
@click.option("--budget", type=click.Path(path_type=Path, dir_okay=False),
              help="TOML of [[budget]] entries: figures that may be up to a value, each with a reason.")  # fmt: skip
@listed("--fail-on", help=f"What fails: {', '.join(exit_name(code) for code in WORST_FIRST)}; lists too; none.  [all]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")
@click.pass_context
def check(
    context: click.Context,
    *,
    exact: bool,
    parts: str,
    baseline: Path | None,
    update: bool,
    budget: Path | None,
    fail_on: str | None,
    as_json: bool,
) -> None:
    """Compare exact figures with a committed file: equal, or within a budget that says why.

    formulas: parameters, FLOPs, cache bytes and predicted peaks of every family at every scale and every published
    model. steps: operators, graphs, graph breaks and recompilations of small cases on a CPU. launches: kernels of a
    fused decode step. kernels: registers, spills, shared memory and instructions of our Triton kernels as compiled for
    sm_80, sm_90 and sm_100.

    Exit codes: 0 equal, 1 a figure differs, 2 bad input, 4 a figure vanished, is new or could not be compared,
    6 nothing was compared.
    """
    if not exact:
        raise BadInput("check needs its tier: give --exact.")
    failing = parse_fail_on(fail_on)
    chosen = _chosen(parts)
    path = BASELINE if baseline is None else baseline
    if update:
        if budget is not None or fail_on is not None or as_json:
            raise BadInput("--update only writes: leave --budget, --fail-on and --json out.")
        _update(chosen, path)
        return
    before = read_baseline(path)
    budgets = [] if budget is None else read_budgets(budget)
    check_budgets(budgets, before)
    found, compared = _compared(chosen, path, before, budgets)
    code = exit_of(found, compared, failing)
    _show(found, compared, code, as_json)
    context.exit(int(code))


def _compared(
    chosen: list[str], path: Path, before: dict[str, Section], budgets: list[Budget]
) -> tuple[list[Difference], int]:
    """What differs in the chosen parts, and how many figures were compared."""
    found: list[Difference] = []
    compared = 0
    for part in chosen:
        if part not in before:
            found.append(not_compared(part, f"{path} has no such part: add it with --update --parts {part}."))
            continue
        try:
            after = PARTS[part]()
        except Unsupported as exc:
            found.append(not_compared(part, str(exc)))
            continue
        found += differences(part, before[part], after, budgets)
        if before[part].versions == after.versions:
            compared += sum(len(row) for row in after.figures.values())
    return found, compared


def _show(found: list[Difference], compared: int, code: Exit, as_json: bool) -> None:
    from hybridbench.gate.differences import difference_table, document, summary

    if as_json:
        click.echo(document(found, compared, code))
        return
    from hybridbench.report.render.terminal import print_table

    console = Plain()
    table = difference_table(found)
    if table.rows:
        print_table(table, console)
    for remark in () if table.rows else table.remarks:
        console.print(remark, soft_wrap=True)
    console.print(summary(found, compared), soft_wrap=True)


def _chosen(parts: str) -> list[str]:
    chosen = list(dict.fromkeys(part.strip().lower() for part in parts.split(",")))
    for part in chosen:
        if part not in PARTS:
            raise unknown_name("part", part, PARTS)
    return chosen


def _update(chosen: list[str], path: Path) -> None:
    """Write the chosen parts; the file keeps its others.

    Raises:
        BadInput: the file is not a baseline.
        Unsupported: a part cannot be observed here.
    """
    sections: dict[str, Section] = read_baseline(path) if path.exists() else {}
    sections |= {part: PARTS[part]() for part in chosen}
    write_baseline({part: sections[part] for part in PARTS if part in sections}, path)
    figures = sum(len(row) for part in chosen for row in sections[part].figures.values())
    Plain().print(f"{figures:,} figures written: {path}", soft_wrap=True)
