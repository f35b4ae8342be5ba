"""A GPU's kernels find their operations, and what an H200 counted has its reasons."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cases_audited import TILE, gpu_case

from hybridbench.arch.block import Convention
from hybridbench.arch.blocks.ssd_kernels import KERNELS
from hybridbench.arch.families import build_spec
from hybridbench.arch.operations import operations
from hybridbench.audit.judge.attention_tiles import EQUAL_WIDTHS
from hybridbench.audit.judge.hardware import (
    CONV_AGAIN,
    SCAN_TILES,
    SILU_AND_BIAS,
    WHOLE_TILES,
    by_class,
    hardware_view,
    tile_rounding,
)
from hybridbench.audit.judge.tables import class_tables
from hybridbench.audit.judge.views import GPU, HARDWARE, PRODUCTS, Audit, closed_forms, is_product
from hybridbench.count.account import REST, Product
from hybridbench.count.ncu import Launch
from hybridbench.suite.case import Case
from hybridbench.suite.workloads import TRAIN


def products_of(case: Case) -> list[Product]:
    """Products that add up to each operation's FLOPs, each of 2048 rows and 1024 deep."""
    found = operations(case.model, case.workload.kind, case.workload.context, Convention.HARDWARE)
    wanted = {name: flops for name, flops in found.items() if is_product(name)}
    return [Product(name, 1, 2048, flops // (2 * 2048 * 1024), 1024) for name, flops in wanted.items()]


def launches_of(case: Case, products: list[Product], tiles: dict[str, tuple[int, int, int]]) -> list[Launch]:
    """What a GPU would have counted of them, of cuDNN's attention, and of the scan."""
    rows: list[tuple[str, int, int]] = []
    for product in products:
        columns = -(-product.n // 320) * 320
        rows.append(("nvjet_sm90_tst_128x320_64x4_2x1_v_bz_coopA_NTN", 2 * product.m * columns * product.k, 100))
    rows.append(("cublasLt::splitKreduce_kernel<32, 16, int>", 0, 40))
    attention, mamba = case.model.blocks["*"], case.model.blocks["M"]
    for way, width in (("f", 64 + 64), ("b", 3 * 64 + 2 * 64)):
        name = f"cudnn_generated_fort_native_sdpa_sm90_flash_{way}prop_wgmma_f16_knob_7_64x128x64_4x1x1_cga"
        rows.append((name, 2 * attention.n_heads * width * 128 * 128 * 16 * 17 // 2, 1000))
    uses = case.model.counts["M"]
    for kernel, flops in mamba.scan_kernels(tiles=tiles).flops(2048, True).items():
        rows.append((kernel, uses * flops, 0))
    rows.append(("_state_passing_fwd_kernel", 0, uses * mamba.scan_kernels().elementwise(2048, True) + 77))
    for way, each in (("fwd", 4 * 2 + 3), ("bwd", 13 * 2 + 6)):  # instructions of an element, as an H200 counted them
        rows.append((f"causal_conv1d_channellast_{way}_kernel<Traits>", 0, uses * 2048 * mamba.conv_channels * each))
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
    assert {WHOLE_TILES, SCAN_TILES, SILU_AND_BIAS, CONV_AGAIN} < {reason.text for reason in view.reasons}
    assert view.flops[REST] == 5000
    assert sum(view.flops.values()) == sum(launch.flops for launch in launches)
    tensor = [replace(launch, vector_flops=0) for launch in launches]
    view, note = hardware_view(case, tensor, products, tiles, vector=False)
    uncounted = Audit(case, {}, {**closed_forms(case), GPU: view}, by_class(tensor, vector=False))
    assert uncounted.unexplained(GPU) == {}
    assert not {REST, "mamba2 conv"} & view.flops.keys(), "what nobody counted is no 0"
    assert {group.vector_flops for group in uncounted.groups} == {None}
    (table,) = class_tables(uncounted)
    assert {row[3].text for row in table.rows} == {"-"}
    kinds = {group.kind: group for group in found.groups}
    assert kinds["matrix products"].launches == len(products) + 1
    assert kinds["scan"].read_bytes == 10 * (len(KERNELS) + 1)


def test_products_that_cannot_be_told_apart_stand_in_one_row() -> None:
    case = gpu_case()
    products = products_of(case)
    launches = [launch for launch in launches_of(case, products, {}) if launch.number != 3]
    view, note = hardware_view(case, launches, products, {})
    assert note is not None
    assert f"{len(products)} matrix products were dispatched and {len(products) - 1} kernels ran them" in note
    assert PRODUCTS in view.flops
    found = Audit(case, {}, {**closed_forms(case), GPU: view})
    assert set(found.unexplained(GPU)) == {PRODUCTS}
    assert HARDWARE in found.views


def test_a_tile_explains_what_it_explains_and_no_more() -> None:
    product = Product("head", 1, 100, 300, 70)
    name = "nvjet_sm90_tst_64x256_64x4_2x1_v_bz_coopA_NTN"  # two tiles of 64 rows run together
    by_rows, by_columns = 2 * 128 * 512 * 128, 2 * 384 * 256 * 128
    assert tile_rounding(Launch(0, name, by_rows, 0, 0, 0), product) == by_rows - product.flops
    assert tile_rounding(Launch(0, name, by_columns, 0, 0, 0), product) == by_columns - product.flops
    assert tile_rounding(Launch(0, name, by_rows + 1, 0, 0, 0), product) is None
    assert tile_rounding(Launch(0, "gemm_without_a_tile", by_rows, 0, 0, 0), product) is None


def test_what_an_h200_counted_has_its_reasons() -> None:
    """Of training intra at 100m and 2k by Nsight Compute: a Mamba-2 projection, and attention with 64-wide queries."""
    case = replace(gpu_case(), model=build_spec("intra", "100m"))
    product = Product("mamba2 in_proj", 1, 4368, 2048, 1024)
    launches = [Launch(0, "nvjet_sm90_tst_192x192_64x4_2x1_v_bz_coopB_TNN", 19_931_332_608, 0, 0, 0)]
    for way, tile, flops in (("f", "64x128x128", 9_126_805_504), ("b", "64x64x128", 22_817_013_760)):
        name = f"cudnn_generated_fort_native_sdpa_sm90_flash_{way}prop_wgmma_f16_knob_7_{tile}_4x1x1_cga1x1x1_kernel0_0"
        launches.append(Launch(len(launches), name, flops, 0, 0, 0))
    view, _ = hardware_view(case, launches, [product], None)
    reasons = {(reason.operation, reason.text): reason.flops for reason in view.reasons}
    assert reasons["mamba2 in_proj", WHOLE_TILES] == 19_931_332_608 - 2 * 18 * 256 * 2048 * 1024
    form = operations(case.model, TRAIN, 2048, Convention.HARDWARE)["attention core"]
    assert reasons["attention core", EQUAL_WIDTHS] == view.flops["attention core"] - form > 0


COUNTED = Path(__file__).parents[2] / "results" / "nvidia-h200" / "audit" / "audit.json"


@pytest.mark.parametrize("kept", json.loads(COUNTED.read_text("utf-8"))["audits"] if COUNTED.exists() else [])
def test_the_hardware_convention_is_within_two_percent_of_what_an_h200_counted(kept: dict[str, Any]) -> None:
    case, views = Case.from_dict(kept["case"]), kept["views"]
    forms = closed_forms(case)
    assert {name: forms[name].flops for name in forms} == {name: views[name]["flops"] for name in forms}
    hardware, counted = forms[HARDWARE].total, views[GPU]["total"]
    assert counted == sum(group["tensor_flops"] + group["vector_flops"] for group in kept["groups"])
    assert hardware < counted < 1.02 * hardware
    explained = sum(reason["flops"] for reason in views[GPU]["reasons"])
    assert counted - hardware - explained == pytest.approx(0, abs=1e-4 * hardware)
