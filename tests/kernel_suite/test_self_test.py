"""The harness finds the length of a kernel of known length, and the self-test says so where it does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hybridbench.kernel_suite import self_test, timing

CPU = torch.device("cpu")
BOUND = 0.35
"""Autograd takes a tenth of the shorter length, a machine that is busy more; off by a factor of two is 1 or 0.5."""


def test_the_harness_is_right_about_a_kernel_of_known_length() -> None:
    """In one of three tries: other programs can only make it look slower, and a wrong factor is wrong in all."""
    tries = []
    for _ in range(3):
        found = self_test.run(CPU)
        tries.append(found)
        if found.error_frac < BOUND:
            break
    assert tries[-1].error_frac < BOUND, tries
    assert (found.expected_ns, found.expected_backward_ns) == (200_000, 600_000)


class Harness:
    """A clock that only the kernel moves, read by a timer that may be wrong.

    Args:
        factor: what it makes of each duration.
        flushed: what it adds to each; ns.
    """

    name, resolution_ns = "harness", 1

    def __init__(self, factor: float = 1.0, flushed: int = 0) -> None:
        self.now_ns = 0
        self.factor, self.flushed = factor, flushed

    def spin(self, x: Any, out: Any, length_ns: int) -> None:
        self.now_ns += length_ns
        out.copy_(x)

    def sample(self, step: Any, count: int, before: Any) -> list[int]:
        durations_ns = []
        for _ in range(count):
            before()
            start_ns = self.now_ns
            step()
            durations_ns.append(round(self.factor * (self.now_ns - start_ns)) + self.flushed)
        return durations_ns

    def runs(self, count: int) -> int:
        return count


@pytest.mark.parametrize(
    ("harness", "error"),
    [
        (Harness(), 0),
        (Harness(factor=0.5), 0.5),
        (Harness(factor=2), 1),
        (Harness(flushed=40_000), 0.2),  # of the forward, which is shorter
    ],
)
def test_what_the_harness_is_off_by_is_told(monkeypatch: pytest.MonkeyPatch, harness: Harness, error: float) -> None:
    monkeypatch.setattr(timing, "timer_for", lambda _: harness)
    found = self_test.run(CPU, harness.spin)
    assert found.error_frac == pytest.approx(error)
    assert found.forward_ns == 200_000 * harness.factor + harness.flushed
    assert found.backward_ns == 600_000 * harness.factor + harness.flushed


def test_a_forward_that_is_timed_in_the_backward_s_place_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness()
    monkeypatch.setattr(timing, "timer_for", lambda _: harness)
    monkeypatch.setattr(self_test, "_backward", self_test._forward)
    assert self_test.run(CPU, harness.spin).error_frac == pytest.approx(2 / 3)


PROGRAM = """
import json, sys
import torch
from hybridbench.gate.observe.nowhere import Nowhere
from triton.runtime.driver import driver
driver.set_active(Nowhere())
from hybridbench.kernels.triton_spin import spin_kernel
one = torch.empty(1, device="meta")
print(json.dumps({"ptx": spin_kernel.warmup(one, one, 200_000, num_warps=1, grid=(1,)).asm["ptx"]}))
"""


@pytest.mark.slow
def test_the_gpu_s_kernel_compiles_for_hopper_and_reads_the_clock_in_a_loop() -> None:
    pytest.importorskip("triton")
    kernels = str(Path(__file__).parents[1] / "kernels")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join([kernels, *sys.path])}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    before, loop, after = json.loads(done.stdout)["ptx"].partition("=>This Inner Loop Header")
    assert loop, "the clock is read only once"
    body, branch, after = after.partition("bra")
    assert branch, "nothing leads back"
    assert before.count("%globaltimer") == body.count("%globaltimer") == 1
    assert before.count("ld.global") == 1
    assert after.count("st.global") == 1, "the result is stored once the time is up"
