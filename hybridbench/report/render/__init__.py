"""render: one module per format that a report, a table or a chart is shown in."""
