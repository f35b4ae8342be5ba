"""verify: the proof, before anything is timed, that a backend computes what the reference computes.

Fresh random inputs go through the backend in its own dtype and through the reference in float32 (float64 on a CPU).
For every output, every state and, for training, every gradient it compares ``|out - ref| / |ref|`` (Frobenius norms;
for sequences the worst position's) with a bound.

The bounds, and why:

- float64 1e-10, float32 1e-4: rounding times the longest sum, with a margin; tf32 (1e-3) does not pass. float32
  gradients 1e-3: that of A sums differences of cumulated decays, where the reference in float32 is 6e-5 from float64.
- bfloat16 1e-2: inputs are identical on both sides, so the error comes from one rounding each of probabilities or
  states and of the output, with a root mean square of 2^-9 / sqrt(3) = 1.1e-3. PyTorch's CPU flash kernel has 2e-3; a
  window of 512 that is one too wide has 6e-2.
- bfloat16 gradients 2e-2: two or three more roundings, and differences of nearly equal numbers (dP - delta).
- a multiple of that for sums of terms that nearly cancel while their rounding does not: ``Operation.cancels``.
- gradients of a few elements, such as one per head, may be small by chance while their rounding is not: they are
  compared over all inputs together.
- float16 2e-3, since its mantissa is eight times finer; gradients 1e-2, because those of a mean over tokens reach its
  subnormal numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridbench.errors import WrongResult
from hybridbench.kernels.backend import Backend
from hybridbench.kernels.by_rows import holds_sequences, in_groups, sequences
from hybridbench.kernels.drawing import BATCH, Draw, Trial
from hybridbench.kernels.loading import draw_of, reference_of
from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import Operation
from hybridbench.problem import Problem

BOUNDS: dict[str, tuple[float, float]] = {
    "float64": (1e-10, 1e-10),
    "float32": (1e-4, 1e-3),
    "bfloat16": (1e-2, 2e-2),
    "float16": (2e-3, 1e-2),
}
"""From dtype to the largest relative errors of outputs and states, and of gradients."""

GRADIENT = "gradient of "

FEWEST_COMPARED = 64
"""Gradients with fewer elements are not compared by themselves."""

GROUP = 3
"""The most sequences at a time in a verification of what runs in groups."""


@dataclass(frozen=True)
class Check:
    """What a passed verification found: the comparison that came closest to its bound.

    Attributes:
        error: the relative error of that tensor.
        bound: the largest error allowed.
        cases: how many inputs were tried.
        how: what a record says of the backend besides its name.
    """

    op: str
    backend: str
    error: float
    bound: float
    cases: int
    how: str = ""


def verify(backend: Backend, problem: Problem, *, device: torch.device | str, seed: int) -> Check:
    """Compares ``backend`` with the reference on ``problem``.

    Args:
        device: where to run, a device of the kind ``problem.device``.
        seed: the seed of the random inputs.

    Returns:
        The worst comparison, when all are within their bounds.

    Raises:
        WrongResult: they differ; the text names operation, backend, length, tensor, error and bound.
        Unsupported: the backend's package is missing.
    """
    backend = _in_small_groups(backend)
    operation, ours = OPERATIONS[backend.op], backend.load()
    draw = Draw(problem, torch.device(device), torch.Generator().manual_seed(seed), max(BATCH, backend.rows + 1))
    output_bound, gradient_bound = BOUNDS[problem.dtype]
    worst, cases, few = (0.0, output_bound), 0, _Few()

    def compared(name: str, error: float, where: str) -> None:
        """Raises unless an error is within its bound, and keeps the one that comes closest."""
        nonlocal worst
        leaf = name.removeprefix(GRADIENT)
        bound = output_bound if leaf == name else gradient_bound * operation.cancels.get(leaf, 1)
        if not error <= bound:  # NaN is not <= anything
            off = f"is off by {error:.3g} of its norm, and the bound is {bound:.3g}"
            if math.isnan(error):
                off = "has another shape than it should, or holds NaN or infinity"
            raise WrongResult(
                f"{backend.op} backend '{backend.ran}' disagrees with the reference in {problem.dtype} at {where}: "
                f"{name} {off}. It is not timed; choose another backend."
            )
        worst = max(worst, (error, bound), key=lambda pair: pair[0] / pair[1])

    with full_precision(draw.device):
        inputs = [
            case
            for case in draw_of(backend.op)(problem, draw)
            if not case.length or backend.unsupported(dataclasses.replace(problem, length=case.length)) is None
            if backend.continues or not case.continues
        ]
        for case in inputs[-2:] if backend.compiles_per_length else inputs:
            cases += 1
            for name, error in _errors(case, ours, operation, problem.training and case.gradients, draw, few):
                compared(name, error, case.label)
        for name, error in few.errors():
            compared(name, error, "all lengths together")
    return Check(backend.op, backend.name, *worst, cases)


def _in_small_groups(backend: Backend) -> Backend:
    """A backend that runs in groups, with smaller groups, so that a small batch already needs two of them."""
    if backend.whole is None or backend.rows <= GROUP:
        return backend
    return in_groups(backend.whole, GROUP)


def inputs_at(op: str, problem: Problem, *, device: torch.device | str, seed: int) -> Inputs:
    """Random inputs of an operation at a problem's own size: its batch, its length, its rows and all its heads.

    They are drawn on the device, in rows as wide as the model's, so that strides are those of a case.

    Args:
        problem: with ``batch``, and ``length`` where the operation has one.
    """
    generator = torch.Generator(device).manual_seed(seed)
    draw = Draw(problem, torch.device(device), generator, problem.batch, at_size=True)
    case = next(iter(draw_of(op)(problem, draw)))
    return Inputs(case.tensors, case.call)


@dataclass(frozen=True)
class Inputs:
    """Named tensors of one operation. The names of those with a row for each sequence have a B first in their shape."""

    tensors: dict[str, Tensor]
    call: Callable[[Callable[..., Any], dict[str, Tensor]], dict[str, Tensor]]

    def run(self, function: Callable[..., Any], *, row: int | None = None) -> dict[str, Tensor]:
        """Every output and updated state by name, for all sequences or for one, which keeps its first dimension."""
        if row is None:
            return self.call(function, self.tensors)
        alone = {n: sequences(t, row, row + 1) if holds_sequences(n) else t for n, t in self.tensors.items()}
        return self.call(function, alone)

    def beside_alone(
        self, function: Callable[..., Any], one: Callable[..., Any], rows: Iterable[int]
    ) -> Iterator[tuple[int, str, float]]:
        """Row, output name and relative error of some sequences in the batch, compared with the same ones alone.

        Args:
            function: called with the whole batch.
            one: called with a single sequence.
        """
        with torch.no_grad():
            whole = self.run(function)
            for row in rows:
                for name, alone in self.run(one, row=row).items():
                    yield row, name, _worst_stretch(whole[name][row : row + 1], alone, by_position="_BT" in name)


STRETCH = 4096
"""Positions that one error of ``beside_alone`` covers, so few that an error at a sequence's end shows."""


