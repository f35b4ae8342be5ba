"""caveats: reasons to doubt a measurement, each with a sentence of advice."""

from __future__ import annotations

from enum import StrEnum


class Caveat(StrEnum):
    """A reason to doubt a measurement; ``ADVICE`` says what to do about each.

    All are found while measuring except ``BEYOND_LIMIT`` and ``PLAIN_PYTORCH``, which are found on reading
    (``derive.doubts``): a kernel's limits may become known after it was timed.
    """

    UNSTEADY = "unsteady"
    FEW_SAMPLES = "few_samples"
    CLOCK_DROPPED = "clock_dropped"
    THROTTLED = "throttled"
    SHARED_GPU = "shared_gpu"
    SHARED_CPU = "shared_cpu"
    SHORT_STEP = "short_step"
    ENERGY_WINDOW_SHORT = "energy_window_short"
    NOT_CHECKED = "not_checked"
    GRAPH_BREAKS = "graph_breaks"
    RECOMPILED = "recompiled"
    BEYOND_LIMIT = "beyond_limit"
    PLAIN_PYTORCH = "plain_pytorch"
    AT_ONCE = "at_once"
    COARSE_LOGITS = "coarse_logits"


ADVICE: dict[Caveat, str] = {
    Caveat.UNSTEADY: "samples still drift or spread more than the target: give it more time or quiet the machine",
    Caveat.FEW_SAMPLES: "fewer than five samples: percentiles mean little, raise --max-time",
    Caveat.CLOCK_DROPPED: "the SM clock fell by more than 5% while sampling, and not by the power limit: compare "
    "ratios within this run only",
    Caveat.THROTTLED: "the GPU reported a thermal limit or a slowdown by its hardware: the card is throttled",
    Caveat.SHARED_GPU: "another process used this GPU: run again when it is idle",
    Caveat.SHARED_CPU: "threads spent more than 10% of their time waiting for a processor that others had: run again "
    "when the machine is idle",
    Caveat.SHORT_STEP: "a step is shorter than 50 times the clock's resolution: use a larger batch or context",
    Caveat.ENERGY_WINDOW_SHORT: "the sampled window is shorter than ten ticks of the energy counter: energy is rough",
    Caveat.NOT_CHECKED: "nothing held the results at this size to any others: kernels are known to be right up to some "
    "thousand tokens only",
    Caveat.GRAPH_BREAKS: "torch.compile broke the graph: the step is not what 'compile' promises",
    Caveat.RECOMPILED: "torch.compile compiled again inside the timed region: samples hold compilation",
    Caveat.BEYOND_LIMIT: (
        "a kernel was given more than it is known to be right on, and nobody checked what it computed: measure again"
    ),
    Caveat.PLAIN_PYTORCH: (
        "an operation ran as plain PyTorch on a GPU, since no kernel for it could run: this is no fair figure of the "
        "architecture; hybridbench backends says what is missing"
    ),
    Caveat.AT_ONCE: "several runs shared the device (--at-once): seconds and joules are not those of a run alone",
    Caveat.COARSE_LOGITS: "quantised weights, keys or values move the logits of these initial weights by more than 5%: "
    "the record's checks at size say by how much",
}


def said_of(caveat: Caveat) -> str:
    """A caveat in words, with its advice."""
    return f"{caveat.value.replace('_', ' ')}: {ADVICE[caveat]}"
