"""moe: a mixture-of-experts feed-forward module: sigmoid router, token choice, bias balancing without a loss.

The bias is added to the scores for the choice only (arXiv 2408.15664); the output is weighted by the plain score.
``balance`` moves it after a training step. The experts' products run through the operation ``experts``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from typing_extensions import override

from hybridbench.arch.blocks.moe import Moe
from hybridbench.model.block import INIT_STD, BlockModule, Factory, Ops


class MoeModule(BlockModule):
    """``top_k`` of ``n_experts`` SwiGLU experts per token, plus a shared one where the spec has it."""

    traceable = False  # its tokens are counted on the host
    bias_E: Tensor
    load_E: Tensor
    counts = True
    """Whether a forward counts the load of the experts; False while a checkpointed forward is repeated."""
    chosen_NK: Tensor | None = None
    """The experts that the last forward chose; set only where ``replaying`` is True."""
    replay_NK: Tensor | None = None
    """The experts that the next forwards use instead of choosing: two forwards that round differently may choose
    differently where two scores are nearly equal."""
    replaying = False

    def __init__(self, spec: Moe, ops: Ops, make: Factory) -> None:
        super().__init__()
        self.spec = spec
        self.ops = ops
        self.router = make.linear(spec.d_model, spec.n_experts)
        self.in_weight_EFD = make.parameter(spec.n_experts, 2 * spec.d_expert, spec.d_model)
        self.out_weight_EDF = make.parameter(spec.n_experts, spec.d_model, spec.d_expert)
        self.shared_in = make.linear(spec.d_model, 2 * spec.d_shared) if spec.d_shared else None
        self.shared_out = make.linear(spec.d_shared, spec.d_model) if spec.d_shared else None
        for name in ("bias_E", "load_E"):
            self.register_buffer(name, torch.zeros(spec.n_experts, device=make.device), persistent=name == "bias_E")

    @override
    def reset(self, generator: torch.Generator) -> None:
        """Draws the experts like every product; bias and load are zero."""
        self.in_weight_EFD.normal_(std=INIT_STD, generator=generator)
        self.out_weight_EDF.normal_(std=INIT_STD, generator=generator)
        self.bias_E.zero_()
        self.load_E.zero_()

    @override
    def products(self) -> Iterator[tuple[Tensor, str]]:
        yield self.router.weight, "moe router"
        for shared in (self.shared_in, self.shared_out):
            if shared is not None:
                yield shared.weight, "moe shared experts"

    @override
    def forward(self, x: Tensor) -> Tensor:
        flat_ND = x.reshape(-1, x.shape[-1])
        score_NE = torch.sigmoid(self.router(flat_ND).float())
        chosen_NK = self.replay_NK
        if chosen_NK is None:
            chosen_NK = (score_NE + self.bias_E).topk(self.spec.top_k, dim=-1).indices
            if self.replaying:
                self.chosen_NK = chosen_NK
        weight_NK = score_NE.gather(-1, chosen_NK).to(x.dtype)
        if self.training and self.counts and torch.is_grad_enabled():
            with torch.no_grad():
                counted = torch.ones_like(chosen_NK, dtype=self.load_E.dtype).flatten()
                self.load_E.scatter_add_(0, chosen_NK.flatten(), counted)
        out_ND: Tensor = self.ops["experts"](flat_ND, chosen_NK, weight_NK, self.in_weight_EFD, self.out_weight_EDF)
        if self.shared_in is not None and self.shared_out is not None:
            out_ND = out_ND + self.shared_out(self.ops["swiglu"](self.shared_in(flat_ND)))
        return out_ND.reshape(x.shape)

    @override
    def balance(self) -> None:
        """Moves each expert's bias by the update rate towards the mean load since the last call."""
        self.bias_E += self.spec.bias_update_rate * torch.sign(self.load_E.mean() - self.load_E)
        self.load_E.zero_()

    @contextlib.contextmanager
    @override
    def repeating(self) -> Iterator[None]:
        """Tokens that are routed again do not add to the load."""
        self.counts = False
        try:
            yield
        finally:
            self.counts = True
