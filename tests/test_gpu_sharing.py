"""The tests of GPUs share a card's memory: what several processes take at once fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from sharing import share


def takes(place: Path, need: int, inside: threading.Event) -> threading.Thread:
    def run() -> None:
        with share(place, need, 10):
            assert json.loads(place.read_text())[str(os.getpid())] == min(need, 10)
            inside.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_test_waits_until_what_it_needs_is_free(tmp_path: Path) -> None:
    place, inside = tmp_path / "card", threading.Event()
    place.write_text(json.dumps({os.getppid(): 6}))
    waiting = takes(place, 5, inside)
    assert not inside.wait(0.3)
    place.write_text(json.dumps({os.getppid(): 5}))
    assert inside.wait(30)
    waiting.join(30)
    assert json.loads(place.read_text()) == {str(os.getppid()): 5}


def test_what_a_process_took_that_died_is_free(tmp_path: Path) -> None:
    place, inside = tmp_path / "card", threading.Event()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    place.write_text(json.dumps({dead.pid: 10}))
    takes(place, 20, inside).join(30)  # more than there is: the whole card
    assert inside.is_set()
    assert json.loads(place.read_text()) == {}
