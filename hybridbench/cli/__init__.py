"""cli: click commands, one module per group: parse, call, render; no arithmetic, no torch at import."""
