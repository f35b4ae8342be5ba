"""clocks: what two readings of a GPU say of its clocks: lowered by the power limit, as under any load, or otherwise.

Dense work draws all the power that a board may draw. Its driver then lowers the clocks several times a second, on
every card of the kind, for as long as the work lasts: such a figure is the card's own, and tables say so once. A
thermal limit, a hardware slowdown or a clock that fell for another reason is a doubt about one cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hybridbench.record.caveats import Caveat
from hybridbench.record.observed import GpuState

POWER_CAP = "software power cap"
"""NVML's name for the power limit of a board."""
CLOCK_DROP_FRAC = 0.05


def power_limited(states: Iterable[GpuState | None]) -> bool:
    """Whether a reading says that the power limit lowered the clocks."""
    return any(POWER_CAP in state.throttle_reasons for state in states if state is not None)


def limited_otherwise(states: Iterable[GpuState | None]) -> bool:
    """Whether a reading names a limit beside that of power."""
    return any(set(state.throttle_reasons) - {POWER_CAP} for state in states if state is not None)


def clock_dropped(before: GpuState | None, after: GpuState | None) -> bool:
    """Whether the SM clock fell by more than ``CLOCK_DROP_FRAC`` between two readings, whatever the reason."""
    if before is None or after is None or before.sm_clock_hz is None or after.sm_clock_hz is None:
        return False
    return after.sm_clock_hz < (1 - CLOCK_DROP_FRAC) * before.sm_clock_hz


def unexplained(caveats: Sequence[Caveat], before: GpuState | None, after: GpuState | None) -> list[Caveat]:
    """The caveats without those of clocks that the power limit explains: older records hold them."""
    states = (before, after)
    explained = set[Caveat]()
    if power_limited(states):
        explained.add(Caveat.CLOCK_DROPPED)
        if not limited_otherwise(states):
            explained.add(Caveat.THROTTLED)
    return [caveat for caveat in caveats if caveat not in explained]


def power_limit_text(pairs: Sequence[tuple[GpuState | None, GpuState | None]]) -> str | None:
    """A sentence on how many cells ran at the power limit and at which clocks; None if none did.

    Args:
        pairs: the readings before and after the samples of each cell that has a value.
    """
    limited = [pair for pair in pairs if power_limited(pair)]
    if not limited:
        return None
    clocks = [state.sm_clock_hz / 1e6 for pair in limited for state in pair if state is not None and state.sm_clock_hz]
    low, high = (f"{most(clocks):,.0f}" for most in (min, max)) if clocks else ("", "")
    seen = f", at {low} MHz" if low == high else f", at {low} to {high} MHz"
    return (
        f"{len(limited)} of {len(pairs)} cells ran at the GPU's power limit{seen if clocks else ''}: this is the speed "
        "that such work holds on this card"
    )
