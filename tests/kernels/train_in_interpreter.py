"""Runs the Triton kernels of training on the CPU in triton's interpreter; prints a JSON list of [case, relative error].

    train_in_interpreter.py elementwise | optimizer | published | one-pass

A program of its own, because ``TRITON_INTERPRET`` has to be set before triton is first imported and then holds for the
whole process.
"""

from __future__ import annotations

import json
import os
import re
import sys
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch
from decode_in_interpreter import mend_the_interpreter
from fakes import HeldToFakes, operators
from torch import Tensor

from hybridbench import sizes
from hybridbench.kernels import reference_of
from hybridbench.kernels.dense import (
    triton_add_rms_norm,
    triton_gate,
    triton_head_norms,
    triton_rotary,
    triton_swiglu,
)
from hybridbench.kernels.loss import chunked, triton_loss
from hybridbench.kernels.loss import reference as loss_reference
from hybridbench.kernels.optimizer import adamw
from hybridbench.kernels.scan import reference as scan_reference

OURS = {
    "swiglu": triton_swiglu.swiglu,
    "add_rms_norm": triton_add_rms_norm.add_rms_norm,
    "rotary": triton_rotary.rotary,
    "gate": triton_gate.gate,
    "head_norms": triton_head_norms.head_norms,
}
EPS = 1e-5


def some(*shape: int, dtype: torch.dtype) -> Tensor:
    """Rows that lie in wider ones, as a packed projection's parts do."""
    return torch.randn(*shape[:-1], shape[-1] + 8).to(dtype)[..., 8:]


def cases(dtype: torch.dtype) -> Iterator[tuple[str, str, list[Tensor | None], dict[str, Any]]]:
    """Label, operation, tensors and settings; widths on and beside powers of two."""
    draw = partial(some, dtype=dtype)
    for F in (8, 96, 2100):
        yield f"swiglu {F}", "swiglu", [draw(2, 3, 2 * F)], {}
    for D in (16, 100, 300):  # a reduction of pairs goes element by element in the interpreter
        weight = torch.randn(D).to(dtype)
        yield f"norm {D}", "add_rms_norm", [draw(2, 5, D), None, weight], {"eps": EPS}
        yield f"add and norm {D}", "add_rms_norm", [draw(2, 5, D), draw(2, 5, D), weight], {"eps": EPS}
    for H, K, P, R in ((4, 2, 16, 32), (3, 1, 12, 0), (5, 5, 72, 100)):
        angle = torch.rand(7, P // 2) * 6
        settings = {"n_heads": H, "n_kv_heads": K, "head_dim": P}
        yield (
            f"rotary {H} {K} {P} {R}",
            "rotary",
            [draw(2, 7, (H + K) * P + R), angle.cos(), angle.sin()],
            settings,
        )
    for width in (16, 100, 2304):
        yield f"gate {width}", "gate", [draw(2, 3, width), draw(2, 3, width), None], {"eps": EPS}
    for width in (16, 100, 300):
        weight = torch.randn(width).to(dtype)
        yield f"gate and norm {width}", "gate", [draw(2, 3, width), draw(2, 3, width), weight], {"eps": EPS}
    for (H, P), (K, V) in (((4, 16), (2, 32)), ((3, 12), (5, 144))):
        yield f"head norms {P} {V}", "head_norms", [draw(2, 3, H * P), draw(2, 3, K * V)], {"heads": (H, K), "eps": EPS}


def stand_in_for_the_published_kernels() -> None:
    """Modules with the four functions ``mamba2_fused`` calls, made of the reference and autograd: they write gradients
    where they are told to, so that what is checked is everything around them.
    """

    def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return scan_reference.conv1d(x.transpose(1, 2), weight, bias).contiguous().transpose(1, 2)  # channels last

    def conv_forward(x: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:
        assert rest == (None, None, None, True)
        return conv(x, weight, bias)

    def gradients(function: Callable[..., Any], inputs: list[Tensor], upstream: Any) -> tuple[Tensor, ...]:
        def run() -> tuple[Tensor, ...]:
            leaves = [tensor.detach().requires_grad_() for tensor in inputs]
            return torch.autograd.grad(function(*leaves), leaves, upstream)

        with ThreadPoolExecutor(1) as pool:  # inside a custom operator autograd is off, but for its thread only
            return pool.submit(run).result()

    def conv_backward(x: Tensor, weight: Tensor, bias: Tensor, d_out: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        *nothing, d_x, initial, silu = rest
        assert (nothing, initial, silu) == ([None, None, None], False, True)
        made = gradients(conv, [x, weight, bias], d_out)
        d_x.copy_(made[0])
        return d_x, *made[1:], None

    def scan_forward(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, Q: int, **options: Any) -> Any:
        assert options["dt_softplus"]
        given = (x, dt, A, B, C, options["D"], options["dt_bias"])
        y, state = scan_reference.ssd(*given, chunk_size=Q, initial_state_BHPN=options["initial_states"])
        return y, None, None, None, None, state

    def scan_backward(d_y: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, y: Tensor, Q: int, **o: Any):
        def run(*inputs: Tensor) -> Any:
            y, state = scan_reference.ssd(*inputs, chunk_size=Q)
            return (y, state) if o["dfinal_states"] is not None else (y,)

        upstream = [d_y] + [d for d in [o["dfinal_states"]] if d is not None]
        made = gradients(run, [x, dt, A, B, C, o["D"], o["dt_bias"]], upstream)
        asked = (o["dx"], o["ddt"], o["dB"], o["dC"])
        for given, gradient in zip(asked, (made[0], made[1], made[3], made[4]), strict=True):
            given.copy_(gradient)
        return o["dx"], o["ddt"], made[2], o["dB"], o["dC"], made[5], None, made[6], None

    functions = {
        "causal_conv1d.cpp_functions": {
            "causal_conv1d_fwd_function": conv_forward,
            "causal_conv1d_bwd_function": conv_backward,
        },
        "mamba_ssm.ops.triton.ssd_combined": {
            "_mamba_chunk_scan_combined_fwd": scan_forward,
            "_mamba_chunk_scan_combined_bwd": scan_backward,
        },
    }
    for name, content in functions.items():
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:depth]), types.ModuleType(parts[depth - 1]))
        vars(sys.modules[name]).update(content)


