"""Bytes of the weights of released files: the "total_size" of their index, or their tensors as a registry counts them.

A "total_size" is the sum of the tensors' bytes. The sources of those below are public copies of
model.safetensors.index.json, or files that quote one.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from released import RELEASED
from written import AWQ, FP8, Config, llama, packed, qwen3, stored_bytes

CONFIGS = Path(__file__).parents[1] / "cases/configs"


def qwen2(hidden: int, inner: int, heads: int, layers: int, vocab: int, **fields: object) -> Config:
    return llama(hidden, inner, heads, layers, vocab, **fields) | {"model_type": "qwen2"}


def mistral(hidden: int, inner: int, heads: int, layers: int) -> Config:
    return llama(hidden, inner, heads, layers, 32_000) | {"model_type": "mistral"}


PLAIN: dict[str, tuple[int, Config]] = {
    "Llama-3.1-8B": (16_060_522_496, llama(4096, 14_336, 32, 32)),
    "Mistral-7B-v0.2": (14_483_464_192, mistral(4096, 14_336, 32, 32)),
    "Mixtral-8x7B": (93_405_585_408, RELEASED["Mixtral-8x7B"][1]),
    "Qwen2.5-3B": (
        6_171_877_376,
        qwen2(2048, 11_008, 16, 36, 151_936, tie_word_embeddings=True) | {"num_key_value_heads": 2},
    ),
    "Qwen2.5-7B": (15_231_233_024, RELEASED["Qwen2.5-7B"][1]),
    "Qwen2.5-32B": (65_527_752_704, qwen2(5120, 27_648, 40, 64, 152_064)),
    "Qwen3-8B": (16_381_470_720, RELEASED["Qwen3-8B"][1]),
    "Qwen3-30B-A3B": (61_064_245_248, RELEASED["Qwen3-30B-A3B"][1]),
}
"""By name: "total_size" and the fields of the file, all in bfloat16.

Quoted, in the order of the table, by: the documentation of transformers ("Loading models"), tests of mlmf_hf_layout
("MISTRAL_SHAPED"), scripts that pick experts of Mixtral, notes that cite the index of Qwen2.5-3B-Instruct and -7B,
copies of QwQ-32B and of models trained from Qwen2.5-32B, tests of readers of Qwen3-8B's index, notes on the loading
of Qwen3-30B-A3B.
"""


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_file_takes_the_total_size_of_its_index(name: str) -> None:
    total, config = PLAIN[name]
    assert stored_bytes(config | {"torch_dtype": "bfloat16"}) == total


def test_llama_3_70b_awq_takes_the_total_size_of_its_index() -> None:
    """The index that llmariner/inference-manager keeps in its test of "unmarshalSafetensorsIndex": 39767785472, with
    80 layers in AWQ's names, an embedding and a head that are whole, in 9 files.
    """
    config = llama(8192, 28_672, 64, 80, torch_dtype="float16", quantization_config=AWQ)
    assert stored_bytes(config) == 39_767_785_472


def test_deepseek_v3_awq_takes_the_total_size_of_its_index() -> None:
    """The index in kvcache-ai/sglang_awq: 364589799936. Its 74 files have the names of those of
    cognitivecomputations/DeepSeek-R1-AWQ, of DeepSeek-V3's 61 layers in groups of 64.

    Every router has 256 biases in float16, which are no parameters.
    """
    config = RELEASED["DeepSeek-V3"][1] | {"torch_dtype": "float16", "quantization_config": AWQ | {"group_size": 64}}
    assert stored_bytes(config) + 58 * 256 * 2 == 364_589_799_936


def test_qwen3_5_9b_mlx_8bit_takes_the_total_size_of_its_index() -> None:
    """The index of a copy of Qwen3.5-9B-MLX-8bit: 10426433504, with the 456,010,480 weights of its vision tower.

    MLX keeps A_log in float32 and dt_bias in bfloat16; the mixer here keeps both in float32.
    """
    text = {"model_type": "qwen3_5_text", "hidden_size": 4096, "head_dim": 256, "intermediate_size": 12_288}
    text |= {"num_attention_heads": 16, "num_hidden_layers": 32, "num_key_value_heads": 4, "vocab_size": 248_320}
    text |= {"full_attention_interval": 4, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128}
    text |= {"linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_value_head_dim": 128}
    text |= {"attn_output_gate": True, "dtype": "bfloat16", "mamba_ssm_dtype": "float32"}
    quant = {"group_size": 64, "bits": 8, "mode": "affine"}
    wrapper = {
        "model_type": "qwen3_5",
        "text_config": text,
        "tie_word_embeddings": False,
        "vision_config": {"depth": 27},
    }
    vision, biases = 456_010_480, 24 * 32
    found = stored_bytes(wrapper | {"quantization": quant, "quantization_config": quant})
    assert found - 2 * biases + 2 * vision == 10_426_433_504


def test_qwen3_14b_mlx_4bit_takes_the_total_size_of_its_index() -> None:
    """Qwen/Qwen3-14B-MLX-4bit, model.safetensors.index.json: "total_size": 8307783680."""
    config = qwen3(5120, 17_408, 40, 40, torch_dtype="bfloat16", quantization={"group_size": 64, "bits": 4})
    assert stored_bytes(config) == 8_307_783_680


def test_qwen3_32b_fp8_takes_its_released_tensors() -> None:
    """Qwen/Qwen3-32B-FP8 as the Hub's API counts it: BF16 1,558,406,144 with the scales, F8_E4M3 31,205,621,760."""
    config = qwen3(5120, 25_600, 64, 64, torch_dtype="bfloat16", quantization_config=FP8)
    assert stored_bytes(config) == 1_558_406_144 * 2 + 31_205_621_760


