"""Tables of training runs, with figures by hand."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hybridbench.arch.families import build_spec
from hybridbench.dialogue import UNKNOWN
from hybridbench.errors import BadInput
from hybridbench.pareto.join import ParetoOptions
from hybridbench.pareto.quality import read_quality
from hybridbench.pareto.stacks import identity
from hybridbench.quality.judge import seeds_for
from hybridbench.quality.training.case import TUNING_SEED, LearnCase
from hybridbench.quality.training.equal import KINDS, at_budget, read_off
from hybridbench.quality.training.figures import arms, bits_per_byte, estimate
from hybridbench.quality.training.plan import tuning_runs, with_seed
from hybridbench.quality.training.power import PRIOR, known_noise, seeds_said
from hybridbench.quality.training.record import Judged, LearnObserved, LearnRecord
from hybridbench.quality.training.render import write
from hybridbench.quality.training.report import build
from hybridbench.quality.training.verdicts import contests
from hybridbench.record import Caveat, Memory, Status

CaseOf = Callable[..., LearnCase]


def record(
    case: LearnCase, loss: float, finished: bool = True, *, at: float = 1.0, joules: float | None = 8.0
) -> LearnRecord:
    """A run that was judged at its start, in its middle half a nat above its end, and at its end after 2 * ``at`` s."""
    middle = Judged(case.steps // 2, loss + 0.5, 100, 50, round(at * 1e9), None if joules is None else joules / 2)
    end = Judged(case.steps, loss, 100, 50, round(at * 2e9), joules)
    curve = [Judged(0, 6.0, 100, 50, 0, 0.0), middle, end]
    seen = LearnObserved(
        losses=[loss] * case.steps,
        gradient_norms=[1.0] * case.steps,
        curve=curve,
        events=[],
        finished=finished,
        resumed_at=[],
        start=[],
        parameters=1,
        memory=Memory(1, None, None, None, None, None),
        backends=[],
        sized=[],
        build_ns=1,
        prepare_ns=1,
    )
    return LearnRecord(case, Status.OK, "run", "2026-11-29T00:00:00+00:00", UNKNOWN, seen)


def test_bits_per_byte_and_intervals_by_hand() -> None:
    assert bits_per_byte(Judged(1, math.log(2), 30, 60, 1, None)) == pytest.approx(0.5)
    found = estimate([1.0, 1.2, 1.4])
    assert found.half == pytest.approx(4.302653 * 0.2 / math.sqrt(3), rel=1e-5)  # t(97.5%, 2) of tables
    assert estimate([2.0]).half is None


def test_models_stand_side_by_side_with_paired_differences(case_of: CaseOf, tmp_path: Path) -> None:
    mamba, inter = case_of("mamba"), case_of("inter")
    losses = {0: (2.0, 2.1), 1: (2.4, 2.51), 2: (2.2, 2.29)}
    records = [
        record(with_seed(case, seed), loss)
        for seed, pair in losses.items()
        for case, loss in zip((mamba, inter), pair, strict=True)
    ]
    (contest,) = contests(arms(records))
    (pair,) = contest.pairs
    assert (pair.one, pair.other, pair.seeds) == ("mamba", "inter 1+2", 3)
    assert pair.difference == pytest.approx(0.1 / math.log(2) * 2)
    assert not pair.tie  # though both means have intervals five times as wide
    assert contest.said() == "toy: mamba is best, and no other ties with it."
    report = build([*records, record(with_seed(mamba, TUNING_SEED), 3.0)])
    rows = {
        row[0].text: {c.key: cell for c, cell in zip(report.tables["learn"].columns, row, strict=True)}
        for row in report.tables["learn"].rows
    }
    assert rows["mamba"]["verdict"].text == "best"
    assert rows["inter 1+2"]["verdict"].text == "worse"
    assert rows["mamba"]["bits_per_byte"].value == pytest.approx(2.2 / math.log(2) * 2)
    assert rows["mamba"]["tokens_per_s"].value == pytest.approx(12 * 64 / 2)
    assert rows["mamba"]["energy_j"].value == 8.0
    page = write(report, tmp_path / "report").read_text()
    assert page.startswith("# Learning\n\nModels trained on a corpus")
    assert {path.stem for path in (tmp_path / "report" / "charts").glob("*.svg")} == {
        "learn-tokens", "learn-train_flops", "learn-train_s", "learn-energy_j"
    }  # fmt: skip
    assert (tmp_path / "report" / "tables" / "learn-curves.csv").read_text().count("\n") == 7


def test_a_diverged_run_has_no_mean_and_says_so(case_of: CaseOf) -> None:
    case = case_of()
    table = build([record(case, 2.0), record(with_seed(case, 1), 9.0, finished=False)]).tables["learn"]
    row = {column.key: cell for column, cell in zip(table.columns, table.rows[0], strict=True)}
    assert row["seeds"].value == 1
    assert row["status"].word == "diverged"


def test_a_best_rate_at_the_edge_of_those_tried_is_doubted(case_of: CaseOf) -> None:
    first = case_of("mamba")
    tried = tuning_runs([first], [0.5, 1.0, 2.0])
    falling = [record(case, loss) for case, loss in zip(tried, (2.3, 2.2, 2.1), strict=True)]
    text = build(falling).tables["learn-rates"].footnotes()
    assert "mamba toy: the best rate is the largest that was tried; a larger one may be better." in text
    middle = [record(case, loss) for case, loss in zip(tried, (2.3, 2.1, 2.2), strict=True)]
    assert build(middle).tables["learn-rates"].footnotes() == []
    diverged = [*falling[:2], record(tried[2], 9.0, finished=False)]
    assert build(diverged).tables["learn-rates"].remarks == [], "a larger rate was tried and went wrong"


def test_tuning_runs_have_a_seed_of_their_own(case_of: CaseOf) -> None:
    cases = [with_seed(case_of(arch), seed) for arch in ("mamba", "inter") for seed in range(3)]
    found = tuning_runs(cases, [0.5, 2.0])
    assert [(one.model.arch, one.recipe.lr) for one in found] == [
        ("mamba", 1.5e-3), ("mamba", 6e-3), ("inter", 1.5e-3), ("inter", 6e-3)
    ]  # fmt: skip
    assert all(one.tuning and replace(one, execution=cases[0].execution).steps == 12 for one in found)


BITS = 2 / math.log(2)
"""Bits per byte of a nat, at two tokens a byte."""


def budgets(*given: LearnRecord) -> dict[str, list[float | None]]:
    found = arms(given)
    read = {kind.key: at_budget(found, kind) for kind in KINDS}
    return {
        key: [None if budget.amount is None else budget.amount, *(one and one.mean for one in budget.estimates())]
        for key, budget in read.items()
    }


def test_losses_at_equal_budgets_are_read_off_the_curves(case_of: CaseOf) -> None:
    mamba, inter = case_of("mamba"), case_of("inter")
    slow, quick = record(mamba, 2.0, at=2.0, joules=30.0), record(inter, 2.1)
    found = budgets(slow, quick)
    assert found["tokens"] == [12 * 64, pytest.approx(2.0 * BITS), pytest.approx(2.1 * BITS)]
    # mamba has spent 2 s at its middle, where inter ends, and 15 J likewise.
    assert found["seconds"] == [2.0, pytest.approx(2.5 * BITS), pytest.approx(2.1 * BITS)]
    assert found["joules"][0] == 8.0
    assert found["joules"][1] is None, "it spent 15 J before its first judgement, and nothing is read before that"
    ratio = mamba.flops_per_token / inter.flops_per_token
    assert 1 < ratio < 2
    share = math.log(2 / ratio) / math.log(2)
    assert found["flops"][1] == pytest.approx((2.5 - 0.5 * share) * BITS)
    assert found["flops"][2] == pytest.approx(2.1 * BITS)


def test_seconds_compare_only_where_each_run_had_its_device_alone(case_of: CaseOf) -> None:
    alone, shared = record(case_of("mamba"), 2.0), record(case_of("inter"), 2.1)
    found = budgets(alone, replace(shared, caveats=[Caveat.AT_ONCE]))
    assert found["seconds"] == found["joules"] == [None, None, None]
    assert found["tokens"][0] == 12 * 64
    elsewhere = replace(shared, environment=replace(UNKNOWN, device="another"))
    assert budgets(alone, elsewhere)["seconds"][0] is None
    text = build([alone, elsewhere]).tables["learn-equal"].footnotes()
    assert "No budget of seconds and joules at toy: the runs are of several devices." in text
    assert budgets(alone, record(case_of("inter"), 2.1, joules=None))["joules"][0] is None


def test_nothing_is_read_beyond_a_curve() -> None:
    curve = [(1.0, 4.0), (10.0, 3.0), (1000.0, 2.0)]
    assert read_off(curve, 1000.0) == 2.0
    assert read_off(curve, 100.0) == pytest.approx(2.5)
    assert read_off(curve, 1001.0) is None
    assert read_off(curve, 0.5) is None
    assert read_off([(5.0, 1.0)], 5.0) == 1.0
    assert read_off([], 5.0) is None


def test_ties_are_named_and_pairs_of_other_scales_are_none(case_of: CaseOf) -> None:
    cases = [case_of(arch) for arch in ("transformer", "mamba", "inter")]
    noise = (0.0, 0.01, -0.01)
    losses = {"transformer": 2.5, "mamba": 2.001, "inter": 2.0}
    records = [
        record(with_seed(case, seed), losses[case.model.arch] + noise[(seed + place) % 3])
        for seed in range(3)
        for place, case in enumerate(cases)
    ]
    (contest,) = contests(arms(records))
    assert contest.said() == "toy: inter 1+2 has the lowest mean; mamba ties with it."
    table = build(records).tables["learn-pairs"]
    words = {(row[0].text, row[1].text): row[-1].text for row in table.rows}
    assert words == {
        ("mamba", "transformer"): "mamba is better",
        ("inter 1+2", "mamba"): "tie",
        ("inter 1+2", "transformer"): "inter 1+2 is better",
    }
    other = replace(cases[0], model=replace(cases[0].model, scale="tiny"))
    assert len(contests(arms([*records, record(other, 2.0)]))) == 2
    assert contests(arms([record(other, 2.0)]))[0].said() == ""


def test_two_rates_of_one_model_are_told_apart(case_of: CaseOf) -> None:
    slow = case_of("mamba")
    fast = replace(slow, recipe=replace(slow.recipe, lr=6e-3))
    report = build([record(with_seed(case, seed), 2.0) for case in (slow, fast) for seed in (0, 1)])
    assert [row[0].text for row in report.tables["learn-equal"].rows] == ["mamba lr 0.003", "mamba lr 0.006"]


def test_pareto_reads_what_the_report_writes(case_of: CaseOf, tmp_path: Path) -> None:
    every = [case_of(arch) for arch in ("transformer", "swa", "mamba", "inter", "intra")]
    worse = replace(every[0], recipe=replace(every[0].recipe, lr=1.0))
    records = [
        record(with_seed(case, seed), 2.0 + 0.1 * place + 0.01 * seed)
        for seed in range(3)
        for place, case in enumerate([*every, worse])
    ]
    write(build(records), tmp_path)
    found = read_quality(tmp_path / "tables" / "quality.csv")
    size = every[0].model.vocab_size
    assert {one.source for one in found} == {
        f"hybridbench learn, corpus {every[0].corpus}, vocabulary of {size}, lr 0.003"
    }
    loss = {one.stack: one for one in found if one.score.name == "loss"}
    assert len(loss) == 5
    for place, case in enumerate(every):
        usual = replace(case.model, vocab_size=build_spec(case.model.arch, "toy").vocab_size)
        one = loss[identity(usual)]
        assert (one.seeds, one.tokens) == (3, case.tokens)
        assert one.value == pytest.approx(2.01 + 0.1 * place)
        assert one.std == pytest.approx(0.01)
        assert one.flops == pytest.approx(case.flops_per_token * case.tokens)
    asked = ParetoOptions(score="bits_per_byte", matched="flops")
    budgets_ = Counter(asked.budget(one) for one in found if one.score.name == "bits_per_byte")
    assert max(budgets_.values()) == 5, "all five have a row at equal FLOPs"


def test_a_plan_takes_the_noise_of_finished_runs_of_its_scale(case_of: CaseOf) -> None:
    noise = (0.0, 0.02, -0.02)
    records = [
        record(with_seed(case_of(arch), seed), 2.0 + noise[(seed + place) % 3])
        for seed in range(3)
        for place, arch in enumerate(("mamba", "inter"))
    ]
    known = known_noise(arms(records), "toy")
    # Differences of the two by seed are -0.02, 0.04 and -0.02 nats; the noise of one is theirs over the root of 2.
    assert known.noise.std == pytest.approx(statistics.stdev((-0.02, 0.04, -0.02)) / math.sqrt(2) * BITS)
    assert known.source == "from 6 finished runs at toy, 2 degrees of freedom"
    assert known_noise(arms(records), "20m").noise is PRIOR
    assert known_noise(arms(records[:2]), "toy").noise is PRIOR
    said = seeds_said(0.1, 2, known, 3)
    assert said[0].startswith(f"A difference of 0.1 bits per byte takes {seeds_for(0.1, known.noise.std)} seeds")
    assert "over 1,000 seeds" in seeds_said(1e-5, 2, known, 3)[0]
    assert len(seeds_said(0.1, 2, known, 1)) == 2, "one seed finds nothing"
    for difference, models in ((0.0, 2), (math.nan, 2), (0.1, 1)):
        with pytest.raises(BadInput, match="--plan"):
            seeds_said(difference, models, known, 3)
