"""harness_results: result files of lm-evaluation-harness as figures of quality, ours and other people's.

    {"results": {"lambada": {"acc,none": 0.41, "acc_stderr,none": 0.007}}, "higher_is_better": ..., "config": ...}

A metric of a task is a score named ``task:metric``, such as ``lambada:acc``. The stack is the one that a file of
``hybridbench evaluate`` names under ``hybridbench``. Of another file it is the published model whose repository its
``model_args`` or ``model_name`` name. Files of one stack that differ in their seed are one figure, the mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hybridbench.arch.model import ModelSpec
from hybridbench.arch.presets import PRESETS, preset_spec
from hybridbench.errors import BadInput
from hybridbench.files import MIB, Damaged, from_json, read_text
from hybridbench.pareto.quality import Quality, Score
from hybridbench.pareto.stacks import NAMING, stack_named

OURS = "hybridbench"
_FRACTIONS = ("acc", "acc_norm", "acc_bytes", "exact_match", "em", "f1", "mcc")


def read_harness(paths: Sequence[Path]) -> list[Quality]:
    """The figures of result files, one for each stack, score and budget.

    Raises:
        BadInput: a file cannot be read, is none of the harness's, or names no model that is known here.
    """
    groups: dict[tuple[object, ...], list[Quality]] = {}
    for path in paths:
        for figure in _figures(path):
            groups.setdefault((figure.stack, figure.score, figure.tokens, figure.flops), []).append(figure)
    return [_merged(group) for group in groups.values()]


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


def _figures(path: Path) -> Iterator[Quality]:
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
    spec = _ours(told, path) if isinstance(told, dict) else _theirs(body, path)
    budget = told if isinstance(told, dict) else {}
    directions = body.get("higher_is_better")
    for task, metrics in results.items():
        better = directions.get(task) if isinstance(directions, dict) else None
        for name, value in metrics.items():
            metric, comma, kind = name.partition(",")
            if not comma or metric.endswith("_stderr") or not _is_number(value):
                continue
            error = metrics.get(f"{metric}_stderr,{kind}")
            score = _score(task, metric, kind, better if isinstance(better, dict) else {})
            yield Quality(
                spec, score, float(value), 1, float(error) if _is_number(error) else None,
                _budget(budget, "tokens"), _budget(budget, "flops"),
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
