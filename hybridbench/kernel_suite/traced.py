"""traced: what one call runs on a GPU: kernels as the profiler sees them, and what autotuners chose."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def traced(call: Callable[[], object]) -> list[dict[str, Any]]:
    """The events of the profiler's trace of one call on a GPU; none where the profiler fails."""
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            call()
            torch.cuda.synchronize()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "trace.json")
            seen.export_chrome_trace(path)
            with open(path, encoding="utf-8") as trace:
                events: list[dict[str, Any]] = json.load(trace)["traceEvents"]
    except (RuntimeError, OSError, ValueError) as exc:
        print(f"kernels are unknown: {exc}", file=sys.stderr)  # noqa: T201
        return []
    return events


@contextmanager
def tuned() -> Iterator[dict[str, None]]:
    """Inside, what each autotuner runs is noted, as ``module.kernel: configuration``; nothing without Triton."""
    used: dict[str, None] = {}
    if "triton" not in sys.modules:
        yield used
        return
    from triton.runtime.autotuner import Autotuner

    run = Autotuner.run

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = run(self, *args, **kwargs)
        if len(self.configs) > 1:
            used[f"{self.base_fn.__module__}.{self.base_fn.__name__}: {self.best_config}"] = None
        return found

    Autotuner.run = noted
    try:
        yield used
    finally:
        Autotuner.run = run


def longest_first(events: list[dict[str, Any]]) -> tuple[list[str], float | None]:
    """Kernels in a trace by the time they take, and the blocks per multiprocessor of the longest; None is unknown."""
    spent: dict[str, float] = {}
    blocks: dict[str, float] = {}
    for event in events:
        if event.get("cat") == "kernel":
            name = str(event["name"])
            spent[name] = spent.get(name, 0.0) + float(event.get("dur", 0))
            per_sm = event.get("args", {}).get("blocks per SM")
            if per_sm is not None:
                blocks[name] = max(blocks.get(name, 0.0), float(per_sm))
    names = sorted(spent, key=lambda name: -spent[name])
    return names, blocks.get(names[0]) if names else None
