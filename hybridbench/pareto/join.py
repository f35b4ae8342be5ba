"""join: stored records with the quality of their stacks, as fronts: points that are comparable in cost and in quality.

A front is of one machine, scale, workload and batch, one arm, one score and one training budget, with a set of points
per context. Arms are ours as published (attention eager with a growing cache), ours with equal kernels, and the paper's
own throughput where the cells are its own. Budgets are never mixed: of each scale the one is taken that most of the
measured stacks have, the same FLOPs or the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hybridbench.derive.doubts import problems
from hybridbench.errors import BadInput, unknown_name
from hybridbench.metrics import METRICS, Metric, value
from hybridbench.pareto.frontier import FrontierPoint, Placed, placed
from hybridbench.pareto.quality import SCORES, Quality, Score
from hybridbench.pareto.stacks import identity
from hybridbench.record import Record, Status
from hybridbench.report.groups import Group, Series, file_stem, group_records
from hybridbench.report.paper.claims import NOISE
from hybridbench.report.paper.figures import BATCH as PAPER_BATCH
from hybridbench.report.paper.figures import LENGTHS, PROMPT, stack_of
from hybridbench.report.places import CONTEXT
from hybridbench.suite.case import PUBLISHED
from hybridbench.suite.workloads import GENERATE
from hybridbench.units import format_si, format_tokens

COSTS: dict[str, str] = {
    "tokens-per-s": "tokens_per_s",
    "step": "step_s",
    "cache": "cache_bytes",
    "energy": "energy_per_token_j",
    "peak-memory": "peak_allocated_bytes",
}
"""What can be held against quality: as typed after ``--metric``, and its name in ``METRICS``."""
COUNTED = ("cache", "peak-memory")
"""Costs that are the same in every process, so that none of them tie unless they are equal."""
MATCHED = ("flops", "tokens")
"""What training budgets may have in common."""

PAPER, AS_PUBLISHED, EQUAL = "the paper", "as published", "equal kernels"
_ARMS = {PAPER: 0, AS_PUBLISHED: 1}
_PRINTED = "generate, one H200, 1b, batch 4, prompt 512, as printed in table 13"
MEAN = "mean"
"""The place at which costs are the mean over all contexts, as in the paper's figure 1b."""


@dataclass(frozen=True)
class ParetoOptions:
    """What is asked for: a cost, a score of ``scores``, what budgets match in; contexts and workloads, None for all.

    Raises:
        BadInput: an unknown name.
    """

    metric: str = "tokens-per-s"
    score: str = "dclm_nll"
    matched: str = "flops"
    contexts: tuple[int, ...] | None = None
    workloads: tuple[str, ...] | None = None
    scores: Mapping[str, Score] = field(default_factory=lambda: SCORES)

    def __post_init__(self) -> None:
        for kind, name, known in (
            ("metric", self.metric, tuple(COSTS)),
            ("score", self.score, tuple(self.scores)),
            ("budget to match", self.matched, MATCHED),
        ):
            if name not in known:
                raise unknown_name(kind, name, known)

    @property
    def cost(self) -> Metric:
        """The cost, an entry of ``METRICS``."""
        return METRICS[COSTS[self.metric]]

    @property
    def measure(self) -> Score:
        """The score."""
        return self.scores[self.score]

    def budget(self, quality: Quality) -> float | None:
        """The budget of a figure, to three digits."""
        found = quality.flops if self.matched == "flops" else quality.tokens
        return None if found is None else float(f"{found:.3g}")


@dataclass(frozen=True)
class Front:
    """The points of one arm.

    Args:
        title: what its records have in common, without the arm.
        stem: the same as a part of a file name.
        arm: whose costs these are.
        budget: the training budget of all its figures, in words.
        noise_frac: costs tie within this fraction.
        places: the points of each context (or batch), by its name in tables.
        missing: the names of its stacks that have no figure of quality in the budget.
        sources: where its figures of quality are from.
        otherwise: what else budgets may have in common (``MATCHED``), if more of the stacks are then joined.
        repeats: how many times two ways to time the same generation differed at most.
    """

    title: str
    stem: str
    arm: str
    budget: str
    noise_frac: float
    places: dict[str, list[Placed]]
    missing: tuple[str, ...]
    sources: tuple[str, ...]
    otherwise: str = ""
    repeats: float = 1.0


