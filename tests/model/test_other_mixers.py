"""Mamba-1, Mamba-3, gated delta net, KDA and lightning attention as modules: transformers' own classes with the same
weights give the same numbers, for Mamba-3 (which it lacks) the public module's step written out, prefill and decode
continue each other in float64, and weights start as the public code has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from variants import VARIANTS, small

from hybridbench.arch.block import Storage
from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.kda import Kda
from hybridbench.arch.blocks.lightning import Lightning
from hybridbench.arch.blocks.mamba1 import Mamba1
from hybridbench.arch.blocks.mamba3 import Mamba3
from hybridbench.arch.families import MAMBA2, Options, build_spec, pattern_spec
from hybridbench.arch.kinds import KINDS as ROWS
from hybridbench.arch.kinds import MIXERS
from hybridbench.arch.model import ModelSpec, cache_bytes, params
from hybridbench.arch.presets import preset_spec
from hybridbench.kernels import reference_of
from hybridbench.model.block import Factory, Step
from hybridbench.model.build import check_buildable
from hybridbench.model.delta import DeltaModule
from hybridbench.model.kinds import STEPS
from hybridbench.model.lightning import LightningModule
from hybridbench.model.mamba1 import Mamba1Module
from hybridbench.model.mamba3 import Mamba3Module
from hybridbench.model.mixer import MixerModule
from hybridbench.model.step import fused, ruled_out_by, step_problem
from hybridbench.suite.case import GRAPH, Case, Execution
from hybridbench.suite.ops import block_ops
from hybridbench.suite.workloads import DECODE, Workload

D, T = 32, 21
OTHERS = [name for name in MIXERS if name != MAMBA2]
BLOCKS = {row.mixer: row.spec for row in ROWS if row.mixer}
KINDS = [name for name in VARIANTS if any(other in name for other in (*OTHERS, "lent"))]


def made(cls: Callable[..., MixerModule], spec: Any, norm_eps: float = 1e-5, **place: Any) -> MixerModule:
    """A mixer in float32 with random weights, its initialisation last."""
    ops = {op: reference_of(op) for ops in block_ops(spec) for op in ops}
    mixer = cls(spec, ops, Factory(torch.float32, norm_eps=norm_eps, **place))
    mixer.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in mixer.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=0.2, generator=generator)
    mixer.reset(generator)
    with torch.no_grad():
        for parameter in mixer.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) / 10)
    return mixer


def copied(theirs: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Their module with our weights; every parameter of theirs must be given."""
    state = {name: weight.detach().reshape(theirs.state_dict()[name].shape) for name, weight in weights.items()}
    theirs.load_state_dict(state, strict=True)
    return theirs.eval()


