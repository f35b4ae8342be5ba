"""compiled: what torch.compile made of a model's layers, compared with the layers themselves before it is timed.

By then every kernel is verified, but not the graphs around them: an operator with a wrong declaration for the compiler
is right by itself and wrong in a graph.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hybridbench.errors import WrongResult
from hybridbench.kernels.verify import FEWEST_COMPARED, Check
from hybridbench.model.cache import Cache
from hybridbench.model.language import LanguageModel
from hybridbench.model.step import both_ways, relative_error

LAYERS, COMPILED = "layers", "torch.compile"
"""The operation and backend that the records of these checks name."""
OUTPUT_BOUND, NARROW_OUTPUT_BOUND = 1e-2, 6e-2
"""Bound of the relative error of a prefill's logits; in 16 bit it is that of a fused decode step."""
GRADIENT_BOUND, NARROW_GRADIENT_BOUND = 5e-2, 0.2
"""Bounds of the relative difference of a gradient. Rounding makes some percent where terms of either sign are summed;
a wrong gradient differs by about 1."""


def verify_gradients(
    model: LanguageModel, layers: dict[int, Callable[..., Tensor]], loss: Callable[[], Tensor]
) -> Check:
    """Compares the gradients of one loss by eager and by compiled layers, for all parameters of one role together.

    Buffers, such as the load that experts counted, are restored.

    Raises:
        WrongResult: they differ; the text names the role that differs most, and by how much.
    """
    before = [buffer.clone() for buffer in model.buffers()]
    expected = _gradients(model, loss)
    with model.compiling(layers):
        found = _gradients(model, loss)
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)
    roles: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, gradient in expected.items():
        pair = found[name] if name in found else torch.zeros_like(gradient), gradient
        roles.setdefault(re.sub(r"\.\d+\.", ".", name), []).append(pair)
    errors = {
        role: relative_error(pairs)
        for role, pairs in roles.items()
        if sum(gradient.numel() for _, gradient in pairs) >= FEWEST_COMPARED
    }
    return _judged(errors, "the gradient of ", _bound(model, GRADIENT_BOUND, NARROW_GRADIENT_BOUND))


def verify_outputs(
    model: LanguageModel,
    plain: Callable[[], Tensor],
    compiled: Callable[[], Tensor],
    caches: list[Cache],
    inputs: tuple[Tensor, ...] = (),
) -> Check:
    """Compares a prefill or a decode step by eager layers with one by compiled layers (``both_ways``).

    Raises:
        WrongResult: they differ; the text names the output that differs most, and by how much.
    """
    with torch.no_grad():
        errors = both_ways(plain, compiled, caches, inputs)
    return _judged(errors, "", _bound(model, OUTPUT_BOUND, NARROW_OUTPUT_BOUND))


def _gradients(model: LanguageModel, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """The gradients of all parameters that have one; afterwards no parameter has one."""
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(loss())
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def _bound(model: LanguageModel, wide: float, narrow: float) -> float:
    return narrow if model.embedding_VD.dtype.itemsize == 2 else wide


def _judged(errors: Mapping[str, float], what: str, bound: float) -> Check:
    name, worst = max(errors.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1])
    if not worst <= bound:
        raise WrongResult(
            f"compiled layers differ from eager ones in {what}{name}: relative error {worst:.2g}, and at most "
            f"{bound:.2g} is allowed. Run with --mode eager."
        )
    return Check(LAYERS, COMPILED, worst, bound, len(errors))
