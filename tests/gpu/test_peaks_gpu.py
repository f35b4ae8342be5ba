"""A case's peak of memory does not depend on what ran before it in its process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any
from unittest.mock import patch

import pytest
import torch

from hybridbench.bench import Bench
from hybridbench.plain import from_plain
from hybridbench.record import Observed, Status
from hybridbench.suite.case import Case
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.worker import answer_for, free_memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # what third parties warn about while compiling is theirs
]


def case(workload: str, arch: str, ctx: str, **options: Any) -> Case:
    sweep = Sweep(workload, arch=arch, scale="100m", ctx=ctx, batch="4", device="cuda", max_time_s=0.1, **options)
    (found,) = cases(sweep, has_gpu=True)
    return found


def peak(bench: Bench, one: Case) -> int:
    """Requested bytes, with everything given back afterwards as a worker does."""
    answer = answer_for(one, bench)
    assert answer["status"] == Status.OK, answer
    memory = from_plain(Observed, answer["observed"]).memory
    del answer
    free_memory(one)
    assert memory.peak_allocated_bytes is not None
    return memory.peak_allocated_bytes


CASES = {"decode": ("decode", "transformer", "8k"), "prefill": ("prefill", "swa", "4k")}


def peaks(name: str) -> dict[str, int]:
    """The peak of a case that comes first in this process, and of the same case after others.

    Peaks are in requested bytes: the allocator splits no block whose rest is under 1 MiB, so what it counts as
    allocated depends on the blocks that it has kept, though nothing was left in them.
    """
    bench, one = Bench.open("cuda", lambda _name: None), case(*CASES[name])
    first = peak(bench, one)
    # masks of other lengths, plans of other caches, graphs, cuBLAS's workspaces
    for before in (
        case("prefill", "swa", "16k"),
        case("decode", "inter", "32k"),
        case("decode", "swa", "16k", mode="eager"),
    ):
        peak(bench, before)
    left = torch.cuda.memory_allocated()
    return {"first": first, "left": left, "after others": peak(bench, one)}


@pytest.mark.parametrize("name", CASES)
def test_a_peak_is_the_same_first_and_after_others(name: str) -> None:
    """In a process of its own, as cases of a sweep run: in this one other tests may have left memory."""
    done = subprocess.run([sys.executable, __file__, name], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["after others"] == pytest.approx(found["first"], abs=1 << 16), found


def requested_peak(device: torch.device) -> int:
    return int(torch.cuda.memory_stats(device)["requested_bytes.all.peak"])


if __name__ == "__main__":
    with patch.object(torch.cuda, "max_memory_allocated", requested_peak):
        print(json.dumps(peaks(sys.argv[1])))  # noqa: T201
