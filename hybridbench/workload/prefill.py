"""prefill: one parallel forward over a prompt that fills the caches and yields the first token.

The head is applied to the last position only. The caches are allocated once, and every step overwrites them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hybridbench.model.language import LanguageModel
from hybridbench.suite.case import COMPILE, Case
from hybridbench.workload.at_size import Checker
from hybridbench.workload.compiled import verify_outputs
from hybridbench.workload.prepared import Prepared, present, random_tokens


def prepare_prefill(case: Case, model: LanguageModel, _checker: Checker | None = None) -> Prepared:
    """A step over ``batch`` prompts of ``context`` tokens."""
    work = case.workload
    token_BT = random_tokens(case, model, work.batch, work.context)
    caches = model.new_caches(work.batch, work.context, case.execution.storage)
    model.eval()

    def run(token: Tensor) -> Tensor:
        return model.prefill(token, caches)

    layers = model.compiled_layers() if case.execution.mode == COMPILE else {}

    def compiled() -> Tensor:
        with model.compiling(layers):
            return run(token_BT)

    def step() -> Tensor:
        with torch.no_grad():
            return model.pick(compiled())

    def eager_step() -> Tensor:
        with torch.no_grad():
            return model.pick(run(token_BT))

    return Prepared(
        step,
        eager_step,
        run,
        (token_BT,),
        caches=present(caches),
        capacity=work.context,
        check_at_size=lambda checker: checker.prefill(token_BT, caches),
        verify=(lambda: verify_outputs(model, lambda: run(token_BT), compiled, present(caches))) if layers else None,
    )
