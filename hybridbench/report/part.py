"""part: a section of a report that a package above it makes, such as kernels or a comparison of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hybridbench.report.chart import Plot
from hybridbench.report.table import Table


@dataclass(frozen=True)
class ReportPart:
    """One section.

    Attributes:
        title: its heading.
        sentences: what it says first.
        tables, plots: shown below, in this order.
        page: the file beside the report that has all of it in Markdown; None if the report's own page shows its tables.
    """

    title: str
    sentences: Sequence[str]
    tables: Sequence[Table]
    plots: Sequence[Plot] = ()
    page: str | None = None
