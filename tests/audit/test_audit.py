"""On plain kernels no difference stays unexplained, operation by operation; a GPU's kernels find their operations."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from hybridbench.arch.block import Convention
from hybridbench.arch.blocks.ssd_kernels import KERNELS
from hybridbench.arch.families import Options, build_spec, pattern_spec
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.operations import operations
from hybridbench.audit import exchange, run
from hybridbench.audit.exchange import Observation, Taken
from hybridbench.audit.judge import plain_scans
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
from hybridbench.audit.judge.reasons import ONE_WIDTH
from hybridbench.audit.judge.tables import class_tables
from hybridbench.audit.judge.views import BASE, EXACT, GPU, HARDWARE, PRODUCTS, Audit, closed_forms, is_product
from hybridbench.audit.observe import profiled
from hybridbench.audit.observe.counters import observe, warmed
from hybridbench.audit.observing import AuditRun, observe_all
from hybridbench.audit.profiling import Kernels
from hybridbench.audit.render import write_audits
from hybridbench.audit.run import audit, judged
from hybridbench.cli.main import main
from hybridbench.count import ncu
from hybridbench.count.account import FVCORE, REST, TORCH, Account, Product
from hybridbench.count.ncu import Launch
from hybridbench.errors import Unsupported
from hybridbench.kernels.delta import reference as delta_reference
from hybridbench.kernels.scan import reference as scan_reference
from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import SCAN
from hybridbench.processes import alive, run_program
from hybridbench.session import Proofs
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import DECODE, PREFILL, TRAIN, Workload

SMALL = Options(vocab_size=64)
EVERYTHING = pattern_spec("M-*ES-(*&M)-", "tiny", replace(SMALL, window=40, sinks=8))
"""Every kind of block whose counts are explained to the last FLOP, once."""


def case_of(spec: ModelSpec, kind: str, context: int = 70, batch: int = 2, **backends: str) -> Case:
    return Case(spec, Workload(kind, context, batch), Execution("cpu", "float32", "eager", backends=backends))


def audited(case: Case) -> Audit:
    """One case observed in this process, which has torch already, and judged.

    Nothing is verified, as in a process that counts what another one has verified.
    """
    return judged(case, observe(case, None), Kernels(None, run.NO_GPU))


def unexplained(found: Audit) -> dict[str, dict[str, int]]:
    assert not [view.error for name, view in found.views.items() if name != GPU and view.error]
    return {name: left for name in BASE if (left := found.unexplained(name))}


@pytest.mark.parametrize(("kind", "context"), [(TRAIN, 70), (TRAIN, 64), (PREFILL, 150), (DECODE, 70)])
def test_nothing_stays_unexplained_on_plain_kernels(kind: str, context: int) -> None:
    found = audited(case_of(EVERYTHING, kind, context))
    assert unexplained(found) == {}
    exact = found.views[EXACT].flops
    for counter in (TORCH, FVCORE):
        view = found.views[counter]
        assert set(view.flops) <= set(exact)
        if kind == PREFILL or counter == TORCH:  # products are counted as they are, by both
            assert {name: view.flops[name] for name in exact if is_product(name)} == {
                name: flops for name, flops in exact.items() if is_product(name)
            }


@pytest.mark.parametrize(
    ("kind", "context", "held"),
    [(TRAIN, 70, None), (TRAIN, 16, None), (TRAIN, 150, 1 << 15), (PREFILL, 150, 1 << 15), (DECODE, 70, None)],
)
@pytest.mark.parametrize("letter", "m3GKL7")
def test_nothing_stays_unexplained_of_a_plain_scan(
    letter: str, kind: str, context: int, held: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole and filled chunks, one chunk, and, with few values ``held`` at once, several segments."""
    if held is not None:
        for module in (scan_reference, delta_reference, plain_scans):
            monkeypatch.setattr(module, "CHUNK_ELEMENTS", held)
    found = audited(case_of(pattern_spec(f"{letter}-", "tiny", SMALL), kind, context))
    for counter in (TORCH, FVCORE):
        assert found.views[counter].error is None
        assert found.unexplained(counter) == {}
    (scan,) = (name for name in found.views[EXACT].flops if name.endswith(" scan"))
    assert (found.views[TORCH].flops.get(scan, 0) > 0) == (kind != DECODE)


def test_every_scan_has_a_formula_of_its_plain_products() -> None:
    scans = {row.name for row in OPERATIONS.values() if row.spends == SCAN and not row.name.endswith("_step")}
    assert set(plain_scans.PLAIN_SCANS) == scans


