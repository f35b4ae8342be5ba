"""paper: the source paper's efficiency section beside ours: its numbers, ours as published, ours with equal kernels.

Made from records of the paper's stacks (``published.STACKS``) at 1B, batch 4: generations from a prompt of 512 tokens,
and training steps at 8k. Which of its conclusions hold is computed from these numbers by ``claims``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hybridbench.arch.block import Convention
from hybridbench.arch.model import cost
from hybridbench.metrics import problems, value
from hybridbench.record import Record, Status
from hybridbench.report.claims import CLAIMS, NOISE, Numbers, Rates, Training, crossings, lead, paper_numbers
from hybridbench.report.display import scale_for
from hybridbench.report.published import (
    BATCH,
    LENGTHS,
    MAIN,
    PROMPT,
    STACKS,
    TRAIN_CONTEXT,
    TRAIN_TOKENS,
    Stack,
    stack_of,
)
from hybridbench.report.tables import Cell, Column, Table, differing_kernels
from hybridbench.store import machine_of, newest
from hybridbench.suite.case import COMPILE, EAGER, GRAPH, PUBLISHED
from hybridbench.suite.workloads import GENERATE, TRAIN
from hybridbench.units import MIB, format_number, format_tokens

PAPER, AS_PUBLISHED, EQUAL = "the paper", "ours as published", "ours with equal kernels"
_WHERE = {PAPER: "in the paper", AS_PUBLISHED: "as published here", EQUAL: "with equal kernels"}


@dataclass(frozen=True)
class Pair:
    """One generation measured both ways, in one mode."""

    stack: str
    length: int
    mode: str
    integrated: Record
    generated: Record


@dataclass(frozen=True)
class Comparison:
    """Everything records of one machine say about the paper's stacks."""

    machine: str
    sources: dict[str, Numbers]
    train: dict[str, Record]
    pairs: tuple[Pair, ...]
    equal: tuple[tuple[str, Record], ...] = ()
    """Stack and record of each generation with equal kernels."""

    @property
    def measured(self) -> list[str]:
        """Sources with a decode throughput, the paper first."""
        return [name for name, numbers in self.sources.items() if numbers.rates]


def compare(records: Iterable[Record]) -> list[Comparison]:
    """One comparison per machine with a generation of a stack of the paper's, in the order of the records."""
    by_machine: dict[tuple[str, ...], list[tuple[Stack, Record]]] = {}
    for record in newest(list(records)):
        stack = stack_of(record.case.model) if _believed(record) else None
        if stack is not None:
            by_machine.setdefault(machine_of(record), []).append((stack, record))
    made = [_comparison(found) for found in by_machine.values()]
    return [one for one in made if len(one.measured) > 1]


def _believed(record: Record) -> bool:
    """Whether a record is one of the paper's cells: its work, in the usual dtype and with kernels of our choice."""
    case, work = record.case, record.case.workload
    usual = case.execution.dtype == "bfloat16" and case.execution.state_dtype is None and not case.execution.backends
    wanted = (GENERATE, PROMPT) if work.kind == GENERATE else (TRAIN, 0)
    if not usual or work.batch != BATCH or (work.kind, work.prompt) != wanted:
        return False
    fits = work.context in LENGTHS if work.kind == GENERATE else work.context == TRAIN_CONTEXT
    return fits and record.status is Status.OK and not problems(record)


