"""On plain kernels no difference stays unexplained, operation by operation; a GPU's kernels find their operations."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from hybridbench.arch.block import Convention
from hybridbench.arch.families import Options, build_spec, pattern_spec
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.operations import operations
from hybridbench.arch.ssd_kernels import KERNELS
from hybridbench.audit import run
from hybridbench.audit.hardware import (
    ATTENTION_TILES,
    SCAN_TILES,
    WHOLE_TILES,
    by_class,
    causal_pairs,
    hardware_view,
    tile_rounding,
)
from hybridbench.audit.observe import Observation, observe
from hybridbench.audit.run import audit
from hybridbench.audit.views import BASE, EXACT, FVCORE, GPU, HARDWARE, PRODUCTS, TORCH, Audit, closed_forms, is_product
from hybridbench.cli.main import main
from hybridbench.count.by_operation import REST, Product
from hybridbench.count.ncu import Launch
from hybridbench.errors import Unsupported
from hybridbench.suite import DECODE, PREFILL, TRAIN, Case, Execution, Workload

SMALL = Options(vocab_size=64)
EVERYTHING = pattern_spec("M-*ES-(*&M)-", "tiny", replace(SMALL, window=40, sinks=8))
"""Every kind of block that has a reference, once."""


def case_of(spec: ModelSpec, kind: str, context: int = 70, batch: int = 2, **backends: str) -> Case:
    return Case(spec, Workload(kind, context, batch), Execution("cpu", "float32", "eager", backends=backends))


def unexplained(found: Audit) -> dict[str, dict[str, int]]:
    assert not [view.error for name, view in found.views.items() if name != GPU and view.error]
    return {name: left for name in BASE if (left := found.unexplained(name))}


@pytest.mark.parametrize(("kind", "context"), [(TRAIN, 70), (TRAIN, 64), (PREFILL, 150), (DECODE, 70)])
def test_nothing_stays_unexplained_on_plain_kernels(kind: str, context: int) -> None:
    (found,) = audit([case_of(EVERYTHING, kind, context)])
    assert unexplained(found) == {}
    exact = found.views[EXACT].flops
    for counter in (TORCH, FVCORE):
        view = found.views[counter]
        assert set(view.flops) <= set(exact)
        if kind == PREFILL or counter == TORCH:  # products are counted as they are, by both
            assert {name: view.flops[name] for name in exact if is_product(name)} == {
                name: flops for name, flops in exact.items() if is_product(name)
            }


VARIANTS = {
    "reference attention": (pattern_spec("*-", "tiny", SMALL), {"attention": "reference"}),
    "math attention": (pattern_spec("*-", "tiny", SMALL), {"attention": "sdpa-math"}),
    "one core": (pattern_spec("M-", "tiny", SMALL), {"mamba2_core": "reference"}),
    "plain loss": (pattern_spec("M-", "tiny", SMALL), {"linear_cross_entropy": "reference"}),
    "gate": (pattern_spec("(*&M)-", "tiny", replace(SMALL, fusion_scale="gate")), {}),
    "shared value": (pattern_spec("(*&M)-", "tiny", replace(SMALL, recipe="hymba", fusion_value="shared")), {}),
    "two attentions": (pattern_spec("(*&*)-", "tiny", replace(SMALL, recipe="diff-transformer")), {}),
    "plain experts": (pattern_spec("*E", "tiny", SMALL), {"experts": "reference"}),
}


@pytest.mark.parametrize(("spec", "backends"), VARIANTS.values(), ids=VARIANTS.keys())
def test_nothing_stays_unexplained_whatever_kernel_and_fusion(spec: ModelSpec, backends: dict[str, str]) -> None:
    (found,) = audit([case_of(spec, TRAIN, **backends)])
    assert unexplained(found) == {}
    assert set(backends.values()) <= {name for names in found.backends.values() for name in names.split(", ")}


def test_what_was_not_seen_is_listed_where_it_ran() -> None:
    (found,) = audit([case_of(EVERYTHING, DECODE)])
    unseen = found.views[TORCH].unseen
    assert "aten::exp" in unseen["mamba2 scan"]
    assert {"aten::mul", "aten::silu"} <= set(unseen["mamba2 conv"])
    assert REST in unseen
    assert found.views[GPU].error == run.NO_GPU


def test_an_observation_survives_its_file() -> None:
    seen = observe(case_of(EVERYTHING, TRAIN))
    assert Observation.from_dict(json.loads(json.dumps(seen.to_dict()))) == replace(
        seen, tiles={kernel: tuple(tile) for kernel, tile in seen.tiles.items()}
    )
    products = {product.operation for product in seen.products}
    assert {"mamba2 in_proj", "parallel out_proj", "moe router", "head"} < products


# A GPU's kernels.

TILE = (128, 256, 64)


def gpu_case(kind: str = TRAIN) -> Case:
    spec = build_spec("inter", "100m")
    return Case(spec, Workload(kind, 2048, 1), Execution("cuda", "bfloat16", "eager"))


def products_of(case: Case) -> list[Product]:
    """Products that add up to each operation's FLOPs, each of 2048 rows and 1024 deep."""
    found = operations(case.model, case.workload.kind, case.workload.context, Convention.HARDWARE)
    wanted = {name: flops for name, flops in found.items() if is_product(name)}
    return [Product(name, 1, 2048, flops // (2 * 2048 * 1024), 1024) for name, flops in wanted.items()]


def launches_of(case: Case, products: list[Product], tiles: dict[str, tuple[int, int, int]]) -> list[Launch]:
    """What a GPU would have counted of them, of cuDNN's attention in tiles of 64 x 128, and of the scan."""
    rows: list[tuple[str, int, int]] = []
    for product in products:
        columns = -(-product.n // 256) * 256
        rows.append(("nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_NTN", 2 * product.m * columns * product.k, 100))
    rows.append(("cublasLt::splitKreduce_kernel<32, 16, int>", 0, 40))
    attention, mamba = case.model.blocks["*"], case.model.blocks["M"]
    for way, tile, width in (("f", (64, 128), 64 + 64), ("b", (64, 64), 3 * 64 + 2 * 64)):
        name = (
            f"cudnn_generated_fort_native_sdpa_sm90_flash_{way}prop_wgmma_f16_knob_7_{tile[0]}x{tile[1]}x64_4x1x1_cga"
        )
        rows.append((name, 2 * attention.n_heads * width * causal_pairs(2048, *tile), 1000))
    uses = case.model.counts["M"]
    for kernel, flops in mamba.scan_kernels(2048, True, tiles).items():
        rows.append((kernel, uses * flops, 0))
    rows.append(("_state_passing_fwd_kernel", 0, uses * mamba.scan_elementwise(2048, True) + 77))
    rows.append(("causal_conv1d_channellast_fwd_kernel<Traits>", 0, uses * 3 * 2048 * 2 * 4 * mamba.conv_channels))
    rows.append(("void at::native::vectorized_elementwise_kernel<4, AddFunctor>(int)", 0, 5000))
    return [Launch(number, name, tensor, vector, 10, 5) for number, (name, tensor, vector) in enumerate(rows)]


def test_a_gpus_kernels_find_their_operations() -> None:
    case, tiles = gpu_case(), dict.fromkeys(KERNELS, TILE)
    products = products_of(case)
    launches = launches_of(case, products, tiles)
    view, note = hardware_view(case, launches, products, tiles)
    assert note is None
    found = Audit(case, {}, {**closed_forms(case), GPU: view}, by_class(launches))
    assert found.unexplained(GPU) == {}
    assert {WHOLE_TILES, ATTENTION_TILES, SCAN_TILES} < {reason.text for reason in view.reasons}
    assert view.flops[REST] == 5000
    assert sum(view.flops.values()) == sum(launch.flops for launch in launches)
    tensor = [replace(launch, vector_flops=0) for launch in launches]
    view, note = hardware_view(case, tensor, products, tiles, vector=False)
    assert Audit(case, {}, {**closed_forms(case), GPU: view}).unexplained(GPU) == {}
    kinds = {group.kind: group for group in found.groups}
    assert kinds["matrix products"].launches == len(products) + 1
    assert kinds["scan"].read_bytes == 10 * (len(KERNELS) + 1)


def test_products_that_cannot_be_told_apart_stand_in_one_row() -> None:
    case = gpu_case()
    products = products_of(case)
    launches = [launch for launch in launches_of(case, products, {}) if launch.number != 3]
    view, note = hardware_view(case, launches, products, {})
    assert note is not None
    assert f"{len(products) - 1} kernels of matrix products ran where {len(products)}" in note
    assert PRODUCTS in view.flops
    found = Audit(case, {}, {**closed_forms(case), GPU: view})
    assert set(found.unexplained(GPU)) == {PRODUCTS}
    assert HARDWARE in found.views


def test_a_tile_explains_what_it_explains_and_no_more() -> None:
    product = Product("head", 1, 100, 300, 70)
    name = "nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_NTN"
    by_rows, by_columns = 2 * 128 * 512 * 128, 2 * 384 * 256 * 128
    assert tile_rounding(Launch(0, name, by_rows, 0, 0, 0), product) == by_rows - product.flops
    assert tile_rounding(Launch(0, name, by_columns, 0, 0, 0), product) == by_columns - product.flops
    assert tile_rounding(Launch(0, name, by_rows + 1, 0, 0, 0), product) == 0
    assert tile_rounding(Launch(0, "gemm_without_a_tile", by_rows, 0, 0, 0), product) == 0


def test_the_kernels_of_several_cases_come_back_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [gpu_case(), gpu_case(PREFILL)]
    monkeypatch.setattr(run.ncu, "find", lambda: "ncu")
    marker, work = Launch(0, "at::cuda::spin_kernel(long)", 0, 0, 0, 0), Launch(1, "nvjet", 2, 1, 0, 0)
    monkeypatch.setattr(run.ncu, "run", lambda *_: "- 3 passes")
    monkeypatch.setattr(run.ncu, "parse", lambda _report: [marker, work, marker, work, work])
    launches, said = run._counted(cases, tmp_path, ["python"], True, 9)
    assert launches == [[work], [work, work]]
    assert "3 kernels in 3 passes at most: bytes read are too few" in said
    monkeypatch.setattr(run.ncu, "parse", lambda _report: [marker, work])
    assert run._counted(cases, tmp_path, ["python"], True, 9) == (
        None,
        "Nsight Compute's report holds 1 of 2 cases",
    )
    monkeypatch.setattr(run.ncu, "find", lambda: None)
    assert "not installed" in run._counted(cases, tmp_path, ["python"], True, 9)[1]


def test_a_case_that_cannot_run_here_is_no_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that counts finds no GPU, and says so through its file."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(Unsupported, match="ctx 2k"):
        audit([gpu_case()], counters=False, limit_s=60)


@pytest.mark.parametrize(
    ("script", "limit_s", "reason"),
    [
        ("raise SystemExit('boom')", 20.0, r"ended early \(exit code 1\): boom"),
        ("while True: pass", 0.5, "after 0.5 s"),
    ],
)
def test_a_process_that_fails_or_takes_too_long_is_told(
    script: str, limit_s: float, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python").write_text(f"#!{sys.executable}\n{script}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(run, "sys", SimpleNamespace(executable=str(tmp_path / "python")))
    with pytest.raises(Unsupported, match=reason):
        run._on_gpu([gpu_case()], False, True, limit_s)


# The command.


def test_the_command_writes_what_it_shows(tmp_path: Path) -> None:
    out = tmp_path / "new"
    words = ["audit", "--pattern", "M-*-", "--scale", "tiny", "--workload", "prefill,decode", "--ctx", "70"]
    done = CliRunner().invoke(main, [*words, "--device", "cpu", "-o", str(out)], env={"COLUMNS": "140"})
    assert done.exit_code == 0, done.output
    for shown in ("FLOPs by operation", "mamba2 scan", "causality", "unexplained", "Not seen by torch", "no GPU"):
        assert shown in done.stdout
    document = json.loads((out / "audit.json").read_text())
    assert [one["case"]["workload"]["kind"] for one in document["audits"]] == [PREFILL, DECODE]
    assert not any(view["unexplained"] for one in document["audits"] for view in one["views"].values())
    lines = (out / "audit.csv").read_text().splitlines()
    assert lines[0].startswith(
        "workload,model,scale,recipe,context,batch,device,dtype,operation,exact,paper,hardware,torch"
    )
    assert len(lines) > 15
    assert "# Audit" in (out / "audit.md").read_text()


def test_json_is_one_document_and_nothing_else() -> None:
    words = ["audit", "--pattern", "*-", "--scale", "tiny", "--workload", "decode", "--ctx", "9", "--device", "cpu"]
    done = CliRunner().invoke(main, [*words, "--json"])
    assert set(json.loads(done.stdout)["audits"][0]["views"]) == {EXACT, *BASE}
