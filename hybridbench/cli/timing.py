"""timing: the timing tier of ``hybridbench check``: from its options to a measured check and what is written of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from hybridbench.cli.options import RANGE_HELP
from hybridbench.cli.output import Plain
from hybridbench.cli.placing import needs_gpu
from hybridbench.cli.typed import listed
from hybridbench.errors import BadInput
from hybridbench.gate.accepted import read_accepted
from hybridbench.gate.alone import check_alone
from hybridbench.gate.calibration import load_calibration
from hybridbench.gate.cells import CheckCell, asked, parse_kernels
from hybridbench.gate.exits import Exit, exit_of
from hybridbench.gate.looks import prediction
from hybridbench.gate.sides import Setup, here, of_python, of_revision
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


@dataclass(frozen=True)
class Outputs:
    """What is written of a check: files, workflow commands, or one JSON document."""

    junit: Path | None
    summary: Path | None
    annotations: bool
    as_json: bool


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
    for path in (outputs.junit, outputs.summary):
        _check_writable(path)
    if options["calibration"] is not None:
        load_calibration(options["calibration"])
    if options["accepted"] is not None:
        read_accepted(options["accepted"])
    cells, gpu = chosen(words, options)
    device = cells[0].device
    _announce(cells, budget_s)
    with terminable(), _base(options) as base, shown() as said, started(base, here(), device, gpu) as pairs:
        found = check(
            cells,
            pairs,
            calibration=options["calibration"],
            accepted=options["accepted"],
            budget_s=left(budget_s, began),
            self_test=lambda: self_tested(device, gpu),
            said=said,
        )
    code = exit_of(found.verdicts, failing)
    _show(found, code, outputs)
    return code


def calibrate_cells(
    words: Sequence[str], options: Mapping[str, Any], budget_s: float | None, began: float, *, as_json: bool
) -> None:
    """Time this code on both sides and write the calibration; raises as ``time_cells`` does."""
    path = CALIBRATION if options["calibration"] is None else options["calibration"]
    cells, gpu = chosen(words, options)
    device = cells[0].device
    _announce(cells, budget_s)
    with terminable(), shown() as said, started(here("base"), here(), device, gpu, alike=True) as pairs:
        budget_s = left(budget_s, began)
        found = calibrated(cells, pairs, path, budget_s=budget_s, self_test=lambda: self_tested(device, gpu), said=said)
    if as_json:
        click.echo(json.dumps({"file": str(path), "cells": {name: asdict(one) for name, one in found.cells.items()}}))
        return
    from hybridbench.gate.report import calibration_table
    from hybridbench.report.render.terminal import print_table

    console = Plain()
    print_table(calibration_table(found), console)
    console.print(f"written: {path}", soft_wrap=True)


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


def _announce(cells: Sequence[CheckCell], budget_s: float | None) -> None:
    """Say how long it takes."""
    Plain(stderr=True, soft_wrap=True).print(prediction(cells, budget_s))


@contextmanager
def _base(options: Mapping[str, Any]) -> Iterator[Setup]:
    if options["base"] is not None:
        with of_revision(options["base"], own_kernels=bool(options["kernel"])) as base:
            yield base
        return
    yield of_python(options["base_python"]) if options["base_python"] is not None else here("base")


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


def _check_writable(path: Path | None) -> None:
    """Check, before anything is timed, that a file can be written.

    Raises:
        BadInput: it cannot.
    """
    if path is None:
        return
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as exc:
        raise BadInput(f"{path} cannot be written ({exc.strerror}): give a path in a folder that can.") from exc


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

    if outputs.junit is not None:
        outputs.junit.write_text(junit(found.verdicts), encoding="utf-8")
    if outputs.summary is not None:
        with outputs.summary.open("a", encoding="utf-8") as file:
            file.write(step_summary(found.verdicts, found.remarks, found.why))
    if outputs.annotations:
        for line in github_annotations(found.verdicts):
            click.echo(line, err=outputs.as_json)
    if outputs.as_json:
        click.echo(document(found.verdicts, code, found.more()))
        return
    console = Plain()
    table = verdict_table(found.verdicts)
    for remark in found.remarks:
        table.remark(remark)
    print_table(table, console)
    if found.why:
        print_table(why_table(found.why), console)
    console.print(headline(found.verdicts), soft_wrap=True)
