"""evaluating: ``hybridbench evaluate``: trained models on tasks of lm-evaluation-harness."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import click

from hybridbench.cli.options import GIVEN_PATH, out_options
from hybridbench.cli.output import Plain
from hybridbench.cli.typed import Command, listed
from hybridbench.errors import BadInput
from hybridbench.machine import check_gpu, device_of, visible_gpus
from hybridbench.text import counted
from hybridbench.units import format_number, parse_count

if TYPE_CHECKING:
    from hybridbench.quality.training.case import LearnCase

Document = dict[str, Any]


@click.command(cls=Command)
@click.argument("weights", nargs=-1, required=True, type=GIVEN_PATH)
@click.option("--data", type=GIVEN_PATH, help="The folder of the corpus that the models learned from.")
@listed("--tasks", help="Tasks of the harness, with commas, such as lambada_openai,piqa.")
@click.option("--include", type=GIVEN_PATH, help="A folder with tasks of your own (YAML).")
@click.option("--limit", type=int, help="Examples of each task at most.  [all]")
@click.option("--shots", type=int, help="Examples in the prompt.  [each task's own]")
@click.option("--ctx", help="Tokens of a sequence at most.  [as trained]")
@click.option("--batch", help="Sequences of a forward.  [16]")
@click.option("--device", help="cpu or cuda.  [cuda where there is a GPU]")
@out_options
def evaluate(
    weights: tuple[Path, ...],
    data: Path | None,
    tasks: str | None,
    include: Path | None,
    limit: int | None,
    shots: int | None,
    ctx: str | None,
    batch: str | None,
    device: str | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Evaluate trained models on tasks of lm-evaluation-harness.

    WEIGHTS are files that hybridbench learn kept, or folders of its results, whose runs that only chose a rate or went
    wrong are left out. Each model's result file is written to -o, as the harness writes it, and hybridbench pareto
    --quality reads it.
    """
    if data is None or tasks is None:
        missing = "--data" if data is None else "--tasks"
        raise BadInput(
            f"evaluate without {missing}: name the corpus with --data and tasks with --tasks, as piqa,arc_easy."
        )
    for name, number, least in (("--limit", limit, 1), ("--shots", shots, 0)):
        if number is not None and number < least:
            raise BadInput(f"{name} {number}: give a whole number from {least}.")
    if importlib.util.find_spec("lm_eval") is None:
        raise BadInput("evaluate runs the package lm-eval: pip install 'hybridbench[quality]'.")
    gpus = visible_gpus()
    kind = device_of(device, bool(gpus))
    check_gpu(kind, gpus)
    context = None if ctx is None else parse_count(ctx, "--ctx")
    options = {
        "include": include,
        "limit": limit,
        "shots": shots,
        "context": context,
        "batch": 16 if batch is None else parse_count(batch, "--batch"),
    }
    names = [part.strip() for part in tasks.split(",") if part.strip()]
    cases = _cases(weights)
    for path, case in cases.items():
        if context is not None and context > case.context:
            raise BadInput(
                f"--ctx {context:,} is more than the {case.context:,} tokens of a sequence that {path} was "
                f"trained with: give {case.context:,} at most; hybridbench contexts reads further."
            )
    if out is not None:
        _check_writable(out)
    documents = [_evaluated(path, data, kind, names, out, options) for path in cases]
    if as_json:
        click.echo(json.dumps({"results": [_summary(document) for document in documents]}))
        return
    _show(documents)
    if out is not None:
        Plain().print(f"Result files: {out}", soft_wrap=True)


def _cases(given: Sequence[Path]) -> dict[Path, LearnCase]:
    """The files of weights that are named, and those below folders, with their runs: by model, rate and seed.

    Of folders, runs that only chose a rate or went wrong are left out, and told.

    Raises:
        BadInput: there is no such file; a file that is named is of a run that only chose a rate or went wrong; nothing
            is left of the folders.
    """
    from hybridbench.quality.training.trained import check_learned

    found: dict[Path, LearnCase] = {}
    tuned, wrong = 0, list[str]()
    for path, of_folder in _files(given):
        try:
            case = check_learned(path)
        except BadInput as exc:
            if not of_folder:
                raise
            wrong.append(str(exc))
            continue
        if not case.tuning:
            found[path] = case
        elif of_folder:
            tuned += 1
        else:
            raise BadInput(
                f"{path} is of a run that only chose a learning rate: name a run whose seed is one of those compared."
            )
    said = [f"Left out: {one}" for one in wrong]
    if tuned:
        said.append(f"Left out: {counted(tuned, 'run')} that only chose a learning rate.")
    if not found:
        raise BadInput(" ".join([*said, "No weights are left to evaluate: name the folder of other runs of learn."]))
    for sentence in said:
        Plain(stderr=True, soft_wrap=True).print(sentence)
    return dict(sorted(found.items(), key=_place))


