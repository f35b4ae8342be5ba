"""stretching: ``hybridbench contexts``: trained models beyond the length that they were trained at."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybridbench.cli.measuring import RecordKind, measure_cases
from hybridbench.cli.options import GIVEN_PATH, out_options, parse_backends
from hybridbench.cli.output import Plain
from hybridbench.cli.stored import all_records
from hybridbench.cli.typed import Command
from hybridbench.errors import BadInput
from hybridbench.machine import visible_gpus

if TYPE_CHECKING:
    from hybridbench.quality.contexts.record import ContextRecord


@click.command(cls=Command)
@click.argument("results", nargs=-1, required=True, type=GIVEN_PATH)
@click.option("--data", type=GIVEN_PATH, help="The folder of the corpus whose held-out text is read.")
@click.option("--to", "times", type=int, default=4, show_default=True, help="Read to so many times the trained length.")
@click.option("--documents", type=int, default=30, show_default=True, help="Documents to read, at most.")
@click.option(
    "--trials", type=int, default=20, show_default=True, help="Prompts for each length and depth; 0 for no needles."
)
@click.option("--device", help="cpu or cuda.  [cuda where there is a GPU]")
@click.option("--dtype", help="Dtype of weights and activations.  [bfloat16, float32 on a CPU]")
@click.option("--backend", "backend", multiple=True, metavar="OP=NAME", help="Kernel for an operation; repeatable.")
@click.option("--limit", "limit_s", type=float, default=3600.0, show_default=True, help="Seconds a run may take.")
@click.option("--resume", is_flag=True, help="Skip models that -o already holds a record of.")
@click.option("--dry-run", is_flag=True, help="List the runs and stop.")
@out_options
def contexts(
    *,
    results: tuple[Path, ...],
    data: Path | None,
    backend: tuple[str, ...],
    as_json: bool,
    out: Path | None,
    resume: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Read held-out text with trained models, beyond the length that they were trained at. RESULTS are those of learn.

    Losses are by position, on documents from their start. Needles are numbers hidden in text, at lengths to twice the
    trained one and at depths from 0 to 100%; a model finds one if it goes on with the number.
    """
    if data is None:
        raise BadInput("contexts without --data: name the folder of the corpus that the models were trained on.")
    if importlib.util.find_spec("safetensors") is None:
        raise BadInput("contexts reads weights with the package safetensors: pip install 'hybridbench[quality]'.")
    from hybridbench.quality.contexts.plan import ContextOptions, planned, work_in_words
    from hybridbench.quality.corpus.manifest import check_files, read_manifest
    from hybridbench.quality.training.record import LearnRecord
    from hybridbench.store import newest

    manifest = read_manifest(data)
    check_files(data, manifest)
    gpus = visible_gpus()
    trained = [
        (path if path.is_dir() else path.parent, record)
        for path in results
        for record in newest(all_records([path], LearnRecord))
    ]
    cases = planned(trained, data, manifest, ContextOptions(**options, backends=parse_backends(backend)), bool(gpus))
    if cases[0].execution.backends:
        from hybridbench.backends import check_installed
        from hybridbench.suite.ops import check_backends_used

        check_backends_used(cases[0].execution.backends, [case.work for case in cases])
        check_installed([case.work for case in cases])
    for sentence in work_in_words(cases):
        Plain(stderr=True, soft_wrap=True).print(sentence)
    measure_cases(cases, "contexts", gpus, as_json=as_json, out=out, resume=resume, dry_run=dry_run, kind=_kind())


def _kind() -> RecordKind:
    from hybridbench.quality.contexts.record import ContextRecord

    return RecordKind(ContextRecord, "contexts.md", _shown, _render)


def _render(records: Sequence[ContextRecord], folder: Path, **options: Any) -> None:
    from hybridbench.cli.rendering import render_contexts

    render_contexts(records, folder, **options)


def _shown() -> Any:
    """How a finished run is shown while others run."""
    import statistics

    from hybridbench.report.live import Shown
    from hybridbench.units import format_number

    def row(record: ContextRecord) -> tuple[str, str, str, str]:
        seen = record.observed
        last = format_number(statistics.fmean(seen.stretches[-1].losses), 4) if seen else "-"
        trials = sum(cell.trials for cell in seen.needles) if seen else 0
        found = f"{sum(cell.found for cell in seen.needles) / trials:.3f}" if seen and trials else "-"
        return record.case.label, last, found, record.status.value.replace("_", " ")

    return Shown(("nats at the end", "found"), row, "{} nats a token at the end, {} of needles found")
