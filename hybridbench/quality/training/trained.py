"""trained: a finished run's weights as a model that runs, with the vocabulary that it was trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from hybridbench.errors import BadInput
from hybridbench.model.build import build_model, resolve_backends
from hybridbench.model.language import LanguageModel
from hybridbench.quality.corpus.manifest import read_manifest
from hybridbench.quality.corpus.vocabulary import Vocabulary, of_corpus
from hybridbench.quality.training.case import LearnCase, RunFiles
from hybridbench.session import device_for


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


def load_trained(weights: Path, corpus: Path, kind: str) -> Trained:
    """The model of a file of weights.

    Args:
        corpus: the folder of the corpus that it learned from, for the vocabulary.
        kind: of device, ``cpu`` or ``cuda``.

    Raises:
        BadInput: the file cannot be read, holds no run's weights or those of another architecture; another corpus.
    """
    device = device_for(kind)
    manifest = read_manifest(corpus)
    try:
        with safe_open(weights, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        if "place" in (body := json.loads(header["case"])):
            raise ValueError("its case has a place")
        case = LearnCase.from_dict({**body, "place": {"corpus": str(corpus), "out": ""}})
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as exc:
        said = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise BadInput(
            f"{weights} holds no weights of a finished run ({said}): name a file of weights/ of learn."
        ) from exc
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
