"""report: records and predictions as a report that is built once and rendered in any format; needs no torch."""
