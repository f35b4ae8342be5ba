"""Bytes of quantised weights: those of transformers' own layers, and of shapes written by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from their_classes import their_config
from written import FP8, Config, llama, packed, stored_bytes

from hybridbench.arch import model
from hybridbench.arch.block import Block
from hybridbench.arch.blocks.altup import AltUp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.blocks.per_layer import PerLayerInput
from hybridbench.arch.blocks.rg_lru import RgLru
from hybridbench.arch.blocks.routed_attention import RoutedAttention
from hybridbench.arch.families import build_spec
from hybridbench.arch.imports.huggingface import model_from_config
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.presets import PRESETS, preset_spec
from hybridbench.arch.stored import Dtypes, StorageOptions, check_runs
from hybridbench.arch.weights import INT4, SCHEMES, Matrix, Quantised
from hybridbench.cli.main import main
from hybridbench.errors import BadInput

CONFIGS = Path(__file__).parents[1] / "cases/configs"


def test_mlx_leaves_whole_what_its_groups_do_not_divide() -> None:
    config = llama(192, 96, 8, 1, 97, head_dim=32, tie_word_embeddings=True)
    quant = {"group_size": 64, "bits": 8}
    down = 192 * 96  # of 96 columns
    inner = 2 * 96 * 192 + 192 * 256 + (256 + 2 * 256) * 192 + 97 * 192
    assert stored_bytes(config | {"quantization": quant}) == inner + inner // 64 * 4 + (down + 3 * 192) * 2


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


@pytest.mark.filterwarnings("ignore")
def test_fp8_leaves_the_weights_of_an_indexer_whole_as_transformers_does(library: SimpleNamespace) -> None:
    """Without routed experts, whose scales transformers packs by pairs of matrices."""
    from transformers.integrations.finegrained_fp8 import replace_with_fp8_linear
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import FineGrainedFP8Config

    config: Config = (
        {"model_type": "deepseek_v32", "hidden_size": 200, "num_hidden_layers": 2, "vocab_size": 97}
        | {"intermediate_size": 136, "num_attention_heads": 4, "num_key_value_heads": 4, "first_k_dense_replace": 2}
        | {"kv_lora_rank": 40, "q_lora_rank": 72, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 24}
        | {"index_n_heads": 3, "index_head_dim": 12, "index_topk": 8, "n_routed_experts": 4, "n_group": 1}
        | {"topk_group": 1, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 24}
    )
    with library.torch.device("meta"):
        built = library.transformers.AutoModelForCausalLM.from_config(
            their_config(library, config), dtype=library.torch.bfloat16
        )
        left_out = HfQuantizer.get_modules_to_not_convert(built, None, built._keep_in_fp32_modules)
        built = replace_with_fp8_linear(built, left_out, FineGrainedFP8Config(weight_block_size=(128, 64)))
    theirs = sum(parameter.nbytes for parameter in built.parameters())
    assert sum("float8" in str(parameter.dtype) for parameter in built.parameters()) > 10
    ours = {"quant_method": "fp8", "weight_block_size": [128, 64]}
    assert stored_bytes(config | {"quantization_config": ours}) == theirs


WRAPPED = llama(256, 384, 8, 2, 97, torch_dtype="bfloat16")


@pytest.mark.parametrize("start", ["model.language_model.layers", "language_model.model.layers"])
def test_a_wrappers_top_says_how_its_text_model_is_quantised(start: str) -> None:
    """Its modules are called as the wrapper calls them, and those of other sections are no part of the count."""
    quant = FP8 | {"modules_to_not_convert": [f"{start}.1.mlp", "model.vision_tower", "multi_modal_projector"]}
    wrapper = {"model_type": "llava", "text_config": WRAPPED, "vision_config": {"hidden_size": 8}}
    found = stored_bytes(wrapper | {"quantization_config": quant})
    assert found == stored_bytes(WRAPPED | {"quantization_config": FP8 | {"modules_to_not_convert": ["layers.1.mlp"]}})
    mlp, fewer = 3 * 256 * 384, stored_bytes(WRAPPED) - found
    assert fewer == stored_bytes(WRAPPED) - stored_bytes(WRAPPED | {"quantization_config": FP8}) - mlp + 4 * 3 * 2 * 3


@pytest.mark.parametrize("head", ["lm_head", "language_model.lm_head", "model.language_model.lm_head", "re:.*lm_head"])
def test_a_head_is_left_out_under_each_of_its_names(head: str) -> None:
    wrapper = {"model_type": "llava", "text_config": WRAPPED, "vision_config": {"hidden_size": 8}}
    quant = packed("channel", None)
    (left_out, taken) = (
        stored_bytes(wrapper | {"quantization_config": quant | {"ignore": ignored}})
        for ignored in ([head, "re:vision_tower.*"], ["re:vision_tower.*"])
    )
    assert left_out - taken == 97 * 256 * 2 - (97 * 256 // 2 + 97 * 2 + 2 * 8)


def mixed_blocks() -> list[tuple[str, Block]]:
    specs: list[ModelSpec] = [preset_spec(name) for name in PRESETS]
    specs += [build_spec(family, "350m") for family in ("inter", "intra", "swa")]
    return [(f"{spec.arch} {symbol}", block) for spec in specs for symbol, block in spec.blocks.items()]


@pytest.mark.parametrize(("name", "block"), mixed_blocks(), ids=lambda value: value if isinstance(value, str) else "")
def test_matrices_are_what_a_block_multiplies_by(name: str, block: Block) -> None:
    assert linear_weights(block) == multiplied_weights(block), name


def test_matrices_of_every_kind_are_what_it_multiplies_by(block: Block) -> None:
    assert linear_weights(block) == multiplied_weights(block)
    assert linear_weights(block) > 0


def linear_weights(block: Block) -> int:
    """Elements of the linear layers of a block; a table that is looked up is none."""
    return sum(matrix.size for matrix in block.matrices() if matrix.part != "rows")


def multiplied_weights(block: Block) -> int:
    """A multiply-add of every product with a token that picks all experts, but for what is no linear layer."""
    if isinstance(block, Moe | RoutedAttention):
        block = replace(block, top_k=block.n_experts)
    products = block.products()
    found = sum(products.values()) // 2 - products.get("parallel gate", 0) // 2
    if isinstance(block, RgLru):  # its gates are block-diagonal
        found -= 2 * block.width * block.width // block.n_blocks
    if isinstance(block, AltUp):  # its router runs twice, and every copy is a mix of all copies
        found -= block.copies * block.d_model + block.copies**2 * block.d_model
    return found


def test_experts_of_attention_and_rows_are_read_as_they_are_used() -> None:
    quantised = Dtypes("bfloat16", "bfloat16", "bfloat16", "bfloat16", Quantised(SCHEMES["fp8-block"])).storage
    routed = RoutedAttention(256, n_kv_heads=2, head_dim=64, n_experts=8, top_k=2)
    assert routed.weight_traffic(10_000, quantised) == routed.weight_bytes(quantised)
    expert = 2 * 128 * 256 + 2 * 2 * 4
    assert routed.weight_bytes(quantised) - routed.weight_traffic(1, quantised) == 6 * expert
    groups = Dtypes("bfloat16", "bfloat16", "bfloat16", "bfloat16", Quantised(replace(INT4, everywhere=True))).storage
    layer = PerLayerInput(256, width=128, rows=1000)
    assert layer.weight_bytes(groups) - layer.weight_traffic(3, groups) == 997 * (128 // 2 + 2)
    assert layer.weight_bytes(quantised) - layer.weight_traffic(3, quantised) == 997 * 128 * 2


def test_parameters_and_flops_do_not_change() -> None:
    body = json.loads((CONFIGS / "12-qwen3-fp8-quantization.json").read_text())
    quantised = model_from_config(body)
    plain = model_from_config({name: value for name, value in body.items() if name != "quantization_config"})
    assert quantised == plain
    storage = StorageOptions().dtypes(quantised.stored).storage
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
    storage = StorageOptions().dtypes(spec.stored).storage
    rows = model.layer_costs(spec, 64, 2, storage=storage)
    assert sum(row.decode_bytes_moved for row in rows) == model.decode_bytes_moved(spec, 64, 2, storage)
    moved = [row.decode_bytes_moved for row in rows if row.symbol == "-"]
    down = 1024 * 3072
    assert moved[3] - moved[2] == down - down // (128 * 128) * 2
    block = Moe(256, 128, n_experts=8, top_k=2)
    quantised = Dtypes("bfloat16", "bfloat16", "bfloat16", "bfloat16", Quantised(SCHEMES["fp8-block"])).storage
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
    tables = SCHEMES[scheme].codes != ""  # then a row of the embedding is read as codes too
    row = plain["d_model"] - SCHEMES[scheme].scale_bytes if tables else 0
    assert 0 < saved + row == plain["decode_bytes_moved"] - stored["decode_bytes_moved"]


def test_quantised_weights_are_neither_trained_nor_measured_here() -> None:
    for command in ("fit", "price"):
        done = CliRunner().invoke(main, [command, "--arch", "mamba", "--workload", "train", "--weight-dtype", "fp8"])
        assert done.exit_code == 2
        assert "quantised weights are not trained" in " ".join(done.stderr.split())
    dtypes = StorageOptions(weights="nf4").dtypes(build_spec("mamba", "tiny").stored)
    with pytest.raises(BadInput, match="weights in nf4: no kernel here runs them"):
        check_runs(dtypes)
