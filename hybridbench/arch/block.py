"""block: what every kind of block answers: parameters, FLOPs, cache bytes, bytes moved.

A block here is one sublayer (a mixer, an MLP or a parallel pair of mixers) without its pre-norm and residual, which
``model`` adds. Every answer is for one sequence and an exact integer. Three conventions count:

    exact     one multiply-add is 2 FLOPs; causal pairs only; an SSM as its recurrence; every parameter. Prefilling T
              tokens costs exactly the sum of decoding them one by one.
    paper     the formulas of arXiv 2510.04800, table 1 and appendix C, to the letter; embedding and head left out.
    hardware  what kernels execute: full tiles, the chunked scan, recomputation in the backward pass.

Norms, activations, gates, rotary embedding and residual additions are left out everywhere (under 1% at d_model 1024).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

from typing_extensions import override

from hybridbench.arch.reasons import PADDED, PAPER_TEXTS, Reason
from hybridbench.arch.terms import Activations, Term
from hybridbench.errors import BadInput

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

TILE = 128
"""Rows and columns of a tile of attention in the ``hardware`` convention: FlashAttention's usual block."""

Part = Callable[..., int]
"""``part(count, unit=1)``: what a count becomes at another width of the model, in whole units and at least one."""

WORKS = ("train", "prefill", "decode")
"""What a block's operations are counted for: forward and backward, a forward over a prompt, one token behind it."""


class Convention(StrEnum):
    """How FLOPs and parameters are counted; stored with every figure."""

    EXACT = "exact"
    PAPER = "paper"
    HARDWARE = "hardware"


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs by the class of operation that spends them."""

    matmul: int = 0
    attention: int = 0
    scan: int = 0
    conv: int = 0

    @property
    def total(self) -> int:
        """FLOPs of all classes."""
        return self.matmul + self.attention + self.scan + self.conv

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.matmul + other.matmul,
            self.attention + other.attention,
            self.scan + other.scan,
            self.conv + other.conv,
        )

    def __mul__(self, times: int) -> Flops:
        return Flops(self.matmul * times, self.attention * times, self.scan * times, self.conv * times)

    __rmul__ = __mul__


@dataclass(frozen=True, slots=True)
class CacheBytes:
    """Bytes one sequence keeps between decode steps."""

    kv: int = 0
    ssm: int = 0
    conv: int = 0

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return self.kv + self.ssm + self.conv

    def __add__(self, other: CacheBytes) -> CacheBytes:
        return CacheBytes(self.kv + other.kv, self.ssm + other.ssm, self.conv + other.conv)

    def __mul__(self, times: int) -> CacheBytes:
        return CacheBytes(self.kv * times, self.ssm * times, self.conv * times)

    __rmul__ = __mul__


@dataclass(frozen=True, slots=True)
class CachePart:
    """One of the caches that a block keeps of a sequence: keys and values by token, or a state.

    Args:
        token_bytes, tokens: of keys and values: bytes of a token, and tokens kept.
        slides: a window is full, so that the next token takes an old one's place; ``sinks`` of the tokens stay.
        state_bytes: of a state and of a conv's.
    """

    token_bytes: int = 0
    tokens: int = 0
    slides: bool = False
    sinks: int = 0
    state_bytes: int = 0


DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes per element of what a model keeps, and the columns of the conv state.

    ``conv_columns`` None means d_conv columns, as mamba_ssm and the paper keep them; vLLM keeps d_conv - 1.
    """

    weight_bytes: int = 2
    kv_bytes: int = 2
    ssm_bytes: int = 2
    conv_bytes: int = 2
    conv_columns: int | None = None

    @classmethod
    def of(cls, dtype: str, state_dtype: str | None = None) -> Storage:
        """Everything in ``dtype``, the SSM state in ``state_dtype`` where one is given."""
        size = DTYPE_BYTES[dtype]
        return cls(size, size, DTYPE_BYTES[state_dtype or dtype], size)

    def columns(self, usual: int) -> int:
        """Columns of a conv state that usually has ``usual``."""
        return usual if self.conv_columns is None else self.conv_columns


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
    width: int
    n_angles: int
    conv_channels: int
    d_model: int
    d_expert: int
    n_experts: int
    top_k: int


