"""bisecting: ``hybridbench bisect``: the first commit that made a cell slow."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hybridbench.cli.output import Plain
from hybridbench.cli.timing import cell_options, chosen, left, seconds, shown
from hybridbench.cli.typed import Command
from hybridbench.errors import BadInput
from hybridbench.gate import revisions
from hybridbench.gate.bisect import (
    Answer,
    Bisection,
    BisectResult,
    JudgedRevision,
    OutOfTime,
    key_of,
    most_steps,
    read_progress,
    walk_through,
    write_progress,
)
from hybridbench.gate.bisected import conclusion, document, sized, walk_table
from hybridbench.gate.cells import CheckCell
from hybridbench.gate.exits import Exit, exit_of
from hybridbench.gate.looks import needed_s, predicted_s, without_self_test
from hybridbench.gate.sides import check_timed_from, of_revision
from hybridbench.gate.timed import check, self_tested, started
from hybridbench.gate.verdict import CellVerdict, Word
from hybridbench.processes import terminable
from hybridbench.units import format_seconds

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(cls=Command)
@click.argument("ops", nargs=-1, metavar="[OP | SUITE.toml]...")
@click.option("--good", required=True, metavar="REVISION", help="A git revision that was fast enough.")
@click.option("--bad", required=True, metavar="REVISION", help="A later one that is slower.")
@cell_options
@click.option("--calibration", type=_FILE, help="This machine's calibration, which check --calibrate wrote.")
@click.option("--budget", metavar="SECONDS", help="Seconds that it may take; the same command goes on later.")
@click.option("--progress", type=_FILE, help="The file that keeps what is known.  [in the repository's .git]")
@click.option("--restart", is_flag=True, help="Measure all again instead of going on from that file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")
@click.pass_context
def bisect(
    context: click.Context,
    /,
    *,
    ops: tuple[str, ...],
    good: str,
    bad: str,
    budget: str | None,
    progress: Path | None,
    restart: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the first commit that made an operation or a step slower.

    Revisions between --good and --bad are timed against the good one, each in pairs of fresh processes as check does
    it, with the same fixed margins. Of merges the first parent is followed. A revision that does not start, lacks what
    is timed or stays undecided is skipped.

    An interrupted bisect goes on where it was: each judged revision is kept in a file.

    Exit codes: 0 the commit was found, 2 bad input or a bad revision that is no slower, 3 undecided or out of time; of
    the bad revision 4 not comparable, 5 wrong, 6 not measured.
    """
    began = time.monotonic()
    budget_s = seconds(budget)
    root = revisions.root_of(Path.cwd(), "bisect")
    first = revisions.commit_of(root, good, "--good")
    last = revisions.commit_of(root, bad, "--bad")
    walk = Bisection(first, revisions.between(root, first, last))
    check_timed_from(root, bool(options["kernel"]), f"--good {good}")
    cells, gpu = chosen(ops, options)
    key = key_of(first, last, cells, f"{platform.node()} {gpu or 'cpu'}")
    path = progress or revisions.own_folder(root) / f"hybridbench-bisect-{key}.json"
    if not restart:
        read_progress(walk, key, path)
    write_progress(walk, key, path)
    run = _Run(walk, cells, gpu, options, path, budget_s, began)
    run.announce(revisions.changed_here(root))
    remark = without_self_test(cells, left(budget_s, began)) or self_tested(cells[0].device, gpu)
    with terminable():
        found = walk_through(
            walk,
            cells,
            run.measured,
            lambda one: revisions.parent_of(root, one),
            lambda w: write_progress(w, key, path),
            run.told,
        )
    context.exit(int(_show(found, walk, root, remark, as_json)))


