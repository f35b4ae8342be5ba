"""suite: what is asked for: workloads, how they run, cases, and sweeps of them from flags or TOML.

A case (``case``) is one cell of a comparison: which model does which work (``workloads``), how. A sweep (``sweep``) is
the product of lists, written in the words of the command line. A suite (``file``) is a named list of sweeps.
"""
