"""altup: Gemma 3n's alternating updates: a residual stream of several copies, of which a layer runs on one.

Before a layer, AltUp predicts every copy from all of them; the layer runs on one, and AltUp corrects the others by the
difference. Beside attention runs Laurel, a projection of low rank. Both are counted here, once per layer. The
projections that make the copies after the embedding, and merge them before the head, belong to the first layer.

Sources: arXiv 2301.13310 (AltUp), arXiv 2411.07501 (Laurel), transformers' Gemma 3n class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from hybridbench.arch.block import Block, Convention, Cut, Flops, check_sizes, refuse_paper
from hybridbench.arch.weights import Matrix


@dataclass(frozen=True, slots=True)
class AltUp(Block):
    """What AltUp and Laurel add to one layer.

    Args:
        copies: of the residual stream.
        laurel_rank: columns between Laurel's two matrices.
        first: it stands in the first layer, whose block also makes and merges the copies.
    """

    kind: ClassVar[str] = "altup"
    feed_forward: ClassVar[bool] = True

    d_model: int
    copies: int
    laurel_rank: int
    first: bool = False

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "copies", "laurel_rank")

    @override
    def norm_params(self, width: int) -> int:
        """0: its norms, of the router's input and after Laurel, are among its parameters."""
        return 0

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        """None: every rank has all of it."""
        return {}

    @override
    def reduced_bytes(self, width: int, size: int, tp: int) -> int:
        return 0

    @override
    def params(self, convention: Convention = Convention.EXACT) -> int:
        refuse_paper(convention, "AltUp")
        router = self.copies * self.d_model
        coefficients = self.copies**3 + self.copies**2
        norms_and_scale = 3 * self.d_model
        return router + coefficients + norms_and_scale + self._laurel_params + self._ends_params

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        copies, width = self.copies, self.d_model
        found = [
            Matrix("altup.modality_router", copies, width, "layer"),
            Matrix("altup.prediction_coefs", copies**2, copies, "layer"),
            Matrix("altup.correction_coefs", copies, copies, "layer"),
            Matrix("laurel.linear_left", self.laurel_rank, width, "layer"),
            Matrix("laurel.linear_right", width, self.laurel_rank, "layer"),
        ]
        if self.first:
            found.append(Matrix("altup_projections", width, width, "layer", copies - 1))
            found.append(Matrix("altup_unembed_projections", width, width, "layer", copies - 1))
        return tuple(found)

    @property
    def _laurel_params(self) -> int:
        return 2 * self.d_model * self.laurel_rank

    @property
    def _ends_params(self) -> int:
        return 2 * (self.copies - 1) * self.d_model**2 if self.first else 0

    @override
    def products(self, convention: Convention = Convention.EXACT, sequence: bool = True) -> dict[str, int]:
        refuse_paper(convention, "AltUp")
        # The router runs twice, to predict and to correct; every copy is a mix of all copies.
        altup = 2 * self.copies * self.d_model + self.copies**3 + self.copies**2 + self.copies**2 * self.d_model
        found = {
            "altup": 2 * altup,
            "laurel": 2 * self._laurel_params,
            "altup copies": 2 * self._ends_params,
        }
        return {name: flops for name, flops in found.items() if flops}

    @override
    def prefill_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=sum(self.products(convention).values()) * tokens)

    @override
    def decode_flops(self, context: int, convention: Convention = Convention.EXACT) -> Flops:
        return self.prefill_flops(1, convention)
