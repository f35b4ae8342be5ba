"""timing: the timing tier of ``hybridbench check``: from its options to a measured check and what is written of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hybridbench.cli.options import RANGE_HELP
from hybridbench.cli.output import Plain
from hybridbench.cli.placing import needs_gpu
from hybridbench.cli.told import Outputs, check_writable, judged
from hybridbench.cli.typed import listed
from hybridbench.errors import BadInput
from hybridbench.gate.accepted import read_accepted
from hybridbench.gate.alone import check_alone
from hybridbench.gate.calibration import LEAST_PAIRS, load_calibration
from hybridbench.gate.cells import CheckCell, asked, parse_kernels
from hybridbench.gate.exits import Exit
from hybridbench.gate.looks import prediction
from hybridbench.gate.paired import BASE, HEAD
from hybridbench.gate.sides import Setup, as_it_is, here, of_python, of_revision
from hybridbench.gate.timed import Checked, Say, calibrated, check, self_tested, started
from hybridbench.machine import visible_gpus
from hybridbench.processes import terminable

CALIBRATION = Path("results/local/calibration.json")
_ASK = ("problem", "scale", "ctx", "batch", "direction", "dtype", "device")


def cell_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is timed, for every command that times cells."""
    for option in reversed(_CELLS):
        command = option(command)
    return command


_CELLS: tuple[Callable[..., Any], ...] = (
    click.option("--kernel", multiple=True, metavar="OP=MODULE:FUNCTION", help="Your own function for an operation."),
    listed("--problem", help="Sizes instead of a model's, such as head_dim=64,n_heads=32,n_kv_heads=8."),
    listed("--arch", help="Families whose operations are timed."),
    listed("--scale", help="Scales of the families.  [1b on a GPU, tiny on a CPU]"),
    listed("--ctx", help=f"Context lengths: {RANGE_HELP}."),
    listed("--batch", help="Batch sizes, in the same range syntax."),
    click.option("--direction", help="forward, backward (a forward with its backward), or both with a comma."),
    click.option("--dtype", help="Of activations.  [bfloat16 on a GPU, float32 on a CPU]"),
    click.option("--device", help="cpu or cuda.  [cuda where there is a GPU]"),
)


def time_cells(
    words: Sequence[str],
    options: Mapping[str, Any],
    budget_s: float | None,
    began: float,
    failing: tuple[Exit, ...],
    outputs: Outputs,
) -> Exit:
    """Time both sides, show the verdicts and return the exit code.

    Args:
        words: operations or suites.
        options: of the command, by name.
        budget_s: wall time from ``began`` on; seconds.
        failing: the outcomes that fail.

    Raises:
        BadInput, NotComparable: options that do not go together, a side that does not start, a device that is in use.
    """
    outputs.check_writable()
    with terminable(), judged(outputs):
        if options["calibration"] is not None:
            load_calibration(options["calibration"])
        if options["accepted"] is not None:
            read_accepted(options["accepted"])
        cells, gpu = chosen(words, options)
        device, head = cells[0].device, as_it_is(here(), bool(options["kernel"]))
        _announce(cells, budget_s)
        with _base(options) as base, shown() as said, started(base, head, device, gpu) as pairs:
            found = check(
                cells,
                pairs,
                calibration=options["calibration"],
                accepted=options["accepted"],
                budget_s=left(budget_s, began),
                self_test=lambda: self_tested(device, gpu),
                revisions={BASE: base.revision, HEAD: head.revision},
                said=said,
            )
    code = found.code(failing)
    _show(found, code, outputs)
    return code


def calibrate_cells(
    words: Sequence[str], options: Mapping[str, Any], budget_s: float | None, began: float, *, as_json: bool
) -> Exit:
    """Time this code on both sides, write the calibration and return the exit code: 4 where a cell is not in it.

    Raises:
        BadInput, NotComparable: as ``time_cells``; the file cannot be written, or no cell can be calibrated.
    """
    path = CALIBRATION if options["calibration"] is None else options["calibration"]
    cells, gpu = chosen(words, options)
    device = cells[0].device
    check_writable(path, make_folder=True)
    _announce(cells, budget_s, LEAST_PAIRS)
    with terminable(), shown() as said, started(here("base"), here(), device, gpu, alike=True) as pairs:
        budget_s = left(budget_s, began)
        found = calibrated(cells, pairs, path, budget_s=budget_s, self_test=lambda: self_tested(device, gpu), said=said)
    code = Exit.NOT_COMPARABLE if found.left_out else Exit.PASS
    if as_json:
        written = {name: asdict(one) for name, one in found.calibration.cells.items()}
        body = {"file": str(path), "cells": written, "left_out": dict(found.left_out), "remarks": found.remarks}
        click.echo(json.dumps({"exit_code": int(code), **body}))
        return code
    from hybridbench.gate.report import calibration_table
    from hybridbench.report.render.terminal import print_table

    console = Plain()
    table = calibration_table(found.calibration)
    for remark in (*found.remarks, *found.left_out.values()):
        table.remark(remark)
    print_table(table, console)
    count = len(found.left_out)
    missing = f", without {'1 cell' if count == 1 else f'{count} cells'} that cannot be calibrated" if count else ""
    console.print(f"written{missing}: {path}", soft_wrap=True)
    return code


