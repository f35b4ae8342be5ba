"""stages: the stages of a fused decode step, each one or two launches that read and write the residual stream.

Their order is planned by ``fused``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridbench.kernels.attention.triton_decode import DecodePlan, launch_attention_decode
from hybridbench.kernels.step import triton_dense, triton_ends, triton_mixers
from hybridbench.model.attention import AttentionModule
from hybridbench.model.block import Step
from hybridbench.model.cache import AttentionCache, Cache, RecurrentCache
from hybridbench.model.language import LanguageModel
from hybridbench.model.mamba2 import Mamba2Module
from hybridbench.model.mlp import MlpModule
from hybridbench.model.quantised import Weight, stored
from hybridbench.model.rotary import frequencies
from hybridbench.model.state_stages import StateStages
from hybridbench.model.summed import Projected, SummedStages
from hybridbench.model.tiling import Tiling, power_of_two


@dataclass(frozen=True)
class _Stream:
    """The residual stream: x, x times the next norm's weight, and the sums of squares that its writers left."""

    x_BD: Tensor
    xw_BD: Tensor
    squares: Tensor


@dataclass(frozen=True)
class AttentionRead:
    """One attention of a step: its inputs and its output, in buffers that no other layer uses.

    ``norm_eps`` is the epsilon of the norm of every head's output; None without one.
    """

    q_BHP: Tensor
    cache: AttentionCache
    length_B: Tensor
    out_BHV: Tensor
    norm_eps: float | None


