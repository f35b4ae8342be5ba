"""Published models against the figures their authors print and formulas.md section 6 and 8 explains."""

from __future__ import annotations

import json
import re

import pytest

from hybridbench.arch import model
from hybridbench.arch.block import Storage
from hybridbench.arch.model import Cost, ModelSpec
from hybridbench.arch.presets import PRESETS, preset_spec
from hybridbench.errors import BadInput

FP32_STATE = Storage.of("bfloat16", "float32")


def size_of(name: str) -> Cost:
    return model.cost(preset_spec(name), 4096)


ROUNDED = ("falcon-h1-tiny-90m", "mamba-130m", "mamba-370m", "mamba2-130m", "mamba2-370m")
"""Printed to the nearest ten million."""
WITHOUT_TABLES = ("kimi-linear-48b-a3b",)
"""Printed without embedding and head: 49.1 B with them."""


@pytest.mark.parametrize("name", [name for name, entry in PRESETS.items() if re.fullmatch(r"[\d.]+[BM]", entry.total)])
def test_totals_are_the_printed_ones_to_their_last_digit(name: str) -> None:
    """The last digit may be cut off rather than rounded."""
    printed, unit = PRESETS[name].total[:-1], {"B": 1e9, "M": 1e6}[PRESETS[name].total[-1]]
    last = unit * 10.0 ** -len(printed.partition(".")[2]) * (10 if name in ROUNDED else 1)
    size = size_of(name)
    counted = size.params_non_embedding if name in WITHOUT_TABLES else size.params
    assert abs(counted - float(printed) * unit) < last


def test_active_parameters_are_counted_by_everyone_differently() -> None:
    """With all embeddings, without the input's, or without both: section 6 of formulas.md."""
    minimax, nano = size_of("minimax-text-01"), size_of("nemotron-3-nano-30b-a3b")
    table = 200_064 * 6144
    assert round(minimax.params_active / 1e9, 2) == 48.40
    assert round((minimax.params_active - 2 * table) / 1e9, 1) == 45.9
    assert round(nano.params_active / 1e9, 2) == 3.58
    assert round((nano.params_active - 131_072 * 2688) / 1e9, 1) == 3.2
    assert round(size_of("granite-4.0-h-small").params_active / 1e9, 1) == 8.8
    assert round(size_of("jamba-mini").params_active / 1e9) == 12
    qwen = size_of("qwen3-next-80b-a3b")
    assert round((qwen.params_active - 2 * 151_936 * 2048) / 1e9) == 3


def test_zamba2_works_more_than_its_parameters_say() -> None:
    """1.22 B parameters, but 3.52 GFLOP a token, not twice the parameters, since six uses share one block."""
    spec = preset_spec("zamba2-1.2b")
    assert model.params(spec) == 1_215_064_704
    assert round(model.decode_flops(spec, 0).matmul / 1e9, 2) == 3.52
    assert spec.counts["Z"] == 6
    weights = model.weight_bytes(spec, Storage())
    assert model.decode_bytes_moved(spec, 1, 1, Storage()) > 1.4 * weights


def test_nemotron_h_keeps_102_megabytes_and_16_kibibytes_a_token() -> None:
    spec = preset_spec("nemotron-h-8b")
    kept = [model.cache_bytes(spec, context, FP32_STATE) for context in (0, 1)]
    assert round(kept[0].total / 1e6, 1) == 102.6
    assert kept[1].total - kept[0].total == 16 * 1024
    assert kept[0].total // (16 * 1024) == 6264
    assert kept[0].ssm == 24 * 128 * 64 * 128 * 4
    assert kept[0].conv == 24 * 10_240 * 4 * 2


def per_token(spec: ModelSpec, context: int) -> int:
    """Cache bytes one more token adds at a context, in bfloat16."""
    return model.cache_bytes(spec, context + 1, Storage()).total - model.cache_bytes(spec, context, Storage()).total


