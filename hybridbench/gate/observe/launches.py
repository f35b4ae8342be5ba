"""launches: every Triton kernel of this package, launched by its own launcher at widths of 1b.

What is launched has the constants, tilings and alignments that a GPU would get. On the meta device tensors have sizes
and strides and no memory, so with the driver of ``nowhere`` nothing runs.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from hybridbench.kernels.attention.triton_decode import stated_multiprocessors

B, T, D = 4, 131_072, 2048
"""Sequences, tokens of one, and d_model of 1b."""
MANY = 128
"""Sequences of a decode step that has tiles of many."""


def some(*shape: int, dtype: torch.dtype = torch.bfloat16, behind: int = 16) -> Tensor:
    """Rows that lie behind other columns in wider ones."""
    return torch.empty(*shape[:-1], shape[-1] + behind, dtype=dtype)[..., behind:]


def elementwise(_pdl: bool) -> None:
    """What stands between products: SwiGLU, norms, gates, rotary embedding."""
    from hybridbench.kernels.dense import triton_add_rms_norm as norm
    from hybridbench.kernels.dense import triton_gate as gate
    from hybridbench.kernels.dense import triton_head_norms as head_norms
    from hybridbench.kernels.dense import triton_rotary as rotary
    from hybridbench.kernels.dense import triton_swiglu as swiglu

    for behind in (16, 20):  # strides that 8 divides, and others
        draw = functools.partial(some, behind=behind)
        x, y, wider, weight = draw(B, T, D), draw(B, T, D), draw(B, T, 2 * D), draw(D)
        swiglu._run_swiglu(wider)
        swiglu._run_swiglu_backward(wider, x)
        for residual in (None, y):
            norm._run_add_rms_norm(x, residual, weight, 1e-5)
            norm._run_add_rms_norm_backward(x, residual, y, weight, 1e-5)
        for weighted in (None, weight):
            gate.gate_forward(x, y, weighted, 1e-5)
            gate._run_gate_backward(x, x, y, weighted, 1e-5)
        first, second = draw(B, T, 16 * 72), draw(B, T, 16 * 128)
        head_norms._run_head_norms(first, second, 16, 16, 1e-5)
        head_norms._run_head_norms_backward(draw(B, T, 16 * 200), first, second, 16, 16, 1e-5)
    for H, K, P, R in ((32, 8, 64, 512), (5, 5, 72, 100), (4, 2, 64, 0)):
        cos, sin = torch.empty(2, T, P // 2)
        q, k, rest = rotary._run_rotary(some(B, T, (H + K) * P + R), cos, sin, H, K, P)
        rotary._run_rotary_backward(q, k, rest, cos, sin)
        q, k = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k))  # as attention's gradients come
        rotary._run_rotary_backward(q, k, rest, cos, sin)


def optimizer(_pdl: bool) -> None:
    """The loss and AdamW."""
    from hybridbench.kernels.loss import triton_loss
    from hybridbench.kernels.optimizer import triton_adamw
    from hybridbench.kernels.optimizer.adamw import StepRates

    for backward in (True, False):
        triton_loss.cross_entropy_(some(4096, 128_256), torch.empty(4096, dtype=torch.int64), 0.5, backward)
    triton_loss.scaled(some(128_256, D, dtype=torch.float32), torch.empty(()), torch.bfloat16)
    weight, gradient, first, second = (torch.empty(128_256, D) for _ in range(4))
    triton_adamw.update(weight, gradient, first, second, StepRates(*[0.5] * 6))


def delta(_pdl: bool) -> None:
    """Steps of delta rules, and their norm and gate."""
    from hybridbench.kernels.delta import triton_delta

    H, G, P, V = 16, 8, 128, 256
    for groups, channel in ((G, ()), (H, (P,))):
        q, k, v = (
            some(B, heads * width).unflatten(1, (heads, width)) for heads, width in ((groups, P), (groups, P), (H, V))
        )
        dt = some(B, H, *channel)
        state, A_log, dt_bias = torch.empty(B, H, P, V), torch.empty(H), torch.empty(H, *channel)
        triton_delta._run_step(state, q, k, v, dt, some(B, H), A_log, dt_bias)
    y, z, weight = torch.empty(B, T, H, V).bfloat16(), some(B, T, H * V).unflatten(-1, (H, V)), some(V)
    for silu in (True, False):
        triton_delta._run_norm_gate(y, z, weight, 1e-5, silu)
        triton_delta._run_norm_gate_backward(y, y, z, weight, 1e-5, silu)


def rwkv7(_pdl: bool) -> None:
    """RWKV-7's token shift and keys; one mix alone is what selective checkpointing makes again."""
    from hybridbench.kernels.rwkv7 import triton_keys, triton_shift

    H, P = 64, 64
    x, front = torch.empty(B, T, D, dtype=torch.bfloat16), torch.empty(B, D, dtype=torch.bfloat16)
    for mixes, before in ((6, None), (5, None), (6, front), (1, None)):
        share = torch.empty(mixes, D, dtype=torch.bfloat16)
        mixed = triton_shift._run_shift(x, share, before)
        if mixes > 1:
            triton_shift._run_shift_backward(mixed, x, share, before)
    parameters = [torch.empty(H, P, dtype=torch.bfloat16) for _ in range(2)]
    k, rate = (torch.empty(B, T, H, P, dtype=torch.bfloat16) for _ in range(2))
    made = triton_keys._run_keys(k, rate, *parameters)
    triton_keys._run_keys_backward(*made, k, rate, *parameters)


