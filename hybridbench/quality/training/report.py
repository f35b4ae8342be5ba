"""report: records of training runs as tables: models side by side, every run, the rates tried, and the curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybridbench.errors import BadResults
from hybridbench.quality.training.cells import about, estimated, non_embedding, number, signed
from hybridbench.quality.training.cells import names as called
from hybridbench.quality.training.exported import quality_table
from hybridbench.quality.training.figures import (
    Arm,
    arms,
    at_edge,
    best_rate,
    bits_per_byte,
    energy_j,
    estimate,
    final_bits,
    final_loss,
    tokens_per_s,
    train_s,
)
from hybridbench.quality.training.record import MEANINGS, Judged, LearnRecord
from hybridbench.quality.training.verdicts import Contest, contests, equal_table, pairs_table, runs_of
from hybridbench.record import Status, said_of
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.units import NS_PER_S, format_params, format_si


@dataclass(frozen=True)
class LearnReport:
    """The whole report: its records, and its tables by file name without the ending.

    Args:
        quality: rows for ``hybridbench pareto --quality``.
    """

    records: tuple[LearnRecord, ...]
    tables: dict[str, Table]
    arms: tuple[Arm, ...]
    quality: Table


def build(records: Sequence[LearnRecord]) -> LearnReport:
    """Build the report.

    Raises:
        BadResults: there are no records.
    """
    if not records:
        raise BadResults("there is no record of a training run to report: run hybridbench learn first.")
    compared = arms(record for record in records if not record.case.tuning)
    tuned = [record for record in records if record.case.tuning]
    tables = {}
    found = contests(compared)
    if compared:
        tables["learn"] = _side_by_side(found)
        if (pairs := pairs_table(found)) is not None:
            tables["learn-pairs"] = pairs
        tables["learn-equal"] = equal_table(found)
        tables["learn-curves"] = _curves(compared)
        tables["learn-runs"] = _runs([record for arm in compared for record in arm.records], "every run")
    if tuned:
        tables["learn-rates"] = _rates(tuned)
    return LearnReport(tuple(records), tables, tuple(compared), quality_table(found))


def _side_by_side(found: Sequence[Contest]) -> Table:
    """One row for each model: means over seeds, and how far it is from the best."""
    table = Table(
        "held-out loss at equal tokens",
        [
            Column("model", "model", numeric=False),
            Column("scale", "scale", numeric=False),
            Column("params_non_embedding", "parameters without embedding", wide=True),
            Column("lr", "rate", wide=True),
            Column("seeds", "seeds"),
            Column("loss_nats", "nats/token"),
            Column("loss_half_interval_nats", "±", wide=True),
            Column("bits_per_byte", "bits/byte"),
            Column("bits_per_byte_half_interval", "±"),
            Column("difference_bits_per_byte", "over the best"),
            Column("difference_half_interval", "±"),
            Column("verdict", "", numeric=False),
            Column("train_flops", "FLOPs"),
            Column("train_s", "seconds"),
            Column("tokens_per_s", "tokens/s", wide=True),
            Column("energy_j", "joules"),
            Column("status", "status", numeric=False),
        ],
        about(runs_of(found)),
    )
    for contest in found:
        for arm, name in zip(contest.arms, contest.names, strict=True):
            table.rows.append(_arm_row(arm, name, contest, table))
    for contest in found:
        if contest.said():
            table.remark(contest.said())
    table.remark(
        "± of a mean is half its 95% interval over seeds (Student's t). Differences are of runs with equal seeds, "
        "which see the same batches; verdicts are those of the table of pairs."
    )
    table.remark("FLOPs are model FLOPs, exact.")
    runs = [record.case for record in runs_of(found)]
    if len({case.tokens for case in runs}) > 1:
        table.remark("These runs are not of equal tokens: losses compare only where tokens are equal.")
    if len({case.corpus for case in runs}) > 1:
        table.remark("These runs are of several corpora: losses compare only within one.")
    return table


def _arm_row(arm: Arm, name: str, contest: Contest, table: Table) -> list[TableCell]:
    case = arm.first.case
    verdict, more, interval = contest.place(name)
    loss, bits = arm.estimate(final_loss), arm.estimate(final_bits)
    count = non_embedding(arm.first)
    flops = case.flops_per_token * case.tokens
    spent, rate, energy = (arm.estimate(of) for of in (train_s, tokens_per_s, energy_j))
    return [
        TableCell(name, name),
        TableCell(case.model.scale, case.model.scale),
        TableCell(format_params(count), count),
        TableCell(f"{case.recipe.lr:.3g}", case.recipe.lr),
        TableCell(str(bits.n if bits else 0), bits.n if bits else 0),
        *estimated(loss),
        *estimated(bits),
        *signed(more, interval),
        TableCell(verdict, verdict, word=verdict),
        TableCell(format_si(flops).strip(), flops),
        number(spent.mean if spent else None, 3),
        number(rate.mean if rate else None, 3),
        number(energy.mean if energy else None, 3) if energy else TableCell("unknown"),
        _statuses(arm, table),
    ]


def _statuses(arm: Arm, table: Table) -> TableCell:
    """The word of how the runs ended, with a note for each that did not end well."""
    words = dict.fromkeys(_ending(record) for record in arm.records)
    marks = [table.note(sentence) for record in arm.records for sentence in notes(record)]
    word = next((one for one in words if one != "ok"), "ok")
    return TableCell(" ".join([", ".join(words), *dict.fromkeys(marks)]), word, word=word)


def _ending(record: LearnRecord) -> str:
    if record.status is not Status.OK:
        return record.status.value.replace("_", " ")
    return "ok" if record.observed is not None and record.observed.finished else "diverged"


def notes(record: LearnRecord) -> list[str]:
    """What a reader must know of a run: why it failed, what went wrong while it learned, and each caveat."""
    who = f"{record.case.model.label} {record.case.model.scale}, seed {record.case.seed}"
    found = [] if record.message is None else [f"{who}: {' '.join(record.message.split())}"]
    for event in record.observed.events if record.observed else []:
        found.append(f"{who}: {event.mark.value.replace('_', ' ')} at step {event.step:,}: {MEANINGS[event.mark]}")
    return found + [said_of(caveat) for caveat in record.caveats]


def _runs(records: Sequence[LearnRecord], title: str) -> Table:
    """One row for each run."""
    table = Table(
        title,
        [
            Column("model", "model", numeric=False),
            Column("scale", "scale", numeric=False),
            Column("seed", "seed"),
            Column("lr", "rate"),
            Column("loss_nats", "nats/token"),
            Column("bits_per_byte", "bits/byte"),
            Column("train_s", "seconds"),
            Column("energy_j", "joules", wide=True),
            Column("key", "key", numeric=False, wide=True),
            Column("weights", "weights", numeric=False, wide=True),
            Column("status", "status", numeric=False),
        ],
        about(records),
    )
    for record in records:
        case, seen = record.case, record.observed
        weights = seen.weights if seen and seen.weights else NO_VALUE
        table.rows.append(
            [
                TableCell(case.model.label, case.model.label),
                TableCell(case.model.scale, case.model.scale),
                TableCell(str(case.seed), case.seed),
                TableCell(f"{case.recipe.lr:.3g}", case.recipe.lr),
                number(final_loss(record)),
                number(final_bits(record)),
                number(train_s(record), 3),
                number(energy_j(record), 3),
                TableCell(case.key, case.key),
                TableCell(weights, weights),
                _statuses(Arm((record,)), table),
            ]
        )
    return table


def _rates(tuned: Sequence[LearnRecord]) -> Table:
    """The runs that chose a learning rate, with the chosen one of each model marked."""
    table = _runs(tuned, "rates tried, with a seed that is not compared")
    table.columns.append(Column("chosen", "chosen", numeric=False))
    by_model: dict[object, list[LearnRecord]] = {}
    for record in tuned:
        by_model.setdefault(record.case.model, []).append(record)
    best = [found for group in by_model.values() if (found := best_rate(group)) is not None]
    chosen = {id(record) for record in best}
    for record in best:
        if edge := at_edge(record, tuned):
            table.remark(
                f"{record.case.model.label} {record.case.model.scale}: the best rate is the {edge} that was tried; "
                f"a {'smaller' if edge == 'smallest' else 'larger'} one may be better."
            )
    for record, row in zip(tuned, table.rows, strict=True):
        word = "yes" if id(record) in chosen else ""
        row.append(TableCell(word, word))
    return table


def _curves(compared: Sequence[Arm]) -> Table:
    """Held-out losses against tokens, FLOPs, seconds and joules: means over the seeds that reached each step."""
    numbers = ("step", "tokens", "train_flops", "train_s", "energy_j", "loss_nats", "bits_per_byte", "half_interval")
    names = (Column("model", "model", numeric=False), Column("scale", "scale", numeric=False))
    table = Table(
        "curves",
        [*names, *(Column(key, key.replace("_", " ")) for key in (*numbers, "seeds"))],
        about(record for arm in compared for record in arm.records),
    )
    for arm, name in zip(compared, called(compared), strict=True):
        case = arm.first.case
        for step, points in curve_of(arm).items():
            tokens = step * case.tokens_per_step
            bits = estimate([bits_per_byte(point) for point in points])
            energy = _mean(points, lambda point: point.energy_j)
            values = (
                case.flops_per_token * tokens,
                _mean(points, lambda point: point.train_ns / NS_PER_S),
                energy,
                _mean(points, lambda point: point.loss),
                bits.mean,
                bits.half,
            )
            table.rows.append(
                [
                    TableCell(name, name),
                    TableCell(case.model.scale, case.model.scale),
                    *(TableCell(f"{count:,}", count) for count in (step, tokens)),
                    *map(number, values),
                    TableCell(str(bits.n), bits.n),
                ]
            )
    return table


def curve_of(arm: Arm) -> dict[int, list[Judged]]:
    """The judgements of all seeds by step."""
    found: dict[int, list[Judged]] = {}
    for record in arm.records:
        for point in record.observed.curve if record.observed else []:
            found.setdefault(point.step, []).append(point)
    return dict(sorted(found.items()))


def _mean(points: Sequence[Judged], of: Callable[[Judged], float | None]) -> float | None:
    known = [value for value in map(of, points) if value is not None]
    return sum(known) / len(known) if len(known) == len(points) else None


def rows(report: LearnReport) -> list[dict[str, object]]:
    """Every run as plain values: its identity, every figure in SI, its curve, and how it ended."""
    found: list[dict[str, object]] = []
    for record in report.records:
        case, seen = record.case, record.observed
        found.append(
            {
                "key": case.key,
                "arm": case.arm,
                "run_id": record.run_id,
                "started_at": record.started_at,
                "model": case.model.label,
                "arch": case.model.arch,
                "pattern": case.model.pattern,
                "scale": case.model.scale,
                "params_non_embedding": non_embedding(record),
                "seed": case.seed,
                "tuning": case.tuning,
                "lr": case.recipe.lr,
                "tokens": case.tokens,
                "corpus": case.corpus,
                "train_flops": case.flops_per_token * case.tokens,
                "device": record.environment.device,
                "loss_nats": final_loss(record),
                "bits_per_byte": final_bits(record),
                "train_s": train_s(record),
                "tokens_per_s": tokens_per_s(record),
                "energy_j": energy_j(record),
                "curve": [[point.step, point.loss, bits_per_byte(point)] for point in (seen.curve if seen else [])],
                "events": [] if seen is None else [[event.mark.value, event.step] for event in seen.events],
                "status": record.status.value,
                "message": record.message,
                "caveats": [caveat.value for caveat in record.caveats],
            }
        )
    return found
