"""Each guide is one task from start to end: its files are written and its commands are run in order, as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, TEXTS, commands

GUIDES = [name for name in TEXTS if name.startswith("docs/guide-")]


def test_there_is_a_guide_for_each_kind_of_user() -> None:
    assert len(GUIDES) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_runs_from_start_to_end(name: str, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for committed in ("nvidia-h200", "baselines"):
        (tmp_path / "results" / committed).symlink_to(ROOT / "results" / committed)
    for path, source in re.findall(
        r"^`([\w/]+\.py)`[^\n]*:\n\n```python\n(.*?)^```$", TEXTS[name], re.MULTILINE | re.DOTALL
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(source)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    for line in commands(TEXTS[name]):
        words = [sys.executable, "-m", "hybridbench.cli.main", *shlex.split(line)[1:]]
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250, check=False
        )
        assert "Traceback" not in done.stderr, line
        # What a timed check finds depends on the machine; its exit code 2 is that of words it cannot take.
        decided = done.returncode != 2 if "--budget" in words else done.returncode == 0
        assert decided, f"{line}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), line
