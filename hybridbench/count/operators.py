"""operators: FLOPs of a step by two public counters, each with the operations it counted as nothing.

Both counters know a table of operators and take everything else for free, without a word. What they miss is listed
here, so that a count of 0 for a Triton scan does not pass for a fast one:

    torch.utils.flop_counter    watches operators as they are dispatched. Knows matrix products, convolutions and fused
                                attention on GPUs. Causality is ignored (a causal product counts in full), the backward
                                of a depthwise convolution of C channels counts (C+1)/2 times too much, and CPU
                                attention counts 0.
    fvcore                      traces a forward. Knows matrix products, convolutions, einsum and a few norms, counts a
                                multiply-add as 1 (doubled here), and takes fused attention for free. The tracer drops
                                work that no output depends on, such as a state written to a cache for later, unless
                                the forward returns that tensor too.

Neither sees a kernel that is launched past the dispatcher, as Triton kernels in a ``torch.autograd.Function`` are, so
the caller names those. Neither sees inside a replayed CUDA graph, so what is counted is the eager step.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.jit._trace import TracerWarning
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from hybridbench.errors import described
from hybridbench.record import OperatorCount

# Operators that move, select, compare or make numbers but do no floating-point arithmetic. Views need no entry: their
# schema says what they are. Neither do overloads that end in an underscore or operators on integers only.
_MOVES = (
    "_local_scalar_dense _pin_memory _reshape_alias _reshape_copy _to_copy _unsafe_index _unsafe_index_put "
    "_unsafe_view alias_copy as_strided_copy cat clone constant_pad_nd contiguous copy detach_copy diag_embed "
    "diagonal_copy diagonal_scatter embedding expand_copy flip gather index index_copy index_fill index_put "
    "index_select lift lift_fresh lift_fresh_copy masked_fill masked_scatter masked_select narrow_copy nonzero "
    "pad permute_copy record_stream repeat repeat_interleave resize roll scatter select_copy select_scatter set "
    "slice_copy slice_scatter split_copy split_with_sizes_copy squeeze_copy stack t_copy take transpose_copy tril "
    "triu unbind_copy unfold_copy unsafe_split unsafe_split_with_sizes unsqueeze_copy view_copy where "
)
_MAKES = (
    "arange bernoulli empty empty_like empty_permuted empty_strided eye fill full full_like linspace multinomial "
    "new_empty new_empty_strided new_full new_ones new_zeros normal ones ones_like rand rand_like randint "
    "randint_like randn randn_like random randperm scalar_tensor uniform zero zeros zeros_like "
)
_COMPARES = (
    "_fused_sdp_choice all amax amin any argmax argmin argsort bucketize equal eq ge gt isfinite isin isinf isnan "
    "is_same_size le logical_and logical_not logical_or lt max maximum min minimum ne searchsorted sort topk "
)
_FREE = frozenset((_MOVES + _MAKES + _COMPARES).split())

# fvcore.nn.flop_count: operators whose handles count a multiply-add as 1. The others (batch_norm, layer_norm,
# group_norm, instance_norm, upsample_*, adaptive_avg_pool2d, grid_sampler) count single operations per element.
MULTIPLY_ADDS = frozenset({"addmm", "bmm", "conv", "einsum", "linear", "matmul", "mm"})


def _repeated(key_or_value_shape: Any, query_shape: Any) -> Any:
    """The shape of keys or values as if they were copied out to all query heads."""
    batch, _, length, width = key_or_value_shape
    return batch, query_shape[1], length, width


def grouped_forward(query_shape: Any, key_shape: Any, value_shape: Any, *_: Any, **__: Any) -> int:
    keys, values = _repeated(key_shape, query_shape), _repeated(value_shape, query_shape)
    return int(sdpa_flop_count(query_shape, keys, values))  # type: ignore[no-untyped-call]


def grouped_backward(grad_shape: Any, query_shape: Any, key_shape: Any, value_shape: Any, *_: Any, **__: Any) -> int:
    keys, values = _repeated(key_shape, query_shape), _repeated(value_shape, query_shape)
    flops = sdpa_backward_flop_count(grad_shape, query_shape, keys, values)  # type: ignore[no-untyped-call]
    return int(flops)


def product_flops(_added_shape: Any, left_shape: Any, right_shape: Any, *_: Any, **__: Any) -> int:
    *rows, inner = left_shape
    return 2 * math.prod(int(size) for size in rows) * int(inner) * int(right_shape[-1])


# Where torch's own formulas break, the same ones that do not. Its fused attention refuses grouped heads before 2.13 (an
# assertion) and counts them as repeated heads since; a sum with a product into another dtype, as liger's loss makes,
# collides with the formula's own argument (a TypeError).
_FUSED = ("efficient", "flash", "cudnn")
MENDED: dict[Any, Any] = {
    torch.ops.aten.addmm: product_flops,
    torch.ops.aten.baddbmm: product_flops,
    **{getattr(torch.ops.aten, f"_scaled_dot_product_{name}_attention"): grouped_forward for name in _FUSED},
    **{getattr(torch.ops.aten, f"_scaled_dot_product_{name}_attention_backward"): grouped_backward for name in _FUSED},
}


def count_with_torch(step: Callable[[], object], python_ops: Iterable[str] = ()) -> OperatorCount:
    """Runs one eager step under ``torch.utils.flop_counter`` and lists the arithmetic it has no entry for.

    Args:
        step: forward, or forward and backward, not compiled and not captured. An error of its own is raised when the
            step is run again to be timed.
        python_ops: one name per run of an operation whose kernels do not pass through the dispatcher.

    Returns:
        The counter's FLOPs (a multiply-add is 2), or the error with which the step does not run under it: operators of
        higher order, FlexAttention among them, refuse to.
    """
    seen = Arithmetic()
    # Entered first, so that it is asked last: FlopCounterMode takes composite operators apart before it passes them on.
    try:
        with seen, FlopCounterMode(display=False, custom_mapping=MENDED) as counter:
            step()
    except Exception as exc:
        return OperatorCount("torch", None, {}, described(exc))
    return OperatorCount("torch", counter.get_total_flops(), dict(seen.without_entry + Counter(python_ops)))


def count_with_fvcore(
    module: torch.nn.Module,
    args: tuple[Any, ...] = (),
    *,
    forward: Callable[..., object] | None = None,
    python_ops: Iterable[str] = (),
) -> OperatorCount:
    """Traces one forward with ``fvcore.nn.FlopCountAnalysis``; never raises.

    Args:
        module: what is traced, and what holds the parameters.
        args: arguments of the forward; tensors.
        forward: called in place of ``module(*args)``; any function of ``args`` that uses the module.
        python_ops: one name per run of an operation whose kernels the trace does not show.

    Returns:
        FLOPs with fvcore's multiply-adds doubled (see ``MULTIPLY_ADDS``), or the reason why the trace failed.
    """
    try:
        with warnings.catch_warnings():
            ignore_tracing_noise()
            from fvcore.nn import FlopCountAnalysis

            traced = Traced(module, forward or module)
            analysis = FlopCountAnalysis(traced, args).tracer_warnings("all")
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            counts, unseen = analysis.by_operator(), analysis.unsupported_ops()
    except ImportError as exc:
        return OperatorCount("fvcore", None, {}, f"fvcore cannot be imported ({exc}): pip install fvcore.")
    except Exception as exc:  # the tracer hands kernels tensors for sizes, and what they raise then is theirs
        return OperatorCount("fvcore", None, {}, f"the forward cannot be traced: {described(exc)}")
    flops = sum(count * (2 if operator in MULTIPLY_ADDS else 1) for operator, count in counts.items())
    return OperatorCount("fvcore", round(flops), dict(unseen + Counter(python_ops)))


class Arithmetic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts dispatched operators that do floating-point arithmetic and have no entry in torch's FLOP registry."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.without_entry: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not has_entry(func) and not is_free(func, args, kwargs, out):
            self.without_entry[operator_name(func)] += 1
        return out


def has_entry(func: Any) -> bool:
    return getattr(func, "_overloadpacket", func) in flop_registry


def is_free(func: Any, args: Any, kwargs: Any, out: Any) -> bool:
    """Whether an operator does no floating-point arithmetic: a view, a move, or nothing floating-point in or out."""
    namespace, _, base = operator_name(func).partition("::")
    if namespace == "profiler" or getattr(func, "is_view", False):
        return True
    if namespace == "aten" and base.rstrip("_") in _FREE:
        return True
    tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
    return not any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors)


def operator_name(func: Any) -> str:
    """``aten::mul`` for every overload of mul; the bare name of an operator of higher order."""
    schema = getattr(func, "_schema", None)
    return str(schema.name) if schema is not None else str(func)


class Traced(torch.nn.Module):
    """A module for the tracer around any function: it holds the parameters and returns nothing but tensors."""

    def __init__(self, owner: torch.nn.Module, function: Callable[..., object]) -> None:
        super().__init__()
        self.owner = owner
        self._function = function

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


def ignore_tracing_noise() -> None:
    # fvcore calls torch.jit.script when imported and torch.jit's tracer after, both deprecated since torch 2.13.
    warnings.filterwarnings("ignore", message=r".*torch\.jit", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=TracerWarning)
