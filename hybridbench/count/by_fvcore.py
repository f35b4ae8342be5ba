"""by_fvcore: one forward traced by fvcore, with the handles it lacks.

The tracer drops work that no output depends on, such as a state written to a cache for later, unless the forward
returns that tensor too.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from hybridbench.count.account import FVCORE, REST, Account
from hybridbench.count.by_torch import UNCOUNTABLE
from hybridbench.count.formulas import FVCORE_HANDLES, fvcore_flops
from hybridbench.count.replace import traced, tracing
from hybridbench.count.whose import Where, followed, with_conv, with_hidden
from hybridbench.errors import described
from hybridbench.model.build import Resolved
from hybridbench.model.language import LanguageModel


def count_with_fvcore(
    forward: Callable[..., object],
    inputs: tuple[Tensor, ...],
    owner: nn.Module,
    model: LanguageModel | None = None,
    resolved: Sequence[Resolved] = (),
) -> Account:
    """Traces one forward with ``fvcore.nn.FlopCountAnalysis``, with the handles of ``formulas``.

    Args:
        forward: a function of ``inputs``, which returns everything that is to count.
        inputs: what it is called with.
        owner: what holds the parameters.
        model: the model of the forward; each operator is counted under its operation. Without it all is ``REST``.
        resolved: the kernels that the model runs.

    Returns:
        The account, a multiply-add as 2, or the reason why the trace failed.
    """
    where = Where()
    try:
        with warnings.catch_warnings(), tracing(), followed(model, resolved, where, traced):
            _ignore_tracing_noise()
            from fvcore.nn import FlopCountAnalysis

            module = _Traced(owner, forward)
            names = sorted(where.operations)
            for name in names:
                module.add_module(name, nn.Module())
            analysis = FlopCountAnalysis(module, inputs).tracer_warnings("all")
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).set_op_handle(**FVCORE_HANDLES)
            counts = {name: _whole(found) for name, found in analysis.by_module_and_operator().items()}
            unseen = {name: Counter(analysis.unsupported_ops(name)) for name in names}
            unseen_anywhere = Counter(analysis.unsupported_ops())
    except ImportError as exc:
        return Account(FVCORE, error=f"fvcore cannot be imported ({exc}): pip install fvcore.")
    except UNCOUNTABLE as exc:
        return Account(FVCORE, error=f"the forward cannot be traced: {described(exc)}")
    found = _placed(counts, names) + where.formulas
    unseen[REST] += unseen_anywhere - sum(unseen.values(), Counter())
    lists = {name: _arithmetic(operators) for name, operators in unseen.items()}
    lists = {name: operators for name, operators in lists.items() if operators}
    return Account(FVCORE, dict(found), dict(where.formulas), with_hidden(lists, where))


def _whole(counts: Counter[str]) -> Counter[str]:
    return Counter({operator: fvcore_flops(operator, count) for operator, count in counts.items()})


def _placed(counts: dict[str, Counter[str]], names: Sequence[str]) -> Counter[str]:
    """FLOPs by operation; those outside every operation are ``REST``."""
    found: Counter[str] = Counter()
    for name in names:
        for operator, flops in counts[name].items():
            found[with_conv(name, operator == "conv")] += flops
    found[REST] += counts[""].total() - found.total()
    return +found


def _arithmetic(operators: Counter[str]) -> dict[str, int]:
    """The operators without those that stand for hidden kernels, which have a formula or are listed by name."""
    return {name: times for name, times in operators.items() if not name.startswith("hybridbench::")}


class _Traced(torch.nn.Module):
    """A module for the tracer around any function: it holds the parameters and returns nothing but tensors."""

    def __init__(self, owner: torch.nn.Module, function: Callable[..., object]) -> None:
        super().__init__()
        self.owner = owner
        self._function = function

    @override
    def forward(self, *args: Any) -> tuple[torch.Tensor, ...]:
        outputs = tuple(_tensors(self._function(*args)))
        if not outputs:
            raise ValueError("it returns no tensor, and the tracer drops all work that no output depends on")
        return outputs


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested sequences, dicts and dataclasses."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif dataclasses.is_dataclass(leaf):
            yield from _tensors([getattr(leaf, field.name) for field in dataclasses.fields(leaf)])


def _ignore_tracing_noise() -> None:
    # fvcore calls torch.jit.script when imported and torch.jit's tracer after, both deprecated since torch 2.13.
    warnings.filterwarnings("ignore", message=r".*torch\.jit", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=TracerWarning)
