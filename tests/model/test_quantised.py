"""Weights, keys and values in codes of 8 bits: what they are, what bytes they take, and what a step makes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from variants import VARIANTS

from hybridbench.arch import model as arch
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.families import Options, pattern_spec
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.weights import RUN_SCHEMES, SCHEMES
from hybridbench.count.caches import count_cache
from hybridbench.errors import Unsupported, WrongResult
from hybridbench.measure.memory import tensor_bytes
from hybridbench.model import build_model, resolve_backends
from hybridbench.model import quantised as weights
from hybridbench.model.build import parameter_count
from hybridbench.model.cache import AttentionCache, Cache, ParallelCache
from hybridbench.model.language import LanguageModel
from hybridbench.model.quantised import QuantisedLinear, dequantise, quantise_rows
from hybridbench.model.quantised_cache import HEADROOM, QuantisedAttentionCache
from hybridbench.session import Proofs, open_session
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import DECODE, Workload
from hybridbench.workload.at_size.quantised import QUANTISED, quantise_as, quantised_copy
from hybridbench.workload.prepared import present

CPU = torch.device("cpu")
B, CONTEXT = 3, 40
E4M3 = [
    sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    for sign in (1, -1)
    for exponent in range(16)
    for mantissa in range(8)
    if (exponent, mantissa) != (15, 7)
]
"""Every number of E4M3, as the OCP's specification of 8-bit floating point gives them; one pattern is NaN."""
SIZES = torch.tensor([1e-3, 1, 7, 0, 300])
NUMBERS = {"fp8": torch.tensor(E4M3), "int8": torch.arange(-127.0, 128.0)}
PATTERNS = ("*-S-", "M-", "G-", "K-", "3-", "7-7-", "m-", "(*&M)-", "(*&G)-")
"""Every mixer; the bytes of lightning attention's module include a buffer that no formula counts."""


def case_of(spec: ModelSpec, weight_dtype: str | None, kv_dtype: str | None, dtype: str = "float32") -> Case:
    execution = Execution("cpu", dtype, "eager", weight_dtype=weight_dtype, kv_dtype=kv_dtype)
    return Case(spec, Workload(DECODE, CONTEXT, B), execution)


def model_of(case: Case) -> LanguageModel:
    model = build_model(case, resolve_backends(case))
    model.allocate(CPU, seed=0)
    return model


@pytest.mark.parametrize("name", RUN_SCHEMES)
def test_a_code_is_the_nearest_number_and_the_largest_weight_of_a_row_the_largest_code(name: str) -> None:
    matrix = torch.randn(5, 48, generator=torch.Generator().manual_seed(0)) * SIZES[:, None]
    codes, scale = quantise_rows(matrix, SCHEMES[name])
    most = NUMBERS[name].max()
    bits = 24 if SCHEMES[name].scale_bytes == 4 else 8
    expected = matrix.abs().amax(1) / most
    assert torch.all((scale.float() - expected).abs() <= expected * 2.0**-bits) or scale[3] == 1
    assert scale[3] == 1
    near = NUMBERS[name][((matrix / scale.float()[:, None])[..., None] - NUMBERS[name]).abs().argmin(-1)]
    ties = (codes.float() - near).abs()
    off = (codes.float() - matrix / scale.float()[:, None]).abs() - (near - matrix / scale.float()[:, None]).abs()
    assert float(off.max()) <= 1e-4 * float(most), f"{int((ties > 0).sum())} codes are not the nearest"
    assert torch.equal(dequantise(codes, scale, torch.float32), codes.float() * scale.float()[:, None])


@pytest.mark.parametrize("name", RUN_SCHEMES)
def test_normal_weights_are_as_far_off_as_the_format_rounds(name: str) -> None:
    """E4M3 rounds by a share of at most 1/16 of a number, evenly; int8 by half a step of 1/127 of a row's largest."""
    matrix = torch.randn(64, 2048, generator=torch.Generator().manual_seed(1))
    codes, scale = quantise_rows(matrix, SCHEMES[name])
    error = float((dequantise(codes, scale, torch.float32) - matrix).norm() / matrix.norm())
    steps = (matrix.abs().amax(1) / 127).square().mean().sqrt() / 12**0.5
    expected = {"fp8": 2.6e-2, "int8": float(steps)}[name]
    assert error == pytest.approx(expected, rel=0.05)
    assert error < SCHEMES[name].rounding < 2 * error


