"""Memory that a test leaves is given back, since several processes may share one GPU; one that lost its GPU ends."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


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
