"""inputs: random inputs of every operation, laid out as a model lays them out: views into one wide projection.

Each function here draws the inputs of one operation for any problem: those of a verification, few heads at lengths on
and beside the edges where kernels go wrong (one block, one chunk, one window), or those at the problem's own size.
Heads are as wide and as grouped as in the problem. Which function belongs to which operation is in ``operation``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridbench.kernels.problem import Problem
from hybridbench.kernels.reference import NO_STEP

BATCH = 2

CHANNELS = 96
"""Channels of the checked convolution."""

WIDTH = 96
"""Channels of a checked norm, gate or activation where the problem names none."""

EPS = 1e-5
"""Added under the root of a checked norm."""

VOCABULARY = 1000
"""Words of the checked loss: few, and not a multiple of any tile."""


@dataclass(frozen=True)
class Trial:
    """One input: named tensors, and how to call the operation with them.

    ``call`` must not modify the tensors it is given; it returns every output and updated state by name. Gradients,
    where wanted, are taken for every floating-point tensor. ``length`` is a sequence's. ``continues`` says that it
    starts from a state.
    """

    label: str
    tensors: dict[str, Tensor]
    call: Callable[[Callable[..., Any], dict[str, Tensor]], dict[str, Tensor]]
    gradients: bool = True
    length: int = 0
    continues: bool = False


class Draw:
    """Random tensors of one verification: drawn on the CPU, so that a seed means the same on every device; of inputs at
    size, drawn on theirs.

    Attributes:
        batch: sequences.
        channels: of a convolution and of Mamba-1's scan.
        at_size: whether sizes are the problem's own, and not the small ones that a verification takes.
    """

    def __init__(
        self,
        problem: Problem,
        device: torch.device,
        generator: torch.Generator,
        batch: int = BATCH,
        at_size: bool = False,
    ) -> None:
        self.dtype: torch.dtype = getattr(torch, problem.dtype)
        self.device = device
        self.exact = torch.float64 if device.type == "cpu" else torch.float32
        self.batch, self.at_size = batch, at_size
        self.channels = problem.width if at_size and problem.width else CHANNELS
        self._problem, self._generator = problem, generator

    @property
    def side_by_side(self) -> bool:
        """Whether the problem's positions lie side by side in memory, as Mamba-1 has them: only sizes tell."""
        return self.at_size and not self._problem.row

    def lengths(self, small: Iterable[int]) -> list[int]:
        """The lengths to try: those of a verification, or the problem's own."""
        return [self._problem.length] if self.at_size else list(small)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal values in the problem's dtype."""
        if self._generator.device.type != "cpu":
            return torch.randn(shape, generator=self._generator, device=self.device, dtype=self.dtype)
        return torch.randn(shape, generator=self._generator).to(self.device, self.dtype)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform values in float32, as parameters and states are kept (float64 in a float64 problem)."""
        values = low + (high - low) * torch.rand(shape, generator=self._generator, device=self._generator.device)
        return values.to(self.device, self.dtype if self.dtype == torch.float64 else torch.float32)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers in ``[0, high)``."""
        return torch.randint(high, shape, generator=self._generator, device=self._generator.device).to(self.device)

    def across(self, width: int, batch: int, length: int) -> Tensor:
        """(B, T, C) values laid out channel by channel, positions side by side."""
        return self.normal(width, batch, length).permute(1, 2, 0)

    def projection(self, *lead: int, widths: list[tuple[int, ...]]) -> list[Tensor]:
        """Views side by side in one wide tensor, rows padded to 16 elements, as the output of a fused projection; at
        size in rows as wide as the problem's."""
        sizes = [math.prod(width) for width in widths]
        padded = sum(sizes) + -sum(sizes) % 16
        wide = self.normal(*lead, max(padded, self._problem.row) if self.at_size else padded)
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        parts = (wide.narrow(-1, start, size) for start, size in zip(starts, sizes, strict=True))
        return [torch.unflatten(part, -1, width) for part, width in zip(parts, widths, strict=True)]


