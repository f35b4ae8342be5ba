"""by_operation: what two public counters see of a step, operation by operation, with formulas for what they lack.

An operator belongs to the operation of the model whose Python called it: a projection is known by its weight, a kernel
by the module that holds it. In the backward pass it belongs to whatever made the autograd node that runs, found by the
node's sequence number. The names are those of ``arch.operations``.

    torch     every formula of ``FlopCounterMode`` unchanged, and those it lacks registered: fused attention on a CPU,
              sums with a product in place, grouped products, and kernels that pass no dispatcher by a closed form of
              the shapes they are called with (full masks, as torch counts attention; mamba_ssm's chunked scan)
    fvcore    a handle for fused attention, for grouped products and for the loss, an exact one for einsum (its own goes
              by a printout of four digits), a multiply-add doubled; forward only

What had no formula, elementwise work above all, is listed with how often it ran.
"""

from __future__ import annotations

import bisect
import contextlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, shape_wrapper

from hybridbench.arch.block import Block, Convention, Mixer
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.blocks.ssd_kernels import Chunked, OnePass
from hybridbench.arch.operations import HEAD
from hybridbench.arch.recurrent import Recurrent
from hybridbench.count.operators import (
    MENDED,
    MULTIPLY_ADDS,
    Arithmetic,
    Traced,
    grouped_backward,
    grouped_forward,
    has_entry,
    ignore_tracing_noise,
    is_free,
    operator_name,
    product_flops,
)
from hybridbench.count.replace import traced, unwatched
from hybridbench.errors import described
from hybridbench.kernels import Backend
from hybridbench.model.build import Resolved
from hybridbench.model.language import LanguageModel
from hybridbench.model.mamba2 import Mamba2Module
from hybridbench.model.mixer import MixerModule
from hybridbench.model.mlp import MlpModule
from hybridbench.model.moe import MoeModule
from hybridbench.model.parallel import ParallelModule
from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import ATTENTION, CONV, LOSS, MATMUL, SCAN
from hybridbench.operations.operation import REST as ELEMENTWISE
from hybridbench.operations.scan import ONE_PASS

Function = Callable[..., Any]

REST = "norms, activations, optimizer"
"""Where an operator belongs that is part of no operation with a closed form."""


@dataclass(frozen=True)
class Product:
    """One matrix product as it was dispatched: whose it is, and its sizes; ``batch`` of them."""

    operation: str
    batch: int
    m: int
    n: int
    k: int

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.m * self.n * self.k


@dataclass(frozen=True)
class Counted:
    """One counter's account of one step.

    Attributes:
        flops: by operation; those of ``formulas`` included.
        formulas: the part that closed forms registered here say, of kernels that the counter cannot look into.
        unseen: by operation, the operators that counted as nothing, with how often they ran.
        error: why there is no account.
    """

    counter: str
    flops: dict[str, int]
    formulas: dict[str, int]
    unseen: dict[str, dict[str, int]]
    error: str | None = None


# Which operation ------------------------------------------------------------------------------------------------------


def operation_of(op: str, spec: Block | None) -> str:
    """The operation of the model that a kernel's operation is."""
    spends = _spends(op)
    if spends == LOSS:
        return HEAD
    if spends == MATMUL:
        return "moe experts"
    part = _PART.get(spends)
    return f"{spec.name} {part}" if isinstance(spec, Mixer) and part else REST


def _spends(op: str) -> str | None:
    """The class of time of an operation; None of a decode step, which is many."""
    return OPERATIONS[op].spends if op in OPERATIONS else None


_PART: dict[str | None, str] = {ATTENTION: "core", CONV: "conv", SCAN: "scan"}
"""Class of time to the part of a mixer that it is."""


