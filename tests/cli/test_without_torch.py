"""What predicts, reports and judges works where torch is not installed."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import hybridbench.audit.judge
import hybridbench.cli

RESULTS = Path(__file__).parents[2] / "results" / "nvidia-h200"
BLOCKED = """
import sys

asked = []

class NotInstalled:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            asked.append(name)
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, NotInstalled)
"""
"""What makes torch look as if it were not installed, and keeps who asked for it all the same."""
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
from hybridbench.report.render import charts, folder

def save(definition, stem):  # what draws is no Python
    for file in charts.chart_files(stem):
        file.touch()
    return charts.chart_files(stem)

charts.save = folder.save = save
done = []
for words in json.loads(input()):
    asked.clear()
    one = CliRunner().invoke(main, words)
    done.append([one.exit_code, one.output, repr(one.exception), list(asked)])
print(json.dumps(done))
"""
NEVER_ASK = ("--help", "cost", "report")
"""Commands that do not ask for torch where it is installed either: what importing it takes is not theirs."""


def test_commands_run(tmp_path: Path) -> None:
    """All in one process, which imports once what they share."""
    wanted = [
        [word.replace("OUT", str(tmp_path / str(number))) for word in words]
        for number, (words, _) in enumerate(COMMANDS)
    ]
    for number in range(len(COMMANDS)):
        (tmp_path / str(number)).mkdir()
    ran = run_without_torch(RUN_ALL, json.dumps(wanted))
    assert ran.returncode == 0, ran.stderr
    for (words, shown), (code, output, exception, asked) in zip(COMMANDS, json.loads(ran.stdout), strict=True):
        assert code == 0, f"{words}: {exception}: {output}"
        assert shown in output, words
        assert not (words[0] in NEVER_ASK and asked), f"{words} import {asked}"
    assert {words[0] for words, _ in COMMANDS} > {*NEVER_ASK}
