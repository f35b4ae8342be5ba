"""A planted change is found with its size, the same code is within noise, and what fails or is missing stays a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from hybridbench.arch.model import cache_bytes
from hybridbench.compare.calibrated import Calibrations
from hybridbench.compare.cell import ASKED
from hybridbench.compare.judging import Comparison, Verdict
from hybridbench.compare.noise import GRAPHED, LAUNCHED, ON_CPU, SEQUENCES, TRAINING, noise_between, spread_frac
from hybridbench.compare.steps import ENERGY_TICK_S
from hybridbench.errors import NotComparable, NothingCompared
from hybridbench.gate.calibration import Calibrated, Calibration, machine_of
from hybridbench.gate.cells import of_step
from hybridbench.measure import caveats
from hybridbench.metrics import value
from hybridbench.record import SCHEMA, Caveat, Ceilings, Part, Record, Status

Again = Callable[..., Record]
Compared = Callable[..., Comparison]


def verdicts(comparison: Comparison) -> list[Verdict]:
    return [row.verdict for row in comparison.rows]


@pytest.mark.parametrize("change", [1.05, 0.97])
def test_a_planted_change_is_found_with_its_size(
    decodes: list[Record], again: Again, compared: Compared, change: float
) -> None:
    changed = decodes[7]
    later = [again(record, change if record is changed else 1.0) for record in decodes]
    first, *others = compared(decodes, later).rows
    assert first.verdict is (Verdict.WORSE if change > 1 else Verdict.BETTER)
    assert first.pair.base is not None
    assert first.pair.base.what["context"] == f"{changed.case.workload.context // 1024}k"
    assert first.ratio is not None
    assert first.ratio.value == pytest.approx(change, rel=1e-5)
    assert first.ratio.low is not None
    assert first.ratio.high is not None
    assert first.ratio.low < change < first.ratio.high
    # 0.14% a process and 30 cells: 3.14 deviations of a difference are 0.62%; what the samples add is less.
    assert first.ratio.high / first.ratio.low == pytest.approx(math.exp(2 * 3.14 * 0.0014 * math.sqrt(2)), rel=2e-3)
    assert {row.verdict for row in others} == {Verdict.NOISE}


def test_the_same_records_on_both_sides_are_within_noise(
    stored: list[Record], again: Again, compared: Compared
) -> None:
    found = compared(stored, [again(record) for record in stored])
    assert set(verdicts(found)) == {Verdict.NOISE}
    assert found.exit_code == 0
    assert all(row.pair.separate for row in found.rows)


def test_one_run_is_not_widened_by_noise_between_runs(decodes: list[Record], again: Again, compared: Compared) -> None:
    """0.15% of a step: certain in one run, within what two runs may differ by."""
    (record,) = [one for one in decodes if one.case.model.arch == "mamba" and one.case.workload.context == 8192]
    same = compared([record], [again(record, 1.0015, run=record.run_id)])
    apart = compared([record], [again(record, 1.0015)])
    assert verdicts(same) == [Verdict.WORSE]
    assert verdicts(apart) == [Verdict.NOISE]
    assert same.rows[0].ratio is not None
    assert same.rows[0].ratio.value == pytest.approx(1.0015, rel=1e-5)


def test_failures_and_missing_cells_are_rows_in_order(decodes: list[Record], again: Again, compared: Compared) -> None:
    broke, fixed, fails, gone, new, slow, slower, fast = decodes[:8]
    oom = {"status": Status.OOM, "observed": None, "message": "out of\n memory"}
    base = [broke, replace(fixed, **oom), replace(fails, **oom), gone, slow, slower, fast]
    other = [
        *(again(broke, **oom), again(fixed), again(fails, **oom), again(new)),
        *(again(slow, 1.02), again(slower, 1.3), again(fast, 0.9)),
    ]
    found = compared(base, other)
    assert verdicts(found) == [
        *(Verdict.BROKE, Verdict.FIXED, Verdict.FAILS),
        *(Verdict.WORSE, Verdict.BETTER, Verdict.WORSE),
        *(Verdict.GONE, Verdict.NEW),
    ]
    assert found.rows[0].reasons == ("oom in B: out of memory",)
    assert [row.ratio and round(row.ratio.value, 3) for row in found.rows[3:6]] == [1.3, 0.9, 1.02]
    assert found.exit_code == 0
    assert len(found.rows) == 8


@pytest.mark.parametrize(
    ("change", "limit", "code"), [(1.10, 0.05, 1), (1.0515, 0.05, 0), (1.10, 0.11, 0), (0.8, 0.05, 0), (1.01, 0.0, 1)]
)
def test_fail_above_fails_what_is_certainly_beyond(
    decodes: list[Record], again: Again, compared: Compared, change: float, limit: float, code: int
) -> None:
    """1.0515 is beyond 5%, and its interval is not."""
    later = [again(record, change if record is decodes[3] else 1.0) for record in decodes]
    found = compared(decodes, later, limit=limit)
    assert found.exit_code == code
    assert sum(row.failed for row in found.rows) == code


def test_fail_above_fails_what_no_longer_works_and_passes_nothing_that_is_gone(
    decodes: list[Record], again: Again, compared: Compared
) -> None:
    one, two = decodes[:2]
    crashed = again(one, status=Status.CRASHED, observed=None)
    assert compared([one, two], [crashed, again(two)], limit=0.05).exit_code == 1
    assert compared([one, two], [crashed, again(two)]).exit_code == 0
    assert compared([crashed, two], [one, again(two)], limit=0.05).exit_code == 0
    assert compared([one, two], [again(two)], limit=0.05).exit_code == NotComparable.exit_code == 4
    assert compared([one, two], [again(two)]).exit_code == 0
    assert compared([one], [crashed]).exit_code == NothingCompared.exit_code == 6


def test_a_result_that_contradicts_itself_is_a_failure(decodes: list[Record], again: Again, compared: Compared) -> None:
    impossible = again(decodes[0], 0.001)
    found = compared([decodes[0]], [impossible], limit=0.05)
    assert verdicts(found) == [Verdict.BROKE]
    assert "faster than the floor" in found.rows[0].reasons[0]
    assert found.exit_code == 1


OTHERS = {
    "dtype": {"execution": {"dtype": "float16"}},
    "mode": {"execution": {"mode": "eager"}},
    "backends": {"execution": {"backends": {"attention_decode": "flash-attn"}}},
    "streams": {"execution": {"streams": 2}},
    "state dtype": {"execution": {"state_dtype": "float32"}},
    "weight dtype": {"execution": {"weight_dtype": "fp8"}},
    "kv dtype": {"execution": {"kv_dtype": "fp8"}},
    "checkpoint": {"execution": {"checkpoint": "full"}},
    "seed": {"execution": {"seed": 1}},
    "sampling": {"sampling": {"max_samples": 1}},
    "device": {"environment": {"device": "NVIDIA B200"}},
    "cpu": {"environment": {"cpu": "another"}},
    "cores": {"environment": {"cores": 3}},
    "driver": {"environment": {"driver": "1"}},
    "cuda": {"environment": {"cuda": "1"}},
    "python": {"environment": {"python": "3.13.0"}},
    "packages": {"environment": {"packages": {"torch": "9.9"}}},
    "schema": {"schema": SCHEMA - 5},
}
CROSSED_BY = {
    **dict.fromkeys(("dtype", "state dtype", "weight dtype", "kv dtype"), "dtype"),
    "mode": "mode",
    "backends": "backend",
    **dict.fromkeys(("device", "cpu", "cores", "driver", "cuda"), "machine"),
    **dict.fromkeys(("python", "packages", "schema"), "version"),
}


def under(record: Record, field: str) -> Record:
    """A record whose conditions are other in one field."""
    changes = OTHERS[field]
    case = record.case
    for part in ("execution", "sampling"):
        case = replace(case, **{part: replace(getattr(case, part), **changes.get(part, {}))})
    environment = replace(record.environment, **changes.get("environment", {}))
    seen = record.observed
    if field == "kv dtype" and seen is not None and seen.cache is not None:  # as many bytes as codes take
        kept = case.workload.batch * cache_bytes(case.model, seen.cache.tokens, case.execution.storage)
        seen = replace(seen, cache=replace(seen.cache, kv_cache_bytes=kept.kv))
    schema = changes.get("schema", record.schema)
    return replace(record, case=case, environment=environment, observed=seen, schema=schema)


@pytest.mark.parametrize("field", OTHERS)
def test_other_conditions_are_refused_by_name(
    decodes: list[Record], again: Again, compared: Compared, field: str
) -> None:
    record = decodes[0]
    other = under(again(record), field)
    with pytest.raises(NotComparable, match=rf"not comparable: {field} ") as refused:
        compared([record], [other])
    crossing = CROSSED_BY.get(field)
    if crossing is None:
        assert "--across" not in str(refused.value)
        return
    assert f"--across {crossing}" in str(refused.value)
    found = compared([record], [other], across=[crossing])
    assert [set(row.pair.crossed) for row in found.rows] == [{field}]
    assert found.rows[0].ratio is not None


def test_two_refused_fields_are_both_named_with_both_ways_out(
    decodes: list[Record], again: Again, compared: Compared
) -> None:
    other = under(under(again(decodes[0]), "dtype"), "packages")
    with pytest.raises(NotComparable) as refused:
        compared([decodes[0]], [other])
    assert "dtype bfloat16 / float16" in str(refused.value)
    assert "torch=2.11.0" in str(refused.value)
    assert "torch=9.9" in str(refused.value)
    assert "--across dtype --across version" in str(refused.value)


def test_one_cell_that_is_not_comparable_is_a_row_and_an_exit_code(
    decodes: list[Record], again: Again, compared: Compared
) -> None:
    one, two = decodes[:2]
    found = compared([one, two], [under(again(one), "dtype"), again(two)])
    assert verdicts(found) == [Verdict.INCOMPARABLE, Verdict.NOISE]
    assert found.rows[0].reasons == ("not comparable: dtype bfloat16 / float16",)
    assert found.exit_code == 4


def test_a_cell_under_further_conditions_is_missing_and_not_incomparable(
    decodes: list[Record], again: Again, compared: Compared
) -> None:
    """The base was measured in two modes, the other side in one of them."""
    record = decodes[0]
    found = compared([record, under(record, "mode")], [again(record)])
    assert sorted(verdicts(found)) == sorted([Verdict.NOISE, Verdict.GONE])


def test_results_without_a_cell_in_common_are_refused(decodes: list[Record], again: Again, compared: Compared) -> None:
    with pytest.raises(NothingCompared, match="no cell in common"):
        compared([decodes[0]], [again(decodes[1])])


def test_the_newest_record_of_a_cell_counts_by_its_time_and_the_others_are_said(
    decodes: list[Record], again: Again, compared: Compared
) -> None:
    """In another time zone the earlier text is the later moment."""
    late = again(decodes[0], 1.5, run="late", started_at="2026-11-30T23:00:00-05:00")
    early = again(decodes[0], 1.2, run="early", started_at="2026-12-01T03:00:00+00:00")
    for records in ([late, early], [early, late]):
        (row,) = compared([decodes[0]], records).rows
        assert row.ratio is not None
        assert row.ratio.value == pytest.approx(1.5, rel=1e-5)
        assert row.pair.passed_over == 1


def test_the_same_value_is_preferred_to_a_crossed_one(decodes: list[Record], again: Again, compared: Compared) -> None:
    record = decodes[0]
    base = [record, under(record, "backends")]
    other = [under(again(record, 1.3), "backends"), again(record, 1.1)]
    found = compared(base, other, across=["backend"])
    assert sorted(round(row.ratio.value, 2) for row in found.rows if row.ratio) == [1.1, 1.3]
    assert all(not row.pair.crossed for row in found.rows)


def test_more_sides_are_each_compared_with_the_first(decodes: list[Record], again: Again, compared: Compared) -> None:
    record = decodes[0]
    found = compared([record], [again(record, 1.1)], [again(record, 0.8, run="third")])
    assert [(row.pair.side, row.verdict) for row in found.rows] == [("C", Verdict.BETTER), ("B", Verdict.WORSE)]
    assert found.judged == 2


def test_throughput_is_better_when_higher(decodes: list[Record], again: Again, compared: Compared) -> None:
    (row,) = compared([decodes[0]], [again(decodes[0], 1.25)], metric="tokens-per-s", limit=0.2).rows
    assert row.ratio is not None
    assert row.ratio.value == pytest.approx(0.8, rel=1e-5)
    assert (row.verdict, row.failed) == (Verdict.WORSE, True)
    (row,) = compared([decodes[0]], [again(decodes[0], 0.8)], metric="tokens-per-s", limit=0.2).rows
    assert (row.verdict, row.failed) == (Verdict.BETTER, False)


def test_peak_memory_is_counted_and_any_difference_is_one(
    decodes: list[Record], again: Again, compared: Compared
) -> None:
    later = again(decodes[0], 3.0)
    assert verdicts(compared([decodes[0]], [later], metric="peak-memory")) == [Verdict.SAME]
    assert later.observed is not None
    peak = later.observed.memory.peak_allocated_bytes
    assert peak is not None
    grown = replace(later.observed, memory=replace(later.observed.memory, peak_allocated_bytes=peak + peak // 50))
    (row,) = compared([decodes[0]], [replace(later, observed=grown)], metric="peak-memory", limit=0.01).rows
    assert (row.verdict, row.failed) == (Verdict.WORSE, True)


def test_energy_is_known_to_a_tick_of_its_counter(decodes: list[Record], again: Again, compared: Compared) -> None:
    """A window of about 1.1 s and ticks of 0.1 s: 5% more joules are within it, twice as many are not."""
    record = decodes[0]
    assert ENERGY_TICK_S == caveats.ENERGY_TICK_S
    for factor, verdict in ((1.05, Verdict.NOISE), (2.0, Verdict.WORSE)):
        later = again(record)
        assert later.observed is not None
        assert later.observed.energy is not None
        energy = replace(later.observed.energy, energy_j=later.observed.energy.energy_j * factor)
        later = replace(later, observed=replace(later.observed, energy=energy))
        (row,) = compared([record], [later], metric="energy").rows
        assert row.ratio is not None
        assert row.ratio.value == pytest.approx(factor)
        assert row.verdict is verdict


def test_a_metric_that_a_side_lacks_is_unknown(decodes: list[Record], again: Again, compared: Compared) -> None:
    later = again(decodes[0])
    assert later.observed is not None
    found = compared([decodes[0]], [replace(later, observed=replace(later.observed, energy=None))], metric="energy")
    assert verdicts(found) == [Verdict.UNKNOWN]
    assert found.rows[0].reasons == ("energy per token is unknown in B",)
    assert found.exit_code == 6


@pytest.mark.parametrize("caveat", [Caveat.SHARED_GPU, Caveat.SHARED_CPU, Caveat.RECOMPILED])
def test_caveats_that_deny_a_time_deny_a_verdict_of_it(
    decodes: list[Record], again: Again, compared: Compared, caveat: Caveat
) -> None:
    later = again(decodes[0], 2.0, caveats=[caveat])
    found = compared([decodes[0]], [later], limit=0.05)
    assert verdicts(found) == [Verdict.DOUBTFUL]
    assert found.rows[0].reasons[0].startswith(f"doubtful in B: {caveat.value.replace('_', ' ')}")
    assert verdicts(compared([decodes[0]], [later], metric="peak-memory")) == [Verdict.SAME]


def test_samples_that_never_became_steady_widen_an_interval_by_their_spread(
    decodes: list[Record], again: Again, compared: Compared
) -> None:
    """The same factor of 2 is certain of steady samples, and not of samples between 1 and 4 times the step."""
    record = decodes[0]
    assert record.observed is not None
    step = record.observed.samples_ns[0]
    wild = [step * (1 + 3 * (place % 11) // 10) for place in range(99)]
    later = again(record, run=record.run_id)
    assert later.observed is not None
    later = replace(later, observed=replace(later.observed, samples_ns=wild))
    assert verdicts(compared([record], [later])) == [Verdict.WORSE]
    assert verdicts(compared([record], [replace(later, caveats=[Caveat.UNSTEADY])])) == [Verdict.NOISE]


def on_cpu(record: Record, product: float, memory: float, **changes: Any) -> Record:
    """The record as of a CPU, with the rates that its process measured beside it."""
    assert record.observed is not None
    environment = replace(record.environment, device="Xeon", device_kind="cpu", cpu="Xeon", threads=2)
    seen = replace(record.observed, ceilings=Ceilings("float32", product, memory, memory))
    return replace(record, **{"environment": environment, "observed": seen, "caveats": [], **changes})


@pytest.mark.parametrize(
    ("product", "memory", "certain"), [(31e9, 5e9, False), (45e9, 3.2e9, False), (45e9, 5e9, True)]
)
def test_a_cpu_that_was_slower_as_a_whole_denies_a_change(
    decodes: list[Record], again: Again, compared: Compared, product: float, memory: float, certain: bool
) -> None:
    """A step of 1.3 times, where a product or memory was 1.45 or 1.56 times slower; and where neither was."""
    base = on_cpu(decodes[0], 45e9, 5e9)
    (row,) = compared([base], [on_cpu(again(decodes[0], 1.3), product, memory)]).rows
    assert row.verdict is (Verdict.WORSE if certain else Verdict.NOISE)
    other = on_cpu(again(decodes[0], 1.3), product, memory)
    other = replace(other, environment=replace(other.environment, cores=99))
    (row,) = compared([base], [other], across=["machine"]).rows
    assert row.verdict is Verdict.WORSE  # of another machine the rates differ by right


@pytest.mark.parametrize(
    ("loops", "certain"), [((1e6, 1.45e6), False), ((1.45e6, 1e6), False), ((1e6, 1.01e6), True), ((1e6, None), True)]
)
def test_a_processor_that_was_slower_while_a_cell_was_timed_denies_a_change(
    decodes: list[Record], again: Again, compared: Compared, loops: tuple[float, float | None], certain: bool
) -> None:
    """A step of 1.3 times, where the loop between its samples was 1.45 times slower; and of a side without the loop."""

    def beside(record: Record, loop_ns: float | None) -> Record:
        assert record.observed is not None
        taken = [] if loop_ns is None else [round(loop_ns), round(9 * loop_ns), round(0.9 * loop_ns)]
        return replace(record, observed=replace(record.observed, canary_ns=taken))

    base, other = (on_cpu(again(decodes[0], scale), 45e9, 5e9) for scale in (1.0, 1.3))
    (row,) = compared([beside(base, loops[0])], [beside(other, loops[1])]).rows
    assert row.verdict is (Verdict.WORSE if certain else Verdict.NOISE)


def test_unsteady_samples_on_a_cpu_deny_a_verdict(decodes: list[Record], again: Again, compared: Compared) -> None:
    later = on_cpu(again(decodes[0], 2.0), 45e9, 5e9, caveats=[Caveat.UNSTEADY])
    assert verdicts(compared([on_cpu(decodes[0], 45e9, 5e9)], [later])) == [Verdict.DOUBTFUL]


def test_few_samples_have_a_ratio_and_no_verdict(decodes: list[Record], again: Again, compared: Compared) -> None:
    later = again(decodes[0], 2.0)
    assert later.observed is not None
    later = replace(later, observed=replace(later.observed, samples_ns=later.observed.samples_ns[:4]))
    (row,) = compared([decodes[0]], [later]).rows
    assert (row.verdict, row.reasons) == (
        Verdict.FEW,
        ("few samples in B: an interval needs 5, raise --min-samples",),
    )


def test_architectures_of_one_run_are_compared_at_the_same_work(decodes: list[Record], compared: Compared) -> None:
    models = {arch: [one for one in decodes if one.case.model.arch == arch] for arch in ("transformer", "mamba")}
    found = compared(models["transformer"], models["mamba"], across=["architecture"])
    assert len(found.rows) == len(models["mamba"]) == 6
    assert not any(row.pair.separate for row in found.rows)
    for row in found.rows:
        context = row.pair.shown.what["context"]
        slow, fast = (
            next(value(one, "step_s") for one in some if f"{one.case.workload.context // 1024}k" == context)
            for some in models.values()
        )
        assert row.ratio is not None
        assert slow
        assert fast
        assert row.ratio.value == pytest.approx(fast / slow)


def test_the_class_of_noise_follows_from_the_work_and_where_it_ran(stored: list[Record]) -> None:
    by_kind = {record.case.workload.kind: replace(record, caveats=[]) for record in stored}
    decode = by_kind["decode"]
    eager = replace(decode, case=replace(decode.case, execution=replace(decode.case.execution, mode="eager")))
    on_cpu = replace(decode, environment=replace(decode.environment, device_kind="cpu"))
    expected = {TRAINING: by_kind["train"], SEQUENCES: by_kind["prefill"], GRAPHED: decode, LAUNCHED: eager}
    for noise, record in expected.items():
        assert noise_between(record).between_frac == noise.frac
        assert noise_between(record).source == noise.sentence
        assert noise_between(record).drift_frac == 0
    assert noise_between(on_cpu).between_frac == ON_CPU.frac
    moved = replace(by_kind["prefill"], caveats=[Caveat.CLOCK_DROPPED])
    assert noise_between(moved).between_frac == 0.059


@pytest.mark.parametrize(
    ("batch", "frac"), [(1, 0.0014), (8, 0.0014), (9, 0.0027), (16, 0.0027), (17, 0.012), (32, 0.012), (33, 0.0027)]
)
def test_graphed_steps_differ_between_cards_by_their_batch(decodes: list[Record], batch: int, frac: float) -> None:
    one = decodes[0]
    many = replace(one, case=replace(one.case, workload=replace(one.case.workload, batch=batch)))
    assert noise_between(many).between_frac == frac


def test_a_calibrated_step_has_the_noise_that_was_measured(decodes: list[Record]) -> None:
    record = decodes[0]
    one = Calibrated("step", 0.002, 8, 0.01, 0.0)
    known = Calibrations([Calibration(machine_of(record.environment), {of_step(record.case).name: one})])
    assert noise_between(record, known).between_frac == pytest.approx(0.002 / 2**0.5)
    other = replace(record, case=replace(record.case, limit_s=1.0, workload=replace(record.case.workload, batch=99)))
    assert noise_between(other, known).source == noise_between(other).source


def test_on_a_cpu_the_spread_of_the_samples_counts_where_it_is_more(decodes: list[Record]) -> None:
    record = replace(decodes[0], environment=replace(decodes[0].environment, device_kind="cpu"))
    assert record.observed is not None
    wide = replace(record.observed, samples_ns=[100 + place for place in range(101)])
    found = noise_between(replace(record, observed=wide))
    # Half of what lies between the 16th and the 84th of 100 to 200 whose logarithms are taken.
    assert found.between_frac == pytest.approx(math.log(184 / 116) / 2)
    assert found.drift_frac == 0


def test_the_spread_of_a_generation_in_parts_is_that_within_its_parts(decodes: list[Record]) -> None:
    assert decodes[0].observed is not None
    parts = [
        Part(None, [1000] * 9),
        Part(512, [10, 10, 10, 10, 10]),
        Part(1024, [20] * 7),
    ]
    steady = replace(decodes[0], observed=replace(decodes[0].observed, samples_ns=[], parts=parts))
    assert spread_frac(steady) == 0


def test_metrics_are_those_of_records() -> None:
    from hybridbench.metrics import METRICS

    for asked in ASKED.values():
        assert (asked.unit, asked.better) == (METRICS[asked.metric].unit, METRICS[asked.metric].better)


def test_two_cells_are_never_one(decodes: list[Record], compared: Compared, again: Again) -> None:
    """Every record is in exactly one row, however the sides overlap."""
    base: Sequence[Record] = decodes[:20]
    other = [again(record) for record in decodes[10:]]
    found = compared(base, other)
    assert sum(row.pair.base is not None for row in found.rows) == 20
    assert sum(row.pair.other is not None for row in found.rows) == 20
    assert len(found.rows) == 30