class _Weights:
    """The operation of a projection: by the parameter itself, else by the shape of what was made of it."""

    def __init__(self, model: LanguageModel) -> None:
        self._of_storage: dict[int, str] = {model.embedding_VD.untyped_storage().data_ptr(): HEAD}
        self._of_shape: dict[tuple[int, ...], str] = {}
        for layer in model.layers:
            for weight, operation in _projections(layer):
                self._of_storage[weight.untyped_storage().data_ptr()] = operation
                self._of_shape.setdefault(tuple(weight.shape), operation)
            for branch in _branches(layer):
                if isinstance(branch, Mamba2Module):
                    padded = branch.spec.in_columns(branch.borrows_value)
                    self._of_shape.setdefault((padded, model.d_model), "mamba2 in_proj")
            if isinstance(layer, ParallelModule):
                wide = layer.spec.first.out_width + layer.spec.second.out_width
                self._of_shape[model.d_model, wide] = "parallel out_proj"

    def known(self, weight: Tensor) -> str | None:
        """The operation of a parameter, or of a view of one."""
        return self._of_storage.get(weight.untyped_storage().data_ptr())

    def operation(self, weight: Tensor) -> str:
        """The operation of a weight, whatever was made of it."""
        return self.known(weight) or self._of_shape.get(tuple(int(size) for size in weight.shape), REST)


def _branches(layer: nn.Module) -> tuple[nn.Module, ...]:
    return (layer.first, layer.second) if isinstance(layer, ParallelModule) else (layer,)


def _projections(layer: nn.Module) -> Iterator[tuple[Tensor, str]]:
    """Weights of a layer's products, each with its operation."""
    out = "parallel" if isinstance(layer, ParallelModule) else None
    for module in _branches(layer):
        if isinstance(module, MixerModule):
            name = str(module.spec.name)
            for parameter in module.parameters():
                if parameter.dim() == 2:  # a conv's taps and a decay's logarithms too, which multiply no product
                    yield parameter, f"{name} in_proj"
            if module.out_proj is not None:
                yield module.out_proj.weight, f"{out or name} out_proj"
        elif isinstance(module, MlpModule):
            yield module.in_proj.weight, "mlp in_proj"
            yield module.out_proj.weight, "mlp out_proj"
        elif isinstance(module, MoeModule):
            yield module.router.weight, "moe router"
            for shared in (module.shared_in, module.shared_out):
                if shared is not None:
                    yield shared.weight, "moe shared experts"
    if isinstance(layer, ParallelModule):
        if layer.out_proj is not None:
            yield layer.out_proj.weight, "parallel out_proj"
        if layer.gate is not None:
            yield layer.gate.weight, "parallel gate"


class _Where:
    """Which operation the code that runs now belongs to."""

    def __init__(self) -> None:
        self._inside: list[str] = []
        self._starts: list[int] = []
        self._spans: list[tuple[int, str]] = []
        self.formulas: Counter[str] = Counter()
        self.hidden: Counter[tuple[str, str]] = Counter()
        self.products: list[Product] = []

    @contextlib.contextmanager
    def inside(self, operation: str) -> Iterator[None]:
        """For a while, all is ``operation``'s: operators, the autograd nodes they make, and nodes of a traced graph."""
        state: Any = torch._C._get_tracing_state()
        first = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
        self._inside.append(operation)
        if state is not None:
            state.push_scope(operation)
        try:
            yield
        finally:
            if state is not None:
                state.pop_scope()
            self._inside.pop()
            last = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
            if last > first and not self._inside:
                self._starts.append(first)
                self._spans.append((last, operation))

    @property
    def outside(self) -> bool:
        return not self._inside

    def operation(self) -> str:
        node: Any = torch._C._current_autograd_node()
        if node is None:
            return self._inside[-1] if self._inside else REST
        number = node._sequence_nr()
        place = bisect.bisect_right(self._starts, number) - 1
        if place >= 0 and number < self._spans[place][0]:
            return self._spans[place][1]
        return REST


@contextlib.contextmanager
def _followed(
    model: LanguageModel, resolved: list[Resolved], where: _Where, wrap: Callable[[str, Function], Function]
) -> Iterator[None]:
    """Every kernel and every projection of the model says whose it is while it runs; hidden kernels are wrapped."""
    weights = _Weights(model)
    backends = {(id(item.function), item.op): item.backend for item in resolved}
    tables: list[tuple[dict[str, Function], Any]] = []
    for module in model.modules():
        table: Any = getattr(module, "ops", None)
        if isinstance(table, dict):
            tables.append((table, getattr(module, "spec", None)))
    before = [dict(table) for table, _ in tables]
    linear, mm = F.linear, torch.mm

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

    try:
        for table, spec in tables:
            for op, function in table.items():
                backend = backends.get((id(function), op))
                if backend is not None:
                    table[op] = _calling(op, spec, backend, function, where, wrap)
        F.linear, torch.mm = projected, multiplied  # type: ignore[assignment]
        yield
    finally:
        F.linear, torch.mm = linear, mm
        for (table, _), functions in zip(tables, before, strict=True):
            table.update(functions)


