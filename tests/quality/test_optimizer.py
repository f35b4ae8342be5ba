"""The optimizer is torch's AdamW with clipping, in float32; weights in bfloat16 are roundings of its masters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hybridbench.arch.families import build_spec
from hybridbench.kernels.optimizer.adamw import load_torch
from hybridbench.model.build import build_model, resolve_backends
from hybridbench.quality.training.optimizer import MasterAdamW, decays
from hybridbench.quality.training.recipe import LearnRecipe
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import Workload

RECIPE = LearnRecipe(1e-2, weight_decay=0.3, clip=0.5)
NAMED = {"a.weight": (7, 5), "embedding_VD": (11, 3), "norm_weight_I": (9,), "conv_weight_CW": (6, 4), "A_log_H": (3,)}
DECAYED = ("a.weight", "embedding_VD")


def weights(dtype: torch.dtype) -> dict[str, nn.Parameter]:
    draw = torch.Generator().manual_seed(1)
    return {name: nn.Parameter(torch.randn(shape, generator=draw).to(dtype)) for name, shape in NAMED.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_those_of_torch_in_float32(dtype: torch.dtype) -> None:
    ours = weights(dtype)
    theirs = {name: nn.Parameter(one.detach().float().clone()) for name, one in ours.items()}
    groups = [
        {"params": [theirs[name] for name in theirs if (name in DECAYED) == decayed], "weight_decay": 0.3 * decayed}
        for decayed in (True, False)
    ]
    reference = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95))
    optimizer = MasterAdamW(ours.items(), load_torch(), RECIPE)
    draw = torch.Generator().manual_seed(2)
    for step in range(6):
        rate = 1e-2 * (step + 1)
        for name, one in ours.items():
            gradient = torch.randn(one.shape, generator=draw).to(dtype)
            one.grad, theirs[name].grad = gradient, gradient.float().clone()
        due = nn.utils.clip_grad_norm_(theirs.values(), 0.5)
        for group in reference.param_groups:
            group["lr"] = rate
        reference.step()
        norm = optimizer.gather()
        optimizer.update(rate)
        torch.testing.assert_close(norm, due)
        for name, one in ours.items():
            exact = theirs[name].detach()
            torch.testing.assert_close(one.detach().float(), exact.to(dtype).float(), rtol=1e-2, atol=1e-5)
            assert one.grad is None
    masters = [tensor for name, tensor in optimizer.tensors().items() if name.endswith("master")]
    held = torch.cat([tensor[tensor != 0] for tensor in masters]).sort().values
    due_all = torch.cat([one.detach().flatten() for one in theirs.values()]).sort().values
    torch.testing.assert_close(held, due_all, rtol=1e-5, atol=1e-6)


def test_small_updates_are_not_lost_in_bfloat16() -> None:
    weight = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    optimizer = MasterAdamW([("a.weight", weight)], load_torch(), LearnRecipe(1e-3, weight_decay=0.0))
    for _ in range(20):
        weight.grad = torch.ones_like(weight)
        optimizer.gather()
        optimizer.update(1e-3)
    assert float(weight.detach().float().mean()) == pytest.approx(0.98, abs=0.005)


def test_bytes_are_those_predicted() -> None:
    from hybridbench.quality.training.predicted import GRADIENT_BYTES, MASTER_BYTES, MOMENT_BYTES

    for dtype, master in ((torch.bfloat16, MASTER_BYTES), (torch.float32, 0)):
        weight = nn.Parameter(torch.ones(64, 64, dtype=dtype))
        optimizer = MasterAdamW([("a.weight", weight)], load_torch(), RECIPE)
        weight.grad = torch.ones_like(weight)
        optimizer.gather()
        optimizer.update(1e-3)
        assert optimizer.nbytes == 64 * 64 * (master + MOMENT_BYTES + GRADIENT_BYTES)


@pytest.mark.parametrize("arch", ["transformer", "mamba", "intra"])
def test_only_matrices_of_products_and_the_embedding_decay(arch: str) -> None:
    case = Case(build_spec(arch, "toy"), Workload("train", 32, 1), Execution("cpu", "float32", "eager"))
    model = build_model(case, resolve_backends(case))
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert {name for name, one in model.named_parameters() if decays(name, one)} == {*linear, "embedding_VD"}


def test_the_schedule_is_a_trapezoid() -> None:
    recipe = LearnRecipe(2.0)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[:25] == pytest.approx([2.0 * (step + 1) / 25 for step in range(25)])
    assert set(rates[24:81]) == {2.0}
    assert rates[80:] == pytest.approx([2.0 * (100 - step) / 20 for step in range(80, 100)])
    assert all(0 < LearnRecipe(1.0).rate(0, steps) <= 1 for steps in range(1, 10))
