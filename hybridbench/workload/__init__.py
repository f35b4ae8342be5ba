"""workload: a model and a case become a callable step: train, prefill, decode, generate."""

from __future__ import annotations

from collections.abc import Callable

from hybridbench.model.language import LanguageModel
from hybridbench.suite import DECODE, GENERATE, PREFILL, TRAIN, Case
from hybridbench.workload.decode import prepare_decode, prepare_generate
from hybridbench.workload.prefill import prepare_prefill
from hybridbench.workload.prepared import Prepared
from hybridbench.workload.train import prepare_train

PREPARE: dict[str, Callable[[Case, LanguageModel], Prepared]] = {
    TRAIN: prepare_train,
    PREFILL: prepare_prefill,
    DECODE: prepare_decode,
    GENERATE: prepare_generate,
}


def prepare(case: Case, model: LanguageModel) -> Prepared:
    """The case's work on an allocated model, everything allocated, captured and compiled."""
    return PREPARE[case.workload.kind](case, model)


__all__ = ["Prepared", "prepare"]
