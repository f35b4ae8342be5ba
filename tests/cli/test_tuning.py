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
from hybridbench.model import tiling_table
from hybridbench.model import tune as searching
from hybridbench.model.tiling import Tiling
from hybridbench.model.tiling_table import Searched, TiledProduct, read_table
from hybridbench.model.tune import Told, WholeStep

QKV, HEAD = TiledProduct("qkv", 3072, 2048, 64), TiledProduct("head", 128_256, 2048, 64)
FOUND = {
    QKV: Searched(Tiling(64, 4, 64, 6, 4), 5.5, 6.25),
    HEAD: Searched(Tiling(128, 1, 64, 4, 4), 130.0, 130.0),
}


class Scripted:
    """A search that finds ``FOUND``: a step is faster with ``kept``, and a later model's is slower with ``slower``."""

    kept: ClassVar[dict[TiledProduct, Searched]] = FOUND
    slower: ClassVar[set[TiledProduct]] = set()
    asked: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, case: object, _timer: object, **given: Any) -> None:
        self.asked.append({"case": case, **given, "known": set(given["known"])})
        self.tried = {} if given["known"] else {("qkv", 3072, 2048): [1, 2, 3], ("head", 128_256, 2048): [1]}
        self.dropped = ["qkv 3072 x 2048 as 3: logits differs by 1"]
        self.seconds = 42.0
        self.names = {"qkv", "head"}

    def run(self, tell: Any) -> dict[TiledProduct, Searched]:
        tell(Told(4, 4, tuple(self.dropped)))
        return FOUND if self.tried else {}

    def together(self, found: dict[TiledProduct, Searched], known: dict[TiledProduct, Searched]) -> WholeStep:
        assert found == (FOUND if self.tried else {})
        kept = {product: one for product, one in found.items() if product in self.kept}
        return WholeStep(kept, self.slower & (known.keys() | found.keys()) - kept.keys(), 90.0, 100.0)


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "visible_gpus", lambda: ["0"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA Test 9")
    monkeypatch.setattr(searching, "inputs_of", lambda case, _device: case)
    monkeypatch.setattr(searching, "TilingSearch", Scripted)
    Scripted.asked = []
    Scripted.kept, Scripted.slower = FOUND, set()


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


def test_only_what_makes_a_whole_step_faster_is_kept(tmp_path: Path) -> None:
    Scripted.kept = {QKV: FOUND[QKV]}
    said = run("--arch", "mamba", "--batch", "64", "-o", tmp_path / "t.json")
    assert "not kept, since the step is no faster with it: head 128256 x 2048" in said
    assert read_table(tmp_path / "t.json").entries == Scripted.kept
    Scripted.kept = {}
    assert "Written" not in run("--arch", "mamba", "--batch", "64", "-o", tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()


def test_what_makes_another_models_step_slower_is_taken_out_and_not_searched_again(tmp_path: Path) -> None:
    Scripted.slower = {HEAD}
    said = run("--arch", "transformer,mamba,inter", "--scale", "1b", "--batch", "64", "-o", tmp_path / "t.json")
    assert said.count("taken out again, since this step is slower with it: head 128256 x 2048") == 1
    assert read_table(tmp_path / "t.json").entries == {QKV: FOUND[QKV]}
    assert [asked["known"] for asked in Scripted.asked] == [set(), set(FOUND), set(FOUND)]


def test_what_makes_the_first_models_step_slower_is_not_searched_for_a_later_one(tmp_path: Path) -> None:
    Scripted.kept, Scripted.slower = {QKV: FOUND[QKV]}, {HEAD}
    said = run("--arch", "transformer,mamba", "--scale", "1b", "--batch", "64", "-o", tmp_path / "t.json")
    assert "not kept, since the step is no faster with it: head 128256 x 2048" in said
    assert "taken out" not in said
    assert [asked["known"] for asked in Scripted.asked] == [set(), {QKV, HEAD}]
    assert read_table(tmp_path / "t.json").entries == Scripted.kept


def test_a_dry_run_searches_nothing(tmp_path: Path) -> None:
    said = run("--arch", "mamba", "--batch", "32,64", "--most", "5", "-o", tmp_path / "t.json", "--dry-run")
    assert said.count("some 42 s.") == 2
    assert "a step takes" not in said
    assert [asked["most"] for asked in Scripted.asked] == [5, 5]
    assert not (tmp_path / "t.json").exists()


def refused(*words: object) -> str:
    done = CliRunner().invoke(main, ["tune", *map(str, words)])
    assert done.exit_code == 2, done.output
    assert "a step takes" not in done.output
    return done.output


def test_it_says_whether_decode_will_look_at_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "cache" / "own.json"
    monkeypatch.setattr(tiling_table, "own_table", lambda _gpu: own)
    words = "--arch", "transformer", "--batch", "64"
    assert f"Written to {own}. Decode on this GPU uses it from now on." in run(*words)
    said = run(*words, "-o", tmp_path / "t.json")
    assert f"Decode does not look there: copy it to {own}, or tune without -o." in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON at line 1, column 2"),
        ('{"format": 2}', "is no table of tilings of format 1: name another file with -o, or remove this one."),
        (
            '{"format": 1, "gpu": "NVIDIA L4", "made with": {}, "products": []}',
            "is of NVIDIA L4, and this is",
        ),
    ],
)
def test_a_file_that_cannot_take_the_table_is_refused_before_the_search(
    content: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "t.json").write_text(content)
    assert said in refused("--arch", "mamba", "--batch", "64", "-o", tmp_path / "t.json")
    assert Scripted.asked == []
    assert (tmp_path / "t.json").read_text() == content


def test_a_place_that_cannot_be_written_is_refused_before_the_search(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("--batch", "64", "-o", tmp_path / "file" / "t.json")
    assert f"{tmp_path} is a folder: name a file in it with -o." in refused("--batch", "64", "-o", tmp_path)
    assert Scripted.asked == []


def test_a_batch_that_the_fused_step_does_not_run_is_refused_before_another_is_searched(tmp_path: Path) -> None:
    said = refused("--arch", "mamba", "--batch", "64,512", "-o", tmp_path / "t.json")
    assert "has no tilings to search" in said
    assert "the batch is 512" in said
    assert Scripted.asked == []


def test_products_are_named_as_they_are_and_of_the_model(tmp_path: Path) -> None:
    assert "unknown product 'swigl': did you mean 'swiglu'?" in refused("--product", "swigl")
    assert "--product 'qkv,' has an empty part" in refused("--product", "qkv,")
    said = refused("--arch", "transformer", "--batch", "64", "--product", "state", "--dry-run")
    assert "--product state: no model here has such a product; they have qkv, head." in said


def test_it_has_no_option_that_it_always_refuses() -> None:
    said = CliRunner().invoke(main, ["tune", "--help"]).output
    assert "--ctx" not in said
    assert "--dtype]" not in said
    assert "as --dtype" in CliRunner().invoke(main, ["decode", "--help"]).output
    assert "tune has no --ctx" in refused("--ctx", "4k")
