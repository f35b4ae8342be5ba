"""texts: text of some regularity, from which a model can learn a little in a few steps."""

from __future__ import annotations

import random


def words(seed: int, count: int) -> str:
    """Words drawn from a few."""
    draw = random.Random(seed)
    return " ".join(draw.choice(("state", "space", "scan", "head", "mixer", "token")) for _ in range(count))
