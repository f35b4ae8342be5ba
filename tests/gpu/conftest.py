"""Processes of pytest-xdist take turns at the GPUs there are and wait for memory there, give back what a test left, and
end without their GPU.

What compiles for minutes is compiled once, by all cores: tests of the same mixer run in one process, and autotuners
compile their configurations side by side.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sharing import OTHERS, share_of_the_card

from hybridbench.kernels.tuning import side_by_side
from hybridbench.machine import visible_gpus

HERE = Path(__file__).parent


SLOW_TO_COMPILE = ("mamba3", "3-3-", "rwkv7", "kda", "K-K-", "lightning", "gated-delta", "gated_delta", "mamba1")
"""Parts of the names of tests whose kernels tune themselves over many configurations."""


def pytest_configure() -> None:
    """Before anything asks CUDA for its devices, since it reads the variable once."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    gpus = visible_gpus()
    if worker and gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(worker) % len(gpus)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With -n: tests whose names share a part of ``SLOW_TO_COMPILE`` run in one process; the others where one is free.

    Marks (xdist_group) would do, but pytest-xdist 3.8 loses them with pytest 9.
    """
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = lambda nodeid: next((name for name in SLOW_TO_COMPILE if name in nodeid), nodeid)
    return scheduler


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What third parties warn about while they compile is theirs, and each warns once per process: elsewhere a warning
    is an error, which would fail whichever test comes first.
    """
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Around the timer of pytest-timeout too: a test does not pay for its wait."""
    with share_of_the_card(item.path.name):
        return (yield)


@pytest.fixture(autouse=True)
def compiled_side_by_side() -> Iterator[None]:
    """As in every process that measures."""
    with side_by_side():
        yield


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
        if torch.cuda.memory_reserved() > OTHERS // 8:
            gc.collect()
            torch.cuda.empty_cache()
    except RuntimeError as lost:
        if "PYTEST_XDIST_WORKER" in os.environ:
            os._exit(1)
        pytest.exit(f"the GPU is lost to this process: {lost}", returncode=1)