class Stages(StateStages, SummedStages):
    """The stages of one decode step of a model. ``reads`` are its attentions in order.

    Args:
        model: an allocated model.
        B: sequences.
        streams, pdl, tilings: as for ``Launches``.
    """

    def __init__(
        self,
        model: LanguageModel,
        B: int,
        *,
        streams: int = 1,
        pdl: bool | None = None,
        tilings: dict[tuple[str, int, int], Tiling] | None = None,
    ) -> None:
        super().__init__(
            B,
            model.norm_weights[0],
            streams=streams,
            pdl=pdl,
            tilings=tilings,
            coded=model.embedding_scale_V is not None,
        )
        self.model = model
        if model.across is not None:
            self.across = model.across
        self.logits_BV: Tensor = torch.empty(self.B, model.own_words.shape[0], **self.kind)
        self.reads: list[AttentionRead] = []
        self._plans: dict[tuple[int, ...], DecodePlan] = {}
        D = model.d_model
        squares = torch.empty(max(D // 16, 1), self.B, **self.wide)
        self.stream = _Stream(self._new(D), self._new(D, dtype=self.multiplied), squares)

    def _begin(self, caches: list[Cache | None], token_B: Tensor, position_B: Tensor) -> None:
        """The launch that embeds the tokens, turns positions into angles, and finds each cache's slot and length."""
        model, D = self.model, self.model.d_model
        asked = Step(position_B)
        for layer in model.blocks:
            layer.make_turns(asked)
        self._turns = asked.turns
        self._rings = list(dict.fromkeys(ring for cache in caches if cache is not None for ring in cache.rings()))
        pairs = max((head_dim // 2 for _, head_dim in self._turns), default=1)
        frequency = torch.zeros(max(len(self._turns), 1), pairs, **self.wide)
        for index, (rope, head_dim) in enumerate(self._turns):
            frequency[index, : head_dim // 2] = frequencies(rope, head_dim, frequency.device)
        device = token_B.device
        self.turn = torch.zeros(max(len(self._turns), 1), self.B, 2, pairs, **self.wide)
        ring = torch.tensor(self._rings or [(0, 0)], dtype=torch.int64, device=device)
        self.slot = torch.zeros(ring.shape[0], self.B, dtype=torch.int64, device=device)
        self.length = torch.ones(ring.shape[0], self.B, dtype=torch.int32, device=device)
        self.pairs = pairs
        stream, row = self.stream, token_B
        table: Tensor = model.embedding_VD
        if model.across is not None:  # the kernel looks up the rows that the ranks have added up, one a sequence
            table = self._sum_embedding(token_B, table)
            row = torch.arange(self.B, device=device)
        self._launch(
            triton_ends.begin,
            self.B,
            row,
            position_B,
            table,
            model.embedding_scale_V,
            model.norm_weights[0],
            stream.x_BD,
            stream.xw_BD,
            stream.squares,
            frequency,
            self.turn,
            ring,
            self.slot,
            self.length,
            D=D,
            D_TILE=power_of_two(D),
            B=self.B,
            TURNS=len(self._turns),
            PAIRS=pairs,
            PAIRS_TILE=power_of_two(pairs),
            RINGS=len(self._rings),
        )
        self.parts = 1

    def attention(self, module: AttentionModule, cache: AttentionCache, *, norm_eps: float | None) -> Tensor:
        """Projection to q, k and v with rotation and cache write, then the attention; its output (B, H x V)."""
        spec, w = module.spec, stored(module.in_proj)
        H, K, P, V, D = spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.v_head_dim, spec.d_model
        tiling = self._product("qkv", w)
        half = max(tiling.rows // 2, 8)
        tiles = (H + K) * -(-(P // 2) // half) + K * -(-(V // 2) // half)
        q_BHP, out_BHV = self._new(H, P), self._new(H, V, dtype=self.multiplied)
        ring = self._rings.index((cache.sinks, cache.ring))
        turn = self.turn[self._turns.index((spec.rope, P))] if spec.rope is not None else self.turn[0]
        part, count = self._parts("qkv", tiles, tiling, 2 * half)
        room = tiling.room_beside(tiles * tiling.splits, self.n_sms, self.tokens, w.matrix_RK.element_size())
        plan = self._attention_plan((H, K, P, V, cache.k_BSKP.shape[1]), cache.k_BSKP, room)
        self._launch(
            triton_mixers.project_qkv,
            tiles * tiling.splits,
            self.stream.xw_BD,
            self.stream.squares,
            w.matrix_RK,
            w.scale_R,
            q_BHP,
            cache.k_BSKP,
            cache.v_BSKV,
            *cache.scales,
            turn,
            self.slot[ring],
            part,
            count,
            cache.k_BSKP.stride(0),
            cache.v_BSKV.stride(0),
            self.model.norm_eps,
            warps=tiling.warps,
            D=D,
            H=H,
            K=K,
            P=P,
            V=V,
            TURN_PAIRS=self.pairs,
            **self._consumed(),
            HALF=half,
            ROTATES=spec.rope is not None,
            LATE=plan.late,
            **tiling.constants,
        )
        length_B, pdl = self.length[ring], self._overlaps()
        self.reads.append(AttentionRead(q_BHP, cache, length_B, out_BHV, norm_eps))

        def attend(compile_only: bool = False) -> None:
            launch_attention_decode(
                plan,
                q_BHP,
                cache.k_BSKP,
                cache.v_BSKV,
                length_B,
                out_BHV,
                scales_BK=cache.scales,
                norm_eps=norm_eps,
                pdl=pdl,
                compile_only=compile_only,
            )

        self.launches.append(attend)
        self.compilations.append(lambda: attend(compile_only=True))
        return out_BHV.flatten(1)

    def _attention_plan(self, sizes: tuple[int, int, int, int, int], like: Tensor, room: int) -> DecodePlan:
        """A plan that all attentions of one size share, since they follow one another: H, K, P, V and slots."""
        key = *sizes, room
        if key not in self._plans:
            self._plans[key] = DecodePlan.make(self.B, *sizes, like, room=room)
        return self._plans[key]

    def mamba2(self, module: Mamba2Module, cache: RecurrentCache, *, norm: str, eps: float) -> tuple[Tensor, Tensor]:
        """Projection with convolution, then the state's update; y (B, I) and the sums of squares of its heads."""
        spec, w = module.spec, stored(module.in_proj)
        inner, channels, H = spec.d_inner, spec.conv_channels, spec.n_heads
        tiling = self._product("mamba2", w)
        tiles = -(-w.matrix_RK.shape[0] // tiling.rows)
        z, mixed = self._passed("z", inner), self._passed("mixed", channels)
        dt = self._passed("dt", H, dtype=torch.float32)
        part, count = self._parts("mamba2", tiles, tiling, tiling.rows)
        self._launch(
            triton_mixers.project_mamba2,
            tiles * tiling.splits,
            self.stream.xw_BD,
            self.stream.squares,
            w.matrix_RK,
            w.scale_R,
            z,
            mixed,
            dt,
            cache.conv_BCW,
            module.conv_weight_CW,
            module.conv_bias_C,
            part,
            count,
            self.model.norm_eps,
            warps=tiling.warps,
            D=spec.d_model,
            I=inner,
            C=channels,
            H=H,
            TAPS=spec.d_conv,
            COLUMNS=cache.conv_BCW.shape[-1],
            **self._consumed(),
            ROWS=tiling.rows,
            **tiling.constants,
        )
        return self._update_state(module, cache, (mixed, dt, z), norm=norm, eps=eps)

    def _swiglu(self, module: MlpModule) -> Tensor:
        """The input projection and activation of a SwiGLU block (B, F)."""
        w = stored(module.in_proj)
        F, D = w.matrix_RK.shape[0] // 2, w.matrix_RK.shape[1]
        act = self._passed("act", F, dtype=self.multiplied)
        tiling = self._product("swiglu", w)
        half = tiling.rows // 2
        tiles = -(-F // half)
        part, count = self._parts("swiglu", tiles, tiling, tiling.rows)
        self._launch(
            triton_dense.project_swiglu,
            tiles * tiling.splits,
            self.stream.xw_BD,
            self.stream.squares,
            w.matrix_RK,
            w.scale_R,
            act,
            part,
            count,
            self.model.norm_eps,
            warps=tiling.warps,
            D=D,
            F=F,
            **self._consumed(),
            HALF=half,
            **tiling.constants,
        )
        return act

    def _residual(
        self,
        first: Projected,
        second: Projected | None,
        next_norm: Tensor,
        *,
        subtract: bool = False,
        squares: Tensor | None = None,
        eps: float = 0.0,
    ) -> None:
        """Output projections of one or two branches, added to the residual stream, and the next norm's input.

        Args:
            first, second: input, weight and width of each product.
            subtract: the second is subtracted.
            squares: sums of squares of ``first``, which is divided by its root mean square.
        """
        D, stream = self.model.d_model, self.stream
        x1, w1, k1 = first
        x2, w2, k2 = second = second or (x1, w1, 0)
        if self.model.across is not None:
            streams = stream.x_BD, stream.xw_BD, stream.squares
            self.parts = self._sum_residual(
                first, second, next_norm, streams, subtract=subtract, squares=squares, eps=eps
            )
            return
        tiling = self._product("residual", w1, k1 + k2)
        block_k = next(block for block in (tiling.block_k, 64, 32, 16) if k1 % block == 0 and k2 % block == 0)
        tiles = -(-D // tiling.rows)
        part, count = self._parts("residual", tiles, tiling, tiling.rows)
        self._launch(
            triton_dense.project_residual,
            tiles * tiling.splits,
            x1,
            x2,
            stream.squares if squares is None else squares,
            w1.matrix_RK,
            w2.matrix_RK,
            w1.scale_R,
            w2.scale_R,
            next_norm,
            stream.x_BD,
            stream.xw_BD,
            stream.squares,
            part,
            count,
            w1.matrix_RK.stride(0),
            w2.matrix_RK.stride(0),
            eps,
            warps=tiling.warps,
            D=D,
            K1=k1,
            K2=k2,
            SUBTRACT=subtract,
            NORMED=squares is not None,
            PARTS=1 if squares is None else squares.shape[0],
            PARTS_TILE=1 if squares is None else power_of_two(squares.shape[0]),
            B=self.B,
            TOKENS=self.tokens,
            ROWS=tiling.rows,
            **{**tiling.constants, "BLOCK_K": block_k},
        )
        self.parts = tiles

    def _head(self, token_B: Tensor, position_B: Tensor, advance: bool) -> None:
        """The launches that write the logits, the next tokens and the next positions."""
        model, stream = self.model, self.stream
        w = Weight(model.own_words, model.embedding_scale_V, model.embedding_scheme)
        if self.model.across is not None:
            given = w.matrix_RK, (stream.xw_BD, stream.squares), self.logits_BV, token_B, position_B
            eps, consumed = self.model.norm_eps, self._consumed()
            self._pick_across(*given, advance=advance, norm_eps=eps, consumed=consumed)
            return
        V, D = w.matrix_RK.shape
        tiling = self._product("head", w)
        tiles = -(-V // tiling.rows)
        best = torch.zeros(self.B, tiles, **self.wide)
        best_at = torch.zeros(self.B, tiles, dtype=torch.int32, device=w.matrix_RK.device)
        cut = tiling.constants
        del cut["SPLITS"]
        self._launch(
            triton_ends.project_head,
            tiles,
            self.stream.xw_BD,
            self.stream.squares,
            w.matrix_RK,
            w.scale_R,
            self.logits_BV,
            best,
            best_at,
            self.model.norm_eps,
            tiles,
            warps=tiling.warps,
            D=D,
            VOCABULARY=V,
            **self._consumed(),
            ROWS=tiling.rows,
            **cut,
        )
        self._launch(
            triton_ends.finish,
            self.B,
            best,
            best_at,
            token_B,
            position_B,
            tiles,
            int(advance),
            VOCABULARY=V,
            TILES_TILE=power_of_two(tiles),
        )

    def _consumed(self) -> dict[str, int]:
        """Arguments of a product that finishes the stream's norm."""
        return {"PARTS": self.parts, "PARTS_TILE": power_of_two(self.parts), "B": self.B, "TOKENS": self.tokens}
