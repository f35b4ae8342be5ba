"""trained: a finished run's weights as a model that runs, with the vocabulary that it was trained on.

A run keeps its weights however it ends. Those of a run that went wrong are no trained model, and are refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hybridbench.errors import BadInput, BadResults
from hybridbench.model.build import build_model, resolve_backends
from hybridbench.model.language import LanguageModel
from hybridbench.quality.corpus.manifest import read_manifest
from hybridbench.quality.corpus.vocabulary import Vocabulary, of_corpus
from hybridbench.quality.training.case import LearnCase, RunFiles
from hybridbench.quality.training.checkpoint import read_weights
from hybridbench.quality.training.place import weights_path
from hybridbench.quality.training.record import LearnRecord
from hybridbench.quality.training.watch import ending
from hybridbench.session import device_for
from hybridbench.store import load
from hybridbench.text import counted


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Args:
        case: the run that made it.
        model: on its device, in evaluation.
    """

    case: LearnCase
    model: LanguageModel
    vocabulary: Vocabulary
    device: torch.device


def check_learned(weights: Path) -> LearnCase:
    """The run of a file of weights, which must have gone well. Its place is not known.

    Raises:
        BadInput: the file cannot be read, holds no run's weights or numbers that are none, or its run went wrong.
    """
    case, tensors = _read(weights)
    _check_finished(weights, case)
    check_numbers(tensors, str(weights))
    return case


def check_numbers(tensors: Mapping[str, Tensor], where: str) -> None:
    """Check that weights are finite numbers.

    Raises:
        BadInput: one is not; ``where`` names the weights.
    """
    wrong = sorted(name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all()))
    if wrong:
        raise BadInput(
            f"{where} holds {counted(len(wrong), 'tensor')} with values that are no numbers, such as {wrong[0]}: its "
            "run went wrong; train the model again, with a smaller --lr."
        )


def _check_finished(weights: Path, case: LearnCase) -> None:
    """Check that the record beside ``weights/``, where there is one, is of a run that did all its steps.

    Raises:
        BadInput: it did not.
    """
    folder = weights.resolve().parent.parent
    files = sorted(folder.glob(f"{LearnRecord.FILES}-*.jsonl")) if _is_kept(weights, case) else []
    try:
        records = load(files, _ignore, _ignore, LearnRecord) if files else []
    except BadResults:
        return
    seen = [one.observed for one in records if one.case.key == case.key and one.observed is not None]
    if not seen:
        return
    end = ending(seen[-1].events)
    if end or not seen[-1].finished:
        how = f"{end.mark.value.replace('_', ' ')} at step {end.step:,}" if end else "not all steps done"
        raise BadInput(
            f"{weights} is of a run that went wrong ({how}), {case.label}: it is no trained model; train it again, "
            "with a smaller --lr."
        )


def _is_kept(weights: Path, case: LearnCase) -> bool:
    """Whether a file lies where a run puts its weights: its records are then two folders up."""
    return weights.resolve() == weights_path(replace(case, place=RunFiles("", str(weights.resolve().parent.parent))))


def _ignore(_sentence: str) -> None:
    """What is damaged in records is told by the commands that show them."""


def _read(weights: Path) -> tuple[LearnCase, dict[str, Tensor]]:
    """The run of a file of weights, without its place, and the weights, on the CPU.

    Raises:
        BadInput: the file cannot be read, or holds no run's weights.
    """
    try:
        return read_weights(weights)
    except ValueError as exc:
        raise BadInput(
            f"{weights} holds no weights of a finished run ({exc}): name a file of weights/ of learn."
        ) from exc


def load_trained(weights: Path, corpus: Path, kind: str) -> Trained:
    """The model of a file of weights.

    Args:
        corpus: the folder of the corpus that it learned from, for the vocabulary.
        kind: of device, ``cpu`` or ``cuda``.

    Raises:
        BadInput: as ``check_learned``; weights of another architecture; another corpus.
    """
    device = device_for(kind)
    manifest = read_manifest(corpus)
    case, tensors = _read(weights)
    _check_finished(weights, case)
    check_numbers(tensors, str(weights))
    if manifest.key != case.corpus:
        raise BadInput(f"{corpus} holds another corpus ({manifest.key}) than {weights} learned from ({case.corpus}).")
    asked = case.execution
    backends = asked.backends if asked.device == kind else {}
    case = replace(case, execution=replace(asked, device=kind, backends=backends), place=RunFiles(str(corpus), ""))
    model = build_model(case.step_case, resolve_backends(case.step_case))
    model.allocate(device, case.seed)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as exc:
        raise BadInput(
            f"{weights} does not hold the weights of {case.model.label}: {str(exc).splitlines()[-1]}"
        ) from exc
    return Trained(case, model.eval(), of_corpus(corpus, manifest.vocabulary.kind), device)
