"""self_test: whether the timing is right: work of a known length, timed like any other."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from hybridbench.kernel_suite.timing import Plan, time_calls
from hybridbench.stats import median


@dataclass(frozen=True)
class SelfTest:
    """What should have taken ``expected_ns`` and what was measured, forward and backward; ``error_frac`` the worse."""

    expected_ns: int
    forward_ns: float
    backward_ns: float
    error_frac: float


class _Spin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: torch.Tensor, ns: int) -> torch.Tensor:
        ctx.ns = ns  # type: ignore[attr-defined]
        _spin(ns)
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        _spin(ctx.ns)  # type: ignore[attr-defined]
        return gradient, None


def _spin(ns: int) -> None:
    until = time.perf_counter_ns() + ns
    while time.perf_counter_ns() < until:
        pass


def run(device: torch.device, expected_ns: int = 2_000_000) -> SelfTest:
    """Times a spin of a known length."""
    x = torch.ones(8, requires_grad=True)

    def both() -> object:
        return torch.autograd.grad(_Spin.apply(x, expected_ns // 2), x, torch.ones(8))  # type: ignore[no-untyped-call]

    plan = Plan(allocations=1, rotate=1, max_time_s=0.1)
    forward = median(time_calls(lambda _i: lambda: _spin(expected_ns), device, plan).samples_ns)
    backward = median(time_calls(lambda _i: both, device, plan).samples_ns)
    worst = max(abs(one - expected_ns) / expected_ns for one in (forward, backward))
    return SelfTest(expected_ns, forward, backward, worst)
