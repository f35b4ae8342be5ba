"""caveats: reasons to doubt a measurement, from its samples and the state of the GPU before and after them.

``find_caveats`` is a pure function, and ``record.ADVICE`` has the sentence for each reason. Nothing here drops a
sample.
"""

from __future__ import annotations

from collections.abc import Sequence

from hybridbench.measure.sampling import drifts, relative_interval
from hybridbench.record import Caveat, Energy, GpuState, clock_dropped, power_limited
from hybridbench.record.clocks import limited_otherwise
from hybridbench.stats import median

FEW_SAMPLES = 5
RESOLUTIONS_PER_STEP = 50
# NVML refreshes power and energy every 100 ms on A100 and H100: Yang et al. 2023, "Part-time Power Measurements:
# nvidia-smi's Lack of Attention", arXiv 2312.02741, table of update periods.
ENERGY_TICK_S = 0.1
TICKS_PER_WINDOW = 10
WAITED_FRAC = 0.1
"""From here on a cell is called disturbed, which is cautious.

On two cores, beside a program with one of them for 5 to 50% of the time, medians of a product by two threads over a
second were mostly within 4% of those before and after, and its threads spent 2 to 20% of their time waiting; beside one
with it all the time they were 2.9 to 3.2 times as long, and its threads waited for 33 to 34%; alone for 0.1 to 1.7%.
"""


def find_caveats(
    samples_ns: Sequence[int],
    *,
    target_rel_ci: float,
    resolution_ns: int,
    before: GpuState | None = None,
    after: GpuState | None = None,
    energy: Energy | None = None,
    graph_breaks: int = 0,
    recompiles: int = 0,
    waited_frac: float | None = None,
) -> list[Caveat]:
    """The caveats of one measurement, in the order of the enum.

    Args:
        samples_ns: durations in the order they were taken; ns.
        target_rel_ci: the sampling's target for the half-width of the median's interval, as a fraction of the median.
        resolution_ns: of the clock; ns.
        before: the GPU when sampling began; None without NVML.
        after: the GPU when sampling ended.
        energy: of the sampled window.
        graph_breaks: of torch.compile.
        recompiles: of torch.compile, inside the timed region.
        waited_frac: share of the time that threads waited for a processor (``cpu``).
    """
    states = [state for state in (before, after) if state is not None]
    found = {
        Caveat.UNSTEADY: relative_interval(samples_ns) > target_rel_ci or drifts(samples_ns, target_rel_ci),
        Caveat.FEW_SAMPLES: len(samples_ns) < FEW_SAMPLES,
        Caveat.CLOCK_DROPPED: clock_dropped(before, after) and not power_limited(states),
        Caveat.THROTTLED: limited_otherwise(states),
        Caveat.SHARED_GPU: any(state.other_processes for state in states),
        Caveat.SHARED_CPU: waited_frac is not None and waited_frac > WAITED_FRAC,
        Caveat.SHORT_STEP: median(samples_ns) < RESOLUTIONS_PER_STEP * resolution_ns,
        Caveat.ENERGY_WINDOW_SHORT: energy is not None and energy.window_s < TICKS_PER_WINDOW * ENERGY_TICK_S,
        Caveat.GRAPH_BREAKS: graph_breaks > 0,
        Caveat.RECOMPILED: recompiles > 0,
    }
    return [caveat for caveat in Caveat if found.get(caveat)]  # other caveats do not come from samples
