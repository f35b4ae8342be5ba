"""times: how long steps took, and what follows from time and tokens alone."""

from __future__ import annotations

from hybridbench.derive import measured
from hybridbench.metrics.metric import Metric
from hybridbench.stats import median_interval, quantile


def _quantile(q: float) -> measured.Judge:
    return lambda samples: quantile(samples, q)


_STEP = "step: a training step, a prefill, one decode step, or a whole generation"

TIMES: tuple[Metric, ...] = (
    Metric(
        "step_s",
        "s",
        "lower",
        "step",
        f"median of the samples ({_STEP}); of a generation timed at depths, the median prefill plus the medians "
        "of its decode steps, added up over all depths by the trapezoid rule",
        measured.step_s,
    ),
    Metric(
        "step_low_s",
        "s",
        None,
        "step, low",
        "lower end of the 95% interval of the median, from order statistics; of a generation timed at depths, "
        "added up as its step is",
        measured.of_step(lambda xs: median_interval(xs)[0]),
    ),
    Metric(
        "step_high_s",
        "s",
        None,
        "step, high",
        "upper end of the 95% interval of the median, from order statistics; of a generation timed at depths, "
        "added up as its step is",
        measured.of_step(lambda xs: median_interval(xs)[1]),
    ),
    *(
        Metric(
            f"step_p{percent:02d}_s",
            "s",
            "lower",
            f"step p{percent}",
            f"quantile {percent / 100:.2f} of the samples, linear between order statistics",
            measured.of_samples(_quantile(percent / 100)),
        )
        for percent in (5, 95, 99)
    ),
    Metric("samples", "", None, "samples", "number of timed steps", measured.sample_count),
    Metric(
        "prefill_part_s",
        "s",
        "lower",
        "prefill part",
        "median time of the prefill of a generation that is timed at depths; it is part of the generation's step",
        measured.prefill_part_s,
    ),
    Metric(
        "ttft_s",
        "s",
        "lower",
        "TTFT",
        "time to first token: median time of a prefill; of a generation timed at depths, that of its prefill part",
        measured.ttft_s,
    ),
    Metric(
        "integration_frac",
        "frac",
        "lower",
        "integration error",
        "of a generation timed at depths: by how much its time changes where every other depth is left out, over "
        "its time",
        measured.integration_frac,
    ),
    Metric(
        "tokens_per_s",
        "tokens/s",
        "higher",
        "throughput",
        "tokens of the whole batch / median step; processed tokens in train and prefill, new ones otherwise",
        measured.per_step(lambda record: record.case.workload.tokens),
    ),
    Metric(
        "token_s",
        "s",
        "lower",
        "time per token",
        "median step / new tokens of each sequence: the inter-token latency; a generation's includes its prefill",
        measured.token_s,
    ),
)
