"""Damaged command lines, configurations and suites, and records: fifteen seconds each; ``make fuzz`` has more."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import LONGEST_S, MOST_BYTES, fuzzed

PROGRAM = Path(__file__).with_name("fuzzing.py")
FEWEST = 20
"""Inputs that are tried also where fifteen seconds are too few for them."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["commands", "configs", "records"])
def test_no_traceback_no_hang_no_memory(kind: str) -> None:
    args = [sys.executable, str(PROGRAM), kind, "--seconds", "15", "--fewest", str(FEWEST), "--seed", "1"]
    done = subprocess.run(args, capture_output=True, text=True, timeout=200)
    assert done.stdout, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["failures"] == []
    assert outcome["tried"] == outcome["refused"] + outcome["accepted"] + outcome["other"] >= FEWEST
    assert outcome["refused"], "some of what is damaged has to be refused"
    assert outcome["accepted"], "and some of it does no harm"
    assert outcome["slowest_s"] < LONGEST_S
    assert outcome["peak_bytes"] < MOST_BYTES


def test_a_seed_makes_the_same_inputs(tmp_path: Path) -> None:
    for kind in ("commands", "configs", "records"):
        made = []
        for _ in range(2):
            inputs = fuzzed(kind, random.Random(5), tmp_path)
            made.append([(next(inputs), [file.read_bytes() for file in sorted(tmp_path.iterdir())]) for _ in range(20)])
            for file in tmp_path.iterdir():
                file.unlink()
        assert made[0] == made[1]