VARIANTS = {
    "reference attention": (pattern_spec("*-", "tiny", SMALL), {"attention": "reference"}),
    "reference windows": (
        pattern_spec("S-", "tiny", replace(SMALL, window=40, sinks=8)),
        {"attention": "reference"},
    ),
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
    found = audited(case_of(spec, TRAIN, **backends))
    assert unexplained(found) == {}
    assert set(backends.values()) <= {name for names in found.backends.values() for name in names.split(", ")}


@pytest.mark.parametrize("kind", [TRAIN, PREFILL])
@pytest.mark.parametrize("pattern", ["*S-", "(*&M)-"])
def test_nothing_stays_unexplained_where_attention_runs_in_blocks(pattern: str, kind: str) -> None:
    """Windows of several blocks, and heads of 32 channels with values of 64."""
    settings = replace(SMALL, window=40, sinks=8) if "S" in pattern else SMALL
    spec = pattern_spec(pattern, "tiny", settings)
    found = audited(case_of(spec, kind, 600))
    assert "sdpa-blocks" in ", ".join(found.backends.values())
    assert unexplained(found) == {}
    texts = {reason.text for reason in found.views[TORCH].reasons}
    assert (ONE_WIDTH in texts) == ("M" in pattern)


def test_what_was_not_seen_is_listed_where_it_ran() -> None:
    found = audited(case_of(EVERYTHING, DECODE))
    unseen = found.views[TORCH].unseen
    assert "aten::exp" in unseen["mamba2 scan"]
    assert {"aten::mul", "aten::silu"} <= set(unseen["mamba2 conv"])
    assert REST in unseen
    assert found.views[GPU].error == run.NO_GPU


def test_an_observation_survives_its_file() -> None:
    seen = observe(case_of(EVERYTHING, TRAIN), Proofs())
    for tiles in (None, {}, {KERNELS[0]: TILE}):
        one = replace(seen, tiles=tiles)
        assert Observation.from_dict(json.loads(json.dumps(one.to_dict()))) == one
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


# Cases on a GPU, in processes that are made up.

CASES = [gpu_case(TRAIN), gpu_case(PREFILL), gpu_case(DECODE)]
TAKEN = Taken("a.module", "_kernel", [64, "torch.bfloat16", None], "BLOCK: 64")
SEEN = Observation(
    accounts={name: Account(name, {"head": 5}) for name in (TORCH, FVCORE)},
    tuned=[TAKEN],
)
KINDS = tuple(case.workload.kind for case in CASES)
OBSERVES = f"""
import json, sys, time
for case in json.load(open(sys.argv[3])):
    kind = case["workload"]["kind"]
    BEFORE
    with open(sys.argv[4], "a") as seen:
        seen.write({json.dumps(SEEN.to_dict()) + chr(10)!r})
sys.exit("the end of the last case is no failure")
"""
COUNTS = r"""
import json, sys, time
log = sys.argv[sys.argv.index("--log-file") + 1]
assert sys.argv[-3:-1] == ["-m", "hybridbench.audit.observe.profiled"]
asked = json.load(open(sys.argv[-1]))
kind, taken = asked["case"]["workload"]["kind"], asked["tuned"]
BEFORE
metrics = sys.argv[sys.argv.index("--metrics") + 1].split(",")
if "_sass_" in metrics[0]:
    INSTRUCTIONS
with open(log, "w") as report:
    def row(*cells):
        print(*('"' + str(cell) + '"' for cell in cells), sep=",", file=report)
    row("ID", "Kernel Name", "profiler__replayer_passes", *metrics)
    for number, name in enumerate(["nvjet_" + kind, taken[0]["kernel"]]):
        row(number, name, 3, *range(2, 2 + len(metrics)))
"""


def script(path: Path, text: str) -> str:
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    return str(path)


def staged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    observing: str = "pass",
    counting: str = "pass",
    vector: str = "pass",
    gpus: Sequence[str] = (),
) -> Callable[[float], tuple[list[Audit], list[str]]]:
    """An audit whose processes do something before each case; its audits, and the lines it told."""
    python = script(tmp_path / "python", OBSERVES.replace("BEFORE", observing))
    profiler = script(tmp_path / "ncu", COUNTS.replace("BEFORE", counting).replace("INSTRUCTIONS", vector))
    monkeypatch.setattr("hybridbench.audit.observing.sys", SimpleNamespace(executable=python))
    monkeypatch.setattr(ncu, "find", lambda: profiler)
    told: list[str] = []
    return lambda limit_s: (audit(CASES, limit_s=limit_s, gpus=gpus, progress=told.append), told)