def test_llama_8b_w4a16_takes_its_released_tensors() -> None:
    """RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16: huggingface.js counts 6,979,321,856 weights in I32 and
    1,052,315,648 in F16 with a scale a row; compressed-tensors adds a shape of two I64 to each of 7 x 32 layers.
    """
    config = llama(4096, 14_336, 32, 32, torch_dtype="float16", quantization_config=packed("channel", None))
    assert stored_bytes(config) == 6_979_321_856 // 8 * 4 + 1_052_315_648 * 2 + 7 * 32 * 16


def test_llama_70b_w4a16_takes_its_released_tensors() -> None:
    """RedHatAI/Llama-3.3-70B-Instruct-quantized.w4a16: huggingface.js counts 68,451,041,280 weights in I32,
    2,102,665,216 in BF16 without scales, and 6,225,920 indices of columns, which it leaves out; a scale is
    for 128 weights.
    """
    config = llama(8192, 28_672, 64, 80, torch_dtype="bfloat16", quantization_config=packed("group", 128, "group"))
    scales = 68_451_041_280 // 128
    assert stored_bytes(config) == (68_451_041_280 // 2 + (2_102_665_216 + scales) * 2 + 6_225_920 * 4 + 7 * 80 * 16)


def test_llama_8b_bnb_4bit_takes_its_released_tensors() -> None:
    """unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit: huggingface.js counts 1,050,939,392 BF16 and 3,489,660,928 packed
    bytes, and once counted 218,668,094 more: the states of quantisation, those in U8 twice. What our count leaves of
    them is the JSON text of 7 x 32 states, some 173 characters each.
    """
    quant = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    config = llama(4096, 14_336, 32, 32, torch_dtype="bfloat16") | {
        "quantization_config": quant | {"bnb_4bit_use_double_quant": True}
    }
    states = stored_bytes(config) - 1_050_939_392 * 2 - 3_489_660_928
    bytes_u8 = 6_979_321_856 // 64
    floats = (states - bytes_u8) // 4
    text = (218_668_094 - floats - 2 * bytes_u8) / 2
    assert states == bytes_u8 + 4 * floats
    assert text == 38_687
    assert 150 < text / (7 * 32) < 200


def test_deepseek_v3_takes_its_released_tensors() -> None:
    """deepseek-ai/DeepSeek-V3 as the Hub's API counts it: BF16 3,918,786,560, F8_E4M3 680,571,043,840, F32 41,555,600.

    Its 62nd layer predicts a further token. It has an embedding and a head of its own, a product of 14,336 x 7,168 and
    three norms more, none of them quantised; and every router has 256 biases in float32, which are no parameters.
    """
    config = {
        "model_type": "deepseek_v3",
        "hidden_size": 7168,
        "num_hidden_layers": 62,
        "vocab_size": 129_280,
        "num_attention_heads": 128,
        "intermediate_size": 18_432,
        "moe_intermediate_size": 2048,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "first_k_dense_replace": 3,
        "torch_dtype": "bfloat16",
        "quantization_config": FP8,
    }
    further = 2 * 129_280 * 7168 + 14_336 * 7168 + 3 * 7168
    biases = 59 * 256
    released = 3_918_786_560 * 2 + 680_571_043_840 + 41_555_600 * 4
    assert stored_bytes(config) + further * 2 + biases * 4 == released


@pytest.mark.parametrize(("layers", "experts", "total"), [(24, 32, 13_761_264_768), (36, 128, 65_248_815_744)])
def test_gpt_oss_takes_the_total_size_of_its_index(layers: int, experts: int, total: int) -> None:
    """openai/gpt-oss-20b and 120b, model.safetensors.index.json: their "total_size"."""
    config = json.loads((CONFIGS / "gpt-oss-20b.json").read_text())
    kinds = [["sliding_attention", "full_attention"][layer % 2] for layer in range(layers)]
    config |= {"num_hidden_layers": layers, "num_local_experts": experts, "layer_types": kinds}
    whole = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    quant = {"quant_method": "mxfp4", "modules_to_not_convert": whole}
    assert stored_bytes(config | {"quantization_config": quant}) == total
