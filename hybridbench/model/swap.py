"""swap: a model's operations exchanged for a while for others of the same signature."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

Function = Callable[..., Any]


@contextlib.contextmanager
def swapped(
    model: nn.Module, functions: Iterable[Function], wrap: Callable[[str, Function], Function]
) -> Iterator[None]:
    """Inside, ``wrap(op, function)`` replaces each of the model's operations that is among ``functions``."""
    wanted = {id(function) for function in functions}
    tables: list[dict[str, Function]] = []
    for module in model.modules():
        table = getattr(module, "ops", None)
        if isinstance(table, dict):
            tables.append(table)
    before = [dict(table) for table in tables]
    try:
        for table in tables:
            table.update({op: wrap(op, function) for op, function in table.items() if id(function) in wanted})
        yield
    finally:
        for table, functions_before in zip(tables, before, strict=True):
            table.update(functions_before)
