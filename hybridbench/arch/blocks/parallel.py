"""parallel: an intra-layer hybrid block: two mixers on one input, fused; every fusion axis of the paper is a field.

    f(X) = W_out( a_1 Norm(M_1(X)) (+) a_2 Norm(M_2(X)) )            one joint output projection
    f(X) = W_1 a_1 Norm(M_1(X)) (+) W_2 a_2 Norm(M_2(X))             one per module ("Sep" in the paper's table 7)

M_1 is the Mamba-2 branch where there is one, so ``subtract`` means SSM minus attention, and the Diff-Transformer scalar
multiplies the second module. Sources: arXiv 2510.04800 section 3, tables 6 and 7, appendices D and Q. Choices here that
the paper leaves open: Group norm is an RMS norm per head without weights, taken before the output projection;
``gate`` mixes the modules by g and 1 - g with g = sigmoid(w x), one number a token; ``alpha`` by a learned scalar.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self, cast

from typing_extensions import override

from hybridbench.arch.block import (
    Block,
    CacheBytes,
    CachePart,
    Convention,
    Cut,
    Flops,
    KernelSizes,
    Mixer,
    Packed,
    Packing,
    Storage,
)
from hybridbench.arch.terms import Activations, Term
from hybridbench.arch.weights import Matrix
from hybridbench.errors import BadInput, unknown_name

FUSION_NORMS = ("group", "none")
FUSION_SCALES = ("none", "vector", "scalar", "gate", "alpha")
FUSION_OPS = ("add", "subtract", "concat")
FUSION_VALUES = ("separate", "shared")
FUSION_OUTS = ("separate", "joint")


@dataclass(frozen=True, slots=True)
class Fusion:
    """How two branches become one output.

    Args:
        norm: ``group`` (an RMS norm per head on each module's output) or ``none``.
        scale: ``none``; ``vector`` (learned, per channel, both modules); ``scalar`` (learned, second module only);
            ``gate`` (input-dependent g and 1 - g); ``alpha`` (learned a and 1 - a).
        op: ``add``, ``subtract`` (first minus second) or ``concat`` of channels.
        value: ``separate``, or ``shared``: the Mamba branch reads the attention's value projection.
        out: ``separate`` output projections before fusion, or one ``joint`` after.
    """

    norm: str = "group"
    scale: str = "none"
    op: str = "subtract"
    value: str = "separate"
    out: str = "separate"

    def __post_init__(self) -> None:
        axes = (
            ("norm", FUSION_NORMS),
            ("scale", FUSION_SCALES),
            ("op", FUSION_OPS),
            ("value", FUSION_VALUES),
            ("out", FUSION_OUTS),
        )
        for axis, known in axes:
            if getattr(self, axis) not in known:
                raise unknown_name(f"fusion {axis}", getattr(self, axis), known)
        if self.op == "concat" and self.out == "separate":
            raise BadInput(
                "fusion concat with separate output projections: concatenated channels need one joint projection "
                "(out=joint), or fuse by add or subtract."
            )


@dataclass(frozen=True, slots=True)
class Parallel(Block):
    """Two mixers side by side on one normed input; a Mamba-2 branch stands first."""

    kind: ClassVar[str] = "parallel"
    sequence_ops: ClassVar[tuple[str, ...]] = ("head_norms",)
    nested: ClassVar[Mapping[str, type]] = {"fusion": Fusion}

    first: Mixer
    second: Mixer
    fusion: Fusion = Fusion()

    def __post_init__(self) -> None:
        fused_before_projection = self.fusion.out == "joint" and self.fusion.op != "concat"
        if fused_before_projection and self.first.out_width != self.second.out_width:
            raise BadInput(
                f"fusion {self.fusion.op} with a joint output projection needs equally wide branches, not "
                f"{self.first.out_width} and {self.second.out_width}: choose the split so that d_inner equals "
                f"n_heads * v_head_dim, or take separate output projections or concat."
            )
        if self.fusion.value == "shared" and self.first.out_width != self.second.out_width:
            raise BadInput(
                f"a shared value needs branches of equal width, not {self.first.out_width} and "
                f"{self.second.out_width}: choose the split so that d_inner equals n_heads * v_head_dim."
            )

    @property
    def d_model(self) -> int:
        """Width of the model, the same for both branches."""
        return self.first.d_model

    @property
    @override
    def sees_all(self) -> bool:
        return self.first.sees_all or self.second.sees_all

    @property
    @override
    def branches(self) -> tuple[Mixer, Mixer]:
        return self.first, self.second

    @property
    @override
    def borrower(self) -> int | None:
        """Index of the branch without a value projection: Mamba-2 beside attention, else the second; or None."""
        if self.fusion.value == "separate":
            return None
        return 0 if self.second.keeps_values and not self.first.keeps_values else 1

    @override
    def absent_ops(self, borrows_value: bool = False) -> tuple[str, ...]:
        return ("head_norms",) if self.fusion.norm == "none" else ()

    @override
    def sizes(self) -> KernelSizes:
        """The heads that both outputs divide into, and their widths."""
        heads = [branch.out_heads for branch in self.branches]
        first, second = (branch.out_width // branch.out_heads for branch in self.branches)
        return {"head_dim": first, "v_head_dim": second, "n_heads": heads[0], "n_kv_heads": heads[1]}

    @override
    def leading(self, lines: Collection[Hashable]) -> Parallel:
        first, second = (cast("Mixer", branch.leading(lines)) for branch in self.branches)
        return replace(self, first=first, second=second)

    @override
    def scaled(self, width: int, before: int) -> Self:
        first, second = (branch.scaled(width, before) for branch in self.branches)
        return replace(self, first=first, second=second)

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, Mixer]:
        return {"first": self.first.shard(cut.tp), "second": self.second.shard(cut.tp)}

    @override
    def packing(self, borrows_value: bool = False) -> Packing:
        joint, scale = self.fusion.out == "joint", self.fusion.scale
        found: Packing = {}
        for index, (name, branch) in enumerate(zip(("first", "second"), self.branches, strict=True)):
            own = branch.packing(index == self.borrower)
            found |= {f"{name}.{key}": one for key, one in own.items() if not (joint and key == "out_proj.weight")}
        outs = tuple((branch.out_heads, branch.out_width // branch.out_heads) for branch in self.branches)
        if joint:
            read = outs if self.fusion.op == "concat" else outs[:1]
            found["out_proj.weight"] = Packed(read, self.d_model, 1)
        if scale == "vector":
            found |= {"scale_first": Packed(outs[:1]), "scale_second": Packed(outs[1:])}
        elif scale == "gate":
            found["gate.weight"] = Packed(((1, 1),), self.d_model)
        elif scale != "none":
            found["scalar"] = Packed(((1, 1),))
        return found

    @override
    def core_reduced_bytes(self, size: int, tp: int) -> int:
        return sum(branch.core_reduced_bytes(size, tp) for branch in self.branches)

    @property
    def joint_width(self) -> int:
        """Channels the joint output projection reads."""
        if self.fusion.op == "concat":
            return self.first.out_width + self.second.out_width
        return self.first.out_width

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        branches = [one.matrices(index == self.borrower) for index, one in enumerate(self.branches)]
        if self.fusion.out == "separate":
            return branches[0] + branches[1]
        # The last matrix of a mixer is its output projection.
        return (*branches[0][:-1], *branches[1][:-1], Matrix("out_proj", self.d_model, self.joint_width, "mixer"))

    def _out_params(self) -> int:
        if self.fusion.out == "joint":
            return self.joint_width * self.d_model
        return (self.first.out_width + self.second.out_width) * self.d_model

    def _scale_params(self) -> int:
        widths = self.first.out_width + self.second.out_width
        return {"none": 0, "vector": widths, "scalar": 1, "gate": self.d_model, "alpha": 1}[self.fusion.scale]

    @override
    def params(self, convention: Convention = Convention.EXACT) -> int:
        borrower = self.borrower
        inputs = sum(b.in_params(convention, i == borrower) for i, b in enumerate(self.branches))
        separate = convention is not Convention.PAPER and self.fusion.out == "separate"
        biases = sum(b.out_bias_params for b in self.branches) if separate else 0
        return inputs + self._out_params() + biases + self._scale_params()

    @override
    def params_fp32(self) -> int:
        return self.first.params_fp32() + self.second.params_fp32()

    @override
    def products(self, convention: Convention = Convention.EXACT, sequence: bool = True) -> dict[str, int]:
        borrower = self.borrower
        found: dict[str, int] = {}
        for i, branch in enumerate(self.branches):
            for name, flops in branch.in_products(convention, sequence, i == borrower).items():
                found[name] = found.get(name, 0) + flops
        found["parallel out_proj"] = 2 * self._out_params()
        if self.fusion.scale == "gate":
            found["parallel gate"] = 2 * self.d_model
        if convention is Convention.PAPER:
            found["parallel other parameters"] = 2 * self.params(convention) - sum(found.values())
        return found

    @override
    def cores(self, work: str, context: int, convention: Convention = Convention.EXACT) -> dict[str, Flops]:
        found: dict[str, Flops] = {}
        for branch in self.branches:
            for name, core in branch.cores(work, context, convention).items():
                found[name] = found.get(name, Flops()) + core
        return found

    def _linear(self, convention: Convention, sequence: bool = True) -> int:
        return sum(self.products(convention, sequence).values())

    @override
    def prefill_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        cores = self.first.core_prefill(tokens, convention) + self.second.core_prefill(tokens, convention)
        return Flops(matmul=self._linear(convention) * tokens) + cores

    @override
    def decode_flops(self, context: int, convention: Convention = Convention.EXACT) -> Flops:
        cores = self.first.core_decode(context, convention) + self.second.core_decode(context, convention)
        return Flops(matmul=self._linear(convention, sequence=False)) + cores

    @override
    def train_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        cores = self.first.core_train(tokens, convention) + self.second.core_train(tokens, convention)
        return Flops(matmul=3 * self._linear(convention) * tokens) + cores

    @override
    def full_mask_extra_flops(self, tokens: int) -> int:
        return self.first.full_mask_extra_flops(tokens) + self.second.full_mask_extra_flops(tokens)

    def _value_owner(self) -> Mixer | None:
        """The branch whose cached value serves both, where both would cache one and share it."""
        both_keep = self.first.keeps_values and self.second.keeps_values
        return self.first if self.borrower == 1 and both_keep else None

    @override
    def cache(self, context: int, storage: Storage) -> CacheBytes:
        both = self.first.cache(context, storage) + self.second.cache(context, storage)
        owner = self._value_owner()
        return both if owner is None else both + CacheBytes(kv=-owner.value_bytes(context, storage))

    @override
    def cache_traffic(self, context: int, storage: Storage) -> int:
        """Both branches' traffic; a shared attention value moves once, the least a fused kernel could do."""
        both = self.first.cache_traffic(context, storage) + self.second.cache_traffic(context, storage)
        owner = self._value_owner()
        return both if owner is None else both - owner.value_traffic(context, storage)

    @override
    def cache_parts(self, context: int, storage: Storage) -> tuple[CachePart, ...]:
        first, second = (branch.cache_parts(context, storage) for branch in self.branches)
        if self._value_owner() is not None:
            values = self.second.value_bytes(1, storage) - self.second.value_bytes(0, storage)
            second = tuple(
                replace(part, token_bytes=part.token_bytes - values) if part.token_bytes else part for part in second
            )
        return first + second

    @override
    def activations(self, size: int) -> Activations:
        """Both branches, which share one input; the norm per head and each scaling keep their inputs."""
        fusion = self.fusion
        # A branch's output that is neither normed nor scaled before a joint product is not kept.
        passes = fusion.norm == "none" and fusion.out == "joint"
        unkept = {"none": (0, 1), "scalar": (0,)}.get(fusion.scale, ()) if passes else ()
        cores = [self._core(index, size, index not in unkept) for index in range(len(self.branches))]
        widths = [branch.out_width for branch in self.branches]
        both = size * sum(widths)
        fused: list[Term] = []
        if fusion.norm == "group":
            fused.append(Term("normed outputs", both, cheap=True))
        if fusion.norm == "group" and fusion.scale == "none" and fusion.out == "separate":
            fused.append(Term("both output weights side by side", fixed=both * self.d_model))
        elif fusion.out == "joint" and not (
            fusion.norm == "group" and fusion.scale == "none" and fusion.op == "concat"
        ):
            fused.append(Term("fused outputs", size * self.joint_width, cheap=True))
        elif fusion.out == "separate" and fusion.scale != "none":
            fused.append(Term("scaled outputs", size * widths[1] if fusion.scale == "scalar" else both, cheap=True))
        if fusion.scale == "gate":
            fused.append(Term("shares", 2 * size))
        entry = Term("block input", size * self.d_model, cheap=True)
        first, second = (core.saved for core in cores)
        return Activations(
            saved=(entry, *first, *second, *fused),
            # The first branch's output is alive while the second one runs; the fusion needs both.
            forward=(
                *cores[0].forward,
                *((Term("first branch's output", size * widths[0]), *moment) for moment in cores[1].forward),
                (Term("outputs of both branches", both), *fused),
            ),
            backward=tuple(
                (Term("gradients of the outputs", both), *moment) for core in cores for moment in core.backward
            ),
            lent=tuple(term for core in cores for term in core.lent),
        )

    def _core(self, index: int, size: int, keeps_output: bool) -> Activations:
        """A branch's core; the output of an attention or of a scan with a gate is kept by its kernel in any case."""
        branch, borrows = self.branches[index], index == self.borrower
        core = branch.core_activations(size, borrows, keeps_output)
        if core is None:
            which = "that borrows its value" if borrows else "as a branch"
            raise BadInput(f"no memory formula for a parallel block with {branch.kind} {which}.")
        return core
