"""predicted: what a training run must cost before it starts: FLOPs, seconds, joules and bytes.

FLOPs are exact. Seconds are FLOPs over a rate that is a share of the machine's: on a GPU a share of the data sheet's
dense peak, on a CPU of a matrix product timed here. Small models reach small shares: norms, scans and elementwise work
wait for memory. The shares are assumptions until a record of the same machine is there, and are printed as such.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hybridbench.errors import BadInput
from hybridbench.machine import find_peak
from hybridbench.predict.memory import Footprint, train_memory
from hybridbench.quality.training.case import LearnCase
from hybridbench.units import NS_PER_S

GPU_SHARE, CPU_SHARE = 0.15, 0.3
"""Of the peak, and of a large matrix product, that a training run of small models is assumed to reach."""
POWER_SHARE = 0.8
"""Of the board's limit that it is assumed to draw."""
MASTER_BYTES, MOMENT_BYTES, GRADIENT_BYTES = 4, 8, 4
"""Of each weight, in float32: its master, AdamW's two moments, and its gradient as it is clipped."""
TOKEN_BYTES = 4
_PRODUCT = 768


@dataclass(frozen=True)
class Machine:
    """A device's rate for a prediction.

    Args:
        flops_per_s: that runs are assumed to reach.
        power_w: that they are assumed to draw; None is unknown.
        about: both in words.
    """

    flops_per_s: float
    power_w: float | None
    about: str


def machine_for(device: str, dtype: str, name: str | None) -> Machine | None:
    """The machine that runs are predicted for; None for a GPU without a row of peaks.

    Args:
        name: the GPU's, as the driver gives it.
    """
    if device == "cpu":
        rate = _product_flops_per_s()
        return Machine(CPU_SHARE * rate, None, f"{CPU_SHARE:.0%} of the {rate / 1e9:.3g} GFLOP/s of a product here")
    peak = find_peak(name or "")
    rate_of = peak.flops_per_s(dtype) if peak else None
    if peak is None or rate_of is None:
        return None
    power_w = POWER_SHARE * peak.tdp_w
    said = f"{GPU_SHARE:.0%} of the {rate_of / 1e12:.3g} TFLOP/s of {peak.name}, {power_w:.0f} W"
    return Machine(GPU_SHARE * rate_of, power_w, said)


def _product_flops_per_s() -> float:
    """The rate of a float32 matrix product in NumPy: the better of three."""
    import numpy as np

    a = np.ones((_PRODUCT, _PRODUCT), np.float32)
    a @ a
    times = []
    for _ in range(3):
        began = time.perf_counter_ns()
        a @ a
        times.append(time.perf_counter_ns() - began)
    return 2 * _PRODUCT**3 / (min(times) / NS_PER_S)


def total_flops(case: LearnCase) -> float:
    """Model FLOPs of a run's updates and of its judging: a forward is a third of a token's."""
    judged = (case.sampling.evaluations + 1) * case.sampling.sequences * case.context / 3
    return case.flops_per_token * (case.tokens + judged)


def seconds(cases: Sequence[LearnCase], machine: Machine) -> float:
    """Seconds of all runs, one after the other."""
    return sum(map(total_flops, cases)) / machine.flops_per_s


def memory(case: LearnCase, corpus_tokens: int = 0) -> Footprint | None:
    """The predicted peak, with float32 masters, moments and gradients; None where a block has no formula.

    Args:
        corpus_tokens: of the text that lies on the GPU beside the model, four bytes each.
    """
    storage = case.execution.storage
    try:
        found = train_memory(case.model, case.context, case.batch, storage, case.execution.checkpoint)
    except BadInput:
        return None
    weights = found.weights // storage.weight_bytes
    own = storage.weight_bytes == MASTER_BYTES
    kept = MOMENT_BYTES + GRADIENT_BYTES + (0 if own else MASTER_BYTES)
    return replace(found, optimizer=kept * weights, inputs=found.inputs + TOKEN_BYTES * corpus_tokens)