def _worst_stretch(found: Tensor, expected: Tensor, *, by_position: bool) -> float:
    """``relative`` in float32, of a range of positions at a time, which the memory beside a whole case allows."""
    if found.shape != expected.shape:
        return math.nan
    length = found.shape[1] if by_position else 1
    stretches = [(first, min(first + STRETCH, length)) for first in range(0, length, STRETCH)]
    errors = []
    for first, last in stretches:
        ours, theirs = (x[:, first:last].float() if by_position else x.float() for x in (found, expected))
        size = theirs.norm().clamp(min=torch.finfo(torch.float32).tiny)
        errors.append(float((ours - theirs).norm() / size) if bool(ours.isfinite().all()) else math.nan)
    return math.nan if any(math.isnan(error) for error in errors) else max(errors)


class _Few:
    """Gradients of few elements, by name, over all inputs: squares of their differences and of what is expected."""

    def __init__(self) -> None:
        self._squares: dict[str, tuple[float, float]] = {}

    def takes(self, name: str, found: Tensor, expected: Tensor) -> bool:
        """Adds a pair of equal shape with finite values and few elements; whether it was such a pair."""
        if expected.numel() >= FEWEST_COMPARED or found.shape != expected.shape or not bool(found.isfinite().all()):
            return False
        difference, size = self._squares.get(name, (0.0, 0.0))
        off = float((found.double() - expected.double()).square().sum())
        self._squares[name] = difference + off, size + float(expected.double().square().sum())
        return True

    def errors(self) -> Iterator[tuple[str, float]]:
        """Names and relative errors."""
        tiny = torch.finfo(torch.float32).tiny
        for name, (difference, size) in self._squares.items():
            yield name, math.sqrt(difference / max(size, tiny))