def fronts(records: Sequence[Record], qualities: Sequence[Quality], asked: ParetoOptions) -> list[Front]:
    """The fronts of records. Of several figures of one stack, score and budget the last counts.

    Raises:
        BadInput: no record of the workloads and contexts asked for, or none of a stack whose quality is known.
    """
    every = _groups(records, asked)
    groups = [shown for group in every if (shown := _shown(group, every, asked))]
    if not groups:
        there = ", ".join(map(format_tokens, sorted({place for group in every for place in _contexts(group)})))
        raise BadInput(f"no record is of a context of --ctx: the records have {there}.")
    known = [quality for quality in qualities if quality.score == asked.measure]
    if not known:
        raise BadInput(f"no figure of quality is a {asked.score}: name a --score that --quality has.")
    made: list[Front] = []
    for group in groups:
        chosen = _of_one_budget(group, known, asked)
        if not chosen:
            continue
        stem = file_stem(_but(group, "mode"), [_but(one, "mode") for one in groups])
        costs = {series.name: _costs(series, asked) for series in group.series}
        front = _front(group, stem, chosen, asked, costs)
        front = replace(front, otherwise=_otherwise(group, known, asked, len(chosen)))
        made.append(replace(front, arm=_arm(group), repeats=_repeats(group, every, asked)))
        if (printed := _printed(group, asked)) and not any(one.arm == PAPER and one.stem == stem for one in made):
            made.append(
                replace(
                    _front(group, stem, chosen, asked, printed), title=_PRINTED, arm=PAPER, otherwise=front.otherwise
                )
            )
    if not made:
        raise BadInput(_nothing(groups, known, asked))
    stems = [front.stem for front in made]
    return sorted(made, key=lambda front: (stems.index(front.stem), _ARMS.get(front.arm, len(_ARMS))))


def _groups(records: Sequence[Record], asked: ParetoOptions) -> list[Group]:
    """The groups of the valid records that have the cost, of the workloads asked for.

    Raises:
        BadInput: there are none.
    """
    valid = [record for record in records if record.status is Status.OK and not problems(record)]
    kinds = dict.fromkeys(record.case.workload.kind for record in valid)
    for name in asked.workloads or ():
        if name not in kinds:
            raise unknown_name("workload of these records", name, kinds)
    of_kind = [one for one in valid if asked.workloads is None or one.case.workload.kind in asked.workloads]
    with_cost = [record for record in of_kind if value(record, asked.cost.name) is not None]
    if not with_cost:
        raise BadInput(f"none of the {len(records)} records has a {asked.metric}: name another --metric or --workload.")
    return group_records(with_cost)


def _contexts(group: Group) -> list[int]:
    return sorted({record.case.workload.context for record in group.records})


def _shown(group: Group, every: Sequence[Group], asked: ParetoOptions) -> Group | None:
    """A group's records of the contexts asked for; None if it has none, or its generations are integrated too."""
    if "depths" not in group.conditions and any(
        {(identity(one.model), place) for one in group.series for place in one.cells}
        <= {(identity(one.model), place) for one in twin.series for place in one.cells}
        for twin in _twins(group, every)
    ):
        return None
    series = []
    for one in group.series:
        cells = {
            place: record
            for place, record in one.cells.items()
            if asked.contexts is None or record.case.workload.context in asked.contexts
        }
        if cells:
            series.append(replace(one, cells=cells))
    return replace(group, series=tuple(series)) if series else None


def _twins(group: Group, every: Sequence[Group]) -> list[Group]:
    """The groups whose conditions are the same but for the depths at which generations are timed."""
    rest = _but(group, "depths").conditions
    return [other for other in every if other is not group and _but(other, "depths").conditions == rest]


def _but(group: Group, condition: str) -> Group:
    """A group without one of its conditions."""
    return replace(group, conditions={name: text for name, text in group.conditions.items() if name != condition})


def _arm(group: Group) -> str:
    mode = group.conditions["mode"]
    return AS_PUBLISHED if mode == PUBLISHED else f"{EQUAL}, {mode}"


def _repeats(group: Group, every: Sequence[Group], asked: ParetoOptions) -> float:
    """How many times the costs of a generation differ at most, timed once at depths and once truly; 1 if unknown."""
    mine = {(identity(one.model), place): cost for one in group.series for place, cost in _costs(one, asked).items()}
    worst = 1.0
    for series in (series for twin in _twins(group, every) for series in twin.series):
        for at, cost in _costs(series, asked).items():
            other = mine.get((identity(series.model), at))
            if other:
                worst = max(worst, max(cost, other) / min(cost, other))
    return worst


