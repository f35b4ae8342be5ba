"""pytest runs in parallel with this repository's configuration, whatever other plugins an environment has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WARNS = """
import warnings


def pytest_configure(config):
    if config.getoption("dist", "no") != "no":
        warnings.warn("Benchmarks are automatically disabled because xdist plugin is active.")
"""
"""What pytest-benchmark does, and what ``filterwarnings = error`` makes an internal error of."""


@pytest.mark.slow
def test_a_plugin_that_warns_of_parallel_tests_does_not_stop_them(tmp_path: Path) -> None:
    plugins, information = tmp_path / "plugins", tmp_path / "plugins" / "pytest_benchmark-5.0.1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest-benchmark\nVersion: 5.0.1\n")
    (information / "entry_points.txt").write_text("[pytest11]\nbenchmark = warns_of_parallel_tests\n")
    (plugins / "warns_of_parallel_tests.py").write_text(WARNS)
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_one.py").write_text("def test_one() -> None:\n    pass\n")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"PYTHONPATH": str(plugins), "PYTEST_ADDOPTS": "-n 2"}
    command = [sys.executable, "-m", "pytest", "-q"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
