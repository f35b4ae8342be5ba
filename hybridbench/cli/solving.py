"""solving: ``hybridbench solve``: stacks trained on synthetic tasks, beside what was published of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybridbench.arch.families import MIXED
from hybridbench.cli.measuring import RecordKind, measure_cases
from hybridbench.cli.options import out_options, parse_backends
from hybridbench.cli.output import Plain
from hybridbench.cli.predicting import chosen_specs
from hybridbench.cli.typed import Command, listed
from hybridbench.machine import visible_gpus
from hybridbench.suite.models import ALL_ARCHS
from hybridbench.text import counted

if TYPE_CHECKING:
    from hybridbench.arch.model import ModelSpec
    from hybridbench.quality.tasks.record import TaskRecord
    from hybridbench.quality.tasks.task import Setting

SEEDS, EVALUATIONS = 3, 16


@click.command(cls=Command)
@listed("--task", "tasks", default="mqar,parity", show_default=True, help="mqar, parity, s5, mad-..., mad or all.")
@listed("--arch", default=ALL_ARCHS, show_default=True, help="Families, with commas between them.")
@listed("--scale", help="Scales.  [2x64 or 2x128: two blocks of the task's width]")
@listed("--ratio", help="Attention : SSM blocks, with commas.  [1:1, 1:5 with --scale]")
@listed("--positions", help="1-based places of attention or hybrid blocks; instead of --ratio.")
@listed("--pattern", help="Layer strings instead of --arch, with commas, such as 'M-*-'.")
@listed("--mixer", help="In Mamba-2's place, with commas.")
@listed("--recipe", help="Fusion of intra blocks, with commas.")
@click.option("--size", help="full (as published) or toy (minutes on a CPU).  [full on a GPU, else toy]")
@click.option("--epochs", type=int, help="Over the training examples.  [as published]")
@click.option("--batch", type=int, help="Sequences of a step.  [as published]")
@click.option("--lr", help="Learning rates, with commas: each model is shown at its best.  [the task's]")
@click.option("--seeds", type=int, default=SEEDS, show_default=True, help="Runs of each model, from seed 0 on.")
@click.option("--evals", "evaluations", type=int, default=EVALUATIONS, show_default=True, help="Judgements in a run.")
@click.option("--device", help="cpu or cuda.  [cuda where there is a GPU]")
@click.option("--dtype", help="Dtype of weights and activations; masters are float32.  [bfloat16, float32 on a CPU]")
@click.option("--mode", help="graph (a CUDA graph) or eager.  [graph, eager with experts; eager on a CPU]")
@click.option("--backend", "backend", multiple=True, metavar="OP=NAME", help="Kernel for an operation; repeatable.")
@click.option("--limit", "limit_s", type=float, default=3600.0, show_default=True, help="Seconds a run may take.")
@click.option("--resume", is_flag=True, help="Skip runs that -o already holds a record of.")
@click.option("--dry-run", is_flag=True, help="List the runs and stop.")
@out_options
def solve(
    *,
    tasks: str,
    backend: tuple[str, ...],
    as_json: bool,
    out: Path | None,
    resume: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Train each model on synthetic tasks, and show which it solves, at the sizes it learned and beyond them.

    mqar is multi-query recall, mad the six tasks of mechanistic architecture design, parity and s5 need a state that
    is followed step by step. What was published of a kind of stack stands beside ours.
    """
    from hybridbench.quality.tasks.plan import TaskOptions, planned
    from hybridbench.quality.tasks.task import named
    from hybridbench.suite.ops import check_backends_used

    gpus = visible_gpus()
    names = ("arch", "scale", "ratio", "positions", "pattern", "mixer", "recipe")
    chosen = {name: value for name in names if (value := options.pop(name)) is not None}
    ask = TaskOptions(**options, backends=parse_backends(backend))
    cases = planned(named(tasks), lambda setting: _models(setting, chosen), ask, bool(gpus))
    if any(case.execution.backends for case in cases):
        from hybridbench.backends import check_installed

        steps = [case.step_case for case in cases]
        check_backends_used(cases[0].execution.backends, steps)
        check_installed(steps)
    if not dry_run:
        _tell(cases)
    measure_cases(cases, "solve", gpus, as_json=as_json, out=out, resume=resume, dry_run=dry_run, kind=_kind())


def _models(setting: Setting, chosen: dict[str, str]) -> list[ModelSpec]:
    """The stacks, at the task's width unless a scale is named; a window is the paper's share of a sequence."""
    given: dict[str, Any] = dict(chosen)
    if "scale" not in given:
        given["scale"] = f"2x{setting.width}"
        families = {part.strip() for part in given["arch"].split(",")}
        if not {"pattern", "ratio", "positions"} & set(given) and families & set(MIXED):
            given["ratio"] = "1:1"
        if "swa" in families and "pattern" not in given:
            window = max(8, setting.context // 16)
            given |= {"window": window, "sinks": max(1, window // 8)}
    return chosen_specs(None, (), **given)


def _tell(cases: Sequence[Any]) -> None:
    from hybridbench.units import format_si

    flops = format_si(sum(case.flops for case in cases)).strip()
    Plain(stderr=True, soft_wrap=True).print(f"{counted(len(cases), 'run')}, at most {flops}FLOPs in all.")


def _kind() -> RecordKind:
    from hybridbench.quality.tasks.record import TaskRecord

    return RecordKind(TaskRecord, "solve.md", _shown, _render)


def _render(records: Sequence[TaskRecord], folder: Path, **options: Any) -> None:
    from hybridbench.cli.rendering import render_solve

    render_solve(records, folder, **options)


def _shown() -> Any:
    """How a finished run is shown while others run."""
    from hybridbench.report.live import Shown

    def row(record: TaskRecord) -> tuple[str, str, str, str]:
        final = record.final
        ended = "diverged" if record.observed is not None and final is None else record.status.value.replace("_", " ")
        first, last = (f"{final.correct_frac[place]:.3f}" if final else "-" for place in (0, -1))
        return record.case.label, first, last, ended

    return Shown(("shortest", "longest"), row, "{} right at the shortest, {} at the longest")