def _few_heads(problem: Problem, draw: Draw) -> tuple[int, int]:
    """At most two KV heads, with the problem's number of query heads each; at size all."""
    if draw.at_size:
        return problem.n_heads, problem.kv_heads
    K = min(2, problem.kv_heads)
    return K * (problem.n_heads // problem.kv_heads), K


def attention(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """One, and lengths around a 128-wide tile, or around the window and its sinks, up to two blocks of 256 behind."""
    H, K = _few_heads(problem, draw)
    P, V, w, s = problem.head_dim, problem.value_dim, problem.window, problem.sinks
    lengths = (1, 63, 100, 127, 128, 129) if w is None else (1, 63, w, w + 1, w + s + 65, w + s + 321)

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out_BTHV": fn(t["q_BTHP"], t["k_BTKP"], t["v_BTKV"], window=w, sinks=s)}

    for T in draw.lengths(lengths):
        views = draw.projection(draw.batch, T, widths=[(H, P), (K, P), (K, V)])
        tensors = dict(zip(("q_BTHP", "k_BTKP", "v_BTKV"), views, strict=True))
        # One key gets all the weight whatever the query: the gradients of both are 0 and have no relative error.
        yield Trial(f"length {T}", tensors, call, gradients=T > 1, length=T)


def attention_decode(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Two lengths per batch, one slot and whole caches among them; dead slots hold large numbers nobody may see."""
    H, K = _few_heads(problem, draw)

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out_BHV": fn(t["q_BHP"], t["k_cache_BSKP"], t["v_cache_BSKV"], t["length_B"])}

    caches = {100: (1, 100), 129: (63, 128), 1500: (700, 1499)}
    for S in draw.lengths(caches):
        # two lengths in turn; at size full caches and nearly full ones
        pair = (S, S - 1) if draw.at_size else caches[S]
        lengths = tuple(pair[i % 2] for i in range(draw.batch))
        length_B = torch.tensor(lengths, dtype=torch.int32, device=draw.device)
        dead = (torch.arange(S, device=draw.device) >= length_B[:, None])[:, :, None, None]
        tensors = {
            "q_BHP": draw.projection(draw.batch, widths=[(H, problem.head_dim)])[0],
            "k_cache_BSKP": draw.normal(draw.batch, S, K, problem.head_dim).masked_fill(dead, 1e3),
            "v_cache_BSKV": draw.normal(draw.batch, S, K, problem.value_dim).masked_fill(dead, 1e3),
            "length_B": length_B,
        }
        yield Trial(f"lengths {lengths} in a cache of {S}", tensors, call, gradients=False)


def _ssm_heads(problem: Problem, draw: Draw, most: int = 2) -> tuple[int, int]:
    """At most two groups of at most so many heads; at size all."""
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
        # from an empty state a single step does not depend on A: its gradient is 0 and has no relative error
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
    """Shorter than the taps, and longer; without a bias; with positions side by side in memory."""
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
    """Two steps in a row, the second on the state the first one left."""
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
    """Lengths on and beside 64 positions, laid out channel by channel as in the model; the state has no gradient. One
    from a state, which goes forward only."""
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
        # from an empty state a single step does not depend on A: its gradient is 0 and has no relative error
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
"""What the scan of Mamba-3 reads of a packed row, in order; its parameters come after it."""


def _mamba3_heads(problem: Problem, draw: Draw) -> tuple[int, int]:
    """Heads and groups; on a GPU all of them, because the public kernels tune themselves once, at the first sizes they
    are given, and the check then tunes what is timed."""
    return (problem.n_heads, problem.n_groups) if problem.device == "cuda" else _ssm_heads(problem, draw)


def _mamba3_inputs(problem: Problem, draw: Draw, *length: int) -> dict[str, Tensor]:
    """Random inputs in order, dt as the model initialises it; x and z lie in one row with all that is projected."""
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
    """Lengths around one chunk, a long one first on a GPU, where kernels tune themselves to it; nobody needs gradients
    of what the last position leaves. Where none are needed at all, one from a state: with one they tune themselves
    anew."""
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
        # from an empty state a single step neither decays nor turns: those gradients are 0
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


def _delta_heads(problem: Problem, draw: Draw) -> tuple[int, int, int]:
    """Sequences, value heads and key heads: 16 heads over the batch, so that no position's output is small by chance,
    and on a GPU all of the problem's, because fla's kernels tune themselves to their number and the check then tunes
    what is timed; at size those of the problem."""
    if draw.at_size:
        return draw.batch, problem.n_heads, problem.kv_heads
    G = problem.kv_heads if problem.device == "cuda" else min(2, problem.kv_heads)
    H = G * (problem.n_heads // problem.kv_heads)
    return max(draw.batch, 16 // H), H, G


def _delta_inputs(problem: Problem, draw: Draw, per_channel: bool, *length: int) -> dict[str, Tensor]:
    """Random inputs by name, A in [1, 16] and dt as the models initialise them."""
    batch, H, G = _delta_heads(problem, draw)
    P, V, lead = problem.head_dim, problem.value_dim, (batch, *length)
    B = "BT" if len(lead) == 2 else "B"
    group = "H" if per_channel else "G"
    q, k, v, gates, beta = draw.projection(
        *lead, widths=[(G, P), (G, P), (H, V), (H, P) if per_channel else (H,), (H,)]
    )
    dt = draw.uniform(math.log(1e-3), math.log(1e-1), *((H, P) if per_channel else (H,))).exp()
    channel = "P" if per_channel else ""
    return {
        f"q_{B}{group}P": q,
        f"k_{B}{group}P": k,
        f"v_{B}HV": v,
        f"dt_{B}H{channel}": gates,
        f"beta_{B}H": beta,
        "A_log_H": draw.uniform(1, 16, H).log(),
        f"dt_bias_H{channel}": dt.expm1().log(),
    }


def delta_rule(per_channel: bool) -> Callable[[Problem, Draw], Iterator[Trial]]:
    """Lengths around one chunk, without and (at the last) with a state to start from."""

    def cases(problem: Problem, draw: Draw) -> Iterator[Trial]:
        Q = problem.chunk_size
        batch, H, _G = _delta_heads(problem, draw)

        def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
            inputs = [tensor for name, tensor in t.items() if not name.startswith("initial")]
            o, state = fn(*inputs, chunk_size=Q, initial_state_BHPV=t.get("initial_state_BHPV"))
            return {"o_BTHV": o, "final_state_BHPV": state}

        for T in draw.lengths(sorted({1, 63, 100, Q - 1, Q, Q + 1} - {0})):
            tensors = _delta_inputs(problem, draw, per_channel, T)
            if T == Q + 1:
                start = draw.uniform(-1, 1, batch, H, problem.head_dim, problem.value_dim)
                tensors["initial_state_BHPV"] = start
            # from an empty state a single step does not depend on the decay: its gradients are 0
            yield Trial(f"length {T}", tensors, call, gradients=T > 1, continues=T == Q + 1)

    return cases


def delta_step(per_channel: bool) -> Callable[[Problem, Draw], Iterator[Trial]]:
    """One step from a state in float32, and from one in the activations' dtype."""

    def cases(problem: Problem, draw: Draw) -> Iterator[Trial]:
        def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
            state, *inputs = t.values()
            state = state.clone()
            return {"o_BHV": fn(state, *inputs), "state_BHPV": state}

        batch, H, _G = _delta_heads(problem, draw)
        start = draw.uniform(-1, 1, batch, H, problem.head_dim, problem.value_dim)
        for dtype in dict.fromkeys((start.dtype, draw.dtype)):
            tensors = {"state_BHPV": start.to(dtype)} | _delta_inputs(problem, draw, per_channel)
            yield Trial(f"one step from a state in {str(dtype)[6:]}", tensors, call, gradients=False)

    return cases


def norm_gate(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """With either activation; z lies in a wider row."""
    H, V = 3, problem.value_dim

    for T in (1, 63):
        for activation in ("silu", "sigmoid"):

            def call(fn: Callable[..., Any], t: dict[str, Tensor], activation: str = activation) -> dict[str, Tensor]:
                return {"out_BTHV": fn(t["y_BTHV"], t["z_BTHV"], t["weight_V"], eps=EPS, activation=activation)}

            z, _x = draw.projection(draw.batch, T, widths=[(H, V), (H, V)])
            tensors = {"y_BTHV": draw.normal(draw.batch, T, H, V), "z_BTHV": z, "weight_V": draw.normal(V)}
            yield Trial(f"length {T}, {activation}", tensors, call)


def mamba2_core(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """With a gated norm and without, rows padded and not, around one chunk; the parts are drawn one by one.

    Eight heads a group, since kernels take several at once, and since A's gradient sums up terms of either sign over
    positions: of two such numbers both may be small by chance, and their rounding is not (4% in bfloat16 on an H200).

    One from a state, which goes forward only, behind the convolution's last inputs: rows that must not change it.
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


def swiglu(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """One token and several."""
    width = problem.width or WIDTH

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out_NF": fn(t["packed_NF"])}

    for N in (1, 63):
        yield Trial(f"{N} tokens of {width}", {"packed_NF": draw.projection(N, widths=[(2 * width,)])[0]}, call)


def add_rms_norm(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """The first norm of a model, which has nothing to add, and the others."""
    width = problem.width or WIDTH

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        normed, added = fn(t["x_BTD"], t.get("residual_BTD"), t["weight_D"], eps=EPS)
        return {"normed_BTD": normed, "added_BTD": added}

    for T in (1, 63):
        tensors = {"x_BTD": draw.normal(draw.batch, T, width), "weight_D": draw.normal(width)}
        yield Trial(f"length {T}, nothing to add", tensors, call)
        yield Trial(f"length {T}", tensors | {"residual_BTD": draw.normal(draw.batch, T, width)}, call)


def rotary(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """With values behind the keys and without; the angles have no gradient."""
    H, K, P = problem.n_heads, problem.kv_heads, problem.head_dim
    settings = {"n_heads": H, "n_kv_heads": K, "head_dim": P}

    for T, values in ((1, K * problem.value_dim), (63, 0), (100, K * problem.value_dim)):
        angles = draw.uniform(0, 2 * math.pi, T, P // 2)

        def call(fn: Callable[..., Any], t: dict[str, Tensor], angles: Tensor = angles) -> dict[str, Tensor]:
            cos, sin = angles.cos(), angles.sin()
            q, k, rest = fn(t["packed_BTC"], cos, sin, **settings)
            return {"q_BTHP": q, "k_BTKP": k, "rest_BTC": rest}

        packed = draw.projection(draw.batch, T, widths=[((H + K) * P + values,)])[0]
        yield Trial(f"length {T}, {values} channels of values", {"packed_BTC": packed}, call)


def gate(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """With a norm and without; z lies in a wider row."""
    width = problem.width or WIDTH

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out_BTI": fn(t["y_BTI"], t["z_BTI"], t.get("weight_I"), eps=EPS)}

    for T in (1, 63):
        z, _x = draw.projection(draw.batch, T, widths=[(width,), (width,)])
        tensors = {"y_BTI": draw.normal(draw.batch, T, width), "z_BTI": z}
        yield Trial(f"length {T}", tensors, call)
        yield Trial(f"length {T} and a norm", tensors | {"weight_I": draw.normal(width)}, call)


def head_norms(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Two branches of few heads of the problem's widths, not equally many."""
    heads = (3, 2)
    widths = [H * P for H, P in zip(heads, (problem.head_dim, problem.value_dim), strict=True)]

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"joined_BTC": fn(t["first_BTC"], t["second_BTC"], heads=heads, eps=EPS)}

    for T in (1, 63):
        first, second = (draw.normal(draw.batch, T, width) for width in widths)
        yield Trial(f"length {T}", {"first_BTC": first, "second_BTC": second}, call)


def experts(_problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Two experts a token; one expert that nobody chose."""
    D, width, E = 64, 32, 5

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        names = ("x_ND", "chosen_NK", "weight_NK", "in_weight_EFD", "out_weight_EDF")
        return {"out_ND": fn(*(t[name] for name in names))}

    for N in (1, 63, 100):
        first = draw.integers(2, N)
        tensors = {
            "x_ND": draw.normal(N, D),
            "chosen_NK": torch.stack((first, first + 2), 1),  # never the last expert
            "weight_NK": draw.normal(N, 2),
            "in_weight_EFD": draw.normal(E, 2 * width, D) / math.sqrt(D),
            "out_weight_EDF": draw.normal(E, D, width) / math.sqrt(width),
        }
        yield Trial(f"{N} tokens", tensors, call)


def linear_cross_entropy(_problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Logits of unit variance; the upstream gradient is not 1, so its scaling is checked too."""
    D = 64

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": fn(t["hidden_ND"], t["weight_VD"], t["target_N"])}

    for N in (1, 63, 100, 257):
        tensors = {
            "hidden_ND": draw.normal(N, D),
            "weight_VD": draw.normal(VOCABULARY, D) / math.sqrt(D),
            "target_N": draw.integers(VOCABULARY, N),
        }
        yield Trial(f"{N} tokens", tensors, call)


def adamw(_problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Three steps of a parameter in the problem's dtype and of one in float32, large enough to be seen.

    Gradients keep away from 0: float16 rounds the square of a small one to 0, and then divides by it.
    """
    steps, lr = 3, 0.1

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        parameters = [torch.nn.Parameter(t[name].detach().clone()) for name in ("first_I", "second_J")]
        optimizer = fn(parameters, lr=lr)
        for step in range(steps):
            for parameter, name in zip(parameters, ("d_first_SI", "d_second_SJ"), strict=True):
                parameter.grad = t[name][step].detach().clone()
            optimizer.step()
        made = {}
        for name, parameter in zip(("first", "second"), parameters, strict=True):
            state = optimizer.state[parameter]
            made[f"{name} parameter"] = parameter.detach()
            made[f"{name} exp_avg"], made[f"{name} exp_avg_sq"] = state["exp_avg"], state["exp_avg_sq"]
        return made

    def gradient(n: int) -> Tensor:
        return draw.uniform(0.5, 2, steps, n) * (1 - 2 * draw.integers(2, steps, n))

    for n in (1, 63, 5000):
        first = draw.normal(n)
        tensors = {
            "first_I": first,
            "d_first_SI": gradient(n).to(first.dtype),
            "second_J": draw.uniform(-1, 1, n + 1),
            "d_second_SJ": gradient(n + 1),
        }
        yield Trial(f"{steps} steps of {n} elements", tensors, call, gradients=False)
