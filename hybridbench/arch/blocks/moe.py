"""moe: a feed-forward block of routed experts plus shared ones, each a SwiGLU.

The paper's variant (arXiv 2510.04800 section on MoE): 8 routed experts, top-1, one shared, half the dense width each,
a sigmoid router whose selection bias is balanced without an auxiliary loss (the bias is a buffer, no parameter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from typing_extensions import override

from hybridbench.arch.block import (
    Block,
    Convention,
    Cut,
    Flops,
    KernelSizes,
    Packed,
    Packing,
    Rescale,
    Storage,
    check_sizes,
    refuse_paper,
    variant,
)
from hybridbench.arch.blocks.mlp import WIDTH_UNIT, swiglu_activations
from hybridbench.arch.scales import Site
from hybridbench.arch.terms import FLOAT, INDEX, Activations, Term
from hybridbench.arch.weights import Matrix, Part
from hybridbench.errors import BadInput


def expert_traffic(params: int, matrices: Sequence[Matrix], top_k: int, batch: int, storage: Storage) -> int:
    """Expected bytes of the experts that a step reads under uniform routing: E (1 - (1 - k/E)^B) distinct ones.

    Args:
        params: of one expert.
        matrices: those of all experts; each counts one per expert.
        top_k: experts that a token picks.
        batch: tokens.
    """
    n_experts = matrices[0].count
    distinct = n_experts * (1 - (1 - top_k / n_experts) ** batch)
    return round(distinct * params) * storage.weight_bytes + round(distinct * storage.change(matrices) / n_experts)


@dataclass(frozen=True, slots=True)
class Moe(Block):
    """``n_experts`` routed experts of width ``d_expert``, ``top_k`` per token; shared ones of ``d_shared`` in all.

    Args:
        gated: experts are SwiGLU; else of two matrices, as in Nemotron-3.
        shared_gate: a sigmoid gate on the shared experts, d_model weights, as in Qwen3-Next.
        latent: width the routed experts run at, between two projections, as in Nemotron-3-Super; None for d_model.
        bias: biases of the router and of the routed experts, as in gpt-oss.
        out_bias: one bias on the sum of the experts, as in JetMoE.
        inner_norms: norms before and after the routed experts and after the shared ones, and scales of the router's
            input and of each expert, as in Gemma 4.
    """

    kind: ClassVar[str] = "moe"
    sequence_ops: ClassVar[tuple[str, ...]] = ("experts", "swiglu")
    step_ops: ClassVar[tuple[str, ...]] = ("experts", "swiglu")
    feed_forward: ClassVar[bool] = True

    d_model: int
    d_expert: int
    n_experts: int = 8
    top_k: int = 1
    d_shared: int = 0
    bias_update_rate: float = 1e-3
    gated: bool = variant(True)
    shared_gate: bool = variant(False)
    latent: int | None = variant(None)
    bias: bool = variant(False)
    out_bias: bool = variant(False)
    inner_norms: bool = variant(False)

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "d_expert", "n_experts", "top_k", "latent")
        if self.d_shared:
            check_sizes(self, "d_shared")
        if not 1 <= self.top_k <= self.n_experts:
            raise BadInput(f"top_k {self.top_k} of {self.n_experts} experts: give 1 to {self.n_experts}.")

    @classmethod
    def at(cls, site: Site) -> Self:
        """The paper's experts: eight routed, top-1, and one shared, each half as wide as the dense block."""
        half = site.scale.d_ff // 2
        return cls(site.scale.d_model, half, n_experts=8, top_k=1, d_shared=half)

    @property
    @override
    def departures(self) -> tuple[str, ...]:
        return ("moe",)

    @override
    def absent_ops(self, borrows_value: bool = False) -> tuple[str, ...]:
        return () if self.d_shared else ("swiglu",)

    @override
    def sizes(self) -> KernelSizes:
        return {
            "width": self.d_shared,
            "d_model": self.d_model,
            "d_expert": self.d_expert,
            "n_experts": self.n_experts,
            "top_k": self.top_k,
        }

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        """Each rank has a part of the width of every expert."""
        return {
            "d_expert": cut.divided("d_expert", self.d_expert),
            "d_shared": cut.divided("d_shared", self.d_shared),
        }

    @override
    def packing(self, borrows_value: bool = False) -> Packing:
        """Each rank has columns of every expert, and all ranks choose experts alike."""
        columns, shared, experts = (self.d_expert, 1), (self.d_shared, 1), self.n_experts * self.d_model
        found = {
            "router.weight": Packed(((1, self.n_experts),), self.d_model),
            "in_weight_EFD": Packed((columns, columns), experts, 1),
            "out_weight_EDF": Packed((columns,), experts, 2),
        }
        if self.d_shared:
            found["shared_in.weight"] = Packed((shared, shared), self.d_model)
            found["shared_out.weight"] = Packed((shared,), self.d_model, 1)
        return found

    @override
    def sizes_scaled(self, part: Rescale) -> dict[str, int]:
        widths = {"d_expert": self.d_expert, "d_shared": self.d_shared}
        return {name: part(width, min(WIDTH_UNIT, width)) for name, width in widths.items() if width}

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        return (*self._shared(), *self._experts())

    def _shared(self) -> tuple[Matrix, ...]:
        """The matrices that every token is multiplied by."""
        found = [Matrix("gate", self.n_experts, self.d_model, "router")]
        if self.d_shared:
            found += self._feed_forward("shared_expert", self.d_model, self.d_shared, "shared expert", 1)
        if self.shared_gate:
            found.append(Matrix("shared_expert_gate", 1, self.d_model, "mlp"))
        if self.latent:
            found.append(Matrix("fc1_latent_proj", self.latent, self.d_model, "mlp"))
            found.append(Matrix("fc2_latent_proj", self.d_model, self.latent, "mlp"))
        return tuple(found)

    def _experts(self) -> list[Matrix]:
        """The matrices of the routed experts."""
        return self._feed_forward("experts", self.latent or self.d_model, self.d_expert, "expert", self.n_experts)

    def _feed_forward(self, name: str, width: int, inner: int, part: Part, count: int) -> list[Matrix]:
        into = ("gate_proj", "up_proj") if self.gated else ("up_proj",)
        found = [Matrix(f"{name}.{one}", inner, width, part, count) for one in into]
        return [*found, Matrix(f"{name}.down_proj", width, inner, part, count)]

    def _matrices(self) -> int:
        return 3 if self.gated else 2

    def _expert_weights(self) -> int:
        return self._matrices() * (self.latent or self.d_model) * self.d_expert

    def _expert(self) -> int:
        bias = (self._matrices() - 1) * self.d_expert + (self.latent or self.d_model) if self.bias else 0
        return self._expert_weights() + bias

    def _always(self, convention: Convention) -> int:
        """Parameters that process every token; the paper leaves the router out."""
        if self.latent or self.shared_gate or self.bias or self.out_bias or self.inner_norms:
            refuse_paper(convention, "experts at a latent width, behind a shared gate, with biases or with norms")
        router = 0 if convention is Convention.PAPER else self.n_experts * self.d_model
        gate = self.d_model if self.shared_gate else 0
        latent = 2 * self.d_model * self.latent if self.latent else 0
        biases = self.n_experts * self.bias + self.d_model * self.out_bias
        norms = 4 * self.d_model + self.n_experts if self.inner_norms else 0
        return router + gate + latent + biases + norms + self._matrices() * self.d_model * self.d_shared

    @override
    def params(self, convention: Convention = Convention.EXACT) -> int:
        return self.n_experts * self._expert() + self._always(convention)

    @override
    def params_active(self, convention: Convention = Convention.EXACT) -> int:
        return self.top_k * self._expert() + self._always(convention)

    @override
    def products(self, convention: Convention = Convention.EXACT, sequence: bool = True) -> dict[str, int]:
        self._always(convention)  # it refuses what the paper has no formula for
        router = 0 if convention is Convention.PAPER else 2 * self.n_experts * self.d_model
        found = {
            "moe router": router,
            "moe experts": 2 * self.top_k * self._expert_weights(),
            "moe shared experts": 2 * self._matrices() * self.d_model * self.d_shared,
            "moe shared gate": 2 * self.d_model if self.shared_gate else 0,
            "moe latent": 4 * self.d_model * self.latent if self.latent else 0,
        }
        return {name: flops for name, flops in found.items() if flops}

    @override
    def kernel_flops(
        self, parts: Sequence[str], shapes: Sequence[tuple[int, ...]], *, step: bool, training: bool, one_pass: bool
    ) -> dict[str, int]:
        tokens = shapes[0][0]
        experts = f"{self.name} experts"
        return {experts: tokens * self.products()[experts] * (3 if training else 1)} if "experts" in parts else {}

    @override
    def prefill_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=sum(self.products(convention).values()) * tokens)

    @override
    def decode_flops(self, context: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=sum(self.products(convention, sequence=False).values()))

    @override
    def weight_traffic(self, batch: int, storage: Storage) -> int:
        """Expected bytes: those of the routed experts that are read, of the router and of shared experts."""
        experts = expert_traffic(self._expert(), self._experts(), self.top_k, batch, storage)
        return experts + self._always(Convention.EXACT) * storage.weight_bytes + storage.change(self._shared())

    @override
    def activations(self, size: int) -> Activations:
        """Routed experts as grouped products over tokens sorted by expert (``dense.experts``), and shared ones."""
        packed = Term("experts' packed gate, up", self.top_k * size * 2 * self.d_expert)
        gate = Term("experts' silu(gate)", self.top_k * size * self.d_expert)
        product = Term("experts' silu(gate) * up", self.top_k * size * self.d_expert)
        shared = swiglu_activations(self.d_shared, size) if self.d_shared else Activations((), (), ())
        sorted_tokens = Term("tokens sorted by expert", self.top_k * size * self.d_model)
        outputs = Term("experts' outputs, plain and weighted", 2 * self.top_k * size * self.d_model)
        routing = Term("scores, choices, order and weights", FLOAT * self.n_experts + self.top_k * (3 * INDEX + size))
        entry = Term("block input", size * self.d_model, cheap=True)
        return Activations(
            saved=(entry, routing, sorted_tokens, packed, gate, product, outputs, *shared.saved),
            forward=(
                (routing, sorted_tokens, packed, gate, product),
                *((outputs, *moment) for moment in shared.forward),
            ),
            backward=(
                (
                    Term("gradients of gate and up, apart and packed", 2 * packed.per_token),
                    Term("silu(gate) and product, freed", -gate.per_token - product.per_token),
                    Term("gradients of outputs", outputs.per_token),
                ),
                *shared.backward,
            ),
        )
