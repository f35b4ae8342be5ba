"""Public libraries beside ours on a GPU: our logits, the fast ways as they are documented, and CUDA graphs in both."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from hybridbench.arch.families import build_spec
from hybridbench.public.cells import Venue, compare_cell
from hybridbench.public.rounds import Rounds
from hybridbench.public.ways import ways
from hybridbench.record import Status
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import DECODE, TRAIN, Workload

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LIBRARIES = {"transformer": "transformers", "mamba": "mamba_ssm"}
FLASH = "flash_attention_2"
"""Ways that need flash_attn, which may be missing."""


def executed(workload: str, arch: str, context: int) -> None:
    if importlib.util.find_spec(LIBRARIES[arch]) is None:
        pytest.skip(f"{LIBRARIES[arch]} is not installed")
    mode = "graph" if workload == DECODE else "eager"
    case = Case(build_spec(arch, "100m"), Workload(workload, context, 2), Execution("cuda", "bfloat16", mode))
    rows = list(compare_cell(case, Venue(torch.device("cuda", 0), Rounds(count=6, warmup_s=0.5))))
    assert [row.way for row in rows] == [way.words for way in ways(workload, arch, "cuda")]
    for row in rows:
        if row.way.startswith(FLASH) and importlib.util.find_spec("flash_attn") is None:
            assert row.status is Status.UNSUPPORTED
            continue
        assert row.status is Status.OK, f"{row.way}: {row.reason}\n{row.traceback}"
        assert row.parameters == row.their_parameters
        assert row.ratio.low <= row.ratio.median <= row.ratio.high
        assert not [note for note in row.notes if "CUDA graphs" in note or "compiled while" in note]


@pytest.mark.parametrize("arch", LIBRARIES)
def test_decode_steps_are_timed_beside_theirs(arch: str) -> None:
    executed(DECODE, arch, 2048)


@pytest.mark.parametrize("arch", LIBRARIES)
def test_training_steps_are_timed_beside_theirs(arch: str) -> None:
    executed(TRAIN, arch, 1024)
