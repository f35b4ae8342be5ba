"""claims: the paper's conclusions about cost, each a named predicate over numbers, and where curves cross.

The same predicate judges the paper's own numbers and ours. It returns None if a number that it needs is missing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hybridbench.report.paper.figures import BATCH, LENGTHS, MAIN, STACKS, TRAIN_CONTEXT, TRAIN_TOKENS
from hybridbench.units import MIB

NOISE = 0.02
"""Speeds that differ by at most this fraction count as equal. It is the half-width that sampling aims at."""
FLAT = 0.05
"""A speed counts as constant if it changes by at most this fraction between the shortest and the longest length."""
FOLLOWS = 0.1
"""A step time follows FLOPs if its ratio differs from the ratio of FLOPs by at most this fraction."""

Rates = dict[str, dict[int, float]]
"""Maps a stack, then a total length, to new tokens per second of all sequences together."""


@dataclass(frozen=True)
class Training:
    """One stack's training step: FLOPs as the paper counts them, seconds, and peak bytes; None where unknown."""

    flops: float
    step_s: float | None = None
    peak_bytes: float | None = None


@dataclass
class Numbers:
    """The numbers of one source.

    Args:
        rates: decode throughput.
        caches: maps a stack, then a context, to the cache bytes of one sequence.
        training: training steps by stack.
        noise: the fraction within which rates repeat. If it exceeds ``NOISE``, a conclusion fails only beyond it.
    """

    rates: Rates = field(default_factory=dict)
    caches: Rates = field(default_factory=dict)
    training: dict[str, Training] = field(default_factory=dict)
    noise: float = NOISE

    @property
    def margin(self) -> float:
        """The fraction by which a speed must exceed another to be higher; negative where rates repeat poorly."""
        return NOISE if self.noise <= NOISE else -self.noise


def paper_numbers() -> Numbers:
    """The paper's own numbers."""
    return Numbers(
        {stack.name: dict(zip(LENGTHS, map(float, stack.tokens_per_s), strict=True)) for stack in STACKS},
        {stack.name: {n: float(mib * MIB) for n, mib in stack.cache_mib} for stack in STACKS if stack.cache_mib},
        {
            stack.name: Training(stack.train_flops / TRAIN_TOKENS * TRAIN_CONTEXT * BATCH)
            for stack in STACKS
            if stack.train_flops is not None
        },
    )


@dataclass(frozen=True)
class Claim:
    """One conclusion of the paper that such numbers can confirm or contradict.

    Args:
        text: the conclusion.
        where: where the paper states or shows it.
        holds: whether it is true for some numbers; None where a number is missing.
    """

    text: str
    where: str
    holds: Callable[[Numbers], bool | None]


def _known(rates: Rates, names: Sequence[str], lengths: Sequence[int]) -> bool:
    return all(length in rates.get(name, {}) for name in names for length in lengths)


ENDS = (LENGTHS[0], LENGTHS[-1])
_ALL = tuple(stack.name for stack in STACKS)
_GLOBAL = tuple(name for name in _ALL if name not in ("mamba", "swa 0+16"))
"""Stacks with at least one full-attention layer."""


def _mamba_is_fastest(numbers: Numbers) -> bool | None:
    rates = numbers.rates
    if not _known(rates, _ALL, LENGTHS):
        return None
    return all(rates["mamba"][n] >= (1 - numbers.noise) * max(rates[name][n] for name in _ALL) for n in LENGTHS)


def _transformer_is_slowest(numbers: Numbers) -> bool | None:
    rates, last = numbers.rates, LENGTHS[-1]
    if not _known(rates, _ALL, [last]):
        return None
    return rates["transformer"][last] <= (1 + numbers.noise) * min(rates[name][last] for name in _ALL)


def _attention_costs(numbers: Numbers) -> bool | None:
    rates, last = numbers.rates, LENGTHS[-1]
    if not _known(rates, _ALL, [last]):
        return None
    for family in ("swa", "inter", "intra"):
        falling = [rates[stack.name][last] for stack in STACKS if stack.arch == family]
        if any(less < (1 - numbers.noise) * more for more, less in itertools.pairwise(falling)):
            return False
        if falling[-1] <= (1 + numbers.margin) * falling[0]:
            return False
    return True


def _intra_beats_inter(numbers: Numbers) -> bool | None:
    rates = numbers.rates
    named = {(stack.arch, stack.ratio): stack.name for stack in STACKS}
    pairs = [(named["intra", ratio], name) for (arch, ratio), name in named.items() if arch == "inter"]
    if not _known(rates, [name for pair in pairs for name in pair], LENGTHS):
        return None
    return all(rates[intra][n] >= (1 - numbers.noise) * rates[inter][n] for intra, inter in pairs for n in LENGTHS)


def _change(numbers: Numbers, name: str) -> float | None:
    """The speed at the longest length divided by that at the shortest, minus one."""
    if not _known(numbers.rates, [name], ENDS):
        return None
    first, last = (numbers.rates[name][n] for n in ENDS)
    return last / first - 1


def _mamba_holds(numbers: Numbers) -> bool | None:
    change = _change(numbers, "mamba")
    return None if change is None else change >= -max(FLAT, numbers.noise)


def _windows_hold(numbers: Numbers) -> bool | None:
    change = _change(numbers, "swa 0+16")
    return None if change is None else abs(change) <= max(FLAT, numbers.noise)


def _attention_falls(numbers: Numbers) -> bool | None:
    changes = [_change(numbers, name) for name in _GLOBAL]
    if any(change is None for change in changes):
        return None
    most = -FLAT if numbers.noise <= FLAT else numbers.noise
    return all(change < most for change in changes if change is not None)