def _of_one_budget(group: Group, known: Sequence[Quality], asked: ParetoOptions) -> dict[str, Quality]:
    """The figures of a group's stacks in the budget that most of them have, the largest of several."""
    stacks = {identity(series.model) for series in group.series}
    by_budget: dict[float | None, dict[str, Quality]] = {}
    for quality in known:
        if quality.stack in stacks:
            by_budget.setdefault(asked.budget(quality), {})[quality.stack] = quality
    return max(by_budget.items(), key=lambda item: (len(item[1]), item[0] or 0.0), default=(None, {}))[1]


def _otherwise(group: Group, known: Sequence[Quality], asked: ParetoOptions, joined: int) -> str:
    """The other of ``MATCHED``, where more than ``joined`` of a group's stacks have one budget by it; empty if not."""
    for matched in MATCHED:
        other = replace(asked, matched=matched)
        found = list(_of_one_budget(group, known, other).values())
        if len(found) > joined and other.budget(found[0]) is not None:
            return matched
    return ""


def _costs(series: Series, asked: ParetoOptions) -> dict[int, float]:
    """The cost of a series at each of its places."""
    found = {place: value(record, asked.cost.name) for place, record in series.cells.items()}
    return {place: cost for place, cost in found.items() if cost is not None}


def _printed(group: Group, asked: ParetoOptions) -> dict[str, dict[int, float]]:
    """The throughput that the paper prints, by series and length; empty unless the group's cells are the paper's."""
    work = group.records[0].case.workload
    if asked.metric != "tokens-per-s" or (work.kind, work.prompt, work.batch) != (GENERATE, PROMPT, PAPER_BATCH):
        return {}
    found = {}
    for series in group.series:
        stack = stack_of(series.model)
        if stack is not None and group.axis == CONTEXT:
            rates = dict(zip(LENGTHS, map(float, stack.tokens_per_s), strict=True))
            found[series.name] = {place: rate for place, rate in rates.items() if place in series.cells}
    return {name: rates for name, rates in found.items() if rates}


def _front(
    group: Group,
    stem: str,
    chosen: Mapping[str, Quality],
    asked: ParetoOptions,
    costs: Mapping[str, Mapping[int, float]],
) -> Front:
    """The points of a group at each of its places, and at their mean."""
    noise_frac = 0.0 if asked.metric in COUNTED else NOISE
    better = asked.cost.better
    assert better is not None, "each of COSTS has a direction"
    figures = {one.name: chosen[identity(one.model)] for one in group.series if identity(one.model) in chosen}
    worth = {name: by_place for name, by_place in costs.items() if name in figures}
    places = {
        group.place_label(at): [
            FrontierPoint(name, found[at], figures[name]) for name, found in worth.items() if at in found
        ]
        for at in group.places
    }
    if group.axis == CONTEXT and len(places) > 1:
        full = {name: found for name, found in worth.items() if set(found) == set(group.places)}
        places[MEAN] = [
            FrontierPoint(name, sum(found.values()) / len(found), figures[name]) for name, found in full.items()
        ]
    return Front(
        title=", ".join(_but(group, "mode").conditions.values()),
        stem=stem,
        arm=_arm(group),
        budget=_budget_words(next(iter(chosen.values())), asked),
        noise_frac=noise_frac,
        places={name: placed(points, better, noise_frac) for name, points in places.items() if points},
        missing=tuple(one.name for one in group.series if one.name not in figures),
        sources=tuple(dict.fromkeys(one.source for one in figures.values() if one.source)),
    )


def _budget_words(quality: Quality, asked: ParetoOptions) -> str:
    budget = asked.budget(quality)
    if budget is None:
        return f"training {asked.matched} not given"
    return (
        f"trained with {budget:.3g} FLOPs".replace("e+", "e")
        if asked.matched == "flops"
        else f"trained on {f'{budget / 1e9:g} B' if budget >= 1e9 else format_si(budget).strip()} tokens"
    )


def _nothing(groups: Sequence[Group], known: Sequence[Quality], asked: ParetoOptions) -> str:
    """Why nothing was joined."""
    measured = list(dict.fromkeys(f"{one.name} {one.model.scale}" for group in groups for one in group.series))
    scales = list(dict.fromkeys(quality.spec.scale for quality in known))
    return (
        f"no measured stack has a {asked.score}: records are of {listed(measured)}, figures of quality of scale "
        f"{', '.join(scales)}: add yours with --quality."
    )


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names with commas, the first of many."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