BUSY = (4, 16, 64)
"""Limits to try one after the other: on a busy machine programs take long to start, and less than wanted gets done."""
WORK = ("observed", "counted", "counted vector instructions of")


def errors_of(audits: list[Audit], view: str) -> list[str | None]:
    return [one.views[view].error for one in audits]


def test_every_case_is_observed_and_then_counted_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, told = staged(tmp_path, monkeypatch)(60)
    assert errors_of(found, TORCH) == errors_of(found, FVCORE) == errors_of(found, GPU) == [None] * 3
    names = [[group.kind for group in one.kernels] for one in found]
    assert names == [[f"nvjet_{kind}", "_kernel"] for kind in KINDS], "its own case, and what autotuning took"
    for one in found:
        assert any("2 kernels in 3 passes: bytes are not those of a step" in note for note in one.notes)
        sums = [
            (group.tensor_flops, group.vector_flops, group.read_bytes, group.written_bytes) for group in one.kernels
        ]
        assert sums == [(2, 2 * 2 + 3 + 4 + 4 * 5 + 2 * 6 + 2 * 7, 3, 4)] * 2, "each from the report that has it"
    labels = [case.label for case in CASES]
    assert told == [f"{place}/3 {what} {label}" for what in WORK for place, label in enumerate(labels, 1)]


def test_a_case_that_is_not_counted_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks = f"if kind != {PREFILL!r}: sys.exit('it broke' if kind == {TRAIN!r} else 0)"
    found, told = staged(tmp_path, monkeypatch, counting=breaks)(60)
    assert errors_of(found, TORCH) == [None] * 3
    broke, silent = (f"Nsight Compute ended with exit code {why}" for why in ("1: it broke", "0: it said nothing"))
    assert errors_of(found, GPU) == [broke, None, silent]
    assert found[0].groups == found[0].kernels == []
    assert told[3:] == [
        f"1/3 not counted {CASES[0].label}: {broke}",
        f"2/3 counted {CASES[1].label}",
        f"3/3 not counted {CASES[2].label}: {silent}",
        f"2/3 counted vector instructions of {CASES[1].label}",
    ]


def test_instructions_that_are_not_counted_cost_no_tensor_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks = f"if kind == {TRAIN!r}: sys.exit('it broke')\n    if kind == {PREFILL!r}: taken[0]['kernel'] = 'another'"
    found, told = staged(tmp_path, monkeypatch, vector=breaks)(60)
    assert errors_of(found, GPU) == [None] * 3
    assert [one.kernels[0].tensor_flops for one in found] == [2] * 3
    assert [one.kernels[0].vector_flops is None for one in found] == [True, True, False]
    broke, other = "Nsight Compute ended with exit code 1: it broke", "other kernels ran while they were counted"
    for one, why in zip(found, (broke, other), strict=False):
        assert any(note.endswith(f"Instructions of vector units were not counted: {why}.") for note in one.notes)
    assert f"1/3 not counted vector instructions of {CASES[0].label}: {broke}" in told


def test_what_was_counted_before_the_time_ran_out_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps = f"if kind == {PREFILL!r}: time.sleep(600)"
    audited = staged(tmp_path, monkeypatch, counting=sleeps)
    for limit_s in BUSY:
        found, _ = audited(limit_s)
        if errors_of(found, GPU)[0] is None:
            break
    assert errors_of(found, TORCH) == [None] * 3
    kept, cut, late = errors_of(found, GPU)
    assert kept is None
    assert cut is not None
    assert cut.startswith("Nsight Compute had not finished after ")
    assert late == f"no time was left of {limit_s} s: give more with --limit"


def test_several_gpus_count_at_the_same_time_each_one_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two wait for each other; Nsight Compute keeps others away by a file among the temporary ones."""
    meets = f"""
import os, pathlib, tempfile
gpu, all_here = os.environ["CUDA_VISIBLE_DEVICES"], pathlib.Path({str(tmp_path)!r})
(all_here / f"seen-{{gpu}}").touch()
while not all((all_here / f"seen-{{one}}").exists() for one in "03"):
    time.sleep(0.01)
