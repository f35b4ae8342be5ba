"""formulas: FLOP formulas that two public counters lack, and closed forms of kernels they cannot look into.

    torch.utils.flop_counter    watches operators as they are dispatched. It knows matrix products, convolutions and
                                fused attention on GPUs. Causality is ignored (a causal product counts in full), and the
                                backward of a depthwise convolution of C channels counts (C+1)/2 times too much.
    fvcore                      traces a forward. It knows matrix products, convolutions, einsum and a few norms, and
                                counts a multiply-add as 1.

Both silently count an operator without a formula as 0. The formulas here are added to theirs: for torch, fused
attention on a CPU, sums with a product in place, and grouped products; for fvcore, fused attention, grouped products
and the loss, and an exact one for einsum, because its own reads a printout of four digits. A kernel outside the
dispatcher, such as a Triton kernel in a ``torch.autograd.Function``, is counted by a closed form of the shapes it is
called with: attention with full masks, as torch counts it, and the chunked scan as its kernels execute it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

from hybridbench.arch.block import Block
from hybridbench.arch.operations import HEAD
from hybridbench.operations.scan import IN_PIECES, ONE_PASS

# torch.utils.flop_counter: shapes in, FLOPs out


def _repeated(key_or_value_shape: Any, query_shape: Any) -> Any:
    """The shape of keys or values as if they were copied out to all query heads."""
    batch, _, length, width = key_or_value_shape
    return batch, query_shape[1], length, width


def _attention(query_shape: Any, key_shape: Any, value_shape: Any, *_: Any, **__: Any) -> int:
    keys, values = _repeated(key_shape, query_shape), _repeated(value_shape, query_shape)
    return int(sdpa_flop_count(query_shape, keys, values))


def _attention_backward(grad_shape: Any, query_shape: Any, key_shape: Any, value_shape: Any, *_: Any, **__: Any) -> int:
    keys, values = _repeated(key_shape, query_shape), _repeated(value_shape, query_shape)
    flops = sdpa_backward_flop_count(grad_shape, query_shape, keys, values)
    return int(flops)


def _product(_added_shape: Any, left_shape: Any, right_shape: Any, *_: Any, **__: Any) -> int:
    *rows, inner = left_shape
    return 2 * math.prod(int(size) for size in rows) * int(inner) * int(right_shape[-1])


def _grouped_product(left_shape: Any, right_shape: Any, *_: Any, **__: Any) -> int:
    """``torch._grouped_mm``: every row (or, where the right side has no groups, every column of a group) once."""
    groups = int(left_shape[0]) if len(left_shape) == 3 and len(right_shape) == 2 else 1
    return 2 * math.prod(int(size) for size in left_shape) * int(right_shape[-1]) // groups


# Torch's formula of fused attention fails on grouped heads before 2.13 (an assertion) and counts them as repeated heads
# since; that of a sum with a product into another dtype, as liger's loss makes, collides with its own argument.
_FUSED = [f"_scaled_dot_product_{name}_attention" for name in ("efficient", "flash", "cudnn")]
TORCH_FORMULAS: dict[Any, Callable[..., int]] = {
    **dict.fromkeys(
        (torch.ops.aten.addmm, torch.ops.aten.addmm_, torch.ops.aten.baddbmm, torch.ops.aten.baddbmm_), _product
    ),
    **{getattr(torch.ops.aten, name): _attention for name in _FUSED},
    **{getattr(torch.ops.aten, f"{name}_backward"): _attention_backward for name in _FUSED},
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    **({torch.ops.aten._grouped_mm: _grouped_product} if hasattr(torch.ops.aten, "_grouped_mm") else {}),
}
"""Operator to its formula, of those that ``torch.utils.flop_counter`` has none for or whose formula breaks there."""


def _sizes(left: Tensor, right: Tensor, *_: Any, **__: Any) -> tuple[int, int, int, int]:
    batch = left.shape[0] if left.dim() == right.dim() == 3 else 1
    return batch, left.shape[-2], right.shape[-1], left.shape[-1]


PRODUCT_SIZES: dict[Any, Callable[..., tuple[int, int, int, int]]] = {
    torch.ops.aten.mm: _sizes,
    torch.ops.aten.bmm: _sizes,
    **dict.fromkeys(
        (torch.ops.aten.addmm, torch.ops.aten.addmm_, torch.ops.aten.baddbmm, torch.ops.aten.baddbmm_),
        lambda _added, left, right, *_, **__: _sizes(left, right),
    ),
    **({torch.ops.aten._grouped_mm: _sizes} if hasattr(torch.ops.aten, "_grouped_mm") else {}),
}
"""Operator that is a matrix product to how its sizes follow from its arguments: batch, m, n, k."""


# fvcore: values of a traced graph in, multiply-adds out

# fvcore.nn.flop_count: operators whose handles count a multiply-add as 1. The others (batch_norm, layer_norm,
# group_norm, instance_norm, upsample_*, adaptive_avg_pool2d, grid_sampler) count single operations per element.
MULTIPLY_ADDS = frozenset({"addmm", "bmm", "conv", "einsum", "linear", "matmul", "mm"})


def _shape(value: Any) -> list[int]:
    return [int(size) for size in value.type().sizes()]


def _handle_attention(inputs: list[Any], _outputs: list[Any]) -> int:
    (*outer, length, width), keys, value = _shape(inputs[0]), _shape(inputs[1])[-2], _shape(inputs[2])[-1]
    return math.prod(outer) * length * keys * (width + value)


def _handle_einsum(inputs: list[Any], _outputs: list[Any]) -> int:
    """Multiply-adds: one per combination of all indices; none without a summed index, because nothing is added then."""
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


FVCORE_HANDLES: Mapping[str, Any] = {
    "aten::scaled_dot_product_attention": _handle_attention,
    "aten::einsum": _handle_einsum,
    "aten::_grouped_mm": _handle_grouped,
    "prim::PythonOp._ChunkedLinearCrossEntropy": _handle_loss,
    "prim::PythonOp._FusedLinearCrossEntropy": _handle_loss,
}
"""Operator to its handle, of those that fvcore has none for, or an inexact one; a multiply-add is 1, as in fvcore's own
products."""

_DOUBLED = MULTIPLY_ADDS | {name.partition("::")[2] for name in FVCORE_HANDLES}


def fvcore_flops(operator: str, count: float) -> int:
    """A count of fvcore's in FLOPs: doubled for the operators of which it counts multiply-adds."""
    return round(count * (2 if operator in _DOUBLED else 1))