@pytest.mark.parametrize("weight_dtype", RUN_SCHEMES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_weights_and_caches_take_the_bytes_of_their_formulas(pattern: str, weight_dtype: str) -> None:
    spec = pattern_spec(pattern, "tiny", Options(window=8, sinks=2) if "S" in pattern else Options())
    case = case_of(spec, weight_dtype, "fp8")
    model = model_of(case)
    model.quantise(weight_dtype)
    storage = case.execution.storage
    assert tensor_bytes([*model.parameters(), *model.buffers()]) == arch.weight_bytes(spec, storage)
    assert parameter_count(model) == arch.params(spec), "scales are no parameters"
    kept = count_cache(present(model.new_caches(B, CONTEXT, storage)), CONTEXT)
    assert kept.kv_cache_bytes == B * arch.cache_bytes(spec, CONTEXT, storage).kv
    assert kept.ssm_state_bytes + kept.conv_state_bytes == B * (
        arch.cache_bytes(spec, CONTEXT, storage).ssm + arch.cache_bytes(spec, CONTEXT, storage).conv
    )


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("moe")])
@pytest.mark.sampled
def test_a_step_is_that_of_a_plain_model_with_the_dequantised_weights_keys_and_values(name: str) -> None:
    case = case_of(VARIANTS[name], "fp8", "fp8")
    model, plain = model_of(case), model_of(case_of(VARIANTS[name], None, None))
    model.quantise("fp8")
    with torch.no_grad():
        for (path, module), other in zip(model.named_modules(), plain.modules(), strict=True):
            if isinstance(module, QuantisedLinear):
                assert isinstance(other, nn.Linear), path
                other.weight.copy_(module.codes.float() * module.scale_R[:, None])
        assert model.embedding_scale_V is not None
        plain.embedding_VD.copy_(model.embedding_VD.float() * model.embedding_scale_V[:, None])
    others = plain.new_caches(B, CONTEXT + 1, Execution("cpu", "float32", "eager").storage)
    generator = torch.Generator().manual_seed(3)
    caches = []
    for theirs in others:
        if theirs is not None:
            theirs.fill(generator)
        caches.append(None if theirs is None else quantised_copy(theirs, "float8_e4m3fn"))
    coded = list(zip(_attentions(caches), _attentions(others), strict=True))
    for mine, theirs in coded:
        for numbers, kept in zip(mine.keys_values(), theirs.keys_values(), strict=True):
            kept.copy_(numbers)
    token_B, position_B = torch.tensor([1, 5, 9]), torch.full((B,), CONTEXT)
    with torch.no_grad():
        found, expected = (one.decode(token_B, position_B, kept) for one, kept in ((model, caches), (plain, others)))
    # with attention the token of this step, one of 41, is rounded to codes in one of the two
    assert float((found - expected).norm() / expected.norm()) < (2e-2 if coded else 1e-5)


def _attentions(caches: list[Cache | None]) -> list[AttentionCache]:
    each = [(x.first, x.second) if isinstance(x, ParallelCache) else (x,) for x in present(caches)]
    parts = [part for one in each for part in one]
    return [part for part in parts if isinstance(part, AttentionCache)]


def attention_caches(window: int = 0) -> tuple[AttentionCache, QuantisedAttentionCache]:
    slots = 8 if window else 12
    generator = torch.Generator().manual_seed(4)
    k, v = (torch.randn(2, slots, 3, width, generator=generator) for width in (16, 24))
    plain = AttentionCache(k, v, 2 if window else 0, window)
    return plain, QuantisedAttentionCache.of(plain, torch.float8_e4m3fn)


def test_scales_of_keys_and_values_are_powers_of_two_with_headroom() -> None:
    plain, coded = attention_caches()
    for kept, scale_BK in ((plain.k_BSKP, coded.k_scale_BK), (plain.v_BSKV, coded.v_scale_BK)):
        assert torch.equal(scale_BK.log2().round().exp2(), scale_BK)
        largest = kept.abs().amax((1, 3)) / scale_BK
        assert torch.all((largest <= 448 / HEADROOM) & (largest > 448 / HEADROOM / 2))
    for found, expected in zip(coded.keys_values(), plain.keys_values(), strict=True):
        assert float((found - expected).norm() / expected.norm()) == pytest.approx(2.6e-2, rel=0.1)


@pytest.mark.parametrize("window", [0, 6])
def test_a_token_is_quantised_into_the_slot_of_a_plain_cache_and_saturates(window: int) -> None:
    plain, coded = attention_caches(window)
    before = coded.k_BSKP.clone()
    position_B = torch.tensor([11, 7])
    k, v = torch.full((2, 3, 16), 0.7), torch.full((2, 3, 24), -1e6)
    for cache in (plain, coded):
        cache.append(k, v, position_B)
    changed = (coded.k_BSKP.float() != before.float()).any(-1).any(-1)
    slots = plain.slots(position_B)
    assert [row.nonzero().flatten().tolist() for row in changed] == [[int(slot)] for slot in slots]
    rows = torch.arange(2)
    keys, values = coded.keys_values()
    assert torch.all((keys[rows, slots] / 0.7 - 1).abs() <= 1 / 16)
    assert torch.equal(values[rows, slots], (-448 * coded.v_scale_BK)[..., None].expand(2, 3, 24))