assert tempfile.gettempdir().endswith(f"gpu-{{gpu}}") and asked["temporary"] == {tempfile.gettempdir()!r}
lock = open(tempfile.gettempdir() + "/lock", "x")
time.sleep(0.2)
os.unlink(lock.name)
"""
    found, told = staged(tmp_path, monkeypatch, counting=meets, gpus=["0", "3"])(60)
    assert errors_of(found, GPU) == [None] * 3
    assert [[group.kind for group in one.kernels] for one in found] == [[f"nvjet_{kind}", "_kernel"] for kind in KINDS]
    labels = [case.label for case in CASES]
    assert sorted(told) == sorted(f"{place}/3 {what} {label}" for what in WORK for place, label in enumerate(labels, 1))


def test_a_machine_without_counters_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = tmp_path / "asked"
    refuses = f"open({str(asked)!r}, 'a').write('x'); open(log, 'w').write('==ERROR== ERR_NVGPUCTRPERM - No.'); exit(1)"
    found, told = staged(tmp_path, monkeypatch, counting=refuses)(60)
    assert errors_of(found, GPU) == ["Nsight Compute ended with exit code 1: ERR_NVGPUCTRPERM - No"] * 3
    assert asked.read_text() == "x"
    assert len([line for line in told if "not counted" in line]) == 1
    monkeypatch.setattr(ncu, "find", lambda: None)
    assert "not installed" in str(errors_of(audit(CASES, limit_s=60), GPU)[0])
    assert errors_of(audit(CASES, counters=False, limit_s=60), GPU) == [run.NOT_ASKED] * 3


def test_a_process_that_dies_on_a_case_costs_that_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, told = staged(tmp_path, monkeypatch, observing=f"if kind == {PREFILL!r}: sys.exit('boom')")(60)
    why = "the process that counts ended early (exit code 1): boom"
    for view in (TORCH, FVCORE, GPU):
        assert errors_of(found, view) == [None, why, None]
    assert f"2/3 not observed {CASES[1].label}: {why}" in told
    page = write_audits(found, tmp_path).read_text()
    assert page.count(f"No figures of torch: {why}.") == 1
    assert "Kernels: ." not in page
    assert found[1].views[EXACT].total > 0


def test_what_was_observed_before_the_time_ran_out_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(
        "hybridbench.audit.observing.run_program", lambda *words: (started.append(words), run_program(*words))[1]
    )
    audited = staged(tmp_path, monkeypatch, observing=f"if kind == {PREFILL!r}: time.sleep(600)")
    for limit_s in BUSY:
        started.clear()
        try:
            found, _ = audited(limit_s)
            break
        except Unsupported:  # nothing was observed
            assert limit_s != BUSY[-1]
    assert len(started) == 1, "no process for what has no time"
    why = f"counting had not finished after {limit_s} s: give more with --limit"
    assert errors_of(found, TORCH) == [None, why, why]
    assert errors_of(found, GPU) == [f"no time was left of {limit_s} s: give more with --limit", why, why]


@pytest.mark.parametrize(
    ("observing", "limit_s", "reason"),
    [
        ("sys.exit('boom')", 60.0, r"^train .*: the process that counts ended early \(exit code 1\): boom"),
        ("time.sleep(600)", 0.5, "after 0.5 s: give more with --limit"),
    ],
)
def test_nothing_observed_is_no_audit(
    observing: str, limit_s: float, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unsupported, match=reason):
        staged(tmp_path, monkeypatch, observing)(limit_s)


def test_a_case_that_cannot_run_here_is_no_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that observes finds no GPU, and says so through its file."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told: list[str] = []
    with pytest.raises(Unsupported, match="ctx 2k"):
        audit([gpu_case()], counters=False, limit_s=60, progress=told.append)
    assert told[0].startswith(f"1/1 not observed {gpu_case().label}: ")


def test_the_process_that_observes_sees_what_this_one_does(tmp_path: Path) -> None:
    cases = [case_of(EVERYTHING, TRAIN), case_of(EVERYTHING, DECODE)]
    seen: list[Observation] = []
    observe_all(AuditRun(cases, tmp_path, 60, print), seen)
    assert [one.accounts for one in seen] == [observe(case, Proofs()).accounts for case in cases]


def test_ctrl_c_keeps_what_was_observed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Case] = []

    def interrupted(asked: AuditRun, found: list[Observation]) -> None:
        done.append(asked.cases[0])
        found.append(observe(asked.cases[0], Proofs()))
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "observe_all", interrupted)
    words = ["audit", "--arch", "mamba,inter", "--scale", "tiny", "--ctx", "64", "--device", "cpu", "-o", str(tmp_path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 130
    assert done[0].model.arch in result.stdout
    (kept,) = json.loads((tmp_path / "audit.json").read_text("utf-8"))["audits"]
    assert kept["case"]["model"]["arch"] == "mamba"


def test_what_autotuning_took_goes_from_one_process_to_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridbench.audit.observe.counters.taken", lambda: [TAKEN])
    case = case_of(EVERYTHING, PREFILL)
    seen = observe(case, Proofs())
    assert seen.tuned == [TAKEN]
    done: list[object] = []

    @contextmanager
    def noted(found: Iterable[Taken]) -> Iterator[None]:
        done.extend(found)
        yield
        done.append("restored")

    monkeypatch.setattr(profiled, "using", noted)
    monkeypatch.setattr(profiled, "warmed", lambda case, proofs: (done.append(case), warmed(case, proofs))[1])
    monkeypatch.setattr(profiled, "profiled", lambda step: done.append(step() is not None))
    exchange.ask(tmp_path / "case.json", case, seen.tuned)
    usual = tempfile.gettempdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    profiled.main(tmp_path / "case.json")
    assert done == [TAKEN, case, True, "restored"], "used before anything runs, and until the step has run"
    assert tempfile.gettempdir() == usual, "where kernels were compiled to"


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
@pytest.mark.parametrize(("phase", "gpus"), [("observing", []), ("counting", []), ("counting", ["0", "1"])])
def test_a_signal_leaves_no_process_behind(number: int, phase: str, gpus: list[str], tmp_path: Path) -> None:
    """The profiler starts what it watches in a session of its own, which no signal of ours reaches."""
    children = [tmp_path / f"child{gpu}" for gpu in gpus or [""]]
    starts = (
        "import os, subprocess; "
        "sleeper = subprocess.Popen(['sleep', '600'], start_new_session=True); "
        f"child = open({str(tmp_path / 'child')!r} + os.environ['CUDA_VISIBLE_DEVICES'], 'w'); "
        "child.write(f'{sleeper.pid}\\n'); child.close(); time.sleep(600)"
    )
    python = script(tmp_path / "python", OBSERVES.replace("BEFORE", starts if phase == "observing" else "pass"))
    profiler = script(tmp_path / "ncu", COUNTS.replace("BEFORE", starts).replace("INSTRUCTIONS", "pass"))
    command = f"""
