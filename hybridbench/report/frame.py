"""frame: records as a pandas DataFrame, with one row per case: its identity, and every metric in SI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from hybridbench.metrics import METRICS
from hybridbench.record import Record
from hybridbench.report.groups import NO_RUNS
from hybridbench.report.identity import IDENTITY, identity


def to_frame(records: Sequence[Record], runs: Mapping[str, str] = NO_RUNS) -> pd.DataFrame:
    """One row per record, in the order given. An unknown number is missing (NaN or None), never zero.

    The first columns identify the case and say how it ended. The others are ``metrics.METRICS`` by name. If ``runs``
    names the runs that are compared, by their ``run_id``, the first column is ``run``.
    """
    columns = [*(["run"] if runs else []), *IDENTITY, *METRICS]
    rows = [
        {
            "run": runs.get(record.run_id),
            **identity(record),
            **{name: metric.compute(record) for name, metric in METRICS.items()},
        }
        for record in records
    ]
    frame = pd.DataFrame(rows, columns=pd.Index(columns))
    return frame.astype(dict.fromkeys(METRICS, "float64"))
