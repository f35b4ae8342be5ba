"""sublayer: what every kind of block answers: parameters, FLOPs, cache bytes, bytes moved.

A block here is one sublayer (a mixer, an MLP or a parallel pair of mixers) without its pre-norm and residual, which
``arch.model`` adds. Every answer is for one sequence and an exact integer, in a convention of ``counts``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import Field, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

from hybridbench.arch.reasons import PADDED, PAPER_TEXTS, Reason
from hybridbench.arch.terms import Activations
from hybridbench.arch.weights import Matrix
from hybridbench.errors import BadInput

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
from hybridbench.arch.block.counts import CacheBytes, CachePart, Convention, Flops
from hybridbench.arch.block.cut import Cut, Uncut
from hybridbench.arch.block.packed import Packing
from hybridbench.arch.block.storage import Storage

if TYPE_CHECKING:
    from hybridbench.arch.block.mixer import Mixer

Rescale = Callable[..., int]
"""``part(count, unit=1)``: a count scaled to another width of the model, in multiples of ``unit`` and at least one."""


class KernelSizes(TypedDict, total=False):
    """What a block's kernels are asked for, by the names of ``problem.Problem``, which explains them."""

    head_dim: int
    v_head_dim: int
    n_heads: int
    n_kv_heads: int
    window: int | None
    sinks: int
    d_state: int
    n_groups: int
    chunk_size: int
    d_conv: int
    norm_width: int
    width: int
    n_angles: int
    conv_channels: int
    d_model: int
    d_expert: int
    n_experts: int
    top_k: int


def variant(default: Any, reason: str = "") -> Any:
    """A field of a spec that only some models set; ``spec_to_dict`` leaves it out at its default.

    So a spec without the variant is written as it was before the field existed, and its cases keep their keys.

    Args:
        default: the value that most models have.
        reason: why no module runs it, as the end of a sentence; empty if it only has not been written yet.
    """
    return field(default=default, metadata={"variant": True, "reason": reason})


def check_sizes(spec: object, *names: str) -> None:
    """Check that fields of a spec are whole numbers of 1 or more, or None, which means no limit.

    Raises:
        BadInput: one is not; the text has its name and value.
    """
    for name in names:
        size = getattr(spec, name)
        if size is not None and (not isinstance(size, int) or size < 1):
            raise BadInput(f"{name} is {size!r}: give a whole number of 1 or more.")