def _comparison(found: Sequence[tuple[Stack, Record]]) -> Comparison:
    generations = [(stack, record) for stack, record in found if record.case.workload.kind == GENERATE]
    modes = {record.case.execution.mode for _, record in generations}
    equal_mode = next((mode for mode in (GRAPH, COMPILE, EAGER) if mode in modes), None)
    sources = {PAPER: paper_numbers(), AS_PUBLISHED: Numbers(), EQUAL: Numbers()}
    pairs = []
    cells: dict[tuple[str, int, str], dict[bool, Record]] = {}
    for stack, record in generations:
        work, mode = record.case.workload, record.case.execution.mode
        cells.setdefault((stack.name, work.context, mode), {})[work.depths > 0] = record
    for (name, length, mode), ways in cells.items():
        if mode not in (PUBLISHED, equal_mode):
            continue
        if len(ways) > 1:
            pairs.append(Pair(name, length, mode, ways[True], ways[False]))
        shown = ways.get(True) or ways[False]
        numbers = sources[AS_PUBLISHED if mode == PUBLISHED else EQUAL]
        rate, cache = value(shown, "tokens_per_s"), value(shown, "cache_bytes")
        if rate is not None:
            numbers.rates.setdefault(name, {})[length] = rate
        if cache is not None and mode != PUBLISHED:  # a cache that grows ends one token short
            numbers.caches.setdefault(name, {})[length] = cache / BATCH
    train = {stack.name: record for stack, record in found if record.case.workload.kind == TRAIN}
    for name, record in train.items():
        flops = value(record, "paper_flops")
        assert flops is not None, "training has FLOPs in every convention"
        step, peak = value(record, "step_s"), value(record, "peak_allocated_bytes")
        sources[EQUAL].training[name] = Training(flops, step, peak)
    for pair in pairs:
        numbers = sources[AS_PUBLISHED if pair.mode == PUBLISHED else EQUAL]
        numbers.noise = max(numbers.noise, abs(_difference(pair)))
    order = {stack.name: place for place, stack in enumerate(STACKS)}
    pairs.sort(key=lambda pair: (order[pair.stack], pair.length, pair.mode))
    equal = tuple((stack.name, record) for stack, record in generations if record.case.execution.mode == equal_mode)
    return Comparison(found[0][1].environment.device, sources, train, tuple(pairs), equal)


# Tables.


def _number(text: float | None) -> Cell:
    return Cell("-" if text is None else format_number(text), text)


def _named(table: Table, stack: Stack, misprint: str | None) -> Cell:
    """The stack's name, with a footnote where the paper misprints it."""
    return Cell(
        stack.name if misprint is None else f"{stack.name} {table.note(f'{stack.name}: {misprint}')}", stack.name
    )


def decode_table(comparison: Comparison) -> Table:
    """The paper's throughput and ours, by stack and length."""
    table = Table(
        "throughput to a total length, new tokens of 4 sequences [tokens/s]",
        [
            Column("model", "model", numeric=False),
            *(
                Column(f"{_slug(source)}@{length}", f"{format_tokens(length)}, {_short(source)}")
                for length in LENGTHS
                for source in comparison.measured
            ),
        ],
        f"the paper's decode table, {comparison.machine}",
    )
    for stack in STACKS:
        cells = [
            _number(comparison.sources[source].rates.get(stack.name, {}).get(length))
            for length in LENGTHS
            for source in comparison.measured
        ]
        table.rows.append([_named(table, stack, stack.decode_misprint), *cells])
    for sentence in differing_kernels(comparison.equal):
        table.remark(f"{EQUAL}: {sentence}")
    return table


def lead_table(comparison: Comparison) -> Table:
    """By how much Mamba leads the Transformer."""
    table = Table(
        "Mamba's throughput over the Transformer's",
        [
            Column("source", "numbers", numeric=False),
            *(Column(f"lead@{length}", format_tokens(length)) for length in LENGTHS),
        ],
        f"the paper's decode table, {comparison.machine}",
    )
    for source in comparison.measured:
        leads = lead(comparison.sources[source])
        table.rows.append([Cell(source, source), *(_number(leads.get(length)) for length in LENGTHS)])
    return table


def claims_table(comparison: Comparison) -> Table:
    """Which conclusions hold, by whose numbers."""
    table = Table(
        "which of the paper's conclusions hold",
        [
            Column("claim", "conclusion", numeric=False, wraps=True),
            Column("where", "where", numeric=False, wraps=True),
            *(Column(_slug(source), source, numeric=False) for source in comparison.measured),
        ],
        comparison.machine,
    )
    for claim in CLAIMS:
        verdicts = [_verdict(claim.holds(comparison.sources[source])) for source in comparison.measured]
        table.rows.append([Cell(claim.text, claim.text), Cell(claim.where, claim.where), *verdicts])
    return table


