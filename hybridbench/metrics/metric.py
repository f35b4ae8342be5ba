"""metric: what one entry of the list of metrics says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hybridbench.derive import measured

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """One reportable number.

    Args:
        name: as in data; its suffix names the unit.
        unit: SI: ``s tokens/s FLOP FLOP/s B B/s J W``, ``frac`` for a fraction, empty for a count.
        better: which direction is an improvement; None if neither is.
        title: as in a heading, without the unit.
        formula: what is computed, in one line.
        compute: the value for a record in ``unit``; None if it is unknown or has no meaning.
    """

    name: str
    unit: str
    better: Better | None
    title: str
    formula: str
    compute: measured.Number
