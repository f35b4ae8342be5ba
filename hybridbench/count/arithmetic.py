"""arithmetic: which dispatched operators do floating-point arithmetic, which a counter without a formula misses."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves

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
