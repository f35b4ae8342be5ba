"""harness_results: result files of lm-evaluation-harness as figures of quality, ours and other people's.

    {"results": {"lambada": {"acc,none": 0.41, "acc_stderr,none": 0.007}}, "higher_is_better": ..., "config": ...}

A metric of a task is a score named ``task:metric``, such as ``lambada:acc``. The stack is the one that a file of
``hybridbench evaluate`` names under ``hybridbench``. Of another file it is the published model whose repository its
``model_args`` or ``model_name`` name. Files of one stack that differ in their seed alone are one figure, the mean.
Files that differ in anything else are refused: which of them is meant, nothing here can tell.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hybridbench.arch.model import ModelSpec
from hybridbench.arch.presets import PRESETS, preset_spec
from hybridbench.errors import BadInput
from hybridbench.files import MIB, Damaged, from_json, read_text
from hybridbench.pareto.quality import Quality, Score
from hybridbench.pareto.stacks import NAMING, stack_named

OURS = "hybridbench"
TUNING_SEED = 20_251_006
"""The seed of runs that only choose a learning rate, as ``learn`` gives it."""
_FRACTIONS = ("acc", "acc_norm", "acc_bytes", "exact_match", "em", "f1", "mcc")


@dataclass(frozen=True)
class HarnessFile:
    """A result file: its JSON object, and what it says of the run under ``hybridbench``; nothing in other people's."""

    path: Path
    body: Mapping[str, Any]
    told: Mapping[str, Any]


def read_harness(paths: Sequence[Path]) -> list[Quality]:
    """The figures of result files, one for each stack, score and budget.

    Raises:
        BadInput: a file cannot be read, is none of the harness's, names no model that is known here, or is of a run
            that only chose a learning rate; two are of one stack, score and budget, and no two seeds of one training.
    """
    groups: dict[tuple[object, ...], list[tuple[HarnessFile, Quality]]] = {}
    for path in paths:
        file = _read(path)
        for figure in _figures(file):
            same = (figure.stack, figure.score, figure.tokens, figure.flops)
            groups.setdefault(same, []).append((file, figure))
    for group in groups.values():
        _check_seeds([file for file, _ in group], group[0][1])
    return [_merged([figure for _, figure in group]) for group in groups.values()]


_ALIKE = {
    "corpus": "corpora",
    "lr": "learning rates",
    "arm": "trainings",
    "context": "contexts (--ctx)",
    "limit": "limits of examples (--limit)",
    "shots": "examples in the prompt (--shots)",
}
"""What the files of one figure have in common, by its name in a file."""


def _check_seeds(files: Sequence[HarnessFile], figure: Quality) -> None:
    """Check that files which give one figure are of seeds of one training, each of another.

    Raises:
        BadInput: they are not.
    """
    first, *others = files
    who = f"{figure.spec.label} {figure.spec.scale}"
    for other in others:
        for name, what in _ALIKE.items():
            one, two = first.told.get(name), other.told.get(name)
            if one != two:
                raise BadInput(
                    f"--quality {first.path} and {other.path} are both of {who}, with other {what} ({_told(one)} and "
                    f"{_told(two)}): they are no seeds of one figure; name those of one."
                )
    seeds: dict[object, HarnessFile] = {}
    for file in files:
        seed = file.told.get("seed")
        if seed in seeds:
            which = f"seed {seed} of {who}" if file.told else who
            raise BadInput(
                f"--quality {seeds[seed].path} and {file.path} both give {figure.score.name} of {which}: name one."
            )
        seeds[seed] = file


def _told(value: object) -> str:
    return "not told" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _merged(group: Sequence[Quality]) -> Quality:
    """Several seeds as their mean; of one the standard error that the harness gives, over its examples."""
    first = group[0]
    if len(group) == 1:
        return first
    values = [one.value for one in group]
    return Quality(
        first.spec, first.score, statistics.fmean(values), len(values), statistics.stdev(values),
        first.tokens, first.flops, first.source,
    )  # fmt: skip


