"""crossing: ``hybridbench crossover``: from which context on one model has less than another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybridbench import units
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.stored import Dtypes, StorageOptions
from hybridbench.cli.measuring import execution_of, measure_with, told
from hybridbench.cli.options import RESULTS, config_option, dtype_options, out_options, refuse_idle
from hybridbench.cli.output import Plain
from hybridbench.cli.predicting import configured, file_notes
from hybridbench.cli.typed import Command
from hybridbench.errors import BadInput
from hybridbench.machine import check_gpu, device_of, find_gpu, visible_gpus
from hybridbench.suite.case import Execution
from hybridbench.suite.sweep import check_seconds

if TYPE_CHECKING:
    from hybridbench.predict.crossover import Search, Stretch


@click.command(cls=Command)
@click.argument("models", nargs=-1, metavar="A B")
@config_option
@click.option("--metric", default="cache", show_default=True, help="cache, decode-floor, decode-flops, flops (of "
              "training) or prefill-flops.")  # fmt: skip
@click.option("--scale", default="1b", show_default=True, help="Scale of a model whose name has none.")
@click.option("--batch", default=1, show_default=True, type=int, help="Sequences, for decode-floor and --measure.")
@click.option("--gpu", default="h200", show_default=True, help="GPU whose floor decode-floor computes.")
@dtype_options
@click.option("--max-ctx", default="16m", show_default=True, help="The longest context to solve for.")
@click.option("--measure", is_flag=True, help="Search for the crossing of measured steps too.")
@click.option("--ctx", default="1k..128k", show_default=True, help="Where --measure searches: lowest..highest.")
@click.option("--device", help="cpu or cuda, for --measure.  [cuda where there is a GPU]")
@click.option("--max-time", "max_time_s", type=float, default=2.0, show_default=True, help="Seconds of samples a step.")
@click.option("--trials", type=int, default=12, show_default=True, help="Contexts measured at most.")
@out_options
def crossover(
    *,
    models: tuple[str, ...],
    configs: tuple[Path, ...],
    metric: str,
    scale: str,
    batch: int,
    gpu: str,
    asked: StorageOptions,
    max_ctx: str,
    measure: bool,
    ctx: str,
    device: str | None,
    max_time_s: float,
    trials: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Solve for the contexts at which A overtakes B, exactly, from formulas.

    A and B are families, with a scale, a ratio or a recipe behind slashes (inter/1:3, intra/350m/hymba), published
    models, or layer strings such as M-M-*-. A --config stands for one of them and comes after those named.

    With --measure, steps of the metric's workload are timed at both ends of --ctx and in between, until the interval of
    the crossing is as narrow as the noise allows.
    """
    from hybridbench.predict.crossover import LAST_CONTEXT, lines, stretches
    from hybridbench.predict.match import named_spec
    from hybridbench.report.columns import dtype_words

    if not measure:
        refuse_idle("--measure", "ctx", "device", "max_time_s", "trials", "out")
    if batch < 1:
        raise BadInput(f"batch {batch}: give 1 sequence or more.")
    if metric != "decode-floor":
        refuse_idle("--metric decode-floor", "gpu", *([] if measure else ["batch"]))
    last = units.parse_count(max_ctx, "--max-ctx")
    if last > 64 * LAST_CONTEXT:
        raise BadInput(f"--max-ctx '{max_ctx}' is more than 1g: give less.")
    pair = _pair([*(named_spec(name, scale) for name in models), *configured(configs)])
    peak = find_gpu(gpu)
    dtypes = [asked.dtypes(spec.stored) for spec in pair]
    made = [
        lines(spec, metric, batch=batch, storage=one.storage, gpu=peak, dtype=one.weights, last=last)
        for spec, one in zip(pair, dtypes, strict=True)
    ]
    found = stretches(made[0], made[1], last)
    about = {
        "cache": f"one sequence; {dtype_words(pair, dtypes)}",
        "decode-floor": f"batch {batch}, {peak.name}; {dtype_words(pair, dtypes)}",
    }.get(metric, "one sequence, convention exact")
    search, on = None, ""
    if measure:
        try:
            search, on = _search(pair, metric, batch, dtypes, ctx, device, max_time_s, trials, out)
        except KeyboardInterrupt:
            if not as_json:
                _show(pair, metric, about, found)
            raise
    if as_json:
        click.echo(json.dumps(_crossover_document(pair, metric, dtypes, found, search)))
        return
    _show(pair, metric, about, found, search, on)


