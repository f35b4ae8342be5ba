"""mamba: mamba_ssm's MambaLMHeadModel with the sizes of our mamba, decoding as its own generation does.

Written against mamba_ssm 2.3.2. With ``cg=True`` its ``generate`` captures a one-token forward as a CUDA graph
(``update_graph_cache``) and runs that for every token. A step here is all that its loop does for a greedy token.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.errors import Unsupported
from hybridbench.model.language import LanguageModel
from hybridbench.public.theirs import PROMPT, STEPS, PublicModel

PADDED = 8
"""mamba_ssm pads the vocabulary to a multiple of this, by default."""


class TheirMamba(PublicModel):
    """Blocks of Mamba-2 and a gated MLP, with mamba_ssm's defaults: fused add and norm, the residual in float32."""

    library: ClassVar[str] = "mamba_ssm"
    graphed: ClassVar[bool] = True

    @override
    def build(self) -> nn.Module:
        try:
            from mamba_ssm.models.config_mamba import MambaConfig
            from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
            from mamba_ssm.utils import generation
        except ImportError as missing:
            raise Unsupported(
                f"mamba_ssm is not importable ({missing}): pip install 'hybridbench[cuda]', which compiles it"
            ) from missing
        self._generation: Any = generation
        config = MambaConfig(**self.config())
        module: nn.Module = MambaLMHeadModel(config, device=self.device, dtype=self.dtype).eval()
        return module

    def config(self) -> dict[str, Any]:
        """The sizes of ours as theirs.

        Raises:
            Unsupported: our model is not Mamba-2 and SwiGLU in turns, or has sizes that theirs cannot have.
        """
        spec = self.spec
        mixer, mlp = (spec.blocks.get(symbol) for symbol in "M-")
        if not isinstance(mixer, Mamba2) or not isinstance(mlp, Mlp) or set(spec.layers) != {"M", "-"}:
            raise Unsupported(f"{spec.label} is no stack of Mamba-2 and SwiGLU")
        if mixer.d_inner % spec.d_model or mlp.d_ff % 128 or not mixer.gated_norm or spec.norm_eps != 1e-5:
            raise Unsupported(f"{spec.label} {spec.scale} has sizes that mamba_ssm rounds to others")
        return {
            "d_model": spec.d_model,
            "d_intermediate": mlp.d_ff,
            "n_layer": len(spec.layers) // 2,
            "vocab_size": spec.vocab_size,
            "ssm_cfg": {
                "layer": "Mamba2",
                "d_state": mixer.d_state,
                "d_conv": mixer.d_conv,
                "expand": mixer.d_inner // spec.d_model,
                "headdim": mixer.head_dim,
                "ngroups": mixer.n_groups,
                "chunk_size": mixer.chunk_size,
            },
            "pad_vocab_size_multiple": PADDED,
        }

    @override
    def named(self, ours: LanguageModel) -> Iterator[tuple[str, Tensor]]:
        padding = -ours.embedding_VD.shape[0] % PADDED
        yield "backbone.embedding.weight", F.pad(ours.embedding_VD, (0, 0, 0, padding))
        yield "backbone.norm_f.weight", ours.norm_weights[-1]
        for place, layer in enumerate(ours.layers):
            at = f"backbone.layers.{place // 2}"  # a block of theirs is two sublayers of ours
            found: Any = layer
            if place % 2:
                gate, up = found.in_proj.weight.chunk(2)
                yield f"{at}.norm2.weight", ours.norm_weights[place]
                yield f"{at}.mlp.fc1.weight", torch.cat((up, gate))
                yield f"{at}.mlp.fc2.weight", found.out_proj.weight
                continue
            yield f"{at}.norm.weight", ours.norm_weights[place]
            yield f"{at}.mixer.in_proj.weight", found.in_proj.weight
            yield f"{at}.mixer.conv1d.weight", found.conv_weight_CW[:, None]
            yield f"{at}.mixer.conv1d.bias", found.conv_bias_C
            yield f"{at}.mixer.dt_bias", found.dt_bias_H
            yield f"{at}.mixer.A_log", found.A_log_H
            yield f"{at}.mixer.D", found.D_H
            yield f"{at}.mixer.norm.weight", found.norm_weight_I
            yield f"{at}.mixer.out_proj.weight", found.out_proj.weight

    @override
    def logits(self, token_BT: Tensor) -> Tensor:
        found: Tensor = self.module(token_BT).logits[..., : self.spec.vocab_size]
        return found

    @override
    def begin(self, prompt_BT: Tensor) -> None:
        most, tokens = max(self.context, PROMPT + STEPS) + 1, prompt_BT.shape[1]
        with torch.inference_mode():
            if self.graphed:
                cache = self._generation.update_graph_cache(self.module, None, self.batch, tokens, most)
                self._state, self._run = cache.inference_params, cache.run
                self._state.reset(most, self.batch)
            else:
                self._state = self._generation.InferenceParams(max_seqlen=most, max_batch_size=self.batch)
                self._run = self._eagerly
            self.module(prompt_BT, position_ids=None, inference_params=self._state, num_last_tokens=1)
            self._state.seqlen_offset += tokens

    def _eagerly(self, token_B1: Tensor, position_B1: Tensor, _offset: int) -> Tensor:
        found: Tensor = self.module(
            token_B1, position_ids=position_B1, inference_params=self._state, num_last_tokens=1
        ).logits
        return found

    @override
    def decode(self) -> Tensor:
        offset = self._state.seqlen_offset
        with torch.inference_mode():
            position_B1 = torch.full((self.batch, 1), offset, dtype=torch.long, device=self.device)
            found: Tensor = self._run(self.token_B1, position_B1, offset).squeeze(1)[..., : self.spec.vocab_size]
        return found

    @override
    def step(self) -> None:
        with torch.inference_mode():
            super().step()

    @override
    def fill(self, generator: torch.Generator) -> None:
        with torch.inference_mode():
            for states in self._state.key_value_memory_dict.values():
                for state in states:
                    state.normal_(generator=generator)
        self._state.seqlen_offset = self.context

    @override
    def put_back(self) -> None:
        """Nothing: states have one size at every context."""

    @override
    def doubts(self) -> list[str]:
        absent = importlib.util.find_spec("causal_conv1d") is None
        return ["causal_conv1d is not installed, so mamba_ssm's convolutions are slower ones"] * absent

    @override
    def loss(self, token_BT: Tensor) -> Tensor:
        logits_BTV = self.module(token_BT[:, :-1]).logits
        return F.cross_entropy(logits_BTV.flatten(0, 1), token_BT[:, 1:].flatten())


class EagerMamba(TheirMamba):
    """Without CUDA graphs: what ``generate`` does if nobody asks for them."""

    graphed: ClassVar[bool] = False