def seconds(text: str | None, more: str = "") -> float | None:
    """``--budget`` in seconds; None where it is left out.

    Args:
        more: the end of the sentence that refuses another text.

    Raises:
        BadInput: it is no time.
    """
    if text is None:
        return None
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise BadInput(f"--budget '{text}': give seconds above 0, such as 300{more}.")
    return found


def left(budget_s: float | None, began: float) -> float | None:
    """What is left of a budget that began at a time of ``time.monotonic``; seconds."""
    return None if budget_s is None else max(0.0, budget_s - (time.monotonic() - began))


def chosen(words: Sequence[str], options: Mapping[str, Any]) -> tuple[list[CheckCell], str | None]:
    """The cells that a person names, and the GPU that they run on; None on a CPU.

    Raises:
        BadInput, NotComparable: options that do not go together, no such device, or one that is in use.
    """
    gpus = visible_gpus()
    ask = {name: options[name] for name in _ASK}
    if options["arch"] is not None:
        ask["arch"] = options["arch"]
    kernels = parse_kernels("--kernel", options["kernel"])
    base_kernels = parse_kernels("--base-kernel", options.get("base_kernel", ()))
    cells = asked(words, has_gpu=bool(gpus), kernels=kernels, base_kernels=base_kernels, **ask)
    devices = {cell.device for cell in cells}
    if len(devices) > 1:
        raise BadInput("cells of a CPU and of a GPU in one check: give --device, or a suite for each.")
    needs_gpu(cells, gpus, next((word for word in words if word.endswith(".toml")), None))
    gpu = gpus[0] if "cuda" in devices else None
    if gpu is not None:
        check_alone(gpu)
    return cells, gpu


def _announce(cells: Sequence[CheckCell], budget_s: float | None, least_pairs: int = 0) -> None:
    """Say how long it takes."""
    Plain(stderr=True, soft_wrap=True).print(prediction(cells, budget_s, least_pairs))


@contextmanager
def _base(options: Mapping[str, Any]) -> Iterator[Setup]:
    if options["base"] is not None:
        with of_revision(options["base"], own_kernels=bool(options["kernel"])) as base:
            yield base
        return
    if options["base_python"] is not None:
        yield of_python(options["base_python"])
        return
    yield as_it_is(here("base"), own_kernels=bool(options["kernel"]))


@contextmanager
def shown() -> Iterator[Say]:
    """Shows what is measured now: in one line of a terminal, or a line for each pair."""
    console = Plain(stderr=True, soft_wrap=True)
    if console.is_terminal:
        with console.status("starting both sides") as status:
            yield status.update
        return
    last = ""

    def line(text: str) -> None:
        nonlocal last
        pair = text.partition(":")[0]
        if pair != last:
            console.print(pair)
        last = pair

    yield line


def _show(found: Checked, code: Exit, outputs: Outputs) -> None:
    from hybridbench.gate.report import (
        document,
        github_annotations,
        headline,
        junit,
        step_summary,
        verdict_table,
        why_table,
    )
    from hybridbench.report.render.terminal import print_table

    outputs.write(junit(found.verdicts, found.revisions), step_summary(found.verdicts, found.remarks, found.why))
    if outputs.annotations:
        for line in github_annotations(found.verdicts):
            click.echo(line, err=outputs.as_json)
    if outputs.as_json:
        click.echo(document(found.verdicts, code, found.outcome, found.more()))
        return
    console = Plain()
    table = verdict_table(found.verdicts)
    for remark in found.remarks:
        table.remark(remark)
    print_table(table, console)
    if found.why:
        print_table(why_table(found.why), console)
    console.print(headline(found.verdicts), soft_wrap=True)
