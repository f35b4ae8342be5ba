"""json: a report as one JSON document."""

from __future__ import annotations

import json
from typing import Any

from hybridbench.report.build import Report
from hybridbench.report.frame import to_frame


def document(report: Report, written: str | None) -> dict[str, Any]:
    """Every metric of every record in SI, and the path of the page if one was written, as plain values."""
    rows = json.loads(to_frame(report.records, report.runs).to_json(orient="records"))
    return {"report": written, "rows": rows}