def variant(default: Any, reason: str = "") -> Any:
    """A field of a spec that only some models set; ``spec_to_dict`` leaves it out at its default.

    A spec without the variant is then written as it was before the field existed, and its cases keep their keys.

    Args:
        reason: why it has no module, as the rest of a sentence that says so; empty where it was not written yet.
    """
    return field(default=default, metadata={"variant": True, "reason": reason})


def refuse_paper(convention: Convention, what: str) -> None:
    """Refuses to price in the paper's convention what the paper has no formula for.

    Raises:
        BadInput: naming it.
    """
    if convention is Convention.PAPER:
        raise BadInput(
            f"convention paper has no formula for {what}: arXiv 2510.04800 prices attention, Mamba-2, both in parallel "
            f"and feed-forward blocks; take exact or hardware."
        )


def check_sizes(spec: object, *names: str) -> None:
    """Refuses fields of a spec that are not whole numbers of 1 or more; None passes, it means no limit.

    Raises:
        BadInput: naming the field and its value.
    """
    for name in names:
        size = getattr(spec, name)
        if size is not None and (not isinstance(size, int) or size < 1):
            raise BadInput(f"{name} is {size!r}: give a whole number of 1 or more.")


class Block(ABC):
    """One sublayer's arithmetic, and what it asks of kernels. Subclasses are frozen dataclasses whose fields rebuild
    them.

    A kind that names its operations has a module, and a list of what that keeps; the others can be costed, not run.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    kind: ClassVar[str]
    sequence_ops: ClassVar[tuple[str, ...]] = ()
    """Operations it may run over a sequence."""
    step_ops: ClassVar[tuple[str, ...]] = ()
    """Operations it may run in a decode step."""
    feed_forward: ClassVar[bool] = False
    """It takes every position by itself, after a mixer."""
    nested: ClassVar[Mapping[str, type]] = {}
    """Fields that hold a plain spec which is no block, and its class."""

    @abstractmethod
    def params(self, convention: Convention = Convention.EXACT) -> int:
        """Parameters, without the pre-norm."""

    def params_active(self, convention: Convention = Convention.EXACT) -> int:
        """Parameters one token meets; fewer than ``params`` only where experts are routed."""
        return self.params(convention)

    def params_fp32(self) -> int:
        """Those of the parameters that are stored in float32 whatever the weights' dtype."""
        return 0

    def shared_params(self, convention: Convention = Convention.EXACT) -> int:
        """Those of the parameters that every use of this block in a model shares."""
        return 0

    def norm_params(self, width: int) -> int:
        """Parameters of the norms around this block, of ``width`` in all, unless it counts norms of its own."""
        return width

    @property
    def name(self) -> str:
        """What its operations are called after."""
        return self.kind

    @property
    def sees_all(self) -> bool:
        """Whether every token sees all before it, so that what it keeps grows with every token."""
        return False

    @property
    def departures(self) -> tuple[str, ...]:
        """What a model's label says of it besides its letter: what no family has by default."""
        return ()

    @property
    def branches(self) -> tuple[Mixer, ...]:
        """Mixers side by side on its input; none unless it is a parallel block."""
        return ()

    @property
    def borrower(self) -> int | None:
        """Index of the branch that reads another one's value, None without one."""
        return None

    @property
    def mixers(self) -> tuple[Mixer, ...]:
        """The mixers in it: itself, its branches, or none."""
        return self.branches

    def absent_ops(self, borrows_value: bool = False) -> tuple[str, ...]:
        """Those of its kind's operations that this block does not run.

        Args:
            borrows_value: it is a branch that reads another one's value.
        """
        return ()

    def sizes(self) -> KernelSizes:
        """What its kernels are asked for, as fields of ``problem.Problem``."""
        return {}

    @property
    def packed_row(self) -> int:
        """Columns of the fused projection of a sequence that its kernels read views of, zero columns behind it
        included; 0 where they read no such views.
        """
        return 0

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

    def sizes_scaled(self, part: Part) -> dict[str, int]:
        """Its fields that follow the model's width, d_model aside, at another width."""
        raise BadInput(f"no rule for another width of a block of kind {self.kind}: match it by depth.")

    def activations(self, size: int) -> Activations | None:
        """What its module keeps and needs (``arch.activations``) at ``size`` bytes an element; None where nobody has
        gone through its kernels.
        """
        return None

    @abstractmethod
    def products(self, convention: Convention = Convention.EXACT, sequence: bool = True) -> dict[str, int]:
        """FLOPs per token of each of its matrix products, forward only; together the ``matmul`` of a token.

        Args:
            sequence: over a sequence, where ``hardware`` may pad what a single token's product does not.
        """

    def cores(self, work: str, context: int, convention: Convention = Convention.EXACT) -> dict[str, Flops]:
        """What is no such product, by the mixer it belongs to; nothing in a feed-forward block."""
        return {}

    def operations(self, work: str, context: int, convention: Convention = Convention.EXACT) -> dict[str, int]:
        """FLOPs by operation; they add up to the total of ``train_flops``, ``prefill_flops`` or ``decode_flops``.

        Args:
            work: one of ``WORKS``, over ``context`` tokens or with so many cached.
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
            work, context: as of ``operations``.
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
        """FLOPs by operation of one call of a kernel that no counter can look into, as torch would count it: masked
        pairs in full, chunks as they are executed; empty where nobody has a formula for it.

        Args:
            parts: what the kernel computes of ``core``, ``conv``, ``scan`` and ``experts``.
            shapes: of its arguments, all sequences together; empty of an argument that is no tensor.
            step: it is one decode step.
            training: forward and backward.
            one_pass: a scan runs in one pass, where the block knows two ways.
        """
        return {}

    def full_mask_extra_flops(self, tokens: int) -> int:
        """Forward FLOPs that counting every query against every key would add to the exact count."""
        return 0

    def cache(self, context: int, storage: Storage) -> CacheBytes:
        """Bytes kept for ``context`` cached tokens."""
        return CacheBytes()

    def cache_parts(self, context: int, storage: Storage) -> tuple[CachePart, ...]:
        """``cache``, one part for each piece of memory that a library allocates."""
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

    def weight_bytes(self, storage: Storage) -> int:
        """Bytes all parameters take, the float32 ones at four each."""
        fp32 = self.params_fp32()
        return (self.params() - fp32) * storage.weight_bytes + fp32 * 4


class Mixer(Block):
    """A block that mixes positions: input projections, a core, and an output projection of ``out_width`` columns.

    A parallel block replaces the output projection and may lend one branch's value to another (``borrows_value``).
    """

    keeps_values: ClassVar[bool] = False
    """Its cache holds keys and values of single tokens by head."""

    d_model: int

    @property
    @abstractmethod
    def out_width(self) -> int:
        """Channels the core yields, before the output projection."""

    @property
    def out_heads(self) -> int:
        """Heads the core's output divides into, for a norm per head; 1 where its channels are not grouped."""
        return 1

    @property
    @override
    def mixers(self) -> tuple[Mixer, ...]:
        return (self,)

    @property
    def span(self) -> int | None:
        """Most keys that a token sees where a window bounds them, else None."""
        return None

    @property
    def rotation(self) -> tuple[Hashable, int] | None:
        """The kind of rotary embedding and the width it turns, where it reads a table of cosines and sines."""
        return None

    def value_bytes(self, context: int, storage: Storage) -> int:
        """Bytes of the values in its cache, which another branch may read too."""
        return 0

    def value_traffic(self, context: int, storage: Storage) -> int:
        """The values' part of ``cache_traffic``."""
        return 0

    def core_reasons(self, work: str, context: int) -> list[Reason]:
        """Why ``hardware`` counts its core differently from ``exact``."""
        return []

    @property
    def conv_parts(self) -> tuple[int, ...]:
        """Channels of each depthwise convolution that its module runs over a sequence."""
        return ()

    @property
    def taps(self) -> int:
        """Taps of its convolutions; 0 without one."""
        return 0

    def executed_scan(self, tokens: int, *, training: bool, sequences: int = 1, one_pass: bool = False) -> int:
        """FLOPs of a sequence that the kernels of its scan execute, in tiles that are not autotuned.

        Args:
            sequences: of the batch that runs at once.
            one_pass: as of ``kernel_flops``.
        """
        return 0

    def _scan_and_conv_flops(
        self, parts: Sequence[str], shapes: Sequence[tuple[int, ...]], *, step: bool, training: bool, one_pass: bool
    ) -> dict[str, int]:
        """``kernel_flops`` of a mixer with a convolution and a scan."""
        batch = shapes[0][0]
        if step:
            core = self.core_decode(0, Convention.EXACT)
            flops = {"conv": core.conv, "scan": core.scan}
        else:
            tokens = shapes[0][1]
            conv = 2 * self.taps * sum(self.conv_parts) * tokens * (3 if training else 1)
            scan = self.executed_scan(tokens, training=training, sequences=batch, one_pass=one_pass)
            flops = {"conv": conv, "scan": scan}
        return {f"{self.name} {part}": batch * flops[part] for part in parts if part in flops}

    def core_activations(self, size: int, borrows_value: bool = False, keeps_output: bool = True) -> Activations | None:
        """What its core between the two projections keeps and needs, as ``activations`` says.

        Args:
            keeps_output: somebody behind it keeps its output.
        """
        return None

    @override
    def activations(self, size: int) -> Activations | None:
        """The core's; the first projection keeps its input too, the second one's input is the core's."""
        core = self.core_activations(size)
        if core is None:
            return None
        entry = Term("block input", size * self.d_model, cheap=True)
        return replace(core, saved=(entry, *core.saved))

    @property
    def out_bias_params(self) -> int:
        """Parameters of the output projection's bias; a joint output projection has none."""
        return 0

    @abstractmethod
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        """Parameters before the output projection; without the value projection where it is borrowed."""

    @abstractmethod
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        """Those of them that multiply every token in a matrix product."""

    @abstractmethod
    def core_prefill(self, tokens: int, convention: Convention) -> Flops:
        """FLOPs of the core (scores and values, or conv and scan) over ``tokens`` positions."""

    @abstractmethod
    def core_decode(self, context: int, convention: Convention) -> Flops:
        """FLOPs of the core for one token."""

    def core_train(self, tokens: int, convention: Convention) -> Flops:
        """FLOPs of the core, forward and backward."""
        return 3 * self.core_prefill(tokens, convention)

    @override
    def params(self, convention: Convention = Convention.EXACT) -> int:
        bias = 0 if convention is Convention.PAPER else self.out_bias_params
        return self.in_params(convention) + self.out_width * self.d_model + bias

    def in_padding(self, borrows_value: bool = False) -> int:
        """Columns without meaning that the ``hardware`` convention adds to the input projection of a sequence: what its
        rows are padded by, and the rest of the last tile.
        """
        return 0

    @override
    def products(self, convention: Convention = Convention.EXACT, sequence: bool = True) -> dict[str, int]:
        found = self.in_products(convention, sequence)
        found[f"{self.name} out_proj"] = 2 * self.out_width * self.d_model
        if convention is Convention.PAPER:  # it prices all parameters as products, the others those that are
            found[f"{self.name} other parameters"] = 2 * self.params(convention) - sum(found.values())
        return found

    def in_products(self, convention: Convention, sequence: bool, borrows_value: bool = False) -> dict[str, int]:
        """The input projections' part of ``products``."""
        padded = convention is Convention.HARDWARE and sequence
        extra = self.d_model * self.in_padding(borrows_value) if padded else 0
        return {f"{self.name} in_proj": 2 * (self.in_matmul_params(borrows_value) + extra)}

    @override
    def cores(self, work: str, context: int, convention: Convention = Convention.EXACT) -> dict[str, Flops]:
        count = {"train": self.core_train, "prefill": self.core_prefill, "decode": self.core_decode}[work]
        return {self.name: count(context, convention)}

    def _linear(self, convention: Convention, sequence: bool = True) -> int:
        """FLOPs per token outside the core."""
        return sum(self.products(convention, sequence).values())

    @override
    def prefill_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=self._linear(convention) * tokens) + self.core_prefill(tokens, convention)

    @override
    def decode_flops(self, context: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=self._linear(convention, sequence=False)) + self.core_decode(context, convention)

    @override
    def train_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=3 * self._linear(convention) * tokens) + self.core_train(tokens, convention)


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
