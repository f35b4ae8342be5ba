"""start: whether a model begins as the paper begins: statistics of its initial weights, after the build that trains.

Builds go wrong without a sound: Mamba-2's A and dt left at zero when a model is made on the meta device, or one value
for all heads. Each statistic is compared with the one its distribution has, in standard errors of a sample of its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hybridbench.errors import WrongResult
from hybridbench.model.block import INIT_STD
from hybridbench.model.language import LanguageModel
from hybridbench.model.mamba2 import Mamba2Module
from hybridbench.quality.training.record import StartCheck

BOUND = 6.0
"""Standard errors that a statistic may be off: by chance once in some hundred million."""
_ROUNDING = 2.0**-8
"""Relative spacing of bfloat16, by which a mean of rounded weights may be off."""


def check_start(model: LanguageModel) -> list[StartCheck]:
    """The worst statistic of each kind.

    Raises:
        WrongResult: one is further off than chance allows.
    """
    worst: dict[str, StartCheck] = {}
    for check in _statistics(model):
        if check.what not in worst or check.off > worst[check.what].off:
            worst[check.what] = check
    for check in worst.values():
        if not check.off <= check.bound:
            raise WrongResult(
                f"initial weights: {check.what} is {check.found:.4g} where {check.due:.4g} is due, {check.off:.3g} "
                f"standard errors off: the build did not initialise the model."
            )
    return list(worst.values())


def _statistics(model: LanguageModel) -> Iterator[StartCheck]:
    matrices = [model.embedding_VD, *(module.weight for module in model.modules() if isinstance(module, nn.Linear))]
    for matrix in matrices:
        yield from _normal("matrices", matrix, INIT_STD)
    for weight in model.norm_weights:
        yield _exact("norm weights", weight, 1.0)
    mixers = [module for module in model.modules() if isinstance(module, Mamba2Module)]
    # Heads of all layers together: one layer has too few for a statistic.
    if mixers:
        low, high = mixers[0].spec.a_range
        yield from _uniform("A", torch.cat([one.A_log_H.detach().float().exp() for one in mixers]), low, high)
        steps = torch.cat([nn.functional.softplus(one.dt_bias_H.detach().float()) for one in mixers])
        low, high = (math.log(edge) for edge in mixers[0].spec.dt_range)
        yield from _uniform("log of dt", steps.log(), low, high)
        for one in mixers:
            yield _exact("D", one.D_H, 1.0)
            bound = one.spec.d_conv**-0.5
            yield from _uniform("conv weights", one.conv_weight_CW, -bound, bound)


def _normal(what: str, values: Tensor, std: float) -> Iterator[StartCheck]:
    """Mean and standard deviation of values from N(0, std^2)."""
    x, n = values.detach().float(), values.numel()
    error = std / math.sqrt(n)
    yield _check(f"mean of {what}", float(x.mean()), 0.0, error)
    yield _check(f"standard deviation of {what}", float(x.std()), std, error / math.sqrt(2) + std * _ROUNDING / BOUND)


def _uniform(what: str, values: Tensor, low: float, high: float) -> Iterator[StartCheck]:
    """Mean, spread and limits of values drawn uniformly from [low, high]."""
    x, n = values.detach().float(), values.numel()
    std = (high - low) / math.sqrt(12)
    slack = _ROUNDING * max(abs(low), abs(high)) / BOUND
    yield _check(f"mean of {what}", float(x.mean()), (low + high) / 2, std / math.sqrt(n) + slack)
    # The variance of a uniform sample's variance is (4/5) std^4 / n, so that of its std is std^2 / (5 n).
    yield _check(f"standard deviation of {what}", float(x.std()), std, std / math.sqrt(5 * n) * (1 + 3 / n) + slack)
    for name, edge, found in (("least", low, float(x.min())), ("largest", high, float(x.max()))):
        outside = max(0.0, edge - found if name == "least" else found - edge)
        off = 0.0 if outside <= slack * BOUND + 1e-3 * (high - low) else math.inf
        yield StartCheck(f"{name} {what}", found, edge, min(off, 1e9), BOUND)


def _exact(what: str, values: Tensor, due: float) -> StartCheck:
    far = float((values.detach().float() - due).abs().max())
    return StartCheck(what, due + far, due, 0.0 if far == 0 else 1e9, BOUND)


def _check(what: str, found: float, due: float, error: float) -> StartCheck:
    return StartCheck(what, found, due, abs(found - due) / error if math.isfinite(found) else 1e9, BOUND)
