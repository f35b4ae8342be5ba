"""their_mamba: a stand-in for mamba_ssm on a CPU: its names and shapes, and a step in plain PyTorch, without graphs.

The names, the shapes and the order of channels are those of mamba_ssm 2.3.2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridbench.kernels.scan.reference.mamba2 import conv1d_step, ssd_step


@dataclass
class MambaConfig:
    d_model: int
    d_intermediate: int
    n_layer: int
    vocab_size: int
    ssm_cfg: dict[str, Any] = field(default_factory=dict)
    pad_vocab_size_multiple: int = 8


@dataclass
class InferenceParams:
    max_seqlen: int
    max_batch_size: int
    seqlen_offset: int = 0
    key_value_memory_dict: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def reset(self, max_seqlen: int, max_batch_size: int) -> None:
        self.max_seqlen, self.max_batch_size, self.seqlen_offset = max_seqlen, max_batch_size, 0


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)


class Mixer(nn.Module):
    def __init__(
        self, d_model: int, layer: str, d_state: int, d_conv: int, expand: int, headdim: int, ngroups: int, **_: Any
    ) -> None:
        super().__init__()
        assert layer == "Mamba2"
        inner, states = expand * d_model, ngroups * d_state
        heads, channels = inner // headdim, inner + 2 * states
        self.sizes = inner, states, heads, headdim, ngroups
        self.in_proj = nn.Linear(d_model, inner + channels + heads, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, d_conv, groups=channels)
        self.dt_bias, self.A_log, self.D = (nn.Parameter(torch.ones(heads)) for _ in range(3))
        self.norm = RMSNorm(inner)
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def zeros(self, batch: int) -> tuple[Tensor, Tensor]:
        _, states, heads, headdim, groups = self.sizes
        channels, _, taps = self.conv1d.weight.shape
        return torch.zeros(batch, channels, taps), torch.zeros(batch, heads, headdim, states // groups)

    def step(self, x: Tensor, conv_state: Tensor, ssm_state: Tensor) -> Tensor:
        inner, states, heads, headdim, groups = self.sizes
        z, conv_in, dt = self.in_proj(x).split((inner, inner + 2 * states, heads), -1)
        mixed = conv1d_step(conv_state, conv_in, self.conv1d.weight[:, 0], self.conv1d.bias)
        y, b, c = mixed.split((inner, states, states), -1)
        y, b, c = y.unflatten(-1, (heads, headdim)), *(part.unflatten(-1, (groups, -1)) for part in (b, c))
        y = ssd_step(ssm_state, y, dt, -self.A_log.exp(), b, c, self.D, self.dt_bias)
        return self.out_proj(self.norm(y.flatten(-2) * F.silu(z)))


class GatedMLP(nn.Module):
    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(d_model, 2 * width, bias=False), nn.Linear(width, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y, gate = self.fc1(x).chunk(2, -1)
        return self.fc2(y * F.silu(gate))


class Block(nn.Module):
    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.norm, self.mixer = RMSNorm(config.d_model), Mixer(config.d_model, **config.ssm_cfg)
        self.norm2, self.mlp = RMSNorm(config.d_model), GatedMLP(config.d_model, config.d_intermediate)


class Backbone(nn.Module):
    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        words = -(-config.vocab_size // config.pad_vocab_size_multiple) * config.pad_vocab_size_multiple
        self.embedding = nn.Embedding(words, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_f = RMSNorm(config.d_model)


class MambaLMHeadModel(nn.Module):
    def __init__(self, config: MambaConfig, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone = Backbone(config)
        self.lm_head = nn.Linear(config.d_model, self.backbone.embedding.weight.shape[0], bias=False)
        self.lm_head.weight = self.backbone.embedding.weight
        self.to(device, dtype)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        inference_params: InferenceParams | None = None,
        num_last_tokens: int = 0,
    ) -> Any:
        states = {} if inference_params is None else inference_params.key_value_memory_dict
        if inference_params is None or inference_params.seqlen_offset == 0:
            for index, layer in enumerate(self.backbone.layers):
                states[index] = layer.mixer.zeros(len(input_ids))
        logits = torch.stack([self._token(token, states) for token in input_ids.unbind(1)], 1)
        return SimpleNamespace(logits=logits[:, -num_last_tokens:])

    def _token(self, token: Tensor, states: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
        x = self.backbone.embedding(token)
        for index, layer in enumerate(self.backbone.layers):
            x = x + layer.mixer.step(layer.norm(x), *states[index])
            x = x + layer.mlp(layer.norm2(x))
        return self.lm_head(self.backbone.norm_f(x))


def update_graph_cache(model: MambaLMHeadModel, cache: None, batch: int, tokens: int, most: int) -> Any:
    """As theirs, which hands out a function that replays a graph."""
    state = InferenceParams(most, batch)

    def run(token: Tensor, position: Tensor, seqlen: int) -> Tensor:
        assert position.unique().tolist() == [seqlen] == [state.seqlen_offset]
        return model(token, position, state, num_last_tokens=1).logits

    return SimpleNamespace(inference_params=state, run=run)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the stand-in where imports find it."""
    parts: dict[str, Callable[..., Any]] = {
        "models.config_mamba": MambaConfig,
        "models.mixer_seq_simple": MambaLMHeadModel,
    }
    for name in ("", ".models", ".utils", *(f".{part}" for part in parts), ".utils.generation"):
        monkeypatch.setitem(sys.modules, f"mamba_ssm{name}", ModuleType(f"mamba_ssm{name}"))
    for name, part in parts.items():
        setattr(sys.modules[f"mamba_ssm.{name}"], part.__name__, part)
    generation = sys.modules["mamba_ssm.utils.generation"]
    generation.update_graph_cache = update_graph_cache
    generation.InferenceParams = InferenceParams
    sys.modules["mamba_ssm.utils"].generation = generation