def is_hidden(backend: Backend) -> bool:
    """Whether a kernel's arithmetic passes no dispatcher, or passes it as one operator without a formula."""
    return not backend.dispatched or (backend.op == "mamba2_core" and backend.name != "reference")


def _calling(
    op: str, spec: Any, backend: Backend, function: Function, where: _Where, wrap: Callable[[str, Function], Function]
) -> Function:
    operation = operation_of(op, spec)
    past = _spends(op) == ELEMENTWISE and backend.name != "reference"
    run = wrap(op, function) if is_hidden(backend) or past else function

    def call(*args: Any, **options: Any) -> Any:
        if is_hidden(backend):
            formula = registered(op, spec, args, backend.name)
            where.formulas.update(formula)
            if not formula:
                where.hidden[operation, f"{op} ({backend.name})"] += 1
        elif past or backend.package == "triton":
            where.hidden[operation, f"{op} ({backend.name})"] += 1
        with where.inside(operation):
            return run(*args, **options)

    return call


def is_one_pass(backend: str) -> bool:
    """Whether this backend of Mamba-2's scan is this package's; any other that is hidden is mamba_ssm's."""
    return backend == ONE_PASS


def scan_of(spec: Mamba2, backend: str, sequences: int) -> Chunked | OnePass:
    """What a backend's kernels of Mamba-2's scan execute, in tiles that are not autotuned."""
    return spec.scan_kernels(sequences, tiles=None if is_one_pass(backend) else {})


def registered(op: str, spec: Any, args: tuple[Any, ...], backend: str = "") -> dict[str, int]:
    """The closed form of a kernel no counter can look into, from the shapes it is called with, by operation.

    With gradients it is that of a training step. A kernel that nobody here has a formula for has none.

    Args:
        backend: its name, where that decides what is executed.
    """
    training = torch.is_grad_enabled()
    shapes = [tuple(int(size) for size in arg.shape) if isinstance(arg, Tensor) else () for arg in args]
    if isinstance(spec, Attention) and op == "attention":
        (batch, length, heads, width), keys, value = shapes[0], shapes[1][1], shapes[2][-1]
        channels = width + value + (3 * width + 2 * value if training else 0)
        return {operation_of(op, spec): 2 * batch * heads * length * keys * channels}
    if isinstance(spec, Attention) and op == "attention_decode":
        (batch, heads, width), slots, value = shapes[0], shapes[1][1], shapes[2][-1]
        return {operation_of(op, spec): 2 * batch * heads * slots * (width + value)}
    if isinstance(spec, Mamba2) and op in ("ssd", "mamba2_core", "conv1d"):
        batch, length = shapes[0][:2]
        conv = 2 * spec.d_conv * spec.conv_channels * length * (3 if training else 1)
        scan = sum(scan_of(spec, backend, batch).flops(length, training).values())
        both = {"mamba2 conv": batch * conv, "mamba2 scan": batch * scan}
        return {name: both[name] for name in both if op == "mamba2_core" or name == operation_of(op, spec)}
    if isinstance(spec, Mamba2) and op in ("ssd_step", "conv1d_step"):
        core = spec.core_decode(0, Convention.EXACT)
        return {operation_of(op, spec): shapes[0][0] * (core.scan if op == "ssd_step" else core.conv)}
    if isinstance(spec, Recurrent) and operation_of(op, spec).endswith(("scan", "conv")):
        one = spec.core_decode(0, Convention.EXACT)
        if op.endswith("_step"):
            return {operation_of(op, spec): shapes[0][0] * (one.conv if op.startswith("conv") else one.scan)}
        batch, length = shapes[0][:2]
        whole = (spec.core_train if training else spec.core_prefill)(length, Convention.HARDWARE)
        return {operation_of(op, spec): batch * (whole.conv if op.startswith("conv") else whole.scan)}
    if isinstance(spec, Moe) and op == "experts":
        tokens = shapes[0][0]
        return {"moe experts": tokens * spec.products()["moe experts"] * (3 if training else 1)}
    if op == "linear_cross_entropy":
        (tokens, width), words = shapes[0], shapes[1][0]
        return {HEAD: 2 * tokens * width * words * (3 if training else 1)}
    return {}


