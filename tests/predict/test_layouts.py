"""Cache layouts: by hand, against the closed form, and page by page."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from hybridbench.arch import model as arch
from hybridbench.arch.block import Storage
from hybridbench.arch.families import ARCHS, Options, build_spec, pattern_spec
from hybridbench.arch.imports.huggingface import model_from_config
from hybridbench.arch.presets import preset_spec
from hybridbench.arch.stored import Dtypes
from hybridbench.errors import BadInput
from hybridbench.predict.layouts import LAYOUTS, check_layout, dtypes_in, layout_bytes, layouts_of, paged
from hybridbench.predict.layouts import storage_of as storage_of_dtypes
from hybridbench.units import MIB


def storage_of(layout: str, dtype: str = "bfloat16", state: str | None = None) -> Storage:
    return storage_of_dtypes(layout, dtypes_in(layout, Dtypes.of(dtype, state), state is not None))


ONE_B_STATE = 4096 * 128
ONE_B_CONV = (4096 + 2 * 128) * 4
TOKEN = 2 * 8 * 64 * 2


@pytest.mark.parametrize("family", ARCHS)
@pytest.mark.parametrize("context", [1, 500, 575, 576, 577, 8192])
def test_ours_papers_and_mamba_ssms_are_the_closed_form_in_bfloat16(family: str, context: int) -> None:
    spec = build_spec(family, "1b")
    for layout in ("ours", "paper", "mamba_ssm"):
        assert layout_bytes(spec, context, layout, storage_of(layout)) == arch.cache_bytes(spec, context, Storage())


def test_layouts_differ_in_dtypes_and_a_windows_last_token() -> None:
    mamba = pattern_spec("M-", "1b")
    float32 = {layout: layout_bytes(mamba, 9, layout, storage_of(layout, "float32")) for layout in LAYOUTS}
    assert float32["ours"].total == float32["mamba_ssm"].total == (ONE_B_STATE + ONE_B_CONV) * 4
    assert float32["paper"].total == (ONE_B_STATE + ONE_B_CONV) * 2
    half = layout_bytes(mamba, 9, "transformers", storage_of("transformers"))
    assert (half.ssm, half.conv) == (ONE_B_STATE * 4, ONE_B_CONV * 2)
    window = pattern_spec("S-", "1b", Options(window=100, sinks=0))
    kept = {
        n: layout_bytes(window, n, "transformers", storage_of("transformers")).kv // TOKEN for n in (50, 99, 100, 500)
    }
    assert kept == {50: 50, 99: 99, 100: 99, 500: 99}


def test_unknown_layouts_are_refused() -> None:
    with pytest.raises(BadInput, match="did you mean 'mamba_ssm'"):
        storage_of("mamba-ssm")
    assert storage_of("ours", "bfloat16", "float32").ssm_bytes == 4


@pytest.mark.parametrize(
    ("model", "state", "tokens"),
    [
        ("nemotron-nano-9b-v2", "bfloat16", 672),
        ("nemotron-nano-9b-v2", "float32", 1312),
        ("qwen3.5-4b", "float32", 528),
        ("granite-4.0-h-small", "bfloat16", 528),
    ],
)
def test_pages_of_attention_are_as_long_as_vllm_makes_them(model: str, state: str, tokens: int) -> None:
    """The block sizes that vLLM prints for these models as it starts."""
    spec = preset_spec(model)
    found = paged(spec, 32768, storage_of("vllm", "bfloat16", state), 16, name="vllm")
    assert found.page_tokens == tokens


def test_padding_of_a_state_is_what_vllm_prints() -> None:
    """0.76% for Qwen3.5-4B with states in float32."""
    storage = storage_of("vllm", "bfloat16", "float32")
    spec = preset_spec("qwen3.5-4b")
    found = paged(spec, 1, storage, 16, name="vllm")
    kept = layout_bytes(spec, 1, "vllm", storage)
    states = spec.counts["G"]
    assert round(100 * (found.page_bytes / ((kept.ssm + kept.conv) / states) - 1), 2) == 0.76


def test_llama_cpp_keeps_what_it_logs_of_falcon_h1() -> None:
    """llama.cpp on Falcon-H1-1.5B at 32k: KV buffer 768 MiB; RS buffer R 0.98 MiB, S 72.00 MiB."""
    kept = layout_bytes(preset_spec("falcon-h1-1.5b"), 32768, "llama.cpp", storage_of("llama.cpp"))
    assert [round(part / MIB, 2) for part in (kept.kv, kept.ssm, kept.conv)] == [768.0, 72.0, 0.98]


def test_llama_cpp_keeps_a_micro_batch_beside_a_window_in_padded_cells() -> None:
    """``GGML_PAD(min(n_ctx, n_swa + n_ubatch), 256)`` cells."""
    window = pattern_spec("S-", "1b", Options(window=100, sinks=0))
    storage = storage_of("llama.cpp")
    for context in (50, 99, 100, 300, 612, 613, 5000):
        cells = math.ceil(min(context, 612) / 256) * 256
        assert paged(window, context, storage, 256, align_states=False, name="llama.cpp").total == cells * TOKEN


def test_engines_keep_one_column_less_of_a_convolution_and_all_of_what_is_no_convolution() -> None:
    spec = pattern_spec("M-*-", "1b")
    ours, engines = (layout_bytes(spec, 9, name, storage_of(name)) for name in ("ours", "vllm"))
    assert (ours.conv * 3, ours.ssm, ours.kv) == (engines.conv * 4, engines.ssm, engines.kv)
    shift = pattern_spec("7-", "1b")
    assert arch.cache_bytes(shift, 9, Storage(short_conv=True)) == arch.cache_bytes(shift, 9, Storage())


def test_sglang_keeps_states_in_float32_unless_another_dtype_is_named() -> None:
    assert storage_of("sglang").ssm_bytes == 4
    assert storage_of("sglang", "bfloat16", "bfloat16").ssm_bytes == 2
    assert storage_of("vllm").ssm_bytes == 2


def test_vllm_fixes_the_states_of_two_mixers() -> None:
    """``kda_state_dtype`` and ``linear_attention_state_dtype`` of its ``mamba_utils.py``."""
    for state in ("bfloat16", "float32"):
        storage = storage_of("vllm", "bfloat16", state)
        assert (storage.state_bytes("kda"), storage.state_bytes("lightning")) == (4, 2)
    assert storage.state_bytes("mamba2") == storage.state_bytes("gated_delta") == 4


def test_a_library_is_shown_only_for_models_whose_mixers_it_has() -> None:
    assert layouts_of(pattern_spec("M-*-", "1b")) == list(LAYOUTS)
    assert layouts_of(pattern_spec("L-*-", "1b")) == ["ours", "transformers", "vllm", "sglang"]
    assert layouts_of(pattern_spec("7-*-", "1b")) == ["ours"]
    assert layouts_of(pattern_spec("3-", "1b")) == ["ours", "mamba_ssm"]
    with pytest.raises(BadInput, match=r"vllm: it has no rwkv7, .* give ours"):
        check_layout(pattern_spec("7-", "1b"), "vllm")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["minimax_cache", "minimax_cache_with_attention"])
def test_lightning_states_are_as_the_class_of_transformers_keeps_them(name: str) -> None:
    import torch
    import transformers

    body = json.loads((Path(__file__).parents[1] / "cases/configs" / f"{name}.json").read_text())
    spec = model_from_config(body)
    kept = layout_bytes(spec, 7, "transformers", storage_of("transformers"))
    config = transformers.AutoConfig.for_model(body.pop("model_type"), **body)
    built = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        cache = built(torch.randint(3, 90, (1, 7)), use_cache=True).past_key_values
    states = [state for state in cache.linear_cache if torch.is_tensor(state)]
    assert kept.ssm == sum(state.nbytes for state in states) == 64


def test_attention_fills_whole_pages() -> None:
    spec = pattern_spec("*-*-", "1b")
    for context in (1, 15, 16, 17, 8192):
        found = paged(spec, context, Storage(), 16)
        assert found.total == 2 * math.ceil(context / 16) * 16 * TOKEN
        assert found.bytes == 2 * context * TOKEN
        assert found.padding == 0
    assert paged(spec, 100, Storage(), 1).total == 200 * TOKEN


@pytest.mark.parametrize("page", [1, 16, 64])
def test_a_sliding_window_never_meets_more_pages_than_are_counted(page: int) -> None:
    span = 100
    spec = pattern_spec("S-", "1b", Options(window=span, sinks=0))
    for context in (1, 30, 99, 100, 101, 350):
        counted = paged(spec, context, Storage(), page).total // (page * TOKEN)
        # Pages touched by the window's tokens, wherever it has slid to by then.
        reached = range(context, context + page) if context >= span else range(context, context + 1)
        needed = max(len({t // page for t in range(max(0, end - span), end)}) for end in reached)
        assert counted == needed


def test_states_take_a_page_as_large_as_attentions() -> None:
    spec = pattern_spec("M-*-M-", "1b")
    state = (ONE_B_STATE + ONE_B_CONV) * 2
    found = paged(spec, 1000, Storage(), 16)
    tokens = 16 * math.ceil(state / (16 * TOKEN))
    assert found.page_tokens == tokens
    assert found.page_bytes == tokens * TOKEN >= state > (tokens - 16) * TOKEN
    assert found.total == (2 + math.ceil(1000 / tokens)) * found.page_bytes
    apart = paged(spec, 1000, Storage(), 16, align_states=False)
    assert apart.total == 2 * state + math.ceil(1000 / 16) * 16 * TOKEN
    assert apart.padding == 0


@pytest.mark.parametrize("family", ARCHS)
def test_pages_account_for_every_byte(family: str) -> None:
    spec = build_spec(family, "1b")
    for context in (1, 1000, 8192):
        found = paged(spec, context, Storage())
        assert found.bytes == arch.cache_bytes(spec, context, Storage()).total
        assert found.last_pages >= 0
        assert found.padding >= 0
    with pytest.raises(BadInput, match="page size 0"):
        paged(spec, 8, Storage(), 0)


def test_sinks_have_pages_of_their_own() -> None:
    spec = pattern_spec("S-", "1b", Options(window=100, sinks=20))
    assert paged(spec, 500, Storage(), 16).total == (2 + math.ceil(99 / 16) + 1) * 16 * TOKEN
