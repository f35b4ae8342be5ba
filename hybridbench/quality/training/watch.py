"""watch: whether a run goes well: spikes of its loss, divergence, and losses that are no numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from hybridbench.quality.training.record import Event, Mark

WINDOW = 32
"""Steps that a loss is compared with."""
SPIKE_NATS = 0.5
DIVERGED_NATS = 1.0


def new_events(losses: Sequence[float], norms: Sequence[float], start: int) -> list[Event]:
    """What went wrong at the steps from ``start`` on. The last event ends the run unless it is a spike.

    Args:
        losses, norms: of all steps so far.
    """
    found = []
    for step in range(start, len(losses)):
        loss = losses[step]
        if not (math.isfinite(loss) and math.isfinite(norms[step])):
            found.append(Event(Mark.NOT_A_NUMBER, step, loss if math.isfinite(loss) else None))
            return found
        before = losses[max(0, step - WINDOW) : step]
        if len(before) < WINDOW:
            continue
        if loss > statistics.median(before) + SPIKE_NATS and not _still(found, step):
            found.append(Event(Mark.SPIKE, step, loss))
        if _diverged(losses[: step + 1]):
            found.append(Event(Mark.DIVERGED, step, loss))
            return found
    return found


def _still(found: Sequence[Event], step: int) -> bool:
    """Whether a spike of the last steps goes on."""
    return bool(found) and step - found[-1].step < WINDOW


def _diverged(losses: Sequence[float]) -> bool:
    """Whether the mean of the last window lies far above the best of the windows before it."""
    if len(losses) < 2 * WINDOW or len(losses) % WINDOW:
        return False
    means = [sum(losses[at : at + WINDOW]) / WINDOW for at in range(0, len(losses), WINDOW)]
    return means[-1] > min(means[:-1]) + DIVERGED_NATS
