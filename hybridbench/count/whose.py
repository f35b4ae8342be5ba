"""whose: which operation of a model the code that runs now belongs to.

An operator belongs to the operation whose Python called it: a projection is known by its weight, a kernel by the module
that holds it. In the backward pass it belongs to whatever made the autograd node that runs, found by the node's
sequence number. Operations are named as in ``arch.operations``.
"""

from __future__ import annotations

import bisect
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hybridbench.arch.block import Block
from hybridbench.arch.operations import HEAD
from hybridbench.count.account import REST, Product
from hybridbench.count.formulas import closed_form
from hybridbench.kernels import Backend
from hybridbench.model.build import Resolved
from hybridbench.model.language import LanguageModel
from hybridbench.model.swap import Function
from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import ATTENTION, CONV, LOSS, MATMUL, SCAN
from hybridbench.operations.operation import REST as ELEMENTWISE

_PART: dict[str | None, str] = {ATTENTION: "core", CONV: "conv", SCAN: "scan", MATMUL: "experts"}
"""Class of time to the part of a block that spends it."""


def _spends(op: str) -> str | None:
    """The class of time of a kernel's operation; None for a decode step, which has operations of many classes."""
    return OPERATIONS[op].spends if op in OPERATIONS else None


def operation_of(op: str, spec: Block | None) -> str:
    """The operation of the model that a kernel's operation is part of."""
    spends = _spends(op)
    if spends == LOSS:
        return HEAD
    part = _PART.get(spends)
    return f"{spec.name} {part}" if spec is not None and part else REST


def parts_of(op: str) -> tuple[str, ...]:
    """The parts of a block that a kernel's operation computes."""
    if op == "mamba2_core":
        return "conv", "scan"
    part = _PART.get(_spends(op))
    return (part,) if part else ()


def is_hidden(backend: Backend) -> bool:
    """Whether a kernel's arithmetic passes no dispatcher, or passes it as one operator without a formula."""
    return not backend.dispatched or (backend.op == "mamba2_core" and backend.name != "reference")


class _Weights:
    """The operation of a product: by the parameter itself, else by the shape of what was made of it."""

    def __init__(self, model: LanguageModel) -> None:
        self._of_storage: dict[int, str] = {model.embedding_VD.untyped_storage().data_ptr(): HEAD}
        self._of_shape: dict[tuple[int, ...], str] = {}
        for layer in model.blocks:
            for weight, operation in layer.products():
                self._of_storage[weight.untyped_storage().data_ptr()] = operation
                self._of_shape.setdefault(tuple(weight.shape), operation)
            self._of_shape |= layer.made_for_products()

    @property
    def operations(self) -> set[str]:
        """Every operation that has a weight."""
        return {*self._of_storage.values(), *self._of_shape.values()}

    def known(self, weight: Tensor) -> str | None:
        """The operation of a parameter, or of a view of one."""
        return self._of_storage.get(weight.untyped_storage().data_ptr())

    def operation(self, weight: Tensor) -> str:
        """The operation of a weight, whatever was made of it."""
        return self.known(weight) or self._of_shape.get(tuple(int(size) for size in weight.shape), REST)


class Where:
    """Which operation the code that runs now belongs to."""

    def __init__(self) -> None:
        self._inside: list[str] = []
        self._starts: list[int] = []
        self._spans: list[tuple[int, str]] = []
        self.operations: set[str] = {REST}
        self.formulas: Counter[str] = Counter()
        self.hidden: Counter[tuple[str, str]] = Counter()
        self.products: list[Product] = []

    @contextlib.contextmanager
    def inside(self, operation: str) -> Iterator[None]:
        """Inside it, operators, their autograd nodes and nodes of a traced graph belong to ``operation``."""
        state: Any = torch._C._get_tracing_state()
        first = _autograd._get_sequence_nr()
        self._inside.append(operation)
        if state is not None:
            state.push_scope(operation)
        try:
            yield
        finally:
            if state is not None:
                state.pop_scope()
            self._inside.pop()
            last = _autograd._get_sequence_nr()
            if last > first and not self._inside:
                self._starts.append(first)
                self._spans.append((last, operation))

    @property
    def outside(self) -> bool:
        """Whether no operation is known for the code that runs now."""
        return not self._inside

    def operation(self) -> str:
        """The operation of what runs now."""
        node: Any = torch._C._current_autograd_node()
        if node is None:
            return self._inside[-1] if self._inside else REST
        number = node._sequence_nr()
        place = bisect.bisect_right(self._starts, number) - 1
        if place >= 0 and number < self._spans[place][0]:
            return self._spans[place][1]
        return REST


