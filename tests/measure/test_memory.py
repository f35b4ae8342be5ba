"""Bytes are summed over storages, each once, and what is not known is None."""

from __future__ import annotations

import torch
from torch import nn

from hybridbench.measure.memory import (
    gradients_bytes,
    observe_memory,
    optimizer_bytes,
    reset_peaks,
    tensor_bytes,
    weights_bytes,
)

CPU = torch.device("cpu")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("positions", torch.zeros(3, dtype=torch.int64))


def test_a_storage_counts_once_and_whole() -> None:
    whole = torch.zeros(8, 4)
    assert tensor_bytes([whole, whole[1:3], whole.view(32)]) == 8 * 4 * 4
    assert tensor_bytes([whole[1:3]]) == 8 * 4 * 4
    assert tensor_bytes([whole, torch.zeros(8, 4)]) == 2 * 8 * 4 * 4
    assert tensor_bytes([torch.empty(5, device="meta"), torch.empty(0)]) == 0


def test_weights_are_parameters_and_buffers_with_tied_ones_once() -> None:
    assert weights_bytes(Tied()) == 10 * 4 * 4 + 3 * 8
    assert weights_bytes(Tied().to(torch.bfloat16)) == 10 * 4 * 2 + 3 * 8


def test_training_state_is_none_until_there_is_some() -> None:
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters())
    assert gradients_bytes(model) is None
    assert optimizer_bytes(None) is None
    model.head(model.embedding(torch.arange(10))).sum().backward()
    optimizer.step()
    assert gradients_bytes(model) == 160
    assert optimizer_bytes(optimizer) == 2 * 160 + 4  # two moments and a step count in fp32


def test_the_cpu_has_no_peaks() -> None:
    reset_peaks(CPU)
    memory = observe_memory(CPU, Tied(), cache_bytes=7)
    assert (memory.weights_bytes, memory.cache_bytes) == (184, 7)
    assert memory.peak_allocated_bytes is None
    assert memory.peak_reserved_bytes is None
    assert memory.gradients_bytes is None
    assert memory.optimizer_bytes is None
