"""kernel_suite: single operations timed by themselves: cells, problems, records, what follows, and how they run.

plan (no torch)                     run (torch)                                show (no torch)

flags, TOML ─► plan ─► Cell, Turns ► worker ► draw ► check ► time ──► KernelRecord ──► figures ► report
                ▲
    problems of models, or typed
"""
