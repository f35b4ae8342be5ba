"""mlp: the gated feed-forward block (SwiGLU): ``down(silu(gate(x)) * up(x))``, three matrices and no cache.

Without the gate it is ``down(f(up(x)))`` with two matrices, as in Nemotron-H, whose f is the squared ReLU.
"""

from __future__ import annotations

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
    check_sizes,
    variant,
)
from hybridbench.arch.scales import Site
from hybridbench.arch.terms import Activations, Term
from hybridbench.arch.weights import Matrix

WIDTH_UNIT = 64
"""A feed-forward width at another width of the model is a multiple of this."""


def swiglu_activations(d_ff: int, size: int) -> Activations:
    """Gate and up in one product, ``silu(gate) * up`` as one kernel that keeps its input, down."""
    packed = Term("packed gate, up", size * 2 * d_ff)
    product = Term("silu(gate) * up", size * d_ff, cheap=True)
    return Activations(
        saved=(packed, product),
        forward=((packed, product),),
        backward=(
            (
                Term("gradient of the product", product.per_token),
                Term("product, freed", -product.per_token),
                Term("gradients of gate, up", packed.per_token),
            ),
        ),
    )


@dataclass(frozen=True, slots=True)
class Mlp(Block):
    """A feed-forward block of width ``d_ff``; 3 d_model d_ff weights, 2 without a gate, two FLOPs each per token.

    Args:
        gated: two matrices read the input; else one does.
        bias: biases of all projections.
        own_norm: a norm before it; else it reads the normed input of the mixer beside it, as in Cohere's models.
    """

    kind: ClassVar[str] = "mlp"
    sequence_ops: ClassVar[tuple[str, ...]] = ("swiglu",)
    step_ops: ClassVar[tuple[str, ...]] = ("swiglu",)
    feed_forward: ClassVar[bool] = True

    d_model: int
    d_ff: int
    gated: bool = variant(True)
    bias: bool = variant(False)
    own_norm: bool = variant(True)

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "d_ff")

    @classmethod
    def at(cls, site: Site) -> Self:
        """The feed-forward block of a scale."""
        return cls(site.scale.d_model, site.scale.d_ff)

    @override
    def sizes(self) -> KernelSizes:
        return {"width": self.d_ff}

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        return {"d_ff": cut.divided("d_ff", self.d_ff)}

    @override
    def packing(self, borrows_value: bool = False) -> Packing:
        columns = self.d_ff, 1
        return {
            "in_proj.weight": Packed((columns, columns), self.d_model),
            "out_proj.weight": Packed((columns,), self.d_model, 1),
        }

    @override
    def sizes_scaled(self, part: Rescale) -> dict[str, int]:
        return {"d_ff": part(self.d_ff, min(WIDTH_UNIT, self.d_ff))}

    @override
    def norm_params(self, width: int) -> int:
        return width if self.own_norm else 0

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        into = ("gate_proj", "up_proj") if self.gated else ("up_proj",)
        return (
            *(Matrix(name, self.d_ff, self.d_model, "mlp") for name in into),
            Matrix("down_proj", self.d_model, self.d_ff, "mlp"),
        )

    def matmul_params(self) -> int:
        """Weights that multiply every token."""
        return (3 if self.gated else 2) * self.d_model * self.d_ff

    @override
    def products(self, convention: Convention = Convention.EXACT, sequence: bool = True) -> dict[str, int]:
        down = 2 * self.d_model * self.d_ff
        return {"mlp in_proj": 2 * self.matmul_params() - down, "mlp out_proj": down}

    @override
    def params(self, convention: Convention = Convention.EXACT) -> int:
        counts_bias = self.bias and convention is not Convention.PAPER
        bias = (2 if self.gated else 1) * self.d_ff + self.d_model if counts_bias else 0
        return self.matmul_params() + bias

    @override
    def prefill_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=2 * self.matmul_params() * tokens)

    @override
    def decode_flops(self, context: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=2 * self.matmul_params())

    @override
    def activations(self, size: int) -> Activations:
        inner = swiglu_activations(self.d_ff, size)
        entry = Term("block input", size * self.d_model, cheap=True)
        return Activations((entry, *inner.saved), inner.forward, inner.backward)
