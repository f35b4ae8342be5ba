"""Processes of pytest-xdist take turns at the GPUs there are, give back what a test left, and end without their GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hybridbench.machine import visible_gpus

HERE = Path(__file__).parent


def pytest_configure() -> None:
    """Before anything asks CUDA for its devices, since it reads the variable once."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    gpus = visible_gpus()
    if worker and gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(worker) % len(gpus)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What third parties warn about while they compile is theirs, and each warns once per process: elsewhere a warning
    is an error, which would fail whichever test comes first.
    """
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(autouse=True)
def give_memory_back() -> Iterator[None]:
    """After an illegal access nothing runs in the process any more, and every test to come would fail of it.

    pytest-xdist starts another process in the place of one that ended, and goes on.
    """
    yield
    if not torch.cuda.is_available():
        return
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as lost:
        if "PYTEST_XDIST_WORKER" in os.environ:
            os._exit(1)
        pytest.exit(f"the GPU is lost to this process: {lost}", returncode=1)
