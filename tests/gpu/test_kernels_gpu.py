"""Every CUDA backend agrees with its reference at the head shapes of the real models, or refuses for a reason."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridbench.errors import Unsupported
from hybridbench.kernels import Backend, Problem, available, backends, reference_of, resolve, verify
from hybridbench.kernels.attention import reference as attention_reference
from hybridbench.kernels.scan import reference as scan_reference
from hybridbench.operations import OPERATIONS

KERNELS = {op: backends(op) for op, row in OPERATIONS.items() if row.inputs}
"""What runs each operation of tensors."""

ELEMENTWISE = ("swiglu", "add_rms_norm", "rotary", "gate", "head_norms")
"""Operations with a kernel of ours and no published one."""
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"),
    pytest.mark.timeout(1200),  # compiling FlexAttention and autotuning mamba_ssm take minutes the first time
    pytest.mark.filterwarnings("ignore"),  # what third parties warn about while compiling is theirs
]

HEADS: dict[str, dict[str, Any]] = {
    "transformer-1b": {"head_dim": 64, "n_heads": 32, "n_kv_heads": 8},
    "transformer-3b": {"head_dim": 96, "n_heads": 32, "n_kv_heads": 8},
    "intra-1b": {"head_dim": 72, "v_head_dim": 128, "n_heads": 16, "n_kv_heads": 4},
    "intra-3b": {"head_dim": 96, "v_head_dim": 192, "n_heads": 16, "n_kv_heads": 4},
}
SSM: dict[str, dict[str, int]] = {
    "mamba-1b": {"head_dim": 128, "n_heads": 32, "d_state": 128, "chunk_size": 256},
    "mamba-3b": {"head_dim": 192, "n_heads": 32, "d_state": 256, "chunk_size": 256},
    "odd-width": {"head_dim": 144, "n_heads": 16, "d_state": 128, "chunk_size": 256},
    "thin-slices": {"head_dim": 96, "n_heads": 16, "d_state": 128, "chunk_size": 256},
    "groups": {"head_dim": 64, "n_heads": 32, "d_state": 128, "chunk_size": 256, "n_groups": 8},
}
DELTA: dict[str, dict[str, int]] = {
    "gated-delta-1b": {"head_dim": 128, "n_heads": 32, "n_kv_heads": 16, "chunk_size": 64},
    "odd-width": {"head_dim": 72, "v_head_dim": 144, "n_heads": 6, "n_kv_heads": 3, "chunk_size": 64},
}
KDA: dict[str, dict[str, int]] = {
    "kda-1b": {"head_dim": 128, "n_heads": 32, "chunk_size": 64},
    "odd-width": {"head_dim": 96, "n_heads": 6, "chunk_size": 64},
}
LIGHTNING: dict[str, dict[str, int]] = {
    "lightning-1b": {"head_dim": 128, "n_heads": 32, "chunk_size": 64},
    "odd-width": {"head_dim": 96, "n_heads": 6, "chunk_size": 64},
    "minimax": {"head_dim": 128, "n_heads": 64, "chunk_size": 32},
}
RWKV7: dict[str, dict[str, int]] = {
    "rwkv7-1b": {"head_dim": 64, "n_heads": 64, "chunk_size": 64},
    "wide-heads": {"head_dim": 128, "n_heads": 8, "chunk_size": 64},
    "short-chunks": {"head_dim": 64, "n_heads": 6, "chunk_size": 16},
}
MAMBA3: dict[str, dict[str, int]] = {
    "mamba3-1b": {"head_dim": 128, "n_heads": 32, "d_state": 128, "n_angles": 32, "chunk_size": 64},
    "authors": {"head_dim": 64, "n_heads": 32, "d_state": 128, "n_angles": 32, "chunk_size": 64},
    "odd-width": {"head_dim": 96, "n_heads": 16, "d_state": 128, "n_angles": 32, "chunk_size": 64},
}
WIDTHS: dict[str, dict[str, int]] = {"2048": {"width": 2048}, "8192": {"width": 8192}, "odd": {"width": 2310}}
SHAPES: dict[str, dict[str, dict[str, int]]] = {
    "attention": HEADS
    | {
        "window": HEADS["transformer-1b"] | {"window": 512},
        "sinks": HEADS["transformer-1b"] | {"window": 512, "sinks": 64},
    },
    "attention_decode": HEADS,
    "ssd": SSM,
    "ssd_step": SSM,
    "conv1d": {"taps-4": {"d_conv": 4}},
    "conv1d_step": {"taps-4": {"d_conv": 4}},
    "mamba2_core": {name: sizes | {"d_conv": 4} for name, sizes in SSM.items()},
    "selective_scan": {"mamba1-1b": {"d_state": 16}, "wide": {"d_state": 64}},
    "selective_step": {"mamba1-1b": {"d_state": 16}},
    "mamba3_scan": MAMBA3,
    "mamba3_step": MAMBA3,
    "gated_delta": DELTA,
    "gated_delta_step": DELTA,
    "kda": KDA,
    "kda_step": KDA,
    **dict.fromkeys(("rwkv7", "rwkv7_step", "rwkv7_output"), RWKV7),
    "rwkv7_shift": {"1b": {"d_model": 2048}, "odd": {"d_model": 2310}},
    "rwkv7_keys": {"1b": {"head_dim": 64, "n_heads": 64}, "odd": {"head_dim": 72, "n_heads": 6}},
    "lightning": LIGHTNING,
    "lightning_step": LIGHTNING,
    "norm_gate": {
        "1b": {"head_dim": 128},
        "odd": {"head_dim": 72},
        "whole-1b": {"head_dim": 128, "n_heads": 32, "norm_width": 4096},
        "whole-odd": {"head_dim": 96, "n_heads": 66, "norm_width": 6336},
    },
    "product": {"mlp-1b": {"d_model": 2048, "width": 16384}, "odd": {"d_model": 72, "width": 100}},
    "swiglu": WIDTHS,
    "add_rms_norm": WIDTHS,
    "rotary": HEADS,
    "gate": WIDTHS,
    "head_norms": {"intra-1b": {"head_dim": 128, "v_head_dim": 128}, "odd": {"head_dim": 144, "v_head_dim": 72}},
    "experts": {"any": {}},
    "linear_cross_entropy": {"any": {}},
    "adamw": {"any": {}},
}
EQUAL_WIDTHS = {"sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "flex", "flash-attn", "flash-attn-4"}
MUST_RUN = {
    ("attention", "transformer-1b", "bfloat16"): {"sdpa-math", *EQUAL_WIDTHS},
    ("attention", "transformer-3b", "bfloat16"): EQUAL_WIDTHS,
    ("attention", "intra-1b", "bfloat16"): {"sdpa-math", "sdpa-efficient", "flex", "flash-attn"},
    ("attention", "intra-3b", "bfloat16"): {"sdpa-math", "sdpa-efficient"},
    ("attention", "window", "bfloat16"): {"sdpa-math", "sdpa-efficient", "flex", "flash-attn", "flash-attn-4"},
    ("attention", "sinks", "bfloat16"): {"sdpa-math", "sdpa-efficient", "flex"},
    ("attention_decode", "transformer-1b", "bfloat16"): {"sdpa-mask", "triton", "flash-attn"},
    ("attention_decode", "intra-1b", "bfloat16"): {"sdpa-mask", "triton"},
    ("attention_decode", "intra-3b", "bfloat16"): {"sdpa-mask", "triton"},
    ("ssd", "mamba-1b", "bfloat16"): {"mamba-ssm"},
    ("ssd", "odd-width", "bfloat16"): {"mamba-ssm"},
    ("ssd_step", "mamba-1b", "bfloat16"): {"mamba-ssm"},
    ("conv1d", "taps-4", "bfloat16"): {"causal-conv1d"},
    ("mamba2_core", "mamba-1b", "bfloat16"): {"fused", "one-pass", "mamba-ssm"},
    ("mamba2_core", "odd-width", "bfloat16"): {"fused", "mamba-ssm"},
    ("mamba2_core", "groups", "bfloat16"): {"fused", "one-pass"},
    ("mamba2_core", "thin-slices", "bfloat16"): {"fused", "one-pass"},
    **{("selective_scan", "mamba1-1b", dtype): {"mamba-ssm"} for dtype in ("bfloat16", "float32")},
    **{("selective_step", "mamba1-1b", dtype): {"mamba-ssm"} for dtype in ("bfloat16", "float32")},
    **{(op, shape, "bfloat16"): {"mamba-ssm"} for op in ("mamba3_scan", "mamba3_step") for shape in list(MAMBA3)[:2]},
    ("gated_delta", "gated-delta-1b", "bfloat16"): {"fla-kda"},
    ("gated_delta", "odd-width", "bfloat16"): {"fla-kda"},
    ("kda", "kda-1b", "bfloat16"): {"fla"},
    ("rwkv7", "rwkv7-1b", "bfloat16"): {"fla"},
    **{(op, "rwkv7-1b", dtype): {"fla"} for op in ("rwkv7_step", "rwkv7_output") for dtype in ("bfloat16", "float32")},
    **{
        (op, shape, dtype): {"triton"}
        for op in ("rwkv7_shift", "rwkv7_keys")
        for shape in ("1b", "odd")
        for dtype in ("bfloat16", "float32")
    },
    **{("gated_delta_step", "gated-delta-1b", dtype): {"triton", "fla"} for dtype in ("bfloat16", "float32")},
    **{("kda_step", "kda-1b", dtype): {"triton", "fla"} for dtype in ("bfloat16", "float32")},
    ("lightning", "lightning-1b", "bfloat16"): {"fla"},
    ("lightning", "odd-width", "bfloat16"): {"fla"},
    **{("lightning_step", "lightning-1b", dtype): {"fla"} for dtype in ("bfloat16", "float32")},
    **{
        ("norm_gate", shape, dtype): {"triton"}
        for shape in ("1b", "odd", "whole-1b", "whole-odd")
        for dtype in ("bfloat16", "float32")
    },
    **{(op, "odd", dtype): {"triton"} for op in ELEMENTWISE for dtype in ("bfloat16", "float32")},
    ("rotary", "intra-1b", "bfloat16"): {"triton"},
    ("experts", "any", "bfloat16"): {"grouped-mm"},
    ("linear_cross_entropy", "any", "bfloat16"): {"fused", "liger", "chunked"},
    **{("adamw", "any", dtype): {"torch", "triton"} for dtype in ("bfloat16", "float32")},
}


def cases() -> list[Any]:
    """Operations of a step only run without gradients, the others with; FlexAttention compiles for every length, so
    it is tried in float32 at one shape only.
    """
    return [
        pytest.param(
            backend,
            shape,
            Problem("cuda", dtype, training=op != "attention_decode" and not op.endswith("_step"), **sizes),
            id=f"{op}-{name}-{shape}-{dtype}",
        )
        for op, table in KERNELS.items()
        for name, backend in table.items()
        for shape, sizes in SHAPES[op].items()
        for dtype in ("bfloat16", "float32")
        if not (name == "flex" and dtype == "float32" and shape != "transformer-1b")
    ]


@pytest.mark.parametrize(("backend", "shape", "problem"), cases())
def test_a_backend_is_right_or_says_why_not(backend: Backend, shape: str, problem: Problem) -> None:
    reason = available(backend, problem)
    if reason is None:
        check = verify(backend, problem, device="cuda", seed=0)
        assert check.error <= check.bound
        return
    if backend.version is not None:  # a package that is here must do what it is counted on for
        assert backend.name not in MUST_RUN.get((backend.op, shape, problem.dtype), set()), reason
    with pytest.raises(Unsupported):
        resolve(backend.op, backend.name, problem)
    pytest.skip(reason)


def test_flash_attn_4_takes_unequal_widths_of_grouped_heads_forward() -> None:
    backend, problem = backends("attention")["flash-attn-4"], Problem("cuda", "bfloat16", **HEADS["intra-1b"])
    if reason := available(backend, problem):
        pytest.skip(reason)
    check = verify(backend, problem, device="cuda", seed=0)
    assert check.error <= check.bound


def error(found: Tensor, expected: Tensor) -> float:
    assert found.isfinite().all()
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("name", [name for name in backends("attention") if name != "reference"])
@pytest.mark.parametrize("shape", ["transformer-1b", "intra-1b", "window", "sinks"])
def test_long_attention(name: str, shape: str) -> None:
    sizes = SHAPES["attention"][shape]
    problem = Problem("cuda", "bfloat16", length=4096, training=True, **sizes)
    if reason := available(backends("attention")[name], problem):
        pytest.skip(reason)
    torch.manual_seed(0)
    window, sinks = problem.window, problem.sinks
    q, k, v = (
        torch.randn(1, 4096, heads, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for heads, width in (
            (problem.n_heads, problem.head_dim),
            (problem.kv_heads, problem.head_dim),
            (problem.kv_heads, problem.value_dim),
        )
    )
    out = backends("attention")[name].load()(q, k, v, window=window, sinks=sinks)
    expected = attention_reference.attention(q.float(), k.float(), v.float(), window=window, sinks=sinks)
    assert error(out, expected) < 1e-2
    upstream = torch.randn_like(out)
    mine = torch.autograd.grad(out, (q, k, v), upstream)
    theirs = torch.autograd.grad(expected, (q, k, v), upstream.float())
    for a, b in zip(mine, theirs, strict=True):
        assert error(a, b) < 2e-2


@pytest.mark.parametrize("shape", SSM)
def test_long_ssd(shape: str) -> None:
    sizes = SSM[shape]
    problem = Problem("cuda", "bfloat16", length=4096, training=True, **sizes)
    backend = backends("ssd")["mamba-ssm"]
    if reason := available(backend, problem):
        pytest.skip(reason)
    torch.manual_seed(0)
    T, H, P, N, G = 4096, problem.n_heads, problem.head_dim, problem.d_state, problem.n_groups
    x, B, C, dt = (torch.randn(1, T, *s, device="cuda", dtype=torch.bfloat16) for s in ((H, P), (G, N), (G, N), (H,)))
    A, D = -torch.rand(H, device="cuda") * 15 - 1, torch.ones(H, device="cuda")
    bias = torch.linspace(-6.9, -2.3, H, device="cuda")
    y, state = backend.load()(x, dt, A, B, C, D, bias, chunk_size=256)
    y_ref, state_ref = scan_reference.ssd(x.float(), dt.float(), A, B.float(), C.float(), D, bias, chunk_size=256)
    assert error(y, y_ref) < 1e-2
    assert error(state, state_ref) < 1e-2


@pytest.mark.parametrize("name", [name for name in backends("attention_decode") if name != "reference"])
@pytest.mark.parametrize("shape", HEADS)
def test_decode_in_a_captured_graph_follows_lengths_on_the_device(name: str, shape: str) -> None:
    """One capture, then other lengths and another query: nothing about the lengths may be baked in."""
    problem = Problem("cuda", "bfloat16", length=8192, **HEADS[shape])
    if reason := available(backends("attention_decode")[name], problem):
        pytest.skip(reason)
    decode = backends("attention_decode")[name].load()
    torch.manual_seed(0)
    B, S, H, K = 4, 8192, problem.n_heads, problem.kv_heads
    q = torch.randn(B, H, problem.head_dim, device="cuda", dtype=torch.bfloat16)
    k = torch.randn(B, S, K, problem.head_dim, device="cuda", dtype=torch.bfloat16)
    v = torch.randn(B, S, K, problem.value_dim, device="cuda", dtype=torch.bfloat16)
    length = torch.full((B,), 100, dtype=torch.int32, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            decode(q, k, v, length)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = decode(q, k, v, length)
    for lengths in ((1, 64, 65, 8192), (4096, 4097, 8191, 2), (700, 7000, 128, 129)):
        q.normal_()
        length.copy_(torch.tensor(lengths, dtype=torch.int32))
        graph.replay()
        assert error(out, attention_reference.attention_decode(q.float(), k.float(), v.float(), length)) < 1e-2


@pytest.mark.parametrize(
    ("op", "name"),
    [
        ("ssd_step", "mamba-ssm"),
        ("conv1d_step", "causal-conv1d"),
        ("ssd_step", "reference"),
        ("conv1d_step", "reference"),
    ],
)
def test_recurrent_steps_in_a_captured_graph_update_the_state(op: str, name: str) -> None:
    """Ten replays are ten steps of the reference."""
    problem = Problem("cuda", "bfloat16", head_dim=144, n_heads=16, d_state=128, d_conv=4)
    if reason := available(backends(op)[name], problem):
        pytest.skip(reason)
    torch.manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16)

    if op == "ssd_step":
        H, P, N = 16, 144, 128
        state = torch.zeros(2, H, P, N, device="cuda")
        A, D, bias = -torch.rand(H, device="cuda") - 0.1, torch.ones(H, device="cuda"), torch.zeros(H, device="cuda")
        inputs = [some(2, H, P), some(2, H), A, some(2, 1, N), some(2, 1, N), D, bias]
        fresh: tuple[int, ...] = (0, 1, 3, 4)
    else:
        state = torch.zeros(2, 96, 4, device="cuda", dtype=torch.bfloat16)
        inputs = [some(2, 96), some(96, 4), some(96)]
        fresh = (0,)
    step, reference, expected_state = backends(op)[name].load(), reference_of(op), state.clone().float()
    step(state.clone(), *inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = step(state, *inputs)
    for _ in range(10):
        for i in fresh:
            inputs[i].normal_()
        graph.replay()
        expected = reference(expected_state, *(t.float() for t in inputs))
        assert error(y, expected) < 1e-2
        assert error(state, expected_state) < 1e-2


def test_losses_in_chunks_save_the_logits_memory() -> None:
    """32,768 tokens of a 128,256-word vocabulary: the logits take 8.4 GB in bfloat16 and 16.8 in float32."""
    N, D, V = 32768, 256, 128256
    hidden = torch.randn(N, D, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = (torch.randn(V, D, device="cuda") / math.sqrt(D)).bfloat16().requires_grad_()
    target = torch.randint(V, (N,), device="cuda")
    losses = {}
    for name in ("chunked", "liger", "fused"):
        backend = backends("linear_cross_entropy")[name]
        if available(backend, Problem("cuda", "bfloat16", training=True)):
            continue
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        loss = backend.load()(hidden, weight, target)
        loss.backward()
        assert torch.cuda.max_memory_allocated() - before < 2 * N * V / 3
        losses[name] = float(loss.detach())
        hidden.grad = weight.grad = None
    assert all(math.isclose(value, losses["chunked"], rel_tol=1e-3) for value in losses.values())


def test_the_trial_says_what_pytorch_says() -> None:
    """What PyTorch would silently not run by cuDNN or flash is unsupported before anything runs."""
    wide = Problem("cuda", "bfloat16", head_dim=512, n_heads=4, training=True)
    assert "does not support this problem" in (available(backends("attention")["sdpa-flash"], wide) or "")
    assert available(backends("attention")["sdpa-math"], dataclasses.replace(wide, head_dim=64)) is None
