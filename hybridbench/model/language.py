"""language: a whole language model: embedding, pre-norm residual sublayers, final norm, tied head.

Three entries, one per kind of work: ``hidden`` for training (the loss multiplies by the head itself, so that logits
never exist whole), ``prefill`` for a prompt and ``decode`` for one token per sequence at device positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridbench.arch.block import Storage
from hybridbench.model.cache import Cache
from hybridbench.model.mamba2 import Mamba2Module
from hybridbench.model.mixer import Factory, MixerModule, Ops, Step
from hybridbench.model.moe import MoeModule
from hybridbench.model.parallel import ParallelModule

INIT_STD = 0.02


class LanguageModel(nn.Module):
    """The model of a spec.

    Args:
        layers: one module per sublayer of the pattern, built with ``make``.
        ops: the callable ``linear_cross_entropy`` where the model is to be trained.
        d_model, vocab_size, norm_eps: as in the spec.
    """

    def __init__(
        self, layers: list[nn.Module], ops: Ops, d_model: int, vocab_size: int, norm_eps: float, make: Factory
    ) -> None:
        super().__init__()
        self.ops = ops
        self.d_model = d_model
        self.norm_eps = norm_eps
        self.embedding_VD = make.parameter(vocab_size, d_model)
        self.layers = nn.ModuleList(layers)
        self.norm_weights = nn.ParameterList([make.parameter(d_model) for _ in range(len(layers) + 1)])

    def allocate(self, device: torch.device, seed: int) -> None:
        """Turns meta parameters into real ones on ``device`` and initialises them from ``seed``."""
        self.to_empty(device=device)
        generator = torch.Generator(device=device).manual_seed(seed)
        with torch.no_grad():
            self.embedding_VD.normal_(std=INIT_STD, generator=generator)
            for weight in self.norm_weights:
                weight.fill_(1.0)
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    module.weight.normal_(std=INIT_STD, generator=generator)
                elif isinstance(module, MoeModule):
                    module.in_weight_EFD.normal_(std=INIT_STD, generator=generator)
                    module.out_weight_EDF.normal_(std=INIT_STD, generator=generator)
                    module.reset_buffers()
                elif isinstance(module, ParallelModule):
                    module.reset_scales()
                elif isinstance(module, Mamba2Module):
                    module.reset_state_parameters(generator)

    def _normed(self, x: Tensor, index: int) -> Tensor:
        return F.rms_norm(x, (self.d_model,), self.norm_weights[index], self.norm_eps)

    def new_caches(self, batch: int, capacity: int, storage: Storage) -> list[Cache | None]:
        """One cache per sublayer that keeps one, for ``capacity`` tokens a sequence."""
        device = self.embedding_VD.device
        return [
            layer.new_cache(batch, capacity, storage, device)
            if isinstance(layer, MixerModule | ParallelModule)
            else None
            for layer in self.layers
        ]

    def hidden(self, token_BT: Tensor, caches: list[Cache | None] | None = None) -> Tensor:
        """The final norm's output at every position (B, T, D), from position 0; fills caches where given."""
        step = Step(torch.arange(token_BT.shape[1], device=token_BT.device))
        x_BTD = F.embedding(token_BT, self.embedding_VD)
        for index, layer in enumerate(self.layers):
            normed = self._normed(x_BTD, index)
            if isinstance(layer, MixerModule | ParallelModule):
                x_BTD = x_BTD + layer(normed, step, caches[index] if caches else None)
            else:
                x_BTD = x_BTD + layer(normed)
        return self._normed(x_BTD, len(self.layers))

    def forward(self, token_BT: Tensor) -> Tensor:
        """Logits at every position (B, T, V)."""
        return F.linear(self.hidden(token_BT), self.embedding_VD)

    def loss(self, token_BT: Tensor, target_BT: Tensor) -> Tensor:
        """Mean cross-entropy of the targets; the head's logits never exist whole."""
        hidden_ND = self.hidden(token_BT).flatten(0, 1)
        loss: Tensor = self.ops["linear_cross_entropy"](hidden_ND, self.embedding_VD, target_BT.flatten())
        return loss

    def prefill(self, token_BT: Tensor, caches: list[Cache | None]) -> Tensor:
        """Fills ``caches`` from a prompt; logits of the last position (B, V)."""
        return F.linear(self.hidden(token_BT, caches)[:, -1], self.embedding_VD)

    def decode(self, token_B: Tensor, position_B: Tensor, caches: list[Cache | None]) -> Tensor:
        """Logits (B, V) after one new token per sequence at absolute ``position_B``; updates ``caches`` in place."""
        step = Step(position_B)
        x_BD = F.embedding(token_B, self.embedding_VD)
        for index, layer in enumerate(self.layers):
            normed = self._normed(x_BD, index)
            cache = caches[index]
            if isinstance(layer, ParallelModule | MixerModule):
                assert cache is not None
                x_BD = x_BD + layer.decode(normed, step, cache)  # type: ignore[arg-type]
            else:
                x_BD = x_BD + layer(normed)
        return F.linear(self._normed(x_BD, len(self.layers)), self.embedding_VD)

    def balance_experts(self) -> None:
        """After a training step: moves routers' biases; nothing without experts."""
        for layer in self.layers:
            if isinstance(layer, MoeModule):
                layer.balance()
