"""checking: ``hybridbench check``: whether a change made performance worse, by exact figures or by timing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hybridbench.cli.baselining import check_past
from hybridbench.cli.exact import BASELINE, compare_exact, update_exact
from hybridbench.cli.timing import calibrate_cells, cell_options, seconds, time_cells
from hybridbench.cli.told import Outputs, check_writable, judged
from hybridbench.cli.typed import Command, listed
from hybridbench.errors import BadInput
from hybridbench.gate.exact import PARTS
from hybridbench.gate.exits import WORST_FIRST, exit_name, parse_fail_on

_FILE = click.Path(path_type=Path, dir_okay=False)
_PAST_ONLY = ("across", "fail_above")
_SIDES = ("base", "base_python", "base_kernel")
_TOLD = ("junit", "summary", "annotations")
_TIMING_ONLY = (
    *_SIDES,
    *("kernel", "calibrate", "calibration", "accepted"),
    *("problem", "arch", "scale", "ctx", "batch", "direction", "dtype", "device"),
)
_NOT_PAST = (*_TIMING_ONLY, "junit", "annotations")


@click.command(cls=Command)
@click.argument("ops", nargs=-1, metavar="[OP | SUITE.toml | RESULTS]...")
@click.option("--exact", is_flag=True, help="Compare figures that have no noise with a committed file.")
@listed("--parts", default="formulas", show_default=True,
        help=f"Of --exact: {', '.join(PARTS)}; lists too. None needs a GPU; kernels may take minutes.")  # fmt: skip
@click.option("--baseline", type=_FILE, help=f"Stored records to compare with; of --exact: the file.  [{BASELINE}]")
@listed("--across", help="Of --baseline: what may differ, as of compare.")
@click.option("--fail-above", help="Of --baseline: exit 1 if a cell is certainly slower by more, such as 5%.")
@click.option("--update", is_flag=True, help="Of --exact: write the figures into the file instead.")
@click.option("--recompile", is_flag=True, help="Of --exact: compile kernels too whose source has not changed.")
@click.option("--base", metavar="REVISION", help="Time this git revision of the repository here as the other side.")
@click.option("--base-python", metavar="PATH", help="The other side is another environment's python.")
@click.option("--base-kernel", multiple=True, metavar="OP=MODULE:FUNCTION", help="The other side of --kernel.")
@cell_options
@click.option("--calibrate", is_flag=True, help="Time this code on both sides; write what each cell can see.")
@click.option("--calibration", type=_FILE, help="This machine's calibration; --calibrate writes it.")
@click.option("--accepted", type=_FILE, help="TOML of [[accepted]] regressions, each with a size, a reason, an end.")
@click.option("--budget", metavar="SECONDS | FILE",
              help="Seconds that timing may take; of --exact: TOML of [[budget]] entries with reasons.")  # fmt: skip
@listed("--fail-on", help=f"What fails: {', '.join(exit_name(code) for code in WORST_FIRST)}; lists too; none.  [all]")
@click.option("--junit", type=_FILE, help="Write JUnit XML.")
@click.option("--summary", type=_FILE, help="Append a page of Markdown, for $GITHUB_STEP_SUMMARY.")
@click.option("--annotations", is_flag=True, help="Print workflow commands of GitHub Actions.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")
@click.pass_context
def check(
    context: click.Context,
    /,
    *,
    ops: tuple[str, ...],
    exact: bool,
    parts: str,
    baseline: Path | None,
    update: bool,
    recompile: bool,
    budget: str | None,
    fail_on: str | None,
    as_json: bool,
    **timing: Any,
) -> None:
    """Say whether a change made performance worse.

    Timed: operations, or the cells of a suite such as suites/kernels.toml, of the change and of its base: --base,
    --base-python or --base-kernel. Both sides alternate in fresh processes on one device, until each cell is decided.

    Against the past: --baseline FILE measures the cells of stored records again, or compares RESULTS with them, and
    shows the trend. It fails nothing for being slower, unless --fail-above says by how much.

    Exact: parameters, FLOPs, cache bytes and predicted peaks of every family at every scale and every published model;
    --parts adds steps (operators, graphs and recompilations of small cases on a CPU), launches (kernels of a fused
    decode step) and kernels (registers, spills, shared memory and instructions of our Triton kernels as compiled for
    sm_80, sm_90 and sm_100).

    Exit codes: 0 passed, 1 a regression or a figure that differs, 2 bad input, 3 inconclusive, 4 vanished or not
    comparable, 5 a wrong kernel, 6 nothing was measured.
    """
    began = time.monotonic()
    failing = parse_fail_on(fail_on)
    if exact:
        told = ("junit", "summary", "annotations")
        _refuse(
            "with --exact, which times nothing", timing, tuple(n for n in (*_TIMING_ONLY, *_PAST_ONLY) if n not in told)
        )
        if ops:
            raise BadInput(f"{ops[0]} with --exact, which times nothing: leave it out.")
        if update and (budget is not None or fail_on is not None or as_json):
            raise BadInput("--update only writes: leave --budget, --fail-on and --json out.")
        if update:
            _refuse("with --update, which only writes", timing, _TOLD)
        path = BASELINE if baseline is None else baseline
        if update:
            check_writable(path, make_folder=True)
            update_exact(parts, path, recompile=recompile)
            return
        allowed = None if budget is None else Path(budget)
        outputs = Outputs(timing["junit"], timing["summary"], timing["annotations"], as_json)
        outputs.check_writable()
        with judged(outputs):
            code = compare_exact(parts, path, allowed, failing, outputs, recompile=recompile)
        context.exit(int(code))
    typed = context.get_parameter_source("parts") is not ParameterSource.DEFAULT
    _belong("--exact", {"update": update, "recompile": recompile, "parts": typed})
    if baseline is not None:
        _refuse("with --baseline, which compares with stored records", timing, _NOT_PAST)
        _refuse("with --baseline, which measures each cell once", {"budget": budget}, ("budget",))
        past = {name: timing[name] for name in (*_PAST_ONLY, "summary")}
        outputs = Outputs(None, timing["summary"], annotations=False, as_json=as_json)
        outputs.check_writable()
        with judged(outputs):
            code = check_past(baseline, ops, failing=failing, as_json=as_json, **past)
        context.exit(int(code))
    _belong("--baseline FILE", {name: timing[name] for name in _PAST_ONLY})
    budget_s = seconds(budget, "; a file of budgets goes with --exact")
    given = [name for name in _SIDES if timing[name]]
    if timing["calibrate"]:
        _refuse("with --calibrate, which times this code on both sides", timing, (*_SIDES, "accepted"))
        more = {**timing, "fail_on": fail_on}
        _refuse("with --calibrate, which has no verdicts", more, ("junit", "summary", "annotations", "fail_on"))
        context.exit(int(calibrate_cells(ops, timing, budget_s, began, as_json=as_json)))
    if len(given) != 1:
        several = f"{_typed(given[0])} and {_typed(given[1])} are two other sides: give one" if given else "no base"
        raise BadInput(
            f"{several}: check needs --base REVISION, --base-python PATH or --base-kernel OP=MODULE:FUNCTION, or one "
            "of --exact, --calibrate and --baseline FILE."
        )
    outputs = Outputs(timing["junit"], timing["summary"], timing["annotations"], as_json)
    context.exit(int(time_cells(ops, timing, budget_s, began, failing, outputs)))


def _typed(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _belong(to: str, given: dict[str, Any]) -> None:
    """Refuse options whose tier was not asked for.

    Args:
        to: the option that asks for it.

    Raises:
        BadInput: one of them is given.
    """
    for name, value in given.items():
        if value not in (None, False):
            raise BadInput(f"{_typed(name)} belongs to {to}, which is not given: add it, or leave this out.")


def _refuse(why: str, given: dict[str, Any], names: tuple[str, ...]) -> None:
    """Refuse options of the other tier.

    Raises:
        BadInput: one of them is given.
    """
    for name in names:
        if given.get(name) not in (None, False, ()):
            raise BadInput(f"{_typed(name)} {why}: leave one of the two out.")
