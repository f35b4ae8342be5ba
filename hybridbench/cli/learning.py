"""learning: ``hybridbench learn``: models trained on a corpus, seed by seed, and judged on text held out of it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybridbench.cli.measuring import RecordKind, measure_cases
from hybridbench.cli.options import GIVEN_PATH, RESULTS, out_options, parse_backends
from hybridbench.cli.output import Plain
from hybridbench.cli.placing import needs_gpu
from hybridbench.cli.predicting import chosen_specs
from hybridbench.cli.typed import Command, listed
from hybridbench.errors import BadInput
from hybridbench.machine import visible_gpus
from hybridbench.quality.training.plan import EVALUATIONS, SEEDS, LearnOptions
from hybridbench.suite.models import ALL_ARCHS
from hybridbench.text import counted

if TYPE_CHECKING:
    from hybridbench.arch.model import ModelSpec
    from hybridbench.quality.training.case import LearnCase
    from hybridbench.quality.training.record import LearnRecord


@click.command(cls=Command)
@listed("--arch", default=ALL_ARCHS, show_default=True, help="Families, with commas between them.")
@listed("--scale", help="Scales: toy, 5m, 20m, 50m or larger.  [20m on a GPU, toy on a CPU]")
@listed("--ratio", help="Attention : SSM blocks, with commas.  [1:5]")
@listed("--positions", help="1-based places of attention or hybrid blocks, such as 4,8; instead of --ratio.")
@listed("--pattern", help="Layer strings instead of --arch, with commas, such as 'M-M-M-*-'.")
@listed("--mixer", help="In Mamba-2's place, with commas.")
@listed("--recipe", help="Fusion of intra blocks, with commas.")
@click.option("--data", type=GIVEN_PATH, help="The folder of a corpus that hybridbench corpus build has made.")
@click.option("--tokens", help="Tokens each model learns from, such as 50m.  [50m, 100k at toy]")
@click.option("--ctx", help="Tokens of a sequence.  [1k, 256 at toy]")
@click.option("--batch", help="Sequences of a step.  [128, 4 at toy]")
@click.option("--seeds", type=int, default=SEEDS, show_default=True, help="Runs of each model, from seed 0 on.")
@click.option("--lr", type=float, help="Learning rate.  [a rule of width and batch]")
@click.option("--sweep-lr", help="Choose first, on another seed, of multiples of the rate, such as 0.5,1,2.")
@click.option("--evals", "evaluations", type=int, default=EVALUATIONS, show_default=True, help="Judgements in a run.")
@click.option("--device", help="cpu or cuda.  [cuda where there is a GPU]")
@click.option("--dtype", help="Dtype of weights and activations; masters are float32.  [bfloat16, float32 on a CPU]")
@click.option("--mode", help="graph (a CUDA graph), eager or compile.  [graph, compile with experts; eager on a CPU]")
@click.option("--at-once", type=int, default=1, show_default=True, help="Runs that share a device at one time.")
@click.option("--backend", "backend", multiple=True, metavar="OP=NAME", help="Kernel for an operation; repeatable.")
@click.option("--limit", "limit_s", type=float, default=3600.0, show_default=True, help="Seconds a run may take.")
@click.option("--resume", is_flag=True, help="Skip recorded runs in -o, also failed ones, and go on from checkpoints.")
@click.option("--dry-run", is_flag=True, help="List the runs with what they must cost, and stop.")
@click.option("--plan", type=float, help="Say how many seeds a difference of so many bits per byte takes, and stop.")
@out_options
def learn(
    *,
    data: Path | None,
    backend: tuple[str, ...],
    as_json: bool,
    out: Path | None,
    resume: bool,
    dry_run: bool,
    plan: float | None,
    **options: Any,
) -> None:
    """Train each model on a corpus and judge it on held-out text: loss against tokens, FLOPs, seconds and joules.

    Models of a scale have equal parameters within a few percent. Runs with equal seeds see the same batches. A killed
    run goes on with --resume, and so do more --seeds.
    """
    if plan is not None:
        _tell_seeds(plan, out, options, as_json)
        return
    if data is None:
        raise BadInput(
            "learn without --data: make a corpus first, as by hybridbench corpus build --from python -o DIR."
        )
    if resume and out is None:
        raise BadInput("--resume without -o: name the folder to go on with, such as -o results/local/learn.")
    gpus = visible_gpus()
    folder = out or RESULTS / f"learn-{datetime.now():%Y%m%d-%H%M%S}"
    sweep = options.pop("sweep_lr")
    cases = _planned(data, folder, resume, bool(gpus), {**options, "backends": parse_backends(backend)})
    console = Plain(stderr=True, soft_wrap=True)
    tuning = _tuning(cases, sweep)
    if dry_run:
        _tell_cost([*tuning, *cases], console, gpus)
        measure_cases([*tuning, *cases], "learn", gpus, as_json=as_json, dry_run=True)
        return
    needs_gpu(cases, gpus)
    if importlib.util.find_spec("safetensors") is None:
        raise BadInput("learn keeps checkpoints with the package safetensors: pip install 'hybridbench[quality]'.")
    _tell_cost([*tuning, *cases], console, gpus)
    at_once = cases[0].place.at_once
    shared = {"out": folder, "resume": resume, "kind": _kind(at_once)}
    tried: list[LearnRecord] = []
    if tuning:
        console.print(
            f"Choosing a learning rate for each model: {counted(len(tuning), 'run')} with a seed of their own."
        )
        tried = _measure(tuning, gpus, {**shared, "kind": _kind(at_once, quiet=True)}, as_json=False)
        cases = _at_best(cases, tried, console)
    _measure(cases, gpus, shared, as_json=as_json)


def _measure(cases: Sequence[Any], gpus: Sequence[str], shared: dict[str, Any], *, as_json: bool) -> list[LearnRecord]:
    from hybridbench.quality.training.place import remove_checkpoints

    records = measure_cases(cases, "learn", gpus, as_json=as_json, **shared)
    remove_checkpoints(records)
    return records


def _kind(at_once: int, quiet: bool = False) -> RecordKind:
    from hybridbench.quality.training.record import LearnRecord

    return RecordKind(LearnRecord, "learn.md", _shown, _nothing if quiet else _render, at_once=at_once)


def _nothing(*_given: Any, **_options: Any) -> None:
    """Shows nothing of the runs that choose a rate: the report of all runs has a table of them."""


def _render(records: Sequence[LearnRecord], folder: Path, **options: Any) -> None:
    from hybridbench.cli.rendering import render_learn

    render_learn(records, folder, **options)


def _planned(data: Path, folder: Path, resume: bool, has_gpu: bool, options: dict[str, Any]) -> list[LearnCase]:
    from hybridbench.quality.corpus.manifest import check_files, read_manifest
    from hybridbench.quality.training.plan import place_of, planned, remarks

    manifest = read_manifest(data)
    check_files(data, manifest)
    specs = _specs(options, has_gpu)
    cases = planned(specs, manifest, place_of(data, folder, resume), LearnOptions(**options), has_gpu)
    _check_backends(cases)
    for sentence in remarks(cases, manifest):
        Plain(stderr=True, soft_wrap=True).print(sentence)
    return cases


def _specs(options: dict[str, Any], has_gpu: bool) -> list[ModelSpec]:
    """The models that are asked for, whose options are taken out."""
    names = ("arch", "scale", "ratio", "positions", "pattern", "mixer", "recipe")
    chosen = {name: options.pop(name) for name in names}
    on_gpu = has_gpu and options["device"] != "cpu"
    given = {name: value for name, value in chosen.items() if value is not None}
    given.setdefault("scale", "20m" if on_gpu else "toy")
    return chosen_specs(None, (), **given)


def _tell_seeds(difference: float, out: Path | None, options: dict[str, Any], as_json: bool) -> None:
    """Says how many seeds a difference takes at each scale, from the finished runs of a folder where it has any.

    Raises:
        BadInput: no such difference, fewer than two models of a scale, no seed, or a file in place of a folder.
    """
    from hybridbench.quality.training.figures import arms
    from hybridbench.quality.training.power import document, known_noise, not_tuning, seeds_said
    from hybridbench.quality.training.record import LearnRecord
    from hybridbench.store import recorded

    seeds = options["seeds"]
    specs = _specs(options, bool(visible_gpus()))
    if seeds < 1:
        raise BadInput(f"--seeds {seeds}: give 1 or more.")
    if out is not None and out.exists() and not out.is_dir():
        raise BadInput(f"-o {out} is a file: name a folder of runs, or leave it out to take the noise that is assumed.")
    if out is not None and not out.exists():
        Plain(stderr=True, soft_wrap=True).print(f"There is no folder {out} yet, so the noise is assumed.")
    records = [] if out is None or not out.exists() else list(recorded(out, LearnRecord).values())
    finished = arms(not_tuning(records))
    found = []
    scales = dict.fromkeys(spec.scale for spec in specs)  # models of several scales are never compared
    for scale in scales:
        models = sum(spec.scale == scale for spec in specs)
        known = known_noise(finished, scale)
        head = f"{scale}: " if len(scales) > 1 else ""
        for sentence in seeds_said(difference, models, known, seeds):
            if not as_json:
                Plain(soft_wrap=True).print(head + sentence)
        found.append({"scale": scale, **document(difference, models, known, seeds)})
    if as_json:
        click.echo(json.dumps(found[0] if len(found) == 1 else found))


def _check_backends(cases: Sequence[LearnCase]) -> None:
    if any(case.execution.backends for case in cases):
        from hybridbench.backends import check_installed
        from hybridbench.suite.ops import check_backends_used

        steps = [case.step_case for case in cases]
        check_backends_used(cases[0].execution.backends, steps)
        check_installed(steps)


def _tuning(cases: Sequence[LearnCase], sweep: str | None) -> list[LearnCase]:
    from hybridbench.quality.training.plan import parse_multiples, tuning_runs

    return tuning_runs(cases, parse_multiples(sweep)) if sweep is not None else []


def _at_best(cases: Sequence[LearnCase], tried: Sequence[LearnRecord], console: Plain) -> list[LearnCase]:
    """The runs at the best rate tried for their model; one whose runs all went wrong keeps its own."""
    from hybridbench.quality.training.figures import at_edge, best_rate
    from hybridbench.quality.training.plan import with_rate

    rates = {}
    for spec in dict.fromkeys(case.model for case in cases):
        best = best_rate([record for record in tried if record.case.model == spec])
        if best is None:
            own = next(case.recipe.lr for case in cases if case.model == spec)
            console.print(f"{spec.label} {spec.scale}: no rate tried went well; it runs at {own:.3g}.")
        else:
            rates[spec] = best.case.recipe.lr
            edge = at_edge(best, tried)
            doubt = f", the {edge} rate tried: sweep further to know that it is the best" if edge else ""
            console.print(f"{spec.label} {spec.scale} learns at {rates[spec]:.3g}{doubt}.")
    return [with_rate(case, rates.get(case.model, case.recipe.lr)) for case in cases]


def _tell_cost(cases: Sequence[LearnCase], console: Plain, gpus: Sequence[str]) -> None:
    """Says on stderr what the runs must cost: FLOPs, and seconds, joules and bytes as predicted."""
    from hybridbench.quality.training.predicted import machine_for, memory, seconds, total_flops
    from hybridbench.units import format_bytes, format_seconds, format_si

    first = cases[0]
    flops = sum(map(total_flops, cases))
    machine = machine_for(first.device, first.execution.dtype, _gpu_name() if first.device == "cuda" and gpus else None)
    text = f"{counted(len(cases), 'run')}, {format_si(flops).strip()}FLOPs in all"
    if machine is not None:
        needed = seconds(cases, machine)
        workers = max(1, len(gpus)) if first.device == "cuda" else 1
        energy = "" if machine.power_w is None else f" and {format_si(needed * machine.power_w).strip()}J"
        text += f": predicted {format_seconds(needed / workers)}{energy}, at {machine.about} (assumed)"
    text_there = _tokens_on_gpu(first)
    peaks = [peak.total for peak in (memory(case, text_there) for case in cases) if peak is not None]
    at_once = first.place.at_once
    sharing = f" for {at_once} at once" if at_once > 1 else ""
    needs = f"; at most {format_bytes(at_once * max(peaks))} of memory{sharing}" if peaks else ""
    console.print(f"{text}{needs}.")


def _tokens_on_gpu(case: LearnCase) -> int:
    """Tokens of the corpus that lie on the GPU; a CPU maps the files."""
    from hybridbench.quality.corpus.manifest import read_manifest

    manifest = read_manifest(Path(case.place.corpus))
    return manifest.train.tokens + manifest.held_out.tokens if case.device == "cuda" else 0


def _gpu_name() -> str | None:
    """The first GPU's name, as the driver gives it."""
    from hybridbench.machine import first_gpu_name

    return first_gpu_name()


def _shown() -> Any:
    """How a finished run is shown while others run."""
    from hybridbench.quality.training.figures import final_bits, tokens_per_s
    from hybridbench.report.live import Shown
    from hybridbench.units import format_number

    def row(record: LearnRecord) -> tuple[str, str, str, str]:
        seen = record.observed
        ended = "diverged" if seen is not None and not seen.finished else record.status.value.replace("_", " ")
        bits, rate = final_bits(record), tokens_per_s(record)
        return record.case.label, format_number(bits, 4) if bits else "-", format_number(rate) if rate else "-", ended

    return Shown(("bits/byte", "tokens/s"), row, "{} bits per byte, {} tokens/s")