def scan(_pdl: bool) -> None:
    """Mamba-2's scan in one pass, and its gradients."""
    from hybridbench.kernels.scan.triton_ssd import scan_forward
    from hybridbench.kernels.scan.triton_ssd_backward import scan_backward

    for H, P, N, G in ((32, 128, 128, 2), (32, 192, 256, 1)):
        x = some(B, T, H * P).unflatten(-1, (H, P))
        b, c = (some(B, T, G * N).unflatten(-1, (G, N)) for _ in range(2))
        dt, per_head, start = some(B, T, H), torch.empty(H), torch.empty(B, H, P, N)
        given = (x, dt, per_head, b, c, per_head, per_head)
        for initial in (None, start):
            scan_forward(*given, keep=False, initial_BHPN=initial)
        _, _, states = scan_forward(*given, keep=True)
        for d_final in (None, start):
            scan_backward(x, d_final, *given, states, d_x=x, d_dt=dt, d_b=b, d_c=c)


def decode(pdl: bool) -> None:
    """Attention of a decode step."""
    from hybridbench.kernels.attention import triton_decode

    for H, K, P, V in ((32, 8, 64, 64), (18, 6, 72, 128)):
        q, out = some(B, H, P), torch.empty(B, H, V, dtype=torch.bfloat16)
        k, v = (torch.empty(B, T, K, width, dtype=torch.bfloat16) for width in (P, V))
        length = torch.empty(B, dtype=torch.int32)
        triton_decode.attention_decode(q, k, v, length)
        plan = triton_decode.DecodePlan.make(B, H, K, P, V, T, q)
        triton_decode.launch_attention_decode(plan, q, k, v, length, out, norm_eps=1e-5, pdl=pdl)


