"""What fits is what the formula says fits: one more does not; boundaries are found wherever they lie."""

from __future__ import annotations

import itertools
import operator
from functools import partial

import pytest

from hybridbench.arch.block import Storage
from hybridbench.arch.families import ARCHS, build_spec
from hybridbench.arch.stored import Dtypes
from hybridbench.errors import BadInput
from hybridbench.machine import PEAKS, Peak, find_gpu
from hybridbench.predict.fit import budget, find_boundary, largest_fit, last_true
from hybridbench.predict.memory import footprint
from hybridbench.suite.workloads import DECODE, GENERATE, PREFILL, TRAIN, Workload

H200, RTX = find_gpu("h200"), find_gpu("rtx-4090")
STORAGE = Storage()
DTYPES = Dtypes.of("bfloat16")


@pytest.mark.parametrize("kind", [TRAIN, PREFILL, DECODE])
@pytest.mark.parametrize("family", ARCHS)
@pytest.mark.parametrize("solved", ["batch", "context"])
def test_the_largest_fits_and_one_more_does_not(kind: str, family: str, solved: str) -> None:
    spec = build_spec(family, "350m")
    given = {"context": 4096} if solved == "batch" else {"batch": 2}
    fit = largest_fit(spec, RTX, kind, DTYPES, **given)
    assert fit.fits
    assert fit.solved == solved
    work = fit.workload
    assert footprint(spec, work, STORAGE) == fit.footprint
    assert fit.footprint.total <= fit.budget == budget(RTX)
    if kind == DECODE and solved == "context" and family == "mamba":
        assert fit.unlimited
        return
    assert not fit.unlimited
    more = {"context": work.context, "batch": work.batch, solved: getattr(work, solved) + 1}
    assert footprint(spec, Workload(kind, **more), STORAGE).total > fit.budget


def test_more_of_anything_never_takes_less() -> None:
    for kind, family in itertools.product((TRAIN, PREFILL, DECODE), ARCHS):
        spec = build_spec(family, "tiny")
        sizes = [footprint(spec, Workload(kind, n, 2), STORAGE).total for n in (1, 2, 63, 64, 65, 1000, 10_000)]
        assert sizes == sorted(sizes)
        sizes = [footprint(spec, Workload(kind, 100, n), STORAGE).total for n in (1, 2, 7, 100, 1000)]
        assert sizes == sorted(sizes)


def test_what_does_not_fit_at_all_says_what_it_takes() -> None:
    fit = largest_fit(build_spec("transformer", "3b"), RTX, TRAIN, DTYPES, context=8192)
    assert not fit.fits
    assert fit.workload.batch == 1
    assert fit.footprint.total > fit.budget


def test_both_given_are_judged() -> None:
    spec = build_spec("transformer", "1b")
    assert largest_fit(spec, H200, TRAIN, DTYPES, context=8192, batch=4).fits
    assert not largest_fit(spec, RTX, TRAIN, DTYPES, context=8192, batch=4).fits


def test_decode_of_a_transformer_by_hand() -> None:
    """1B: 1,235,814,400 parameters; a token keeps 16 layers of 2 x 8 heads x 64 in bf16."""
    found = footprint(build_spec("transformer", "1b"), Workload(DECODE, 8191, 3), STORAGE)
    assert found.weights == 1_235_814_400 * 2
    assert found.cache == 3 * 8192 * 16 * 2 * 8 * 64 * 2
    assert found.head == 3 * 128_256 * 2
    assert found.workspace == 32 * 2**20
    assert footprint(build_spec("transformer", "1b"), Workload(DECODE, 8191, 257), STORAGE).workspace == 96 * 2**20
    assert found.gradients == found.optimizer == found.activations == 0


@pytest.mark.parametrize("gpu", PEAKS, ids=lambda gpu: gpu.name)
def test_a_budget_is_less_than_the_card_has(gpu: Peak) -> None:
    assert 0.9 * gpu.memory_bytes < budget(gpu) + 0.08 * gpu.memory_bytes
    assert budget(gpu) < gpu.usable_bytes < gpu.memory_bytes


def test_requests_without_an_answer_are_refused() -> None:
    spec = build_spec("mamba", "tiny")
    with pytest.raises(BadInput, match="--ctx or --batch"):
        largest_fit(spec, H200, TRAIN, DTYPES)
    with pytest.raises(BadInput, match="generate"):
        footprint(spec, Workload(GENERATE, 8, 1, 4), STORAGE)
    with pytest.raises(BadInput, match="did you mean 'full'"):
        largest_fit(spec, H200, TRAIN, DTYPES, context=8, checkpoint="ful")


@pytest.mark.parametrize("end", [1, 2, 7, 64])
def test_last_true_is_the_last(end: int) -> None:
    for edge in range(end + 1):
        assert last_true(partial(operator.ge, edge), end) == edge


@pytest.mark.parametrize("truth", [0, 1, 2, 9, 10, 11, 37, 99, 100, 101, 640, 1000])
@pytest.mark.parametrize("guess", [1, 2, 10, 100, 1000])
def test_boundaries_are_found_from_any_guess(truth: int, guess: int) -> None:
    asked: list[int] = []

    def trial(value: int) -> bool:
        asked.append(value)
        return value <= truth

    worked, failed = find_boundary(trial, guess, end=1000)
    assert worked == truth
    assert failed == (None if truth == 1000 else truth + 1)
    assert len(asked) == len(set(asked))
    assert all(1 <= value <= 1000 for value in asked)
    assert len(asked) <= 22


def test_a_good_guess_takes_few_trials_and_steps_are_kept() -> None:
    asked: list[int] = []

    def trial(value: int) -> bool:
        asked.append(value)
        return value <= 1_100_000

    worked, failed = find_boundary(trial, 1_097_908, step=4096, resolution=0.01)
    assert failed is not None
    assert worked <= 1_100_000 < failed
    assert failed - worked <= 0.011 * 1_100_000
    assert all(value % 4096 == 0 for value in asked)
    assert len(asked) <= 4
