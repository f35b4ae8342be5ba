"""render: audits on the terminal, as one JSON document, and as files in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from hybridbench.audit.judge.tables import (
    about,
    class_tables,
    flat,
    headline,
    kernel_tables,
    operation_table,
    reason_table,
    sentences,
    summary_table,
)
from hybridbench.audit.judge.views import Audit
from hybridbench.report.render.csv import to_csv
from hybridbench.report.render.markdown import escape, to_markdown
from hybridbench.report.render.page import own_page
from hybridbench.report.render.terminal import print_table


def print_audits(audits: Sequence[Audit], console: Console) -> None:
    """Each audit's tables, what no counter saw, and its notes; then a row for each where there are several."""
    for audit in audits:
        tables = [operation_table(audit), summary_table(audit), reason_table(audit, merged=True), *class_tables(audit)]
        for table in tables:
            print_table(table, console)
        for sentence in sentences(audit):
            console.print(Text(sentence))
        console.print()
    if len(audits) > 1:
        print_table(headline(audits), console)


def write_audits(audits: Sequence[Audit], folder: Path) -> Path:
    """``audit.csv``, ``audit.json`` and ``audit.md`` in a folder that exists; returns the page.

    Raises:
        BadInput: the folder holds an ``audit.md`` of something else.
    """
    path = own_page(folder, "audit.md")
    (folder / "audit.csv").write_text(to_csv(flat(audits)), encoding="utf-8")
    (folder / "audit.json").write_text(document(audits), encoding="utf-8")
    page = ["# Audit", "", "FLOPs of one step as conventions and counters see them, and why they differ.", ""]
    for audit in audits:
        page += [f"## {escape(about(audit))}", ""]
        tables = [operation_table(audit), summary_table(audit), reason_table(audit, merged=False)]
        tables += [*class_tables(audit), *kernel_tables(audit)]
        page += [to_markdown(table, alone=False) for table in tables]
        page += [f"{escape(sentence)}\n" for sentence in sentences(audit, all_operators=True)]
    path.write_text("\n".join(page), encoding="utf-8")
    return path


def document(audits: Sequence[Audit]) -> str:
    """One JSON document of all audits."""
    return json.dumps({"audits": [audit.to_dict() for audit in audits]})
