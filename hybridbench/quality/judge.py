"""judge: which models differ by more than seeds do, and how many seeds a difference takes.

Each model has a figure by seed (held-out bits per byte, say), and equal seeds share their batches. So the seeds are the
blocks of a randomised block design: what is left of a figure once its model's mean and its seed's mean are taken away
is noise. It is pooled over the models that are judged together:

    r_ij = y_ij - mean_i - mean_j + mean          model i, seed j, of k models and n seeds
    s^2  = sum r_ij^2 / ((k - 1) (n - 1))         the variance of one figure
    t    = difference / (s sqrt(2 / n))           with (k - 1)(n - 1) degrees of freedom

For two models this is the paired t-test. Pooling supposes that all models have equal noise; a pair whose own
differences spread over twice as wide is judged by its own paired t-test. p-values are two-sided, and adjusted for the
number of pairs by Holm's method (1979): a pair is a tie unless its adjusted p-value is below 0.05.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybridbench.gate.student import t_quantile, t_tail

ALPHA = 0.05
POWER = 0.8
"""The probability with which a planned number of seeds finds the difference that it is planned for."""
OWN_NOISE = 2.0
"""A pair is judged by its own noise where that is so many times the pooled one: by chance in 2% of pairs of 3 seeds."""
MOST_SEEDS = 1000

Figures = Mapping[str, Mapping[int, float]]
"""Maps each model to its figure by seed."""


@dataclass(frozen=True)
class SeedNoise:
    """The spread of one figure between seeds, apart from what models that share a seed have in common.

    Args:
        std: its standard deviation, in the figure's unit.
        freedom: degrees of freedom that it was estimated with.
    """

    std: float
    freedom: int


@dataclass(frozen=True)
class Pair:
    """Two models and how they differ.

    Args:
        one, other: their names; ``one`` has the lower mean over the seeds that both have.
        seeds: how many seeds both have.
        difference: of ``other`` less ``one``.
        half: half its 95% interval; None where no two seeds tell the noise.
        p: two-sided; None likewise.
        adjusted: ``p`` after Holm's method.
        own_noise: whether its own noise was taken instead of the pooled one.
    """

    one: str
    other: str
    seeds: int
    difference: float
    half: float | None = None
    p: float | None = None
    adjusted: float | None = None
    own_noise: bool = False

    @property
    def tie(self) -> bool:
        """Whether seeds differ enough to make the difference; one of unknown noise is a tie too."""
        return self.adjusted is None or self.adjusted >= ALPHA


def pooled_noise(figures: Figures) -> SeedNoise | None:
    """The noise over all models that have two seeds or more; None where they do not share two.

    >>> pooled_noise({"a": {0: 1.0, 1: 3.0}, "b": {0: 2.0, 1: 4.0}}).std
    0.0
    """
    several = [by_seed for by_seed in figures.values() if len(by_seed) > 1]
    if not several:
        return None
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in several)))
    if len(several) == 1:
        return SeedNoise(statistics.stdev(several[0].values()), len(seeds) - 1)
    if len(seeds) < 2:
        return None
    means = {seed: statistics.fmean(by_seed[seed] for by_seed in several) for seed in seeds}
    squares = 0.0
    for by_seed in several:
        apart = [by_seed[seed] - means[seed] for seed in seeds]
        middle = statistics.fmean(apart)
        squares += sum((value - middle) ** 2 for value in apart)
    freedom = (len(several) - 1) * (len(seeds) - 1)
    return SeedNoise(math.sqrt(squares / freedom), freedom)


def judged(figures: Figures) -> list[Pair]:
    """Every pair of models that share a seed, with Holm's adjustment over all of them."""
    noise = pooled_noise(figures)
    pairs = [pair for one, other in itertools.combinations(figures, 2) if (pair := _pair(one, other, figures, noise))]
    order = sorted((place for place, pair in enumerate(pairs) if pair.p is not None), key=lambda at: pairs[at].p or 0)
    adjusted = dict(zip(order, holm([pairs[place].p or 0.0 for place in order]), strict=True))
    return [Pair(**{**vars(pair), "adjusted": adjusted.get(place)}) for place, pair in enumerate(pairs)]


def holm(rising: Sequence[float]) -> list[float]:
    """p-values in rising order, adjusted for their number: times how many are left, at least the one before, at most 1.

    >>> holm([0.01, 0.02, 0.04])
    [0.03, 0.04, 0.04]
    """
    least, found = 0.0, []
    for place, p in enumerate(rising):
        least = max(least, min(1.0, (len(rising) - place) * p))
        found.append(least)
    return found


def _pair(one: str, other: str, figures: Figures, noise: SeedNoise | None) -> Pair | None:
    both = sorted(figures[one].keys() & figures[other].keys())
    if not both:
        return None
    apart = [figures[other][seed] - figures[one][seed] for seed in both]
    if statistics.fmean(apart) < 0:
        one, other, apart = other, one, [-value for value in apart]
    difference, n = statistics.fmean(apart), len(both)
    own = SeedNoise(statistics.stdev(apart) / math.sqrt(2), n - 1) if n > 1 else None
    taken = noise or own
    wide = own is not None and noise is not None and own.std > OWN_NOISE * noise.std
    if wide:
        taken = own
    if taken is None:
        return Pair(one, other, n, difference)
    error = taken.std * math.sqrt(2 / n)
    p = 2 * t_tail(difference / error, taken.freedom) if error else float(difference == 0)
    return Pair(one, other, n, difference, t_quantile(ALPHA / 2, taken.freedom) * error, p, None, wide)


def power(difference: float, std: float, seeds: int, models: int = 2) -> float:
    """The probability that ``seeds`` runs of each of ``models`` find a difference between two of them.

    Two-sided at the level that Holm's method asks of the smallest of all pairs' p-values. The t-distribution about the
    difference is integrated over the estimate of the noise (the wrong tail is left out).

    >>> round(power(1.0, math.sqrt(0.5), 10), 2)  # a paired test of one standard deviation of the differences
    0.8
    """
    freedom = (models - 1) * (seeds - 1)
    pairs = models * (models - 1) // 2
    due = t_quantile(ALPHA / pairs / 2, freedom)
    true = math.inf if std == 0 else difference / (std * math.sqrt(2 / seeds))
    # The estimated noise over the true one is a chi-distributed number over the root of its degrees of freedom.
    log_front = math.log(2) + freedom / 2 * math.log(freedom / 2) - math.lgamma(freedom / 2)
    steps, most = 400, 1 + 6 / math.sqrt(freedom)
    found = 0.0
    for step in range(steps):
        s = (step + 0.5) * most / steps
        density = math.exp(log_front + (freedom - 1) * math.log(s) - freedom * s * s / 2)
        found += density * 0.5 * math.erfc((due * s - true) / math.sqrt(2)) * most / steps
    return min(1.0, found)


def seeds_for(difference: float, std: float, models: int = 2) -> int | None:
    """The fewest seeds that find a difference with a probability of 0.8; None if ``MOST_SEEDS`` do not.

    Args:
        difference, std: of one figure, in one unit.
        models: that are judged together.
    """
    low, high = 1, 2
    while power(difference, std, high, models) < POWER:
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, std, middle, models) >= POWER else (middle, high)
    return high


def least_difference(std: float, seeds: int, models: int = 2) -> float:
    """The smallest difference that ``seeds`` (2 or more) runs of each model find with a probability of 0.8."""
    low, high = 0.0, std
    while power(high, std, seeds, models) < POWER:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, std, seeds, models) >= POWER else (middle, high)
    return high
