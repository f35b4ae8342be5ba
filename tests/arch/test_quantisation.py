"""Bytes of quantised weights: those of released files, of transformers' own layers, and of shapes written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hybridbench.arch import model
from hybridbench.arch.block import Block
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.families import build_spec
from hybridbench.arch.imports.huggingface import model_from_config
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.presets import PRESETS, preset_spec
from hybridbench.arch.stored import Asked, Dtypes, check_runs
from hybridbench.arch.weights import MXFP4, SCHEMES, Matrix, Quantised
from hybridbench.cli.main import main
from hybridbench.errors import BadInput

CONFIGS = Path(__file__).parents[1] / "cases/configs"
Config = dict[str, Any]


def llama(hidden: int, inner: int, heads: int, layers: int, vocab: int = 128_256, **fields: Any) -> Config:
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads, "vocab_size": vocab}
    return {"model_type": "llama", "num_hidden_layers": layers, "num_key_value_heads": 8, **sizes, **fields}


def qwen3(hidden: int, inner: int, heads: int, layers: int, **fields: Any) -> Config:
    return llama(hidden, inner, heads, layers, 151_936, **fields) | {"model_type": "qwen3", "head_dim": 128}


def stored_bytes(config: Config) -> int:
    spec = model_from_config(config)
    return model.weight_bytes(spec, Asked().dtypes(spec.stored).storage)


def packed(strategy: str, group: int | None, order: str | None = None) -> Config:
    weights = {"num_bits": 4, "type": "int", "strategy": strategy, "group_size": group, "symmetric": True}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights | {"actorder": order}}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"]} | {
        "config_groups": groups
    }


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


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


def test_mlx_leaves_whole_what_its_groups_do_not_divide() -> None:
    config = llama(192, 96, 8, 1, 97, head_dim=32, tie_word_embeddings=True)
    quant = {"group_size": 64, "bits": 8}
    down = 192 * 96  # of 96 columns
    inner = 2 * 96 * 192 + 192 * 256 + (256 + 2 * 256) * 192 + 97 * 192
    assert stored_bytes(config | {"quantization": quant}) == inner + inner // 64 * 4 + (down + 3 * 192) * 2


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


@pytest.mark.parametrize(
    ("layers", "experts", "plain", "total"),
    [(24, 32, 1_804_459_584, 13_761_264_768), (36, 128, 2_167_371_072, 65_248_815_744)],
)
def test_gpt_oss_experts_take_their_released_tensors(layers: int, experts: int, plain: int, total: int) -> None:
    """openai/gpt-oss-20b and 120b: the "total_size" of the index, less the BF16 that huggingface.js counts."""
    block = Moe(2880, 2880, experts, 4)
    taken = sum(MXFP4.bytes(matrix) for matrix in block.matrices() if matrix.part == "expert")
    assert layers * taken == total - 2 * plain


def test_a_gptq_layer_is_its_four_tensors() -> None:
    """``QuantLinear`` of 4 bits: qweight, qzeros, scales and g_idx."""
    rows, columns, group = 1024, 512, 128
    qweight = columns // 8 * rows * 4
    qzeros = columns // group * (rows // 8) * 4
    scales = columns // group * rows * 2
    assert SCHEMES["gptq"].bytes(Matrix("q_proj", rows, columns, "attention", 3)) == 3 * (
        qweight + qzeros + scales + columns * 4
    )


def test_an_awq_layer_is_its_three_tensors() -> None:
    """``WQLinear_GEMM``: qweight of columns x rows / 8, qzeros and scales by groups."""
    rows, columns = 1024, 512
    tensors = columns * (rows // 8) * 4 + columns // 128 * (rows // 8) * 4 + columns // 128 * rows * 2
    assert SCHEMES["awq"].bytes(Matrix("q_proj", rows, columns, "attention")) == tensors


def test_int8_nvfp4_and_plain_nf4_by_hand() -> None:
    one = Matrix("q_proj", 64, 96, "attention")
    assert SCHEMES["int8"].bytes(one) == 64 * 96 + 64 * 2
    assert SCHEMES["nvfp4"].bytes(one) == 64 * 96 // 2 + 64 * 96 // 16 + 4
    assert SCHEMES["nf4"].bytes(one) == 64 * 96 // 2 + 64 * 96 // 64 * 4 + 16 * 4
    assert SCHEMES["fp8-tensor"].bytes(one) == 64 * 96 + 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("left_out", [[], ["model.layers.1.mlp", "self_attn.q_proj"], ["model.layers.0"]])
def test_fp8_takes_what_the_layers_of_transformers_take(left_out: list[str]) -> None:
    """Sizes that are no multiples of a block: scales are rounded up on both sides."""
    import torch
    import transformers
    from transformers.integrations.finegrained_fp8 import replace_with_fp8_linear
    from transformers.utils.quantization_config import FineGrainedFP8Config

    config = llama(272, 200, 8, 3, 97, torch_dtype="bfloat16")
    quant = FineGrainedFP8Config(weight_block_size=(128, 64), modules_to_not_convert=[*left_out, "lm_head"])
    body = {name: value for name, value in config.items() if name != "model_type"}
    with torch.device("meta"):
        built = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**body), dtype=torch.bfloat16)
        built = replace_with_fp8_linear(built, quant.modules_to_not_convert, quant)
    theirs = sum(parameter.nbytes for parameter in built.parameters())
    ours = {"quant_method": "fp8", "weight_block_size": [128, 64], "modules_to_not_convert": left_out}
    assert stored_bytes(config | {"quantization_config": ours}) == theirs
    assert any("float8" in str(parameter.dtype) for parameter in built.parameters())


def mixed_blocks() -> list[tuple[str, Block]]:
    specs: list[ModelSpec] = [preset_spec(name) for name in PRESETS]
    specs += [build_spec(family, "350m") for family in ("inter", "intra", "swa")]
    return [(f"{spec.arch} {symbol}", block) for spec in specs for symbol, block in spec.blocks.items()]


@pytest.mark.parametrize(("name", "block"), mixed_blocks(), ids=lambda value: value if isinstance(value, str) else "")
def test_matrices_are_what_a_block_multiplies_by(name: str, block: Block) -> None:
    """Every product of a token is with one of them, but for gates that are no linear layers."""
    size = sum(matrix.rows * matrix.columns * matrix.count for matrix in block.matrices())
    products = sum(block.products().values()) // 2
    products -= block.products().get("parallel gate", 0) // 2
    if isinstance(block, Moe):
        products = block.params()
    if block.kind == "rg_lru":
        products -= 2 * block.width * block.width // block.n_blocks  # type: ignore[attr-defined]
    assert size == products, name


def test_parameters_and_flops_do_not_change() -> None:
    body = json.loads((CONFIGS / "12-qwen3-fp8-quantization.json").read_text())
    quantised = model_from_config(body)
    plain = model_from_config({name: value for name, value in body.items() if name != "quantization_config"})
    assert quantised == plain
    storage = Asked().dtypes(quantised.stored).storage
    one, other = model.cost(quantised, 1024, storage=storage), model.cost(plain, 1024)
    assert (one.params, one.decode_flops, one.cache_bytes) == (other.params, other.decode_flops, other.cache_bytes)
    linear = sum(matrix.size for block in plain.placed for matrix in block.matrices())
    assert other.weight_bytes - one.weight_bytes == linear - linear // (128 * 128) * 2
    assert other.decode_bytes_moved - one.decode_bytes_moved == other.weight_bytes - one.weight_bytes


def test_a_small_deepseek_has_a_scale_for_every_matrix() -> None:
    body = json.loads((CONFIGS / "refused_quantization_config.json").read_text())
    spec = model_from_config(body)
    matrices = [matrix for block in spec.placed for matrix in block.matrices()]
    whole = model.weight_bytes(spec, Dtypes.of("bfloat16").storage)
    assert stored_bytes(body) == whole - sum(matrix.size for matrix in matrices) + 4 * len(matrices)


def test_layers_add_up_to_the_model_and_experts_are_read_as_they_are_used() -> None:
    body = json.loads((CONFIGS / "12-qwen3-fp8-quantization.json").read_text())
    body["quantization_config"]["modules_to_not_convert"] = ["model.layers.3.mlp.down_proj", "lm_head"]
    spec = model_from_config(body)
    storage = Asked().dtypes(spec.stored).storage
    rows = model.layer_costs(spec, 64, 2, storage=storage)
    assert sum(row.decode_bytes_moved for row in rows) == model.decode_bytes_moved(spec, 64, 2, storage)
    moved = [row.decode_bytes_moved for row in rows if row.symbol == "-"]
    down = 1024 * 3072
    assert moved[3] - moved[2] == down - down // (128 * 128) * 2
    block = Moe(256, 128, n_experts=8, top_k=2)
    quantised = Dtypes("bfloat16", "bfloat16", "bfloat16", "bfloat16", Quantised(SCHEMES["fp8"])).storage
    assert block.weight_traffic(10_000, quantised) == block.weight_bytes(quantised)
    gate = 8 * 256 * 2
    assert block.weight_traffic(1, quantised) - gate == (block.weight_bytes(quantised) - gate) // 4


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"quant_method": "hqq"}, "quant_method 'hqq'"),
        ({}, "no quant_method"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size"),
        ({"quant_method": "gptq", "bits": 5}, "bits 5"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "gemv"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "config_groups"),
        ({"quant_method": "fp8", "modules_to_not_convert": "lm_head"}, "modules_to_not_convert"),
        ({"bits": 4, "group_size": 64, "model.layers.0.mlp.down_proj": {"bits": 8}}, r"model\.layers\.0\.mlp"),
    ],
)
def test_what_is_not_read_is_refused_in_a_sentence(config: Config, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        model_from_config(llama(64, 64, 8, 1, 97, quantization_config=config))


def test_a_file_may_quantise_keys_and_values() -> None:
    quant = packed("channel", None) | {"kv_cache_scheme": {"num_bits": 8, "type": "float"}}
    assert model_from_config(llama(64, 64, 8, 1, 97, quantization_config=quant)).stored.kv == "fp8"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weight_dtype_does_the_same_without_a_file(scheme: str) -> None:
    given = ["cost", "--arch", "inter", "--scale", "350m", "--ctx", "1k", "--json"]
    plain, stored = (
        json.loads(CliRunner().invoke(main, [*given, *more]).stdout)["rows"][0]
        for more in ([], ["--weight-dtype", scheme])
    )
    assert stored["weight_dtype"] == scheme
    assert stored["params"] == plain["params"]
    saved = plain["weight_bytes"] - stored["weight_bytes"]
    assert 0 < saved == plain["decode_bytes_moved"] - stored["decode_bytes_moved"]


def test_quantised_weights_are_neither_trained_nor_measured_here() -> None:
    for command in ("fit", "price"):
        done = CliRunner().invoke(main, [command, "--arch", "mamba", "--workload", "train", "--weight-dtype", "fp8"])
        assert done.exit_code == 2
        assert "quantised weights are not trained" in " ".join(done.stderr.split())
    dtypes = Asked(weights="nf4").dtypes(build_spec("mamba", "tiny").stored)
    with pytest.raises(BadInput, match="weights in nf4: no kernel here runs them"):
        check_runs(dtypes)
