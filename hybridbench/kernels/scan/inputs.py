"""inputs: random inputs of Mamba's scans, of their steps and of their convolution, for a verification or at size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridbench.kernels.drawing import EPS, Draw, Trial
from hybridbench.kernels.scan.reference import NO_STEP
from hybridbench.problem import Problem


def _ssm_heads(problem: Problem, draw: Draw, most: int = 2) -> tuple[int, int]:
    """Heads and groups: at most two groups of at most ``most`` heads; at size all."""
    if draw.at_size:
        return problem.n_heads, problem.n_groups
    G = min(2, problem.n_groups)
    return G * min(most, problem.n_heads // problem.n_groups), G


def _ssm_parameters(H: int, draw: Draw) -> dict[str, Tensor]:
    """A, D and dt_bias as Mamba-2 initialises them: A in -[1, 16], dt log-uniform in [0.001, 0.1]."""
    dt = draw.uniform(math.log(1e-3), math.log(1e-1), H).exp()
    return {"A_H": -draw.uniform(1, 16, H), "D_H": draw.uniform(0.5, 1.5, H), "dt_bias_H": dt.expm1().log()}


def ssd(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Lengths around one chunk, without and (at the last) with a state to start from."""
    H, G = _ssm_heads(problem, draw)
    P, N, Q = problem.head_dim, problem.d_state, problem.chunk_size

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        y, state = fn(
            *(t[n] for n in ("x_BTHP", "dt_BTH", "A_H", "B_BTGN", "C_BTGN", "D_H", "dt_bias_H")),
            chunk_size=Q,
            initial_state_BHPN=t.get("initial_state_BHPN"),
        )
        return {"y_BTHP": y, "final_state_BHPN": state}

    for T in draw.lengths(sorted({1, 63, 100, Q - 1, Q, Q + 1} - {0})):
        x, B, C, dt = draw.projection(draw.batch, T, widths=[(H, P), (G, N), (G, N), (H,)])
        tensors = {"x_BTHP": x, "dt_BTH": dt, "B_BTGN": B, "C_BTGN": C, **_ssm_parameters(H, draw)}
        if T == Q + 1:
            tensors["initial_state_BHPN"] = draw.uniform(-1, 1, draw.batch, H, P, N)
        # from an empty state a single step does not depend on A, so its gradient is 0 and has no relative error
        yield Trial(f"length {T}", tensors, call, gradients=T > 1, continues=T == Q + 1)


