"""At the size of 4 x 128k tokens, each sequence of a batch gives what it gives alone, whatever kernel runs.

Two blocks of every kind at 1b widths, in prefill at 128k, in training at 8k and in decode at 128k. A case is opened as
a worker opens it, so its own check at size must pass; then the logits of every row are compared once more with those of
the row alone, through the whole model. ``pytest -s`` prints the table:

    pytest tests/gpu/test_at_size_gpu.py -s
"""

from __future__ import annotations

import gc
import sys
import time

import pytest
import torch

from hybridbench.arch.families import pattern_spec
from hybridbench.errors import Unsupported
from hybridbench.session import Proofs, Session, open_session
from hybridbench.suite.case import GRAPH, Case, Execution
from hybridbench.suite.workloads import DECODE, PREFILL, TRAIN, Workload

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # what third parties warn about while compiling is theirs
]

BOUND = 3e-2
"""Of a row's logits: four sublayers round one after the other, with products of another shape."""
ROWS, LONG, TRAINED = 4, 131_072, 8192
STACKS: list[tuple[str, dict[str, str]]] = [
    ("M-M-", {}),
    ("M-M-", {"mamba2_core": "fused"}),
    ("M-M-", {"mamba2_core": "mamba-ssm"}),
    ("M-M-", {"ssd": "mamba-ssm", "conv1d": "causal-conv1d"}),
    ("G-G-", {}),
    ("K-K-", {}),
    ("3-3-", {}),
    ("m-m-", {}),
    ("*-*-", {}),
    ("*-*-", {"attention": "sdpa-cudnn"}),
    ("*-*-", {"attention": "flash-attn"}),
    ("*-S-", {}),
    ("(*&M)-M-", {}),
]
_proofs = Proofs()
_names = [
    f"{pattern} {' '.join(f'{op}={name}' for op, name in backends.items())}".strip() for pattern, backends in STACKS
]


def opened(pattern: str, backends: dict[str, str], kind: str, context: int, mode: str = "eager") -> Session:
    """The case, checked; what cannot run here or is refused at this size is skipped with the sentence that says so."""
    execution = Execution("cuda", "bfloat16", mode, backends=backends)
    case = Case(pattern_spec(pattern, "1b"), Workload(kind, context, ROWS), execution)
    gc.collect()
    torch.cuda.empty_cache()
    try:
        return open_session(case, torch.device("cuda", 0), _proofs)
    except Unsupported as exc:
        pytest.skip(str(exc))


def shown(session: Session, seconds: float, errors: list[float] | None = None) -> None:
    """A line of the table."""
    ran = sorted({f"{item.op}={item.backend.ran}" for item in session.resolved if item.block is not None})
    rows = "" if errors is None else "rows " + " ".join(f"{error:.1e}" for error in errors) + "; "
    checks = "; ".join(
        f"{check.what} {check.error:.1e} of {check.bound:.1e} in {check.worst}" for check in session.sized
    )
    spent = f"check {session.check_ns / 1e9:.2f} s of {seconds:.1f} s"
    head = f"{session.case.model.pattern} {session.case.workload.kind}"
    sys.stdout.write(f"\n{head}: {rows}{checks}; {spent}; {', '.join(ran)}\n")


@pytest.mark.parametrize(("pattern", "backends"), STACKS, ids=_names)
def test_prefill(pattern: str, backends: dict[str, str]) -> None:
    started = time.perf_counter()
    session = opened(pattern, backends, PREFILL, LONG)
    seconds = time.perf_counter() - started
    (token_BT,) = session.work.inputs
    with torch.no_grad():
        whole = session.work.forward(token_BT)
        errors = []
        for row in range(ROWS):
            caches = session.model.new_caches(1, LONG, session.case.execution.storage)
            alone = session.model.prefill(token_BT[row : row + 1], caches)
            errors.append(float((whole[row] - alone[0]).float().norm() / alone[0].float().norm()))
            del caches
    shown(session, seconds, errors)
    assert not session.unchecked
    assert all(error < BOUND for error in errors), errors


@pytest.mark.parametrize(("pattern", "backends"), STACKS, ids=_names)
def test_training(pattern: str, backends: dict[str, str]) -> None:
    started = time.perf_counter()
    session = opened(pattern, backends, TRAIN, TRAINED)
    shown(session, time.perf_counter() - started)
    assert session.sized
    assert not session.unchecked


DECODED = ["M-M-", "G-G-", "K-K-", "3-3-", "m-m-", "*-*-", "*-S-", "(*&M)-M-"]


@pytest.mark.parametrize("pattern", DECODED)
def test_decode(pattern: str) -> None:
    started = time.perf_counter()
    session = opened(pattern, {}, DECODE, LONG, GRAPH)
    shown(session, time.perf_counter() - started)
    assert session.sized
    assert not session.unchecked