def both(ours: MixerModule, theirs: nn.Module) -> None:
    """The same output over a sequence."""
    x = torch.randn(2, T, D, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs(x), ours(x, Step(torch.arange(T)))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_mamba1_is_transformers_own() -> None:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    ours = made(Mamba1Module, Mamba1(D, 64, 5, d_state=8))
    config = MambaConfig(hidden_size=D, state_size=8, expand=2, time_step_rank=5, num_hidden_layers=1)
    weights = {
        "A_log": ours.A_log_IN, "D": ours.D_I, "conv1d.weight": ours.conv_weight_CW, "conv1d.bias": ours.conv_bias_C,
        "in_proj.weight": ours.in_proj.weight, "x_proj.weight": ours.x_proj.weight,
        "out_proj.weight": ours.out_proj.weight, "dt_proj.weight": ours.dt_weight_IR, "dt_proj.bias": ours.dt_bias_I,
    }  # fmt: skip
    both(ours, copied(MambaMixer(config, 0), weights))


@pytest.mark.parametrize("groups", [1, 2])
def test_mamba3_is_the_public_modules_step_token_by_token(groups: int) -> None:
    """``Mamba3.step`` of mamba_ssm 2.3.2 without MIMO, its rotation as the matrix it is."""
    H, P, N, R = 4, 8, 12, 3
    ours = made(Mamba3Module, Mamba3(D, H * P, P, N, groups, n_angles=R, chunk_size=8), norm_eps=1e-5)
    with torch.no_grad():
        for bias in (ours.B_bias_HN, ours.C_bias_HN):
            bias.add_(torch.randn(H, N, generator=torch.Generator().manual_seed(2)))
    x_BTD = torch.randn(2, T, D, generator=torch.Generator().manual_seed(1))

    def normed(v: Tensor, weight: Tensor) -> Tensor:
        v = v.reshape(2, groups, N)
        return (v / (v.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight).repeat_interleave(H // groups, 1)

    angle, h = torch.zeros(2, H, R), torch.zeros(2, H, P, N)
    k_last, x_last, rows = torch.zeros(2, H, N), torch.zeros(2, H, P), []
    with torch.no_grad():
        for t in range(T):
            packed = ours.in_proj.weight @ x_BTD[:, t].T
            sizes = [H * P, H * P, groups * N, groups * N, H, H, H, R]
            z, x, B, C, dd_dt, dd_A, trap, angles = (v.T for v in packed.split(sizes))
            dt = torch.log1p(torch.exp(dd_dt + ours.dt_bias_H))
            A, share = -torch.log1p(torch.exp(dd_A)), 1 / (1 + torch.exp(-trap))
            angle = angle + torch.tanh(angles)[:, None] * dt[..., None] * math.pi
            turn = torch.eye(N).repeat(2, H, 1, 1)
            for i in range(R):
                turn[..., 2 * i, 2 * i] = turn[..., 2 * i + 1, 2 * i + 1] = angle[..., i].cos()
                turn[..., 2 * i + 1, 2 * i] = angle[..., i].sin()
                turn[..., 2 * i, 2 * i + 1] = -angle[..., i].sin()
            k, q = (
                (turn @ (normed(v, weight) + bias)[..., None])[..., 0]
                for v, weight, bias in (
                    (B, ours.B_norm_weight_N, ours.B_bias_HN),
                    (C, ours.C_norm_weight_N, ours.C_bias_HN),
                )
            )
            x, z = x.reshape(2, H, P), z.reshape(2, H, P)
            alpha = torch.exp(A * dt)
            beta, gamma = alpha * dt * (1 - share), share * dt
            h = alpha[..., None, None] * h + torch.einsum("bh,bhp,bhn->bhpn", beta, x_last, k_last)
            h = h + torch.einsum("bh,bhp,bhn->bhpn", gamma, x, k)
            y = (torch.einsum("bhpn,bhn->bhp", h, q) + ours.D_H[:, None] * x) * z * torch.sigmoid(z)
            rows.append(y.reshape(2, H * P) @ ours.out_proj.weight.T)
            k_last, x_last = k, x
        found = ours(x_BTD, Step(torch.arange(T)))
    torch.testing.assert_close(found, torch.stack(rows, 1), rtol=1e-4, atol=1e-5)


def test_gated_delta_net_is_qwens() -> None:
    """Qwen3-Next interleaves its projection by key head; ours has q, k, v, gate, decay and beta one after the other."""
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    H, G, P, V = 4, 2, 8, 12
    ours = made(DeltaModule, GatedDelta(D, H, G, P, V), norm_eps=1e-6)
    config = Qwen3NextConfig(
        hidden_size=D, linear_num_value_heads=H, linear_num_key_heads=G, linear_key_head_dim=P,
        linear_value_head_dim=V, num_hidden_layers=1, rms_norm_eps=1e-6, layer_types=["linear_attention"],
    )  # fmt: skip
    q, k, v, gate, decay, beta = ours.in_proj.weight.split([G * P, G * P, H * V, H * V, H, H])
    by_group = [x.unflatten(0, (G, -1)) for x in (q, k, v, gate)]
    weights = {
        "in_proj_qkvz.weight": torch.cat(by_group, 1).flatten(0, 1),
        "in_proj_ba.weight": torch.cat([x.unflatten(0, (G, -1)) for x in (beta, decay)], 1).flatten(0, 1),
        "conv1d.weight": ours.conv_weight_CW, "A_log": ours.A_log_H, "dt_bias": ours.dt_bias,
        "norm.weight": ours.norm_weight_V, "out_proj.weight": ours.out_proj.weight,
    }  # fmt: skip
    both(ours, copied(Qwen3NextGatedDeltaNet(config, 0), weights))


def test_kimi_delta_attention_is_kimi_linears() -> None:
    from transformers import KimiLinearConfig
    from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention

    H, P = 3, 8
    ours = made(DeltaModule, Kda(D, H, P), norm_eps=1e-6)
    config = KimiLinearConfig(
        hidden_size=D, linear_num_heads=H, linear_head_dim=P, linear_conv_kernel_dim=4, num_hidden_layers=1,
        rms_norm_eps=1e-6, layer_types=["linear_attention"],
    )  # fmt: skip
    q, k, v, gate, decay, beta = ours.in_proj.weight.split([H * P] * 3 + [P, P, H])
    weights = {
        "q_proj.weight": q, "k_proj.weight": k, "v_proj.weight": v, "b_proj.weight": beta,
        "g_a_proj.weight": gate, "g_b_proj.weight": ours.gate_proj.weight,
        "forget_gate.f_a_proj.weight": decay, "forget_gate.f_b_proj.weight": ours.decay_proj.weight,
        "forget_gate.A_log": ours.A_log_H, "forget_gate.dt_bias": ours.dt_bias,
        "conv1d.weight": ours.conv_weight_CW, "o_norm.weight": ours.norm_weight_V,
        "o_proj.weight": ours.out_proj.weight,
    }  # fmt: skip
    both(ours, copied(KimiLinearDeltaAttention(config, 0), weights))


@pytest.mark.parametrize(("pattern", "index", "layer", "layers"), [
    ("L", 0, 0, 1), ("L-*-L-L", 4, 2, 4), ("LL-*-L", 5, 3, 4), ("M(*&L)-L-E", 1, 1, 3),
])  # fmt: skip
def test_lightning_attention_is_minimaxs_wherever_it_stands(pattern: str, index: int, layer: int, layers: int) -> None:
    """A sequence, then tokens one by one behind it. MiniMax interleaves q, k and v by head."""
    from transformers import MiniMaxConfig
    from transformers.models.minimax.modeling_minimax import MiniMaxCache, MiniMaxLightningAttention

    H, P, first = 3, 8, 13
    model = pattern_spec(pattern, "tiny")
    place = {"layers": tuple(model.blocks[symbol] for symbol in model.layers), "index": index}
    ours = made(LightningModule, Lightning(D, H, P, chunk_size=8), norm_eps=1e-6, **place)
    config = MiniMaxConfig(
        hidden_size=D, num_attention_heads=H, num_key_value_heads=H, head_dim=P, num_hidden_layers=layers,
        rms_norm_eps=1e-6, block_size=4, layer_types=["linear_attention"] * layers,
    )  # fmt: skip
    theirs = MiniMaxLightningAttention(config, layer)
    q, k, v, gate = ours.in_proj.weight.split([H * P] * 4)
    weights = {
        "qkv_proj.weight": torch.stack([x.unflatten(0, (H, P)) for x in (q, k, v)], 1).flatten(0, 2),
        "output_gate.weight": gate, "norm.weight": ours.norm_weight_I, "out_proj.weight": ours.out_proj.weight,
    }  # fmt: skip
    copied(theirs, weights | dict(theirs.named_buffers()))
    x = torch.randn(2, T, D, generator=torch.Generator().manual_seed(1))
    cache, kept = ours.new_cache(2, T, Storage.of("float32"), x.device), MiniMaxCache()
    with torch.no_grad():
        whole = theirs(x, None, None)[0]
        torch.testing.assert_close(ours(x, Step(torch.arange(T))), whole, rtol=1e-4, atol=1e-5)
        found = [ours(x[:, :first], Step(torch.arange(first)), cache)]
        expected = [theirs(x[:, :first], None, None, kept)[0]]
        for t in range(first, T):
            found.append(ours.decode(x[:, t], Step(torch.full((2,), t)), cache)[:, None])
            expected.append(theirs(x[:, t : t + 1], None, None, kept)[0])
        torch.testing.assert_close(torch.cat(found, 1), torch.cat(expected, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cache.compared()["state"], kept.get_linear_cache(layer), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    ["no attention", *(pytest.param(name, marks=[pytest.mark.slow] if "inter" in name else []) for name in KINDS)],
)
@pytest.mark.sampled
def test_prefill_then_decode_is_one_forward_in_float64(name: str, build: Callable[..., Any]) -> None:
    """Rotary angles are float32 whatever the dtype, so with attention equal means equal to eight digits."""
    spec = VARIANTS[name] if name in VARIANTS else small(pattern_spec("m-3-G-K-L-(m&3)-(L&K)-", "tiny"))
    bound = 1e-7 if name in VARIANTS else 1e-12
    model = build(spec, dtype="float64").double()
    tokens = torch.randint(spec.vocab_size, (2, 27), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(tokens)
        for prompt in (1, 3, 17):
            caches = model.new_caches(2, 27, Storage.of("float64"))
            logits = [model.prefill(tokens[:, :prompt], caches)]
            for position in range(prompt, 27):
                logits.append(model.decode(tokens[:, position], torch.full((2,), position), caches))
            wanted = expected[:, prompt - 1 :]
            assert float((torch.stack(logits, 1) - wanted).norm() / wanted.norm()) < bound


@pytest.mark.parametrize("state", [None, "float32"])
@pytest.mark.parametrize("mixer", OTHERS)
def test_a_cache_in_bfloat16_has_the_bytes_that_are_costed(
    mixer: str, state: str | None, build: Callable[..., Any]
) -> None:
    spec, storage = VARIANTS[f"inter {mixer}"], Storage.of("bfloat16", state)
    caches = build(spec, dtype="bfloat16").new_caches(3, 40, storage)
    held = {"kv": 0, "ssm": 0, "conv": 0}
    for kind, tensor in ((k, t) for c in caches if c is not None for k, ts in c.tensors().items() for t in ts):
        held[kind] += tensor.nbytes
    costed = cache_bytes(spec, 40, storage)
    assert held == {kind: 3 * getattr(costed, kind) for kind in held}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_start_as_in_the_public_code(dtype: str, build: Callable[..., Any]) -> None:
    model = build(pattern_spec("m-G-K-*-3-L-", "tiny"), dtype=dtype).requires_grad_(False)
    mamba1, gated, kimi, mamba3, lightning = (model.layers[index] for index in (0, 2, 4, 8, 10))
    assert mamba1.A_log_IN.dtype == mamba1.D_I.dtype == gated.A_log_H.dtype == kimi.dt_bias.dtype == torch.float32
    torch.testing.assert_close(mamba1.A_log_IN.exp()[3], torch.arange(1.0, 17.0))
    assert bool((mamba1.D_I == 1).all())
    assert 0.8 < float(mamba1.dt_weight_IR.float().abs().max()) * 8**0.5 <= 1.01
    biases = (mamba1.dt_bias_I, gated.dt_bias, kimi.dt_bias, mamba3.dt_bias_H)
    steps = [torch.nn.functional.softplus(x.float().flatten()) for x in biases]
    assert all(float(step.min()) > 9e-4 and float(step.max()) < 0.102 for step in steps)
    assert float(steps[2].min()) < 0.003
    assert 0 < float(gated.A_log_H.exp().min()) < float(gated.A_log_H.exp().max()) <= 16
    assert float(kimi.A_log_H.exp().min()) >= 1
    ones = (mamba3.B_norm_weight_N, mamba3.C_norm_weight_N, mamba3.B_bias_HN, mamba3.C_bias_HN, mamba3.D_H)
    assert all(bool((vector == 1).all()) for vector in ones)
    assert (
        mamba3.dt_bias_H.dtype == mamba3.B_bias_HN.dtype == mamba3.C_bias_HN.dtype == mamba3.D_H.dtype == torch.float32
    )
    for module in (mamba1, gated, kimi):
        assert 0.45 < float(module.conv_weight_CW.float().abs().max()) <= 0.5
    assert lightning.log_decay_H.dtype == torch.float32
    assert bool((lightning.norm_weight_I == 1).all())
    for module in (mamba1, gated, kimi, mamba3, lightning):
        assert 0.015 < float(module.in_proj.weight.float().std()) < 0.025


def test_a_published_model_of_these_blocks_can_be_built() -> None:
    check_buildable(preset_spec("mamba-130m"))


def variant_of(arch: str, mixer: str) -> ModelSpec:
    return build_spec(arch, "1b", Options(mixer=mixer))


def refused(spec: ModelSpec) -> str | None:
    case = Case(spec, Workload(DECODE, 4096, 4), Execution("cuda", "bfloat16", GRAPH))
    return fused.unsupported(step_problem(case)) or ruled_out_by(case)


@pytest.mark.parametrize("mixer", OTHERS)
@pytest.mark.parametrize("arch", ["mamba", "inter", "intra"])
def test_the_fused_step_takes_a_mixer_with_a_row_and_no_other(arch: str, mixer: str) -> None:
    for scale in ("100m", "1b", "3b"):
        reason = refused(build_spec(arch, scale, Options(mixer=mixer)))
        block = BLOCKS[mixer]
        if block in STEPS:
            assert reason is None
        else:
            assert f"no kernels for a block of kind {block.kind}" in str(reason)


def test_the_fused_step_says_what_it_cannot_hold() -> None:
    spec = build_spec("mamba", "1b", Options(mixer="gated-delta"))
    block = spec.blocks["G"]
    wide, odd = (replace(spec, blocks={**spec.blocks, "G": replace(block, **sizes)}) for sizes in (
        {"k_head_dim": 1024, "v_head_dim": 256}, {"n_heads": 1, "n_k_heads": 1, "v_head_dim": 100},
    ))  # fmt: skip
    assert "1024 x 64 is too large" in str(refused(wide))
    assert "one is 100" in str(refused(odd))
    spec = build_spec("mamba", "1b", Options(mixer="rwkv7"))
    ranked = replace(spec, blocks={**spec.blocks, "7": replace(spec.blocks["7"], gate_rank=544)})
    assert "up to 512 columns, and one has 544" in str(refused(ranked))
    assert "of a mixer with attention only" in str(refused(build_spec("intra", "1b", Options(recipe="diff-mamba"))))


def test_a_mixer_changes_the_number_of_blocks_and_not_the_parameters() -> None:
    wanted = params(build_spec("transformer", "1b"))
    for arch in ("mamba", "inter", "intra"):
        for mixer in OTHERS:
            spec = variant_of(arch, mixer)
            assert abs(params(spec) / wanted - 1) < 0.04, spec.label
            assert spec.label.startswith(mixer if arch == "mamba" else f"{arch} {mixer} ")
    assert build_spec("inter", "1b", Options(mixer=MAMBA2)) == build_spec("inter", "1b")
