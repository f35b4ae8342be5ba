"""tables: an audit as tables and sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hybridbench.arch.reasons import Reason
from hybridbench.audit.judge.views import BASE, EXACT, GPU, HARDWARE, PAPER, Audit, KernelTotals
from hybridbench.report.display import ShownUnit, unit_for
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell

TITLES = {GPU: "GPU"}
MANY = 2
SHOWN_OPERATORS = 5
TOTAL = "total"


def _title(view: str) -> str:
    return TITLES.get(view, view)


def _cells(shown_in: ShownUnit, numbers: Iterable[int | None]) -> list[TableCell]:
    return [TableCell(NO_VALUE if number is None else shown_in.show(number), number) for number in numbers]


def _percent(part: int, whole: int) -> TableCell:
    share = 100 * part / whole if whole else 0.0
    return TableCell(f"{share:+.2f}" if share else "0", share)


def about(audit: Audit) -> str:
    """The case of an audit, in a line."""
    execution = audit.case.execution
    return f"{audit.case.label}, {execution.device}, {execution.dtype}"


def operation_table(audit: Audit) -> Table:
    """FLOPs by operation and view; a view that has no account has no column."""
    views = [view for view in audit.views.values() if view.error is None]
    shown_in = unit_for([flops for view in views for flops in view.flops.values()], "FLOP")
    columns = [Column("operation", "operation", numeric=False)]
    columns += [Column(view.name, shown_in.heading(_title(view.name))) for view in views]
    table = Table("FLOPs by operation", columns, about(audit))
    for name in audit.operations:
        table.rows.append([TableCell(name, name), *_cells(shown_in, (view.flops.get(name) for view in views))])
    table.rows.append([TableCell(TOTAL, TOTAL), *_cells(shown_in, (view.total for view in views))])
    for view in views:
        if view.formulas:
            names = ", ".join(view.formulas)
            share = shown_in.heading(shown_in.show(sum(view.formulas.values())))
            table.remark(f"{view.name}: {share} of it by formulas for kernels it cannot look into ({names}).")
    return table


def summary_table(audit: Audit) -> Table:
    """How far each view is from its base, and how much of that difference is explained."""
    shown = [name for name in BASE if audit.views[name].error is None]
    left = {name: sum(audit.unexplained(name).values()) for name in shown}
    apart = {name: audit.views[name].total - audit.views[BASE[name]].total for name in shown}
    shown_in = unit_for([*apart.values(), *left.values()], "FLOP")
    table = Table(
        "differences",
        [
            Column("view", "counted by", numeric=False),
            Column("base", "compared with", numeric=False),
            Column("difference", shown_in.heading("difference")),
            Column("difference_percent", "difference [%]"),
            Column("explained", shown_in.heading("explained")),
            Column("unexplained", shown_in.heading("unexplained")),
            Column("unexplained_percent", "unexplained [%]"),
        ],
        about(audit),
    )
    for name in shown:
        whole = audit.views[BASE[name]].total
        table.rows.append(
            [
                TableCell(_title(name), name),
                TableCell(BASE[name], BASE[name]),
                *_cells(shown_in, [apart[name]]),
                _percent(apart[name], whole),
                *_cells(shown_in, [apart[name] - left[name], left[name]]),
                _percent(left[name], whole),
            ]
        )
    return table


def reason_table(audit: Audit, *, merged: bool) -> Table:
    """Every reason with the FLOPs it explains, and what is left; ``merged`` adds up operations with the same reason."""
    rows: list[tuple[str, str, str, int]] = []
    for name in BASE:
        view = audit.views[name]
        if view.error is not None:
            continue
        rest = [Reason(operation, "unexplained", flops) for operation, flops in audit.unexplained(name).items()]
        reasons = [*view.reasons, *rest]
        if merged:
            for text in dict.fromkeys(reason.text for reason in reasons):
                same = [reason for reason in reasons if reason.text == text]
                names = [reason.operation for reason in same]
                said = ", ".join(names) if len(names) <= MANY else f"{len(names)} operations"
                rows.append((name, text, said, sum(reason.flops for reason in same)))
        else:
            rows += [(name, reason.text, reason.operation, reason.flops) for reason in reasons]
    shown_in = unit_for([flops for *_, flops in rows], "FLOP")
    table = Table(
        "reasons",
        [
            Column("view", "counted by", numeric=False),
            Column("reason", "reason", numeric=False, wraps=True),
            Column("operation", "operation", numeric=False, wraps=True),
            Column("flops", shown_in.heading("explains")),
            Column("percent", "of the total [%]"),
        ],
        about(audit),
    )
    for name, text, operation, flops in rows:
        whole = audit.views[BASE[name]].total
        table.rows.append(
            [
                TableCell(_title(name), name),
                TableCell(text, text),
                TableCell(operation, operation),
                *_cells(shown_in, [flops]),
                _percent(flops, whole),
            ]
        )
    return table


def class_tables(audit: Audit) -> list[Table]:
    """The GPU's kernels by class; none without its counters."""
    return [_totals_table("kernels by class", audit, audit.groups)] if audit.groups else []