PUBLISHED = ((4, 8, 8, 1, 0), (4, 8, 8, 2, 4), (2, 16, 8, 1, 14))
ONE_PASS = ((3, 16, 16, 1, 5), (4, 16, 16, 2, 12), (2, 128, 32, 1, 14), (2, 32, 256, 1, 6))
"""Heads, their width, their states, groups of B and C, padding."""


def core_cases(
    sizes: tuple[tuple[int, ...], ...], T: int
) -> Iterator[tuple[str, str, list[Tensor | None], dict[str, Any]]]:
    """``mamba2_core`` with a norm and (but for the last, widest heads) without, on rows that are padded, aligned and
    neither.
    """
    for H, P, N, G, extra in sizes:
        inner, channels = H * P, H * P + 2 * G * N
        for norm in (None, torch.randn(inner))[: 1 if (H, P, N, G, extra) == sizes[-1] else 2]:
            packed = torch.randn(2, T, inner + channels + H + extra)
            heads = [-torch.rand(H) - 0.1, torch.randn(H), torch.randn(H)]
            tensors = [packed, torch.randn(channels, 4), torch.randn(channels), *heads, norm]
            settings = {"head_dim": P, "n_groups": G, "chunk_size": 8, "eps": EPS}
            yield f"core {H} {G} {extra} {norm is not None}", "mamba2_core", tensors, settings


