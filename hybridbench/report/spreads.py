"""spreads: the distribution of the step times of each case of a group."""

from __future__ import annotations

from hybridbench.derive.measured import samples_s
from hybridbench.report.chart import Box, Spread
from hybridbench.report.groups import Group
from hybridbench.stats import quantile
from hybridbench.suite.workloads import workload_row

FEWEST = 3
"""With fewer samples there is no distribution to show."""


def group_spread(group: Group) -> Spread | None:
    """The distributions of a group's cases, or None if no case has ``FEWEST`` samples of a whole step."""
    boxes = []
    for series in group.series:
        for place, record in series.cells.items():
            samples = samples_s(record)
            if len(samples) >= FEWEST:
                cuts = [quantile(samples, q) for q in (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)]
                boxes.append(Box(series.name, place, len(samples), *cuts))
    if not boxes:
        return None
    return Spread(
        name="spread",
        title=f"Spread of step times, {workload_row(group.workload).word}",
        subtitle=group.subtitle,
        axis=group.axis,
        models={series.name: series.model for series in group.series},
        boxes=tuple(boxes),
    )