_autograd: Any = torch.autograd  # its numbers of nodes are missing from torch's own types

Wrap = Callable[[str, Function], Function]
"""``wrap(op, function)``: a kernel as a counter is to meet it."""


@contextlib.contextmanager
def followed(model: LanguageModel | None, resolved: Sequence[Resolved], where: Where, wrap: Wrap) -> Iterator[None]:
    """Inside, every kernel and product of the model belongs to its operation while it runs; hidden kernels are wrapped.

    Args:
        model: what runs; None where nothing is known of it, so that all of it is ``REST``.
        resolved: the kernels that it runs.
        where: is told what runs.
        wrap: makes of a hidden kernel what a counter can pass.
    """
    if model is None:
        yield
        return
    weights = _Weights(model)
    where.operations |= weights.operations
    with _kernels_followed(model, resolved, where, wrap), _products_followed(weights, where):
        yield


@contextlib.contextmanager
def _products_followed(weights: _Weights, where: Where) -> Iterator[None]:
    linear, mm = functional.linear, torch.mm

    def projected(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not where.outside:
            return linear(x, weight, bias)
        with where.inside(weights.operation(weight)):
            return linear(x, weight, bias)

    def multiplied(left: Tensor, right: Tensor, **options: Any) -> Tensor:
        operation = weights.known(left) if where.outside else None
        if operation is None:
            return mm(left, right, **options)
        with where.inside(operation):
            return mm(left, right, **options)

    functional.linear, torch.mm = projected, multiplied  # type: ignore[assignment]
    try:
        yield
    finally:
        functional.linear, torch.mm = linear, mm


@contextlib.contextmanager
def _kernels_followed(model: LanguageModel, resolved: Sequence[Resolved], where: Where, wrap: Wrap) -> Iterator[None]:
    backends = {(id(item.function), item.op): item.backend for item in resolved}
    tables: list[tuple[dict[str, Function], Block | None]] = []
    for module in model.modules():
        table: Any = getattr(module, "ops", None)
        if isinstance(table, dict):
            tables.append((table, getattr(module, "spec", None)))
    before = [dict(table) for table, _ in tables]
    try:
        for table, spec in tables:
            for op, function in table.items():
                backend = backends.get((id(function), op))
                if backend is not None:
                    table[op] = _calling(op, spec, backend, function, where, wrap)
        yield
    finally:
        for (table, _), functions in zip(tables, before, strict=True):
            table.update(functions)


def _calling(op: str, spec: Block | None, backend: Backend, function: Function, where: Where, wrap: Wrap) -> Function:
    operation, hidden = operation_of(op, spec), is_hidden(backend)
    where.operations.add(operation)
    past = _spends(op) == ELEMENTWISE and backend.name != "reference"
    run = wrap(op, function) if hidden or past else function
    told = f"{op} ({backend.name})"

    def call(*args: Any, **options: Any) -> Any:
        formula = closed_form(op, parts_of(op), spec, args, backend.name) if hidden else {}
        where.formulas.update(formula)
        if not formula and (hidden or past or backend.package == "triton"):
            where.hidden[operation, told] += 1
        with where.inside(operation):
            return run(*args, **options)

    return call


def with_conv(operation: str, is_conv: bool) -> str:
    """The operation of an operator inside a kernel that does conv and scan: a convolution is the conv's."""
    mixer, _, part = operation.rpartition(" ")
    return f"{mixer} conv" if is_conv and part == "scan" else operation


def with_hidden(lists: dict[str, dict[str, int]], where: Where) -> dict[str, dict[str, int]]:
    """The operators that counted as nothing, with the kernels without a formula."""
    for (operation, kernel), times in where.hidden.items():
        lists.setdefault(operation, {})[kernel] = times
    return lists
