"""Neighbours on a full grid are those of bilinear interpolation in logarithms; where points are missing, by hand."""

from __future__ import annotations

import itertools
import math

import pytest

from hybridbench.predict.neighbours import Grid

BATCHES, CONTEXTS = (1, 4, 16, 256), (4096, 32_768, 131_072)
FULL = [*itertools.product(BATCHES, CONTEXTS)]
COUNTS = (1.0, 1.0)


@pytest.mark.parametrize("point", FULL)
def test_a_measured_point_stands_for_itself(point: tuple[int, int]) -> None:
    found = Grid(FULL, COUNTS).around(point)
    assert found.weights == {point: 1.0}
    assert found.outside == (0.0, 0.0)
    assert not found.between(0)
    assert not found.between(1)


@pytest.mark.parametrize("batch", [1, 3, 8, 64, 200])
@pytest.mark.parametrize("context", [4096, 5000, 65_536, 100_000])
def test_what_is_linear_in_the_logarithms_is_met_on_a_full_grid(batch: int, context: int) -> None:
    def plane(batch: int, context: int) -> float:
        return 3 + 2 * math.log(batch) - 0.5 * math.log(context)

    found = Grid(FULL, COUNTS).around((batch, context))
    assert sum(found.weights.values()) == pytest.approx(1)
    assert found.mean({point: plane(*point) for point in FULL}) == pytest.approx(plane(batch, context))
    assert found.distance == 0
    assert (found.between(0), found.between(1)) == (batch not in BATCHES, context not in CONTEXTS)


@pytest.mark.parametrize(
    ("wanted", "taken", "outside"),
    [
        ((1024, 4096), (256, 4096), (math.log(4), 0)),
        ((4, 1024), (4, 4096), (0, math.log(4))),
        ((1024, 1 << 20), (256, 131_072), (math.log(4), math.log(8))),
    ],
)
def test_outside_the_nearest_end_stays(
    wanted: tuple[int, int], taken: tuple[int, int], outside: tuple[float, float]
) -> None:
    found = Grid(FULL, COUNTS).around(wanted)
    assert found.weights == {taken: 1.0}
    assert found.outside == pytest.approx(outside)


def test_a_batch_that_lacks_the_context_is_passed_over_for_those_around_it() -> None:
    """Batch 16 was run at 32k only: at 4k those of 4 and 64 speak, and at 32k its own."""
    grid = Grid([(4, 4096), (4, 32_768), (16, 32_768), (64, 4096), (64, 32_768)], COUNTS)
    assert grid.around((16, 4096)).weights == pytest.approx({(4, 4096): 0.5, (64, 4096): 0.5})
    assert grid.around((16, 32_768)).weights == {(16, 32_768): 1.0}


def test_a_scale_of_few_batches_and_one_of_many() -> None:
    """The smaller scale has batches 4 and 64, the larger one 1 to 256: each is interpolated between its own."""
    points = [(1, 4), (1, 64), *((100, batch) for batch in (1, 4, 16, 64, 256))]
    found = Grid(points, COUNTS).around((10, 16))
    assert found.weights == pytest.approx({(1, 4): 0.25, (1, 64): 0.25, (100, 16): 0.5})
    assert (found.between(0), found.between(1)) == (True, True)
    assert found.distance == 0


def test_a_place_inside_all_ranges_that_no_points_surround_is_outside() -> None:
    """A cross: every batch at the middle context, every context at the middle batch."""
    cross = [*((batch, 64) for batch in (1, 16, 256)), (16, 1), (16, 4096)]
    found = Grid(cross, COUNTS).around((256, 128))
    assert found.weights == {(256, 64): 1.0}
    assert found.outside == pytest.approx((0, math.log(2)))
    assert not found.between(1)
    assert Grid(cross, COUNTS).around((32, 4096)).weights == {(16, 4096): 1.0}


def test_what_counts_more_is_left_last() -> None:
    """A batch eight times as large at the same context, or the same batch at a context four times as long."""
    points = [(8, 1024), (1, 4096)]
    assert Grid(points, (1.0, 1.0)).around((1, 1024)).weights == {(1, 4096): 1.0}
    assert Grid(points, (0.5, 1.0)).around((1, 1024)).weights == {(8, 1024): 1.0}


def test_a_mean_leaves_out_points_that_have_no_value() -> None:
    found = Grid([(1, 1), (4, 1)], COUNTS).around((2, 1))
    assert found.mean({(1, 1): 10.0, (4, 1): 20.0}) == pytest.approx(15)
    assert found.mean({(4, 1): 20.0}) == 20
    assert found.mean({}) is None
