"""The hardware convention against the GPU's own counters, on the five families: within 2%."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hybridbench.arch.families import ARCHS, build_spec
from hybridbench.audit.exchange import Observation, ask
from hybridbench.audit.judge.views import GPU, HARDWARE
from hybridbench.audit.run import audit
from hybridbench.count import ncu
from hybridbench.count.account import FVCORE, TORCH
from hybridbench.machine import alike_gpus, visible_gpus
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import PREFILL, TRAIN, Workload

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(ncu.find() is None, reason="needs Nsight Compute"),
]


@pytest.mark.parametrize("kind", [TRAIN, PREFILL])
def test_hardware_convention_is_what_the_counters_say(kind: str) -> None:
    specs = [build_spec(arch, "100m") for arch in ARCHS]
    cases = [Case(spec, Workload(kind, 2048, 1), Execution("cuda", "bfloat16", "eager")) for spec in specs]
    told: list[str] = []
    found = audit(cases, limit_s=850, gpus=alike_gpus(visible_gpus()), progress=told.append)
    assert len(told) == 3 * len(cases), told
    assert not [line for line in told if " not " in line]
    for one in found:
        assert [view.error for view in one.views.values()] == [None] * len(one.views), one.case.label
        hardware, counted = one.views[HARDWARE].total, one.views[GPU].total
        print(f"{one.case.label}: {counted / hardware - 1:+.4f}, left {one.unexplained(GPU)}")  # noqa: T201
        assert abs(counted - hardware) <= 0.02 * hardware, one.case.label
        assert abs(sum(one.unexplained(GPU).values())) <= 1e-4 * hardware, one.case.label
        vector = [group.vector_flops for group in one.groups]
        assert None not in vector
        assert any(vector)
        assert one.unexplained(TORCH) == one.unexplained(FVCORE) == {}, one.case.label


def test_the_process_that_the_profiler_watches_tunes_nothing(tmp_path: Path) -> None:
    """Else its tiles could be others than those observed, and tuning under a profiler takes minutes."""
    published = Execution("cuda", "bfloat16", "eager", backends={"mamba2_core": "mamba-ssm"})  # ours tune nothing
    case = Case(build_spec("inter", "100m"), Workload(TRAIN, 2048, 1), published)
    asked, seen = tmp_path / "asked.json", tmp_path / "seen.jsonl"
    # Some kernels keep on disk what their tuners chose, and then tune no more.
    environment = {**os.environ, "TRITON_PRINT_AUTOTUNING": "1", "TRITON_CACHE_DIR": str(tmp_path / "triton")}

    def said(module: str, *files: Path) -> str:
        words = [sys.executable, "-m", f"hybridbench.audit.observe.{module}", *map(str, files)]
        return subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout

    asked.write_text(json.dumps([case.to_dict()]))
    assert "Triton autotuning for function" in said("counters", asked, seen)
    (observed,) = [Observation.from_dict(json.loads(line)) for line in seen.read_text().splitlines()]
    assert observed.tuned
    ask(asked, case, observed.tuned)
    assert "Triton autotuning for function" not in said("profiled", asked)
