"""The describing and the reporting half never load torch, so that cost and report answer at once, or without it."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import hybridbench.arch
import hybridbench.derive
import hybridbench.predict
import hybridbench.report

MODULES = [
    *("hybridbench.units", "hybridbench.errors", "hybridbench.machine", "hybridbench.suite.file", "hybridbench.record"),
    *("hybridbench.stats", "hybridbench.store", "hybridbench.metrics", "hybridbench.problem", "hybridbench.limits"),
    "hybridbench.operations",
    "hybridbench.operations.beyond",
    *("hybridbench.efficiency", "hybridbench.sizes", "hybridbench.searches"),
    *(m.name for m in pkgutil.walk_packages(hybridbench.arch.__path__, "hybridbench.arch.")),
    *(m.name for m in pkgutil.walk_packages(hybridbench.derive.__path__, "hybridbench.derive.")),
    *(m.name for m in pkgutil.walk_packages(hybridbench.predict.__path__, "hybridbench.predict.")),
    *(m.name for m in pkgutil.walk_packages(hybridbench.report.__path__, "hybridbench.report.")),
]


def test_torch_stays_unloaded() -> None:
    assert "hybridbench.arch.model" in MODULES
    code = (
        "import importlib, sys\n"
        f"for name in {MODULES!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
