"""decode: a decode step compared with the same step of one sequence, and every attention's output with the reference
implementation.

The first and the last sequence of a batch are decoded alone, over slices of the same caches and in the same mode: where
the batch's step is a captured graph, theirs is one too. Logits and states are compared. That alone would show little of
attention, whose output over many random keys is small beside the residual stream. So each attention's output is
compared with the reference implementation on the same queries and caches. A batch of one has no row to compare with:
there each kernel of the step is compared with its reference implementation on the step's own inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hybridbench.kernels import reference_of
from hybridbench.kernels.attention import reference
from hybridbench.model.cache import Cache, of_row, recurrent_states, states_compared, written
from hybridbench.model.language import LanguageModel
from hybridbench.model.moe import MoeModule
from hybridbench.model.swap import Function, swapped
from hybridbench.operations import OPERATIONS
from hybridbench.workload.at_size.errors import STEP, Errors, of_whole

if TYPE_CHECKING:
    from hybridbench.model.fused import FusedStep  # it needs triton


@dataclass
class StepOutcome:
    """What a step leaves of one sequence, by name."""

    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, logits_BV: Tensor, caches: Sequence[Cache], row: int) -> StepOutcome:
        """Copies of a row's logits and states; not of keys and values, to which a step only adds a token."""
        left = {"logits": logits_BV[row : row + 1], **states_compared([of_row(cache, row) for cache in caches])}
        return cls({name: tensor.clone() for name, tensor in left.items()})

    def compare(self, expected: StepOutcome, where: str, errors: Errors) -> None:
        """Notes the error of each tensor against the expected one."""
        for name, tensor in self.tensors.items():
            what = name.split(" of cache")[0]
            at = where if what == name else f"{where}, {name.removeprefix(f'{what} of ')}"
            errors.add(what, at, of_whole(tensor, expected.tensors[name]), STEP)


class Overwritten:
    """Copies of what steps overwrite in some rows, to be restored: states, tokens, and the slots of keys and values.

    Args:
        token_B: the tokens that steps read and overwrite.
        contexts: the contexts at which steps are taken.
    """

    def __init__(self, caches: Sequence[Cache], token_B: Tensor, rows: Sequence[int], contexts: Sequence[int]) -> None:
        slots = [tensor for cache in caches for context in contexts for tensor in written(cache, context)]
        tensors = [*recurrent_states(list(caches)), *slots, token_B]
        self._parts = [tensor[row : row + 1] for tensor in tensors for row in rows]
        self._values = [part.clone() for part in self._parts]

    def put_back(self) -> None:
        """Restores all of them."""
        for part, value in zip(self._parts, self._values, strict=True):
            part.copy_(value)


def compare_reads(plan: FusedStep, rows: Sequence[int], errors: Errors) -> None:
    """Compares every attention of a fused step that has just run with the reference implementation."""
    for index, read in enumerate(plan.reads):
        for row in rows:
            part = slice(row, row + 1)
            keys_values = read.cache.keys_values(part)
            expected = reference.attention_decode(read.q_BHP[part], *keys_values, read.length_B[part]).float()
            if read.norm_eps is not None:
                expected = torch.nn.functional.rms_norm(expected, expected.shape[-1:], None, read.norm_eps)
            where = f"attention {index + 1}, row {row + 1}"
            errors.add("what attention reads", where, of_whole(read.out_BHV[part], expected))


class Beside:
    """Runs a model's step with each kernel compared with its reference implementation on the step's own inputs.

    Args:
        rows: the rows whose attention is compared.
        every: compare all operations, not only attention.
    """

    def __init__(self, functions: Sequence[Function], rows: Sequence[int], errors: Errors, *, every: bool) -> None:
        self._functions = functions
        self._rows = rows
        self._errors = errors
        self._every = every
        self._calls: dict[str, int] = {}

    def run(self, model: LanguageModel, step: Callable[[], object]) -> None:
        """Runs one step module by module."""
        with swapped(model, self._functions, self._watched), torch.no_grad():
            step()

    def _watched(self, op: str, function: Function) -> Function:
        plain: Function = reference_of(op)
        operation = OPERATIONS[op]
        angles = {index for index, tensor in enumerate(operation.tensors) if tensor.name in operation.angles}

        def attention(*given: Tensor) -> Any:
            out = function(*given)
            where = self._where("attention")
            for row in (row for row in self._rows if row < len(out)):  # quantised caches are read some rows at a time
                part = [x[row : row + 1] for x in given]
                if len(part) < 4:  # a growing cache is read whole
                    part.append(torch.full((1,), part[1].shape[1], dtype=torch.int32, device=part[1].device))
                error = of_whole(out[row : row + 1], plain(*part))
                self._errors.add("what attention reads", f"{where}, row {row + 1}", error)
            return out

        def other(*given: Any, **options: Any) -> Any:
            copies = [x.clone() if isinstance(x, Tensor) else x for x in given]
            out, expected = function(*given, **options), plain(*copies, **options)
            where = self._where(op)
            for at, made, wanted in _by_output(where, out, expected):
                self._errors.add(f"output of {op}", at, of_whole(made, wanted))
            for index, (one, copy) in enumerate(zip(given, copies, strict=True)):
                if isinstance(one, Tensor) and not torch.equal(one, copy):  # a state, updated in place
                    if index in angles:
                        one, copy = (torch.stack((x.cos(), x.sin()), -1) for x in (one, copy))
                    self._errors.add(f"state of {op}", f"{where}, argument {index + 1}", of_whole(one, copy))
            return out

        return attention if op == "attention_decode" else other if self._every else function

    def _where(self, op: str) -> str:
        self._calls[op] = self._calls.get(op, 0) + 1
        return f"{op} {self._calls[op]}"


def _by_output(where: str, out: Any, expected: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each output of a call with the expected one, and where it is."""
    if isinstance(out, Tensor):
        yield where, out, expected
        return
    for number, (made, wanted) in enumerate(zip(out, expected, strict=True), 1):
        yield f"{where}, output {number}", made, wanted


def routed(model: LanguageModel, step: Callable[[], object]) -> dict[MoeModule, Tensor]:
    """Runs one step; the experts that each router of the model chooses for the batch."""
    modules = [layer for layer in model.layers if isinstance(layer, MoeModule)]
    if not modules:
        return {}
    for module in modules:
        module.replaying = True
    step()
    chosen = {module: module.chosen_NK for module in modules if module.chosen_NK is not None}
    for module in modules:
        module.replaying, module.chosen_NK = False, None
    return chosen


@contextmanager
def replayed(routes: dict[MoeModule, Tensor], row: int) -> Iterator[None]:
    """Inside, routers choose for one sequence the experts that they chose for it in the batch."""
    for module, chosen_BK in routes.items():
        module.replay_NK = chosen_BK[row : row + 1]
    try:
        yield
    finally:
        for module in routes:
            module.replay_NK = None
