"""per_layer: Gemma's per-layer embeddings: each layer adds a vector of the token that only this layer has.

``out(gelu(gate(x)) * e)``, where e is the layer's own row of ``width`` numbers for the token, from a table of its own,
plus a projection of the token's embedding. Tables and projections of all layers stand in one matrix each; here each
layer has its slice. The table is looked up, not multiplied: a decode step reads one row per sequence.

Source: transformers' Gemma 3n and Gemma 4 classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from hybridbench.arch.block import Block, Convention, Cut, Flops, Storage, check_sizes, refuse_paper, rows_of
from hybridbench.arch.weights import Matrix


@dataclass(frozen=True, slots=True)
class PerLayerInput(Block):
    """One layer's embeddings: ``rows`` of ``width`` numbers, and three projections between d_model and ``width``."""

    kind: ClassVar[str] = "per_layer_input"
    feed_forward: ClassVar[bool] = True

    d_model: int
    width: int
    rows: int

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "width", "rows")

    @property
    def _matmul_params(self) -> int:
        return 3 * self.d_model * self.width

    @override
    def norm_params(self, width: int) -> int:
        """0: its one norm, after it, is among its parameters."""
        return 0

    @override
    def shared_params(self, convention: Convention = Convention.EXACT) -> int:
        """The norm of the projected embedding, which all layers share."""
        return self.width

    @override
    def embedding_params(self) -> int:
        return self.rows * self.width

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        """The table is divided by rows, as the embedding; the projections are on every rank."""
        return {"rows": rows_of(self.rows, cut.tp)}

    @override
    def reduced_bytes(self, width: int, size: int, tp: int) -> int:
        """The row, which one rank has."""
        return self.width * size

    @override
    def params(self, convention: Convention = Convention.EXACT) -> int:
        refuse_paper(convention, "per-layer embeddings")
        return self._matmul_params + self.embedding_params() + self.d_model + self.width

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        return (*self._projections(), self._table(self.rows))

    def _projections(self) -> tuple[Matrix, ...]:
        return (
            Matrix("per_layer_model_projection", self.width, self.d_model, "layer"),
            Matrix("per_layer_input_gate", self.width, self.d_model, "layer"),
            Matrix("per_layer_projection", self.d_model, self.width, "layer"),
        )

    def _table(self, rows: int) -> Matrix:
        """Rows of the table."""
        return Matrix("embed_tokens_per_layer", rows, self.width, "rows")

    @override
    def products(self, convention: Convention = Convention.EXACT, sequence: bool = True) -> dict[str, int]:
        refuse_paper(convention, "per-layer embeddings")
        return {"per-layer embeddings": 2 * self._matmul_params}

    @override
    def prefill_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=sum(self.products(convention).values()) * tokens)

    @override
    def decode_flops(self, context: int, convention: Convention = Convention.EXACT) -> Flops:
        return self.prefill_flops(1, convention)

    @override
    def weight_traffic(self, batch: int, storage: Storage) -> int:
        """All projections and norms, and of the table one row per sequence."""
        table = batch * self.width - self.embedding_params()
        change = storage.change((*self._projections(), self._table(batch)))
        return (self.params() + table) * storage.weight_bytes + change
