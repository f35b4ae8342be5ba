"""by_torch: one eager step under ``torch.utils.flop_counter``, with the formulas it lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, shape_wrapper
from typing_extensions import override

from hybridbench.count.account import TORCH, Account, Product
from hybridbench.count.arithmetic import is_free, operator_name
from hybridbench.count.formulas import PRODUCT_SIZES, TORCH_FORMULAS
from hybridbench.count.replace import unwatched
from hybridbench.count.whose import Where, followed, with_conv, with_hidden
from hybridbench.errors import described
from hybridbench.model.build import Resolved
from hybridbench.model.language import LanguageModel
from hybridbench.model.swap import Function

UNCOUNTABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Errors of a step that cannot run under a counter: operators of higher order do not support it, and kernels that get
tensors in place of sizes raise errors of any type."""


def count_with_torch(
    step: Callable[[], object], model: LanguageModel | None = None, resolved: Sequence[Resolved] = ()
) -> tuple[Account, list[Product]]:
    """Runs one eager step under ``torch.utils.flop_counter``, with the formulas of ``formulas`` registered.

    Args:
        step: forward, or forward and backward, not compiled and not captured. An error of its own is raised when the
            step is run again to be timed.
        model: the model of the step; each operator is counted under its operation. Without it all is ``REST``.
        resolved: the kernels that the model runs.

    Returns:
        The account, and the products a dispatcher saw, in the order in which they started.
    """
    where = Where()
    seen: Counter[str] = Counter()

    def recorded(formula: Function) -> Function:
        def call(*args: Any, **options: Any) -> int:
            flops = int(formula(*args, **options))
            # Of the formulas' arguments only a convolution's hold a flag: whether it is transposed.
            seen[with_conv(where.operation(), any(isinstance(arg, bool) for arg in args))] += flops
            return flops

        call._get_raw = True  # type: ignore[attr-defined]
        return call

    formulas = {**flop_registry, **{operator: shape_wrapper(formula) for operator, formula in TORCH_FORMULAS.items()}}
    mapping = {operator: recorded(formula) for operator, formula in formulas.items()}
    unseen = _Unseen(where)
    try:
        # Entered first, so that it is asked last: FlopCounterMode takes composite operators apart before it passes them
        # on.
        with followed(model, resolved, where, unwatched), unseen:
            with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
                step()
            assert counter.get_total_flops() == seen.total()
    except UNCOUNTABLE as exc:
        return Account(TORCH, error=described(exc)), []
    lists = {name: dict(operators) for name, operators in unseen.by_operation.items()}
    flops = {name: count for name, count in (seen + where.formulas).items() if count}
    return Account(TORCH, flops, dict(where.formulas), with_hidden(lists, where)), where.products


class _Unseen(TorchDispatchMode):
    """Counts arithmetic without a formula, by operation, and lists products in the order they are dispatched."""

    supports_higher_order_operators = True

    def __init__(self, where: Where) -> None:
        TorchDispatchMode.__init__(self)
        self._where = where
        self.by_operation: dict[str, Counter[str]] = {}

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = getattr(func, "_overloadpacket", func)
        if packet in PRODUCT_SIZES:
            self._where.products.append(Product(self._where.operation(), *PRODUCT_SIZES[packet](*args)))
        elif not (packet in flop_registry or packet in TORCH_FORMULAS or is_free(func, args, kwargs, out)):
            self.by_operation.setdefault(self._where.operation(), Counter())[operator_name(func)] += 1
        return out
