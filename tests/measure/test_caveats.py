"""Each caveat is raised by its own cause and by nothing else."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from hybridbench.measure.caveats import find_caveats
from hybridbench.measure.sampling import drifts
from hybridbench.record import Caveat, Energy, GpuState, clock_dropped, power_limit_text, unexplained

GOOD = [1_000_000 + 1000 * (i % 7) for i in range(40)]
STATE = GpuState(1.98e9, 3.2e9, 500.0, 60.0, 0, [], 0)


def caveats(samples_ns: list[int] = GOOD, **kwargs: Any) -> list[Caveat]:
    return find_caveats(samples_ns, **{"target_rel_ci": 0.02, "resolution_ns": 500, **kwargs})


def test_a_good_measurement_has_none() -> None:
    assert caveats(before=STATE, after=STATE, energy=Energy(600.0, 2.0, 40, 70.0)) == []


def test_nothing_known_about_the_gpu_is_no_doubt() -> None:
    blank = GpuState(None, None, None, None, None, [], None)
    assert caveats(before=blank, after=blank) == []
    assert caveats(before=None, after=STATE) == []
    assert caveats(waited_frac=0.09) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"samples_ns": [1_000_000] * 4}, Caveat.FEW_SAMPLES),
        ({"samples_ns": [900_000, 1_000_000, 1_000_000, 1_000_000, 1_200_000]}, Caveat.UNSTEADY),
        ({"samples_ns": [1_000_000 + 2500 * i for i in range(40)]}, Caveat.UNSTEADY),
        ({"after": replace(STATE, sm_clock_hz=1.98e9 * 0.94)}, Caveat.CLOCK_DROPPED),
        ({"after": replace(STATE, throttle_reasons=["software power cap", "hardware slowdown"])}, Caveat.THROTTLED),
        ({"before": replace(STATE, throttle_reasons=["hardware slowdown"])}, Caveat.THROTTLED),
        ({"after": replace(STATE, other_processes=1)}, Caveat.SHARED_GPU),
        ({"waited_frac": 0.11}, Caveat.SHARED_CPU),
        ({"resolution_ns": 20_100}, Caveat.SHORT_STEP),
        ({"energy": Energy(300.0, 0.99, 40, None)}, Caveat.ENERGY_WINDOW_SHORT),
        ({"graph_breaks": 1}, Caveat.GRAPH_BREAKS),
        ({"recompiles": 2}, Caveat.RECOMPILED),
    ],
)
def test_each_cause_raises_its_own(changes: dict[str, Any], expected: Caveat) -> None:
    assert caveats(**{"before": STATE, "after": STATE, **changes}) == [expected]


def test_the_power_limit_is_no_doubt_of_a_cell_and_explains_lower_clocks() -> None:
    limited = replace(STATE, throttle_reasons=["software power cap"], sm_clock_hz=1.3e9)
    assert caveats(before=STATE, after=limited) == []
    assert caveats(before=limited, after=STATE) == []
    assert clock_dropped(STATE, limited)
    older = [Caveat.FEW_SAMPLES, Caveat.CLOCK_DROPPED, Caveat.THROTTLED]
    assert unexplained(older, STATE, limited) == [Caveat.FEW_SAMPLES]
    assert unexplained(older, STATE, STATE) == older
    hot = replace(STATE, throttle_reasons=["software power cap", "software thermal slowdown"])
    assert unexplained(older, STATE, hot) == [Caveat.FEW_SAMPLES, Caveat.THROTTLED]


def test_cells_at_the_power_limit_are_said_once_with_their_clocks() -> None:
    limited = replace(STATE, throttle_reasons=["software power cap"], sm_clock_hz=1.3e9)
    text = power_limit_text([(STATE, STATE), (STATE, limited), (None, None)])
    assert text is not None
    assert text.startswith("1 of 3 cells ran at the GPU's power limit, at 1,300 to 1,980 MHz: ")
    assert power_limit_text([(STATE, STATE), (None, None)]) is None


def test_a_clock_that_dips_by_less_than_a_twentieth_or_rises_is_fine() -> None:
    assert caveats(before=STATE, after=replace(STATE, sm_clock_hz=1.98e9 * 0.96)) == []
    assert caveats(before=replace(STATE, sm_clock_hz=1.0e9), after=STATE) == []


def test_noise_is_no_drift_and_drift_below_the_noise_is_found() -> None:
    source = random.Random(1)
    noise = [round(1e6 * (1 + 0.1 * source.random())) for _ in range(120)]
    assert not drifts(noise, 0.02)
    assert drifts([sample + 1000 * i for i, sample in enumerate(noise)], 0.02)
    assert drifts([sample - 1000 * i for i, sample in enumerate(noise)], 0.02)


def test_too_few_samples_to_speak_of_drift() -> None:
    assert not drifts([1, 2, 3, 4, 5], 0.02)


def test_a_certain_but_small_drift_is_tolerated() -> None:
    assert not drifts([1_000_000 + 100 * i for i in range(60)], 0.02)


def test_medians_that_differ_by_chance_are_no_drift() -> None:
    first, middle, last = [100, 110, 105, 100, 110, 100], [105] * 6, [110, 100, 110, 105, 110, 100]
    assert not drifts(first + middle + last, 0.02)
