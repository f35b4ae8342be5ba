"""tables: the paper's numbers next to ours, table by table."""

from __future__ import annotations

from hybridbench.arch.block import Convention
from hybridbench.arch.model import cost
from hybridbench.metrics import value
from hybridbench.report.display import unit_for
from hybridbench.report.measured import differing_kernels
from hybridbench.report.paper.claims import CLAIMS, lead
from hybridbench.report.paper.compare import AS_PUBLISHED, EQUAL, PAPER, PaperComparison, difference
from hybridbench.report.paper.figures import LENGTHS, STACKS, TRAIN_CONTEXT, TRAIN_TOKENS, Stack
from hybridbench.report.table import Column, Table, TableCell
from hybridbench.units import MIB, format_number, format_tokens


def _number(text: float | None) -> TableCell:
    return TableCell("-" if text is None else format_number(text), text)


def _named(table: Table, stack: Stack, misprint: str | None) -> TableCell:
    """The stack's name, with a footnote where the paper misprints it."""
    return TableCell(
        stack.name if misprint is None else f"{stack.name} {table.note(f'{stack.name}: {misprint}')}", stack.name
    )


def decode_table(comparison: PaperComparison) -> Table:
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
    equal = ((name, format_tokens(record.case.workload.context), record) for name, record in comparison.equal)
    for sentence in differing_kernels(equal, "lengths"):
        table.remark(f"{EQUAL}: {sentence}")
    return table


def lead_table(comparison: PaperComparison) -> Table:
    """Mamba's throughput divided by the Transformer's, by source and length."""
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
        table.rows.append([TableCell(source, source), *(_number(leads.get(length)) for length in LENGTHS)])
    return table


def claims_table(comparison: PaperComparison) -> Table:
    """Which of the paper's conclusions hold, by each source's numbers."""
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
        table.rows.append([TableCell(claim.text, claim.text), TableCell(claim.where, claim.where), *verdicts])
    return table


def _verdict(holds: bool | None) -> TableCell:
    word = {True: "holds", False: "does not hold", None: "-"}[holds]
    return TableCell(word, word)


def training_table(comparison: PaperComparison) -> Table:
    """FLOPs as printed and by formula, and our step time and peak memory."""
    steps = unit_for([value(record, "step_s") for record in comparison.train.values()], "s")
    peaks = unit_for([value(record, "peak_allocated_bytes") for record in comparison.train.values()], "B")
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
                TableCell("-" if stack.train_flops is None else f"{stack.train_flops / 1e20:.1f}", stack.train_flops),
                TableCell(f"{whole / 1e20:.2f}", whole),
                TableCell(f"{sample / 1e12:.2f}", sample),
                TableCell("-" if step is None else steps.show(step), step),
                _number(step / base.step_s if step and base and base.step_s else None),
                _number(mine.flops / base.flops if mine and base else None),
                TableCell("-" if mfu is None else format_number(100 * mfu), mfu),
                TableCell("-" if mine is None else peaks.show(mine.peak_bytes), mine.peak_bytes if mine else None),
            ]
        )
    return table


def cache_table(comparison: PaperComparison) -> Table:
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
                TableCell("-" if mib is None else str(mib), None if mib is None else mib * MIB),
                TableCell(f"{formula / MIB:.1f}", formula),
                TableCell("-" if held is None else f"{held / MIB:.1f}", held),
            ]
        table.rows.append(row)
    return table


def check_table(comparison: PaperComparison) -> Table:
    """Times integrated over several contexts next to the times of the same generations when truly generated."""
    times = [value(pair.generated, "step_s") for pair in comparison.pairs]
    shown_in = unit_for(times, "s")
    table = Table(
        "integrated over depths against truly generated",
        [
            Column("model", "model", numeric=False),
            Column("context", "total"),
            Column("mode", "mode", numeric=False),
            Column("integrated_s", shown_in.heading("integrated")),
            Column("generated_s", shown_in.heading("generated")),
            Column("difference_frac", "difference [%]"),
            Column("integration_frac", "estimated error [%]"),
        ],
        comparison.machine,
    )
    for pair in comparison.pairs:
        integrated, generated = value(pair.integrated, "step_s"), value(pair.generated, "step_s")
        estimate = value(pair.integrated, "integration_frac")
        apart = difference(pair)
        table.rows.append(
            [
                TableCell(pair.stack, pair.stack),
                TableCell(format_tokens(pair.length), pair.length),
                TableCell(pair.mode, pair.mode),
                TableCell(shown_in.show(integrated), integrated),
                TableCell(shown_in.show(generated), generated),
                TableCell(f"{100 * apart:+.2f}", apart),
                TableCell("unknown" if estimate is None else f"{100 * estimate:.2f}", estimate),
            ]
        )
    return table


def paper_tables(comparison: PaperComparison) -> dict[str, Table]:
    """All tables that have a number of ours, by the word for their file name; the decode table comes first."""
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
