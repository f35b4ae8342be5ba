"""fused: one decode step of a whole model as a short list of fused kernels, planned once per model and cache.

The plan holds the launches in order, with every buffer allocated. A run reads the token and position of each sequence
from device memory, updates the caches in place, and writes logits and the next token. Its reference implementation is
``LanguageModel.decode`` over the same parameters and caches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hybridbench.arch.blocks.parallel import Fusion
from hybridbench.kernels.tuning import compile_together
from hybridbench.model.block import BlockModule
from hybridbench.model.cache import Cache, ParallelCache
from hybridbench.model.chain import Chain
from hybridbench.model.kinds import STEPS
from hybridbench.model.language import LanguageModel
from hybridbench.model.mixer import MixerModule
from hybridbench.model.mlp import MlpModule
from hybridbench.model.parallel import ParallelModule
from hybridbench.model.quantised import stored
from hybridbench.model.tiling import Tiling


class FusedStep(Chain):
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
            plan = PLANS.get(type(layer), FusedStep._plan_mixer)
            plan(self, layer, cache, self.model.norm_weights[index + 1])
        self._head(token_B, position_B, advance)

    def _plan_mlp(self, layer: MlpModule, _cache: None, next_norm: Tensor) -> None:
        act = self._swiglu(layer)
        self._residual((act, stored(layer.out_proj), layer.out_proj.in_features), None, next_norm)

    def _plan_mixer(self, layer: MixerModule, cache: Cache, next_norm: Tensor) -> None:
        """A mixer by its row of ``kinds``, and its output projection."""
        assert layer.out_proj is not None
        mixed = STEPS[type(layer.spec)].plan(self, layer, cache, None)
        first = (mixed.y_BI, stored(layer.out_proj), layer.out_proj.in_features)
        self._residual(first, None, next_norm, squares=mixed.squares, eps=mixed.eps)

    def _plan_parallel(self, layer: ParallelModule, cache: ParallelCache, next_norm: Tensor) -> None:
        fusion: Fusion = layer.spec.fusion
        head_eps = layer.norm_eps if fusion.norm == "group" else None
        with self._beside():
            second_mixed = STEPS[type(layer.second.spec)].plan(self, layer.second, cache.second, head_eps)
        first_mixed = STEPS[type(layer.first.spec)].plan(self, layer.first, cache.first, head_eps)
        self._meet()
        y, out = first_mixed.y_BI, second_mixed.y_BI
        widths = y.shape[1], out.shape[1]
        if layer.out_proj is None:
            assert layer.first.out_proj is not None
            assert layer.second.out_proj is not None
            weights = stored(layer.first.out_proj), stored(layer.second.out_proj)
        else:
            joint = stored(layer.out_proj)
            weights = joint, joint.from_column(widths[0])
        first, second = ((x, w, width) for x, w, width in zip((y, out), weights, widths, strict=True))
        self._residual(first, second, next_norm, subtract=fusion.op == "subtract")


PLANS: dict[type[BlockModule], Callable[[FusedStep, Any, Any, Tensor], None]] = {
    MlpModule: FusedStep._plan_mlp,
    ParallelModule: FusedStep._plan_parallel,
}
"""Module of a sublayer that is no single mixer to what plans its launches, called with the module, its cache and the
weight of the next norm. A mixer is planned by its row of ``kinds``.

``step.UNFUSED`` has a row for the block of every module here.
"""
