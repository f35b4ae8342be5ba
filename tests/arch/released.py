"""released: the config.json of released models, with the fields that their types write.

Each stands with the parameters that its card or its safetensors index on the Hub states, which hold every field that
has to do with sizes. Values without a size (multipliers, tables of rotary factors, initialisation) may be abridged;
lists of layers are shortened to expressions; quantization and fields that only name software are left out.
"""

from __future__ import annotations

from typing import Any

COMMON: dict[str, Any] = {"initializer_range": 0.02, "use_cache": True, "torch_dtype": "bfloat16", "bos_token_id": 1}
PLAIN = COMMON | {"hidden_act": "silu", "rms_norm_eps": 1e-05, "attention_dropout": 0.0, "eos_token_id": 2}
MAMBA = (
    COMMON
    | {"conv_kernel": 4, "hidden_act": "silu", "initializer_range": 0.1, "layer_norm_epsilon": 1e-05}
    | {"rescale_prenorm_residual": False, "residual_in_fp32": True, "time_step_floor": 0.0001, "time_step_max": 0.1}
    | {"time_step_init_scheme": "random", "time_step_min": 0.001, "time_step_scale": 1.0, "use_bias": False}
    | {"use_conv_bias": True, "eos_token_id": 0, "pad_token_id": 0}
)
QWEN = PLAIN | {"rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "use_sliding_window": False, "rope_scaling": None}
GEMMA = COMMON | {"attention_bias": False, "attention_dropout": 0.0, "rms_norm_eps": 1e-06, "head_dim": 256}
LFM2_LAYERS = ["full_attention" if index in (2, 5, 8, 10, 12, 14) else "conv" for index in range(16)]
LFM2_MOE_LAYERS = ["full_attention" if index in (2, 6, 10, 14, 18, 21) else "conv" for index in range(24)]
MULTIPLIERS = ("full_attn_alpha", "linear_attn_alpha", "mlp_alpha")

RELEASED: dict[str, tuple[int, dict[str, Any]]] = {
    "Llama-3.1-8B": (
        8_030_261_248,
        PLAIN
        | {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32}
        | {"num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 128256, "attention_bias": False}
        | {"mlp_bias": False, "pretraining_tp": 1, "tie_word_embeddings": False, "rope_theta": 500000.0}
        | {"max_position_embeddings": 131072},
    ),
    "Ministral-8B": (
        8_019_808_256,
        PLAIN
        | {"model_type": "mistral", "head_dim": 128, "hidden_size": 4096, "intermediate_size": 12288}
        | {"num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "rope_theta": 100000000.0}
        | {"sliding_window": 32768, "tie_word_embeddings": False, "vocab_size": 131072},
    ),
    "Mixtral-8x7B": (
        46_702_792_704,
        PLAIN
        | {"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32}
        | {"num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8}
        | {"output_router_logits": False, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02}
        | {"sliding_window": None, "tie_word_embeddings": False, "vocab_size": 32000},
    ),
    "Phi-3-mini": (
        3_821_079_552,
        PLAIN
        | {"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 32}
        | {"num_hidden_layers": 32, "num_key_value_heads": 32, "attention_bias": False, "embd_pdrop": 0.0}
        | {"resid_pdrop": 0.0, "original_max_position_embeddings": 4096, "rope_scaling": None}
        | {"sliding_window": 2047, "tie_word_embeddings": False, "vocab_size": 32064, "pad_token_id": 32000},
    ),
    "Phi-4-mini": (
        3_836_021_760,
        PLAIN
        | {"model_type": "phi3", "attention_bias": False, "embd_pdrop": 0.0, "full_attn_mod": 1}
        | {"hidden_size": 3072, "intermediate_size": 8192, "interpolate_factor": 1, "lm_head_bias": False}
        | {"mlp_bias": False, "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8}
        | {"original_max_position_embeddings": 4096, "pad_token_id": 199999, "partial_rotary_factor": 0.75}
        | {"resid_pdrop": 0.0, "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": True}
        | {"vocab_size": 200064},
    ),
    "SmolLM2-1.7B": (
        1_711_376_384,
        PLAIN
        | {"model_type": "llama", "attention_bias": False, "hidden_size": 2048, "intermediate_size": 8192}
        | {"is_llama_config": True, "mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 24}
        | {"num_key_value_heads": 32, "pretraining_tp": 1, "rope_interleaved": False, "rope_theta": 130000}
        | {"tie_word_embeddings": True, "transformers.js_config": {"dtype": "q4"}, "vocab_size": 49152},
    ),
    "SmolLM3-3B": (
        3_075_098_624,
        PLAIN
        | {"model_type": "smollm3", "attention_bias": False, "hidden_size": 2048, "intermediate_size": 11008}
        | {"max_window_layers": 28, "mlp_bias": False, "no_rope_layer_interval": 4, "num_attention_heads": 16}
        | {"num_hidden_layers": 36, "num_key_value_heads": 4, "pretraining_tp": 2, "rope_scaling": None}
        | {"rope_theta": 5000000.0, "sliding_window": None, "use_sliding_window": False, "vocab_size": 128256}
        | {"pad_token_id": 128004},
    ),
    "granite-3.3-8b": (
        8_170_864_640,
        PLAIN
        | {"model_type": "granite", "attention_bias": False, "attention_multiplier": 0.0078125}
        | {"embedding_multiplier": 12.0, "hidden_size": 4096, "intermediate_size": 12800, "logits_scaling": 16.0}
        | {"mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8}
        | {"residual_multiplier": 0.22, "rope_theta": 10000000.0, "tie_word_embeddings": True, "vocab_size": 49159},
    ),
    "Qwen2.5-7B": (
        7_615_616_512,
        QWEN
        | {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "max_window_layers": 28}
        | {"num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "sliding_window": 131072}
        | {"tie_word_embeddings": False, "use_mrope": False, "vocab_size": 152064},
    ),
    "Qwen1.5-MoE-A2.7B": (
        14_315_784_192,
        QWEN
        | {"model_type": "qwen2_moe", "decoder_sparse_step": 1, "hidden_size": 2048, "intermediate_size": 5632}
        | {"max_window_layers": 21, "moe_intermediate_size": 1408, "norm_topk_prob": False}
        | {"num_attention_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, "num_hidden_layers": 24}
        | {"num_key_value_heads": 16, "output_router_logits": False, "router_aux_loss_coef": 0.001}
        | {"shared_expert_intermediate_size": 5632, "sliding_window": 32768, "tie_word_embeddings": False}
        | {"vocab_size": 151936},
    ),
    "Qwen3-8B": (
        8_190_735_360,
        QWEN
        | {"model_type": "qwen3", "attention_bias": False, "head_dim": 128, "hidden_size": 4096}
        | {"intermediate_size": 12288, "max_window_layers": 36, "num_attention_heads": 32, "num_hidden_layers": 36}
        | {"num_key_value_heads": 8, "sliding_window": None, "tie_word_embeddings": False, "vocab_size": 151936},
    ),
    "Qwen3-30B-A3B": (
        30_532_122_624,
        QWEN
        | {"model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 128}
        | {"hidden_size": 2048, "intermediate_size": 6144, "max_window_layers": 48, "mlp_only_layers": []}
        | {"moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128}
        | {"num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4, "sliding_window": None}
        | {"output_router_logits": False, "router_aux_loss_coef": 0.001, "tie_word_embeddings": False}
        | {"vocab_size": 151936},
    ),
    "gemma-2b": (
        2_506_172_416,
        GEMMA
        | {"model_type": "gemma", "hidden_act": "gelu", "hidden_activation": None, "hidden_size": 2048}
        | {"intermediate_size": 16384, "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1}
        | {"rope_scaling": None, "rope_theta": 10000.0, "vocab_size": 256000},
    ),
    "gemma-2-2b": (
        2_614_341_888,
        GEMMA
        | {"model_type": "gemma2", "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid"}
        | {"final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304}
        | {"intermediate_size": 9216, "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4}
        | {"query_pre_attn_scalar": 256, "rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 256000},
    ),
    "gemma-2-9b": (
        9_241_705_984,
        GEMMA
        | {"model_type": "gemma2", "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid"}
        | {"final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 3584}
        | {"intermediate_size": 14336, "num_attention_heads": 16, "num_hidden_layers": 42, "num_key_value_heads": 8}
        | {"query_pre_attn_scalar": 256, "rope_theta": 10000.0, "sliding_window": 4096, "sliding_window_size": 4096}
        | {"vocab_size": 256000},
    ),
    "gemma-3-1b": (
        999_885_952,
        GEMMA
        | {"model_type": "gemma3_text", "attn_logit_softcapping": None, "cache_implementation": "hybrid"}
        | {"final_logit_softcapping": None, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152}
        | {"intermediate_size": 6912, "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1}
        | {"query_pre_attn_scalar": 256, "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000}
        | {"sliding_window": 512, "sliding_window_pattern": 6, "vocab_size": 262144},
    ),
    "OLMo-2-1124-7B": (
        7_298_617_344,
        PLAIN
        | {"model_type": "olmo2", "attention_bias": False, "hidden_size": 4096, "intermediate_size": 11008}
        | {"num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "rope_scaling": None}
        | {"rope_theta": 500000, "tie_word_embeddings": False, "vocab_size": 100352, "pad_token_id": 100277},
    ),
    "Olmo-3-1025-7B": (
        7_298_011_136,
        PLAIN
        | {"model_type": "olmo3", "attention_bias": False, "hidden_size": 4096, "intermediate_size": 11008}
        | {"layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 8, "num_attention_heads": 32}
        | {"num_hidden_layers": 32, "num_key_value_heads": 32, "rope_theta": 500000, "sliding_window": 4096}
        | {"rope_scaling": {"rope_type": "yarn", "factor": 8.0}, "tie_word_embeddings": False, "vocab_size": 100278}
        | {"pad_token_id": 100277},
    ),
    "DeepSeek-V3": (
        671_026_419_200 - 58 * 256,  # the biases of its routers, which the class keeps as buffers
        PLAIN
        | {"model_type": "deepseek_v3", "attention_bias": False, "auto_map": {}, "aux_loss_alpha": 0.001}
        | {"ep_size": 1, "first_k_dense_replace": 3, "hidden_size": 7168, "intermediate_size": 18432}
        | {"kv_lora_rank": 512, "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8}
        | {"n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 128}
        | {"num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128, "pretraining_tp": 1}
        | {"num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64}
        | {"routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "seq_aux": True, "topk_group": 4}
        | {"tie_word_embeddings": False, "topk_method": "noaux_tc", "v_head_dim": 128, "vocab_size": 129280},
    ),
    "mamba-130m-hf": (
        129_135_360,
        MAMBA
        | {"model_type": "mamba", "d_inner": 1536, "d_model": 768, "expand": 2, "fused_add_norm": True}
        | {"hidden_size": 768, "intermediate_size": 1536, "n_layer": 24, "num_hidden_layers": 24}
        | {"pad_vocab_size_multiple": 8, "rms_norm": True, "ssm_cfg": {}, "state_size": 16, "time_step_rank": 48}
        | {"vocab_size": 50280},
    ),
    "falcon-mamba-7b": (
        7_272_665_088,
        MAMBA
        | {"model_type": "falcon_mamba", "expand": 16, "hidden_size": 4096, "intermediate_size": 8192}
        | {"num_hidden_layers": 64, "state_size": 16, "tie_word_embeddings": False, "time_step_rank": 256}
        | {"vocab_size": 65024},
    ),
    "Mamba-Codestral-7B": (
        7_285_403_648,
        MAMBA
        | {"model_type": "mamba2", "chunk_size": 256, "expand": 2, "head_dim": 64, "hidden_size": 4096}
        | {"intermediate_size": 8192, "n_groups": 8, "norm_before_gate": True, "num_heads": 128, "rms_norm": True}
        | {"num_hidden_layers": 64, "state_size": 128, "tie_word_embeddings": False, "time_step_rank": 256}
        | {"time_step_limit": [0.0, float("inf")], "vocab_size": 32768},
    ),
    "recurrentgemma-2b": (
        2_682_862_080,
        COMMON
        | {"model_type": "recurrent_gemma", "_block_types": ["recurrent", "recurrent", "attention"]}
        | {"attention_bias": False, "attention_dropout": 0.0, "attention_window_size": 2048, "conv1d_width": 4}
        | {"embeddings_scale_by_sqrt_dim": True, "final_w_init_variance_scale": 0.07692307692307693, "head_dim": 256}
        | {"hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2560, "intermediate_size": 15360}
        | {"logits_soft_cap": 30.0, "lru_width": 2560, "num_attention_heads": 10, "num_hidden_layers": 26}
        | {"num_key_value_heads": 1, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-06, "rope_theta": 10000.0}
        | {"vocab_size": 256000, "w_init_variance_scale": 0.01},
    ),
    "LFM2-350M": (
        354_483_968,
        COMMON
        | {"model_type": "lfm2", "block_auto_adjust_ff_dim": True, "block_dim": 1024, "block_ff_dim": 6656}
        | {"block_ffn_dim_multiplier": 1.0, "block_mlp_init_scale": 1.0, "block_multiple_of": 256}
        | {"block_norm_eps": 1e-05, "block_out_init_scale": 1.0, "block_use_swiglu": True}
        | {"block_use_xavier_init": True, "conv_L_cache": 3, "conv_bias": False, "conv_dim": 1024}
        | {"conv_dim_out": 1024, "conv_use_xavier_init": True, "hidden_size": 1024, "norm_eps": 1e-05}
        | {"full_attn_idxs": [2, 5, 8, 10, 12, 14], "num_attention_heads": 16, "num_heads": 16}
        | {"num_hidden_layers": 16, "num_key_value_heads": 8, "rope_theta": 1000000.0, "use_pos_enc": True}
        | {"vocab_size": 65536},
    ),
    "LFM2.5-1.2B": (
        1_170_340_608,
        COMMON
        | {"model_type": "lfm2", "block_auto_adjust_ff_dim": True, "block_dim": 2048, "block_multiple_of": 256}
        | {"block_ffn_dim_multiplier": 1.0, "block_mlp_init_scale": 1.0, "block_norm_eps": 1e-05}
        | {"block_out_init_scale": 1.0, "block_use_swiglu": True, "block_use_xavier_init": True}
        | {"conv_L_cache": 3, "conv_bias": False, "conv_dim": 2048, "conv_use_xavier_init": True}
        | {"full_attn_idxs": None, "hidden_size": 2048, "intermediate_size": 12288, "layer_types": LFM2_LAYERS}
        | {"norm_eps": 1e-05, "num_attention_heads": 32, "num_heads": 32, "num_hidden_layers": 16}
        | {"num_key_value_heads": 8, "tie_word_embeddings": True, "use_pos_enc": True, "vocab_size": 65536},
    ),
    "LFM2-8B-A1B": (
        8_339_929_856,
        COMMON
        | {"model_type": "lfm2_moe", "conv_L_cache": 3, "conv_bias": False, "hidden_size": 2048}
        | {"intermediate_size": 7168, "layer_types": LFM2_MOE_LAYERS, "moe_intermediate_size": 1792}
        | {"norm_eps": 1e-05, "norm_topk_prob": True, "num_attention_heads": 32, "num_dense_layers": 2}
        | {"num_experts": 32, "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 8}
        | {"rope_theta": 1000000.0, "routed_scaling_factor": 1.0, "use_expert_bias": True, "vocab_size": 65536},
    ),
    "Falcon-H1-0.5B": (
        521_411_104,
        PLAIN
        | {"model_type": "falcon_h1", "attention_bias": False, "attention_in_multiplier": 1.0}
        | {"attention_out_multiplier": 0.9375, "attn_layer_indices": None, "embedding_multiplier": 5.656854249492381}
        | {"head_dim": 64, "hidden_size": 1024, "intermediate_size": 2048, "key_multiplier": 0.39062499999999994}
        | {"lm_head_multiplier": 0.0390625, "mamba_chunk_size": 128, "mamba_conv_bias": True, "mamba_d_conv": 4}
        | {"mamba_d_head": 64, "mamba_d_ssm": 1536, "mamba_d_state": 128, "mamba_expand": 2, "mamba_n_groups": 1}
        | {"mamba_n_heads": 24, "mamba_norm_before_gate": False, "mamba_proj_bias": False, "mamba_rms_norm": False}
        | {"mamba_use_mlp": True, "mlp_bias": False, "mlp_expansion_factor": 8, "mlp_multipliers": [0.9, 0.6]}
        | {"num_attention_heads": 8, "num_hidden_layers": 36, "num_key_value_heads": 2, "num_logits_to_keep": 1}
        | {"projectors_bias": False, "rope_theta": 100000000000.0, "ssm_in_multiplier": 1.25}
        | {"ssm_multipliers": [0.4, 0.3, 0.4, 0.5, 0.4], "ssm_out_multiplier": 0.2, "tie_word_embeddings": False}
        | {"vocab_size": 32784},
    ),
    "MiniMax-Text-01-hf": (
        456_089_655_296,
        PLAIN
        | {"model_type": "minimax", "head_dim": 128, "hidden_size": 6144, "intermediate_size": 9216}
        | {"layer_types": (["linear_attention"] * 7 + ["full_attention"]) * 10, "num_attention_heads": 64}
        | {f"{name}_factor": 3.5565588200778455 for name in MULTIPLIERS}
        | {"num_experts_per_tok": 2, "num_hidden_layers": 80, "num_key_value_heads": 8, "num_local_experts": 32}
        | {"postnorm": True, "rope_theta": 10000000, "rotary_dim": 64, "shared_intermediate_size": 0}
        | {"shared_moe_mode": "sigmoid", "sliding_window": None, "tie_word_embeddings": False, "vocab_size": 200064},
    ),
    "Qwen3-Next-80B-A3B": (
        79_674_391_296,
        QWEN
        | {"model_type": "qwen3_next", "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 256}
        | {"full_attention_interval": 4, "hidden_size": 2048, "intermediate_size": 5120, "mlp_only_layers": []}
        | {"linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16}
        | {"linear_num_value_heads": 32, "linear_value_head_dim": 128, "moe_intermediate_size": 512}
        | {"norm_topk_prob": True, "num_attention_heads": 16, "num_experts": 512, "num_experts_per_tok": 10}
        | {"num_hidden_layers": 48, "num_key_value_heads": 2, "output_router_logits": False}
        | {"partial_rotary_factor": 0.25, "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 512}
        | {"tie_word_embeddings": False, "vocab_size": 151936},
    ),
}
"""By name: parameters as published, and the fields of the file."""
