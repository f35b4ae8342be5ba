"""workload: a model and a case become a callable step: train, prefill, decode, generate."""

from __future__ import annotations

from collections.abc import Callable

from hybridbench.model.language import LanguageModel
from hybridbench.suite.case import Case
from hybridbench.suite.workloads import DECODE, GENERATE, PREFILL, TRAIN
from hybridbench.workload.at_size import Checker
from hybridbench.workload.decode import prepare_decode, prepare_generate
from hybridbench.workload.prefill import prepare_prefill
from hybridbench.workload.prepared import Prepared
from hybridbench.workload.train import prepare_train

PREPARE: dict[str, Callable[[Case, LanguageModel, Checker | None], Prepared]] = {
    TRAIN: prepare_train,
    PREFILL: prepare_prefill,
    DECODE: prepare_decode,
    GENERATE: prepare_generate,
}


def prepare(case: Case, model: LanguageModel, checker: Checker | None = None) -> Prepared:
    """The case's work on an allocated model, with everything allocated, captured and compiled. A checker checks it at
    its own size.

    Raises:
        WrongResult: the check failed.
    """
    work = PREPARE[case.workload.kind](case, model, checker)
    if checker is not None and work.check_at_size is not None:
        work.check_at_size(checker)
    return work


__all__ = ["Checker", "Prepared", "prepare"]
