"""agree: whether a backend's outputs, states and gradients are right, at the size that is timed, before it is timed.

They are compared with the reference implementation in float32 (float64 on a CPU), within the bounds of
``kernels.verify``. Where the whole reference takes too long or does not fit, it runs sequence by sequence; where that
does not fit either, or sequences are not independent, another backend of another package takes its place, with twice
the bounds, since both sides round. If nothing is left, the cell is timed and says that nobody checked it.

Guards stand around every backend meanwhile (``guard``): third-party kernels too write where they should not once
offsets pass 32 bits. Without room for guards the outputs are compared all the same, and the record says so.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hybridbench.bench import compilations
from hybridbench.errors import Unsupported, WrongResult
from hybridbench.kernel_suite.bind import drawn
from hybridbench.kernel_suite.cell import BACKWARD, Cell, sizes_text
from hybridbench.kernel_suite.guard import Guarded
from hybridbench.kernel_suite.record import Agreement
from hybridbench.kernels.backend import Backend
from hybridbench.kernels.by_rows import holds_sequences, sequences
from hybridbench.kernels.drawing import Trial
from hybridbench.kernels.loading import backends, reference_of
from hybridbench.kernels.resolver import available
from hybridbench.kernels.verify import BOUNDS, GRADIENT, full_precision, poison, relative
from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import PLAIN, Operation

MOST_REFERENCE_S = 20.0
"""How long a reference may take; seconds. It is estimated from two short lengths."""
SHORT = 256
"""The shorter of these lengths, in positions."""

Function = Callable[..., Any]
Values = dict[str, Tensor]


@dataclass(frozen=True)
class Compared:
    """One tensor beside what it should be, with the place where it is furthest off."""

    name: str
    error: float
    bound: float
    place: tuple[int, ...]
    found: float
    expected: float


def agreement(cell: Cell, backend: Backend, function: Function, device: torch.device) -> Agreement:
    """Compares a backend's results with others'.

    Args:
        function: the backend's callable.

    Raises:
        WrongResult: a tensor is off by more than its bound, or something else was written; the text says which, where
            and how far.
    """
    if backend.name == PLAIN:
        return Agreement(None, why_not="it is the reference implementation itself")
    trial, operation = drawn(cell, device), OPERATIONS[cell.op]
    learnt = _learnt(cell, operation, trial)
    with full_precision(device):
        ours, upstream, guards = _guarded(cell, backend, function, trial, learnt)
        reasons: list[str] = []
        for against, theirs in _others(cell, backend, trial, learnt, upstream, device):
            try:
                found = list(theirs(ours))
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as exc:
                if not _out_of_memory(exc):
                    raise
                reasons.append(f"{against} does not fit in memory")
                continue
            except Unsupported as exc:
                reasons.append(f"{against}: {exc}")
                continue
            return replace(_judged(cell, backend, against, found), **guards)
    why_not = "; ".join(reasons) or "nothing else computes it here in time"
    return Agreement(None, why_not=why_not, **guards)


def _guarded(
    cell: Cell, backend: Backend, function: Function, trial: Trial, learnt: set[str]
) -> tuple[Values, Values, dict[str, Any]]:
    """What ``_ours`` gives with guards around the inputs; where they do not fit, without. With it which guards stood.

    What compiles itself with torch.compile runs without poisoned memory: the mode that poisons switches compiled code
    off. Whether a person's function does is seen by running it.
    """
    fewer = backend.compiles_per_length or cell.user_kernel
    try:
        if fewer:
            torch._dynamo.reset()  # what an earlier cell compiled would be taken again, and nothing would tell
            before = compilations()
            found = _ours(Guarded(cell.op, function, poisons=False), trial, learnt, cell)
            if backend.compiles_per_length or compilations() > before:
                return *found, {"guarded": True}
        return *_ours(Guarded(cell.op, function), trial, learnt, cell), {"guarded": True, "poisoned": True}
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as exc:
        if not _out_of_memory(exc):
            raise
    gc.collect()
    return *_ours(function, trial, learnt, cell), {"why_unguarded": "guards around its inputs do not fit in memory"}


def _out_of_memory(exc: BaseException) -> bool:
    return not isinstance(exc, RuntimeError) or any(
        words in str(exc) for words in ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    )


def _learnt(cell: Cell, operation: Operation, trial: Trial) -> set[str]:
    if cell.direction != BACKWARD or not trial.gradients:
        return set()
    constant = {tensor.name for tensor in operation.tensors if tensor.constant}
    return {name for name, tensor in trial.tensors.items() if tensor.is_floating_point()} - constant


def _judged(cell: Cell, backend: Backend, against: str, found: list[Compared]) -> Agreement:
    for one in found:
        if not one.error <= one.bound:  # NaN is not <= anything
            said = f"is off by {one.error:.3g} of its norm, and the bound is {one.bound:.3g}; it is furthest off"
            if math.isnan(one.error):
                said = "holds what is no number, as memory does that is never written,"
            raise WrongResult(
                f"{cell.op} backend '{backend.ran}' disagrees with {against} in {cell.problem.dtype} at "
                f"{sizes_text(cell.problem)}: {one.name} {said} at {list(one.place)}, with {one.found:.6g} for "
                f"{one.expected:.6g}. It is not timed."
            )
    worst = max(found, key=lambda one: one.error / one.bound)
    return Agreement(against, len(found), worst.name, worst.error, worst.bound)


def _ours(function: Function, trial: Trial, learnt: set[str], cell: Cell) -> tuple[Values, Values]:
    """Our outputs, states and gradients by name, and the gradients that went into the outputs."""
    given = {name: tensor.detach().requires_grad_(name in learnt) for name, tensor in trial.tensors.items()}
    for tensor in given.values():
        if tensor.is_floating_point():
            poison({"": tensor}, tensor.dtype)
    with torch.set_grad_enabled(bool(learnt)):
        outputs = trial.call(function, given)
    found = {name: tensor.detach() for name, tensor in outputs.items()}
    if not learnt:
        return found, {}
    generator = torch.Generator(next(iter(outputs.values())).device).manual_seed(cell.seed + 1)
    upstream = {
        name: torch.randn(tensor.shape, generator=generator, device=tensor.device, dtype=tensor.dtype)
        for name, tensor in outputs.items()
        if tensor.requires_grad
    }
    if not upstream:
        raise WrongResult(f"{cell.op}: no output has a gradient, though its inputs ask for one. It is not timed.")
    if not isinstance(function, Guarded):
        return found | _gradients(outputs, given, learnt, upstream), upstream
    with function.poisoned():
        gradients = _gradients(outputs, given, learnt, upstream)
    function.check()
    return found | gradients, upstream


def _gradients(outputs: Values, given: Values, learnt: set[str], upstream: Values) -> Values:
    leaves = [name for name in given if name in learnt]
    made = torch.autograd.grad(
        [outputs[name] for name in upstream],
        [given[name] for name in leaves],
        [upstream[name].to(outputs[name].dtype) for name in upstream],
        allow_unused=True,
    )
    nothing = {
        name: torch.full_like(given[name], torch.nan) for name, one in zip(leaves, made, strict=True) if one is None
    }
    return {GRADIENT + name: nothing[name] if one is None else one for name, one in zip(leaves, made, strict=True)}


Theirs = Callable[[Values], Iterator[Compared]]


def _others(
    cell: Cell, backend: Backend, trial: Trial, learnt: set[str], upstream: Values, device: torch.device
) -> Iterator[tuple[str, Theirs]]:
    """What the results can be compared with, the best first, each with how."""
    operation, reference = OPERATIONS[cell.op], reference_of(cell.op)
    exact = torch.float64 if device.type == "cpu" else torch.float32
    whole_s = _reference_seconds(cell, device)
    if whole_s <= MOST_REFERENCE_S:
        yield "the reference", lambda ours: _whole(ours, cell, reference, trial, learnt, upstream, exact, 1.0)
    batch = cell.problem.batch
    if operation.sequences and batch > 1 and whole_s <= batch * MOST_REFERENCE_S:
        yield (
            "the reference, sequence by sequence",
            lambda ours: _by_sequence(ours, cell, reference, trial, learnt, upstream, exact),
        )
    for name in operation.order[cell.problem.device]:
        candidate = backends(cell.op)[name]
        if name in (PLAIN, backend.name) or candidate.package == backend.package or candidate.compiles_per_length:
            continue
        if available(candidate, cell.problem) is None:
            yield f"backend {name}", _by(candidate.load(), cell, trial, learnt, upstream)


def _by(other: Function, cell: Cell, trial: Trial, learnt: set[str], upstream: Values) -> Theirs:
    """Another backend's results on the same inputs, which are as rounded as ours: twice the bound."""
    return lambda ours: _whole(ours, cell, other, trial, learnt, upstream, None, 2.0)


