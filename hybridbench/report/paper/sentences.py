"""sentences: the findings of a comparison with the paper, in words."""

from __future__ import annotations

from collections.abc import Sequence

from hybridbench.report.paper.claims import CLAIMS, NOISE, Numbers, Rates, crossings, lead
from hybridbench.report.paper.compare import AS_PUBLISHED, EQUAL, PAPER, PaperComparison, difference
from hybridbench.report.paper.figures import LENGTHS, MAIN
from hybridbench.units import format_number, format_tokens

_WHERE = {PAPER: "in the paper", AS_PUBLISHED: "as published here", EQUAL: "with equal kernels"}

ABOUT = (
    "The paper's table 13 is of 1B models, 4 sequences, a prompt of 512 tokens and generation to the total length, on "
    "an H200; it names no engine and no kernel and does not say whether the prefill counts. Here it counts. The time "
    "of a generation is its prefill plus its steps, timed at 5 depths and added up by the trapezoid rule, unless it "
    "was truly generated; where both were done they stand side by side. As published imitates what its figures "
    "suggest: attention operator by operator on a cache that grows by concatenation, Mamba-2 in CUDA graphs. With "
    "equal kernels each step is one CUDA graph over a static cache. Training is on one GPU, not on eight. The step "
    "times and peak memories of the paper's figure 2 are printed nowhere, so they have no column."
)
"""What a reader must know to understand the tables."""


def sentences(comparison: PaperComparison) -> list[str]:
    """Sentences: Mamba's lead, where curves cross, which conclusions hold, and the error of integrated times."""
    measured = comparison.measured
    made = _lead_sentences(comparison)
    for source in measured:
        made += _crossing_sentences(source, comparison.sources[source])
    for source in measured[1:]:
        made += _claim_sentences(source, comparison.sources[source])
    if comparison.pairs:
        worst = max(comparison.pairs, key=lambda pair: abs(difference(pair)))
        made.append(
            f"{len(comparison.pairs)} generations integrated over depths are within "
            f"{100 * abs(difference(worst)):.2g}% of the same ones truly generated (furthest: {worst.stack} to "
            f"{format_tokens(worst.length)}, {worst.mode})."
        )
    return made


def _lead_sentences(comparison: PaperComparison) -> list[str]:
    measured = comparison.measured
    leads = {source: lead(comparison.sources[source]) for source in measured}
    shown = [n for n in LENGTHS if all(n in leads[source] for source in measured)]
    if not shown:
        return []
    numbers = {source: _and([format_number(leads[source][n]) for n in shown]) for source in measured}
    parts = "; ".join(f"{numbers[source]} {_WHERE[source]}" for source in measured)
    made = [
        f"To {_and([format_tokens(n) for n in shown])} Mamba is this many times as fast as the Transformer: {parts}."
    ]
    last = shown[-1]
    for source in measured[1:]:
        share = format_number(leads[PAPER][last] / leads[source][last])
        made.append(f"To {format_tokens(last)} the paper's lead is {share} times the one {_WHERE[source]}.")
    return made


def _crossing_sentences(source: str, numbers: Numbers) -> list[str]:
    rates = numbers.rates
    known = [name for name in MAIN if name in rates]
    if len(known) < 2:
        return []
    where = _WHERE[source][0].upper() + _WHERE[source][1:]
    met = crossings(rates, noise=numbers.noise)
    if not met:
        beyond = f" by more than the {numbers.noise:.0%} to which speeds repeat" if numbers.noise > NOISE else ""
        return [f"{where} no two of {_and(known)} cross{beyond} between {_span(rates)}."]
    return [
        f"{where} {c.rising} passes {c.falling} between {format_tokens(c.before)} and {format_tokens(c.after)}, near "
        f"{format_number(c.at)}."
        for c in met
    ]


def _claim_sentences(source: str, numbers: Numbers) -> list[str]:
    verdicts = {claim.text: claim.holds(numbers) for claim in CLAIMS}
    judged = [text for text, holds in verdicts.items() if holds is not None]
    failed = [text for text in judged if not verdicts[text]]
    if not judged:
        return []
    rest = f" These do not hold: {'; '.join(failed)}." if failed else ""
    if numbers.noise > NOISE:
        rest += f" Its speeds repeat to {numbers.noise:.0%} only, and a conclusion fails only beyond that."
    where = _WHERE[source][0].upper() + _WHERE[source][1:]
    return [f"{where}, {len(judged) - len(failed)} of the paper's {len(judged)} conclusions judged here hold.{rest}"]


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _span(rates: Rates) -> str:
    lengths = sorted({n for by_length in rates.values() for n in by_length})
    return f"{format_tokens(lengths[0])} and {format_tokens(lengths[-1])}"
