"""The tensors a built model keeps for its backward are those that ``arch.activations`` lists, byte for byte.

The kernels of a GPU do not run here, so stand-ins of the same shapes keep what those keep: that half is read off their
sources (``save_for_backward`` in ``dense.triton_*`` and ``mamba2_fused``, FlashAttention's inputs,
output and log-sum-exp). The other half, what the modules between them keep, is autograd's own account.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from variants import VARIANTS

from hybridbench.arch.activations import activations
from hybridbench.arch.block import Storage
from hybridbench.arch.blocks.ssd_kernels import fits_one_pass
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.terms import total
from hybridbench.errors import BadInput
from hybridbench.model import build_model, checkpoint, mixer, resolve_backends
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.ops import CORE
from hybridbench.suite.workloads import TRAIN, Workload

B, T = 2, 128


def keeping(make: Callable[..., tuple[Any, list[Tensor]]]) -> Callable[..., Any]:
    """An operation that yields and keeps what ``make`` says: a pair of outputs and of tensors to keep."""

    class Keep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, given: dict[str, Any], *tensors: Tensor) -> Any:
            out, kept = make(*tensors, **given)
            ctx.save_for_backward(*kept)
            return out

    return lambda *tensors, **given: Keep.apply(given, *tensors)


def add_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> Any:
    added = x if residual is None else x + residual
    return (torch.empty_like(x), added if residual is not None else x.view_as(x)), [added, weight]


def swiglu(packed: Tensor) -> Any:
    return packed.new_empty(*packed.shape[:-1], packed.shape[-1] // 2), [packed]


def rotary(packed: Tensor, cos: Tensor, sin: Tensor, n_heads: int, n_kv_heads: int, head_dim: int) -> Any:
    widths = [n_heads * head_dim, n_kv_heads * head_dim]
    q, k = (packed.new_empty(B, T, width // head_dim, head_dim) for width in widths)
    return (q, k, packed.new_empty(B, T, packed.shape[-1] - sum(widths))), []


def attention(q: Tensor, k: Tensor, v: Tensor, window: int | None, sinks: int) -> Any:
    out = q.new_empty(B, T, q.shape[2], v.shape[3])
    return out, [q, k, v, out, q.new_empty(B, q.shape[2], T, dtype=torch.float32)]


def mamba2_core(
    packed: Tensor, conv_weight: Tensor, conv_bias: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor,
    norm: Tensor | None, head_dim: int, n_groups: int, chunk_size: int, eps: float,
) -> Any:  # fmt: skip
    inner, conv = A.shape[0] * head_dim, conv_weight.shape[0]
    mixed, y, out = (packed.new_empty(B, T, width) for width in (conv, inner, inner))
    d_state = (conv - inner) // (2 * n_groups)
    blocks = T // 64 if fits_one_pass(head_dim, d_state) else 0
    states = packed.new_empty(B, blocks, inner, d_state)
    return (out, packed.new_empty(B, A.shape[0], head_dim, 1)), [mixed, y, packed, states]


def head_norms(first: Tensor, second: Tensor, heads: tuple[int, int], eps: float) -> Any:
    return first.new_empty(B, T, first.shape[-1] + second.shape[-1]), [first, second]


def linear_cross_entropy(hidden: Tensor, weight: Tensor, target: Tensor) -> Any:
    return hidden.new_zeros(()), []


def conv1d(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
    return torch.empty(x.shape, dtype=x.dtype), [x]


def ssd(x: Tensor, dt: Tensor, A: Tensor, b: Tensor, c: Tensor, D: Tensor, dt_bias: Tensor, chunk_size: int) -> Any:
    y = x.new_empty(x.shape)
    state = x.new_empty(B, x.shape[2], x.shape[3], b.shape[3])
    return (y, state), [y, x, dt, b, c, x.new_empty(B, T, x.shape[2], dtype=torch.float32)]


def gate(y: Tensor, z: Tensor, weight: Tensor | None, eps: float) -> Any:
    return y.new_empty(y.shape), [y, z]


def rms_norm(x: Tensor, shape: Any, weight: Tensor, eps: float) -> Any:
    return torch.empty(x.shape, dtype=x.dtype), [x, x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)]


def norm_gate(y: Tensor, z: Tensor, weight: Tensor, eps: float, activation: str) -> Any:
    return torch.empty(y.shape, dtype=y.dtype), [y, z]


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, b: Tensor, c: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor
) -> Any:
    """mamba_ssm's ``SelectiveScanFn``; of its states, one every 2048 positions, the share of these."""
    between = x.new_empty(2 * A.numel() // 2048 * B * T, dtype=torch.float32)
    kept = [x, dt, A, b, c, z, dt_bias.float(), x.new_empty(x.shape), between]
    return (torch.empty_like(x), x.new_empty(B, *A.shape)), kept


def mamba3_scan(
    x: Tensor, dt: Tensor, rate: Tensor, trap: Tensor, b: Tensor, c: Tensor, angle: Tensor, z: Tensor,
    dt_bias: Tensor, b_bias: Tensor, c_bias: Tensor, D: Tensor, chunk_size: int,
) -> Any:  # fmt: skip
    """mamba_ssm's ``_Mamba3Function`` behind ``scan.mamba3._steps``."""
    H, P, N, R = *x.shape[2:], b.shape[-1], angle.shape[-1]
    out = torch.empty(x.shape, dtype=x.dtype)
    kept = [x, z, b, c, angle, out, torch.empty_like(out), x.new_empty(B, T, H, R)]
    kept += [x.new_empty(B, T, H, N) for _ in range(2)] + [x.new_empty(B, H, P, T // chunk_size * N)]
    kept += [x.new_empty(B, T, H, dtype=torch.float32) for _ in range(10)]
    return (out, *(x.new_empty(1) for _ in range(4))), kept


def delta(every_channel: bool) -> Callable[..., Any]:
    """As fla's ``ChunkKDAFunction``, for which a gated delta net's decay is laid out in every channel."""

    def rule(
        q: Tensor, k: Tensor, v: Tensor, dt: Tensor, beta: Tensor, A_log: Tensor, dt_bias: Tensor, chunk_size: int
    ) -> Any:
        H, P = v.shape[2], q.shape[3]
        out = torch.empty(v.shape, dtype=v.dtype)
        kept = [
            v,
            out,
            dt if every_channel else q.new_empty(B, T, H, P),
            beta.clone(memory_format=torch.contiguous_format),
        ]
        kept += [q.new_empty(q.shape) for _ in range(2)] + [q.new_empty(B, T, H, chunk_size) for _ in range(2)]
        kept += [q.new_empty(*sizes, dtype=torch.float32) for sizes in (q.shape[:3], q.shape[:3], (B, T, H))]
        return (out, q.new_empty(B, H, P, v.shape[3])), kept

    return rule


def lightning(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, chunk_size: int) -> Any:
    """Fla's ``ChunkSimpleGLAFunction``."""
    return (torch.empty(v.shape, dtype=v.dtype), q.new_empty(B, q.shape[2], q.shape[3], v.shape[3])), [q, k, v]


def rwkv7_shift(x: Tensor, share: Tensor) -> Any:
    return tuple(torch.empty_like(x) for _ in share), [x]


def rwkv7_keys(k: Tensor, rate: Tensor, removal: Tensor, added: Tensor) -> Any:
    return tuple(torch.empty_like(k) for _ in range(3)), [k, rate]


def rwkv7(r: Tensor, w: Tensor, k: Tensor, v: Tensor, kk: Tensor, a: Tensor, chunk_size: int) -> Any:
    """Fla's ``ChunkDPLRDeltaRuleFunction`` behind ``kernels.delta.fla.load_rwkv7``."""
    made = [torch.empty_like(r) for _ in range(4)]  # a sigmoid, the decay, a negative key, a product
    return (torch.empty_like(v), v.new_empty(B, *v.shape[2:], v.shape[3])), [r, k, v, kk, a, *made]


def rwkv7_output(
    y: Tensor, r: Tensor, k: Tensor, v: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, bonus: Tensor, eps: float
) -> Any:
    """Fla's ``LayerNormFunction`` and ``GateOutputCorrection``."""
    stats = [y.new_empty(y.shape[:-1], dtype=torch.float32) for _ in range(2)]
    return torch.empty_like(y), [y, r, k, v, gate, torch.empty_like(y), *stats]


def core_with_recomputations() -> Callable[..., Any]:
    """The core as ``scan.mamba2_fused`` offers it to selective checkpointing; here nothing is ever made again."""
    last: list[Tensor] = []

    def make(*tensors: Tensor, **given: Any) -> Any:
        out, kept = mamba2_core(*tensors, **given)
        last[:] = kept
        return out, kept

    run: Any = keeping(make)

    def with_recomputations(*tensors: Tensor, **given: Any) -> Any:
        out, state = run(*tensors, **given)
        mixed, y, packed, _ = last
        last.clear()  # or the graph would hold itself
        return out, state, [(mixed, torch.clone, (packed,)), (out, torch.clone, (y, packed))]

    run.with_recomputations = with_recomputations
    return run


STAND_INS = {
    "add_rms_norm": add_rms_norm,
    "swiglu": swiglu,
    "rotary": rotary,
    "attention": attention,
    CORE: mamba2_core,
    "head_norms": head_norms,
    "linear_cross_entropy": linear_cross_entropy,
    "conv1d": conv1d,
    "ssd": ssd,
    "gate": gate,
    "norm_gate": norm_gate,
    "selective_scan": selective_scan,
    "mamba3_scan": mamba3_scan,
    "gated_delta": delta(every_channel=False),
    "kda": delta(every_channel=True),
    "lightning": lightning,
    "rwkv7_shift": rwkv7_shift,
    "rwkv7_keys": rwkv7_keys,
    "rwkv7": rwkv7,
    "rwkv7_output": rwkv7_output,
}


@pytest.fixture(autouse=True)
def norms_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel on a GPU, on a CPU several that keep more."""
    monkeypatch.setattr(torch.nn.functional, "rms_norm", keeping(rms_norm))


def kept_bytes(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of the storages autograd keeps of one forward, parameters aside."""
    monkeypatch.setattr(mixer, "padding", lambda columns, device: -columns % 8)
    case = Case(spec, Workload(TRAIN, T, B), Execution("cpu", "bfloat16", "eager", backends={CORE: "reference"}))
    resolved = [
        replace(item, function=keeping(STAND_INS[item.op])) if item.op in STAND_INS else item
        for item in resolve_backends(case)
    ]
    model = build_model(case, resolved)
    model.allocate(torch.device("cpu"), 0)
    mine = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.randint(spec.vocab_size, (B, T))
    mine.add(tokens.untyped_storage().data_ptr())
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.loss(tokens, tokens)
    return sum(tensor.untyped_storage().nbytes() for where, tensor in kept.items() if where not in mine)


def listed_bytes(spec: ModelSpec, *, cheap: bool = True) -> int:
    """What the terms of all sublayers add up to, with the residual stream before each and after the last."""
    storage = Storage.of("bfloat16")
    stream = 2 * spec.d_model * B * T
    blocks = 0
    for block, times in spec.uses:
        terms = activations(block, storage).saved
        blocks += times * total([term for term in terms if cheap or not term.cheap], B * T)
    return blocks + (len(spec.layers) + 1) * stream


def selectively_kept_bytes(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of the storages that recomputations and what is not made again hold, parameters aside."""
    monkeypatch.setattr(mixer, "padding", lambda columns, device: -columns % 8)
    execution = Execution("cpu", "bfloat16", "eager", backends={CORE: "reference"}, checkpoint="selective")
    case = Case(spec, Workload(TRAIN, T, B), execution)
    functions = {op: keeping(make) for op, make in STAND_INS.items()} | {CORE: core_with_recomputations()}
    resolved = [
        replace(item, function=checkpoint.learning(item.op, functions[item.op])) if item.op in functions else item
        for item in resolve_backends(case)
    ]
    model = build_model(case, resolved)
    model.allocate(torch.device("cpu"), 0)
    tokens = torch.randint(spec.vocab_size, (B, T))
    mine = {parameter.untyped_storage().data_ptr() for parameter in (*model.parameters(), tokens)}
    gc.collect()
    loss = model.loss(tokens, tokens)
    assert loss.requires_grad
    tensors = [one._tensor for one in gc.get_objects() if type(one) is checkpoint._Kept and one._tensor is not None]
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(size for where, size in held.items() if where not in mine)


def is_listed(spec: ModelSpec) -> bool:
    """Whether ``arch.activations`` has gone through every kind of block of a model; what it has not, it refuses."""
    try:
        listed_bytes(spec)
    except BadInput:
        return False
    return True


LISTED = [name for name, spec in VARIANTS.items() if is_listed(spec)]


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.sampled
def test_selective_checkpointing_keeps_what_is_not_listed_as_cheap(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = VARIANTS[name]
    kept, listed = selectively_kept_bytes(spec, monkeypatch), listed_bytes(spec, cheap=False)
    assert 0 <= kept - listed <= 32 * len(spec.layers)


def test_only_other_mixers_with_a_lent_value_are_not_listed() -> None:
    assert VARIANTS.keys() - LISTED == {"lent values"}


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.sampled
def test_what_is_kept_is_what_is_listed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = VARIANTS[name]
    kept, listed = kept_bytes(spec, monkeypatch), listed_bytes(spec)
    # Vectors as long as a mixer has heads (exp(A_log)) and learned shares are left out of the list.
    assert 0 <= kept - listed <= 32 * len(spec.layers)
