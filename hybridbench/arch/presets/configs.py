"""configs: published models that transformers has a class for, as the fields of their config.json that matter.

The tests compare each with its class, parameter by parameter.
"""

from __future__ import annotations

from typing import Any

from hybridbench.arch.presets.preset import Config, Preset


def _config(model_type: str, n_layers: int, d_model: int, vocab: int, tied: bool, **fields: Any) -> Config:
    return {
        "model_type": model_type,
        "num_hidden_layers": n_layers,
        "hidden_size": d_model,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        **fields,
    }


def _heads(n_heads: int, n_kv_heads: int, head_dim: int | None = None) -> Config:
    heads: Config = {"num_attention_heads": n_heads, "num_key_value_heads": n_kv_heads}
    return heads if head_dim is None else heads | {"head_dim": head_dim}


def _nemotron(pattern: str, d_model: int, heads: Config, mamba: tuple[int, int], **fields: Any) -> Config:
    """``mamba`` is the number of heads and their width; 8 groups, 128 states, conv of 4 in all sizes."""
    return _config(
        "nemotron_h",
        len(pattern),
        d_model,
        131_072,
        False,
        hybrid_override_pattern=pattern,
        mamba_num_heads=mamba[0],
        mamba_head_dim=mamba[1],
        ssm_state_size=128,
        n_groups=8,
        conv_kernel=4,
        chunk_size=128,
        **heads,
        **fields,
    )


def _granite(d_model: int, heads: Config, shared: int, **fields: Any) -> Config:
    kinds = ["mamba"] * 40
    for place in (5, 15, 25, 35):
        kinds[place] = "attention"
    return _config(
        "granitemoehybrid",
        40,
        d_model,
        100_352,
        True,
        layer_types=kinds,
        shared_intermediate_size=shared,
        mamba_n_heads=d_model // 32,
        mamba_d_head=64,
        mamba_d_state=128,
        **heads,
        **fields,
    )


def _falcon_h1(n_layers: int, d_model: int, vocab: int, tied: bool, heads: Config, ff: int, **mamba: int) -> Config:
    prefixed = {f"mamba_{name}": value for name, value in mamba.items()}
    sizes = {"intermediate_size": ff, "mamba_n_groups": 1, "mamba_chunk_size": 128}
    return _config("falcon_h1", n_layers, d_model, vocab, tied, **heads, **sizes, **prefixed)


def _qwen(
    model_type: str, n_layers: int, d_model: int, vocab: int, tied: bool, heads: int, kv: int, v_heads: int
) -> Config:
    linear = {"linear_num_key_heads": 16, "linear_num_value_heads": v_heads}
    linear |= {"linear_key_head_dim": 128, "linear_value_head_dim": 128}
    return _config(model_type, n_layers, d_model, vocab, tied, **_heads(heads, kv, 256), **linear)


def _lfm2(d_model: int, n_heads: int, ff: int) -> Config:
    return _config(
        "lfm2",
        16,
        d_model,
        65_536,
        True,
        full_attn_idxs=[2, 5, 8, 10, 12, 14],
        intermediate_size=ff,
        block_auto_adjust_ff_dim=False,
        **_heads(n_heads, 8),
    )


def _mamba(n_layers: int, d_model: int) -> Config:
    return _config("mamba", n_layers, d_model, 50_280, True, state_size=16)


