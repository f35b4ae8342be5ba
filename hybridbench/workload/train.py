"""train: one training step: forward, loss over a head whose logits never exist whole, backward, AdamW in one pass.

Batches of random tokens rotate, so that no step has the same data as the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hybridbench.model.language import LanguageModel
from hybridbench.sizes import TRAIN_BATCHES
from hybridbench.suite.case import COMPILE, Case
from hybridbench.workload.at_size import Checker
from hybridbench.workload.compiled import verify_gradients
from hybridbench.workload.prepared import Prepared, random_tokens

LEARNING_RATE = 3e-4


def prepare_train(case: Case, model: LanguageModel, _checker: Checker | None = None) -> Prepared:
    """A step over ``batch`` sequences of ``context`` tokens, each predicting its next token."""
    work = case.workload
    data = random_tokens(case, model, TRAIN_BATCHES, work.batch, work.context + 1, divided=True)
    optimizer: torch.optim.Optimizer = model.ops["adamw"](model.parameters(), lr=LEARNING_RATE)
    state: dict[str, Any] = {"turn": 0, "loss": None}
    model.train()

    def run(forward: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        batch = data[state["turn"] % TRAIN_BATCHES]
        state["turn"] += 1
        # None instead of zeros: the backward then stores its gradients instead of adding them to zeroed memory.
        optimizer.zero_grad(set_to_none=True)
        loss = forward(batch[:, :-1], batch[:, 1:])
        torch.autograd.backward(loss)
        optimizer.step()
        model.balance_experts()
        state["loss"] = loss.detach()
        return loss

    first = (data[0, :, :-1], data[0, :, 1:])
    layers = model.compiled_layers() if case.execution.mode == COMPILE else {}

    def step() -> Tensor:
        with model.compiling(layers):
            return run(model.loss)

    return Prepared(
        step=step,
        eager_step=lambda: run(model.loss),
        forward=model.loss,
        inputs=first,
        optimizer=optimizer,
        loss=lambda: float(state["loss"]),
        check_at_size=lambda checker: checker.train(*first),
        verify=(lambda: verify_gradients(model, layers, lambda: model.loss(*first))) if layers else None,
    )
