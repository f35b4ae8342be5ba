"""where: one trace of a cell's step, as JSON values: its kernels or operators, the gaps, the clock and tuning choices.

A kernel's call is captured in a CUDA graph first, as it is where it is timed, so that its gaps are not the host's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hybridbench.capture import captured
from hybridbench.gate.side.identity import watched
from hybridbench.measure.nvml import Gpu
from hybridbench.trace import trace_steps

WINDOW_S = 0.02
"""Wall time that a trace is to watch: many short ones tell more than few long ones where others disturb some."""
FEWEST, MOST = 3, 50
"""Steps of a trace."""


class Watching:
    """One call of a cell, traced as often as is asked.

    Args:
        call: the step.
        capture: whether it can be replayed from a graph.
    """

    def __init__(self, call: Callable[[], object], device: torch.device, capture: bool) -> None:
        self._device = device
        with watched() as seen:
            call()
        self._tuning = dict(one.split(": ", 1) for one in seen.tuning)
        self._step = _replayed(call, device) if capture and device.type == "cuda" else call
        self._steps = FEWEST
        self._gpu = Gpu.open(device)

    def trace(self) -> dict[str, Any]:
        """A trace, per step: ``kernels`` as (name, launches, seconds), ``gap_s``, ``clock_hz``, ``tuning``."""
        found = trace_steps(self._step, self._steps, self._device)
        clock_hz = self._clock_hz()
        self._steps = max(FEWEST, min(MOST, int(WINDOW_S / max(found.step_s, 1e-9))))
        by_name = {one.name: one for one in reversed(found.kernels)}
        rows = [(name, by_name[name].launches, by_name[name].seconds) for name in found.order]
        tuning = {name.rpartition(".")[2]: choice for name, choice in self._tuning.items()}
        return {"kernels": rows, "gap_s": found.gap_s, "clock_hz": clock_hz, "tuning": tuning}

    def _clock_hz(self) -> float | None:
        """The clock while the step runs: an idle GPU has another one."""
        if self._gpu is None:
            return None
        for _ in range(self._steps):
            self._step()
        clock_hz = self._gpu.state().sm_clock_hz
        torch.cuda.synchronize(self._device)
        return clock_hz


def _replayed(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The call from a graph; as it is where it cannot be captured."""
    try:
        return captured(call, collect=False, stream=torch.cuda.current_stream(device))
    except RuntimeError:
        torch.cuda.synchronize(device)
        return call
