"""display: the unit in which a column of SI numbers is shown, the same for the whole column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hybridbench.stats import median
from hybridbench.units import GIB, KIB, MIB, format_number

_DECIMAL = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_LADDERS: dict[str, tuple[tuple[float, str], ...]] = {
    # Largest first; the last unit is used for everything smaller.
    "s": ((60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")),
    "B": ((float(1024**4), "TiB"), (float(GIB), "GiB"), (float(MIB), "MiB"), (float(KIB), "KiB"), (1.0, "B")),
    "J": ((1.0, "J"), (1e-3, "mJ"), (1e-6, "uJ")),
    "frac": ((0.01, "%"),),
    "tokens/s": ((1.0, "tokens/s"),),
    "W": ((1.0, "W"),),
    "": ((1e6, "M"), (1.0, "")),
    **{
        unit: (*((size, prefix + unit) for size, prefix in _DECIMAL), (1.0, unit)) for unit in ("FLOP", "FLOP/s", "B/s")
    },
}


@dataclass(frozen=True)
class ShownUnit:
    """A unit to show numbers in. One of it is ``size`` in SI units."""

    size: float
    label: str

    def show(self, value: float | None) -> str:
        """Three significant digits, without the unit; a count below 1000 in full; ``unknown`` for None."""
        if value is not None and not self.label and value == int(value) and abs(value) < 1000:
            return str(int(value))
        return format_number(None if value is None else value / self.size)

    def heading(self, title: str) -> str:
        """A title, followed by the unit.

        >>> ShownUnit(1e-3, "ms").heading("step")
        'step [ms]'
        """
        return f"{title} [{self.label}]" if self.label else title


def unit_for(values: Iterable[float | None], unit: str) -> ShownUnit:
    """The unit that suits the median of the numbers.

    >>> unit_for([0.0021, 0.0032, None], "s").label
    'ms'
    """
    ladder = _LADDERS[unit]
    sizes = [abs(value) for value in values if value]
    if not sizes:
        return ShownUnit(*next((step for step in ladder if step[0] == 1), ladder[0]))
    middle = median(sizes)
    return ShownUnit(*next((step for step in ladder if middle >= step[0]), ladder[-1]))
