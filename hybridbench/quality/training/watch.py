"""watch: whether a run goes well: spikes of its loss, divergence, and losses that are no numbers.

Losses are compared with those of the same kind of batch only. Where batches differ in size, their losses differ by
nats however well the model learns, and from step to step that looks like spikes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from hybridbench.quality.training.record import Event, Mark

WINDOW = 32
"""Steps that a loss is compared with."""
SPIKE_NATS = 0.5
DIVERGED_NATS = 1.0


def new_events(
    losses: Sequence[float], norms: Sequence[float], kinds: Sequence[int], start: int, known: Sequence[Event] = ()
) -> list[Event]:
    """What went wrong at the steps from ``start`` on. The last event ends the run unless it is a spike.

    Args:
        losses, norms: of all steps so far.
        kinds: of each step's batch.
        known: what went wrong before ``start``.
    """
    found: list[Event] = []
    like: dict[int, list[int]] = {}  # the steps so far of each kind
    for step, (loss, norm, kind) in enumerate(zip(losses, norms, kinds, strict=True)):
        steps = like.setdefault(kind, [])
        steps.append(step)
        if step < start:
            continue
        if not (math.isfinite(loss) and math.isfinite(norm)):
            found.append(Event(Mark.NOT_A_NUMBER, step, loss if math.isfinite(loss) else None))
            return found
        before = [losses[one] for one in steps[-WINDOW - 1 : -1]]
        if len(before) < WINDOW:
            continue
        if loss > statistics.median(before) + SPIKE_NATS and not _still([*known, *found], kinds, steps):
            found.append(Event(Mark.SPIKE, step, loss))
        if len(steps) % WINDOW == 0 and _diverged([losses[one] for one in steps]):
            found.append(Event(Mark.DIVERGED, step, loss))
            return found
    return found


def ending(events: Iterable[Event]) -> Event | None:
    """What ended a run before its last step, or on it: that it diverged or left the numbers. A spike ends none."""
    return next((event for event in events if event.mark is not Mark.SPIKE), None)


def _still(found: Sequence[Event], kinds: Sequence[int], steps: Sequence[int]) -> bool:
    """Whether a spike goes on: one of any kind in the last steps, or one of this kind in its own last ``steps``."""
    step, edge = steps[-1], steps[-WINDOW - 1]
    return any(step - one.step < WINDOW or (kinds[one.step] == kinds[step] and one.step > edge) for one in found)


def _diverged(losses: Sequence[float]) -> bool:
    """Whether the mean of the last window lies far above the best of the windows before it."""
    means = [sum(losses[at : at + WINDOW]) / WINDOW for at in range(0, len(losses), WINDOW)]
    return len(means) > 1 and means[-1] > min(means[:-1]) + DIVERGED_NATS