# Closed forms


def is_one_pass(backend: str) -> bool:
    """Whether this backend of Mamba-2's scan is this package's; any other that is hidden is mamba_ssm's."""
    return backend in {ONE_PASS, IN_PIECES}


def closed_form(
    op: str, parts: tuple[str, ...], spec: Block | None, args: tuple[Any, ...], backend: str = ""
) -> dict[str, int]:
    """FLOPs by operation of a kernel that no counter can look into; empty where there is no formula for it.

    With gradients they are those of a training step.

    Args:
        op: the kernel's operation.
        parts: of the block's operations, those that the kernel computes, such as ``("conv", "scan")``.
        spec: the block it belongs to; None is the model itself.
        args: what the kernel is called with, of which the shapes of tensors are read.
        backend: its name, where that decides what is executed.
    """
    training = torch.is_grad_enabled()
    shapes = [tuple(int(size) for size in arg.shape) if isinstance(arg, Tensor) else () for arg in args]
    if op == "linear_cross_entropy":
        (tokens, width), words = shapes[0], shapes[1][0]
        return {HEAD: 2 * tokens * width * words * (3 if training else 1)}
    if spec is None:
        return {}
    step = op.endswith(("_step", "_decode"))
    return spec.kernel_flops(parts, shapes, step=step, training=training, one_pass=is_one_pass(backend))
