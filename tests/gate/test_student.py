"""Quantiles of Student's t are those of published tables, and of closed forms where there are any."""

from __future__ import annotations

import math

import pytest

from hybridbench.gate.student import t_quantile


@pytest.mark.parametrize(
    ("tail", "freedom", "value"),
    # NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.6.7.2
    [(0.10, 5, 1.476), (0.05, 20, 1.725), (0.025, 4, 2.776), (0.01, 30, 2.457), (0.005, 23, 2.807), (0.001, 27, 3.421)],
)
def test_published(tail: float, freedom: int, value: float) -> None:
    assert t_quantile(tail, freedom) == pytest.approx(value, abs=6e-4)


@pytest.mark.parametrize("tail", [0.5, 0.3, 0.01, 1e-4, 1e-6])
def test_closed_forms_of_one_and_two_degrees(tail: float) -> None:
    assert t_quantile(tail, 1) == pytest.approx(1 / math.tan(math.pi * tail) if tail < 0.5 else 0, rel=1e-9, abs=1e-9)
    p = 1 - 2 * tail
    assert t_quantile(tail, 2) == pytest.approx(p * math.sqrt(2 / (1 - p * p)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("tail", "freedom"), [(0.0, 5), (0.6, 5), (math.nan, 5), (0.1, 0)])
def test_no_quantile(tail: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(tail, freedom)
