"""The hardware convention against the GPU's own counters, on the five families: within 2%."""

from __future__ import annotations

import pytest
import torch

from hybridbench.arch.families import ARCHS, build_spec
from hybridbench.audit.run import audit
from hybridbench.audit.views import FVCORE, GPU, HARDWARE, TORCH
from hybridbench.count import ncu
from hybridbench.suite import PREFILL, TRAIN, Case, Execution, Workload

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(ncu.find() is None, reason="needs Nsight Compute"),
]


@pytest.mark.parametrize("kind", [TRAIN, PREFILL])
def test_hardware_convention_is_what_the_counters_say(kind: str) -> None:
    specs = [build_spec(arch, "100m") for arch in ARCHS]
    found = audit([Case(spec, Workload(kind, 2048, 1), Execution("cuda", "bfloat16", "eager")) for spec in specs])
    for one in found:
        assert [view.error for view in one.views.values()] == [None] * len(one.views), one.case.label
        hardware, counted = one.views[HARDWARE].total, one.views[GPU].total
        print(f"{one.case.label}: {counted / hardware - 1:+.4f}, left {one.unexplained(GPU)}")  # noqa: T201
        assert abs(counted - hardware) <= 0.02 * hardware, one.case.label
        assert one.unexplained(TORCH) == one.unexplained(FVCORE) == {}, one.case.label
