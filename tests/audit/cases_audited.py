"""Cases that are audited: on plain kernels in this process, and those of a GPU."""

from __future__ import annotations

from dataclasses import replace

from hybridbench.arch.families import Options, build_spec, pattern_spec
from hybridbench.arch.model import ModelSpec
from hybridbench.audit import run
from hybridbench.audit.judge.views import Audit
from hybridbench.audit.observe.counters import observe
from hybridbench.audit.profiling import Kernels
from hybridbench.audit.run import judged
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import TRAIN, Workload

SMALL = Options(vocab_size=64)
EVERYTHING = pattern_spec("M-*ES-(*&M)-", "tiny", replace(SMALL, window=40, sinks=8))
"""Every kind of block whose counts are explained to the last FLOP, once."""
TILE = (128, 256, 64)
"""A tile of a matrix product."""


def case_of(spec: ModelSpec, kind: str, context: int = 70, batch: int = 2, **backends: str) -> Case:
    return Case(spec, Workload(kind, context, batch), Execution("cpu", "float32", "eager", backends=backends))


def audited(case: Case) -> Audit:
    """One case observed in this process, which has torch already, and judged.

    Nothing is verified, as in a process that counts what another one has verified.
    """
    return judged(case, observe(case, None), Kernels(None, run.NO_GPU))


def gpu_case(kind: str = TRAIN) -> Case:
    spec = build_spec("inter", "100m")
    return Case(spec, Workload(kind, 2048, 1), Execution("cuda", "bfloat16", "eager"))
