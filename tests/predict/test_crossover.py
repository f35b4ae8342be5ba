"""Crossings agree with looking at every context one by one; a noisy search brackets where the truth crosses."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from hybridbench.arch import model as arch
from hybridbench.arch.block import Storage
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.families import build_spec, pattern_spec
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput
from hybridbench.machine import find_gpu
from hybridbench.predict.crossover import CURVES, Interval, Lines, Stretch, lines, search, stretches

LAST = 300
H200 = find_gpu("h200")


def by_eye(one: list[float], other: list[float]) -> list[Stretch]:
    """Stretches from the values at contexts 1, 2, 3, ..."""
    found: list[Stretch] = []
    for context, (left, right) in enumerate(zip(one, other, strict=True), start=1):
        less = None if left == right else 0 if left < right else 1
        if found and found[-1].less == less:
            found[-1] = Stretch(found[-1].first, context, less)
        else:
            found.append(Stretch(context, context, less))
    return found


def windowed(spec: ModelSpec, window: int) -> ModelSpec:
    blocks = {
        symbol: replace(block, window=window, sinks=3) if isinstance(block, Attention) and block.window else block
        for symbol, block in spec.blocks.items()
    }
    return replace(spec, blocks=blocks)


TINY = {
    "transformer": build_spec("transformer", "tiny"),
    "swa": windowed(build_spec("swa", "tiny"), 90),
    "narrow": windowed(build_spec("swa", "tiny"), 17),
    "mamba": build_spec("mamba", "tiny"),
    "inter": build_spec("inter", "tiny"),
    "intra": build_spec("intra", "tiny"),
}
PAIRS = [("transformer", "mamba"), ("swa", "mamba"), ("swa", "narrow"), ("inter", "intra"), ("swa", "inter")]


def value(spec: ModelSpec, curve: str, context: int, batch: int) -> float:
    """A figure straight from the cost model, without the curve's code."""
    storage = Storage()
    if curve == "cache":
        return arch.cost(spec, context).cache_bytes
    if curve == "flops":
        return arch.cost(spec, context).train_flops
    if curve == "prefill-flops":
        return arch.cost(spec, context).prefill_flops
    if curve == "decode-flops":
        return arch.cost(spec, context).decode_flops
    compute = batch * arch.decode_flops(spec, context).total * int(H200.memory_bytes_per_s)
    memory = arch.decode_bytes_moved(spec, context, batch, storage) * int(H200.bf16_dense_flops_per_s)
    return max(compute, memory)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_stretches_are_those_of_every_context(curve: str, pair: tuple[str, str]) -> None:
    one, other = (TINY[name] for name in pair)
    # A batch at which arithmetic takes over from memory at short contexts, so that the floor has a bend of its own.
    batch = 400
    made = [lines(spec, curve, batch=batch, gpu=H200, last=LAST) for spec in (one, other)]
    seen = [[value(spec, curve, context, batch) for context in range(1, LAST + 1)] for spec in (one, other)]
    assert stretches(made[0], made[1], LAST) == by_eye(seen[0], seen[1])


def test_several_crossings_and_lasting_equality() -> None:
    parabola = Lines(lambda n: (n - 100) ** 2, ())
    level = Lines(lambda n: 400, ())
    assert stretches(parabola, level, 200) == [
        Stretch(1, 79, 1),
        Stretch(80, 80, None),
        Stretch(81, 119, 0),
        Stretch(120, 120, None),
        Stretch(121, 200, 1),
    ]
    clipped = Lines(lambda n: min(n, 50), (49, 50, 51))
    assert stretches(clipped, Lines(lambda n: n, ()), 90) == [Stretch(1, 50, None), Stretch(51, 90, 0)]
    assert stretches(level, level, 9) == [Stretch(1, 9, None)]
    between = Lines(lambda n: 2 * n, ())  # equal nowhere: 2n = 7 has no whole solution
    assert stretches(between, Lines(lambda n: 7, ()), 9) == [Stretch(1, 3, 0), Stretch(4, 9, 1)]


def test_cache_of_one_attention_layer_crosses_a_state_where_division_says() -> None:
    attention, mamba = pattern_spec("*", "1b"), pattern_spec("M", "1b")
    state = (4096 * 128 + (4096 + 2 * 128) * 4) * 2
    token = 2 * 8 * 64 * 2
    found = stretches(lines(attention, "cache"), lines(mamba, "cache"))
    assert found[0] == Stretch(1, state // token - (state % token == 0), 0)
    assert found[-1].less == 1


def test_a_decode_floor_is_exact() -> None:
    """In seconds; both rates make a whole number of it."""
    floor = lines(TINY["inter"], "decode-floor", batch=400, gpu=H200, last=LAST)
    rates = int(H200.memory_bytes_per_s) * int(H200.bf16_dense_flops_per_s)
    for context in (1, LAST // 2, LAST):
        assert floor.at(context) * rates == value(TINY["inter"], "decode-floor", context, 400)


def test_what_cannot_be_crossed_is_refused() -> None:
    spec = TINY["mamba"]
    with pytest.raises(BadInput, match="did you mean 'cache'"):
        lines(spec, "cahe")
    with pytest.raises(BadInput, match="--gpu"):
        lines(spec, "decode-floor")
    with pytest.raises(BadInput, match="float64"):
        lines(spec, "decode-floor", gpu=H200, dtype="float64")


# Measured.


def test_search_brackets_the_crossing_within_its_resolution() -> None:
    asked: list[int] = []

    def measure(context: int) -> tuple[Interval, Interval]:
        asked.append(context)
        return (context * 0.999, context * 1.001), (9_999.0, 10_001.0)

    found = search(measure, 1024, 131_072, trials=40)
    assert found.interval is not None
    low, high = found.interval
    assert low < 10_000 < high
    assert high / low < 1.12
    assert len(asked) == len(set(asked)) == len(found.seen)
    assert all(context % 64 == 0 for context in asked)


@pytest.mark.parametrize("seed", range(20))
def test_search_never_decides_against_the_truth_where_intervals_hold_it(seed: int) -> None:
    rng = random.Random(seed)
    crossing, noise = rng.uniform(2_000, 60_000), rng.uniform(0.001, 0.2)

    def around(true: float) -> Interval:
        middle = true * (1 + rng.uniform(-noise, noise))
        return middle * (1 - noise), middle * (1 + noise) / (1 - noise)

    found = search(lambda context: (around(context), around(crossing)), 1024, 131_072, trials=12)
    assert len(found.seen) <= 12
    if found.interval is not None:
        assert found.interval[0] < crossing < found.interval[1]


def test_search_says_when_there_is_nothing_to_find() -> None:
    slower = search(lambda context: ((2.0, 2.1), (1.0, 1.1)), 64, 4096)
    assert slower.interval is None
    assert [seen.less for seen in slower.seen] == [1, 1]
    tied = search(lambda context: ((1.0, 2.0), (1.5, 2.5)), 64, 4096)
    assert tied.interval is None
    assert [seen.less for seen in tied.seen] == [None, None]
