"""What predicts, reports and judges works where torch is not installed."""

from __future__ import annotations

import json
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


def run_without_torch(code: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code],
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_line_and_an_audits_judgement_import() -> None:
    done = run_without_torch(f"import importlib\nfor name in {MODULES!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


COMMANDS: list[tuple[list[str], str]] = [
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
]
"""Words, and what they must show."""

RUN_ALL = """
import json
from click.testing import CliRunner
from hybridbench.cli.main import main
done = [CliRunner().invoke(main, words) for words in json.loads(input())]
print(json.dumps([[one.exit_code, one.output, repr(one.exception)] for one in done]))
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, str]]:
    """Exit code, output and exception of each command, all run in one process: it imports once what they share."""
    wanted = [[word.replace("OUT", str(tmp_path_factory.mktemp("out"))) for word in words] for words, _ in COMMANDS]
    ran = run_without_torch(RUN_ALL, json.dumps(wanted))
    assert ran.returncode == 0, ran.stderr
    return [tuple(one) for one in json.loads(ran.stdout)]


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[words[0] for words, _ in COMMANDS])
def test_a_command_runs(number: int, done: list[tuple[int, str, str]]) -> None:
    code, output, exception = done[number]
    assert code == 0, f"{exception}: {output}"
    assert COMMANDS[number][1] in output
