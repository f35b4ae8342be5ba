"""gated_delta: gated delta net, whose decay is one number a head: its shape and its parameters.

Sources: arXiv 2412.06464, transformers' Qwen3-Next and OLMo-Hybrid classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from typing_extensions import override

from hybridbench.arch.block import Convention, Cut, Rescale, check_sizes
from hybridbench.arch.blocks.delta import DeltaRule, heads_at
from hybridbench.arch.scales import Site
from hybridbench.arch.weights import Matrix
from hybridbench.errors import BadInput


@dataclass(frozen=True, slots=True)
class GatedDelta(DeltaRule):
    """Gated delta net, whose state is a matrix of k_head_dim x v_head_dim per value head.

    Args:
        n_heads: value heads, of ``v_head_dim``.
        n_k_heads: query and key heads, of ``k_head_dim``; each serves equally many value heads.
    """

    kind: ClassVar[str] = "gated_delta"
    sequence_ops: ClassVar[tuple[str, ...]] = ("conv1d", "gated_delta", "norm_gate")
    step_ops: ClassVar[tuple[str, ...]] = ("conv1d_step", "gated_delta_step", "norm_gate")

    d_model: int
    n_heads: int
    n_k_heads: int
    k_head_dim: int
    v_head_dim: int
    d_conv: int = 4
    chunk_size: int = 64

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "n_heads", "n_k_heads", "k_head_dim", "v_head_dim", "d_conv", "chunk_size")
        if self.n_heads % self.n_k_heads:
            raise BadInput(
                f"{self.n_heads} value heads cannot share {self.n_k_heads} key heads: "
                f"the first must be a multiple of the second."
            )

    @classmethod
    def at(cls, site: Site) -> Self:
        """A block with Qwen3-Next's proportions, which at 1b is exactly its block.

        It has half as many key heads as value heads, or equally many if the number of value heads is odd.
        """
        heads, width = heads_at(site)
        return cls(site.scale.d_model, heads, heads if heads % 2 else heads // 2, width, width)

    @property
    @override
    def gate_and_decay(self) -> tuple[int, int]:
        return self.out_width, self.n_heads

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        return {
            "n_heads": cut.divided("n_heads", self.n_heads),
            "n_k_heads": cut.divided("n_k_heads", self.n_k_heads),
        }

    @override
    def sizes_scaled(self, part: Rescale) -> dict[str, int]:
        groups = part(self.n_k_heads)
        return {"n_k_heads": groups, "n_heads": groups * (self.n_heads // self.n_k_heads)}

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        qkv = 2 * self.n_k_heads * self.k_head_dim + (0 if borrows_value else self.out_width)
        return (
            Matrix("in_proj_qkv", qkv, self.d_model, "mixer"),
            Matrix("in_proj_z", self.out_width, self.d_model, "mixer"),
            Matrix("in_proj_b", self.n_heads, self.d_model, "mixer"),
            Matrix("in_proj_a", self.n_heads, self.d_model, "mixer"),
            Matrix("out_proj", self.d_model, self.out_width, "mixer"),
        )

    @override
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        value_and_gate = self.out_width * (1 if borrows_value else 2)
        return self.d_model * (2 * self.n_k_heads * self.k_head_dim + value_and_gate + 2 * self.n_heads)

    @override
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        conv = self.d_conv * self.conv_channels
        return self.in_matmul_params(borrows_value) + conv + 2 * self.n_heads + self.v_head_dim

    @override
    def params_fp32(self) -> int:
        return 2 * self.n_heads
