"""Models of any spec, built and allocated on the CPU in float32 (or as asked) for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hybridbench.arch.model import ModelSpec
from hybridbench.model import LanguageModel, build_model, resolve_backends
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import GENERATE, Workload

Build = Callable[..., LanguageModel]


@pytest.fixture
def build() -> Build:
    """``build(spec)``: an allocated model that can prefill and decode."""

    def make(spec: ModelSpec, device: str = "cpu", dtype: str = "float32", seed: int = 0) -> LanguageModel:
        case = Case(spec, Workload(GENERATE, 64, 2, 32), Execution(device, dtype, "eager"))
        model = build_model(case, resolve_backends(case))
        model.allocate(torch.device(device), seed)
        return model

    return make
