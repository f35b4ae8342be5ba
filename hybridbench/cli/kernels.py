"""kernels: ``hybridbench kernels``: operations timed by themselves, by every backend and by a person's own function."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from hybridbench.cli.measuring import RecordKind, measure_cases
from hybridbench.cli.options import RANGE_HELP, given_options, out_options
from hybridbench.cli.output import Plain
from hybridbench.cli.placing import needs_gpu
from hybridbench.cli.predicting import chosen_specs
from hybridbench.cli.typed import Command, listed
from hybridbench.errors import BadInput, unknown_name
from hybridbench.kernel_suite import file, harness
from hybridbench.kernel_suite.cell import Cell
from hybridbench.kernel_suite.noise import LEAST
from hybridbench.kernel_suite.plan import KernelOptions, cells
from hybridbench.kernel_suite.problems import TIMED
from hybridbench.kernel_suite.record import KernelRecord
from hybridbench.kernel_suite.turns import Turns, in_turns
from hybridbench.machine import device_of, visible_gpus
from hybridbench.record import Status
from hybridbench.suite.models import ALL_ARCHS


@click.command(cls=Command)
@click.argument("ops", nargs=-1, metavar="[OP | SUITE.toml]...")
@click.option("--backend", "backends", multiple=True, metavar="NAME", help="NAME or OP=NAME; repeatable.  [all]")
@click.option("--kernel", metavar="MODULE:FUNCTION", help="Your own function for the one operation named.")
@click.option("--over", metavar="BACKEND", help="Backend that speed-ups are over.  [the reference]")
@listed("--problem", help="Sizes instead of a model's, such as head_dim=64,n_heads=32,n_kv_heads=8.")
@listed("--arch", default=ALL_ARCHS, show_default=True, help="Families whose operations are timed.")
@listed("--scale", help="Scales of the families.  [1b on a GPU, tiny on a CPU]")
@listed("--ratio", help="Attention : SSM blocks.  [1:5]")
@listed("--pattern", help="Layer strings instead of --arch, such as 'M-M-M-*-'.")
@listed("--mixer", help="In Mamba-2's place.")
@given_options
@listed("--ctx", help=f"Context lengths: {RANGE_HELP}.")
@listed("--batch", help="Batch sizes, in the same range syntax.")
@click.option("--direction", help="forward, backward (a forward with its backward), or both with a comma.  [both]")
@click.option("--hot", is_flag=True, help="Leave the cache as the last call left it.")
@click.option("--sustained", is_flag=True, help="No rests where power limits the clocks: figures at those clocks.")
@click.option("--dtype", help="Of activations.  [bfloat16 on a GPU, float32 on a CPU]")
@click.option("--device", help="cpu or cuda.  [cuda where there is a GPU]")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed of the inputs.")
@click.option("--max-time", "max_time_s", type=float, help="Seconds of samples per cell.  [1]")
@click.option("--min-samples", type=int, help="Samples per cell, fewer at --max-time.  [30]")
@click.option(
    "--limit",
    "limit_s",
    type=float,
    help="Seconds a cell's check and its timing may each take.  [300]",
)
@click.option("--processes", type=int, default=1, help="Time all in so many fresh processes; show what differs.  [1]")
@click.option("--pin-tuning", is_flag=True, help="Later processes take the first one's choices of autotuners.")
@click.option("--signature", is_flag=True, help="Print the operation's signature as a def to paste, and stop.")
@click.option("--self-test", "only_test", is_flag=True, help="Time work of a known length, say how far off, and stop.")
@click.option("--resume", is_flag=True, help="Skip cells that -o already holds a record of.")
@click.option("--dry-run", is_flag=True, help="List the cells and stop.")
@out_options
def kernels(
    ops: tuple[str, ...],
    over: str | None,
    signature: bool,
    only_test: bool,
    processes: int,
    pin_tuning: bool,
    resume: bool,
    dry_run: bool,
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Time single operations: every backend of each, checked at the timed size first, beside its floor.

    OP is an operation such as attention, ssd or swiglu; without one, all that the models run. Problems are those of
    models (--arch, --model, --config) or typed (--problem). A SUITE is a TOML file such as suites/kernels.toml.

    Backends of the same work are timed in turns, in short blocks. --processes 8 says by how much medians differ between
    processes of the same code.
    """
    _check_processes(processes, pin_tuning, resume)
    gpus = visible_gpus()
    if signature:
        _print_signatures(ops)
        return
    if only_test:
        _self_test(options["device"], gpus, as_json)
        return
    name, planned = _planned(ops, gpus, options)
    if options["kernel"] is not None:
        from hybridbench.kernel_suite.run import check_kernel

        check_kernel(planned[0].op, options["kernel"])
    if over is not None and over not in (names := list(dict.fromkeys(cell.backend for cell in planned))):
        raise unknown_name("backend to compare with", over, names)
    found = None
    if not dry_run:
        needs_gpu(planned, gpus)
        found = _tested(planned[0].device, gpus, as_json)
    kind = RecordKind(
        KernelRecord,
        "kernels.md",
        _shown,
        partial(_render, over=over, self_test=found),
        partial(_jobs, pin_tuning=pin_tuning),
        processes,
    )
    records = measure_cases(planned, name, gpus, as_json=as_json, out=out, resume=resume, dry_run=dry_run, kind=kind)
    if any(record.case.user_kernel and record.status is not Status.OK for record in records):
        click.get_current_context().exit(1)


