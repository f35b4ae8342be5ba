"""kernel_suite: operations timed by themselves: cells, problems, records and what follows from them, and how they run.

plan (no torch)                     run (torch)                                show (no torch)

flags, TOML ─► plan ──► Cell ─────► worker ► draw ► check ► time ──► KernelRecord ──► figures ► report
                ▲
    problems of models, or typed
"""