def _place(found: tuple[Path, LearnCase]) -> tuple[object, ...]:
    """Where a run stands among others: by model, rate, whatever else parts two trainings, and seed."""
    case = found[1]
    return case.model.scale, case.model.label, case.recipe.lr, case.arm, case.seed


def _files(given: Sequence[Path]) -> list[tuple[Path, bool]]:
    """The files of weights that are named, and those below folders; whether each is of a folder.

    Raises:
        BadInput: there is no such file.
    """
    found: dict[Path, bool] = {}
    for path in given:
        below = sorted(path.rglob("weights/*.safetensors")) or sorted(path.glob("*.safetensors"))
        if not path.is_file() and not below:
            raise BadInput(f"{path} is no file of weights and has none below it: name the folder -o of learn.")
        found |= {path: False} if path.is_file() else {file: True for file in below if file not in found}
    return list(found.items())


def _check_writable(out: Path) -> None:
    """Make a folder for results, and check that a file can be written there, before hours of work.

    Raises:
        BadInput: it cannot.
    """
    from hybridbench.store import make_folder

    try:
        with TemporaryFile(dir=make_folder(out)):
            return
    except OSError as exc:
        raise _unwritable(out, exc) from exc


def _unwritable(out: Path, exc: OSError) -> BadInput:
    return BadInput(f"{out} cannot hold results ({exc.strerror}): make it writable or choose another with --out.")


def _evaluated(
    path: Path, data: Path, kind: str, tasks: Sequence[str], out: Path | None, options: dict[str, Any]
) -> Document:
    from hybridbench.quality.harness import evaluate as run
    from hybridbench.quality.training.trained import load_trained

    trained = load_trained(path, data, kind)
    who = f"{trained.case.model.label} {trained.case.model.scale}, seed {trained.case.seed}"
    Plain(stderr=True, soft_wrap=True).print(f"Evaluating {who} ({path}).")
    document = run(trained, tasks, **options)
    if out is not None:
        name = f"results-{trained.case.model.arch.replace(' ', '-')}-{trained.case.key}.json"
        try:
            (out / name).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        except OSError as exc:
            raise _unwritable(out, exc) from exc
    return document


def _summary(document: Document) -> Document:
    return {"run": document["hybridbench"], "results": document["results"]}


def _show(documents: Sequence[Document]) -> None:
    from hybridbench.report.render.terminal import print_table
    from hybridbench.report.table import Column, Table, TableCell

    table = Table(
        "tasks of lm-evaluation-harness",
        [
            Column("model", "model", numeric=False),
            Column("lr", "rate"),
            Column("seed", "seed"),
            Column("task", "task", numeric=False),
            Column("metric", "metric", numeric=False),
            Column("value", "value"),
            Column("stderr", "± 1 error"),
        ],
    )
    for document in documents:
        run = document["hybridbench"]
        for task, metrics in document["results"].items():
            for name, value in metrics.items():
                metric, comma, kind = name.partition(",")
                if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                    continue
                error = metrics.get(f"{metric}_stderr,{kind}")
                known = isinstance(error, int | float)
                model = f"{run['model']} {run['scale']}"
                table.rows.append(
                    [
                        TableCell(model, model),
                        TableCell(f"{run['lr']:.3g}", run["lr"]),
                        TableCell(str(run["seed"]), run["seed"]),
                        TableCell(task, task),
                        TableCell(metric, metric),
                        TableCell(format_number(value), value),
                        TableCell(format_number(error), error) if known else TableCell("-"),
                    ]
                )
    limited = {document["hybridbench"]["limit"] for document in documents} - {None}
    if limited:
        table.remark(f"The first {counted(min(limited), 'example')} of each task only (--limit).")
    table.remark("An error is of the mean over a task's examples. At small scale most tasks stand at chance.")
    print_table(table, Plain())