def _reference_seconds(cell: Cell, device: torch.device) -> float:
    """How long the reference takes, from two short lengths: a power of the length between linear and quadratic."""
    length = cell.problem.length
    if length <= 8 * SHORT:
        return 0.0
    spent = []
    for short in (SHORT, 2 * SHORT):
        small = replace(cell, problem=replace(cell.problem, length=short))
        trial = drawn(small, device)
        for _ in range(2):  # the first warms up
            started = time.perf_counter()
            with torch.no_grad():
                trial.call(reference_of(cell.op), trial.tensors)
            if device.type == "cuda":
                torch.cuda.synchronize()
        spent.append(time.perf_counter() - started)
    growth = min(4.0, max(2.0, spent[1] / spent[0]))
    doublings = torch.tensor(length / (2 * SHORT)).log2().item()
    return float(spent[1] * growth**doublings * (3 if cell.direction == BACKWARD else 1))


def _whole(
    ours: Values,
    cell: Cell,
    function: Function,
    trial: Trial,
    learnt: set[str],
    upstream: Values,
    dtype: torch.dtype | None,
    slack: float,
) -> Iterator[Compared]:
    """Ours beside another function's, in a wider dtype or, with None, in the same."""
    given = _given(trial.tensors, learnt, dtype)
    with torch.set_grad_enabled(bool(learnt)):
        outputs = trial.call(function, given)
    theirs = {name: tensor.detach() for name, tensor in outputs.items()}
    if learnt:
        theirs |= _gradients(outputs, given, learnt, upstream)
    for name in ours:
        yield _compared(name, ours[name], theirs, cell, slack)


