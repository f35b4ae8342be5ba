"""operation: the form of a row: one operation and its backends, without PyTorch.

A tensor is written as its name with a letter for each dimension: ``q_BTHP`` is q over sequences, positions, heads and
channels of a head. It is in the activations' dtype unless a note says otherwise:

    A_H: float32                    has that dtype
    state_BHPN: in place            read and written
    initial_state_BHPN: optional    left out if a sequence starts empty
    mixed_LBTD: apart               a tuple of tensors, one for each of the first dimension
    cos_TR: float32, constant       without a gradient

``DIMENSIONS`` says what a letter means; a row may give a letter another meaning for its operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from hybridbench.arch.block import DTYPE_BYTES
from hybridbench.limits import Limit
from hybridbench.problem import Problem

INSTALL_CUDA = 'pip install "hybridbench[cuda]"'
INSTALL_FLASH_ATTN_4 = 'pip install "hybridbench[flash-attn-4]"'

ATTENTION, SCAN, CONV, MATMUL, LOSS = "attention", "scan", "conv", "matrix products", "loss"
OPTIMIZER, REST = "optimizer", "norm and elementwise"
"""Classes of time in a trace."""

PLAIN = "reference"
"""The name of the backend that is an operation's reference implementation."""

Size = Callable[[Problem], int]

SHIFTED = 6
"""Inputs that a token shift mixes; 5 where RWKV-7 borrows its value and has no value residual."""

DIMENSIONS: dict[str, tuple[str, Size]] = {
    "B": ("sequences", lambda problem: problem.batch),
    "T": ("positions", lambda problem: problem.length),
    "S": ("slots of a cache", lambda problem: problem.length),
    "H": ("query, value or SSM heads", lambda problem: problem.n_heads),
    "K": ("key/value heads", lambda problem: problem.kv_heads),
    "G": ("groups of B and C", lambda problem: problem.n_groups),
    "P": ("channels of a query, key or SSM head", lambda problem: problem.head_dim),
    "V": ("channels of a value head", lambda problem: problem.value_dim),
    "N": ("columns of the state of a channel", lambda problem: problem.d_state),
    "R": ("angles", lambda problem: problem.n_angles),
    "C": ("channels of the convolution", lambda problem: problem.conv_channels),
    "W": ("taps of the convolution", lambda problem: problem.d_conv),
    "D": ("channels of a position", lambda problem: problem.width),
    "F": ("channels of a gated activation", lambda problem: problem.width),
    "I": ("channels between a mixer's projections", lambda problem: problem.width),
    "L": ("inputs that a token shift mixes", lambda _problem: SHIFTED),
}
"""What each letter of a dimension counts, and its size in a problem."""

DTYPES = {**DTYPE_BYTES, "int32": 4, "int64": 8}


@dataclass(frozen=True)
class Tensor:
    """One input or output, read from its notation.

    Attributes:
        name: with the letters of its dimensions, as the reference implementation's parameter.
        dimensions: one per dimension, outermost first; empty for a single number.
        dtype: None means the activations' dtype.
        in_place: it is read and written.
        optional: it is left out if a sequence starts empty.
        apart: it is a tuple of tensors, one for each of the first dimension.
        constant: it has no gradient, because nothing it is made of is trained.
    """

    name: str
    dimensions: str
    dtype: str | None
    in_place: bool
    optional: bool
    apart: bool
    constant: bool

    @classmethod
    def read(cls, text: str) -> Tensor:
        """The tensor that a notation such as ``state_BHPN: in place`` describes."""
        name, _, rest = text.partition(": ")
        notes = set(rest.split(", ")) - {""}
        dtypes = notes & DTYPES.keys()
        assert notes <= {*DTYPES, "in place", "optional", "apart", "constant"}, text
        assert len(dtypes) <= 1, text
        suffix = name.rpartition("_")[2]
        dimensions = suffix if suffix.isupper() and suffix != name else ""
        said = (note in notes for note in ("in place", "optional", "apart", "constant"))
        return cls(name, dimensions, next(iter(dtypes), None), *said)


@dataclass(frozen=True, kw_only=True)
class Declared:
    """One implementation of an operation, as far as it is known before it is imported.

    Attributes:
        op: the operation's name; a row fills it in.
        name: what a person types after ``--backend OP=``.
        package: the distribution it comes from (``"torch"`` and ``"hybridbench"`` included).
        path: ``module:name`` below ``hybridbench``; for a user's own kernel ``package.module:function``.
        install: the command that installs that distribution; empty when there is nothing to install.
        dispatched: whether its arithmetic passes through PyTorch's dispatcher, where operator counters see it.
        compiles_per_length: whether every new length costs a compilation, so that few are tried.
        limits: up to which sizes it is right.
        wide: for a third-party kernel without limits, the place in its source that shows offsets of 64 bits.
    """

    op: str = ""
    name: str
    package: str
    path: str
    install: str = ""
    dispatched: bool = True
    compiles_per_length: bool = False
    limits: tuple[Limit, ...] = ()
    wide: str = ""


def own(
    name: str, package: str, path: str, limits: tuple[Limit, ...] = (), wide: str = "", install: str = ""
) -> Declared:
    """A backend that is part of PyTorch or of this package."""
    return Declared(name=name, package=package, path=path, limits=limits, wide=wide, install=install)


