"""What torch.compile believes of this package's operators, held to what they do."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

NAMESPACE = "hybridbench"


class HeldToFakes(TorchDispatchMode):
    """Every operator of ours called inside makes tensors of the shapes, strides and dtypes that its fake promises.

    A compiled graph reads an operator's output as what the fake says it is. Promised float32 where bfloat16 comes, it
    reads twice the memory there is: gradients of what lies behind, or an illegal access.
    """

    def __init__(self) -> None:
        super().__init__()
        self.checked: set[str] = set()
        self._seen: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func.namespace == NAMESPACE:
            kind = (func, *((x.dtype, x.dim()) if isinstance(x, Tensor) else x is None for x in args))
            if kind not in self._seen:
                self._seen.add(kind)
                self.checked.add(func._schema.name)
                own = tree_map_only(Tensor, lambda x: copy.deepcopy(x.detach()), args)
                torch.library.opcheck(func, own, kwargs or {}, test_utils="test_faketensor")
        return func(*args, **kwargs or {})


def operators() -> set[str]:
    """Names of this package's operators that are registered in this process."""
    return {name for name in torch._C._dispatch_get_all_op_names() if name.startswith(f"{NAMESPACE}::")}