def kernel_tables(audit: Audit) -> list[Table]:
    """The GPU's kernels by name; none without its counters."""
    return [_totals_table("kernels by name", audit, audit.kernels)] if audit.kernels else []


def _totals_table(title: str, audit: Audit, groups: Sequence[KernelTotals]) -> Table:
    tensor = unit_for([group.tensor_flops for group in groups], "FLOP")
    vector = unit_for([group.vector_flops or 0 for group in groups], "FLOP")
    moved = unit_for([group.read_bytes for group in groups], "B")
    table = Table(
        title,
        [
            Column("kind", "kernels", numeric=False, wraps=True),
            Column("launches", "launches"),
            Column("tensor_flops", tensor.heading("tensor cores")),
            Column("vector_flops", vector.heading("vector units")),
            Column("read_bytes", moved.heading("read")),
            Column("written_bytes", moved.heading("written")),
        ],
        about(audit),
    )
    for group in groups:
        table.rows.append(
            [
                TableCell(group.kind, group.kind),
                TableCell(str(group.launches), group.launches),
                *_cells(tensor, [group.tensor_flops]),
                *_cells(vector, [group.vector_flops]),
                *_cells(moved, [group.read_bytes, group.written_bytes]),
            ]
        )
    return table


def sentences(audit: Audit, *, all_operators: bool = False) -> list[str]:
    """What ran, what no counter saw, and why a view is missing."""
    ran = ", ".join(f"{name.partition(': ')[2]} {backend}" for name, backend in audit.backends.items())
    said = [f"Kernels: {ran}."] if ran else []
    for view in audit.views.values():
        if view.error is not None:
            said.append(f"No figures of {_title(view.name)}: {view.error}.")
        for operation, operators in view.unseen.items():
            names = sorted(operators, key=lambda name: -operators[name])
            shown = names if all_operators else names[:SHOWN_OPERATORS]
            more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
            listed = ", ".join(f"{name.removeprefix('aten::')} x{operators[name]}" for name in shown)
            said.append(f"Not seen by {view.name} in {operation}: {listed}{more}.")
    return said + audit.notes


def flat(audits: Sequence[Audit]) -> Table:
    """One row per case and operation: every view's FLOPs, and what of them is unexplained."""
    names = [EXACT, *BASE]
    columns = [Column(key, key, numeric=False) for key in ("workload", "model", "scale", "recipe")]
    columns += [Column(key, key) for key in ("context", "batch")]
    columns += [Column("device", "device", numeric=False), Column("dtype", "dtype", numeric=False)]
    columns += [Column("operation", "operation", numeric=False), *(Column(name, name) for name in names)]
    columns += [Column(f"{name}_unexplained", f"{name}_unexplained") for name in BASE]
    table = Table("FLOPs by operation", columns)
    for audit in audits:
        case, left = audit.case, {name: audit.unexplained(name) for name in BASE}
        seen = {name: view for name, view in audit.views.items() if view.error is None}
        about: list[float | str | None] = [
            case.workload.kind,
            case.model.label,
            case.model.scale,
            case.model.recipe or "",
        ]
        sizes: list[float | str | None] = [
            case.workload.context,
            case.workload.batch,
            case.execution.device,
            case.execution.dtype,
        ]
        for operation in [*audit.operations, *_only_left(audit, left)]:
            values: list[float | str | None] = [*about, *sizes, operation]
            values += [seen[name].flops.get(operation) if name in seen else None for name in names]
            values += [left[name].get(operation, 0) if name in seen else None for name in BASE]
            table.rows.append([TableCell(str(value), value) for value in values])
    return table


def _only_left(audit: Audit, left: dict[str, dict[str, int]]) -> list[str]:
    """Operations that only something unexplained names."""
    known = set(audit.operations)
    return [*dict.fromkeys(name for rest in left.values() for name in rest if name not in known)]


def headline(audits: Sequence[Audit]) -> Table:
    """One row per case: each view's total against its base, and what is unexplained; for several cases at once."""
    names = [name for name in BASE if name != PAPER]
    shown_in = unit_for([audit.views[HARDWARE].total for audit in audits], "FLOP")
    columns = [Column("model", "case", numeric=False), Column("total", shown_in.heading("hardware"))]
    for name in names:
        columns.append(Column(f"{name}_percent", f"{_title(name)} - {BASE[name]} [%]"))
        if name != HARDWARE:
            columns.append(Column(f"{name}_unexplained", "unexplained [%]"))
    table = Table("totals", columns)
    for audit in audits:
        total = audit.views[HARDWARE].total
        row = [TableCell(audit.case.label, audit.case.label), TableCell(shown_in.show(total), total)]
        for name in names:
            view, whole = audit.views[name], audit.views[BASE[name]].total
            missing = TableCell(NO_VALUE)
            row.append(missing if view.error else _percent(view.total - whole, whole))
            if name != HARDWARE:
                row.append(missing if view.error else _percent(sum(audit.unexplained(name).values()), whole))
        table.rows.append(row)
    return table