def _hybrids_lead(numbers: Numbers) -> bool | None:
    rates = numbers.rates
    if not _known(rates, MAIN, LENGTHS):
        return None
    slower, faster = ("transformer", "swa 3+13"), ("inter 2+11", "intra 2+11")
    return all(rates[a][n] > (1 + numbers.margin) * rates[b][n] for a in faster for b in slower for n in LENGTHS)


def lead(numbers: Numbers) -> dict[int, float]:
    """Mamba's throughput divided by the Transformer's, by length."""
    mamba, transformer = (numbers.rates.get(name, {}) for name in ("mamba", "transformer"))
    return {n: mamba[n] / transformer[n] for n in LENGTHS if n in mamba and n in transformer}


def _lead_grows(numbers: Numbers) -> bool | None:
    leads = lead(numbers)
    if len(leads) < len(LENGTHS):
        return None
    return all(later > (1 + numbers.margin) * earlier for earlier, later in itertools.pairwise(leads.values()))


def _caches_in_order(numbers: Numbers) -> bool | None:
    order = ("mamba", "intra 2+11", "inter 2+11", "swa 3+13", "transformer")
    if not _known(numbers.caches, order, [TRAIN_CONTEXT]):
        return None
    sizes = [numbers.caches[name][TRAIN_CONTEXT] for name in order]
    return all(smaller < larger for smaller, larger in itertools.pairwise(sizes))


def _mamba_cache_holds(numbers: Numbers) -> bool | None:
    sizes = list(numbers.caches.get("mamba", {}).values())
    return len(set(sizes)) == 1 if len(sizes) > 1 else None


def _fewer_flops(numbers: Numbers) -> bool | None:
    training = numbers.training
    if not set(MAIN) <= set(training):
        return None
    return all(training[name].flops < training["transformer"].flops for name in MAIN if name != "transformer")


def _over_transformer(numbers: Numbers, of: Callable[[Training], float | None]) -> dict[str, float] | None:
    """A figure of each of the other four stacks divided by the Transformer's; None where one is missing."""
    figures = {name: of(numbers.training[name]) for name in MAIN if name in numbers.training}
    base = figures.pop("transformer", None)
    known = {name: figure / base for name, figure in figures.items() if figure is not None and base}
    return known if len(known) == len(MAIN) - 1 else None


def _step_follows_flops(numbers: Numbers) -> bool | None:
    steps = _over_transformer(numbers, lambda training: training.step_s)
    flops = _over_transformer(numbers, lambda training: training.flops)
    if steps is None or flops is None:
        return None
    return all(abs(steps[name] / flops[name] - 1) <= FOLLOWS for name in steps)


def _less_memory(numbers: Numbers) -> bool | None:
    peaks = _over_transformer(numbers, lambda training: training.peak_bytes)
    if peaks is None:
        return None
    return all(peaks[name] < 1 for name in ("mamba", "inter 2+11", "intra 2+11"))


CLAIMS: tuple[Claim, ...] = (
    Claim("Mamba is the fastest stack at every length", "table 13", _mamba_is_fastest),
    Claim("Mamba's lead over the Transformer grows with the length", "table 13", _lead_grows),
    Claim("Mamba's throughput does not fall with the length", "table 13", _mamba_holds),
    Claim("window layers alone hold their throughput", "table 13", _windows_hold),
    Claim("every stack with full attention falls with the length", "table 13", _attention_falls),
    Claim("the Transformer is the slowest stack at 32k", "table 13", _transformer_is_slowest),
    Claim("within swa, inter and intra, more attention is slower at 32k", "table 13", _attention_costs),
    Claim(
        "intra is no slower than inter of the same ratio, at every length", "section 4, table 13", _intra_beats_inter
    ),
    Claim("both hybrids of 1:5 beat swa of 1:5 and the Transformer, at every length", "table 13", _hybrids_lead),
    Claim("caches at 8k: mamba < intra < inter < swa < transformer, at 1:5", "table 9", _caches_in_order),
    Claim("Mamba's cache does not grow", "table 12", _mamba_cache_holds),
    Claim("the other four train with fewer FLOPs than the Transformer", "figure 2, table 9", _fewer_flops),
    Claim(f"the training step follows FLOPs, to {FOLLOWS:.0%}", "section 4, figure 2", _step_follows_flops),
    Claim(
        "Mamba and hybrids train in less memory than the Transformer",
        "introduction; section 4 differs",
        _less_memory,
    ),
)
"""The paper's conclusions about cost. Its figure 2 prints no numbers, so its own cannot judge the last two."""


# Crossings.


@dataclass(frozen=True)
class Crossing:
    """A crossing: one stack is slower than another up to ``before`` and faster from ``after`` on."""

    rising: str
    falling: str
    before: int
    after: int
    at: float
    """The length at which both are equally fast, by linear interpolation of logarithms."""


def crossings(rates: Rates, names: Sequence[str] = MAIN, noise: float = NOISE) -> list[Crossing]:
    """Where throughputs cross, pair by pair. Differences within ``noise`` count as equal."""
    found = []
    for one, other in itertools.combinations(names, 2):
        leads = [
            (n, math.log(rates[one][n] / rates[other][n]))
            for n in LENGTHS
            if n in rates.get(one, {}) and n in rates.get(other, {})
        ]
        clear = [(n, by) for n, by in leads if abs(by) > math.log1p(noise)]
        for (before, was), (after, now) in itertools.pairwise(clear):
            if was * now < 0:
                share = was / (was - now)
                at = math.exp(math.log(before) + share * (math.log(after) - math.log(before)))
                rising, falling = (one, other) if now > 0 else (other, one)
                found.append(Crossing(rising, falling, before, after, at))
    return found
