"""json: a report as one JSON document."""

from __future__ import annotations

import json
from typing import Any

from hybridbench.report.build import Report
from hybridbench.report.frame import to_frame
from hybridbench.report.traces import plain


def document(report: Report, written: str | None) -> dict[str, Any]:
    """Every metric of every record in SI, what was traced by class, and the path of the page if one was written."""
    rows = json.loads(to_frame(report.records, report.runs).to_json(orient="records"))
    traced = plain([trace for section in report.traces for trace in section.traces])
    return {"report": written, "rows": rows, **({"traces": traced} if traced else {})}
