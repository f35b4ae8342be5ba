"""Tables of searched tilings: written, read, joined and looked up; and which tilings a search tries."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed, so there is no fused step")

from hybridbench.arch.families import pattern_spec
from hybridbench.cli.tuning import PRODUCTS
from hybridbench.errors import BadResults, Blocked
from hybridbench.kernels.attention.triton_decode import stated_multiprocessors
from hybridbench.model import build_model, resolve_backends, tiling_table
from hybridbench.model.fused import FusedStep
from hybridbench.model.step import ruled_out_by
from hybridbench.model.tiling import Tiling, state_tiling, token_tile
from hybridbench.model.tiling_table import Searched, TiledProduct, TilingTable, read_table, table_for, write_table
from hybridbench.model.tune import SHARED_BYTES, candidates, near, seconds
from hybridbench.sizes import FUSED_STEP_BATCH
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import DECODE, Workload

GPU = "NVIDIA Test 9"
ONE = Searched(Tiling(64, 4, 64, 6, 4), 5.5, 6.25)


def table(**entries: Searched) -> TilingTable:
    products = {"qkv": TiledProduct("qkv", 3072, 2048, 64), "head": TiledProduct("head", 128_256, 2048, 128)}
    return TilingTable(GPU, {"triton": version("triton")}, {products[name]: one for name, one in entries.items()})


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = table(qkv=ONE, head=Searched(Tiling(128, 1, 64, 4, 8), 130.0, 140.0))
    write_table(tmp_path / "made" / "t.json", written)
    assert read_table(tmp_path / "made" / "t.json") == written


def test_a_later_search_replaces_only_what_it_found(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    better = Searched(Tiling(64, 2, 128, 4, 4), 5.0, 6.25)
    head = Searched(Tiling(128, 1, 64, 4, 8), 130.0, 140.0)
    write_table(path, table(qkv=ONE, head=head))
    assert write_table(path, table(qkv=better)) == read_table(path) == table(qkv=better, head=head)
    with pytest.raises(BadResults, match="is of NVIDIA Test 9, and this is Other"):
        write_table(path, TilingTable("Other", {}, {}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": 2000}, "does not divide"),
        ({"tiling": {"rows": 64, "splits": 99, "block_k": 64, "stages": 6, "warps": 4}}, "does not divide"),
        ({"tiling": {"rows": -64, "splits": 1, "block_k": 64, "stages": 6, "warps": 4}}, "not a positive whole number"),
        ({"tiling": {"rows": 64, "splits": 1, "block_k": 64, "stages": 6, "warps": 3}}, "warps is 3, not a power"),
        ({"us": "fast"}, "fast"),
    ],
)
def test_a_damaged_table_is_refused_with_its_reason(change: dict[str, object], said: str, tmp_path: Path) -> None:
    body = json.loads(table(qkv=ONE).to_json())
    body["products"][0] |= change
    (tmp_path / "t.json").write_text(json.dumps(body))
    with pytest.raises(Blocked, match=said):
        read_table(tmp_path / "t.json")


def test_other_files_are_refused(tmp_path: Path) -> None:
    for text, said in (("{", "is not JSON"), ("[]", "no table of tilings of format"), ('{"format": 1}', "products")):
        (tmp_path / "t.json").write_text(text)
        with pytest.raises(Blocked, match=said) as refused:
            read_table(tmp_path / "t.json")
        assert "remove it, and products are cut by rules" in str(refused.value)


def test_a_table_of_another_gpu_under_this_ones_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling_table, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(tiling_table, "own_table", lambda _gpu: tmp_path / "own.json")
    table_for.cache_clear()
    (tmp_path / "own.json").write_text(TilingTable("NVIDIA Other", {}, {}).to_json())
    with pytest.raises(Blocked, match="is of NVIDIA Other, and this is NVIDIA Test 9: remove it"):
        table_for(GPU)


def test_a_table_that_is_not_written_whole_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.json"
    write_table(path, table(qkv=ONE))

    def half(self: Path, text: str, **_: object) -> int:
        self.write_bytes(text[: len(text) // 2].encode())
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(KeyboardInterrupt):
        write_table(path, table(head=ONE))
    assert read_table(path) == table(qkv=ONE)
    assert list(tmp_path.iterdir()) == [path]


def test_a_users_own_entries_come_before_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling_table, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(tiling_table, "own_table", lambda _gpu: tmp_path / "own.json")
    table_for.cache_clear()
    assert table_for(GPU) is None
    head = Searched(Tiling(128, 1, 64, 4, 8), 130.0, 140.0)
    write_table(tmp_path / "shipped" / "nvidia-test-9.json", table(qkv=ONE, head=head))
    assert table_for(GPU) == table(qkv=ONE, head=head)
    better = Searched(Tiling(64, 2, 128, 4, 4), 5.0, 6.25)
    write_table(tmp_path / "own.json", table(qkv=better))
    found = table_for(GPU)
    table_for.cache_clear()
    assert found is not None
    assert found.of(64) == {("qkv", 3072, 2048): better.tiling}
    assert found.of(128) == {("head", 128_256, 2048): head.tiling}
    assert found.of(32) == {}


def test_a_table_of_another_release_of_triton_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling_table, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(tiling_table, "own_table", lambda _gpu: tmp_path / "own.json")
    shipped, own = tmp_path / "shipped" / "nvidia-test-9.json", tmp_path / "own.json"
    head = table(head=ONE)
    for release, known in (("0.1.0", False), (".".join(version("triton").split(".")[:2]) + ".99", True)):
        table_for.cache_clear()
        write_table(shipped, replace(table(qkv=ONE), made_with={"triton": release}))
        assert (table_for(GPU) is not None) is known
        write_table(own, head)
        found = table_for(GPU)
        assert found is not None
        assert (len(found.entries), found.of(128)) == (1 + known, head.of(128))
    table_for.cache_clear()
    write_table(own, replace(table(qkv=ONE), made_with={"triton": "0.1.0"}))
    assert set(read_table(own).entries) == set(table(qkv=ONE).entries), "entries of another release are gone"


def step(batch: int, tilings: dict[tuple[str, int, int], Tiling] | None, pattern: str = "M-*-") -> FusedStep:
    spec = pattern_spec(pattern, "1b")
    case = Case(spec, Workload(DECODE, 64, batch), Execution("cpu", "bfloat16", "graph"))
    with torch.device("meta"), stated_multiprocessors(132):
        model = build_model(case, resolve_backends(case))
        token, position = torch.empty(2, batch, dtype=torch.int64)
        caches = model.new_caches(batch, 65, case.execution.storage)
        return FusedStep(model, caches, token, position, advance=False, pdl=True, tilings=tilings)


def test_a_step_says_where_its_tilings_come_from_and_which_launches_are_of_a_product() -> None:
    rules = step(64, None)
    assert rules.tiled_by == "tilings by rules"
    names = [key[0] for key in rules.cut]
    assert set(names) == {"qkv", "mamba2", "swiglu", "residual", "head", "state"}
    assert {key[0]: len(found) for key, found in rules.products.items() if key[0] in ("swiglu", "head", "state")} == {
        "swiglu": 2,
        "head": 1,
        "state": 1,
    }
    assert all(launch in rules.launches for found in rules.products.values() for launch, _ in found)
    one = dict([next(iter(rules.cut.items()))])
    assert step(64, one).tiled_by == "tilings searched in part"
    assert step(64, dict(rules.cut)).tiled_by == "tilings searched"


@pytest.mark.parametrize(("batch", "halves"), [(1, True), (3, False), (4, True), (16, True), (64, True)])
def test_heads_are_updated_by_halves_where_those_fill_the_gpu_evenly(batch: int, halves: bool) -> None:
    """32 heads of a sequence on 132 SMs: 3 sequences have 192 halves, 1.45 a multiprocessor, and 4 have 256, 1.94."""
    assert any(name == "state" for name, _, _ in step(batch, None, "M-").cut) is halves


@pytest.mark.parametrize("mixer", ["M", "(*&M)", "m", "3", "G", "K", "L", "7"])
def test_every_product_of_a_step_can_be_named_to_be_searched(mixer: str) -> None:
    names = {key[0] for batch in (4, 64) for key in step(batch, None, f"{mixer}-*-").cut}
    assert names <= set(PRODUCTS)


@pytest.mark.parametrize("tokens", [8, 16, 32, 64, 128, 256])
def test_a_search_tries_what_fits_and_fills_the_gpu(tokens: int) -> None:
    for key in (("qkv", 3072, 2048), ("swiglu", 16384, 2048), ("residual", 2048, 8192), ("head", 128_256, 2048)):
        rule = Tiling.choose(*key[1:], 132, tokens)
        found = candidates(key, rule, tokens, 132)
        assert len(found) >= 5
        assert rule not in found
        for one in found:
            assert key[2] % one.block_k == 0
            assert one.splits <= key[2] // one.block_k
            held = one.stages + (tokens in (16, 32) and one.rows >= 64)  # wgmma reads the first columns from there too
            assert held * (one.rows + tokens) * one.block_k * 2 < SHARED_BYTES
            assert -(-key[1] // one.rows) * one.splits >= 0.7 * 132
            assert one.rows >= 64 or tokens <= 16
        assert {one.splits for one in found} == {1} or key[0] != "head"
        few = near(found, rule, 3)
        assert len(few) == 3
        assert near([*found, rule], rule, 1) == [rule]


def test_states_are_cut_into_rows_that_divide_a_head() -> None:
    for head, columns in ((128, 128), (192, 256), (64, 512), (96, 128), (48, 16)):
        rule = state_tiling(head, columns)
        assert rule.rows * columns <= 32 * 32 * rule.warps  # elements a thread
        found = candidates(("state", head, columns), rule, 64, 132)
        assert rule not in found
        assert all(head % one.rows == 0 for one in [rule, *found])
    for head, columns, warps in ((128, 128, 8), (192, 256, 4)):
        rule = state_tiling(head, columns)
        assert (rule.rows * columns, rule.warps) == (32 * 32 * warps, warps)


def test_a_search_says_how_long_it_takes() -> None:
    rule = Tiling(64, 1, 64, 4, 4)
    few, many = ({("qkv", 3072, 2048): [rule] * count} for count in (4, 40))
    assert 0 < seconds(few) < seconds(many)


def test_tiles_of_tokens_are_powers_of_two() -> None:
    assert [token_tile(batch) for batch in (1, 8, 9, 17, 33, 128, 129, 256)] == [8, 8, 16, 32, 64, 128, 256, 256]


def test_a_batch_beyond_a_tile_runs_the_modules_and_says_why() -> None:
    spec = pattern_spec("M-*-", "tiny")
    reasons = [
        ruled_out_by(Case(spec, Workload(DECODE, 64, batch), Execution("cuda", "bfloat16", "graph")))
        for batch in (1, 17, FUSED_STEP_BATCH, FUSED_STEP_BATCH + 1)
    ]
    assert reasons[:3] == [None] * 3
    assert reasons[3] == "it holds at most 256 sequences in a tile, and the batch is 257"