def _pair(specs: Sequence[ModelSpec]) -> tuple[ModelSpec, ModelSpec]:
    """The two models to compare.

    Raises:
        BadInput: there are more or fewer.
    """
    if len(specs) != 2:
        named = f"{len(specs)} {'is' if len(specs) == 1 else 'are'} named"
        raise BadInput(f"crossover compares two models, and {named}: give A and B, or --config for one.")
    return specs[0], specs[1]


def _show(
    pair: tuple[ModelSpec, ModelSpec],
    metric: str,
    about: str,
    found: Sequence[Stretch],
    search: Search | None = None,
    on: str = "",
) -> None:
    """Print the crossings, what the models' files leave out, and every step that a search measured."""
    from hybridbench.report.plans import crossover_table, search_table
    from hybridbench.report.render.terminal import print_table

    console = Plain()
    table = crossover_table(pair, metric, about, found, search)
    for sentence in file_notes(pair):
        table.remark(sentence)
    print_table(table, console)
    if search is not None:
        print_table(search_table(pair, search, on), console)


def _crossover_document(
    pair: tuple[ModelSpec, ModelSpec],
    metric: str,
    dtypes: Sequence[Dtypes],
    found: Sequence[Stretch],
    search: Search | None,
) -> dict[str, Any]:
    """The crossings as one JSON document, which calls the models a and b."""
    from hybridbench.report.plans import crossover_sentence, pair_names

    def named(model: int | None) -> str | None:
        return None if model is None else "ab"[model]

    body: dict[str, Any] = {
        "metric": metric,
        "models": [spec.to_dict() for spec in pair],
        "dtypes": [one.to_dict() for one in dtypes],
        **({"notes": notes} if (notes := file_notes(pair)) else {}),
        "stretches": [{"first": one.first, "last": one.last, "less": named(one.less)} for one in found],
        "sentence": crossover_sentence(pair_names(pair), found),
    }
    if search is not None:
        body["measured"] = {
            "interval": search.interval,
            "seen": [
                {
                    "context": seen.context,
                    "a_step_s": seen.intervals[0],
                    "b_step_s": seen.intervals[1],
                    "faster": named(seen.less),
                }
                for seen in search.seen
            ],
        }
    return body


def _execution(pair: tuple[ModelSpec, ModelSpec], dtypes: Sequence[Dtypes], device: str, kind: str) -> Execution:
    """How both models' steps are run.

    Raises:
        BadInput: no kernel here runs their dtypes, or the models have different ones.
    """
    from hybridbench.report.columns import dtype_words

    first, second = (execution_of(device, one, kind) for one in dtypes)
    if first != second:
        raise BadInput(f"--measure times both models in the same dtypes, not {dtype_words(pair, dtypes)}: "
                       f"give --dtype, and --state-dtype where states differ.")  # fmt: skip
    return first


def _search(
    pair: tuple[ModelSpec, ModelSpec],
    metric: str,
    batch: int,
    dtypes: Sequence[Dtypes],
    ctx: str,
    device: str | None,
    max_time_s: float,
    trials: int,
    out: Path | None,
) -> tuple[Search, str]:
    """The measured crossing, and a description of the machine and the work it was measured with.

    Raises:
        BadInput: options that leave nothing to search, or a device that this machine lacks.
    """
    from hybridbench.predict.crossover import WORKLOAD_OF
    from hybridbench.searches import measure_crossing
    from hybridbench.store import RecordWriter

    if metric not in WORKLOAD_OF:
        raise BadInput("--measure with --metric cache: cache bytes are exact, and every record checks them; "
                       "measure a step with --metric decode-floor, flops or prefill-flops.")  # fmt: skip
    ends = units.parse_range(ctx, "context")
    if len(ends) < 2:
        raise BadInput(f"--ctx '{ctx}' is one context: give where to search as lowest..highest, such as 1k..128k.")
    if trials < 2:
        raise BadInput(f"--trials {trials}: both ends are measured, so give 2 or more.")
    check_seconds(max_time_s, "--max-time", "to sample")
    gpus = visible_gpus()
    device = device_of(device, bool(gpus))
    check_gpu(device, gpus)
    kind = WORKLOAD_OF[metric]
    execution = _execution(pair, dtypes, device, kind)
    with RecordWriter(out or RESULTS / f"crossover-{datetime.now():%Y%m%d-%H%M%S}") as writer:
        found = measure_crossing(
            pair,
            kind,
            execution,
            measure_with(writer, gpus if device == "cuda" else ()),
            batch=batch,
            first=min(ends),
            last=max(ends),
            max_time_s=max_time_s,
            trials=trials,
            tell=told(),
        )
    return found.search, f"{found.device}, {kind}, batch {batch}, {execution.dtype}, {execution.mode}"