def test_a_prompt_sets_the_scales_and_fills_the_slots_of_a_plain_cache() -> None:
    plain, coded = attention_caches(window=6)
    k, v = 40 * torch.randn(2, 20, 3, 16), torch.randn(2, 20, 3, 24)
    for cache in (plain, coded):
        cache.store(k, v)
    assert torch.all(coded.k_scale_BK > coded.v_scale_BK)
    for found, expected in zip(coded.keys_values(), plain.keys_values(), strict=True):
        assert float((found - expected).norm() / expected.norm()) < 3.5e-2


def test_a_fill_is_of_normal_numbers() -> None:
    _, coded = attention_caches()
    coded.fill(torch.Generator().manual_seed(5))
    for numbers in coded.keys_values():
        assert float(numbers.std()) == pytest.approx(1, abs=0.1)
        assert float((numbers[0] - numbers[1]).abs().mean()) > 0.5, "sequences differ"


def test_keys_and_values_are_read_some_sequences_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from hybridbench.kernels.attention.reference import attention_decode
    from hybridbench.model import quantised_cache

    _, coded = attention_caches()
    seen: list[int] = []

    def attend(q_BHP: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        seen.append(len(q_BHP))
        return attention_decode(q_BHP, *given)

    q_BHP, length_B = torch.randn(2, 6, 16), torch.tensor([12, 5], dtype=torch.int32)
    whole = coded.attended(attend, q_BHP, length_B)
    monkeypatch.setattr(quantised_cache, "DEQUANTISED_ELEMENTS", 12 * 3 * 16)
    assert torch.equal(coded.attended(attend, q_BHP, length_B), whole)
    assert seen == [2, 1, 1]


@pytest.mark.parametrize(("weight_dtype", "kv_dtype"), [("fp8", None), (None, "fp8"), ("int8", "fp8")])
def test_a_session_says_how_far_the_logits_move(weight_dtype: str | None, kv_dtype: str | None) -> None:
    case = case_of(pattern_spec("*-M-", "tiny"), weight_dtype, kv_dtype)
    session = open_session(case, CPU, Proofs())
    checks = {check.what: check for check in session.sized}
    moved = checks[QUANTISED]
    assert 0 < moved.error < 0.15
    assert moved.against == "the same step in float32"
    assert (f"weights in {weight_dtype}" in checks) == (weight_dtype is not None)
    assert "a decode step" in checks


def test_no_proof_takes_no_step_before() -> None:
    case = case_of(pattern_spec("M-", "tiny"), "fp8", None)
    model = model_of(case)
    (check,) = quantise_as(case, model, compare=False)
    assert check.error < check.bound
    assert model.embedding_scheme == "fp8"


@pytest.mark.parametrize("broken", ["codes", "scales"])
def test_wrong_codes_or_scales_are_found(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = weights.quantise_rows

    def wrong(matrix: torch.Tensor, scheme: weights.Scheme) -> tuple[torch.Tensor, torch.Tensor]:
        codes, scale = right(matrix, scheme)
        return (codes, scale * 1.1) if broken == "scales" else (codes.roll(1, 0), scale)

    monkeypatch.setattr(weights, "quantise_rows", wrong)
    case = case_of(pattern_spec("M-", "tiny"), "fp8", None)
    with pytest.raises(WrongResult, match=r"weights in fp8 differ .* Decode without --weight-dtype"):
        quantise_as(case, model_of(case), compare=True)


def test_a_step_that_is_another_model_s_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(pattern_spec("M-", "tiny"), "fp8", None)
    monkeypatch.setattr(QuantisedLinear, "forward", lambda self, x: -nn.functional.linear(x, self.weight).flip(-1))
    with pytest.raises(WrongResult, match="other logits than in float32"):
        quantise_as(case, model_of(case), compare=True)


def test_routed_experts_are_refused_with_the_way_out() -> None:
    case = case_of(VARIANTS["moe transformer"], "fp8", None)
    assert any(isinstance(block, Moe) for block in case.model.placed)
    with pytest.raises(Unsupported, match=r"routed experts with weights in fp8: .* without --weight-dtype"):
        resolve_backends(case)
    only_kv = replace(case, execution=replace(case.execution, weight_dtype=None, kv_dtype="fp8"))
    assert resolve_backends(only_kv), "experts read no keys"
