"""verdicts: models judged against each other: a table of pairs, one of equal budgets, the best and what ties with it.

Only models of one scale that learned the same text for as many tokens, and were judged on the same of it, are judged
together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hybridbench.quality.judge import ALPHA, Pair, judged
from hybridbench.quality.training.cells import about, estimated, names, number, probability, signed
from hybridbench.quality.training.equal import KINDS, AtBudget, at_budget
from hybridbench.quality.training.figures import Arm, final_bits
from hybridbench.quality.training.record import LearnRecord
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.units import format_number, format_si


@dataclass(frozen=True)
class Contest:
    """Arms that are judged together.

    Args:
        arms: with their ``names``.
        pairs: every two that share a seed.
    """

    arms: tuple[Arm, ...]
    names: tuple[str, ...]
    pairs: tuple[Pair, ...]

    @property
    def scale(self) -> str:
        """That of all its models."""
        return self.arms[0].first.case.model.scale

    @property
    def best(self) -> str | None:
        """The name of the arm with the lowest mean of those with most seeds; None without a figure."""
        known = {name: arm.estimate(final_bits) for name, arm in zip(self.names, self.arms, strict=True)}
        found = {name: one for name, one in known.items() if one is not None}
        most = max((one.n for one in found.values()), default=0)
        return min((name for name in found if found[name].n == most), key=lambda name: found[name].mean, default=None)

    def between(self, one: str, other: str) -> Pair | None:
        """The pair of two arms."""
        return next((pair for pair in self.pairs if {pair.one, pair.other} == {one, other}), None)

    def place(self, name: str) -> tuple[str, float | None, float | None]:
        """An arm beside the best: ``best``, ``tie``, ``worse`` or ``-``; its difference, and half its interval."""
        if name == self.best:
            return "best", None, None
        pair = self.between(name, self.best) if self.best is not None else None
        if pair is None:
            return NO_VALUE, None, None
        difference = pair.difference if pair.other == name else -pair.difference
        return "tie" if pair.tie else "worse" if difference > 0 else "better", difference, pair.half

    def said(self) -> str:
        """The best in a sentence, with everything that ties with it."""
        if self.best is None or len(self.arms) < 2:
            return ""
        tied = [name for name in self.names if self.place(name)[0] == "tie"]
        head = f"{self.scale}: " if self.scale else ""
        if not tied:
            return f"{head}{self.best} is best, and no other ties with it."
        return f"{head}{self.best} has the lowest mean; {', '.join(tied)} {'tie' if len(tied) > 1 else 'ties'} with it."


def runs_of(found: Iterable[Contest]) -> list[LearnRecord]:
    """Every run that is judged."""
    return [record for contest in found for arm in contest.arms for record in arm.records]


def contests(arms: Sequence[Arm]) -> list[Contest]:
    """Arms that may be judged together, with every pair of them."""
    named = dict(zip((arm.first.case.arm for arm in arms), names(arms), strict=True))
    groups: dict[object, list[Arm]] = {}
    for arm in arms:
        case = arm.first.case
        alike = (case.model.scale, case.corpus, case.context, case.tokens, case.sampling.sequences)
        groups.setdefault(alike, []).append(arm)
    made = []
    for group in groups.values():
        called = tuple(named[arm.first.case.arm] for arm in group)
        figures = {name: arm.values(final_bits) for name, arm in zip(called, group, strict=True)}
        made.append(Contest(tuple(group), called, tuple(judged(figures))))
    return made


def pairs_table(found: Sequence[Contest]) -> Table | None:
    """Every pair, with the difference, its interval and its p-value; None where there is no pair."""
    if not any(contest.pairs for contest in found):
        return None
    table = Table(
        "models in pairs, at the end of their runs",
        [
            Column("model", "model", numeric=False),
            Column("other", "other", numeric=False),
            Column("scale", "scale", numeric=False, wide=True),
            Column("seeds", "seeds"),
            Column("difference_bits_per_byte", "worse by [bits/byte]"),
            Column("half_interval", "±"),
            Column("p", "p", wide=True),
            Column("p_holm", "p (Holm)"),
            Column("verdict", "", numeric=False),
        ],
        about(runs_of(found)),
    )
    for contest in found:
        for pair in sorted(contest.pairs, key=lambda one: (contest.names.index(one.one), one.difference)):
            word = "tie" if pair.tie else f"{pair.one} is better"
            mark = f" {table.note(_OWN)}" if pair.own_noise else ""
            table.rows.append(
                [
                    TableCell(pair.one, pair.one),
                    TableCell(pair.other, pair.other),
                    TableCell(contest.scale, contest.scale),
                    TableCell(str(pair.seeds), pair.seeds),
                    *signed(pair.difference, pair.half),
                    probability(pair.p),
                    probability(pair.adjusted),
                    TableCell(f"{word}{mark}", word, word="tie" if pair.tie else "better"),
                ]
            )
    table.remark(
        "Paired by seed; the noise is pooled over the models of a scale (for two models, the paired t-test). ± is half "
        f"the 95% interval of one pair alone. A tie has a p-value of {ALPHA:g} or more after Holm's adjustment for the "
        "number of pairs, or one shared seed only."
    )
    return table


_OWN = "its own differences spread over twice as wide as the pooled noise, and are what it is judged by"


def equal_table(found: Sequence[Contest]) -> Table:
    """Bits per byte of each model at equal tokens, FLOPs, seconds and joules."""
    table = Table(
        "held-out bits per byte at equal budgets",
        [
            Column("model", "model", numeric=False),
            Column("scale", "scale", numeric=False),
            *(
                column
                for kind in KINDS
                for column in (Column(f"bits_at_{kind.key}", kind.title), Column(f"half_at_{kind.key}", "±"))
            ),
            *(Column(f"budget_{kind.key}", f"budget [{kind.unit}]", wide=True) for kind in KINDS),
        ],
        about(runs_of(found)),
    )
    for contest in found:
        budgets = [at_budget(contest.arms, kind) for kind in KINDS]
        by_kind = [budget.estimates() for budget in budgets]
        for place, name in enumerate(contest.names):
            cells = [cell for estimates in by_kind for cell in estimated(estimates[place])]
            amounts = [number(budget.amount) for budget in budgets]
            table.rows.append([TableCell(name, name), TableCell(contest.scale, contest.scale), *cells, *amounts])
        _explain(table, contest, budgets)
    table.remark(
        "A budget is the most that every run spent; losses are read off each run's curve between two judgements, never "
        "beyond its end. A run that spends more in all is read before its rate has fallen, to its disadvantage."
    )
    return table


def _explain(table: Table, contest: Contest, budgets: Sequence[AtBudget]) -> None:
    said = [
        f"{format_si(budget.amount).strip()} {budget.kind.unit}"
        if budget.kind.unit in ("tokens", "FLOPs")
        else f"{format_number(budget.amount)} {budget.kind.unit}"
        for budget in budgets
        if budget.amount is not None
    ]
    table.remark(f"Budgets at {contest.scale}: {', '.join(said) or 'none'}.")
    for why in dict.fromkeys(budget.why_not for budget in budgets if budget.why_not):
        kinds = " and ".join(budget.kind.key for budget in budgets if budget.why_not == why)
        table.remark(f"No budget of {kinds} at {contest.scale}: {why}.")
    if len({record.run_id for arm in contest.arms for record in arm.records}) > 1:
        table.remark("The runs are of several sessions: their seconds and joules are not of one state of the machine.")
