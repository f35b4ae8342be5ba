"""report: records of tasks as tables: for each task the stacks side by side, at the best of their learning rates."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from hybridbench.errors import BadResults
from hybridbench.quality.tasks.anchors import LEARNED, Expectation, expected_of
from hybridbench.quality.tasks.case import TaskCase
from hybridbench.quality.tasks.record import TaskRecord
from hybridbench.quality.tasks.task import FULL, TASKS
from hybridbench.quality.training.record import MEANINGS
from hybridbench.record import ADVICE, Status
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.text import counted
from hybridbench.units import NS_PER_S, format_number, format_params

NONE = "none known"
NOT_TOLD = "cannot be told"


@dataclass(frozen=True)
class SolvedStack:
    """The runs of one model on one task at one learning rate, which differ in their seeds only.

    Attributes:
        correct: means over seeds, for each part; None where no run went well.
        spread: least and most of the seeds, for each part.
    """

    records: tuple[TaskRecord, ...]

    @property
    def case(self) -> TaskCase:
        """Of the first seed."""
        return self.records[0].case

    @property
    def scores(self) -> list[list[float]]:
        """The final accuracies of each run that went well, for each part."""
        return [record.final.correct_frac for record in self.records if record.final is not None]

    @property
    def correct(self) -> list[float] | None:
        """Means over seeds, for each part; None where no run went well."""
        scores = self.scores
        return [statistics.fmean(part) for part in zip(*scores, strict=True)] if scores else None

    @property
    def expectation(self) -> Expectation | None:
        """What was published of a stack like this one."""
        return expected_of(self.case.task, self.case.model)

    @property
    def as_expected(self) -> bool | None:
        """Whether its means are as published; None where nothing was published, no run went well, or a model that fails
        beyond what it was trained on has not learned that either.
        """
        if self.expectation is None or self.correct is None:
            return None
        return self.expectation.holds(self.case.setting, self.correct)

    @property
    def verdict(self) -> str:
        """Whether its means are as published, in words; ``NO_VALUE`` where there is nothing to compare."""
        if self.expectation is None or self.correct is None:
            return NO_VALUE
        return {True: "yes", False: "NO", None: NOT_TOLD}[self.as_expected]

    @property
    def rank(self) -> tuple[float, float]:
        """By what the best learning rate is chosen: accuracy at the sizes trained on, then at all."""
        correct = self.correct
        if correct is None:
            return (-1.0, -1.0)
        setting = self.case.setting
        trained = [one for one, part in zip(correct, setting.test, strict=True) if setting.within(part)]
        return statistics.fmean(trained or correct), statistics.fmean(correct)


@dataclass(frozen=True)
class TaskReport:
    """The whole report: its records, the stacks at their best rates by task, and its tables by file name."""

    records: tuple[TaskRecord, ...]
    stacks: dict[str, list[SolvedStack]]
    tables: dict[str, Table]


def build(records: Sequence[TaskRecord]) -> TaskReport:
    """Build the report.

    Raises:
        BadResults: there are no records.
    """
    if not records:
        raise BadResults("there is no record of a task to report: run hybridbench solve first.")
    groups: dict[str, dict[str, list[TaskRecord]]] = {}
    for record in records:
        groups.setdefault(_name(record.case), {}).setdefault(record.case.arm, []).append(record)
    stacks = {
        name: [SolvedStack(tuple(sorted(group, key=lambda one: one.case.seed))) for group in arms.values()]
        for name, arms in groups.items()
    }
    best = {name: _best(found) for name, found in stacks.items()}
    tables = {f"solve-{name}": _table(best[name], stacks[name]) for name in stacks}
    tables["solve-runs"] = _runs(records)
    return TaskReport(tuple(records), best, tables)


def _name(case: TaskCase) -> str:
    """Of a group of comparable runs, for files: the task, its size, and what else parts two settings."""
    return case.task if case.size == FULL else f"{case.task}-{case.size}"


def _best(stacks: Sequence[SolvedStack]) -> list[SolvedStack]:
    """Of each model the runs at the rate that did best."""
    by_model: dict[object, SolvedStack] = {}
    for stack in stacks:
        model = stack.case.model
        if model not in by_model or stack.rank > by_model[model].rank:
            by_model[model] = stack
    return list(by_model.values())


def _table(best: Sequence[SolvedStack], tried: Sequence[SolvedStack]) -> Table:
    case = best[0].case
    task, setting = TASKS[case.task], case.setting
    parts = [
        Column(f"correct_frac_{part.label}", f"{part.label}{'' if setting.within(part) else ' *'}")
        for part in setting.test
    ]
    table = Table(
        f"{case.task}: share of right answers",
        [
            Column("model", "model", numeric=False),
            Column("scale", "scale", numeric=False),
            Column("params", "parameters", wide=True),
            Column("lr", "rate"),
            Column("seeds", "seeds"),
            *parts,
            Column("steps", "steps"),
            Column("train_s", "seconds", wide=True),
            Column("expected", "published", numeric=False),
            Column("as_expected", "agrees", numeric=False),
            Column("status", "status", numeric=False),
        ],
        about(best[0].records[0]),
    )
    for stack in best:
        table.rows.append(_row(stack, table))
    table.remark(f"{task.about.capitalize()}. A guess is right in {task.chance(setting):.2g} of all answers.")
    if any(not setting.within(part) for part in setting.test):
        table.remark("* is beyond what was trained on.")
    if any(stack.verdict == NOT_TOLD for stack in best):
        table.remark(
            f"Whether failing beyond is as published {NOT_TOLD} of a model with less than {LEARNED:g} right answers on "
            "what it was trained on: one that has learned nothing fails too."
        )
    if case.setting.test[0].pairs:
        table.remark("Headings are tokens x pairs.")
    rates = sorted({stack.case.setting.lr for stack in tried})
    if len(rates) > 1:
        table.remark(
            f"Each model stands at the best of the rates {', '.join(f'{one:g}' for one in rates)}, by what is shown "
            f"here, as {task.source} does."
        )
    if any(stack.case.positions for stack in best):
        table.remark(
            "Stacks of attention only learn a vector of each position and have no RoPE. Beyond what was trained on,"
            " these are noise."
        )
    if len({stack.case.setting for stack in best}) > len({stack.case.setting.lr for stack in best}):
        table.remark("These runs differ in epochs or batch: they do not compare.")
    if case.size != FULL:
        table.remark("Toy size, for a CPU: not the published setting.")
    return table


def about(record: TaskRecord) -> str:
    """What all runs of a table have in common, in words."""
    case, threads = record.case, record.environment.threads
    many = "" if threads is None else f", {counted(threads, 'thread')}"
    setting = case.setting
    return (
        f"{record.environment.device}{many}: {counted(sum(part.examples for part in setting.train), 'example')}, "
        f"{counted(setting.epochs, 'epoch')}, batch {setting.batch}, {case.how}"
    )


def _row(stack: SolvedStack, table: Table) -> list[TableCell]:
    case, correct = stack.case, stack.correct
    parameters = next((one.observed.parameters for one in stack.records if one.observed), None)
    finals = [record.final for record in stack.records if record.final is not None]
    steps = statistics.fmean(one.step for one in finals) if finals else None
    spent = statistics.fmean(one.train_ns for one in finals) / NS_PER_S if finals else None
    expected, verdict = stack.expectation, stack.verdict
    return [
        TableCell(case.model.label, case.model.label),
        TableCell(case.model.scale, case.model.scale),
        TableCell(NO_VALUE) if parameters is None else TableCell(format_params(parameters), parameters),
        TableCell(f"{case.setting.lr:.3g}", case.setting.lr),
        TableCell(str(len(finals)), len(finals)),
        *(TableCell(f"{one:.3f}", one) for one in correct or []),
        *(TableCell(NO_VALUE) for _ in case.setting.test if correct is None),
        TableCell(NO_VALUE) if steps is None else TableCell(f"{steps:,.0f}", steps),
        TableCell(NO_VALUE) if spent is None else TableCell(format_number(spent), spent),
        _expected(expected, table),
        TableCell(verdict, verdict, word={"yes": "ok", "NO": "worse"}.get(verdict)),
        _status(stack, table),
    ]


def _expected(expected: Expectation | None, table: Table) -> TableCell:
    """Whether a stack is known to solve the task or to fail, with a note that says at which figure and to whom."""
    if expected is None:
        return TableCell(NONE, NONE)
    word = "solves" if expected.solves else "fails"
    return TableCell(f"{word} {table.note(f'published: {expected.words}')}", expected.words)


def _status(stack: SolvedStack, table: Table) -> TableCell:
    words = dict.fromkeys(_ending(record) for record in stack.records)
    marks = dict.fromkeys(table.note(sentence) for record in stack.records for sentence in notes(record))
    word = next((one for one in words if one != "ok"), "ok")
    return TableCell(" ".join([", ".join(words), *marks]), word, word=word)


def _ending(record: TaskRecord) -> str:
    if record.status is not Status.OK:
        return record.status.value.replace("_", " ")
    return "ok" if record.final is not None else "diverged"


def notes(record: TaskRecord) -> list[str]:
    """What a reader must know of a run: why it failed, what ended it, and each caveat."""
    who = f"{record.case.model.label} {record.case.model.scale}, seed {record.case.seed}"
    found = [] if record.message is None else [f"{who}: {' '.join(record.message.split())}"]
    if record.observed is not None and not record.observed.finished:
        event = record.observed.events[-1]
        found.append(f"{who}: {event.mark.value.replace('_', ' ')} at step {event.step:,}: {MEANINGS[event.mark]}")
    return found + [f"{caveat.value.replace('_', ' ')}: {ADVICE[caveat]}" for caveat in record.caveats]


def _runs(records: Sequence[TaskRecord]) -> Table:
    """One row for each run and part."""
    keys = (
        "task",
        "size",
        "model",
        "scale",
        "seed",
        "lr",
        "part",
        "trained",
        "correct_frac",
        "steps",
        "train_s",
        "energy_j",
    )
    texts = ("task", "size", "model", "scale", "part", "trained")
    table = Table("every run", [Column(key, key.replace("_", " "), numeric=key not in texts) for key in keys])
    for record in records:
        case, final = record.case, record.final
        if final is None:
            continue
        for part, share in zip(case.setting.test, final.correct_frac, strict=True):
            trained = "yes" if case.setting.within(part) else "no"
            words = (case.task, case.size, case.model.label, case.model.scale)
            joules = final.energy_j
            energy = TableCell(NO_VALUE) if joules is None else TableCell(format_number(joules), joules)
            spent = final.train_ns / NS_PER_S
            table.rows.append(
                [
                    *(TableCell(word, word) for word in words),
                    TableCell(str(case.seed), case.seed),
                    TableCell(f"{case.setting.lr:.3g}", case.setting.lr),
                    TableCell(part.label, part.label),
                    TableCell(trained, trained),
                    TableCell(f"{share:.4f}", share),
                    TableCell(f"{final.step:,}", final.step),
                    TableCell(format_number(spent), spent),
                    energy,
                ]
            )
    return table


def rows(report: TaskReport) -> list[dict[str, object]]:
    """Every run as plain values: its identity, its accuracies, what is expected of its stack, and how it ended."""
    agrees = {
        record.case.key: stack.as_expected
        for stacks in report.stacks.values()
        for stack in stacks
        for record in stack.records
    }
    found: list[dict[str, object]] = []
    for record in report.records:
        case, seen, final = record.case, record.observed, record.final
        expected = expected_of(case.task, case.model)
        found.append(
            {
                "key": case.key,
                "arm": case.arm,
                "run_id": record.run_id,
                "task": case.task,
                "size": case.size,
                "model": case.model.label,
                "arch": case.model.arch,
                "pattern": case.model.pattern,
                "scale": case.model.scale,
                "seed": case.seed,
                "lr": case.setting.lr,
                "device": record.environment.device,
                "parts": [
                    {"part": part.label, "trained": case.setting.within(part), "correct_frac": share}
                    for part, share in zip(
                        case.setting.test, final.correct_frac if final else [], strict=final is not None
                    )
                ],
                "steps": None if final is None else final.step,
                "train_s": None if final is None else final.train_ns / NS_PER_S,
                "energy_j": None if final is None else final.energy_j,
                "expected": None if expected is None else expected.words,
                "stack_as_expected": agrees.get(case.key),
                "curve": [[point.step, point.correct_frac] for point in (seen.curve if seen else [])],
                "status": record.status.value,
                "message": record.message,
                "caveats": [caveat.value for caveat in record.caveats],
            }
        )
    return found
