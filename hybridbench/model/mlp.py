"""mlp: the SwiGLU feed-forward module, gate and up fused in one product."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from typing_extensions import override

from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.model.block import BlockModule, Factory, Ops
from hybridbench.model.quantised import stored


class MlpModule(BlockModule):
    """``down(silu(gate(x)) * up(x))`` over (..., d_model)."""

    def __init__(self, spec: Mlp, ops: Ops, make: Factory) -> None:
        super().__init__()
        self.ops = ops
        self.in_proj = make.linear(spec.d_model, 2 * spec.d_ff)
        self.out_proj = make.linear(spec.d_ff, spec.d_model)

    @override
    def products(self) -> Iterator[tuple[Tensor, str]]:
        yield stored(self.in_proj).matrix_RK, "mlp in_proj"
        yield stored(self.out_proj).matrix_RK, "mlp out_proj"

    @override
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out_proj(self.ops["swiglu"](self.in_proj(x)))
        return out