def _mamba2(n_layers: int, d_model: int) -> Config:
    sizes = {"state_size": 128, "num_heads": d_model // 32, "head_dim": 64, "n_groups": 1}
    return _config("mamba2", n_layers, d_model, 50_288, True, **sizes)


_H_4B = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"

_NANO_9B = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"

_NANO_30B = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"

_SUPER_120B = "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME"


CONFIGS: dict[str, Preset] = {
    "jamba-mini": Preset(
        "ai21labs/Jamba-v0.1",
        _config("jamba", 32, 4096, 65_536, False, intermediate_size=14_336, **_heads(32, 8)),
        total="52B",
        active="12B",
    ),
    "zamba2-1.2b": Preset(
        "Zyphra/Zamba2-1.2B",
        _config(
            "zamba2",
            38,
            2048,
            32_000,
            True,
            layers_block_type=["hybrid" if place % 6 == 5 else "mamba" for place in range(38)],
            num_attention_heads=32,
            n_mamba_heads=64,
            mamba_d_state=128,
            intermediate_size=8192,
            num_mem_blocks=1,
            use_shared_attention_adapter=True,
            adapter_rank=128,
            use_mem_rope=True,
        ),
        total="1.22B",
        inferred="adapters on attention",
    ),
    "bamba-9b": Preset(
        "ibm-ai-platform/Bamba-9B-v2",
        _config(
            "bamba",
            32,
            4096,
            128_256,
            False,
            attn_layer_indices=[9, 18, 27],
            intermediate_size=14_336,
            mamba_n_heads=128,
            mamba_d_head=64,
            mamba_d_state=128,
            **_heads(32, 8),
        ),
        total="9.78B",
    ),
    "falcon-h1-1.5b": Preset(
        "tiiuae/Falcon-H1-1.5B-Base",
        _falcon_h1(24, 2048, 65_537, False, _heads(8, 2, 128), 4608, d_ssm=3072, n_heads=48, d_head=64, d_state=256),
        total="1.55B",
        inferred="untied head, chunk, no gated norm",
    ),
    "falcon-h1-7b": Preset(
        "tiiuae/Falcon-H1-7B-Base",
        _falcon_h1(
            44, 3072, 130_048, False, _heads(12, 2, 128), 12_288, d_ssm=3072, n_heads=24, d_head=128, d_state=256
        ),
        total="7.59B",
        inferred="vocabulary, which may be 130,049",
    ),
    "falcon-h1-tiny-90m": Preset(
        "tiiuae/Falcon-H1-Tiny-90M",
        _falcon_h1(24, 512, 32_768, True, _heads(8, 2, 64), 768, d_ssm=768, n_heads=24, d_head=32, d_state=64),
        total="90M",
        inferred="vocabulary",
    ),
    "nemotron-h-4b": Preset(
        "nvidia/Nemotron-H-4B-Base-8K",
        _nemotron(_H_4B, 3072, _heads(32, 8, 128), (112, 64), intermediate_size=12_288),
        total="4.5B",
        inferred="chunk",
    ),
    "nemotron-h-8b": Preset(
        "nvidia/Nemotron-H-8B-Base-8K",
        _nemotron(_H_4B, 4096, _heads(32, 8, 128), (128, 64), intermediate_size=21_504),
        total="8.1B",
        inferred="chunk",
    ),
    "nemotron-nano-9b-v2": Preset(
        "nvidia/NVIDIA-Nemotron-Nano-9B-v2",
        _nemotron(_NANO_9B, 4480, _heads(40, 8, 128), (128, 80), intermediate_size=15_680),
        total="8.9B",
        inferred="chunk",
    ),
    "nemotron-3-nano-30b-a3b": Preset(
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        _nemotron(
            _NANO_30B,
            2688,
            _heads(32, 2, 128),
            (64, 64),
            n_routed_experts=128,
            num_experts_per_tok=6,
            moe_intermediate_size=1856,
            moe_shared_expert_intermediate_size=3712,
        ),
        total="31.6B",
        active="3.6B",
    ),
    "nemotron-3-super-120b-a12b": Preset(
        "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B",
        _nemotron(
            _SUPER_120B,
            4096,
            _heads(32, 2, 128),
            (128, 64),
            n_routed_experts=512,
            num_experts_per_tok=22,
            moe_intermediate_size=2688,
            moe_shared_expert_intermediate_size=5376,
            moe_latent_size=1024,
        ),
        total="120B",
        active="12B",
    ),
    "granite-4.0-h-1b": Preset(
        "ibm-granite/granite-4.0-h-1b",
        _granite(1536, _heads(12, 4), 4096, num_local_experts=0),
        total="1.5B",
    ),
    "granite-4.0-h-tiny": Preset(
        "ibm-granite/granite-4.0-h-tiny",
        _granite(1536, _heads(12, 4), 1024, intermediate_size=512, num_local_experts=64, num_experts_per_tok=6),
        total="6.94B",
        active="1B",
    ),
    "granite-4.0-h-small": Preset(
        "ibm-granite/granite-4.0-h-small",
        _granite(4096, _heads(32, 8), 1536, intermediate_size=768, num_local_experts=72, num_experts_per_tok=10),
        total="32.21B",
        active="8.8B",
    ),
    "recurrentgemma-2b": Preset(
        "google/recurrentgemma-2b",
        _config(
            "recurrent_gemma",
            26,
            2560,
            256_000,
            True,
            intermediate_size=15_360,
            lru_width=2560,
            attention_window_size=2048,
            **_heads(10, 1),
        ),
        total="2.7B",
    ),
    "qwen3-next-80b-a3b": Preset(
        "Qwen/Qwen3-Next-80B-A3B-Instruct",
        _qwen("qwen3_next", 48, 2048, 151_936, False, 16, 2, 32)
        | {"num_experts": 512, "num_experts_per_tok": 10}
        | {"moe_intermediate_size": 512, "shared_expert_intermediate_size": 512},
        total="80B",
        active="3B",
    ),
    "qwen3.5-2b": Preset(
        "Qwen/Qwen3.5-2B",
        _qwen("qwen3_5_text", 24, 2048, 248_320, True, 8, 2, 16) | {"intermediate_size": 6144},
        total="2B text",
        inferred="all dimensions, from the total with the vision tower",
    ),
    "qwen3.5-4b": Preset(
        "Qwen/Qwen3.5-4B",
        _qwen("qwen3_5_text", 32, 2560, 248_320, True, 16, 4, 32) | {"intermediate_size": 9216},
        total="4B text",
    ),
    "qwen3.5-27b": Preset(
        "Qwen/Qwen3.5-27B",
        _qwen("qwen3_5_text", 64, 5120, 248_320, False, 24, 4, 48) | {"intermediate_size": 17_408},
        total="27B",
    ),
    "kimi-linear-48b-a3b": Preset(
        "moonshotai/Kimi-Linear-48B-A3B-Instruct",
        _config(
            "kimi_linear",
            27,
            2304,
            163_840,
            False,
            num_attention_heads=32,
            kv_lora_rank=512,
            qk_nope_head_dim=128,
            qk_rope_head_dim=64,
            v_head_dim=128,
            linear_attn_config={
                "num_heads": 32,
                "head_dim": 128,
                "short_conv_kernel_size": 4,
                "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
                "kda_layers": [place for place in range(1, 27) if place % 4],
            },
            intermediate_size=9216,
            moe_intermediate_size=1024,
            num_experts=256,
            num_experts_per_token=8,
            num_shared_experts=1,
            first_k_dense_replace=1,
        ),
        total="48B",
        active="3B",
        inferred="places of the full-attention layers",
    ),
    "lfm2-350m": Preset("LiquidAI/LFM2-350M", _lfm2(1024, 16, 4608), total="354M"),
    "lfm2-1.2b": Preset("LiquidAI/LFM2-1.2B", _lfm2(2048, 32, 8192), total="1.17B"),
    "olmo-hybrid-7b": Preset(
        "allenai/Olmo-Hybrid-7B",
        _config(
            "olmo_hybrid",
            32,
            3840,
            100_352,
            False,
            intermediate_size=11_008,
            linear_num_key_heads=30,
            linear_num_value_heads=30,
            linear_key_head_dim=96,
            linear_value_head_dim=192,
            **_heads(30, 30),
        ),
        total="7B",
    ),
    "minimax-text-01": Preset(
        "MiniMaxAI/MiniMax-Text-01",
        _config(
            "minimax",
            80,
            6144,
            200_064,
            False,
            layer_types=["full_attention" if place % 8 == 7 else "linear_attention" for place in range(80)],
            intermediate_size=9216,
            num_local_experts=32,
            num_experts_per_tok=2,
            **_heads(64, 8, 128),
        ),
        total="456B",
        active="45.9B",
        inferred="8 KV heads",
    ),
    "llama-3.2-1b": Preset(
        "meta-llama/Llama-3.2-1B",
        _config("llama", 16, 2048, 128_256, True, intermediate_size=8192, **_heads(32, 8, 64)),
        total="1.23B",
    ),
    "mamba2-130m": Preset("state-spaces/mamba2-130m", _mamba2(24, 768), total="130M"),
    "mamba2-370m": Preset("state-spaces/mamba2-370m", _mamba2(48, 1024), total="370M"),
    "mamba2-1.3b": Preset("state-spaces/mamba2-1.3b", _mamba2(48, 2048), total="1.3B"),
    "mamba2-2.7b": Preset("state-spaces/mamba2-2.7b", _mamba2(64, 2560), total="2.7B"),
    "mamba-130m": Preset("state-spaces/mamba-130m", _mamba(24, 768), total="130M"),
    "mamba-370m": Preset("state-spaces/mamba-370m", _mamba(48, 1024), total="370M"),
    "mamba-1.4b": Preset("state-spaces/mamba-1.4b", _mamba(48, 2048), total="1.4B"),
    "mamba-2.8b": Preset("state-spaces/mamba-2.8b", _mamba(64, 2560), total="2.8B"),
}