# torch.utils.flop_counter ---------------------------------------------------------------------------------------------


def _grouped_product(left_shape: Any, right_shape: Any, *_: Any, **__: Any) -> int:
    """``torch._grouped_mm``: every row (or, where the right side has no groups, every column of a group) once."""
    groups = int(left_shape[0]) if len(left_shape) == 3 and len(right_shape) == 2 else 1
    return 2 * math.prod(int(size) for size in left_shape) * int(right_shape[-1]) // groups


REGISTERED: dict[Any, Any] = {
    **MENDED,
    torch.ops.aten.addmm_: product_flops,
    torch.ops.aten.baddbmm_: product_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: grouped_forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: grouped_backward,
    **({torch.ops.aten._grouped_mm: _grouped_product} if hasattr(torch.ops.aten, "_grouped_mm") else {}),
}
"""Formulas that ``torch.utils.flop_counter`` lacks or that break there, of operators a dispatcher sees."""


class _Unseen(Arithmetic):  # type: ignore[no-untyped-call]
    """Counts arithmetic without a formula, by operation, and lists products in the order they are dispatched."""

    def __init__(self, where: _Where) -> None:
        super().__init__()
        self._where = where
        self.by_operation: dict[str, Counter[str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = getattr(func, "_overloadpacket", func)
        if packet in _SIZES:
            self._where.products.append(Product(self._where.operation(), *_SIZES[packet](*args)))
        elif not (has_entry(func) or packet in REGISTERED or is_free(func, args, kwargs, out)):
            self.by_operation.setdefault(self._where.operation(), Counter())[operator_name(func)] += 1
        return out


def _sizes(left: Tensor, right: Tensor, *_: Any, **__: Any) -> tuple[int, int, int, int]:
    batch = left.shape[0] if left.dim() == right.dim() == 3 else 1
    return batch, left.shape[-2], right.shape[-1], left.shape[-1]


_SIZES: dict[Any, Callable[..., tuple[int, int, int, int]]] = {
    torch.ops.aten.mm: _sizes,
    torch.ops.aten.bmm: _sizes,
    **dict.fromkeys(
        (torch.ops.aten.addmm, torch.ops.aten.addmm_, torch.ops.aten.baddbmm, torch.ops.aten.baddbmm_),
        lambda _added, left, right, *_, **__: _sizes(left, right),
    ),
    **({torch.ops.aten._grouped_mm: _sizes} if hasattr(torch.ops.aten, "_grouped_mm") else {}),
}


def count_with_torch(
    step: Callable[[], object], model: LanguageModel, resolved: list[Resolved]
) -> tuple[Counted, list[Product]]:
    """Runs one eager step under ``torch.utils.flop_counter``, with the formulas above registered.

    Returns:
        FLOPs by operation, and the products a dispatcher saw, in the order in which they started.
    """
    where = _Where()
    seen: Counter[str] = Counter()

    def recorded(formula: Function) -> Function:
        def call(*args: Any, **options: Any) -> int:
            flops = int(formula(*args, **options))
            seen[_as_conv(where.operation(), args)] += flops
            return flops

        call._get_raw = True  # type: ignore[attr-defined]
        return call

    formulas = {**flop_registry, **{op: shape_wrapper(formula) for op, formula in REGISTERED.items()}}  # type: ignore[no-untyped-call]
    mapping = {op: recorded(formula) for op, formula in formulas.items()}
    unseen = _Unseen(where)
    try:
        with _followed(model, resolved, where, unwatched), unseen:
            with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
                step()
            assert counter.get_total_flops() == seen.total()
    except (RuntimeError, TypeError, AssertionError) as exc:
        return Counted("torch", {}, {}, {}, described(exc)), []
    lists = {name: dict(operators) for name, operators in unseen.by_operation.items()}
    return Counted(
        "torch", dict(seen + where.formulas), dict(where.formulas), _with_hidden(lists, where)
    ), where.products


def _as_conv(operation: str, args: tuple[Any, ...]) -> str:
    """A convolution inside a kernel that does conv and scan is the conv's."""
    is_conv = operation == "mamba2 scan" and any(isinstance(arg, bool) for arg in args)
    return "mamba2 conv" if is_conv else operation


def _with_hidden(lists: dict[str, dict[str, int]], where: _Where) -> dict[str, dict[str, int]]:
    for (operation, kernel), times in where.hidden.items():
        lists.setdefault(operation, {})[kernel] = times
    return lists


# fvcore ---------------------------------------------------------------------------------------------------------------


def _shape(value: Any) -> list[int]:
    return [int(size) for size in value.type().sizes()]


def _handle_attention(inputs: list[Any], _outputs: list[Any]) -> int:
    (*outer, length, width), keys, value = _shape(inputs[0]), _shape(inputs[1])[-2], _shape(inputs[2])[-1]
    return math.prod(outer) * length * keys * (width + value)


def _handle_einsum(inputs: list[Any], _outputs: list[Any]) -> int:
    """Multiply-adds: one per combination of all indices; without a summed index it is no product, and none."""
    equation = inputs[0].toIValue().replace(" ", "")
    left, _, right = equation.partition("->")
    sizes: dict[str, int] = {}
    for letters, value in zip(left.split(","), inputs[1].node().inputs(), strict=True):
        sizes.update(zip(letters, _shape(value), strict=True))
    return math.prod(sizes.values()) if set(sizes) - set(right) else 0


def _handle_grouped(inputs: list[Any], _outputs: list[Any]) -> int:
    return _grouped_product(_shape(inputs[0]), _shape(inputs[1])) // 2


def _handle_loss(inputs: list[Any], _outputs: list[Any]) -> int:
    """Forward of a loss that multiplies by the head itself: hidden states N x D and a weight V x D."""
    shapes = [_shape(value) for value in inputs if value.isCompleteTensor()]
    (tokens, width), (words, _) = [shape for shape in shapes if len(shape) == 2][:2]
    return tokens * width * words


HANDLES: Mapping[str, Any] = {
    "aten::scaled_dot_product_attention": _handle_attention,
    "aten::einsum": _handle_einsum,
    "aten::_grouped_mm": _handle_grouped,
    "prim::PythonOp._ChunkedLinearCrossEntropy": _handle_loss,
    "prim::PythonOp._FusedLinearCrossEntropy": _handle_loss,
}
"""Handles that fvcore lacks, or has inexactly; they count a multiply-add once, as fvcore's own products do."""

_DOUBLED = MULTIPLY_ADDS | {name.partition("::")[2] for name in HANDLES}


def count_with_fvcore(
    forward: Function, inputs: tuple[Tensor, ...], model: LanguageModel, resolved: list[Resolved], names: list[str]
) -> Counted:
    """Traces one forward with ``fvcore.nn.FlopCountAnalysis``, with the handles above; never raises.

    Args:
        forward: a function of ``inputs``, which returns everything that is to count.
        names: the operations of the model.
    """
    where = _Where()
    names = [*dict.fromkeys([*names, REST])]
    try:
        with warnings.catch_warnings(), _followed(model, resolved, where, traced):
            ignore_tracing_noise()
            from fvcore.nn import FlopCountAnalysis

            module = Traced(model, forward)
            for name in names:
                module.add_module(name, nn.Module())
            analysis = FlopCountAnalysis(module, inputs).tracer_warnings("all")
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).set_op_handle(**HANDLES)
            counts = analysis.by_module_and_operator()
            unseen = {name: dict(analysis.unsupported_ops(name)) for name in names}
    except ImportError as exc:
        return Counted("fvcore", {}, {}, {}, f"fvcore cannot be imported ({exc}): pip install fvcore.")
    except Exception as exc:
        return Counted("fvcore", {}, {}, {}, f"the forward cannot be traced: {described(exc)}")
    found: Counter[str] = Counter()
    for name in names:
        for operator, count in counts[name].items():
            flops = round(count * (2 if operator in _DOUBLED else 1))
            found["mamba2 conv" if name == "mamba2 scan" and operator == "conv" else name] += flops
    everywhere = Counter(analysis.unsupported_ops())
    placed: Counter[str] = sum((Counter(one) for one in unseen.values()), Counter())
    unseen[REST] = dict(Counter(unseen[REST]) + (everywhere - placed))
    listed = {
        name: {op: times for op, times in one.items() if not op.startswith("hybridbench::")}
        for name, one in unseen.items()
    }
    listed = {name: one for name, one in listed.items() if one}
    found += where.formulas
    return Counted(
        "fvcore", dict(found), dict(where.formulas), _with_hidden({k: v for k, v in unseen.items() if v}, where)
    )