def _errors(
    case: Trial, ours: Callable[..., Any], operation: Operation, gradients: bool, draw: Draw, few: _Few
) -> Iterator[tuple[str, float]]:
    """Each compared tensor's name and relative error; what ``few`` takes is left to it."""
    constant = {tensor.name for tensor in operation.tensors if tensor.constant}
    learnt = {name for name, t in case.tensors.items() if gradients and t.is_floating_point()} - constant
    given = {name: t.detach().requires_grad_(name in learnt) for name, t in case.tensors.items()}
    exact = {
        name: (t.detach().to(draw.exact) if t.is_floating_point() else t).requires_grad_(name in learnt)
        for name, t in case.tensors.items()
    }
    with torch.set_grad_enabled(gradients):
        expected = case.call(reference_of(operation.name), exact)
        poison(expected, draw.dtype)
        found = case.call(ours, given)
    for name, tensor in found.items():
        yield name, relative(tensor, expected[name], by_position="_BT" in name)
    if not gradients:
        return
    through = [name for name, tensor in found.items() if tensor.requires_grad]
    upstream = [draw.normal(*found[name].shape).to(found[name].dtype) for name in through]
    leaves = [name for name in given if name in learnt]
    our_gradients = torch.autograd.grad([found[n] for n in through], [given[n] for n in leaves], upstream)
    their_gradients = torch.autograd.grad(
        [expected[n] for n in through], [exact[n] for n in leaves], [u.to(draw.exact) for u in upstream]
    )
    by_name = dict(zip(leaves, their_gradients, strict=True))
    for name, mine in zip(leaves, our_gradients, strict=True):
        terms = by_name.get(operation.sums.get(name, ""))
        if terms is not None or not few.takes(GRADIENT + name, mine, by_name[name]):
            yield GRADIENT + name, relative(mine, by_name[name], terms=terms)


def relative(found: Tensor, expected: Tensor, *, by_position: bool = False, terms: Tensor | None = None) -> float:
    """``|found - expected| / |expected|``; NaN when the shapes differ or ``found`` holds NaN or infinity.

    With ``by_position`` it is the worst of the second dimension's slices. A window of 513 instead of 512 is off by 6%
    at each position it affects, but by 0.8% over a whole sequence of 577, whose first positions are large.

    ``terms`` (B, T, ...) are the terms that ``expected`` sums. Where terms of either sign cancel, the sum is small by
    chance but its rounding is not. So the error is then relative to the expected size of such a sum, the root of the
    sum of the terms' squares.
    """
    if found.shape != expected.shape or not bool(found.isfinite().all()):
        return math.nan
    found, expected = found.detach().double(), expected.detach().double()
    if by_position:
        found, expected = (x.transpose(0, 1).flatten(1) for x in (found, expected))
    else:
        found, expected = found.flatten(), expected.flatten()
    floor = torch.finfo(torch.float32).tiny if terms is None else float(terms.double().norm())
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=floor)).max())


def poison(expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Fills memory of the outputs' sizes with NaN and frees it, so that an output that is never written shows."""
    for tensor in expected.values():
        torch.full(tensor.shape, math.nan, dtype=dtype, device=tensor.device)


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Turns tf32 off for products and convolutions, so that float32 means float32 on both sides."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