def _verdict(holds: bool | None) -> Cell:
    word = {True: "holds", False: "does not hold", None: "-"}[holds]
    return Cell(word, word)


def training_table(comparison: Comparison) -> Table:
    """FLOPs as printed and by formula, and our step time and peak memory."""
    steps = scale_for([value(record, "step_s") for record in comparison.train.values()], "s")
    peaks = scale_for([value(record, "peak_allocated_bytes") for record in comparison.train.values()], "B")
    table = Table(
        "training: 8k, 4 sequences, one GPU where the paper's figure 2 has eight and FSDP",
        [
            Column("model", "model", numeric=False),
            Column("paper_flops_60b", "FLOPs of 60B tokens, printed [1e20]"),
            Column("formula_flops_60b", "by its formula [1e20]"),
            Column("formula_flops_sample", "FLOPs of a sample, by its formula [TFLOP]"),
            Column("step_s", steps.heading("step here")),
            Column("step_over_transformer", "over transformer"),
            Column("flops_over_transformer", "its FLOPs over transformer"),
            Column("mfu_frac", "MFU [%]"),
            Column("peak_allocated_bytes", peaks.heading("peak memory here")),
        ],
        comparison.machine,
    )
    base = comparison.sources[EQUAL].training.get("transformer")
    for stack in STACKS:
        sample = cost(stack.spec, TRAIN_CONTEXT, convention=Convention.PAPER).train_flops
        whole = sample * TRAIN_TOKENS / TRAIN_CONTEXT
        record = comparison.train.get(stack.name)
        mine = comparison.sources[EQUAL].training.get(stack.name)
        step = mine.step_s if mine else None
        mfu = value(record, "mfu_frac") if record else None
        table.rows.append(
            [
                _named(table, stack, stack.train_misprint),
                Cell("-" if stack.train_flops is None else f"{stack.train_flops / 1e20:.1f}", stack.train_flops),
                Cell(f"{whole / 1e20:.2f}", whole),
                Cell(f"{sample / 1e12:.2f}", sample),
                Cell("-" if step is None else steps.show(step), step),
                _number(step / base.step_s if step and base and base.step_s else None),
                _number(mine.flops / base.flops if mine and base else None),
                Cell("-" if mfu is None else format_number(100 * mfu), mfu),
                Cell("-" if mine is None else peaks.show(mine.peak_bytes), mine.peak_bytes if mine else None),
            ]
        )
    return table


def cache_table(comparison: Comparison) -> Table:
    """Cache of one sequence as printed, by the paper's formula, and as held here."""
    contexts = (8192, 16384, 32768)
    ours = comparison.sources[EQUAL].caches
    table = Table(
        "cache of one sequence [MiB]",
        [
            Column("model", "model", numeric=False),
            *(
                Column(f"{key}@{context}", f"{format_tokens(context)}, {words}")
                for context in contexts
                for key, words in (("paper", "printed"), ("formula", "formula"), ("ours", "here"))
            ),
        ],
        comparison.machine,
    )
    for stack in STACKS:
        row = [_named(table, stack, stack.cache_misprint)]
        printed = dict(stack.cache_mib)
        for context in contexts:
            formula = cost(stack.spec, context, convention=Convention.PAPER).cache_bytes
            held = ours.get(stack.name, {}).get(context)
            mib = printed.get(context)
            row += [
                Cell("-" if mib is None else str(mib), None if mib is None else mib * MIB),
                Cell(f"{formula / MIB:.1f}", formula),
                Cell("-" if held is None else f"{held / MIB:.1f}", held),
            ]
        table.rows.append(row)
    return table


