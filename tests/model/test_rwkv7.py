"""RWKV-7's layers against the paper's equations written out token by token, alone and beside attention."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridbench.arch.block import Storage
from hybridbench.arch.blocks.rwkv7 import Rwkv7
from hybridbench.arch.families import Options, build_spec, pattern_spec
from hybridbench.arch.model import ModelSpec, params
from hybridbench.kernels import backends
from hybridbench.model.block import Factory, Step
from hybridbench.model.build import build_model, parameter_count, resolve_backends
from hybridbench.model.cache import RecurrentCache
from hybridbench.model.rwkv7 import Rwkv7Module
from hybridbench.predict.memory import prefill_memory, train_memory
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import GENERATE, Workload

B, T, D, H, P = 2, 11, 24, 3, 16
CPU = torch.device("cpu")
LATER = Rwkv7(D, H, P, decay_rank=5, rate_rank=6, value_rank=7, gate_rank=9, chunk_size=16)
FIRST = replace(LATER, value_rank=0)
LENT = "first value of 48 channels"


def made(spec: Rwkv7, **branch: Any) -> Rwkv7Module:
    ops = {op: backends(op)["reference"].load() for op in (*spec.sequence_ops, *spec.step_ops)}
    make = Factory(torch.float64, CPU, layers=(FIRST, LATER, LATER), index=1)
    module = Rwkv7Module(spec, ops, make, **branch)
    with torch.no_grad():
        module.initialise(torch.Generator().manual_seed(3))
        for parameter in module.parameters():  # no two terms alike, and none 0
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=torch.float64))
    return module


def a_step(tokens: int, left: Tensor | None = None) -> Step:
    return Step(torch.arange(tokens), shared={} if left is None else {LENT: left})


def drawn(*sizes: int) -> Tensor:
    return torch.randn(*sizes, dtype=torch.float64)


def by_the_paper(
    m: Rwkv7Module, x_TD: Tensor, first_TI: Tensor | None, lent_TI: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One sequence through one layer, a token after the other and a head after the other (equations 3 to 25); its
    output before the projection, and its value before the residual.
    """
    I = H * P  # noqa: E741
    names = "rkwag" if lent_TI is not None and first_TI is None else "rkvwag"
    share = dict(zip(names, m.share_LD, strict=True))
    W_r, W_k, *W_v = m.in_proj.weight.split(I)

    def low(x: Tensor, down: Any, up: Any, base: Tensor | None = None, inside: Any = lambda y: y) -> Tensor:
        y = up.weight @ inside(down.weight @ x)
        return y if base is None else base + y

    before, state, outputs, values = torch.zeros(D, dtype=x_TD.dtype), [torch.zeros(P, P, dtype=x_TD.dtype)] * H, [], []
    for t, x in enumerate(x_TD):
        mixed = {name: x + (before - x) * share[name] for name in names}
        r, k = W_r @ mixed["r"], W_k @ mixed["k"]
        own = lent_TI[t] if lent_TI is not None else W_v[0] @ mixed["v"]
        w = torch.exp(-math.exp(-0.5) * torch.sigmoid(low(mixed["w"], m.decay_down, m.decay_up, m.decay_I, torch.tanh)))
        a = torch.sigmoid(low(mixed["a"], m.rate_down, m.rate_up, m.rate_I))
        g = low(mixed["g"], m.gate_down, m.gate_up, inside=torch.sigmoid)
        v = own
        if first_TI is not None:
            v = own + (first_TI[t] - own) * torch.sigmoid(low(mixed["v"], m.value_down, m.value_up, m.value_I))
        removal, added = k * m.removal_I, k * (1 + (a - 1) * m.added_I)
        whole = []
        for h in range(H):
            of = slice(h * P, (h + 1) * P)
            kk = removal[of] / removal[of].norm()
            state[h] = state[h] @ (torch.diag(w[of]) - torch.outer(kk, a[of] * kk)) + torch.outer(v[of], added[of])
            y = state[h] @ r[of]
            y = (y - y.mean()) / torch.sqrt(((y - y.mean()) ** 2).mean() + P * 1e-5)
            y = y * m.norm_weight_HV[h] + m.norm_bias_HV[h] + (r[of] * added[of] * m.bonus_HP[h]).sum() * v[of]
            whole.append(y * g[of])
        outputs.append(torch.cat(whole))
        values.append(own)
        before = x
    return torch.stack(outputs), torch.stack(values)


def test_two_layers_are_those_of_the_paper_with_their_value_residual() -> None:
    first, later, x_BTD, z_BTD = made(FIRST), made(LATER), drawn(B, T, D), drawn(B, T, D)
    step = a_step(T)
    found_first, found_later = first(x_BTD, step), later(z_BTD, step)
    assert list(step.shared) == [LENT]
    for row in range(B):
        mixed, value = by_the_paper(first, x_BTD[row], None)
        torch.testing.assert_close(found_first[row], mixed @ first.out_proj.weight.T)
        torch.testing.assert_close(step.shared[LENT][row], value)
        mixed, _ = by_the_paper(later, z_BTD[row], value)
        torch.testing.assert_close(found_later[row], mixed @ later.out_proj.weight.T)


