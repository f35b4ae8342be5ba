"""errors: what two ways to compute the same thing differ by, and how much of that is allowed at a size.

An error is ``|found - expected| / |expected|``. Over a sequence it is that of the worst 64 positions: of a kernel that
goes wrong in the last of 128k positions a norm over all shows nothing. Bounds are those of the kernels' own
verification, and at most three times what the same comparison gives at ``SHORT`` tokens, where the kernels were
verified; but no less than ``FLOOR`` of them, since two calls of one kernel may agree to the bit at one size and not at
another. What a whole decode step leaves has the bound of its verification at every size. With random keys and values the
attentions add less to the residual stream the more tokens are cached, so that the same rounding in the other layers
weighs more: from 1.3e-2 at 2k to between 2.3e-2 and 4.7e-2 at 32k with the mixers whose step runs module by module (1b,
batch 4, H200). What each attention reads is compared by itself, and that bound follows the error at ``SHORT``.
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
"""Tokens at which kernels are known to be right."""
TIMES = 3
"""How many times the error at ``SHORT`` tokens one at the timed size may be."""
FLOOR = 0.4
"""The share of a bound below which three times a very small error does not bring it."""
BLOCK = 64
"""Positions over which an error is taken."""
LEAST = 0.05
"""Share of the mean block's norm that a block's is taken for at least."""
ELEMENTS = 1 << 24
"""Elements compared at a time, in float32: a comparison needs little memory whatever it compares."""

OUTPUT, GRADIENT, STEP = "output", "gradient", "step"
STEP_BOUNDS = {"float64": 1e-8, "float32": 1e-3, "bfloat16": BOUND, "float16": BOUND}
"""A whole decode step's, whose layers round one after the other."""


def cap(kind: str, dtype: str) -> float:
    """The largest error ever allowed of outputs and states, of gradients, or of what a whole step leaves."""
    return STEP_BOUNDS[dtype] if kind == STEP else BOUNDS[dtype][kind == GRADIENT]


def over_positions(found_TC: Tensor, expected_TC: Tensor) -> Tensor:
    """The worst block's error of two sequences (T, ...), as a scalar on their device; NaN where either holds one."""
    found, expected = (x.detach().flatten(1) for x in (found_TC, expected_TC))
    T = found.shape[0]
    positions = max(1, ELEMENTS // max(1, found.shape[1]) // BLOCK) * BLOCK
    squares = []
    for first in range(0, T, positions):
        mine, theirs = (_wide(x[first : first + positions]) for x in (found, expected))
        both = torch.stack(((mine - theirs).square().sum(-1), theirs.square().sum(-1)))
        both = torch.nn.functional.pad(both, (0, -both.shape[1] % BLOCK))
        squares.append(torch.unflatten(both, 1, (-1, BLOCK)).sum(-1))
    difference, size = torch.cat(squares, 1)
    return _ratio(difference, size.clamp(min=LEAST**2 * float(size.numel()) ** -1 * size.sum())).max()


def of_whole(found: Tensor, expected: Tensor) -> Tensor:
    """The error of two tensors as they are, as a scalar on their device."""
    return over_positions(found.detach().flatten()[None], expected.detach().flatten()[None])


def _ratio(difference: Tensor, size: Tensor) -> Tensor:
    """Roots of squares; equal ones differ by 0, also where they are zeros."""
    return torch.where(difference == 0, 0.0, difference / size).sqrt()


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


Worst = dict[tuple[str, str], tuple[float, str]]
"""By kind and thing: the worst error, and where it is."""


@dataclass
class Errors:
    """Errors by what they are of, as they come; read off the device at the end."""

    found: dict[tuple[str, str], list[tuple[str, Tensor]]] = field(default_factory=dict)

    def add(self, what: str, where: str, error: Tensor, kind: str = OUTPUT) -> None:
        """Notes an error of ``what``, which has one bound wherever it is, such as "output of M"."""
        self.found.setdefault((kind, what), []).append((where, error))

    def worst(self) -> Worst:
        """The worst error of each thing, and where."""
        return {key: max(_read(errors), key=lambda one: _rank(one[0])) for key, errors in self.found.items()}


def _read(errors: list[tuple[str, Tensor]]) -> list[tuple[float, str]]:
    values = torch.stack([error.double() for _, error in errors]).tolist()
    return [(value, where) for value, (where, _) in zip(values, errors, strict=True)]


def _rank(error: float) -> float:
    return math.inf if math.isnan(error) else error


@dataclass(frozen=True)
class Comparison:
    """What is compared with what, for records and messages.

    Attributes:
        what: such as "prefill".
        against: what it is held to, such as "each row alone".
        batch, context: the size.
        dtype: whose bounds hold.
        hint: how to go on without what was found wrong.
    """

    what: str
    against: str
    batch: int
    context: int
    dtype: str
    hint: str


def judged(asked: Comparison, errors: Errors, short: Worst) -> SizeCheck:
    """The record of a comparison.

    Args:
        short: of the same comparison at ``SHORT`` tokens; empty where there is none.

    Raises:
        WrongResult: an error is beyond its bound; the text names it.
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
