"""Predicted memory: parts by hand, moments in order, and within 5% of every peak that was recorded for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hybridbench.arch import model as arch
from hybridbench.arch.activations import activations
from hybridbench.arch.block import Storage
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.families import ARCHS, build_spec, pattern_spec
from hybridbench.arch.terms import Term, largest, total
from hybridbench.errors import BadInput
from hybridbench.metrics import value
from hybridbench.predict.memory import decode_memory, prefill_memory, train_memory
from hybridbench.record import Record, Status
from hybridbench.store import load, newest
from hybridbench.suite.case import CHECKPOINTS
from hybridbench.suite.workloads import GENERATE

STORAGE = Storage()
MEASURED = Path(__file__).parents[2] / "results" / "nvidia-h200"
TOLERANCE = 0.05


def test_terms_add_up_over_tokens() -> None:
    terms = (Term("a", 3), Term("b", 2, fixed=7), Term("freed", -1))
    assert total(terms, 10) == 30 + 27 - 10
    assert largest([terms, (Term("c", 6),)], 10) == 60
    assert largest([], 10) == 0


def test_a_transformer_block_by_hand() -> None:
    """1B: 32 query and 8 KV heads of 64, 8,192 wide: inputs, q k v, output, log-sum-exp; gate, up and their product."""
    spec = build_spec("transformer", "1b")
    attention = total(activations(spec.blocks["*"], STORAGE).saved, 1)
    assert attention == 2 * 2048 + 2 * (32 + 2 * 8) * 64 + 2 * 32 * 64 + 4 * 32
    mlp = total(activations(spec.blocks["-"], STORAGE).saved, 1)
    assert mlp == 2 * 2048 + 2 * 2 * 8192 + 2 * 8192


def test_training_peaks_at_the_loss_by_hand() -> None:
    """Two moments of AdamW, no gradient but the head's in float32 beside a chunk of logits, everything saved."""
    spec, tokens = build_spec("transformer", "1b"), 4 * 8192
    found = train_memory(spec, 8192, 4, STORAGE)
    head = 128_256 * 2048
    assert found.weights == 1_235_814_400 * 2
    assert found.optimizer == 2 * found.weights
    assert found.gradients == 0
    assert found.head == head * 4 + tokens * 2048 * 2 + 8192 * 128_256 * 2
    block = sum(total(activations(spec.blocks[s], STORAGE).saved, 1) for s in "*-")
    assert found.activations == tokens * (16 * (block + 2 * 2 * 2048) + 2 * 2 * 2048)


def test_a_short_step_peaks_when_all_gradients_are_there() -> None:
    spec = build_spec("inter", "1b")
    found = train_memory(spec, 16, 1, STORAGE)
    head = spec.vocab_size * spec.d_model * 2
    blocks = sum(n * spec.blocks[s].weight_bytes(STORAGE) for s, n in spec.counts.items())
    assert (found.gradients, found.head) == (blocks, 2 * head)


@pytest.mark.parametrize("family", ARCHS)
def test_keeping_less_takes_less(family: str) -> None:
    spec = build_spec(family, "350m")
    peaks = [train_memory(spec, 8192, 2, STORAGE, checkpoint).total for checkpoint in CHECKPOINTS]
    assert peaks == sorted(set(peaks), reverse=True)
    assert peaks[0] > 2 * peaks[-1]


def test_prefill_is_its_hungriest_block_once() -> None:
    spec, tokens = build_spec("transformer", "1b"), 4 * 4096
    found = prefill_memory(spec, 4096, 4, STORAGE)
    assert found.activations == tokens * (3 * 2 * 2048 + 2 * 3 * 8192)
    assert found.cache == 4 * arch.cache_bytes(spec, 4096, STORAGE).total
    assert prefill_memory(replace(spec, pattern=spec.pattern * 2), 4096, 4, STORAGE).activations == found.activations


def test_float32_takes_twice_of_what_has_a_dtype() -> None:
    spec = pattern_spec("M-*-", "350m")
    half, single = (decode_memory(spec, 1024, 2, Storage.of(dtype)) for dtype in ("bfloat16", "float32"))
    assert single.cache == 2 * half.cache
    assert single.head == 2 * half.head


def test_what_no_module_runs_has_no_formula() -> None:
    spec = pattern_spec("M-", "tiny")
    plain = replace(spec, blocks={**spec.blocks, "-": Mlp(128, 384, gated=False)})
    with pytest.raises(BadInput, match="mlp with gated False"):
        train_memory(plain, 64, 1, STORAGE)
    assert decode_memory(plain, 64, 1, STORAGE).total
    with pytest.raises(BadInput, match="did you mean 'selective'"):
        train_memory(spec, 64, 1, STORAGE, "selectiv")


def recorded() -> list[Record]:
    if not MEASURED.exists():
        return []
    return [
        record
        for record in newest(load([MEASURED], lambda text: None))
        if record.status is Status.OK
        and record.case.model.scale in ("350m", "1b", "3b")
        and record.case.workload.kind != GENERATE
    ]


@pytest.mark.parametrize("record", recorded(), ids=lambda record: record.case.label)
def test_predicted_peaks_are_near_the_measured_ones(record: Record) -> None:
    measured, predicted = value(record, "peak_allocated_bytes"), value(record, "predicted_peak_bytes")
    assert measured is not None
    assert predicted is not None
    assert predicted / measured == pytest.approx(1, abs=TOLERANCE)
