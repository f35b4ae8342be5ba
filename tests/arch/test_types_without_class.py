"""Model types that transformers has no class for, against published counts and other libraries' classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hybridbench.arch import model
from hybridbench.arch.block import Storage
from hybridbench.arch.imports import fla_types, without_class
from hybridbench.arch.imports.huggingface import model_from_config, read_config
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.presets import preset_spec
from hybridbench.errors import BadInput

Config = dict[str, Any]

SSM: Config = {
    "vocab_size": 50277,
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 16,
    "tie_embeddings": True,
    "d_intermediate": 0,
}
ATTENTION: Config = {
    "causal": True,
    "d_conv": 4,
    "head_dim": 128,
    "num_heads": 30,
    "out_proj_bias": False,
    "qkv_proj_bias": False,
    "rotary_emb_dim": 64,
}
MAMBA_SSM: dict[str, Config] = {
    # The files that stand beside the published weights.
    "mamba-130m": (
        {"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}, "rms_norm": True}
        | {"residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8}
    ),
    "mamba2-130m": SSM
    | {"d_model": 768, "n_layer": 24, "ssm_cfg": {"layer": "Mamba2"}, "attn_layer_idx": [], "attn_cfg": {}},
    "mamba2attn-2.7b": (
        SSM
        | {"d_model": 2560, "n_layer": 64, "ssm_cfg": {"layer": "Mamba2"}}
        | {"attn_layer_idx": [9, 18, 27, 36, 45, 56], "attn_cfg": ATTENTION}
    ),
}


def figures(spec: ModelSpec) -> tuple[Any, ...]:
    kept = model.cache_bytes(spec, 999, Storage())
    return model.params(spec), kept, model.train_flops(spec, 999), model.decode_flops(spec, 999)


@pytest.mark.parametrize("name", MAMBA_SSM)
def test_files_of_mamba_ssm_cost_what_the_published_models_do(name: str) -> None:
    spec = model_from_config(MAMBA_SSM[name])
    assert spec.arch == "mamba_ssm"
    assert figures(spec) == figures(preset_spec(name))


def test_mamba_ssm_rounds_mlps_and_vocabulary_up_and_norms_with_a_bias() -> None:
    """By hand: MLPs of 3 d 256 for a width of 200, 112 rows for 97 tokens of 16, 2 d a LayerNorm."""
    body = SSM | {"d_model": 64, "n_layer": 2, "vocab_size": 97, "d_intermediate": 200, "rms_norm": False}
    inner, rank, state, taps = 128, 4, 16, 4
    mixer = 64 * 2 * inner + inner * (taps + 1) + inner * (rank + 2 * state) + (rank + 1) * inner
    mixer += inner * state + inner + inner * 64
    assert model.params(model_from_config(body)) == 2 * (mixer + 3 * 64 * 256) + 5 * 2 * 64 + 112 * 64


def test_mamba_ssm_names_what_it_does_not_read() -> None:
    with pytest.raises(BadInput, match="layer in ssm_cfg is 'Mamba3': hybridbench reads Mamba1 and Mamba2"):
        model_from_config(SSM | {"d_model": 64, "n_layer": 2, "ssm_cfg": {"layer": "Mamba3"}})


FLA: Config = {"hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 97, "num_heads": 2, "head_dim": 16}
WINDOWED: Config = {"layers": [1], "num_heads": 4, "num_kv_heads": 2, "window_size": 8, "rope_theta": 10000.0}
RANKS: Config = {"decay_low_rank_dim": 64, "a_low_rank_dim": 64, "gate_low_rank_dim": 128}
BIG: Config = {"hidden_size": 2048, "num_hidden_layers": 24, "vocab_size": 32000}
OF_FLA: dict[str, tuple[Config, int]] = {
    # Parameters of flash-linear-attention 0.6.0's classes on the meta device.
    "gated_deltanet": (BIG | {"num_hidden_layers": 21, "num_heads": 6, "head_dim": 256}, 1_387_348_732),
    "gated_deltanet: attention": (FLA | {"attn": WINDOWED}, 206_984),
    "kda": (BIG | {"num_hidden_layers": 24, "num_heads": 16, "head_dim": 128}, 1_390_941_568),
    "kda: attention": (FLA | {"attn": WINDOWED}, 196_324),
    "rwkv7": (BIG | RANKS | {"v_low_rank_dim": 16}, 1_366_644_736),
}


def test_every_type_of_flash_linear_attention_is_tried() -> None:
    assert {name.partition(":")[0] for name in OF_FLA} == set(fla_types.TYPES)


@pytest.mark.parametrize("name", OF_FLA)
def test_parameters_are_those_of_flash_linear_attention(name: str) -> None:
    body, parameters = OF_FLA[name]
    assert model.params(model_from_config({"model_type": name.partition(":")[0], **body})) == parameters


@pytest.mark.parametrize(
    ("depth", "width", "ranks", "total"),
    [
        (12, 768, (64, 64, 32, 128), 191_034_624),
        (24, 1024, (64, 64, 32, 128), 450_767_872),
        (24, 2048, (96, 96, 64, 256), 1_527_404_544),
        (32, 2560, (96, 96, 64, 320), 2_947_735_040),
    ],
)
def test_rwkv7_files_have_the_parameters_of_the_paper(
    depth: int, width: int, ranks: tuple[int, ...], total: int
) -> None:
    """The table of released models in arXiv 2503.14456. A layer keeps a state and two inputs."""
    names = ("decay_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim")
    body = {"model_type": "rwkv7", "hidden_size": width, "num_hidden_layers": depth, "vocab_size": 65_536}
    spec = model_from_config(body | dict(zip(names, ranks, strict=True)))
    assert model.params(spec) == total
    kept = model.cache_bytes(spec, 999, Storage(ssm_bytes=4))
    assert (kept.kv, kept.ssm, kept.conv) == (0, depth * width * 64 * 4, depth * 2 * width * 2)


@pytest.mark.parametrize("model_type", without_class.REFUSED)
def test_types_without_a_block_are_refused_by_name(model_type: str) -> None:
    with pytest.raises(BadInput, match=f"model type {model_type} is not read: "):
        model_from_config({"model_type": model_type, "hidden_size": 64, "vocab_size": 97})


def test_a_name_on_the_hub_gets_the_way_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"nothing is downloaded: .* hf download Qwen/Qwen3-4B config.json"):
        read_config(Path("Qwen/Qwen3-4B"))
    (tmp_path / "Qwen").mkdir()
    with pytest.raises(BadInput, match="Qwen/Qwen3-4B cannot be read"):
        read_config(Path("Qwen/Qwen3-4B"))


def test_a_folder_stands_for_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((Path(__file__).parents[1] / "cases/configs/kimi-k2.json").read_text("utf-8"))
    assert read_config(tmp_path).arch == "kimi_k2"
