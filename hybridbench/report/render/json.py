"""json: a report as one JSON document."""

from __future__ import annotations

import json

from hybridbench.report.build import Report
from hybridbench.report.frame import to_frame


def to_json(report: Report, written: str | None) -> str:
    """Every metric of every record in SI, and the path of the page if one was written."""
    rows = json.loads(to_frame(report.records, report.runs).to_json(orient="records"))
    return json.dumps({"report": written, "rows": rows})
