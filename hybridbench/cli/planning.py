"""planning: predictions for any GPU: ``hybridbench price``, ``fit``, ``crossover`` and ``cache``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybridbench import units
from hybridbench.arch.block import DTYPE_BYTES, Storage
from hybridbench.arch.model import ModelSpec
from hybridbench.cli.options import (
    GIVEN_PATH,
    RESULTS,
    given_options,
    match_options,
    matching,
    model_options,
    out_options,
    refuse_idle,
)
from hybridbench.cli.output import Plain
from hybridbench.cli.predicting import chosen_specs, file_notes
from hybridbench.cli.typed import Command, listed
from hybridbench.errors import BadInput, unknown_name
from hybridbench.machine import PEAKS, Peak, find_gpu, find_gpus, find_peak, visible_gpus
from hybridbench.suite.case import CHECKPOINTS, DEVICES, Execution
from hybridbench.suite.sweep import check_checkpoint, check_seconds, default_mode
from hybridbench.suite.workloads import DECODE, Workload, one_pass, workload_row

if TYPE_CHECKING:
    from hybridbench.predict.crossover import Search, Stretch
    from hybridbench.searches import Measure
    from hybridbench.store import RecordWriter

_gpu_help = f"{', '.join(peak.aliases[0] for peak in PEAKS)}; lists too, or all."
_workload = click.option("--workload", default=DECODE, show_default=True, help=f"{', '.join(one_pass())}.")
_dtype = click.option(
    "--dtype", default="bfloat16", show_default=True, help="Dtype of weights, activations and caches."
)
_state_dtype = click.option("--state-dtype", help="Dtype of the SSM state.  [as --dtype]")


def _check_names(workload: str | None, *dtypes: str | None) -> None:
    if workload is not None and workload not in one_pass():
        raise unknown_name("workload", workload, one_pass())
    for name in dtypes:
        if name is not None and name not in DTYPE_BYTES:
            raise unknown_name("dtype", name, DTYPE_BYTES)


@click.command(cls=Command, short_help="What a workload would take on any GPU.")
@model_options()
@given_options
@_workload
@listed("--gpu", default="h200", show_default=True, help=_gpu_help)
@click.option(
    "--efficiency", "records", multiple=True, type=GIVEN_PATH, metavar="PATH",
    help="Records of a GPU; predict with the share of the floor that it reached; repeatable.",
)  # fmt: skip
@_dtype
@_state_dtype
@match_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")
def price(
    *,
    arch: str,
    scale: str | None,
    ctx: str | None,
    batch: str | None,
    models: str | None,
    configs: tuple[Path, ...],
    workload: str,
    gpu: str,
    records: tuple[Path, ...],
    dtype: str,
    state_dtype: str | None,
    match: str | None,
    to: str | None,
    by: str,
    tolerance: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Predict a workload's step time, throughput and energy on GPUs that nobody has to own.

    The floor is a lower bound from the data sheet: no step can be faster. With --efficiency, the share of the floor
    that a measured GPU reached, in the same phase and family, turns it into a prediction of the step itself.
    """
    from hybridbench.efficiency import efficiency_of
    from hybridbench.predict.pricing import price as price_of
    from hybridbench.report.plans import price_row, price_table
    from hybridbench.report.render.terminal import print_table

    _check_names(workload, dtype, state_dtype)
    gpus = find_gpus(gpu)
    contexts = units.parse_range("8k" if ctx is None else ctx, "context")
    batches = units.parse_range("4" if batch is None else batch, "batch")
    specs = chosen_specs(models, configs, arch=arch, scale=scale, **options)
    storage = Storage.of(dtype, state_dtype)
    specs, notes = matching(specs, match, to, by, tolerance, scale, contexts, batches, storage)
    units.check_rows(specs, contexts, batches, gpus)
    known = _records(records)
    prices = []
    for spec in specs:
        for count in batches:
            for context in contexts:
                work = Workload(workload, context, count)
                share = efficiency_of(known, spec, work, dtype) if records else None
                prices += [price_of(spec, work, one, dtype, state_dtype, share) for one in gpus]
    if as_json:
        click.echo(json.dumps({"rows": [price_row(one) for one in prices], "matches": notes}))
        return
    table = price_table(prices, bool(records))
    for sentence in [*notes, *file_notes(specs)]:
        table.remark(sentence)
    print_table(table, Plain())