def ssd_step(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """One step from a state in float32, and from one in the activations' dtype."""
    H, G = _ssm_heads(problem, draw)
    P, N = problem.head_dim, problem.d_state

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        state = t["state_BHPN"].clone()
        y = fn(state, *(t[n] for n in ("x_BHP", "dt_BH", "A_H", "B_BGN", "C_BGN", "D_H", "dt_bias_H")))
        return {"y_BHP": y, "state_BHPN": state}

    start = draw.uniform(-1, 1, draw.batch, H, P, N)
    for dtype in dict.fromkeys((start.dtype, draw.dtype)):
        x, B, C, dt = draw.projection(draw.batch, widths=[(H, P), (G, N), (G, N), (H,)])
        tensors = {
            "state_BHPN": start.to(dtype),
            "x_BHP": x,
            "dt_BH": dt,
            "B_BGN": B,
            "C_BGN": C,
            **_ssm_parameters(H, draw),
        }
        yield Trial(f"one step from a state in {str(dtype)[6:]}", tensors, call, gradients=False)


def conv1d(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Lengths below and above the taps; also without a bias, and with contiguous positions."""
    C, W = draw.channels, problem.d_conv

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y_BTC": fn(t["x_BTC"], t["weight_CW"], t.get("bias_C"))}

    for T in draw.lengths((1, 63, 100, 257)):
        if draw.side_by_side:
            x = draw.across(C, draw.batch, T)
        else:
            _z, x = draw.projection(draw.batch, T, widths=[(16,), (C,)])
        tensors = {"x_BTC": x, "weight_CW": draw.normal(C, W), "bias_C": draw.normal(C)}
        yield Trial(f"length {T}", tensors, call)
        if T == 100:
            yield Trial(f"length {T}, no bias", {name: tensors[name] for name in ("x_BTC", "weight_CW")}, call)
            across = draw.across(C, draw.batch, T)
            yield Trial(f"length {T}, positions side by side", tensors | {"x_BTC": across}, call)


def conv1d_step(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Two steps in a row, the second from the state that the first one left."""
    C, W = draw.channels, problem.d_conv

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        state = t["state_BCW"].clone()
        first = fn(state, t["x_BC"], t["weight_CW"], t.get("bias_C"))
        second = fn(state, t["next_BC"], t["weight_CW"], t.get("bias_C"))
        return {"first_BC": first, "second_BC": second, "state_BCW": state}

    x, following = (draw.projection(draw.batch, widths=[(16,), (C,)])[1] for _ in range(2))
    tensors = {
        "state_BCW": draw.normal(draw.batch, C, W),
        "x_BC": x,
        "next_BC": following,
        "weight_CW": draw.normal(C, W),
        "bias_C": draw.normal(C),
    }
    yield Trial("two steps", tensors, call, gradients=False)
    without = {name: tensor for name, tensor in tensors.items() if name != "bias_C"}
    yield Trial("two steps, no bias", without, call, gradients=False)


def mamba2_core(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Lengths around one chunk, with and without a gated norm and padding of rows. The parts are drawn one by one.

    There are eight heads per group, since kernels process several at once. Also, A's gradient sums terms of either sign
    over positions: with two heads both sums may be small by chance, while their rounding is not (4% in bfloat16 on an
    H200).

    The last trial starts from a state and has no backward. Rows with the convolution's last inputs come first, which
    must not change the state.
    """
    H, G = _ssm_heads(problem, draw, most=8)
    P, N, W, Q = problem.head_dim, problem.d_state, problem.d_conv, problem.chunk_size
    inner, channels = H * P, H * P + 2 * G * N

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        packed = torch.cat([t[name] for name in ("z_BTI", "conv_in_BTC", "dt_BTH")], -1)
        packed = F.pad(packed, (0, -packed.shape[-1] % 16 + (16 if "norm_weight_I" in t else 0)))
        parameters = (t[name] for name in ("conv_weight_CW", "conv_bias_C", "A_H", "D_H", "dt_bias_H"))
        settings = {"head_dim": P, "n_groups": G, "chunk_size": Q, "eps": EPS}
        from_state = {name: t[name] for name in t if name == "initial_state_BHPN"}
        out, state = fn(packed, *parameters, t.get("norm_weight_I"), **settings, **from_state)
        return {"out_BTI": out, "final_state_BHPN": state}

    for T in draw.lengths(sorted({63, Q + 1})):
        for normed in (False, True):
            if draw.at_size and not normed:  # one trial, with every input of the row
                continue
            tensors = {
                "z_BTI": draw.normal(draw.batch, T, inner),
                "conv_in_BTC": draw.normal(draw.batch, T, channels),
                "dt_BTH": draw.normal(draw.batch, T, H),
                "conv_weight_CW": draw.normal(channels, W) / math.sqrt(W),
                "conv_bias_C": draw.normal(channels),
                **_ssm_parameters(H, draw),
            }
            if normed:
                tensors["norm_weight_I"] = draw.normal(inner)
            yield Trial(f"length {T}, {'a' if normed else 'no'} norm", tensors, call)
    dt = tensors["dt_BTH"].clone()
    dt[:, : W - 1] = NO_STEP
    tensors = tensors | {"dt_BTH": dt, "initial_state_BHPN": draw.uniform(-1, 1, draw.batch, H, P, N)}
    yield Trial(f"length {T}, a norm, from a state", tensors, call, gradients=False, continues=True)


def _selective_parameters(draw: Draw, states: int) -> dict[str, Tensor]:
    """A, D and dt_bias as Mamba-1 initialises them: A in -[1, N], dt log-uniform in [0.001, 0.1]."""
    A = -torch.arange(1, states + 1, dtype=torch.float64).expand(draw.channels, -1)
    dt = draw.uniform(math.log(1e-3), math.log(1e-1), draw.channels).exp()
    exact = draw.uniform(0, 0, 1).dtype
    return {
        "A_IN": A.to(draw.device, exact).contiguous(),
        "D_I": draw.uniform(0.5, 1.5, draw.channels),
        "dt_bias_I": dt.expm1().log().to(draw.dtype),
    }


SELECTIVE = ("x_BTI", "dt_BTI", "A_IN", "B_BTN", "C_BTN", "D_I", "z_BTI", "dt_bias_I")
"""Inputs of the selective scan in order."""


def selective_scan(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Lengths at and beside 64 positions, stored channel by channel as in the model; the state has no gradient.

    The last trial starts from a state and has no backward.
    """
    N = problem.d_state

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        from_state = {name: t[name] for name in t if name == "initial_state_BIN"}
        y, state = fn(*(t[name] for name in SELECTIVE), **from_state)
        return {"y_BTI": y, "final_state_BIN": state.detach()}

    for T in draw.lengths((1, 63, 64, 100, 257)):
        I = draw.channels  # noqa: E741
        widths = {"x_BTI": I, "dt_BTI": I, "B_BTN": N, "C_BTN": N, "z_BTI": I}
        tensors = {name: draw.across(width, draw.batch, T) for name, width in widths.items()}
        tensors |= _selective_parameters(draw, N)
        # from an empty state a single step does not depend on A, so its gradient is 0 and has no relative error
        yield Trial(f"length {T}", tensors, call, gradients=T > 1)
        if T == 100:
            tensors = tensors | {"initial_state_BIN": draw.uniform(-1, 1, draw.batch, draw.channels, N)}
            yield Trial(f"length {T}, from a state", tensors, call, gradients=False, continues=True)


def selective_step(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """One step from a state in float32, and from one in the activations' dtype."""
    N = problem.d_state

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        state = t["state_BIN"].clone()
        y = fn(state, *(t[name.replace("BT", "B")] for name in SELECTIVE))
        return {"y_BI": y, "state_BIN": state}

    start = draw.uniform(-1, 1, draw.batch, draw.channels, N)
    for dtype in dict.fromkeys((start.dtype, draw.dtype)):
        x, z = draw.projection(draw.batch, widths=[(draw.channels,), (draw.channels,)])
        _dt, B, C = draw.projection(draw.batch, widths=[(8,), (N,), (N,)])
        tensors = {
            "state_BIN": start.to(dtype),
            "x_BI": x,
            "z_BI": z,
            "dt_BI": draw.normal(draw.batch, draw.channels),
            "B_BN": B,
            "C_BN": C,
            **_selective_parameters(draw, N),
        }
        yield Trial(f"one step from a state in {str(dtype)[6:]}", tensors, call, gradients=False)


MAMBA3 = ("x_BTHP", "dt_BTH", "rate_BTH", "trap_BTH", "B_BTGN", "C_BTGN", "angle_BTR", "z_BTHP")
"""The parts of a packed row that the scan of Mamba-3 reads, in order; its parameters follow."""


def _mamba3_heads(problem: Problem, draw: Draw) -> tuple[int, int]:
    """Heads and groups; all of them on a GPU, because the public kernels tune themselves once, at the first sizes that
    they get, so that the check tunes the timed kernels.
    """
    return (problem.n_heads, problem.n_groups) if problem.device == "cuda" else _ssm_heads(problem, draw)


def _mamba3_inputs(problem: Problem, draw: Draw, *length: int) -> dict[str, Tensor]:
    """Random inputs in order, dt as the model initialises it; all that is projected, x and z too, is one packed row."""
    H, G = _mamba3_heads(problem, draw)
    P, N, R = problem.head_dim, problem.d_state, problem.n_angles
    widths: list[tuple[int, ...]] = [(H, P), (H,), (H,), (H,), (G, N), (G, N), (R,), (H, P)]
    names = MAMBA3 if length else [name.replace("BT", "B") for name in MAMBA3]
    dt = draw.uniform(math.log(1e-3), math.log(1e-1), H).exp()
    return dict(zip(names, draw.projection(draw.batch, *length, widths=widths), strict=True)) | {
        "dt_bias_H": dt.expm1().log(),
        "B_bias_HN": draw.uniform(0.5, 1.5, H, N),
        "C_bias_HN": draw.uniform(0.5, 1.5, H, N),
        "D_H": draw.uniform(0.5, 1.5, H),
    }


def _on_the_circle(angle: Tensor) -> Tensor:
    """Cosines and sines: angles just above 0 and just below 2 pi are close."""
    return torch.stack((angle.cos(), angle.sin()), -1)


def mamba3_scan(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Lengths around one chunk; on a GPU a long one comes first, since kernels tune themselves to it.

    What the last position leaves gets no gradients. Only where no gradients are checked is there a trial from a state,
    because the kernels tune themselves again for gradients with one.
    """
    H, _G = _mamba3_heads(problem, draw)
    P, N, R, Q = problem.head_dim, problem.d_state, problem.n_angles, problem.chunk_size
    started = ("angle_BHR", "state_BHPN", "last_k_BHN", "last_x_BHP")

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = [tensor for name, tensor in t.items() if name not in started]
        from_state = {"initial": tuple(t[name] for name in started)} if started[0] in t else {}
        y, *kept = fn(*inputs, chunk_size=Q, **from_state)
        angle, state, k, x = (tensor.detach() for tensor in kept)
        return {
            "y_BTHP": y,
            "final_angle_BHRE": _on_the_circle(angle),
            "final_state_BHPN": state,
            "last_k_BHN": k,
            "last_x_BHP": x,
        }

    tuned_at = {16 * Q} if problem.device == "cuda" else set()
    for T in draw.lengths(sorted({1, 63, 100, Q - 1, Q, Q + 1} - {0} | tuned_at, reverse=True)):
        # from an empty state a single step neither decays nor turns, so those gradients are 0
        yield Trial(f"length {T}", _mamba3_inputs(problem, draw, T), call, gradients=T > 1)
    if not problem.training and not draw.at_size:
        start = {
            "angle_BHR": draw.uniform(0, 2 * math.pi, draw.batch, H, R),
            "state_BHPN": draw.uniform(-1, 1, draw.batch, H, P, N),
            "last_k_BHN": draw.normal(draw.batch, H, N),
            "last_x_BHP": draw.normal(draw.batch, H, P),
        }
        yield Trial(f"length {Q + 1}, from a state", _mamba3_inputs(problem, draw, Q + 1) | start, call, continues=True)


def mamba3_step(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """One step from a state in float32, and from one in the activations' dtype; the angles are float32 in both."""
    H, _G = _mamba3_heads(problem, draw)
    P, N, R = problem.head_dim, problem.d_state, problem.n_angles

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        angle, state, k, x = kept = [tensor.clone() for tensor in list(t.values())[:4]]
        y = fn(*kept, *list(t.values())[4:])
        return {
            "y_BHP": y,
            "angle_BHRE": _on_the_circle(angle),
            "state_BHPN": state,
            "last_k_BHN": k,
            "last_x_BHP": x,
        }

    start = draw.uniform(-1, 1, draw.batch, H, P, N)
    for dtype in dict.fromkeys((start.dtype, draw.dtype)):
        tensors = {
            "angle_BHR": draw.uniform(0, 2 * math.pi, draw.batch, H, R),
            "state_BHPN": start.to(dtype),
            "last_k_BHN": draw.normal(draw.batch, H, N),
            "last_x_BHP": draw.normal(draw.batch, H, P),
        }
        inputs = _mamba3_inputs(problem, draw)
        yield Trial(f"one step from a state in {str(dtype)[6:]}", tensors | inputs, call, gradients=False)