def _read(path: Path) -> HarnessFile:
    try:
        body = from_json(read_text(path, 64 * MIB))
    except Damaged as exc:
        raise BadInput(f"--quality {path} {exc}.") from exc
    except ValueError as exc:
        raise BadInput(f"--quality {path} is not JSON ({exc}).") from exc
    results = body.get("results") if isinstance(body, dict) else None
    if not isinstance(results, dict) or not all(isinstance(one, dict) for one in results.values()):
        raise BadInput(f"--quality {path} is no result file of lm-evaluation-harness: it has no results of tasks.")
    told = body.get(OURS)
    if not isinstance(told, dict):
        return HarnessFile(path, body, {})
    if told.get("seed") == TUNING_SEED:
        raise BadInput(f"--quality {path} is of a run that only chose a learning rate: leave it out.")
    if not all(value is None or isinstance(value, str | int | float) for value in told.values()):
        raise BadInput(f"--quality {path} has a field under {OURS} that is neither text nor number: evaluate again.")
    return HarnessFile(path, body, told)


def _figures(file: HarnessFile) -> Iterator[Quality]:
    body, told = file.body, file.told
    spec = _ours(told, file.path) if isinstance(body.get(OURS), dict) else _theirs(body, file.path)
    directions = body.get("higher_is_better")
    for task, metrics in body["results"].items():
        better = directions.get(task) if isinstance(directions, dict) else None
        for name, value in metrics.items():
            metric, comma, kind = name.partition(",")
            if not comma or metric.endswith("_stderr") or not _is_number(value):
                continue
            error = metrics.get(f"{metric}_stderr,{kind}")
            score = _score(task, metric, kind, better if isinstance(better, dict) else {})
            yield Quality(
                spec, score, float(value), 1, float(error) if _is_number(error) else None,
                _budget(told, "tokens"), _budget(told, "flops"),
                f"lm-evaluation-harness {body.get('lm_eval_version', '')}".strip(),
            )  # fmt: skip


def _score(task: str, metric: str, kind: str, higher: Mapping[str, Any]) -> Score:
    """The score of a task's metric; a filter other than ``none`` is part of its name."""
    name = f"{task}:{metric}" + ("" if kind == "none" else f":{kind}")
    is_higher = higher.get(metric)
    better: Literal["higher", "lower"] = "lower" if is_higher is False else "higher"
    return Score(name, f"{task}, {metric}", "frac" if metric in _FRACTIONS else "", better)


def _ours(told: Mapping[str, Any], path: Path) -> ModelSpec:
    try:
        return stack_named({name: str(told.get(name) or "") for name in NAMING})
    except BadInput as exc:
        raise BadInput(f"--quality {path}: {exc}") from exc


def _theirs(body: Mapping[str, Any], path: Path) -> ModelSpec:
    """The published model that a file is of."""
    config = body.get("config")
    arguments = config.get("model_args") if isinstance(config, dict) else None
    named = _pretrained(arguments) or str(body.get("model_name") or "")
    wanted = named.strip("/").lower()
    for name, preset in PRESETS.items():
        if wanted and wanted in (preset.repo.lower(), name.lower()):
            return preset_spec(name)
    raise BadInput(
        f"--quality {path} is of the model '{named}', which is no published model known here (hybridbench archs lists "
        f"them): set its model_name to the name of one, or to its repository."
    )


def _pretrained(arguments: object) -> str:
    """The model that arguments name, written as ``pretrained=NAME,...`` or as an object."""
    if isinstance(arguments, dict):
        return str(arguments.get("pretrained") or "")
    parts = dict(part.partition("=")[::2] for part in str(arguments or "").split(","))
    return parts.get("pretrained", "").strip()


def _budget(told: Mapping[str, Any], name: str) -> float | None:
    value = told.get(name)
    return value if isinstance(value, float | int) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