@dataclass
class _Run:
    """One invocation: what it times, and what it says meanwhile."""

    walk: Bisection
    cells: list[CheckCell]
    gpu: str | None
    options: dict[str, Any]
    path: Path
    budget_s: float | None
    began: float

    def __post_init__(self) -> None:
        self.console = Plain(stderr=True, soft_wrap=True)
        self.subjects = {one.name: one for one in self.walk.commits}

    def announce(self, changed: bool) -> None:
        """Say how many steps there are and how long they take, before the first."""
        count, known = len(self.walk.commits), len(self.walk.steps)
        steps = most_steps(count)
        least, most = predicted_s(self.cells)
        cells = "1 cell" if len(self.cells) == 1 else f"{len(self.cells)} cells"
        self.console.print(
            f"{_counted(count, 'revision')} after the good one, {cells}: about {_counted(steps, 'step')} of "
            f"{format_seconds(least)} to {format_seconds(most)} each, {format_seconds(steps * least)} to "
            f"{format_seconds(steps * most)} in all; a revision that is skipped adds one."
        )
        if known:
            self.console.print(f"{_counted(known, 'revision')} known from {self.path}; --restart measures all again.")
        else:
            self.console.print(f"What is known is kept in {self.path}: if interrupted, the same command goes on.")
        if self.budget_s is not None and self.budget_s < least:
            self.console.print(
                f"The budget of {format_seconds(self.budget_s)} is too short for a step: one that it cuts is lost, so "
                f"the same command does not get on. Give --budget {math.ceil(most)} or more."
            )
        if changed:
            self.console.print("The working tree has changes that are not committed: they are not timed.")

    def measured(self, base: str, head: str, cells: Sequence[CheckCell]) -> list[CellVerdict]:
        """The verdicts of cells on one commit against another one; raises ``BadInput`` and ``OutOfTime``."""
        left_s = left(self.budget_s, self.began)
        if left_s is not None and left_s <= 0:
            raise self._ended()
        own = bool(self.options["kernel"])
        skipped = sum(one.answer is Answer.SKIPPED for one in self.walk.steps)
        count = most_steps(len(self.walk.commits)) + skipped
        step = f"step {len(self.walk.steps) + 1} of about {count}, {head[:10]}"
        with (
            of_revision(base, own, "revision") as one,
            of_revision(head, own, "revision") as other,
            shown() as said,
            started(one, other, cells[0].device, self.gpu) as pairs,
        ):
            checked = check(
                cells,
                pairs,
                calibration=self.options["calibration"],
                budget_s=left(self.budget_s, self.began),
                said=lambda text: said(f"{step}, {text}"),
            )
        open_still = any(one.word in (Word.INCONCLUSIVE, Word.NOTHING_MEASURED) for one in checked.verdicts)
        if checked.progress.out_of_time and open_still:
            raise self._ended(checked.progress.pairs, needed_s(cells, checked.progress, pairs))
        return checked.verdicts

    def _ended(self, lost: int = 0, needs: str = "") -> OutOfTime:
        """What ends it, with how to go on.

        Args:
            lost: pairs of the step that was cut, which are measured again the next time.
            needs: how long its looks take, as the end of a sentence; empty where no step was cut.
        """
        known = _counted(len(self.walk.steps), "step")
        said = f"the budget ended after {known}: the same command goes on from {self.path}."
        if not needs:
            return OutOfTime(said)
        return OutOfTime(
            f"{said} The next step was cut and its {_counted(lost, 'pair')} of processes lost; of a step {needs}."
        )

    def told(self, step: JudgedRevision) -> None:
        """Say what a step came to."""
        commit = self.subjects[step.commit]
        against = "" if step.base == self.walk.good else ", against its parent"
        said = step.because if step.answer is Answer.SKIPPED else "; ".join(map(sized, step.verdicts))
        self.console.print(f"{commit.short} {commit.subject}: {step.answer}{against}. {said}")


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _show(found: BisectResult, walk: Bisection, root: Path, remark: str, as_json: bool) -> Exit:
    """Show what was found and return the exit code.

    Raises:
        BadInput: the bad revision is no slower.
    """
    if found.bad.answer is Answer.FAST:
        raise BadInput(
            f"--bad {found.bad.commit[:10]} is no slower than --good {walk.good[:10]}, so there is nothing to find: "
            f"{'; '.join(map(sized, found.bad.verdicts))}."
        )
    named = found.suspects[0] if len(found.suspects) == 1 else None
    files = revisions.touched(root, named.name) if named else []
    if as_json:
        click.echo(document(found, walk, files, remark))
    else:
        from hybridbench.report.render.terminal import print_table

        table = walk_table(walk)
        table.remark(remark)
        print_table(table, Plain())
        for line in conclusion(found, files):
            Plain(soft_wrap=True).print(line)
    if named:
        return Exit.PASS
    if found.suspects:
        return Exit.INCONCLUSIVE
    return exit_of(found.bad.verdicts) or Exit.NOT_COMPARABLE  # a cell that the good revision lacks fails no check
