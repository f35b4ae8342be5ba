"""errors: what two ways to compute the same thing differ by, and how much of that is allowed at a size.

An error is ``|found - expected| / |expected|``. Over a sequence it is that of the worst 64 positions: a norm over all
of 128k positions would not show a kernel that is wrong in the last few. The bound is that of the kernels' verification,
or three times the error of the same comparison at ``SHORT`` tokens if that is smaller, since the kernels are known to
be right there. It is never less than ``FLOOR`` times the verification's bound: two calls of one kernel may agree to the
bit at one size and not at another.

What a whole decode step leaves has the bound of its verification at every size. With random keys and values, attention
adds less to the residual stream the more tokens are cached, so the same rounding in the other layers weighs more:
1.3e-2 at 2k became 2.3e-2 to 4.7e-2 at 32k with the mixers whose step runs module by module (1b, batch 4, H200). What
each attention reads is compared by itself, and that bound does follow the error at ``SHORT``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hybridbench.errors import WrongResult
from hybridbench.kernels.verify import BOUNDS
from hybridbench.model.step import BOUND
from hybridbench.record import SizeCheck

SHORT = 2048
"""A length at which kernels are known to be right; tokens."""
TIMES = 3
"""An error at the timed size may be so many times the error at ``SHORT`` tokens."""
FLOOR = 0.4
"""The least bound, as a share of the verification's: it holds where the error at ``SHORT`` tokens is very small."""
BLOCK_POSITIONS = 64
"""How many consecutive positions one error is computed over."""
LEAST = 0.05
"""The norm of a block counts as at least this share of the mean norm of all blocks."""
ELEMENTS = 1 << 24
"""Elements compared at a time, in float32, so that a comparison of any size needs little memory."""

OUTPUT, GRADIENT, STEP = "output", "gradient", "step"
STEP_BOUNDS = {"float64": 1e-8, "float32": 1e-3, "bfloat16": BOUND, "float16": BOUND}
"""Bounds of a whole decode step, in which the rounding of all layers adds up."""


def cap(kind: str, dtype: str) -> float:
    """The largest error ever allowed in outputs and states, in gradients, or in what a whole step leaves."""
    return STEP_BOUNDS[dtype] if kind == STEP else BOUNDS[dtype][kind == GRADIENT]


def over_positions(found_TC: Tensor, expected_TC: Tensor) -> Tensor:
    """The error of the worst block of two sequences (T, ...), a scalar on their device; NaN where either has one."""
    found, expected = (x.detach().flatten(1) for x in (found_TC, expected_TC))
    T = found.shape[0]
    positions = max(1, ELEMENTS // max(1, found.shape[1]) // BLOCK_POSITIONS) * BLOCK_POSITIONS
    squares = []
    for first in range(0, T, positions):
        mine, theirs = (_wide(x[first : first + positions]) for x in (found, expected))
        both = torch.stack(((mine - theirs).square().sum(-1), theirs.square().sum(-1)))
        both = torch.nn.functional.pad(both, (0, -both.shape[1] % BLOCK_POSITIONS))
        squares.append(torch.unflatten(both, 1, (-1, BLOCK_POSITIONS)).sum(-1))
    difference, size = torch.cat(squares, 1)
    return _ratio(difference, size.clamp(min=LEAST**2 * float(size.numel()) ** -1 * size.sum())).max()


def of_whole(found: Tensor, expected: Tensor) -> Tensor:
    """The error of a whole tensor against another, a scalar on their device."""
    return over_positions(found.detach().flatten()[None], expected.detach().flatten()[None])


def _ratio(difference: Tensor, size: Tensor) -> Tensor:
    """The quotient of two norms given as sums of squares; 0 where the difference is 0, even if the size is 0 too."""
    return torch.where(difference == 0, 0.0, difference / size).sqrt()


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


Worst = dict[tuple[str, str], tuple[float, str]]
"""(kind, what was compared) to the worst error, and where it is."""


@dataclass
class Errors:
    """Collects errors by what was compared; they are read from the device at the end."""

    found: dict[tuple[str, str], list[tuple[str, Tensor]]] = field(default_factory=dict)

    def add(self, what: str, where: str, error: Tensor, kind: str = OUTPUT) -> None:
        """Notes an error of ``what``, such as "output of M"; all errors of one ``what`` have the same bound."""
        self.found.setdefault((kind, what), []).append((where, error))

    def worst(self) -> Worst:
        """The worst error of each ``what``, and where it is."""
        return {key: max(_read(errors), key=lambda one: _rank(one[0])) for key, errors in self.found.items()}


def _read(errors: list[tuple[str, Tensor]]) -> list[tuple[float, str]]:
    values = torch.stack([error.double() for _, error in errors]).tolist()
    return [(value, where) for value, (where, _) in zip(values, errors, strict=True)]


def _rank(error: float) -> float:
    return math.inf if math.isnan(error) else error


@dataclass(frozen=True)
class SizeComparison:
    """What is compared with what, for records and messages.

    Attributes:
        what: what is checked, such as "prefill".
        against: what it is compared with, such as "each row alone".
        batch, context: the size.
        dtype: the dtype that decides the bounds.
        hint: what a user can do if it is wrong.
    """

    what: str
    against: str
    batch: int
    context: int
    dtype: str
    hint: str


def judged(asked: SizeComparison, errors: Errors, short: Worst) -> SizeCheck:
    """The record of a comparison.

    Args:
        short: the errors of the same comparison at ``SHORT`` tokens; empty where there are none.

    Raises:
        WrongResult: an error exceeds its bound; the text names it.
    """
    rows = []
    for (kind, what), (error, where) in errors.worst().items():
        most = cap(kind, asked.dtype)
        bound = most
        at_short = short[kind, what][0] if (kind, what) in short else None
        if at_short is not None and kind != STEP:
            bound = min(most, max(FLOOR * most, TIMES * at_short))
        rows.append((_rank(error) / bound, error, bound, what, where, at_short))
    _, error, bound, what, where, at_short = max(rows, key=lambda row: row[0])
    if not error <= bound:
        raise WrongResult(
            f"{asked.what} of {asked.batch} x {asked.context} tokens differs from {asked.against} in the {what} "
            f"({where}): relative error {error:.2g}, and at most {bound:.2g} is allowed. It is not timed; {asked.hint}."
        )
    return SizeCheck(
        what=asked.what,
        against=asked.against,
        batch=asked.batch,
        context=asked.context,
        compared=sum(len(some) for some in errors.found.values()),
        worst=f"{what} ({where})",
        error=error,
        bound=bound,
        error_at_short=at_short,
    )
