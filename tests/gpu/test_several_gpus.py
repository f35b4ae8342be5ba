"""Cases on two GPUs: what they compute is what one GPU computes, their records are whole, and a rank may die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from hybridbench.machine import visible_gpus
from hybridbench.metrics import value
from hybridbench.record import Record, Status
from hybridbench.runner import run_sweep
from hybridbench.standing import Standing
from hybridbench.store import RecordWriter
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.team import _settings

HERE = Path(__file__).parent
RANKS = 2

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(torch.cuda.device_count() < RANKS, reason="needs two CUDA devices"),
]


def printed(*words: str, ranks: int) -> list[list[float]]:
    """What ``steps_on_ranks.py`` prints on each rank."""
    program = [sys.executable, str(HERE / "steps_on_ranks.py"), *words]
    gpus = visible_gpus()
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for rank in range(ranks):
            standing = Standing(rank, ranks, Path(folder) / "meeting", 300.0)
            settings = {**os.environ, **standing.to_environment(), **_settings(ranks, gpus, rank)}
            started.append(subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=settings))
        said = [process.communicate(timeout=600) for process in started]
    for process, (_, errors) in zip(started, said, strict=True):
        assert process.returncode == 0, errors.decode()[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


@pytest.mark.parametrize("way", ["gpus", "tp"])
@pytest.mark.parametrize("arch", ["transformer", "inter", "intra"])
def test_losses_are_those_of_one_gpu(arch: str, way: str) -> None:
    (alone,) = printed("train", arch, "100m", "1024", "1", way, ranks=1)
    for losses in printed("train", arch, "100m", "1024", str(RANKS), way, ranks=RANKS):
        assert losses == pytest.approx(alone, rel=5e-3)


@pytest.mark.parametrize("arch", ["transformer", "swa", "mamba", "inter", "intra"])
def test_logits_are_those_of_one_gpu(arch: str) -> None:
    (alone,) = printed("generate", arch, "100m", "520", "1", "tp", ranks=1)
    expected = torch.tensor(alone)
    for logits in printed("generate", arch, "100m", "520", str(RANKS), "tp", ranks=RANKS):
        assert float((torch.tensor(logits) - expected).norm() / expected.norm()) < 6e-2


def records(tmp_path: Path, kind: str, **options: Any) -> list[Record]:
    planned = cases(Sweep(kind, scale="1b", max_time_s=2.0, **options), has_gpu=True)
    with RecordWriter(tmp_path) as writer:
        return run_sweep(planned, writer, gpus=[",".join(visible_gpus()[:RANKS])])


def test_training_at_1b_on_one_gpu_and_on_two(tmp_path: Path) -> None:
    one, two = records(tmp_path, "train", arch="inter", ctx="8k", batch="4", gpus="1,2")
    assert [one.status, two.status] == [Status.OK, Status.OK], two.message
    assert two.observed is not None
    assert [rank.rank for rank in two.observed.ranks] == [0, 1]
    peaks = [value(one, "peak_allocated_bytes"), value(two, "rank_peak_bytes")]
    assert None not in peaks
    assert (peaks[1] or 0) < 0.7 * (peaks[0] or 0), "weights, gradients and moments are divided, and so is the batch"
    exposed, step, alone = value(two, "exposed_s"), value(two, "step_s"), value(one, "step_s")
    assert exposed is not None
    assert step is not None
    assert alone is not None
    assert exposed < 0.5 * step
    assert step < 0.8 * alone
    assert (value(two, "transfer_s") or 0) < step


def test_decoding_at_1b_is_fused_and_captured_on_two_gpus(tmp_path: Path) -> None:
    found = records(tmp_path, "decode", arch="transformer,inter,intra", ctx="8k", batch="4", tp="1,2")
    for one, two in zip(found[::2], found[1::2], strict=True):
        assert [one.status, two.status] == [Status.OK, Status.OK], two.message
        assert two.observed is not None
        assert {use.op: use.backend for use in two.observed.backends}["decode_step"] == "fused"
        assert two.observed.silent_ns
        step, alone = value(two, "step_s"), value(one, "step_s")
        assert step is not None
        assert alone is not None
        assert step < alone
        assert (value(two, "cache_bytes") or 0) < 0.6 * (value(one, "cache_bytes") or 0)
