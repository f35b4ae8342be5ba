"""csv: tables and records as comma-separated values in SI."""

from __future__ import annotations

from hybridbench.report.build import Report
from hybridbench.report.frame import to_frame
from hybridbench.report.table import Table


def to_csv(table: Table) -> str:
    """The values in SI and in full, with one heading per column and an empty field for an unknown value."""
    import pandas as pd

    frame = pd.DataFrame(
        [[cell.value for cell in row] for row in table.rows],
        columns=pd.Index([column.key for column in table.columns]),
        dtype=object,
    )
    return str(frame.to_csv(index=False, lineterminator="\n"))


def csv_files(report: Report) -> dict[str, str]:
    """The text of each file of a report, by file name without the ending: records by workload, traces, the paper.

    The files of records hold every metric of every record.
    """
    found = {
        workload: str(to_frame(records, report.runs).to_csv(index=False, lineterminator="\n"))
        for workload, records in report.workloads.items()
    }
    found |= {section.stem: to_csv(section.table) for section in report.traces}
    return found | {name: to_csv(table) for section in report.papers for name, table in section.tables.items()}