def _records(paths: tuple[Path, ...]) -> list[Any]:
    if not paths:
        return []
    from hybridbench.store import load, newest

    console = Plain(stderr=True, soft_wrap=True)
    return newest(load(list(paths), lambda text: console.print(text)))


@click.command(cls=Command, short_help="The largest batch or context that fits a GPU.")
@model_options()
@given_options
@_workload
@listed("--gpu", help=f"{_gpu_help}  [h200; with --verify the one that is here]")
@click.option(
    "--checkpoint",
    default="none",
    show_default=True,
    help=f"Activations a training step keeps: {', '.join(CHECKPOINTS)}.",
)
@_dtype
@_state_dtype
@match_options
@click.option("--verify", is_flag=True, help="Find the true boundary on the GPU here, by bisection, and show both.")
@click.option("--limit", "limit_s", type=float, default=600.0, show_default=True, help="Seconds a trial may take.")
@out_options
def fit(
    *,
    arch: str,
    scale: str | None,
    ctx: str | None,
    batch: str | None,
    models: str | None,
    configs: tuple[Path, ...],
    workload: str,
    gpu: str | None,
    checkpoint: str,
    dtype: str,
    state_dtype: str | None,
    match: str | None,
    to: str | None,
    by: str,
    tolerance: float,
    verify: bool,
    limit_s: float,
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Solve for the largest batch at --ctx, or the largest context at --batch; with both, say whether they fit.

    Nothing is run unless --verify is given, and no GPU is needed.
    """
    from hybridbench.predict.fit import largest_fit
    from hybridbench.report.plans import fit_row, fit_table
    from hybridbench.report.render.terminal import print_table
    from hybridbench.searches import Stopped, Verified, verify_fit
    from hybridbench.store import RecordWriter

    _check_names(workload, dtype, state_dtype)
    check_checkpoint(checkpoint, workload_row(workload), "--checkpoint")
    if not verify:
        refuse_idle("--verify", "out", "limit_s")
    check_seconds(limit_s, "--limit", "to run a trial")
    if verify and ctx is not None and batch is not None:
        raise BadInput("--verify with both --ctx and --batch leaves nothing to find: give one of them.")
    contexts = None if ctx is None else units.parse_range(ctx, "context")
    batches = None if batch is None else units.parse_range(batch, "batch")
    if contexts is None and batches is None:
        contexts = units.parse_range("8k", "context")
    here = visible_gpus() if verify else []
    gpus = _fit_gpus(gpu, verify, here)
    specs = chosen_specs(models, configs, arch=arch, scale=scale, **options)
    storage = Storage.of(dtype, state_dtype)
    specs, notes = matching(specs, match, to, by, tolerance, scale, contexts or (8192,), batches or (1,), storage)
    units.check_rows(specs, gpus, contexts or (None,), batches or (None,))
    fits = [
        largest_fit(spec, one, workload, storage, context=context, batch=count, checkpoint=checkpoint)
        for spec in specs
        for one in gpus
        for count in batches or (None,)
        for context in contexts or (None,)
    ]
    found: list[Verified | None] = [None] * len(fits)
    stopped: KeyboardInterrupt | None = None
    if verify:
        execution = _execution("cuda", dtype, state_dtype, workload, checkpoint)
        with RecordWriter(out or RESULTS / f"fit-{datetime.now():%Y%m%d-%H%M%S}") as writer:
            try:
                for place, one in enumerate(fits):
                    found[place] = verify_fit(one, execution, _measure(writer, here), limit_s=limit_s, tell=_told())
            except Stopped as exc:
                found[place], stopped = exc.found, exc
    if as_json:
        rows = [fit_row(one, seen) for one, seen in zip(fits, found, strict=True)]
        click.echo(json.dumps({"rows": rows, "matches": notes}))
    else:
        table = fit_table(fits, found)
        for sentence in [*notes, *file_notes(specs)]:
            table.remark(sentence)
        print_table(table, Plain())
    if stopped:
        raise stopped


def _fit_gpus(gpu: str | None, verify: bool, here: Sequence[str]) -> list[Peak]:
    if not verify:
        return find_gpus("h200" if gpu is None else gpu)
    if not here:
        raise BadInput("--verify: this machine shows no NVIDIA GPU; leave it out, or see hybridbench doctor.")
    name = _device_name()
    peak = find_peak(name)
    if peak is None:
        raise BadInput(f"--verify: {name} is not in the table of GPUs, so there is no prediction to start from.")
    if gpu is not None and find_gpu(gpu) != peak:
        raise BadInput(f"--gpu {gpu} with --verify: the GPU here is {peak.name}; leave --gpu out.")
    return [peak]


def _device_name() -> str:
    import torch

    return torch.cuda.get_device_name(0)


def _execution(device: str, dtype: str, state_dtype: str | None, kind: str, checkpoint: str = "none") -> Execution:
    return Execution(device, dtype, default_mode(workload_row(kind), device), state_dtype, checkpoint=checkpoint)


def _measure(writer: RecordWriter, gpus: Sequence[str]) -> Measure:
    """A function that runs cases in worker processes, on the first GPU if there are several."""
    from hybridbench.runner import run_sweep

    return lambda cases: run_sweep(cases, writer, gpus=gpus[:1])


def _told() -> Callable[[str], None]:
    """A function that prints a search's progress on stderr."""
    console = Plain(stderr=True, soft_wrap=True)
    return lambda line: console.print(line)


@click.command(cls=Command, short_help="From which context on one model has less than another.")
@click.argument("a")
@click.argument("b")
@click.option("--metric", default="cache", show_default=True, help="cache, decode-floor, decode-flops, flops (of "
              "training) or prefill-flops.")  # fmt: skip
@click.option("--scale", default="1b", show_default=True, help="Scale of a model whose name has none.")
@click.option("--batch", default=1, show_default=True, type=int, help="Sequences, for decode-floor and --measure.")
@click.option("--gpu", default="h200", show_default=True, help="GPU whose floor decode-floor computes.")
@_dtype
@_state_dtype
@click.option("--max-ctx", default="16m", show_default=True, help="The longest context to solve for.")
@click.option("--measure", is_flag=True, help="Search for the crossing of measured steps too.")
@click.option("--ctx", default="1k..128k", show_default=True, help="Where --measure searches: lowest..highest.")
@click.option("--device", help="cpu or cuda, for --measure.  [cuda where there is a GPU]")
@click.option("--max-time", "max_time_s", type=float, default=2.0, show_default=True, help="Seconds of samples a step.")
@click.option("--trials", type=int, default=12, show_default=True, help="Contexts measured at most.")
@out_options
def crossover(
    *,
    a: str,
    b: str,
    metric: str,
    scale: str,
    batch: int,
    gpu: str,
    dtype: str,
    state_dtype: str | None,
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
    models, or layer strings such as M-M-*-. With --measure, steps of the metric's workload are timed at both ends of
    --ctx and in between, until the interval of the crossing is as narrow as the noise allows.
    """
    from hybridbench.predict.crossover import LAST_CONTEXT, lines, stretches
    from hybridbench.predict.match import named_spec
    from hybridbench.report.plans import crossover_table, search_table
    from hybridbench.report.render.terminal import print_table

    _check_names(None, dtype, state_dtype)
    if not measure:
        refuse_idle("--measure", "ctx", "device", "max_time_s", "trials", "out")
    if batch < 1:
        raise BadInput(f"batch {batch}: give 1 sequence or more.")
    if metric != "decode-floor":
        refuse_idle("--metric decode-floor", "gpu", *([] if measure else ["batch"]))
    last = units.parse_count(max_ctx, "max-ctx")
    if last > 64 * LAST_CONTEXT:
        raise BadInput(f"max-ctx '{max_ctx}' is more than 1g: give less.")
    pair = named_spec(a, scale), named_spec(b, scale)
    peak = find_gpu(gpu)
    storage = Storage.of(dtype, state_dtype)
    made = [lines(spec, metric, batch=batch, storage=storage, gpu=peak, dtype=dtype, last=last) for spec in pair]
    found = stretches(made[0], made[1], last)
    about = {
        "cache": f"one sequence, {dtype}",
        "decode-floor": f"batch {batch}, {dtype}, {peak.name}",
    }.get(metric, "one sequence, convention exact")
    console = Plain()
    search, on = None, ""
    if measure:
        try:
            search, on = _search(pair, metric, batch, dtype, state_dtype, ctx, device, max_time_s, trials, out)
        except KeyboardInterrupt:
            if not as_json:
                print_table(crossover_table(pair, metric, about, found, None), console)
            raise
    if as_json:
        click.echo(json.dumps(_crossover_document(pair, metric, found, search)))
        return
    print_table(crossover_table(pair, metric, about, found, search), console)
    if search is not None:
        print_table(search_table(pair, search, on), console)


def _crossover_document(
    pair: tuple[ModelSpec, ModelSpec], metric: str, found: Sequence[Stretch], search: Search | None
) -> dict[str, Any]:
    """The crossings as one JSON document, which calls the models a and b."""
    from hybridbench.report.plans import crossover_sentence, pair_names

    def named(model: int | None) -> str | None:
        return None if model is None else "ab"[model]

    body: dict[str, Any] = {
        "metric": metric,
        "models": [spec.to_dict() for spec in pair],
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


def _search(
    pair: tuple[ModelSpec, ModelSpec],
    metric: str,
    batch: int,
    dtype: str,
    state_dtype: str | None,
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
        raise BadInput(f"trials {trials}: both ends are measured, so give 2 or more.")
    check_seconds(max_time_s, "max-time", "to sample")
    gpus = visible_gpus()
    device = ("cuda" if gpus else "cpu") if device is None else device
    if device not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    if device == "cuda" and not gpus:
        raise BadInput("device cuda: this machine shows no NVIDIA GPU; use --device cpu, or see hybridbench doctor.")
    kind = WORKLOAD_OF[metric]
    execution = _execution(device, dtype, state_dtype, kind)
    with RecordWriter(out or RESULTS / f"crossover-{datetime.now():%Y%m%d-%H%M%S}") as writer:
        found = measure_crossing(
            pair,
            kind,
            execution,
            _measure(writer, gpus if device == "cuda" else ()),
            batch=batch,
            first=min(ends),
            last=max(ends),
            max_time_s=max_time_s,
            trials=trials,
            tell=_told(),
        )
    return found.search, f"{found.device}, {kind}, batch {batch}, {execution.dtype}, {execution.mode}"


@click.command(cls=Command, short_help="Cache bytes by formula, in tensors, as allocated and in pages.")
@model_options()
@given_options
@listed("--cache-layout", "layouts", default="ours", show_default=True,
        help="ours, paper, mamba_ssm, transformers; lists too, or all.")  # fmt: skip
@click.option("--page-size", type=int, default=16, show_default=True, help="Tokens of an attention page in serving.")
@click.option("--no-align", is_flag=True, help="States in memory of their own, not in pages as large as attention's.")
@_dtype
@_state_dtype
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")
def cache(
    *,
    arch: str,
    scale: str | None,
    ctx: str | None,
    batch: str | None,
    models: str | None,
    configs: tuple[Path, ...],
    layouts: str,
    page_size: int,
    no_align: bool,
    dtype: str,
    state_dtype: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Count the cache of a batch four ways: by formula, in built tensors, as allocated on a GPU, in serving pages.

    The first two must agree to the byte. A page is what a serving engine reserves: attention fills whole pages, and
    a state takes a page as large as attention's, unless --no-align is given.
    """
    from hybridbench.count.caches import built_bytes
    from hybridbench.predict.layouts import LAYOUTS, layout_bytes, paged, storage_of
    from hybridbench.report.plans import CacheLine, cache_row, cache_table
    from hybridbench.report.render.terminal import print_table

    _check_names(None, dtype, state_dtype)
    named = list(LAYOUTS) if layouts == "all" else [part.strip() for part in layouts.split(",")]
    stored = {layout: storage_of(layout, dtype, state_dtype) for layout in named}
    contexts = units.parse_range("8k" if ctx is None else ctx, "context")
    batches = units.parse_range("1" if batch is None else batch, "batch")
    specs = chosen_specs(models, configs, arch=arch, scale=scale, **options)
    units.check_rows(specs, stored, contexts, batches)
    rows = []
    for spec in specs:
        for layout, storage in stored.items():
            for count in batches:
                for context in contexts:
                    tensors, allocated = built_bytes(spec, count, context, layout, dtype, storage)
                    formula = count * layout_bytes(spec, context, layout, storage)
                    pages = paged(spec, context, storage, page_size, not no_align)
                    rows.append(CacheLine(spec, context, count, layout, formula, tensors, allocated, pages))
    if as_json:
        click.echo(json.dumps({"rows": [cache_row(row) for row in rows]}))
        return
    table = cache_table(rows)
    for sentence in file_notes(specs):
        table.remark(sentence)
    print_table(table, Plain())