def public(
    name: str, package: str, path: str, limits: tuple[Limit, ...] = (), wide: str = "", install: str = INSTALL_CUDA
) -> Declared:
    """A kernel of another package, which no operator counter sees."""
    return Declared(name=name, package=package, path=path, limits=limits, wide=wide, install=install, dispatched=False)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation.

    Attributes:
        name: a key of ``OPERATIONS``.
        family: the folder of its reference implementation, with the draw of its inputs, and of its backends, below
            ``hybridbench``: ``FAMILY.reference:NAME`` and ``FAMILY.reference:NAME_inputs``.
        spends: the class its time belongs to in a trace; None for a whole step, which has many.
        inputs: the tensors it is called with, in order; empty for a whole step, which is called with a model's.
        outputs: the tensors it returns.
        settings: its other parameters, given by name.
        dimensions: sizes of letters that have another meaning here than in ``DIMENSIONS``.
        forward: forward FLOPs of a problem in the convention exact; None if a problem does not determine them.
        backends: what can run it besides the plain one, in the order in which "auto" tries them on a GPU.
        cpu_only: backends that run on a CPU and never on a GPU.
        on_cpu: the names that "auto" tries on a CPU, in order.
        plain: the name of the backend that runs anywhere and comes last: the reference implementation.
        plain_path: its path, if it is not ``FAMILY.reference:NAME``; its draw is beside it.
        kernels: regular expressions for the names of kernels that do its class of work.
        sequences: whether sequences are independent of each other, so that part of a batch can run alone.
        cancels: tensors whose gradient is a sum of terms that nearly cancel, with the factor by which its bound grows.
        sums: parameters whose gradient is the plain sum, over batch and positions, of another tensor's gradient.
        angles: inputs in radians, where 0 and 2 pi are the same; they are compared as points on the unit circle.
        again: a function of ``kernels.again`` that recomputes its outputs instead of keeping them; empty if they are
            kept.
    """

    name: str
    family: str
    spends: str | None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...]
    settings: tuple[str, ...] = ()
    dimensions: Mapping[str, Size] = field(default_factory=dict)
    forward: Size | None = None
    backends: tuple[Declared, ...] = ()
    cpu_only: tuple[Declared, ...] = ()
    on_cpu: tuple[str, ...] = ()
    plain: str = PLAIN
    plain_path: str = ""
    kernels: tuple[str, ...] = ()
    sequences: bool = False
    cancels: Mapping[str, float] = field(default_factory=dict)
    sums: Mapping[str, str] = field(default_factory=dict)
    angles: tuple[str, ...] = ()
    again: str = ""

    @property
    def reference(self) -> str:
        """The path of the reference implementation."""
        return self.plain_path or f"{self.family}.reference:{self.name}"

    @property
    def draw(self) -> str:
        """The path of the draw of its inputs, beside the reference implementation."""
        return f"{self.reference}_inputs"

    @property
    def order(self) -> dict[str, tuple[str, ...]]:
        """For each device, the names that "auto" tries, in order."""
        return {"cuda": (*(backend.name for backend in self.backends), self.plain), "cpu": (*self.on_cpu, self.plain)}

    @cached_property
    def by_name(self) -> dict[str, Declared]:
        """Every backend by its name, the plain one first."""
        plain = own(self.plain, "hybridbench", self.reference)
        return {one.name: replace(one, op=self.name) for one in (plain, *self.backends, *self.cpu_only)}

    @property
    def learns(self) -> bool:
        """Whether it has a backward: a step from a state or over a cache's slots has none, nor has an update."""
        given = [Tensor.read(text) for text in self.inputs]
        return bool(given) and not any(tensor.in_place or "S" in tensor.dimensions for tensor in given)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Its inputs, then its outputs."""
        return tuple(Tensor.read(text) for text in (*self.inputs, *self.outputs))

    def size(self, letter: str, problem: Problem) -> int:
        """Size of a dimension in a problem; 0 if the problem does not state it."""
        return self.dimensions[letter](problem) if letter in self.dimensions else DIMENSIONS[letter][1](problem)


def elements(operation: Operation, problem: Problem) -> dict[str, int]:
    """Elements of each of an operation's tensors, by name, without the optional ones.

    >>> from hybridbench.operations import OPERATIONS
    >>> elements(OPERATIONS["swiglu"], Problem("cpu", "float32", batch=2, length=100, width=64))
    {'packed_NC': 25600, 'out_NF': 12800}
    """
    return {
        tensor.name: math.prod(operation.size(letter, problem) for letter in tensor.dimensions)
        for tensor in operation.tensors
        if not tensor.optional
    }


def moved_bytes(operation: Operation, problem: Problem) -> int:
    """Bytes a forward must move: each input is read once, each output written once, a tensor in place both."""
    count, total = elements(operation, problem), 0
    for tensor in operation.tensors:
        if not tensor.optional:
            total += count[tensor.name] * DTYPES[tensor.dtype or problem.dtype] * (2 if tensor.in_place else 1)
    return total


def flops(operation: Operation, problem: Problem, training: bool = False) -> int:
    """FLOPs of an operation on a problem, in the convention exact: three times the forward with its backward.

    As in ``arch``, an operation with matrix products, a convolution or a recurrence counts only those. For the others,
    every sum, product, quotient, root and exponential counts 1. An operation that does not learn has no backward.

    Raises:
        ValueError: a whole decode step, whose FLOPs are its model's.
    """
    if operation.forward is None:
        raise ValueError(f"the FLOPs of {operation.name} depend on its model, not on a problem")
    return operation.forward(problem) * (3 if training and operation.learns else 1)


def training_bytes(operation: Operation, problem: Problem) -> int:
    """Bytes a forward and its backward must move: a forward's, each output's gradient read, each input's written.

    Inputs that the backward reads again are not counted, since a small one may still be in a cache.
    """
    count, total = elements(operation, problem), moved_bytes(operation, problem)
    for tensor in operation.tensors:
        integer = tensor.dtype is not None and tensor.dtype.startswith("int")
        if not (tensor.optional or tensor.constant or integer):
            total += count[tensor.name] * DTYPES[tensor.dtype or problem.dtype]
    return total
