"""frontier: ``hybridbench pareto``: the quality of stacks beside what they were measured to cost."""

from __future__ import annotations

from pathlib import Path

import click

from hybridbench import units
from hybridbench.cli.options import GIVEN_PATH, RANGE_HELP, out_options
from hybridbench.cli.output import Plain
from hybridbench.cli.stored import stored_records
from hybridbench.cli.typed import Command, listed
from hybridbench.errors import BadInput

ABOUT = """Join measured costs with quality, and show which stacks no other beats in both. RESULTS are folders or .jsonl
files.

Quality is what arXiv 2510.04800 publishes and what --quality adds: a CSV with the columns arch, scale, ratio, recipe,
mixer, pattern, metric, value, seeds, std, tokens, flops, source. The first six name a stack as records do; all but
scale, metric and value may be left out. A .json file is one that lm-evaluation-harness wrote; its scores are named as
lambada_openai:acc. Figures are compared only within one training budget.

Differences in quality below the noise between seeds are ties: 0.0013 nats unless std says otherwise.
"""


@click.command(cls=Command, help=ABOUT)
@click.argument("results", nargs=-1, required=True, type=GIVEN_PATH)
@click.option(
    "--quality", multiple=True, type=GIVEN_PATH, metavar="FILE", help="Quality of your own, CSV or JSON; repeatable."
)
@click.option(
    "--metric",
    default="tokens-per-s",
    show_default=True,
    help="The cost: tokens-per-s, step, cache, energy or peak-memory.",
)
@click.option(
    "--score", help="The quality, such as dclm_nll, pg19_nll, accuracy, loss.  [the first of --quality, or dclm_nll]"
)
@click.option("--matched", default="flops", show_default=True, help="What budgets have in common: flops or tokens.")
@listed("--ctx", help=f"Contexts only: {RANGE_HELP}.")
@listed("--workload", help="Workloads only, with commas.")
@out_options
def pareto(
    *,
    results: tuple[Path, ...],
    quality: tuple[Path, ...],
    metric: str,
    score: str | None,
    matched: str,
    ctx: str | None,
    workload: str | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Show the frontier of quality and cost."""
    from hybridbench.pareto.harness_results import read_harness
    from hybridbench.pareto.join import ParetoOptions, fronts
    from hybridbench.pareto.quality import SCORES, paper_figures, read_quality
    from hybridbench.pareto.render import document, print_fronts, write_fronts
    from hybridbench.report.render.page import own_page

    for path in results:
        if path.suffix in (".json", ".csv"):
            raise BadInput(
                f"{path} is no folder or .jsonl file of results: if it has figures of quality, write --quality before "
                "it, and before each other one (a shell writes the files of a * one after the other, without it)."
            )
    if out is not None:
        own_page(out, "pareto.md")
    files = list(dict.fromkeys(quality))
    own = [figure for path in files if path.suffix != ".json" for figure in read_quality(path)]
    own += read_harness([path for path in files if path.suffix == ".json"])
    scores = list(dict.fromkeys(figure.score.name for figure in own))
    asked = ParetoOptions(
        metric,
        score or ("dclm_nll" if not scores or "dclm_nll" in scores else scores[0]),
        matched,
        None if ctx is None else units.parse_range(ctx, "context"),
        None if workload is None else tuple(part.strip() for part in workload.split(",")),
        SCORES | {figure.score.name: figure.score for figure in own},
    )
    found = fronts(stored_records(results), [*paper_figures(), *own], asked)
    page = write_fronts(found, asked, out) if out is not None else None
    if as_json:
        click.echo(document(found, asked))
        return
    console = Plain()
    print_fronts(found, asked, console)
    if page:
        console.print(f"Frontier: {page}", soft_wrap=True)
