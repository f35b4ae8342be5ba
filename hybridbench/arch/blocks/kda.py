"""kda: Kimi delta attention, whose decay is one number a key channel: its shape and its parameters.

Sources: arXiv 2510.26692, flash-linear-attention's ``layers/kda.py``, transformers' Kimi-Linear class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from typing_extensions import override

from hybridbench.arch.block import Convention, Cut, Rescale, check_sizes, variant
from hybridbench.arch.blocks.delta import DeltaRule, heads_at
from hybridbench.arch.scales import Site
from hybridbench.arch.weights import Matrix


@dataclass(frozen=True, slots=True)
class Kda(DeltaRule):
    """Kimi delta attention: ``n_heads`` heads of ``head_dim`` keys and as many values, decay and gate of low rank.

    The decay's and the output gate's projections go through ``head_dim`` columns, as in Kimi-Linear, or each are one
    matrix (``full_rank``), as in Ling 3. The output gate's may have a bias (``gate_bias``),
    as in flash-linear-attention.
    """

    kind: ClassVar[str] = "kda"
    low_rank: ClassVar[bool] = True
    sequence_ops: ClassVar[tuple[str, ...]] = ("conv1d", "kda", "norm_gate")
    step_ops: ClassVar[tuple[str, ...]] = ("conv1d_step", "kda_step", "norm_gate")

    d_model: int
    n_heads: int
    head_dim: int
    d_conv: int = 4
    chunk_size: int = 64
    full_rank: bool = variant(False)
    gate_bias: bool = variant(False)

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "n_heads", "head_dim", "d_conv", "chunk_size")

    @classmethod
    def at(cls, site: Site) -> Self:
        """A block as wide as the scale's Mamba-2."""
        return cls(site.scale.d_model, *heads_at(site))

    @property
    @override
    def n_k_heads(self) -> int:
        return self.n_heads

    @property
    @override
    def k_head_dim(self) -> int:
        return self.head_dim

    @property
    @override
    def v_head_dim(self) -> int:
        return self.head_dim

    @property
    @override
    def gate_and_decay(self) -> tuple[int, int]:
        return self.head_dim, self.head_dim

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        return {"n_heads": cut.divided("n_heads", self.n_heads)}

    @override
    def sizes_scaled(self, part: Rescale) -> dict[str, int]:
        return {"n_heads": part(self.n_heads)}

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        values = () if borrows_value else (Matrix("v_proj", self.out_width, self.d_model, "mixer"),)
        rows, rank = self.out_width, self.head_dim
        whole = tuple(Matrix(f"{name}_proj", rows, self.d_model, "mixer") for name in ("f", "g"))
        low_rank = tuple(
            matrix
            for name in ("f", "g")
            for matrix in (
                Matrix(f"{name}_a_proj", rank, self.d_model, "mixer"),
                Matrix(f"{name}_b_proj", rows, rank, "mixer"),
            )
        )
        return (
            Matrix("q_proj", self.out_width, self.d_model, "mixer"),
            Matrix("k_proj", self.out_width, self.d_model, "mixer"),
            *values,
            *(whole if self.full_rank else low_rank),
            Matrix("b_proj", self.n_heads, self.d_model, "mixer"),
            Matrix("o_proj", self.d_model, self.out_width, "mixer"),
        )

    @override
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        qkv = self.d_model * self.out_width * (2 if borrows_value else 3)
        low_rank = 2 * self.head_dim * (self.d_model + self.out_width)
        decay_and_gate = 2 * self.d_model * self.out_width if self.full_rank else low_rank
        return qkv + decay_and_gate + self.d_model * self.n_heads

    @override
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        decay = self.n_heads + self.out_width + (self.out_width if self.gate_bias else 0)
        return self.in_matmul_params(borrows_value) + self.d_conv * self.conv_channels + decay + self.head_dim

    @override
    def params_fp32(self) -> int:
        return self.n_heads + self.out_width
