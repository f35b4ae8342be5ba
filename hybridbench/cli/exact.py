"""exact: the exact tier of ``hybridbench check``: figures without noise, compared with a committed file or written."""

from __future__ import annotations

from pathlib import Path

import click

from hybridbench.cli.output import Plain
from hybridbench.cli.told import Outputs
from hybridbench.errors import Unsupported, unknown_name
from hybridbench.gate.baseline import (
    Allowance,
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
from hybridbench.gate.exits import Exit
from hybridbench.store import exists

BASELINE = Path("results/baselines/exact.json")


def compare_exact(
    parts: str, path: Path, budget: Path | None, failing: tuple[Exit, ...], outputs: Outputs, *, recompile: bool
) -> Exit:
    """Compare the chosen parts with a file, show what differs and return the exit code.

    Args:
        outputs: where else it is told.
        recompile: compile kernels again whose source is that of the file.

    Raises:
        BadInput: an unknown part, or a file that cannot be read.
    """
    chosen = _chosen(parts)
    before = read_baseline(path)
    budgets = [] if budget is None else read_budgets(budget)
    check_budgets(budgets, before)
    found, compared = _compared(chosen, path, before, budgets, recompile)
    code = exit_of(found, compared, failing)
    _show(found, compared, code, outputs)
    return code


def _compared(
    chosen: list[str], path: Path, before: dict[str, Section], budgets: list[Allowance], recompile: bool
) -> tuple[list[Difference], int]:
    """What differs in the chosen parts, and how many figures were compared."""
    found: list[Difference] = []
    compared = 0
    for part in chosen:
        if part not in before:
            found.append(not_compared(part, f"{path} has no such part: add it with --update --parts {part}."))
            continue
        try:
            after = PARTS[part](None if recompile else before[part])
        except Unsupported as exc:
            found.append(not_compared(part, str(exc)))
            continue
        _tell_kept(part, after)
        found += differences(part, before[part], after, budgets)
        if before[part].versions == after.versions:
            compared += sum(len(row) for row in after.figures.values())
    return found, compared


def _show(found: list[Difference], compared: int, code: Exit, outputs: Outputs) -> None:
    from hybridbench.gate.differences import difference_table, document, junit, step_summary, summary, workflow_commands

    outputs.write(junit(found, compared), step_summary(found, compared))
    for line in workflow_commands(found) if outputs.annotations else ():
        click.echo(line, err=outputs.as_json)
    if outputs.as_json:
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


def _tell_kept(part: str, section: Section) -> None:
    if section.kept:
        kept, all_names = section.kept, len(section.figures)
        Plain(stderr=True, soft_wrap=True).print(
            f"{part}: {all_names - kept:,} of {all_names:,} compiled; the others have the source, constants and "
            "compilers that their figures in the file come from (--recompile compiles them too)."
        )


def update_exact(parts: str, path: Path, *, recompile: bool) -> None:
    """Write the chosen parts; the file keeps its others.

    Args:
        recompile: compile kernels again whose source is that of the file.

    Raises:
        BadInput: an unknown part, or the file is not a baseline.
        Unsupported: a part cannot be observed here.
    """
    chosen = _chosen(parts)
    sections: dict[str, Section] = read_baseline(path) if exists(path) else {}
    for part in chosen:
        sections[part] = PARTS[part](None if recompile else sections.get(part))
        _tell_kept(part, sections[part])
    write_baseline({part: sections[part] for part in PARTS if part in sections}, path)
    figures = sum(len(row) for part in chosen for row in sections[part].figures.values())
    Plain().print(f"{figures:,} figures written: {path}", soft_wrap=True)
