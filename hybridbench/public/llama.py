"""llama: transformers' LlamaForCausalLM with the sizes of our transformer, and its ways to decode.

Written against transformers 5.24. Its documentation gives a static cache with
``torch.compile(forward, mode="reduce-overhead", fullgraph=True)`` as the fast way to generate.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.errors import Unsupported
from hybridbench.model.language import LanguageModel
from hybridbench.public.theirs import PROMPT, STEPS, PublicModel

ROPE: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "partial_rotary_factor": 1.0,
}
"""The rotary embedding of Llama 3.2, which is that of our transformer."""
ALIGNED = 16
"""A static cache has a multiple of so many slots: PyTorch copies masks whose rows are not aligned."""


class TheirLlama(PublicModel):
    """Llama with sdpa, a static cache and no compilation; subclasses change one of these each."""

    library: ClassVar[str] = "transformers"
    attention: ClassVar[str] = "sdpa"
    compiled: ClassVar[bool] = False
    backend: ClassVar[str] = "inductor"
    """Of ``torch.compile``."""

    @override
    def build(self) -> nn.Module:
        self._library = _transformers()
        if self.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
            raise Unsupported("flash_attn is not importable, which flash_attention_2 needs")
        auto = self._library.AutoModelForCausalLM
        with torch.device(self.device):
            made = auto.from_config(self.config(), dtype=self.dtype, attn_implementation=self.attention)
        module: nn.Module = made.to(self.device).eval()
        self._forward: Any = module
        takes = inspect.signature(module.forward).parameters
        self._cache_name = "cache" if "cache" in takes else "past_key_values"
        return module

    def config(self) -> Any:
        """The sizes of ours as theirs.

        Raises:
            Unsupported: our model is not attention and SwiGLU in turns.
        """
        spec = self.spec
        attention, mlp = (spec.blocks.get(symbol) for symbol in "*-")
        if not isinstance(attention, Attention) or not isinstance(mlp, Mlp) or set(spec.layers) != {"*", "-"}:
            raise Unsupported(f"{spec.label} is no stack of attention and SwiGLU, as Llama is")
        return self._library.LlamaConfig(
            vocab_size=spec.vocab_size,
            hidden_size=spec.d_model,
            intermediate_size=mlp.d_ff,
            num_hidden_layers=len(spec.layers) // 2,
            num_attention_heads=attention.n_heads,
            num_key_value_heads=attention.n_kv_heads,
            max_position_embeddings=max(self.context + 1, 131_072),
            rms_norm_eps=spec.norm_eps,
            rope_parameters=ROPE,
            tie_word_embeddings=True,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )

    @override
    def named(self, ours: LanguageModel) -> Iterator[tuple[str, Tensor]]:
        yield "model.embed_tokens.weight", ours.embedding_VD
        yield "model.norm.weight", ours.norm_weights[-1]
        for place, layer in enumerate(ours.layers):
            at = f"model.layers.{place // 2}"  # a block of theirs is two sublayers of ours
            found: Any = layer
            if place % 2:
                gate, up = found.in_proj.weight.chunk(2)
                parts = {"gate_proj": gate, "up_proj": up, "down_proj": found.out_proj.weight}
                yield f"{at}.post_attention_layernorm.weight", ours.norm_weights[place]
                yield from ((f"{at}.mlp.{name}.weight", part) for name, part in parts.items())
            else:
                q, k, v = found.in_proj.weight.split(found.widths)
                parts = {"q_proj": q, "k_proj": k, "v_proj": v, "o_proj": found.out_proj.weight}
                yield f"{at}.input_layernorm.weight", ours.norm_weights[place]
                yield from ((f"{at}.self_attn.{name}.weight", part) for name, part in parts.items())

    @override
    def logits(self, token_BT: Tensor) -> Tensor:
        found: Tensor = self.module(input_ids=token_BT, use_cache=False).logits
        return found

    @override
    def begin(self, prompt_BT: Tensor) -> None:
        self._cache = self.new_cache()
        self._one: Any = self._step_over
        if self.compiled:
            self._one = torch.compile(
                self._step_over, mode=self._mode, fullgraph=True, dynamic=False, backend=self.backend
            )
        with torch.no_grad():
            self._step_over(prompt_BT, self._cache)

    def new_cache(self) -> Any:
        """An empty static cache.

        Raises:
            Unsupported: its layers do not count their tokens on the device.
        """
        slots = -(-max(self.context + 1, PROMPT + STEPS) // ALIGNED) * ALIGNED
        cache = self._library.StaticCache(config=self.module.config, max_cache_len=slots)
        if not hasattr(cache.layers[0], "cumulative_length"):
            raise Unsupported(f"transformers {self._library.__version__}: its static cache is not that of 5.24")
        return cache

    @property
    def _mode(self) -> str | None:
        return "reduce-overhead" if self.backend == "inductor" else None

    def _step_over(self, token_BT: Tensor, cache: Any) -> tuple[Tensor, Tensor]:
        """Logits (B, V) after the last token, and the greedy token (B, 1) that they give; compiled as a whole."""
        found: Tensor = self._forward(input_ids=token_BT, use_cache=True, **{self._cache_name: cache}).logits[:, -1]
        return found, found.argmax(-1, keepdim=True)

    @override
    def decode(self) -> Tensor:
        with torch.no_grad():
            found: Tensor = self._one(self.token_B1, self._cache)[0]
        return found

    @override
    def step(self) -> None:
        with torch.no_grad():
            self.token_B1.copy_(self._one(self.token_B1, self._cache)[1])

    @override
    def fill(self, generator: torch.Generator) -> None:
        for layer in self._cache.layers:
            for tensor in (layer.keys, layer.values):
                tensor.normal_(generator=generator)
        self.put_back()

    @override
    def put_back(self) -> None:
        for layer in self._cache.layers:
            layer.cumulative_length.fill_(self.context)

    @override
    def begin_training(self, batches: Tensor) -> None:
        super().begin_training(batches)
        if self.compiled:
            self._forward = torch.compile(self.module, backend=self.backend)

    @override
    def loss(self, token_BT: Tensor) -> Tensor:
        tokens = token_BT[:, :-1]  # the library shifts the labels by itself, so it predicts a token less than ours
        found: Tensor = self._forward(input_ids=tokens, labels=tokens, use_cache=False).loss
        return found


class CompiledLlama(TheirLlama):
    """The documented fast way: the one-token forward is compiled whole and replayed from CUDA graphs."""

    compiled: ClassVar[bool] = True

    @override
    def doubts(self) -> list[str]:
        skipped = int(torch._dynamo.utils.counters["inductor"]["cudagraph_skips"])
        return [*super().doubts(), *["the compiler left CUDA graphs out"] * (skipped > 0)]


class GrowingLlama(TheirLlama):
    """flash_attention_2 with the cache that generation takes by default: it grows by a copy every step."""

    attention: ClassVar[str] = "flash_attention_2"

    @override
    def new_cache(self) -> Any:
        return self._library.DynamicCache(config=self.module.config)

    @override
    def fill(self, generator: torch.Generator) -> None:
        for layer in self._cache.layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                B, K, _, P = old.shape
                new = torch.empty(B, K, self.context, P, device=old.device, dtype=old.dtype)
                setattr(layer, name, new.normal_(generator=generator))

    @override
    def put_back(self) -> None:
        self._cache.crop(self.context - int(self._cache.get_seq_length()))


class GrowingSdpaLlama(GrowingLlama):
    """The same with sdpa, which is what generation does if nobody asks for anything else."""

    attention: ClassVar[str] = "sdpa"


class FlashLlama(TheirLlama):
    """Training with flash_attention_2."""

    attention: ClassVar[str] = "flash_attention_2"


class CompiledFlashLlama(CompiledLlama):
    """The same, compiled."""

    attention: ClassVar[str] = "flash_attention_2"


def _transformers() -> Any:
    """The library.

    Raises:
        Unsupported: it is not importable.
    """
    try:
        found = importlib.import_module("transformers")
        found.AutoModelForCausalLM  # noqa: B018  # it imports lazily: this shows what is missing
        found.LlamaForCausalLM  # noqa: B018
    except ImportError as missing:
        raise Unsupported(f"transformers is not importable ({missing}): pip install 'transformers>=5.24'") from missing
    return found
