"""exported: quality of the models as rows of the CSV that ``hybridbench pareto --quality`` reads.

Each model has a row at its own end, where all have learned from as many tokens, and one where all have spent the same
FLOPs. Of several learning rates of a model the best one counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from hybridbench.quality.training.equal import KINDS, at_budget
from hybridbench.quality.training.figures import Arm, final_bits, final_loss
from hybridbench.quality.training.verdicts import Contest
from hybridbench.report.table import Column, Table, TableCell

COLUMNS = (
    *("arch", "scale", "ratio", "recipe", "mixer", "pattern"),
    *("metric", "value", "seeds", "std", "tokens", "flops", "source"),
)
_FLOPS = next(kind for kind in KINDS if kind.key == "flops")


def quality_table(found: Sequence[Contest]) -> Table:
    """The rows, in SI."""
    table = Table("quality, for hybridbench pareto", [Column(name, name) for name in COLUMNS])
    seen: set[tuple[object, ...]] = set()
    for contest in found:
        best = _best_rates(contest)
        spent = at_budget(best, _FLOPS)
        for place, arm in enumerate(best):
            case = arm.first.case
            ends = (case.tokens, case.flops_per_token * case.tokens)
            rows: list[tuple[str, list[float], float, float]] = [
                ("bits_per_byte", list(arm.values(final_bits).values()), *ends),
                ("loss", list(arm.values(final_loss).values()), *ends),
            ]
            if spent.amount is not None:
                values = list(spent.by_seed[place].values())
                rows.append(("bits_per_byte", values, spent.amount / case.flops_per_token, spent.amount))
            for metric, values, tokens, flops in rows:
                same = (_name(arm), metric, round(tokens), f"{flops:.6g}")
                if values and same not in seen:
                    seen.add(same)
                    table.rows.append(_row(arm, metric, values, tokens, flops))
    return table


def _best_rates(contest: Contest) -> list[Arm]:
    """Of each model the arm with the lowest mean."""
    by_model: dict[tuple[str, ...], tuple[float, Arm]] = {}
    for arm in contest.arms:
        bits = arm.estimate(final_bits)
        if bits is not None and bits.mean < by_model.get(_name(arm), (float("inf"), arm))[0]:
            by_model[_name(arm)] = bits.mean, arm
    return [arm for _, arm in by_model.values()]


def _name(arm: Arm) -> tuple[str, ...]:
    spec = arm.first.case.model
    return (spec.arch, spec.scale, spec.ratio or "", spec.recipe or "", "", spec.pattern)


def _row(arm: Arm, metric: str, values: Sequence[float], tokens: float, flops: float) -> list[TableCell]:
    case = arm.first.case
    source = (
        f"hybridbench learn, corpus {case.corpus}, vocabulary of {case.model.vocab_size:,}, lr {case.recipe.lr:.3g}"
    )
    std = statistics.stdev(values) if len(values) > 1 else None
    numbers = (statistics.fmean(values), len(values), std, round(tokens), flops)
    fields: tuple[float | str | None, ...] = (*_name(arm), metric, *numbers, source)
    return [TableCell("", value) for value in fields]
