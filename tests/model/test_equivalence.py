"""Prefill then decode gives the logits of one long forward, and built modules have the sizes that ``arch`` predicts."""

from __future__ import annotations

import pytest
import torch
from variants import VARIANTS

from hybridbench.arch import model as arch_model
from hybridbench.arch.block import Storage
from hybridbench.arch.families import ARCHS, RECIPES, Options, build_spec
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.scales import SCALES
from hybridbench.model import build_model, resolve_backends
from hybridbench.model.build import parameter_count
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import DECODE, Workload

FP32_BOUND = 1e-4


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.sampled
def test_prefill_then_decode_gives_the_logits_of_one_forward(name, build):
    spec = VARIANTS[name]
    model = build(spec)
    prompt, total = 37, 45
    tokens = torch.randint(spec.vocab_size, (2, total), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(tokens)
        caches = model.new_caches(2, total, Storage.of("float32"))
        logits = [model.prefill(tokens[:, :prompt], caches)]
        for position in range(prompt, total):
            logits.append(model.decode(tokens[:, position], torch.full((2,), position), caches))
    assert relative(torch.stack(logits, 1), expected[:, prompt - 1 :]) < FP32_BOUND


@pytest.mark.parametrize("prompt", [1, 3, 15, 16, 17, 20, 21])
def test_prompts_around_the_window_and_shorter_than_the_conv(prompt, build):
    spec = VARIANTS["window beside mamba"]
    model = build(spec)
    tokens = torch.randint(spec.vocab_size, (2, prompt + 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(tokens)
        caches = model.new_caches(2, prompt + 6, Storage.of("float32"))
        model.prefill(tokens[:, :prompt], caches)
        for position in range(prompt, prompt + 6):
            logits = model.decode(tokens[:, position], torch.full((2,), position), caches)
            assert relative(logits, expected[:, position]) < FP32_BOUND


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_and_caches_are_the_predicted_ones_to_the_byte(name, build):
    spec = VARIANTS[name]
    model = build(spec)
    assert parameter_count(model) == arch_model.params(spec)
    for storage in (Storage.of("float32"), Storage.of("float32", "float64")):
        for capacity in (1, 19, 20, 21, 100):
            kept = {"kv": 0, "ssm": 0, "conv": 0}
            for cache in model.new_caches(3, capacity, storage):
                for kind, tensors in cache.tensors().items() if cache else ():
                    kept[kind] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            predicted = arch_model.cache_bytes(spec, capacity, storage)
            assert kept == {"kv": 3 * predicted.kv, "ssm": 3 * predicted.ssm, "conv": 3 * predicted.conv}


def published() -> list[ModelSpec]:
    specs = [build_spec(arch, scale) for scale in SCALES for arch in ARCHS]
    specs += [build_spec("intra", scale, Options(recipe=recipe)) for scale in SCALES for recipe in RECIPES]
    specs += [build_spec(arch, "1b", Options(moe=True)) for arch in ARCHS]
    return specs


@pytest.mark.parametrize("spec", published(), ids=lambda spec: f"{spec.label}-{spec.scale}-{spec.recipe}")
def test_every_family_scale_and_recipe_has_the_predicted_parameters_on_the_meta_device(spec):
    case = Case(spec, Workload(DECODE, 16, 1), Execution("cpu", "bfloat16", "eager"))
    model = build_model(case, resolve_backends(case))
    assert parameter_count(model) == arch_model.params(spec)
    stored = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert stored == arch_model.weight_bytes(spec, Storage.of("bfloat16"))