import sys
from types import SimpleNamespace
from typing import Any
from hybridbench.audit import observing, run
from hybridbench.count import ncu
from hybridbench.session import Proofs
from hybridbench.suite.case import Case
import json
observing.sys, ncu.find = SimpleNamespace(executable={python!r}), lambda: {profiler!r}
try:
    case = Case.from_dict(json.loads({json.dumps(CASES[0].to_dict())!r}))
    run.audit([case] * {len(children)}, limit_s=200, gpus={gpus})
except KeyboardInterrupt:
    sys.exit(130)
"""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen([sys.executable, "-c", command], env=environment) as process:
        try:
            pids = [int(read_line(child)) for child in children]
            process.send_signal(number)
            process.send_signal(number)  # as ``timeout`` does
            assert process.wait(60) == 130
        finally:
            process.kill()
    assert not any(alive(pid) for pid in pids)


def read_line(path: Path) -> str:
    """The line of a file that another process is about to write."""
    for _ in range(1200):
        if path.exists() and (text := path.read_text()).endswith("\n"):
            return text
        time.sleep(0.05)
    raise AssertionError(f"nobody wrote {path}")


# The command.


def test_the_command_writes_what_it_shows(tmp_path: Path) -> None:
    out = tmp_path / "new"
    words = ["audit", "--pattern", "M-*-", "--scale", "tiny", "--workload", "prefill,decode", "--ctx", "70"]
    done = CliRunner().invoke(main, [*words, "--device", "cpu", "-o", str(out)], env={"COLUMNS": "140"})
    assert done.exit_code == 0, done.output
    for shown in ("FLOPs by operation", "mamba2 scan", "causality", "unexplained", "Not seen by torch", "no GPU"):
        assert shown in done.stdout
    assert [line.split(" ", 2)[:2] for line in done.stderr.splitlines()] == [["1/2", "observed"], ["2/2", "observed"]]
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
