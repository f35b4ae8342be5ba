"""What a record of a decode on two ranks holds, what is predicted beside it, and that its transfers are captured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from two_ranks import on_ranks
from variants import small

from hybridbench.arch import model as arch
from hybridbench.arch.families import build_spec
from hybridbench.derive.doubts import problems
from hybridbench.metrics import value
from hybridbench.model.build import build_model, resolve_backends
from hybridbench.ranks.place import place_of
from hybridbench.ranks.watch import collectives
from hybridbench.record import Record, Status
from hybridbench.runner import run_sweep
from hybridbench.store import RecordWriter, load
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.suite.workloads import Workload
from hybridbench.workload import prepare

fork = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.mark.slow
def test_a_decode_on_two_ranks_records_each_rank_and_what_transfers_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sweep = Sweep("decode", arch="inter", scale="toy", ctx="64", batch="2", device="cpu", tp="2", max_time_s=1.0)
    with RecordWriter(tmp_path) as writer:
        run_sweep(cases(sweep, has_gpu=False), writer)
    (found,) = load([tmp_path], pytest.fail)
    assert isinstance(found, Record)
    assert found.status is Status.OK, found.message
    seen = found.observed
    assert seen is not None
    part = arch.shard(found.case.model, 2)
    assert [rank.rank for rank in seen.ranks] == [0, 1]
    for rank in seen.ranks:
        assert len(rank.samples_ns) == len(seen.samples_ns) >= 5
        assert rank.memory.weights_bytes == arch.weight_bytes(part, found.case.execution.storage)
    assert seen.samples_ns == [max(run) for run in zip(*(rank.samples_ns for rank in seen.ranks), strict=True)]
    assert seen.parameters == value(found, "predicted_params") == arch.params(part)
    assert problems(found) == [], "its parameters and cache bytes are those predicted of a rank"
    step = value(found, "step_s")
    assert step
    assert value(found, "gpu_tokens_per_s") == pytest.approx(2 / step / 2)
    exposed = value(found, "exposed_s")
    assert exposed is not None
    assert seen.silent_ns
    assert 0 <= exposed < step
    links, sent = seen.links, value(found, "transfer_bytes")
    assert links is not None
    assert sent
    gathered = 2 * 8  # the other rank's best logit and its word, of two sequences
    by_hand = gathered / links.all_gather_bytes_per_s + (sent - gathered) / links.all_reduce_bytes_per_s
    assert value(found, "transfer_s") == pytest.approx(by_hand)
    assert 0 < (value(found, "scaling_floor_frac") or 0) <= 1


def captured_transfers() -> list[int]:
    """Collectives begun while a step is captured, while it is replayed, and of the case before and after."""
    spec = small(build_spec("inter", "toy"))
    case = Case(spec, Workload("decode", 40, 2), Execution("cpu", "float32", "graph", tp=2))
    place = place_of(case)
    assert place is not None
    resolved = resolve_backends(place.part)
    model = build_model(place.part, resolved)
    place.allocate(model, resolved, torch.device("cpu"))
    in_capture: list[int] = []

    def capture(step: Callable[[], object], **_options: Any) -> Callable[[], object]:
        """Stands for a CUDA graph, which records what runs now, and runs nothing of Python's when it is replayed."""
        before = collectives().begun
        step()
        in_capture.append(collectives().begun - before)
        return lambda: None

    from hybridbench.workload import decode

    decode.captured = capture  # type: ignore[assignment]
    ready = prepare(place.part, model)
    before = collectives().begun
    ready.step()
    dist.barrier()
    return [*in_capture, collectives().begun - before - 1]


@fork
def test_all_transfers_of_a_decode_step_are_inside_its_capture() -> None:
    """An all-reduce after the embedding and each sublayer, one of each Mamba-2's norm, and what picks the token."""
    spec = build_spec("inter", "toy")
    mamba = sum(block.kind == "mamba2" for block in spec.placed)
    for in_capture, outside in on_ranks(2, captured_transfers):
        assert in_capture == 1 + len(spec.layers) + mamba + 1
        assert outside == 0, "a replayed step waits for no other on the host"
