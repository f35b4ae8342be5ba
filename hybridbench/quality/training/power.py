"""power: how many seeds a difference takes, from the spread of finished runs or from a stated prior.

The prior is the spread between seeds of modded-nanogpt's log of runs: 0.0013 nats a token at a loss of 3.28 (124M
parameters, under 400M tokens), or 0.04% of the loss. It is taken as that share of 1.5 bits per byte, and times three
for small models on little text, which is a guess: three seeds of your own tell more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hybridbench.errors import BadInput
from hybridbench.quality.judge import MOST_SEEDS, POWER, SeedNoise, least_difference, pooled_noise, seeds_for
from hybridbench.quality.training.figures import Arm, final_bits
from hybridbench.quality.training.record import LearnRecord
from hybridbench.quality.training.verdicts import contests
from hybridbench.units import format_number

PRIOR_FRAC = 0.0013 / 3.28
"""Standard deviation between seeds over the loss: modded-nanogpt."""
PRIOR_BITS, PRIOR_TIMES = 1.5, 3.0
PRIOR = SeedNoise(PRIOR_FRAC * PRIOR_BITS * PRIOR_TIMES, 0)
"""In bits per byte; no degrees of freedom, since nothing was measured."""


@dataclass(frozen=True)
class KnownNoise:
    """The noise between seeds that a plan rests on.

    Args:
        noise: in bits per byte.
        source: where it is from, in words.
    """

    noise: SeedNoise
    source: str


def known_noise(arms: Sequence[Arm], scale: str | None) -> KnownNoise:
    """The noise of finished runs of a scale, with most degrees of freedom; the prior where no two seeds tell it."""
    found: list[KnownNoise] = []
    for contest in contests(arms):
        figures = {name: arm.values(final_bits) for name, arm in zip(contest.names, contest.arms, strict=True)}
        noise = pooled_noise(figures)
        if noise is not None and noise.std > 0 and scale in (None, contest.scale):
            runs = sum(map(len, figures.values()))
            found.append(
                KnownNoise(noise, f"from {runs} finished runs at {contest.scale}, {noise.freedom} degrees of freedom")
            )
    prior = KnownNoise(
        PRIOR, "assumed: three times modded-nanogpt's 0.04% of the loss; finished runs in -o tell it for your models"
    )
    return max(found, key=lambda one: one.noise.freedom, default=prior)


def seeds_said(difference: float, models: int, known: KnownNoise, seeds: int) -> list[str]:
    """What a plan says, in sentences.

    Args:
        difference: in bits per byte.
        models: that are compared.
        seeds: that would be run otherwise.

    Raises:
        BadInput: no such difference, or fewer than two models.
    """
    if not (math.isfinite(difference) and difference > 0):
        raise BadInput(f"--plan {difference:g}: give a difference above 0 in bits per byte, such as 0.01.")
    if models < 2:
        raise BadInput("--plan with one model: a difference is between two; name more with --arch or --pattern.")
    std = known.noise.std
    needed = seeds_for(difference, std, models)
    pairs = models * (models - 1) // 2
    among = f"{models} models, {pairs} pair{'s' if pairs > 1 else ''}"
    answer = f"{needed} seeds" if needed else f"over {MOST_SEEDS:,} seeds"
    said = [
        f"A difference of {difference:g} bits per byte takes {answer} of each model, to be found with a probability of "
        f"{POWER:.0%} ({among}, p below 0.05 after Holm).",
        f"Noise between seeds: {format_number(std)} bits per byte ({known.source}).",
    ]
    if seeds > 1:
        said.append(f"{seeds} seeds find {format_number(least_difference(std, seeds, models))} bits per byte or more.")
    return said


def document(difference: float, models: int, known: KnownNoise, seeds: int) -> dict[str, object]:
    """The same as plain values; bits per byte."""
    std = known.noise.std
    return {
        "difference_bits_per_byte": difference,
        "models": models,
        "seeds": seeds_for(difference, std, models),
        "noise_bits_per_byte": std,
        "noise_freedom": known.noise.freedom,
        "noise_source": known.source,
        "least_difference_bits_per_byte": least_difference(std, seeds, models) if seeds > 1 else None,
    }


def not_tuning(records: Sequence[LearnRecord]) -> list[LearnRecord]:
    """The runs that are compared."""
    return [record for record in records if not record.case.tuning]