def _check_processes(processes: int, pin_tuning: bool, resume: bool) -> None:
    if processes < 1 or processes == 2:
        raise BadInput(f"--processes {processes}: give {LEAST} or more, or leave it out: fewer tell no noise.")
    if processes > 1 and resume:
        raise BadInput("--processes with --resume: all processes belong to one run; leave one of them out.")
    if pin_tuning and processes == 1:
        raise BadInput("--pin-tuning without --processes: there is no later process that takes the choices.")


def _jobs(todo: Sequence[Cell], earlier: Sequence[KernelRecord], *, pin_tuning: bool) -> list[Turns]:
    """The cells as jobs. After a first process those go on that worked in it; they are not checked again."""
    if not earlier:
        return in_turns(todo)
    first: dict[str, KernelRecord] = {}
    for record in earlier:
        first.setdefault(record.case.key, record)
    seen = {key: (one, one.observed) for key, one in first.items() if one.status is Status.OK and one.observed}
    known = {key: replace(observed.agreement, run=one.run_id) for key, (one, observed) in seen.items()}
    pinned = [choice for _, observed in seen.values() for choice in observed.tuning]
    again = [cell for cell in todo if cell.key in known]
    return in_turns(again, known, list(dict.fromkeys(pinned)) if pin_tuning else None)


def _planned(ops: tuple[str, ...], gpus: list[str], options: dict[str, Any]) -> tuple[str, list[Cell]]:
    """The name of what is run, and its cells."""
    suites = [Path(op) for op in ops if op.endswith(".toml")]
    if suites:
        typed = [name for name, value in options.items() if value not in (None, False, (), 0, ALL_ARCHS)]
        if len(ops) > 1 or typed:
            more = f"--{typed[0].replace('_', '-')}" if typed else ops[1]
            raise BadInput(f"{suites[0]} and {more}: a suite says all that is timed; give it alone.")
        name, asks = file.load(suites[0])
        return name, file.cells_of(asks, has_gpu=bool(gpus))
    models, configs = options.pop("models"), options.pop("configs")
    ask = KernelOptions(ops=",".join(ops) or None, **options)
    specs = None
    if models is not None or configs:
        if ask.problem is not None:
            raise BadInput("--problem with a model: the sizes are the one's or the other's; leave one of them out.")
        choice = {"ratio": ask.ratio, "pattern": ask.pattern, "mixer": ask.mixer}
        specs = chosen_specs(models, configs, arch=ask.arch, scale=ask.scale, **choice)
    return "kernels", cells(ask, has_gpu=bool(gpus), specs=specs)


def _print_signatures(ops: tuple[str, ...]) -> None:
    if not ops:
        raise BadInput(f"--signature of which operation? Name one: {', '.join(TIMED)}.")
    for op in ops:
        if op not in TIMED:
            raise unknown_name("operation", op, TIMED)
    from hybridbench.kernel_suite.signature import signature_text

    click.echo("\n\n\n".join(signature_text(op) for op in ops))


def _self_test(device: str | None, gpus: list[str], as_json: bool) -> None:
    found = harness.self_test(device_of(device, bool(gpus)), gpus[0] if gpus else None)
    click.echo(json.dumps({"self_test": found}) if as_json else harness.in_words(found))


def _tested(device: str, gpus: list[str], as_json: bool) -> dict[str, Any]:
    found = harness.self_test(device, gpus[0] if gpus and device == "cuda" else None)
    if not as_json:
        Plain(stderr=True, soft_wrap=True).print(harness.in_words(found))
    return found


def _render(*given: Any, **options: Any) -> None:
    from hybridbench.cli.rendering import render_kernels

    render_kernels(*given, **options)


def _shown() -> Any:
    """How a finished cell is shown while others run."""
    from hybridbench.kernel_suite.figures import floor_frac, median_s
    from hybridbench.report.live import Shown
    from hybridbench.units import format_number, format_seconds

    def row(record: KernelRecord) -> tuple[str, str, str, str]:
        share, verdict = floor_frac(record), record.status.value.replace("_", " ")
        of_floor = "-" if share is None else f"{format_number(100 * share)}%"
        return record.case.label, format_seconds(median_s(record)), of_floor, verdict

    return Shown(("median", "of floor"), row, "{}, {} of its floor")