def relative(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    if not found.numel():
        return 0.0
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def outputs(made: Any) -> list[Tensor]:
    return [made] if isinstance(made, Tensor) else list(made)


def errors(op: str, tensors: list[Tensor | None], settings: dict[str, Any], function: Callable[..., Any]) -> float:
    """The worst of the outputs and gradients, where upstream gradients lie in wider rows too."""
    angles = op == "rotary"
    given = [t if t is None or (angles and i) else t.detach().requires_grad_() for i, t in enumerate(tensors)]
    exact = [t if t is None else t.detach().double().requires_grad_(t.requires_grad) for t in given]
    found = outputs(function(*given, **settings))
    expected = outputs(reference_of(op)(*exact, **settings))
    worst = max(relative(f, e) for f, e in zip(found, expected, strict=True))
    assert all(f.dtype == tensors[0].dtype for f in found)
    upstream = [some(*f.shape, dtype=f.dtype) for f in found]
    leaves = [i for i, t in enumerate(given) if t is not None and t.requires_grad]
    mine = torch.autograd.grad(found, [given[i] for i in leaves], upstream)
    theirs = torch.autograd.grad(expected, [exact[i] for i in leaves], [u.double() for u in upstream])
    assert all(gradient.dtype == given[i].dtype for i, gradient in zip(leaves, mine, strict=True))
    return max(worst, *(relative(m, t) for m, t in zip(mine, theirs, strict=True)), 0.0)


def loss_errors(dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    """Chunks of 64, 64 and 22 tokens; a vocabulary beside a power of two. The upstream gradient is not 1."""
    N, D, V = 150, 32, 1100
    sizes.LOSS_CHUNK_BYTES = 70 * V * dtype.itemsize
    fused = chunked.load_fused()
    hidden, weight, target = torch.randn(N, D), torch.randn(V, D) / D**0.5, torch.randint(V, (N,))
    given = [tensor.to(dtype).requires_grad_() for tensor in (hidden, weight)]
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    ours, theirs = fused(*given, target), loss_reference.linear_cross_entropy(*exact, target)
    assert ours.dtype == torch.float32
    yield "loss", relative(ours.detach(), theirs.detach())
    gradients = torch.autograd.grad(3 * ours, given), torch.autograd.grad(3 * theirs, exact)
    for name, mine, their in zip(("hidden", "weight"), *gradients, strict=True):
        yield f"loss gradient of {name}", relative(mine, their)
    with torch.no_grad():
        yield "loss without gradients", relative(fused(*given, target), theirs.detach())
        if dtype != torch.float32:
            return
        # A tracer, as FLOP counters use one, hands over sizes as tensors, which a kernel refuses as arguments.
        traced = torch.jit.trace(fused, (*given, target), check_trace=False)(*given, target)
        yield "loss under a tracer", relative(traced, theirs.detach())


def logits_errors(dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    """Rows of one tile and of several, ends beside a tile's, targets at both ends, and words that cannot come."""
    tile, triton_loss.COLUMNS = triton_loss.COLUMNS, 64
    for V, rows in ((5, 5), (64, 3), (200, 9), (257, 9)):
        logits = (4 * torch.randn(rows, V)).to(dtype)
        target = torch.randint(V, (rows,))
        target[0], target[-1] = 0, V - 1
        logits[1, 1 : V - 1] = -torch.inf
        target[1] = 0
        exact = logits.double().requires_grad_()
        expected = torch.nn.functional.cross_entropy(exact, target, reduction="none")
        (gradient,) = torch.autograd.grad(0.3 * expected.sum(), [exact])
        losses = triton_loss.cross_entropy_(logits, target, 0.3, gradient=True)
        yield f"losses of {V} words", relative(losses, expected.detach())
        yield f"gradient of {V} words", relative(logits, gradient)
    triton_loss.COLUMNS = tile


def adamw_errors(dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    """Five steps of parameters of several sizes beside torch's fused kernel: equal in float32 all the way, in narrower
    dtypes each element of each step within one rounding (the interpreter's cut of bfloat16) from equal states.
    """
    names = ("parameter", "exp_avg", "exp_avg_sq")
    mine = [torch.nn.Parameter(torch.randn(size).to(dtype)) for size in (1, 100, 2048, 5000)]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in mine]
    ours, by_torch = adamw.load_triton()(mine, lr=0.01), torch.optim.AdamW(theirs, lr=0.01, fused=True)
    for step in range(5):
        for one, other in zip(mine, theirs, strict=True):
            one.grad = (torch.rand(one.shape) + 0.5).to(dtype) * (1 - 2 * torch.randint(2, one.shape))
            other.grad = one.grad.clone()
        ours.step()
        by_torch.step()
        for one, other in zip(mine, theirs, strict=True):
            states = ours.state[one], by_torch.state[other]
            assert states[0].keys() == states[1].keys()
            assert float(states[0]["step"]) == float(states[1]["step"]) == step + 1
            found, expected = (
                [parameter.detach(), *(state[name] for name in names[1:])]
                for parameter, state in zip((one, other), states, strict=True)
            )
            rounding = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
            for name, f, e in zip(names, found, expected, strict=True):
                assert f.dtype == e.dtype == dtype
                torch.testing.assert_close(f, e, rtol=rounding, atol=1e-7)
                yield f"adamw {name} of {one.numel()}, step {step + 1}", relative(f, e)
                if dtype != torch.float32:
                    f.copy_(e)


DTYPES = ("float32", "float16", "bfloat16")


def elementwise_errors() -> Iterator[tuple[str, float]]:
    """All cases in float32; the narrower dtypes, which take the same branches, share them."""
    for name, share in zip(DTYPES, (slice(None), slice(0, None, 2), slice(1, None, 2)), strict=True):
        for label, op, tensors, settings in list(cases(getattr(torch, name)))[share]:
            yield f"{name} {label}", errors(op, tensors, settings, OURS[op])
    # so few heads and slots a program that there are more programs than heads in a row, as at lengths that are timed
    triton_rotary.ROTARY_ELEMENTS, triton_head_norms.GROUP_ELEMENTS = 16, 32
    for label, op, tensors, settings in cases(torch.float32):
        if op in ("rotary", "head_norms"):
            yield f"float32 {label}, few a program", errors(op, tensors, settings, OURS[op])


def optimizer_errors() -> Iterator[tuple[str, float]]:
    """The loss and the update of the parameters."""
    for name in DTYPES:
        for found in (loss_errors, logits_errors, adamw_errors):
            yield from ((f"{name} {label}", error) for label, error in found(getattr(torch, name)))


def continued_error(core: Any, tensors: list[Tensor | None], settings: dict[str, Any]) -> float:
    """From a state, behind the convolution's last inputs in rows of no step; then the same with nothing but these."""
    packed, *parameters = tensors
    assert packed is not None
    weight, rates = parameters[0], parameters[2]
    assert weight is not None
    assert rates is not None
    heads, (channels, taps) = rates.shape[0], weight.shape
    inner = heads * settings["head_dim"]
    packed = packed.clone()
    dt = packed[..., inner + channels :][..., :heads]
    dt[:, : taps - 1] = -1e4
    states = (channels - inner) // (2 * settings["n_groups"])
    start = torch.randn(packed.shape[0], heads, settings["head_dim"], states)
    with torch.no_grad():
        found = core(packed, *parameters, **settings, initial_state_BHPN=start)
        exact: Any = (t if t is None else t.double() for t in (packed, *parameters))
        expected = scan_reference.mamba2_core(*exact, **settings, initial_state_BHPN=start.double())
        for dtype in (torch.float32, torch.bfloat16):
            idle = packed[:, : taps - 1].to(dtype)
            out, kept = core(idle, *parameters, **settings, initial_state_BHPN=start)
            assert torch.equal(kept, start), "a row of no step changes the state"
            assert out.isfinite().all()
    return max(relative(f, e) for f, e in zip(found, expected, strict=True))


def core_errors(name: str) -> Iterator[tuple[str, float]]:
    """One of both scans; and a backward of it in the dtypes that a model trained in bfloat16 has, which is only to
    run.
    """
    stand_in_for_the_published_kernels()
    from hybridbench.errors import Unsupported
    from hybridbench.kernels.scan import mamba2_fused
    from hybridbench.model.checkpoint import learning, remembering

    def remembered(core: Any) -> Any:
        """The core as selective checkpointing runs it: its backward makes the convolution's output again."""

        def run(*tensors: Any, **settings: Any) -> Any:
            with remembering():
                return learning("mamba2_core", core)(*tensors, **settings)

        return run

    core, sizes, T = {
        "published": (mamba2_fused.mamba2_core, PUBLISHED, 20),
        "one-pass": (mamba2_fused.one_pass, ONE_PASS, 66),
    }[name]
    for case, (label, op, tensors, settings) in enumerate(core_cases(sizes, T)):
        yield f"float32 {name} {label}", errors(op, tensors, settings, core)
        if case < 2:
            yield f"float32 {name} {label}, made again", errors(op, tensors, settings, remembered(core))
        yield f"float32 {name} {label}, from a state", continued_error(core, tensors, settings)
    for _, _, tensors, settings in core_cases(sizes[:1], 2):
        mixed = [t if t is None or 3 <= i < 6 else t.bfloat16() for i, t in enumerate(tensors)]
        given = [t if t is None else t.requires_grad_() for t in mixed]
        out, state = core(*given, **settings)
        gradients = torch.autograd.grad(out.sum(), [t for t in given if t is not None])
        assert all(g.dtype == t.dtype for g, t in zip(gradients, filter(torch.is_tensor, given), strict=True))
        try:
            core(*given, **settings, initial_state_BHPN=state.detach())
        except Unsupported as refused:
            assert "no gradients" in str(refused)  # noqa: PT017
        else:
            raise AssertionError("gradients from an initial state were not refused")


PARTS: dict[str, tuple[Callable[[], Iterator[tuple[str, float]]], str]] = {
    "elementwise": (elementwise_errors, "hybridbench::(?!mamba2_core)"),
    "optimizer": (optimizer_errors, "nothing"),
    "published": (partial(core_errors, "published"), "hybridbench::mamba2_core"),
    "one-pass": (partial(core_errors, "one-pass"), "hybridbench::mamba2_core"),
}
"""What can be asked for, and of which operators it must have called all."""


if __name__ == "__main__":
    mend_the_interpreter()
    torch.manual_seed(0)
    part, called = PARTS[sys.argv[1]]
    with HeldToFakes() as fakes:
        found = list(part())
    missed = {name for name in operators() - fakes.checked if re.match(called, name)}
    assert not missed, missed
    json.dump(found, sys.stdout)