@pytest.mark.parametrize("spec", [FIRST, LATER], ids=["first", "later"])
def test_a_borrowed_value_stands_in_the_projection_s_place(spec: Rwkv7) -> None:
    """The residual goes on from it, and what is left for later layers is what was lent."""
    module, x_BTD, lent = made(spec, borrows_value=True, projects=False), drawn(B, T, D), drawn(B, T, H * P)
    left = drawn(B, T, H * P)
    step = a_step(T) if spec is FIRST else a_step(T, left=left)
    out, value = module.mix(x_BTD, step, None, lent)
    assert torch.equal(value, lent)
    for row in range(B):
        expected, _ = by_the_paper(module, x_BTD[row], None if spec is FIRST else left[row], lent[row])
        torch.testing.assert_close(out[row], expected)
    assert torch.equal(step.shared[LENT], lent if spec is FIRST else left)
    count = sum(parameter.numel() for parameter in module.parameters())
    assert count == spec.in_params("exact", borrows_value=True)


@torch.no_grad()
@pytest.mark.parametrize("columns", [None, 3], ids=["one column", "three"])
def test_prefill_in_pieces_and_steps_are_one_forward(columns: int | None) -> None:
    module, x_BTD, left = made(LATER), drawn(B, T, D), drawn(B, T, H * P)
    whole = module(x_BTD, a_step(T, left=left))
    cache = module.new_cache(B, T, Storage.of("float64"), CPU)
    assert isinstance(cache, RecurrentCache)
    if columns is not None:
        cache = replace(cache, conv_BCW=torch.zeros(B, D, columns, dtype=torch.float64))
    assert cache.conv_BCW.shape == (B, D, columns or 1)
    found = [module(x_BTD[:, :1], a_step(1, left=left[:, :1]), cache)]
    for start, stop in ((1, 3), (3, 7)):
        step = Step(torch.arange(start, stop), start, {LENT: left[:, start:stop]})
        found.append(module(x_BTD[:, start:stop], step, cache))
    for t in range(7, T):
        step = Step(torch.full((B,), t), shared={LENT: left[:, t]})
        found.append(module.decode(x_BTD[:, t], step, cache)[:, None])
    torch.testing.assert_close(torch.cat(found, 1), whole)
    torch.testing.assert_close(cache.conv_BCW[..., -1], x_BTD[:, -1])


def firsts(spec: ModelSpec) -> list[int]:
    """Ranks of the value residual, layer by layer."""
    return [m.value_rank for block in spec.placed for m in block.mixers if isinstance(m, Rwkv7)]


@pytest.mark.parametrize("arch", ["mamba", "inter", "intra"])
def test_parameters_of_a_model_are_those_of_its_first_layer_and_the_others(arch: str) -> None:
    spec = build_spec(arch, "tiny", Options(mixer="rwkv7"))
    case = Case(spec, Workload(GENERATE, 16, 1, 8), Execution("cpu", "float32", "eager"))
    model = build_model(case, resolve_backends(case))
    assert parameter_count(model) == params(spec)
    ranks = firsts(spec)
    # the branch of an intra block is narrower than the whole blocks, so both have a first
    assert ranks.count(0) == (2 if arch == "intra" else 1)
    assert set(ranks) == {0, 32}
    layers = [module for module in model.modules() if isinstance(module, Rwkv7Module)]
    assert [module.value_I is None for module in layers] == [not rank for rank in ranks]


def test_both_branches_of_a_first_block_lead() -> None:
    assert firsts(pattern_spec("(7&7)-7-(7&7)-", "tiny")) == [0, 0, 0, 32, 32]


def test_the_first_value_is_remembered_where_layers_are_checkpointed() -> None:
    spec, storage = build_spec("mamba", "1b", Options(mixer="rwkv7")), Storage.of("bfloat16")
    first, later = spec.placed[0], spec.placed[2]
    size = 2 * 4096
    made, lent = first.core_activations(2), later.core_activations(2)
    assert made is not None
    assert lent is not None
    assert [term.per_token for term in made.lent] == [size]
    assert lent.lent == ()
    for how in ("none", "selective", "full"):
        assert train_memory(spec, 8192, 1, storage, how).activations > size * 8192
    assert prefill_memory(spec, 8192, 4, storage).activations > 4 * size * 8192


def test_initial_values_are_finite_and_decays_slow_to_fast() -> None:
    module = made(LATER)
    with torch.no_grad():
        module.initialise(torch.Generator().manual_seed(0))
    module.requires_grad_(False)
    decay = torch.exp(-math.exp(-0.5) * torch.sigmoid(module.decay_I))
    assert float(decay.min()) > math.exp(-math.exp(-0.5))
    assert float(decay[0]) > float(decay[-1]), "channels from slow to fast"
    assert float(decay.max()) > 0.99
    assert bool(((module.share_LD >= 0) & (module.share_LD <= 1)).all())
    # RWKV-LM's own formulas for channel 7 of 24 of the second of three layers, and of 48 inner channels
    zig = (7 - 7.5) / 7.5
    zigzag, along = zig * abs(zig), 7 / 47
    assert float(module.share_LD[1, 7]) == pytest.approx(1 - (7 / 24) ** (0.7 * 2 / 3))
    assert float(module.decay_I[7]) == pytest.approx(-6 + 6 * along ** (1 + 0.5**0.3) + 0.5 + 2.5 * zigzag)
    assert float(module.rate_I[7]) == pytest.approx(-0.19 + 0.3 * zigzag + 0.4 * (along - 0.5))
    assert float(module.norm_weight_HV[0, 0]) == pytest.approx((2 / 3) ** 0.7)
