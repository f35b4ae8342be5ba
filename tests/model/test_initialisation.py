"""Mamba-2 starts as the paper says, rotary embedding turns as Llama's does, and a training step learns."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hybridbench.arch.families import build_spec
from hybridbench.arch.rope import LLAMA_ROPE, Rope
from hybridbench.model.mamba2 import Mamba2Module
from hybridbench.model.moe import MoeModule
from hybridbench.model.rotary import frequencies, rotate, rotation
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import TRAIN, Workload
from hybridbench.workload import prepare


def mamba_modules(model):
    return [module for module in model.modules() if isinstance(module, Mamba2Module)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mamba_initialisation_survives_building(build, dtype):
    modules = mamba_modules(build(build_spec("mamba", "tiny"), dtype=dtype))
    assert len(modules) == 6
    a = torch.cat([module.A_log_H.exp() for module in modules])
    dt = torch.cat([F.softplus(module.dt_bias_H) for module in modules])
    assert a.dtype == dt.dtype == torch.float32
    assert 0.01 <= a.min() < 0.5
    assert 1.5 < a.max() <= 2.0
    assert 0.9e-3 < dt.min() < 0.01
    assert 0.03 < dt.max() < 0.101
    assert a.unique().numel() == a.numel(), "every head draws its own A"
    assert all(bool((module.D_H == 1).all()) for module in modules)


def test_a_seed_decides_everything(build):
    spec = build_spec("intra", "tiny")
    first, same, other = build(spec, seed=3), build(spec, seed=3), build(spec, seed=4)
    for one, two, three in zip(first.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        assert one.numel() == 1 or torch.equal(one, torch.ones_like(one)) or not torch.equal(one, three)


def test_frequencies_are_llama_3s():
    # Llama 3.1's own reference, written out with its branches (arXiv 2407.21783's release, apply_scaling).
    plain = [500_000.0 ** -(i / 64) for i in range(0, 64, 2)]
    expected = []
    for frequency in plain:
        wavelength = 2 * math.pi / frequency
        if wavelength < 8192 / 4.0:
            expected.append(frequency)
        elif wavelength > 8192 / 1.0:
            expected.append(frequency / 32)
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            expected.append((1 - smooth) * frequency / 32 + smooth * frequency)
    found = frequencies(LLAMA_ROPE, 64, torch.device("cpu"))
    assert torch.allclose(found, torch.tensor(expected), rtol=1e-5)


def test_rotation_depends_on_distance_only():
    rope = Rope(theta=10_000.0, factor=1.0)
    q, k = torch.randn(2, 1, 8)
    scores = [
        (rotate(q, rotation(rope, 8, torch.tensor([s]))) * rotate(k, rotation(rope, 8, torch.tensor([s + 5])))).sum()
        for s in (0, 1, 40)
    ]
    assert torch.allclose(torch.stack(scores), scores[0].expand(3), atol=1e-5)
    assert not torch.allclose(rotate(q, rotation(rope, 8, torch.tensor([1]))), q)


@pytest.mark.parametrize(
    "arch",
    ["transformer", "mamba", "intra", *(pytest.param(arch, marks=pytest.mark.slow) for arch in ("swa", "inter"))],
)
@pytest.mark.sampled
def test_training_steps_lower_the_loss_of_a_repeated_batch(build, arch):
    spec = build_spec(arch, "tiny")
    case = Case(spec, Workload(TRAIN, 48, 1), Execution("cpu", "float32", "eager"))
    model = build(spec)
    model.ops["linear_cross_entropy"] = lambda hidden, weight, target: F.cross_entropy(hidden @ weight.T, target)
    model.ops["adamw"] = torch.optim.AdamW
    work = prepare(case, model)
    work.step()
    first = work.loss()
    assert abs(first - math.log(spec.vocab_size)) < 0.5, "a fresh model guesses uniformly"
    for _ in range(23):  # six rounds of the four batches a step rotates through
        work.step()
    assert work.loss() < first - 0.5
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_expert_biases_move_towards_balance(build):
    module = next(m for m in build(_moe_spec()).modules() if isinstance(m, MoeModule))
    module.train()
    module.load_E.copy_(torch.tensor([10.0, 0, 0, 0, 0, 0, 0, 0]))
    module.balance()
    assert torch.allclose(module.bias_E, torch.tensor([-1e-3] + [1e-3] * 7))
    assert not module.load_E.any()


def _moe_spec():
    from hybridbench.arch.families import Options

    return build_spec("transformer", "tiny", Options(moe=True))
