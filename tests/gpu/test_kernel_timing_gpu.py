"""Single kernels are timed right on a GPU: a kernel of known length, launched and replayed, hot and cold."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from hybridbench.bench import Bench
from hybridbench.capture import captured
from hybridbench.kernel_suite import self_test, together
from hybridbench.kernel_suite.cell import Budget, Cell
from hybridbench.kernel_suite.timing import Plan, time_calls
from hybridbench.kernel_suite.turns import in_turns
from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import moved_bytes
from hybridbench.problem import Problem
from hybridbench.stats import median

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

GPU = torch.device("cuda", 0)


def test_the_length_of_a_kernel_is_found_forward_and_backward_in_both_ways() -> None:
    found = self_test.run(GPU)
    assert found.error_frac < 0.03, found  # 3 us of launch and 1 us of the timer's step, of 200 us


def test_a_short_call_is_replayed_and_a_long_one_is_not() -> None:
    short = time_calls(lambda _: partial(torch.relu, torch.randn(1024, device=GPU)), GPU, Plan())
    long = time_calls(lambda _: partial(torch.relu, torch.randn(2**28, device=GPU)), GPU, Plan())
    assert (short.graph, short.not_captured, long.graph) == (True, None, False)
    assert median(short.samples_ns) < 10_000


def test_a_backward_can_be_replayed() -> None:
    def make(_number: int) -> partial[object]:
        x = torch.randn(1024, device=GPU, requires_grad=True)
        y = torch.relu(x)
        return partial(torch.autograd.grad, y, x, torch.ones_like(y), retain_graph=True)

    found = time_calls(make, GPU, Plan(graph=True))
    assert (found.graph, found.not_captured) == (True, None)


def test_what_waits_for_the_gpu_is_launched_and_says_why() -> None:
    found = time_calls(lambda _: torch.randn(1024, device=GPU).sum().item, GPU, Plan(graph=True))
    assert not found.graph
    assert found.not_captured


def test_after_a_failed_capture_memory_is_freed_again() -> None:
    stream = torch.cuda.current_stream()
    torch.cuda.empty_cache()
    first = torch.cuda.memory_reserved()
    with pytest.raises(RuntimeError):
        captured(lambda: torch.randn(2**28, device=GPU).sum().item())
    assert torch.cuda.current_stream() == stream
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.empty(2**30, dtype=torch.uint8, device=GPU)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == before < first + 2**28


def test_a_flushed_cache_makes_a_difference() -> None:
    def make(_number: int) -> partial[object]:
        return partial(torch.sum, torch.randn(2**21, device=GPU))  # 8 MiB

    hot, cold = (time_calls(make, GPU, Plan(cold=cold, graph=True)) for cold in (False, True))
    assert median(cold.samples_ns) > 1.1 * median(hot.samples_ns)


def test_backends_take_turns_between_guards_and_know_their_peak() -> None:
    problem = Problem("cuda", "bfloat16", batch=2, length=1024, width=4096)
    cells = [Cell("swiglu", name, problem, sampling=Budget(max_time_s=0.2)) for name in ("triton", "reference")]
    bench = Bench(GPU, None, None, ceilings={"bfloat16": None})
    messages = list(together.work(in_turns(cells)[0], bench))
    answers = [one for one in messages if one["kind"] == "answer"]
    assert [one["status"] for one in answers] == ["ok", "ok"], answers
    triton, reference = (one["observed"] for one in answers)
    assert (triton["turns"], reference["turns"]) == (["reference"], ["triton"])
    assert triton["agreement"]["guarded"]
    least = moved_bytes(OPERATIONS["swiglu"], problem)
    assert least <= triton["peak_allocated_bytes"] < 1.1 * least, "its input and its output"
    assert reference["peak_allocated_bytes"] > triton["peak_allocated_bytes"]