def fused_step(pdl: bool) -> None:
    """A fused decode step of every kind of block that it has."""
    from hybridbench.arch.families import Options, pattern_spec
    from hybridbench.kernels.attention.triton_decode import stated_multiprocessors
    from hybridbench.model import fused
    from hybridbench.model.build import build_model, resolve_backends
    from hybridbench.model.tiling import Tiling
    from hybridbench.suite.case import Case, Execution
    from hybridbench.suite.workloads import Workload

    class Always(dict[Any, Any]):
        """One tiling for every product."""

        @override
        def get(self, key: object, default: object = None) -> Any:
            return Tiling(64, 2, 64, 4, 4)

    def step(
        pattern: str, sequences: int = B, *, options: Options | None = None, cut: bool = False, dtype: str = "bfloat16"
    ) -> None:
        """Launch one; with ``cut`` every product is cut along K."""
        spec = pattern_spec(pattern, "1b", options or Options())
        case = Case(spec, Workload("generate", 8, sequences, 6), Execution("cpu", dtype, "eager"))
        model = build_model(case, resolve_backends(case))  # its weights are on the meta device until it is allocated
        token, position = torch.empty(2, sequences, dtype=torch.int64)
        caches = model.new_caches(sequences, 8, case.execution.storage)
        tilings: dict[Any, Any] = Always() if cut else {}
        with stated_multiprocessors(132):
            fused.FusedStep(model, caches, token, position, advance=True, pdl=pdl, tilings=tilings)()

    step("M-*-")
    step("M-*-", MANY)
    step("M-*-", cut=True)
    step("M-", 3)  # whole heads' states: halves would leave a quarter of 132 SMs without work
    step("M-", dtype="float32")  # a convolution's state that is no words of 8 bytes
    step("S-", options=Options(window=512, sinks=64))
    step("(*&M)-")
    step("(*&M)-", MANY)
    step("(*&M)M", options=Options(recipe="falcon-h1"))
    step("(S&M)", options=Options(recipe="concat", fusion_op="concat"))
    step("G-K-L-3-7-7m-")
    step("G-K-L-3-7-7m-", MANY)
    step("GKL377m", cut=True)
    step("(*&G)(*&K)(*&L)(*&3)(*&7)(*&m)")


def quantised_step(pdl: bool) -> None:
    """A fused decode step on codes of 8 bits, of every kind of block that it has."""
    from hybridbench.arch.families import pattern_spec
    from hybridbench.model import fused
    from hybridbench.model.build import build_model, resolve_backends
    from hybridbench.suite.case import Case, Execution
    from hybridbench.suite.workloads import Workload

    for pattern, weights, sequences in (
        ("M-*-", "fp8", B),
        ("M-*-", "fp8", MANY),
        ("M-*-", "int8", B),
        ("(*&M)-", "fp8", B),
        ("G-L-7-7m-", "fp8", B),
    ):
        execution = Execution("cpu", "bfloat16", "eager", weight_dtype=weights, kv_dtype="fp8")
        case = Case(pattern_spec(pattern, "1b"), Workload("decode", 8, sequences), execution)
        model = build_model(case, resolve_backends(case))
        model.quantise(weights)
        token, position = torch.empty(2, sequences, dtype=torch.int64)
        caches = model.new_caches(sequences, 8, execution.storage)
        fused.FusedStep(model, caches, token, position, advance=True, pdl=pdl)()


def step_of_a_rank(pdl: bool) -> None:
    """The fused decode step of one of two ranks, each of which has a part of every sublayer; nothing travels."""
    from hybridbench.arch.families import pattern_spec
    from hybridbench.arch.model import shard
    from hybridbench.model import fused
    from hybridbench.model.across import Across
    from hybridbench.model.build import build_model, resolve_backends
    from hybridbench.suite.case import Case, Execution
    from hybridbench.suite.workloads import Workload

    for pattern in ("M-*-", "(*&M)-"):
        spec = pattern_spec(pattern, "1b")
        case = Case(shard(spec, 2), Workload("generate", 8, B, 6), Execution("cpu", "bfloat16", "eager"))
        model = build_model(case, resolve_backends(case))
        model.across = Across(0, 2, spec.vocab_size)
        model.across.silent = True
        token, position = torch.empty(2, B, dtype=torch.int64)
        caches = model.new_caches(B, 8, case.execution.storage)
        fused.FusedStep(model, caches, token, position, advance=True, pdl=pdl)()


def spinning(_pdl: bool) -> None:
    """Work of a known length."""
    from hybridbench.kernels import triton_spin

    seen, waited = torch.empty(2, 1)
    triton_spin.spin(seen, waited, 200_000)


LAUNCHES = (elementwise, optimizer, delta, rwkv7, scan, decode, fused_step, quantised_step, step_of_a_rank, spinning)
"""A row for each module of kernels; each is told whether kernels overlap the ones before (``triton_launch``)."""


def launch_all(*, pdl: bool, n_sms: int) -> None:
    """Launch every kernel.

    Args:
        pdl: whether with programmatic dependent launch, which Hopper and later have.
        n_sms: streaming multiprocessors of the GPU that splits and tiles are chosen for.
    """
    with torch.device("meta"), stated_multiprocessors(n_sms):
        for launch in LAUNCHES:
            launch(pdl)