class Block(ABC):
    """One sublayer: what it must cost, and what it asks of kernels. Subclasses are frozen dataclasses.

    A kind that names its operations has a module, and lists of the activations that the module keeps. The other kinds
    can be costed, not run.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    kind: ClassVar[str]
    sequence_ops: ClassVar[tuple[str, ...]] = ()
    """Operations it may run over a sequence."""
    step_ops: ClassVar[tuple[str, ...]] = ()
    """Operations it may run in a decode step."""
    feed_forward: ClassVar[bool] = False
    """It processes each position by itself, after a mixer."""
    nested: ClassVar[Mapping[str, type]] = {}
    """Fields that hold a spec which is not a block, and the class of that spec."""

    @abstractmethod
    def params(self, convention: Convention = Convention.EXACT) -> int:
        """Parameters, without the pre-norm."""

    def params_active(self, convention: Convention = Convention.EXACT) -> int:
        """Parameters that process one token; fewer than ``params`` only with routed experts."""
        return self.params(convention)

    def params_fp32(self) -> int:
        """How many of the parameters are stored in float32 whatever the weights' dtype."""
        return 0

    def shared_params(self, convention: Convention = Convention.EXACT) -> int:
        """How many of the parameters are shared by all uses of this block in a model."""
        return 0

    def embedding_params(self) -> int:
        """How many of the parameters are rows that are looked up by token."""
        return 0

    def norm_params(self, width: int) -> int:
        """Parameters of the norms around this block: ``width``, unless the block counts its own norms."""
        return width

    @property
    def name(self) -> str:
        """The name that its operations start with."""
        return self.kind

    @property
    def sees_all(self) -> bool:
        """Whether every token sees all tokens before it, so that the cache grows with every token."""
        return False

    @property
    def departures(self) -> tuple[str, ...]:
        """Properties that no family has by default; a model's label names them."""
        return ()

    @property
    def branches(self) -> tuple[Mixer, ...]:
        """The parallel mixers of a parallel block; none in other blocks."""
        return ()

    @property
    def borrower(self) -> int | None:
        """Index of the branch that reads the other one's value; None without one."""
        return None

    @property
    def mixers(self) -> tuple[Mixer, ...]:
        """The mixers in it: itself, its branches, or none."""
        return self.branches

    def absent_ops(self, borrows_value: bool = False) -> tuple[str, ...]:
        """The operations of its kind that this block does not run.

        Args:
            borrows_value: it is a branch that reads the other one's value.
        """
        return ()

    def sizes(self) -> KernelSizes:
        """The sizes that its kernels are asked for."""
        return {}

    @property
    def packed_row(self) -> int:
        """Columns of the packed projection of a sequence whose views its kernels read; 0 if they read no such views.

        Zero columns that pad the projection are included.
        """
        return 0

    @property
    def line(self) -> Hashable:
        """A value that is equal for all blocks whose first may leave a value for the others: by default, its kind."""
        return type(self)

    def leading(self, lines: Collection[Hashable]) -> Block:
        """The block to use in its place where no earlier layer has a mixer of ``lines``: itself, unless the first of
        a line has another shape, such as one that leaves a value for later ones and reads none.
        """
        return self

    def scaled(self, width: int, before: int) -> Self:
        """The block in a model of another width; heads keep their size, groups their number of heads.

        Args:
            width, before: the model's d_model then and now.

        Raises:
            BadInput: a kind of block without a rule, or rounded sizes that do not fit each other.
        """

        def part(count: int, unit: int = 1) -> int:
            return max(1, round(count * width / before / unit)) * unit

        sizes = self.sizes_scaled(part)
        return self if width == before else replace(self, d_model=width, **sizes)

    def sizes_scaled(self, part: Rescale) -> dict[str, int]:
        """Its fields that depend on the model's width, except d_model, at another width."""
        raise BadInput(f"no rule for another width of a block of kind {self.kind}: match it by blocks.")

    def shard(self, tp: int) -> Self:
        """One rank's part of the block where ``tp`` ranks share it: a block of the same kind, for which every formula
        holds. All ranks have equal parts.

        Raises:
            Uncut: so many ranks cannot share it.
        """
        return self if tp == 1 else replace(self, **self.shard_sizes(Cut(tp, self.name)))

    def shard_sizes(self, cut: Cut) -> dict[str, Any]:
        """Its fields that are others in one rank's part.

        Raises:
            Uncut: so many ranks cannot share it.
        """
        raise Uncut(f"a block of kind {self.kind}, which has no rule for it,", cut.tp)

    def packing(self, borrows_value: bool = False) -> Packing:
        """How each parameter of its module is packed, by the parameter's name.

        Args:
            borrows_value: the block is a branch whose value is another branch's.

        Raises:
            BadInput: a kind of block of which no module runs a rank's part.
        """
        raise BadInput(f"no module runs one rank's part of a block of kind {self.kind}.")

    def reduced_bytes(self, width: int, size: int, tp: int) -> int:
        """Bytes per token, of a forward, of the partial results that ``tp`` ranks add up in and after the block.

        Args:
            width: d_model.
            size: bytes per element.
        """
        return width * size + self.core_reduced_bytes(size, tp)

    def core_reduced_bytes(self, size: int, tp: int) -> int:
        """Those before the output projection: none where heads are independent of each other."""
        return 0

    def activations(self, size: int) -> Activations | None:
        """The tensors that its module keeps and needs (``arch.activations``), at ``size`` bytes per element.

        None if they are not known for its kernels.
        """
        return None

    @abstractmethod
    def products(self, convention: Convention = Convention.EXACT, sequence: bool = True) -> dict[str, int]:
        """Forward FLOPs per token of each of its matrix products; their sum is the ``matmul`` of a token.

        Args:
            convention: how to count.
            sequence: the products are over a sequence, where ``hardware`` may pad them; not those of a single token.
        """

    def cores(self, work: str, context: int, convention: Convention = Convention.EXACT) -> dict[str, Flops]:
        """FLOPs of the cores by mixer: all but the products. Empty for a feed-forward block."""
        return {}

    def operations(self, work: str, context: int, convention: Convention = Convention.EXACT) -> dict[str, int]:
        """FLOPs by operation; they add up to the total of ``train_flops``, ``prefill_flops`` or ``decode_flops``.

        Args:
            work: one of ``WORKS``.
            context: tokens of the sequence; for decode, tokens cached.
            convention: how to count.
        """
        times = (3 if work == "train" else 1) * (1 if work == "decode" else context)
        found = {name: times * flops for name, flops in self.products(convention, work != "decode").items()}
        for mixer, core in self.cores(work, context, convention).items():
            parts = {"core": core.attention, "conv": core.conv, "scan": core.scan}
            found |= {f"{mixer} {part}": flops for part, flops in parts.items() if flops}
        return found

    def reasons(self, work: str, context: int, convention: Convention) -> list[Reason]:
        """Why ``convention`` counts its operations differently from ``exact``.

        Args:
            work, context: as for ``operations``.
            convention: the one to explain.
        """
        if convention is Convention.EXACT:
            return []
        if convention is Convention.PAPER:
            exact, paper = (self.operations(work, context, each) for each in (Convention.EXACT, Convention.PAPER))
            return [
                Reason(name, PAPER_TEXTS[name.split()[-1]], paper.get(name, 0) - exact.get(name, 0))
                for name in dict.fromkeys([*exact, *paper])
                if name.split()[-1] in PAPER_TEXTS and paper.get(name, 0) != exact.get(name, 0)
            ]
        exact, padded = (self.products(each, work != "decode") for each in (Convention.EXACT, Convention.HARDWARE))
        tokens = (3 if work == "train" else 1) * (1 if work == "decode" else context)
        found = [Reason(name, PADDED, tokens * (padded[name] - flops)) for name, flops in exact.items()]
        return found + [reason for mixer in self.mixers for reason in mixer.core_reasons(work, context)]

    @abstractmethod
    def prefill_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        """Forward FLOPs over ``tokens`` positions from an empty cache."""

    @abstractmethod
    def decode_flops(self, context: int, convention: Convention = Convention.EXACT) -> Flops:
        """FLOPs of one token when ``context`` tokens are cached."""

    def train_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        """Forward and backward: three times the forward, except where hardware recomputes."""
        return 3 * self.prefill_flops(tokens, convention)

    def kernel_flops(
        self, parts: Sequence[str], shapes: Sequence[tuple[int, ...]], *, step: bool, training: bool, one_pass: bool
    ) -> dict[str, int]:
        """FLOPs by operation of one call of a kernel that no counter can look into.

        They are counted as torch would: masked pairs in full, chunks as they are executed. Empty without a formula.

        Args:
            parts: which of ``core``, ``conv``, ``scan`` and ``experts`` the kernel computes.
            shapes: shapes of its arguments for the whole batch; empty for an argument that is not a tensor.
            step: the call is one decode step.
            training: the call is forward and backward.
            one_pass: the scan runs in one pass, if the block has kernels that run it in one pass or in several.
        """
        return {}

    def full_mask_extra_flops(self, tokens: int) -> int:
        """Forward FLOPs that a count of every query with every key would add to the exact count."""
        return 0

    def cache(self, context: int, storage: Storage) -> CacheBytes:
        """Bytes kept for ``context`` cached tokens."""
        return CacheBytes()

    def cache_parts(self, context: int, storage: Storage) -> tuple[CachePart, ...]:
        """``cache`` in parts, one for each tensor that a library allocates."""
        kept = self.cache(context, storage)
        found: tuple[CachePart, ...] = ()
        if kept.kv:
            one = self.cache(1, storage).kv - self.cache(0, storage).kv
            found += (self.kv_part(one, kept.kv // one, context),)
        if kept.ssm or kept.conv:
            found += (CachePart(state_bytes=kept.ssm + kept.conv),)
        return found

    def kv_part(self, token_bytes: int, tokens: int, context: int) -> CachePart:
        """Keys and values of ``tokens`` tokens, of ``context`` in all."""
        return CachePart(token_bytes, tokens)

    def cache_traffic(self, context: int, storage: Storage) -> int:
        """Cache bytes one decode step must read and write with ``context`` tokens cached."""
        return 0

    def weight_traffic(self, batch: int, storage: Storage) -> int:
        """Weight bytes one decode step of ``batch`` sequences must read; each matrix once."""
        return self.weight_bytes(storage)

    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        """The weights of its linear layers, which quantisation stores in fewer bits; a mixer's last is its output's.

        Args:
            borrows_value: it is a branch that reads the other one's value.
        """
        return ()

    def weight_bytes(self, storage: Storage) -> int:
        """Bytes of all parameters; those in float32 take four each, quantised matrices what their scheme says."""
        fp32 = self.params_fp32()
        return (self.params() - fp32) * storage.weight_bytes + fp32 * 4 + storage.change(self.matrices())

    def shared_bytes(self, storage: Storage) -> int:
        """Bytes of the parameters that all uses of this block in a model share."""
        return self.shared_params() * storage.weight_bytes


def spec_to_dict(spec: DataclassInstance) -> dict[str, object]:
    """A frozen spec's fields as plain JSON values, with its ``kind`` where it has one; variants only where set."""
    out: dict[str, object] = {}
    if isinstance(spec, Block):
        out["kind"] = spec.kind
    for spec_field in fields(spec):
        value = getattr(spec, spec_field.name)
        if "variant" in spec_field.metadata and value == spec_field.default:
            continue
        out[spec_field.name] = [_plain(item) for item in value] if isinstance(value, tuple) else _plain(value)
    return out


def _plain(value: object) -> object:
    return spec_to_dict(value) if is_dataclass(value) and not isinstance(value, type) else value
