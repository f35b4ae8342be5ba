"""run: energy, the loss, and how the run went up to the first sample."""

from __future__ import annotations

from hybridbench.derive import measured
from hybridbench.metrics.metric import Metric
from hybridbench.units import NS_PER_S

RUN: tuple[Metric, ...] = (
    Metric(
        "energy_per_token_j",
        "J",
        "lower",
        "energy per token",
        "energy counter over the sampled window / (steps in it * tokens), idle power included",
        measured.energy_per_token_j,
    ),
    Metric("power_w", "W", None, "power", "energy counter over the sampled window / its length", measured.power_w),
    Metric(
        "loss",
        "",
        None,
        "loss",
        "as the last training step reported it",
        measured.of_observed(lambda seen: seen.loss),
    ),
    Metric(
        "build_s",
        "s",
        "lower",
        "build",
        "wall time to build the model",
        measured.of_observed(lambda seen: seen.build_ns / NS_PER_S),
    ),
    Metric(
        "prepare_s",
        "s",
        "lower",
        "prepare",
        "wall time to fill caches, compile and capture",
        measured.of_observed(lambda seen: seen.prepare_ns / NS_PER_S),
    ),
    Metric(
        "compile_s",
        "s",
        "lower",
        "compile",
        "time in which Triton kernels compiled and tuned themselves, added up over threads; those on disk take none",
        measured.of_observed(measured.compile_s),
    ),
    Metric(
        "check_s",
        "s",
        "lower",
        "check at size",
        "wall time to compare the work with itself at its own size; it is part of prepare",
        measured.of_observed(lambda seen: None if seen.check_ns is None else seen.check_ns / NS_PER_S),
    ),
    Metric(
        "check_share",
        "",
        "lower",
        "error / bound",
        "error over bound, of the comparison at the case's own size that came closest to its bound",
        measured.of_observed(lambda seen: max((check.error / check.bound for check in seen.sized), default=None)),
    ),
)
