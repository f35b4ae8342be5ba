"""Fixtures: each block of ``every_block``, and transformers where a test compares with it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from every_block import EVERY_BLOCK, PLAIN

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.attention import Attention


@pytest.fixture(params=EVERY_BLOCK.values(), ids=EVERY_BLOCK.keys())
def block(request: pytest.FixtureRequest) -> Block:
    """One block of every kind, and a parallel block of every fusion there is."""
    found: Block = request.param
    return found


@pytest.fixture(params=[name for name, spec in PLAIN.items() if isinstance(spec, Attention)])
def attention(request: pytest.FixtureRequest) -> Attention:
    """Attention of every shape."""
    found = PLAIN[request.param]
    assert isinstance(found, Attention)
    return found


@pytest.fixture(scope="session")
def library() -> Iterator[SimpleNamespace]:
    """The modules transformers and torch, imported when a test needs them."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("TRANSFORMERS_VERBOSITY", "error")
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    yield SimpleNamespace(torch=torch, transformers=transformers)
    patch.undo()