@pytest.mark.parametrize(
    ("name", "layers", "kv_heads", "head_dim"),
    [
        *[("jamba-mini", 4, 8, 128), ("zamba2-1.2b", 6, 32, 128), ("bamba-9b", 3, 8, 128)],
        *[("falcon-h1-1.5b", 24, 2, 128), ("falcon-h1-7b", 44, 2, 128), ("falcon-h1-tiny-90m", 24, 2, 64)],
        *[("nemotron-h-4b", 4, 8, 128), ("nemotron-nano-9b-v2", 4, 8, 128), ("nemotron-3-nano-30b-a3b", 6, 2, 128)],
        *[("nemotron-3-super-120b-a12b", 8, 2, 128), ("granite-4.0-h-1b", 4, 4, 128), ("lfm2-1.2b", 6, 8, 64)],
        *[("granite-4.0-h-tiny", 4, 4, 128), ("granite-4.0-h-small", 4, 8, 128), ("lfm2-350m", 6, 8, 64)],
        *[("qwen3-next-80b-a3b", 12, 2, 256), ("qwen3.5-2b", 6, 2, 256), ("qwen3.5-4b", 8, 4, 256)],
        *[("qwen3.5-27b", 16, 4, 256), ("olmo-hybrid-7b", 8, 30, 128), ("minimax-text-01", 10, 8, 128)],
        *[("llama-3.2-1b", 16, 8, 64), ("mamba2attn-2.7b", 6, 30, 128), ("mamba-2.8b", 0, 0, 0)],
        *[("mamba2-2.7b", 0, 0, 0), ("mamba3-mimo-1.5b", 0, 0, 0), ("recurrentgemma-2b", 0, 0, 0)],
        ("samba-421m", 0, 0, 0),
    ],
)
def test_what_a_token_adds_to_the_cache_far_out(name: str, layers: int, kv_heads: int, head_dim: int) -> None:
    """2 x layers x KV heads x head width x 2 bytes; windows are full and states do not grow."""
    assert per_token(preset_spec(name), 100_000) == 2 * layers * kv_heads * head_dim * 2


def test_kimi_caches_latents() -> None:
    spec = preset_spec("kimi-linear-48b-a3b")
    assert per_token(spec, 1000) == 7 * (512 + 64) * 2
    assert spec.counts["A"] == 7
    assert spec.layers[-2] == "A"
    assert spec.layers[1] == "-"


def test_hymba_shares_keys_and_caches_meta_tokens() -> None:
    """17 of 32 layers own keys and values, three of them without a window; 128 learned tokens come first."""
    spec = preset_spec("hymba-1.5b")
    token = 5 * (64 + 128) * 2
    assert (spec.counts["(*&m)"], spec.counts["(S&m)"], spec.counts["(S&m)'"]) == (3, 14, 15)
    assert model.cache_bytes(spec, 0, Storage()).kv == 17 * 128 * token
    assert per_token(spec, 100) == 17 * token
    assert per_token(spec, 100_000) == 3 * token
    assert round(model.params(spec) / 1e9, 2) == 1.52


@pytest.mark.parametrize("name", PRESETS)
def test_published_models_survive_json_and_prefill_what_they_decode(name: str) -> None:
    spec = preset_spec(name)
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.arch == name
    steps = sum(model.decode_flops(spec, context).total for context in range(9))
    assert model.prefill_flops(spec, 9, head_positions=9).total == steps


def test_a_record_that_calls_a_preset_published_is_read_as_one() -> None:
    spec = preset_spec("nemotron-h-8b")
    earlier = ModelSpec.from_dict({**spec.to_dict(), "scale": "published"})
    assert spec.scale == "preset"
    assert earlier.label == spec.label


def test_names_in_any_case_and_no_others() -> None:
    assert preset_spec("Nemotron-H-8B") == preset_spec("nemotron-h-8b")
    with pytest.raises(BadInput, match="unknown model 'nemotron-h-9b': did you mean 'nemotron-h-8b'"):
        preset_spec("nemotron-h-9b")