def check_table(comparison: Comparison) -> Table:
    """Generations integrated over depths beside the same ones truly generated."""
    times = [value(pair.generated, "step_s") for pair in comparison.pairs]
    scale = scale_for(times, "s")
    table = Table(
        "integrated over depths against truly generated",
        [
            Column("model", "model", numeric=False),
            Column("context", "total"),
            Column("mode", "mode", numeric=False),
            Column("integrated_s", scale.heading("integrated")),
            Column("generated_s", scale.heading("generated")),
            Column("difference_frac", "difference [%]"),
            Column("integration_frac", "estimated error [%]"),
        ],
        comparison.machine,
    )
    for pair in comparison.pairs:
        integrated, generated = value(pair.integrated, "step_s"), value(pair.generated, "step_s")
        estimate = value(pair.integrated, "integration_frac")
        difference = _difference(pair)
        table.rows.append(
            [
                Cell(pair.stack, pair.stack),
                Cell(format_tokens(pair.length), pair.length),
                Cell(pair.mode, pair.mode),
                Cell(scale.show(integrated), integrated),
                Cell(scale.show(generated), generated),
                Cell(f"{100 * difference:+.2f}", difference),
                Cell("unknown" if estimate is None else f"{100 * estimate:.2f}", estimate),
            ]
        )
    return table


def _difference(pair: Pair) -> float:
    integrated, generated = value(pair.integrated, "step_s"), value(pair.generated, "step_s")
    assert integrated, "a record that is believed has a time"
    assert generated, "a record that is believed has a time"
    return integrated / generated - 1


def paper_tables(comparison: Comparison) -> dict[str, Table]:
    """All of them that have a number of ours, by a word for a file's name; the decode table first."""
    tables = {"decode": decode_table(comparison), "lead": lead_table(comparison), "claims": claims_table(comparison)}
    if comparison.train:
        tables["training"] = training_table(comparison)
    if comparison.sources[EQUAL].caches:
        tables["cache"] = cache_table(comparison)
    if comparison.pairs:
        tables["check"] = check_table(comparison)
    return tables


def _slug(source: str) -> str:
    return {PAPER: "paper", AS_PUBLISHED: "as_published", EQUAL: "equal"}[source]


def _short(source: str) -> str:
    return {PAPER: "paper", AS_PUBLISHED: "as publ.", EQUAL: "equal"}[source]


# Sentences.


def sentences(comparison: Comparison) -> list[str]:
    """In words: how far Mamba leads, where curves cross, which conclusions hold, how far integrals are off."""
    measured = comparison.measured
    made = _lead_sentences(comparison)
    for source in measured:
        made += _crossing_sentences(source, comparison.sources[source])
    for source in measured[1:]:
        made += _claim_sentences(source, comparison.sources[source])
    if comparison.pairs:
        worst = max(comparison.pairs, key=lambda pair: abs(_difference(pair)))
        made.append(
            f"{len(comparison.pairs)} generations integrated over depths are within "
            f"{100 * abs(_difference(worst)):.2g}% of the same ones truly generated (furthest: {worst.stack} to "
            f"{format_tokens(worst.length)}, {worst.mode})."
        )
    return made


def _lead_sentences(comparison: Comparison) -> list[str]:
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
    rest = f" Not so: {'; '.join(failed)}." if failed else ""
    if numbers.noise > NOISE:
        rest += f" Its speeds repeat to {numbers.noise:.0%} only, and a conclusion fails only beyond that."
    where = _WHERE[source][0].upper() + _WHERE[source][1:]
    return [f"{where}, {len(judged) - len(failed)} of the paper's {len(judged)} conclusions judged here hold.{rest}"]


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _span(rates: Rates) -> str:
    lengths = sorted({n for by_length in rates.values() for n in by_length})
    return f"{format_tokens(lengths[0])} and {format_tokens(lengths[-1])}"


ABOUT = (
    "The paper's table 13 is of 1B models, 4 sequences, a prompt of 512 tokens and generation to the total length, on "
    "an H200; it names no engine and no kernel and does not say whether the prefill counts. Here it counts. The time "
    "of a generation is its prefill plus its steps, timed at 5 depths and added up by the trapezoid rule, unless it "
    "was truly generated; where both were done they stand side by side. As published imitates what its figures "
    "suggest: attention operator by operator on a cache that grows by concatenation, Mamba-2 in CUDA graphs. With "
    "equal kernels each step is one CUDA graph over a static cache. Training is on one GPU, not on eight. The step "
    "times and peak memories of the paper's figure 2 are printed nowhere, so they have no column."
)
"""What has to be known to read the tables."""