def _given(tensors: Values, learnt: set[str], dtype: torch.dtype | None) -> Values:
    return {
        name: (t.detach().to(dtype) if dtype is not None and t.is_floating_point() else t.detach()).requires_grad_(
            name in learnt
        )
        for name, t in tensors.items()
    }


def _by_sequence(
    ours: Values,
    cell: Cell,
    reference: Function,
    trial: Trial,
    learnt: set[str],
    upstream: Values,
    exact: torch.dtype,
) -> Iterator[Compared]:
    """Each sequence of ours beside the reference of it alone; gradients of what sequences share are summed first."""
    shared: Values = {}
    for row in range(cell.problem.batch):
        some = {n: sequences(t, row, row + 1) if holds_sequences(n) else t for n, t in trial.tensors.items()}
        given = _given(some, learnt, exact)
        with torch.set_grad_enabled(bool(learnt)):
            outputs = trial.call(reference, given)
        theirs = {name: tensor.detach() for name, tensor in outputs.items()}
        if learnt:
            above = {name: tensor[row : row + 1] for name, tensor in upstream.items()}
            theirs |= _gradients(outputs, given, learnt, above)
        for name, tensor in theirs.items():
            if holds_sequences(name):
                one = _compared(name, ours[name][row : row + 1], theirs, cell, 1.0)
                yield replace(one, place=(row, *one.place[1:]))
            else:
                shared[name] = shared[name] + tensor if name in shared else tensor
    for name in shared:
        yield _compared(name, ours[name], shared, cell, 1.0)


def _compared(name: str, found: Tensor, theirs: Values, cell: Cell, slack: float) -> Compared:
    operation, expected = OPERATIONS[cell.op], theirs[name]
    leaf = name.removeprefix(GRADIENT)
    output_bound, gradient_bound = BOUNDS[cell.problem.dtype]
    if leaf == name:
        error = relative(found, expected, by_position="_BT" in name)
        bound = output_bound
    else:
        terms = theirs.get(GRADIENT + operation.sums.get(leaf, ""))
        error = relative(found, expected, terms=terms)
        bound = gradient_bound * operation.cancels.get(leaf, 1)
    if found.shape != expected.shape:
        raise WrongResult(
            f"{cell.op} backend '{cell.backend}' returns {name} of shape {tuple(found.shape)}, and it should be "
            f"{tuple(expected.shape)}. It is not timed."
        )
    place = _furthest(found, expected)
    at = (float(found[place]), float(expected[place])) if found.dim() else (float(found), float(expected))
    return Compared(name, error, bound * slack, place, *at)


def _furthest(found: Tensor, expected: Tensor) -> tuple[int, ...]:
    """Where two tensors differ most; a NaN differs most of all."""
    off = (found.float() - expected.float()).abs_().nan_to_num_(nan=torch.inf)
    return tuple(int(i) for i in torch.unravel_index(off.argmax(), off.shape)) if off.dim() else ()
