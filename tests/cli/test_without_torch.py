"""What predicts, reports and judges works where torch is not installed."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import hybridbench.audit.judge
import hybridbench.cli

RESULTS = Path(__file__).parents[2] / "results" / "nvidia-h200"
BLOCKED = "import sys; sys.modules['torch'] = None\n"
MODULES = [
    *(m.name for m in pkgutil.walk_packages(hybridbench.audit.judge.__path__, "hybridbench.audit.judge.")),
    *(m.name for m in pkgutil.walk_packages(hybridbench.cli.__path__, "hybridbench.cli.")),
    *(f"hybridbench.audit.{name}" for name in ("exchange", "observing", "profiling", "render", "run")),
    *(f"hybridbench.count.{name}" for name in ("account", "names", "ncu")),
    "hybridbench.processes",
]


def run_without_torch(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_line_and_an_audits_judgement_import() -> None:
    done = run_without_torch(f"import importlib\nfor name in {MODULES!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--help"], "audit"),
        (["audit", "--help"], "one eager step"),
        (["archs"], "transformer"),
        (["cost", "--ctx", "4k", "-o", "OUT"], "predicted cost"),
        (["price", "--ctx", "4k"], "predicted, nothing was run"),
        (["fit"], "largest batch that fits"),
        (["check", "--exact", "--baseline", str(RESULTS.parent / "baselines" / "exact.json")], "all equal"),
        (["crossover", "inter", "mamba"], "less"),
        (["report", str(RESULTS / "compile"), "-o", "OUT"], "throughput"),
        (["ls", str(RESULTS / "crossover")], "crossover"),
        (["show", str(RESULTS / "crossover"), "--plot"], "throughput [tokens/s]"),
        (["pareto", str(RESULTS / "crossover"), "-o", "OUT"], "throughput against DCLM loss"),
        (["export", str(RESULTS / "crossover"), "-o", "OUT/all.csv"], "columns"),
        (["compare", str(RESULTS / "compile"), "--across", "mode", "-o", "OUT"], "step, B / A"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_runs(words: list[str], shown: str, tmp_path: Path) -> None:
    words = [word.replace("OUT", str(tmp_path)) for word in words]
    done = run_without_torch(f"from hybridbench.cli.main import main\nmain({words!r}, standalone_mode=False)")
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
