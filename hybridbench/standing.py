"""standing: which rank of how many a process is, by the variables that it was started with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ASK = "ask"
"""A file beside the meeting place that asks every rank in which collective it is."""
_MEETING, _RANK, _RANKS, _PATIENCE = (f"HYBRIDBENCH_{name}" for name in ("MEETING", "RANK", "RANKS", "PATIENCE"))


@dataclass(frozen=True)
class Standing:
    """Which rank a process is.

    Attributes:
        meeting: the file at which the ranks meet.
        patience_s: how long one rank may wait for another in a collective; seconds.
    """

    rank: int
    count: int
    meeting: Path
    patience_s: float

    def to_environment(self) -> dict[str, str]:
        """The variables that make a process this rank."""
        found = {_MEETING: self.meeting, _RANK: self.rank, _RANKS: self.count, _PATIENCE: self.patience_s}
        return {name: str(value) for name, value in found.items()}

    @classmethod
    def here(cls) -> Standing:
        """That of this process.

        Raises:
            KeyError: it is no rank.
        """
        read = os.environ
        return cls(int(read[_RANK]), int(read[_RANKS]), Path(read[_MEETING]), float(read[_PATIENCE]))
