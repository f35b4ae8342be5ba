"""What a step must do: every kind of workload has its phases, which add up to its step."""

from __future__ import annotations

from typing import Any

import pytest

from hybridbench.arch import model as arch
from hybridbench.arch.block import Convention, Storage
from hybridbench.arch.families import Options, build_spec
from hybridbench.predict.work import PHASE_OF, Phase, phases, step_bytes, step_flops
from hybridbench.suite.workloads import DECODE, GENERATE, PASSES, PREFILL, TRAIN, WORKLOADS, Workload

SPEC, STORAGE = build_spec("inter", "tiny"), Storage()


def workload(kind: str) -> Workload:
    return Workload(kind, context=96, batch=3, prompt=64 if kind == GENERATE else 0)


def test_every_workload_has_phases_that_add_up_to_its_step() -> None:
    assert set(PHASE_OF) == set(PASSES)
    for kind in WORKLOADS:
        found = phases(SPEC, workload(kind), STORAGE)
        assert len(found) == (2 if kind == GENERATE else 1)
        assert sum(phase.flops for phase in found) == step_flops(SPEC, workload(kind)) > 0
        assert sum(phase.moved_bytes for phase in found) == step_bytes(SPEC, workload(kind), STORAGE) > 0


def test_steps_by_hand() -> None:
    weights = arch.weight_bytes(SPEC, STORAGE)
    (train,), (prefill,) = phases(SPEC, workload(TRAIN), STORAGE), phases(SPEC, workload(PREFILL), STORAGE)
    assert train == Phase(3 * arch.train_flops(SPEC, 96).total, weights)
    written = 3 * arch.cache_bytes(SPEC, 96, STORAGE).total
    assert prefill == Phase(3 * arch.prefill_flops(SPEC, 96).total, weights + written)
    (decode,) = phases(SPEC, workload(DECODE), STORAGE)
    moved = arch.decode_bytes_moved(SPEC, 96, 3, STORAGE)
    assert decode == Phase(3 * arch.decode_flops(SPEC, 96).total, moved)


def test_a_generation_is_its_prefill_and_then_its_decode_steps() -> None:
    prefill, decoding = phases(SPEC, workload(GENERATE), STORAGE)
    assert (prefill,) == phases(SPEC, Workload(PREFILL, 64, 3), STORAGE)
    steps = [phases(SPEC, Workload(DECODE, depth, 3), STORAGE)[0] for depth in range(64, 96)]
    assert decoding.flops == sum(step.flops for step in steps)
    assert decoding.moved_bytes == sum(step.moved_bytes for step in steps)


def test_a_generation_has_flops_in_one_convention_only() -> None:
    with pytest.raises(ValueError, match="no closed form"):
        step_flops(SPEC, workload(GENERATE), Convention.HARDWARE)


def test_what_no_context_changes_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a range of contexts, parameters and weights are counted for the first one alone."""
    spec = build_spec("inter", "tiny", Options(ratio="1:3"))
    counted: list[str] = []
    for block in {type(block) for block, _ in spec.uses}:
        for name in ("params", "weight_bytes", "weight_traffic"):
            whole = getattr(block, name)

            def call(*args: Any, whole: Any = whole, name: str = name, **options: Any) -> Any:
                counted.append(name)
                return whole(*args, **options)

            monkeypatch.setattr(block, name, call)
    after = []
    for context in range(1, 50):
        arch.cost(spec, context)
        phases(spec, Workload(DECODE, context, 2), STORAGE)
        phases(spec, Workload(GENERATE, context + 8, 2, prompt=8), STORAGE)
        after.append(len(counted))
    assert set(counted) == {"params", "weight_bytes", "weight_traffic"}
    assert after[1:] == [after[0]] * 48


def test_a_spec_finds_an_equal_one_and_no_other() -> None:
    """What is computed once is kept by spec, so an equal spec has to find it and one with another block must not."""
    one, same, other = (build_spec("swa", "tiny", Options(window=window)) for window in (64, 64, 128))
    assert {one: 1}[same] == 1
    assert other not in {one: 1}
    assert arch.cost(one, 4096).kv_cache_bytes < arch.cost(other, 4096).kv_cache_bytes
