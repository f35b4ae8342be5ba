"""self_test: the harness measures a kernel of known length, so that its other figures can be believed.

Forward and backward have different lengths, so that one cannot pass for the other. On a GPU a Triton kernel spins until
the global timer has advanced; on a CPU a loop reads the clock until a time after the call began, autograd's way to the
loop included. Both go through ``timing.time_calls`` as any operation does: on a GPU cold, launched one by one and
replayed from a graph; on a CPU hot, because there a flush also takes Python out of the cache, which costs a call 200 us
more. What is measured beyond the length is a kernel's launch, 2 to 3 us on a GPU, and autograd's way back on a CPU.

    run(torch.device("cuda")).error_frac
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hybridbench.kernel_suite.timing import Plan, time_calls
from hybridbench.kernels.backend import own_kernel
from hybridbench.stats import median

LENGTHS_NS = {"cuda": (200_000, 2_000_000), "cpu": (200_000, 600_000)}
"""Of forward and backward. A GPU's timer may have steps of 1 us; a busy CPU changes programs every few milliseconds."""
PLAN = Plan(allocations=2, warmup_s=0.1, min_samples=10, max_samples=200, max_time_s=0.5)
WAYS = {
    "cuda": (replace(PLAN, graph=False), replace(PLAN, graph=True)),
    "cpu": (replace(PLAN, cold=False),),
}

Spin = Callable[[Tensor, Tensor, int], None]
"""Takes a number of nanoseconds, then copies the first tensor's number into the second."""


@dataclass(frozen=True)
class SelfTest:
    """What the harness made of a kernel of known length.

    Attributes:
        expected_ns, expected_backward_ns: how long forward and backward take; ns.
        forward_ns, backward_ns: the medians it measured; of several ways to time, those furthest off; ns.
        error_frac: the larger of the two's distances from what is expected, as a fraction of it.
    """

    expected_ns: int
    expected_backward_ns: int
    forward_ns: float
    backward_ns: float
    error_frac: float


def run(device: torch.device, spin: Spin | None = None) -> SelfTest:
    """Times the kernel of known length; takes some seconds.

    Args:
        spin: stands in for the device's own.

    Raises:
        Unsupported: Triton is missing on a GPU.
    """
    busy = spin or (own_kernel("triton_spin", "spin")() if device.type == "cuda" else _HostSpin())
    forward_ns, backward_ns = LENGTHS_NS[device.type]
    forward = _furthest(_forward(busy, device), device, forward_ns)
    backward = _furthest(_backward(busy, device), device, backward_ns)
    error_frac = max(abs(forward / forward_ns - 1), abs(backward / backward_ns - 1))
    return SelfTest(forward_ns, backward_ns, forward, backward, error_frac)


def _furthest(make: Callable[[int], Callable[[], object]], device: torch.device, expected_ns: int) -> float:
    """Of the medians in all ways, the one furthest from what is expected; ns."""
    medians = [median(time_calls(make, device, plan).samples_ns) for plan in WAYS[device.type]]
    return max(medians, key=lambda found: abs(found - expected_ns))


class _Spinning(torch.autograd.Function):
    """A number, copied slowly, with a gradient that is copied more slowly."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, spin: Spin) -> Tensor:
        ctx.spin = spin
        out = torch.empty_like(x)
        spin(x, out, LENGTHS_NS[x.device.type][0])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        d_x = torch.empty_like(gradient)
        ctx.spin(gradient, d_x, LENGTHS_NS[gradient.device.type][1])
        return d_x, None


_spinning: Callable[[Tensor, Spin], Tensor] = _Spinning.apply


def _forward(spin: Spin, device: torch.device) -> Callable[[int], Callable[[], object]]:
    def make(_number: int) -> Callable[[], object]:
        x = torch.randn(1, device=device, requires_grad=True)
        return _called(spin, lambda: _spinning(x, spin))

    return make


def _backward(spin: Spin, device: torch.device) -> Callable[[int], Callable[[], object]]:
    def make(_number: int) -> Callable[[], object]:
        x, upstream = torch.randn(1, device=device, requires_grad=True), torch.randn(1, device=device)
        y = _spinning(x, spin)
        return _called(spin, lambda: torch.autograd.grad(y, x, upstream, retain_graph=True))

    return make


def _called(spin: Spin, call: Callable[[], object]) -> Callable[[], object]:
    """The call; a spin on the host counts from where it begins."""
    if not isinstance(spin, _HostSpin):
        return call

    def begun() -> object:
        spin.began_ns = time.perf_counter_ns()
        return call()

    return begun


class _HostSpin:
    """A loop that ends so many nanoseconds after ``began_ns``."""

    began_ns = 0

    def __call__(self, x: Tensor, out: Tensor, length_ns: int) -> None:
        end_ns = self.began_ns + length_ns
        while time.perf_counter_ns() < end_ns:
            pass
        out.copy_(x)
