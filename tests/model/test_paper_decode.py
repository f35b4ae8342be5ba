"""A step as published gives the logits of the usual one: caches that grow, pieces in order, static buffers between."""

from __future__ import annotations

import pytest
import torch
from variants import SINKS, VARIANTS, WINDOW

from hybridbench.arch.block import Storage
from hybridbench.kernels import Problem, backends, verify
from hybridbench.model import LanguageModel, build_model, resolve_backends
from hybridbench.model.cache import AttentionCache, GrowingCache, growing
from hybridbench.model.paper_decode import PaperDecode, Segment
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import GENERATE, Workload

BOUND = 1e-4
PROMPT, STEPS = 21, 64
DECODED = ["transformer", "swa", "mamba", "inter", "intra", "window beside mamba", "no mlp", "moe transformer"]
DECODED += ["recipe diff-transformer", "recipe diff-mamba", "fusion gate concat separate", "fusion vector add shared"]
SLOW = ("moe transformer", "recipe diff-transformer", "fusion vector add shared", "window beside mamba")


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def model_in(mode: str, spec) -> LanguageModel:
    case = Case(spec, Workload(GENERATE, 64, 2, 32), Execution("cpu", "float32", mode))
    resolved = resolve_backends(case)
    used = {item.backend.name for item in resolved if item.op == "attention_decode"}
    assert used <= ({"naive"} if mode == "published" else {"sdpa-mask", "reference"})
    model = build_model(case, resolved)
    model.allocate(torch.device("cpu"), 0)
    return model.eval()


def stand_in(step):
    """A graph that runs its function again: new tensors each time, as if every buffer moved."""
    return step


@pytest.mark.parametrize(
    ("name", "capture"),
    [
        *(pytest.param(name, stand_in, marks=[pytest.mark.slow] if name in SLOW else []) for name in DECODED),
        *((name, None) for name in ("swa", "intra")),
    ],
)
@torch.no_grad()
@pytest.mark.sampled
def test_64_tokens_as_published_are_those_of_static_caches(name, capture):
    spec = VARIANTS[name]
    usual, published = model_in("eager", spec), model_in("published", spec)
    tokens = torch.randint(spec.vocab_size, (2, PROMPT), generator=torch.Generator().manual_seed(3))
    caches = usual.new_caches(2, PROMPT + STEPS, Storage.of("float32"))
    grown = [growing(cache, held=False) for cache in published.new_caches(2, 1, Storage.of("float32"))]
    token_B, position_B = tokens[:, 0].clone(), torch.zeros(2, dtype=torch.int64)
    decode = PaperDecode(published, token_B, position_B, grown, capture)
    expected, found = usual.prefill(tokens, caches), published.prefill(tokens, grown)
    for position in range(PROMPT, PROMPT + STEPS):
        assert relative(found, expected) < BOUND
        token_B.copy_(expected.argmax(-1))
        assert torch.equal(token_B, found.argmax(-1))
        position_B.fill_(position)
        expected = usual.decode(token_B, position_B, caches)
        found = decode(token_B, position_B, grown)
    ours, theirs = (sum(x.numel() for c in kept if c for x in c.tensors().get("kv", [])) for kept in (grown, caches))
    assert ours == theirs


@pytest.mark.parametrize(
    ("name", "segments", "eager"),
    [("mamba", 1, 0), ("transformer", 3, 2), ("inter", 2, 1), ("intra", 2, 1), ("recipe diff-transformer", 3, 2)],
)
@torch.no_grad()
def test_what_stands_between_two_attentions_is_one_graph(name, segments, eager):
    model = model_in("published", VARIANTS[name])
    caches = [growing(cache, held=False) for cache in model.new_caches(2, 1, Storage.of("float32"))]
    token_B, position_B = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    parts = PaperDecode(model, token_B, position_B, caches, stand_in)._parts
    kinds = [isinstance(part, Segment) for part in parts]
    # Embedding and head belong to the first and the last graph; attention is between two of them, never beside another.
    assert (kinds.count(True), kinds.count(False)) == (segments, eager)
    assert kinds == [index % 2 == 0 for index in range(len(kinds))]


def test_a_growing_cache_keeps_what_a_ring_keeps():
    k = torch.arange(40.0).reshape(1, 40, 1, 1)
    static = AttentionCache(torch.zeros(1, 20, 1, 1), torch.zeros(1, 20, 1, 1), SINKS, WINDOW)
    cache = GrowingCache(static)
    cache.store(k[:, :18], -k[:, :18])
    for position in range(18, 40):
        keys, values = cache.append(k[:, position], -k[:, position])
        last = range(max(SINKS, position + 1 - WINDOW), position + 1)
        assert keys.flatten().tolist() == [*range(SINKS), *last] if position >= 20 else [*range(position + 1)]
        assert torch.equal(values, -keys)


def test_a_held_cache_sees_its_token_and_forgets_it():
    static = AttentionCache(torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 3, 5))
    cache = GrowingCache(static, held=True)
    generator = torch.Generator().manual_seed(0)
    for tokens in (7, 0, 3):
        cache.reach(tokens, generator)
        for _ in range(2):
            keys, values = cache.append(torch.ones(2, 3, 4), torch.ones(2, 3, 5))
            assert (keys.shape, values.shape) == ((2, tokens + 1, 3, 4), (2, tokens + 1, 3, 5))
            assert bool((keys[:, -1] == 1).all())
        assert [x.shape[2] for x in cache.tensors()["kv"]] == [tokens, tokens]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_naive_kernel_is_verified_like_any_other(dtype):
    problem = Problem("cpu", dtype, head_dim=72, v_head_dim=128, n_heads=16, n_kv_heads=4)
    check = verify(backends("attention_decode")["naive"], problem, device="cpu", seed=0)
    assert check.error < check.bound
