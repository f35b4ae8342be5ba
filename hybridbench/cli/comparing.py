"""comparing: ``hybridbench compare``: stored results beside each other, with a verdict for each cell."""

from __future__ import annotations

import math
from pathlib import Path

import click

from hybridbench.cli.options import GIVEN_PATH, RESULTS, out_options
from hybridbench.cli.output import Plain
from hybridbench.cli.stored import damaged, some_were_damaged, warn
from hybridbench.cli.typed import Command, listed
from hybridbench.compare.cell import ASKED
from hybridbench.compare.sides import CROSSINGS
from hybridbench.errors import BadInput, unknown_name

ABOUT = """Compare RESULTS cell by cell: the ratio of medians, its interval, and a verdict. RESULTS are folders or
.jsonl files, the base first; each other one is compared with it.

Of one folder its two newest runs are compared, or with --across the values that its records have; without RESULTS the
two newest runs below results/local.

A cell is slower or faster if its whole interval is; else it is within noise. Conditions must be the same: device,
dtype, mode, backends, software. --across names those that may differ.

Exit code 1: --fail-above fails a cell. 4: not comparable. 6: nothing was compared.
"""


@click.command(cls=Command, help=ABOUT)
@click.argument("results", nargs=-1, type=GIVEN_PATH)
@click.option("--metric", default="step", show_default=True, help=f"What is compared: {', '.join(ASKED)}.")
@listed("--across", help=f"What may differ: {', '.join(CROSSINGS)}; lists too.")
@click.option("--fail-above", help="Exit 1 if a cell is certainly worse by more, such as 5%, or no longer works.")
@click.option(
    "--calibration",
    type=GIVEN_PATH,
    multiple=True,
    help="A file of check --calibrate: its cells' noise between processes; repeatable.",
)
@out_options
def compare(
    *,
    results: tuple[Path, ...],
    metric: str,
    across: str | None,
    fail_above: str | None,
    calibration: tuple[Path, ...],
    as_json: bool,
    out: Path | None,
) -> None:
    """Compare stored results."""
    if metric not in ASKED:
        raise unknown_name("metric", metric, ASKED)
    limit = parse_limit(fail_above)
    names = names_of(across)
    from hybridbench.compare.calibrated import Calibrations
    from hybridbench.compare.judging import compare as compared
    from hybridbench.compare.render import document, print_comparison, write_comparison
    from hybridbench.compare.sides import crossed_fields, load_sides
    from hybridbench.report.render.page import own_page

    if out:
        own_page(out, "compare.md")
    sides = load_sides(results or (RESULTS,), names, ASKED[metric], warn, damaged, Calibrations.read(calibration))
    found = compared(sides, ASKED[metric], names, crossed_fields(names), limit)
    page = write_comparison(found, out) if out else None
    if as_json:
        click.echo(document(found))
    else:
        console = Plain()
        print_comparison(found, console)
        if page:
            console.print(f"Comparison: {page}", soft_wrap=True)
    if found.exit_code or not some_were_damaged(click.get_current_context()):
        click.get_current_context().exit(found.exit_code)


def names_of(across: str | None) -> tuple[str, ...]:
    """``--across``: names with commas between them.

    Raises:
        BadInput: an empty part.
    """
    names = tuple(part.strip() for part in across.split(",")) if across else ()
    if "" in names:
        raise BadInput(f"--across '{across}' has an empty part: known are {', '.join(CROSSINGS)}.")
    return tuple(dict.fromkeys(names))


def parse_limit(text: str | None) -> float | None:
    """A fraction from a percentage, whose percent sign may be left out.

    Raises:
        BadInput: not a number, negative or not finite.
    """
    if text is None:
        return None
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not (math.isfinite(percent) and percent >= 0):
        raise BadInput(f"--fail-above '{text}' is not a percentage from 0 on: write 5%.")
    return percent / 100
