"""Cache layouts: by hand, against the closed form, and page by page."""

from __future__ import annotations

import math

import pytest

from hybridbench.arch import model as arch
from hybridbench.arch.block import Storage
from hybridbench.arch.families import ARCHS, Options, build_spec, pattern_spec
from hybridbench.errors import BadInput
from hybridbench.predict.layouts import LAYOUTS, layout_bytes, paged, storage_of

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


def test_unknown_layouts_and_dtypes_they_fix_are_refused() -> None:
    with pytest.raises(BadInput, match="did you mean 'mamba_ssm'"):
        storage_of("mamba-ssm")
    with pytest.raises(BadInput, match="--state-dtype"):
        storage_of("transformers", "bfloat16", "float32")
    assert storage_of("ours", "bfloat16", "float32").ssm_bytes == 4


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
