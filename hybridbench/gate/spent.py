"""spent: where the wall time of a pair goes: by phase, and within what each side does to make its cells ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

START = "start"
PREPARE = "prepare"
WARM_UP = "warm-up"
SAMPLES = "samples"
FRESH = "fresh memory"
PLANT = "plant"
FREE = "free"
END = "end"
OTHER = "other"


@dataclass
class PairTime:
    """The wall time of one pair.

    Attributes:
        phases: seconds by phase, in the order in which they came first.
        within: of ``PREPARE``, by side, what its cells took; seconds. Sides may prepare at the same time, so these may
            add up to more.
    """

    now: Callable[[], float]
    phases: dict[str, float] = field(default_factory=dict)
    within: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What runs inside belongs to a phase."""
        began = self.now()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + self.now() - began

    def prepared(self, side: str, spent_s: Mapping[str, float]) -> None:
        """Adds what a side says that a cell took."""
        whole = self.within.setdefault(side, {})
        for name, seconds in spent_s.items():
            whole[name] = whole.get(name, 0.0) + seconds


def in_words(phases: Mapping[str, float], within: Mapping[str, Mapping[str, float]]) -> str:
    """Seconds by phase, the longest first, with what the slower side prepared.

    >>> in_words({"start": 0.2, "samples": 9.6}, {})
    'samples 9.6, start 0.2'
    """
    said = []
    for name, seconds in _longest(phases):
        inside = ""
        if name == PREPARE and within:
            side = max(within, key=lambda one: sum(within[one].values()))
            listed = ", ".join(f"{what} {spent:.1f}" for what, spent in _longest(within[side]))
            inside = f" (of the {side}: {listed})" if listed else ""
        said.append(f"{name} {seconds:.1f}{inside}")
    return ", ".join(said)


def _longest(spent: Mapping[str, float]) -> list[tuple[str, float]]:
    """Those that show, the longest first."""
    return sorted(((name, one) for name, one in spent.items() if one >= 0.05), key=lambda one: -one[1])
