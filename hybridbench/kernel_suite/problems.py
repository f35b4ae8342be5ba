"""problems: the problems that operations have in models, problems typed by name, and what a problem must state.

Which sizes an operation needs is not written down: an operation's row computes the sizes of its tensors and its FLOPs
from a problem, so what it reads is what it needs. ``needs`` watches it read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, cast

from hybridbench.arch.block import Block
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput, unknown_name
from hybridbench.kernel_suite.cell import SIZES
from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import DIMENSIONS, Operation, Size
from hybridbench.problem import Problem, of_op, problem_of
from hybridbench.suite.case import EAGER, Case, Execution
from hybridbench.suite.ops import DECODE_STEP, block_ops_in, block_uses, model_ops_in
from hybridbench.suite.workloads import DECODE, TRAIN, Workload
from hybridbench.units import parse_count

TIMED = tuple(op for op, row in OPERATIONS.items() if row.inputs)
"""The operations that can be timed alone: all but a whole decode step."""

PRODUCT = "product"

_OPTIONAL = ("n_kv_heads", "v_head_dim", "norm_width", "window", "sinks", "n_groups", "row", "training", "chunk_size")
"""What a problem may leave out; ``chunk_size`` then has ``DEFAULTS``."""

DEFAULTS = {"chunk_size": 64, "batch": 1}


class _Watched:
    """A problem that notes which of its sizes are read; each is a small number."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        self._sizes = sizes
        self.read: dict[str, None] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(Problem, name, None)
        if isinstance(found, property) and found.fget is not None:
            return found.fget(self)
        self.read[name] = None
        return self._sizes[name]


def needs(op: str) -> tuple[str, ...]:
    """The sizes that an operation reads, in the order of ``Problem``; those that may be left out are among them.

    >>> needs("swiglu"), needs("ssd_step")
    (('length', 'width', 'batch'), ('head_dim', 'n_heads', 'd_state', 'n_groups', 'batch'))
    """
    row, read = OPERATIONS[op], set[str]()
    for tensor in row.tensors:
        for letter in tensor.dimensions:
            read |= reads(row.dimensions[letter] if letter in row.dimensions else DIMENSIONS[letter][1])
    if row.forward is not None:
        read |= reads(row.forward)
    read |= {name for name in row.settings if name in SIZES}
    if "n_kv_heads" in read and op in ("attention", "attention_decode"):
        read |= {"window", "sinks"}
    return tuple(one.name for one in fields(Problem) if one.name in read and one.name in SIZES)


def reads(size: Size) -> set[str]:
    """The sizes of a problem that a function of it reads."""
    some: dict[str, Any] = dict.fromkeys(SIZES, 2) | dict.fromkeys(("sinks", "v_head_dim", "n_kv_heads"), 0)
    some |= {"window": None, "norm_width": 0, "row": 0, "device": "cpu", "dtype": "float32", "training": False}
    watched = _Watched(some)
    size(cast(Problem, watched))
    return set(watched.read)


def parse_problem(text: str, op: str, device: str, dtype: str) -> Problem:
    """The problem that ``head_dim=64,n_heads=32`` states, for an operation.

    ``row`` is the width of the projection that its inputs are views of; without it they have rows of their own.

    Raises:
        BadInput: no such size, not a number, given twice, or a problem that the operation cannot have.
    """
    known = tuple(dict.fromkeys((*needs(op), "row")))
    given: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not (name and equals and value):
            raise BadInput(f"problem '{part.strip()}' is not NAME=SIZE: write head_dim=64,n_heads=32.")
        if name not in known:
            raise unknown_name(f"size of {op}", name, known)
        if name in given:
            raise BadInput(f"problem gives {name} twice: give it once.")
        given[name] = parse_count(value, name)
    problem = Problem(device, dtype, **{**{n: v for n, v in DEFAULTS.items() if n in known}, **given})
    check(op, problem)
    return problem


