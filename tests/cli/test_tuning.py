"""``hybridbench tune``: what is searched, said and written, with the search itself in place of a GPU's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("triton", reason="triton is not installed, so there is no fused step")

from hybridbench.cli import tuning
from hybridbench.cli.main import main
from hybridbench.model import tune as searching
from hybridbench.model.tiling import Tiling
from hybridbench.model.tiling_table import Searched, TiledProduct, read_table
from hybridbench.model.tune import Told

FOUND = {
    TiledProduct("qkv", 3072, 2048, 64): Searched(Tiling(64, 4, 64, 6, 4), 5.5, 6.25),
    TiledProduct("head", 128_256, 2048, 64): Searched(Tiling(128, 1, 64, 4, 4), 130.0, 130.0),
}


class Scripted:
    """A search that finds ``FOUND`` and whose whole step takes ``whole``: by rules, and with what was found."""

    whole: ClassVar[tuple[float, float]] = (100.0, 90.0)
    asked: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, case: object, _timer: object, **given: Any) -> None:
        self.asked.append({"case": case, **given, "known": set(given["known"])})
        self.tried = {} if given["known"] else {("qkv", 3072, 2048): [1, 2, 3], ("head", 128_256, 2048): [1]}
        self.dropped = ["qkv 3072 x 2048 as 3: logits differs by 1"]
        self.seconds = 42.0

    def run(self, tell: Any) -> dict[TiledProduct, Searched]:
        tell(Told(4, 4, tuple(self.dropped)))
        return FOUND

    def whole_us(self, tilings: dict[Any, Tiling]) -> tuple[float, float]:
        assert tilings["qkv", 3072, 2048] == Tiling(64, 4, 64, 6, 4)
        return self.whole


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "visible_gpus", lambda: ["0"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA Test 9")
    monkeypatch.setattr(searching, "inputs_of", lambda case, _device: case)
    monkeypatch.setattr(searching, "TilingSearch", Scripted)
    Scripted.asked = []
    Scripted.whole = 100.0, 90.0


def run(*words: object) -> str:
    done = CliRunner().invoke(main, ["tune", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


def test_what_is_found_is_shown_and_written(tmp_path: Path) -> None:
    said = run("--arch", "transformer,mamba", "--scale", "1b", "--batch", "64", "-o", tmp_path / "t.json")
    assert "transformer 1b, batch 64: 4 tilings of 2 products, some 42 s." in said
    assert "dropped: qkv 3072 x 2048 as 3: logits differs by 1" in said
    assert "a step takes 90.0 us, and 100.0 us by the rules" in said
    assert "mamba 1b, batch 64: 0 tilings of 0 products" in said
    written = read_table(tmp_path / "t.json")
    assert written.entries == FOUND
    assert written.gpu == "NVIDIA Test 9"
    assert set(written.made_with) == {"torch", "triton", "hybridbench"}
    assert [asked["case"].model.arch for asked in Scripted.asked] == ["transformer", "mamba"]
    assert [asked["known"] for asked in Scripted.asked] == [set(), set(FOUND)]


def test_nothing_is_kept_where_a_whole_step_is_slower(tmp_path: Path) -> None:
    Scripted.whole = 100.0, 101.0
    said = run("--arch", "mamba", "--batch", "64", "-o", tmp_path / "t.json")
    assert "not kept, since the step by the rules is faster" in said
    assert not (tmp_path / "t.json").exists()


def test_a_dry_run_searches_nothing(tmp_path: Path) -> None:
    said = run("--arch", "mamba", "--batch", "32,64", "--most", "5", "-o", tmp_path / "t.json", "--dry-run")
    assert said.count("some 42 s.") == 2
    assert "a step takes" not in said
    assert [asked["most"] for asked in Scripted.asked] == [5, 5]
    assert not (tmp_path / "t.json").exists()
