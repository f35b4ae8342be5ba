"""fused: one decode step of a whole model as a short list of fused kernels, planned once per model and cache.

The plan holds the launches in order, with every buffer allocated. A run reads the token and position of each sequence
from device memory, updates the caches in place, and writes logits and the next token. Its reference implementation is
``LanguageModel.decode`` over the same parameters and caches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

from hybridbench.arch.blocks.parallel import Fusion
from hybridbench.kernels.tuning import compile_together
from hybridbench.model.attention import AttentionModule
from hybridbench.model.block import BlockModule
from hybridbench.model.cache import AttentionCache, Cache, ParallelCache, RecurrentCache
from hybridbench.model.language import LanguageModel
from hybridbench.model.mamba2 import Mamba2Module
from hybridbench.model.mlp import MlpModule
from hybridbench.model.parallel import ParallelModule
from hybridbench.model.stages import Stages
from hybridbench.model.tiling import Tiling


class FusedStep(Stages):
    """The launches of one decode step of a model. ``reads`` are its attentions in order.

    Args:
        model: an allocated model whose case ``step.ruled_out_by`` does not rule out.
        caches: of all its layers, from ``LanguageModel.new_caches``.
        token_B, position_B: int64; a run reads them and overwrites them with the next token and ``position + advance``.
        streams: 2 runs the branches of a parallel block on two streams.
        pdl: whether to use programmatic dependent launch; None uses it where the device supports it.
        tilings: other tilings for some products, by name and size; None takes those that were searched on this GPU.
        compiles: whether to compile all kernels at once where there is a GPU; else each is at its first launch.
    """

    def __init__(
        self,
        model: LanguageModel,
        caches: list[Cache | None],
        token_B: Tensor,
        position_B: Tensor,
        *,
        advance: bool,
        streams: int = 1,
        pdl: bool | None = None,
        tilings: dict[tuple[str, int, int], Tiling] | None = None,
        compiles: bool = True,
    ) -> None:
        super().__init__(model, token_B.shape[0], streams=streams, pdl=pdl, tilings=tilings)
        self._plan(caches, token_B, position_B, advance)
        if token_B.is_cuda and compiles:
            compile_together(self.compilations)

    def __call__(self) -> Tensor:
        """Runs the step and returns the logits (B, V), which the next step overwrites."""
        for launch in self.launches:
            launch()
        return self.logits_BV

    def _plan(self, caches: list[Cache | None], token_B: Tensor, position_B: Tensor, advance: bool) -> None:
        self._begin(caches, token_B, position_B)
        for index, (layer, cache) in enumerate(zip(self.model.blocks, caches, strict=True)):
            PLANS[type(layer)](self, layer, cache, self.model.norm_weights[index + 1])
        self._head(token_B, position_B, advance)

    def _plan_mlp(self, layer: MlpModule, _cache: None, next_norm: Tensor) -> None:
        act = self._swiglu(layer)
        self._residual((act, layer.out_proj.weight, layer.out_proj.in_features), None, next_norm)

    def _plan_attention(self, layer: AttentionModule, cache: AttentionCache, next_norm: Tensor) -> None:
        assert layer.out_proj is not None
        out = self._attention(layer, cache, norm_eps=None)
        self._residual((out, layer.out_proj.weight, layer.out_proj.in_features), None, next_norm)

    def _plan_mamba2(self, layer: Mamba2Module, cache: RecurrentCache, next_norm: Tensor) -> None:
        assert layer.out_proj is not None
        norm = "none" if layer.norm_weight_I is None else "row"
        y, squares = self._mamba2(layer, cache, norm=norm, eps=layer.norm_eps)
        first = (y, layer.out_proj.weight, layer.out_proj.in_features)
        self._residual(first, None, next_norm, squares=squares if norm == "row" else None, eps=layer.norm_eps)

    def _plan_parallel(self, layer: ParallelModule, cache: ParallelCache, next_norm: Tensor) -> None:
        mamba2, attention = cast("Mamba2Module", layer.first), cast("AttentionModule", layer.second)
        state, kept = cast("RecurrentCache", cache.first), cast("AttentionCache", cache.second)
        fusion: Fusion = layer.spec.fusion
        normed = fusion.norm == "group"
        with self._beside():
            out = self._attention(attention, kept, norm_eps=layer.norm_eps if normed else None)
        y, _ = self._mamba2(mamba2, state, norm="head" if normed else "none", eps=layer.norm_eps)
        self._meet()
        widths = y.shape[1], out.shape[1]
        if layer.out_proj is None:
            assert layer.first.out_proj is not None
            assert layer.second.out_proj is not None
            weights = layer.first.out_proj.weight, layer.second.out_proj.weight
        else:
            joint = layer.out_proj.weight
            weights = joint, joint[:, widths[0] :]
        first, second = ((x, w, width) for x, w, width in zip((y, out), weights, widths, strict=True))
        self._residual(first, second, next_norm, subtract=fusion.op == "subtract")


PLANS: dict[type[BlockModule], Callable[[FusedStep, Any, Any, Tensor], None]] = {
    MlpModule: FusedStep._plan_mlp,
    AttentionModule: FusedStep._plan_attention,
    Mamba2Module: FusedStep._plan_mamba2,
    ParallelModule: FusedStep._plan_parallel,
}
"""Module of a sublayer to what plans its launches, called with the module, its cache and the weight of the next norm.

``step.UNFUSED`` has a row for the block of every module here.
"""