def check(op: str, problem: Problem) -> None:
    """Check that an operation can have a problem.

    Raises:
        BadInput: a size is missing, or two do not go together.
    """
    known = needs(op)
    missing = [name for name in known if name not in _OPTIONAL and not getattr(problem, name)]
    if missing:
        raise BadInput(
            f"{op} needs {missing[0]}, which the problem does not state: add {missing[0]}=SIZE to --problem."
        )
    for many, few in (("n_heads", "n_kv_heads"), ("n_heads", "n_groups")):
        if many in known and few in known and getattr(problem, few) and getattr(problem, many) % getattr(problem, few):
            raise BadInput(
                f"{op} with {many}={getattr(problem, many)} and {few}={getattr(problem, few)}: heads share evenly, so "
                f"{many} must be a multiple of {few}."
            )
    if op == "rotary" and problem.head_dim % 2:
        raise BadInput(f"rotary turns pairs of channels, and head_dim is {problem.head_dim}: give an even number.")
    if op == "experts" and problem.top_k > problem.n_experts:
        raise BadInput(f"experts with top_k={problem.top_k} of n_experts={problem.n_experts}: top_k is at most all.")
    if problem.sinks and problem.window is None:
        raise BadInput(
            f"{op} with sinks={problem.sinks} and no window: sinks are what a window would hide; add window."
        )
    if op == "mamba2_core" and problem.conv_channels != (
        inner := problem.n_heads * problem.head_dim + 2 * problem.n_groups * problem.d_state
    ):
        raise BadInput(
            f"mamba2_core with conv_channels={problem.conv_channels}: the convolution is over x, B and C, which are "
            f"{inner} channels here."
        )


def of_models(
    specs: Sequence[ModelSpec],
    contexts: Iterable[int],
    batches: Iterable[int],
    device: str,
    dtype: str,
    ops: Sequence[str] = (),
) -> dict[tuple[str, Problem], tuple[str, ...]]:
    """The operations that models run in training and in decode steps with their problems, and the models of each.

    Args:
        ops: which operations; empty for all.
    """
    found: dict[tuple[str, Problem], dict[str, None]] = {}
    lengths = list(contexts)
    for batch in batches:
        for context in lengths:
            for spec in specs:
                for op, problem in _of_model(spec, context, batch, device, dtype):
                    if not ops or op in ops:
                        found.setdefault((op, problem), {})[f"{spec.label} {spec.scale}".strip()] = None
    order = {op: place for place, op in enumerate(ops or TIMED)}
    ranked = sorted(found.items(), key=lambda one: order[one[0][0]])
    return {pair: tuple(models) for pair, models in ranked}


def _of_model(spec: ModelSpec, context: int, batch: int, device: str, dtype: str) -> Iterator[tuple[str, Problem]]:
    for kind in (TRAIN, DECODE):
        case = Case(spec, Workload(kind, context, batch), Execution(device, dtype, EAGER))
        for block, borrows in block_uses(spec):
            whole = problem_of(block, case, borrows)
            for op, step in block_ops_in(block, borrows, case.workload.row):
                yield op, _plain(op, of_op(op, whole, case, step=step), step)
        for op in model_ops_in(case.workload.row):
            if op != DECODE_STEP:
                yield op, _plain(op, problem_of(None, case), False)
        tokens = context if kind == TRAIN else 1
        for block, _ in block_uses(spec):
            for inner, outer in _products(block, spec.d_model):
                yield PRODUCT, Problem(device, dtype, d_model=inner, width=outer, batch=batch, length=tokens)


def _plain(op: str, problem: Problem, step: bool) -> Problem:
    """The problem with what the operation reads only, so that equal work is one cell.

    A decode step has one token. Only what reads a cache has a length then.
    """
    if step and not _reads_cache(OPERATIONS[op]):
        problem = replace(problem, length=1)
    kept = {*needs(op), "device", "dtype", "row"}
    plain = Problem(problem.device, problem.dtype)
    return replace(plain, **{name: getattr(problem, name) for name in kept if name != "training"})


def _reads_cache(row: Operation) -> bool:
    return any("S" in tensor.dimensions for tensor in row.tensors)


def _products(block: Block, width: int) -> Iterator[tuple[int, int]]:
    """Input and output widths of a block's projections, by the FLOPs of a token: 2 x input x output."""
    for name, flops in block.products().items():
        if name.endswith(" in_proj") and flops:
            yield width, flops // (2 * width)
        elif name.endswith(" out_proj") and flops:
            yield flops // (2 * width), width
