"""Every kernel an H200 ran is in the right class, and a CPU's operators are attributed to what asked for them."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile, record_function

from hybridbench import trace
from hybridbench.cli.main import main
from hybridbench.cli.tracing import show
from hybridbench.count.kernels import longest_first
from hybridbench.count.names import classify
from hybridbench.errors import Unsupported
from hybridbench.record.traced import TraceRecord
from hybridbench.store import load
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.trace import trace_case

RESULTS = Path(__file__).parents[1] / "results" / "nvidia-h200"

# Prefixes of kernels that ran on an H200, sorted by hand.
H200 = {
    "attention": (
        *("flash::flash_fwd_splitkv", "cudnn_generated_fort_native_sdpa", "cudnn::fusion::", "triton_tem_fused_flex"),
        "triton_per_fused_flex_attention_backward",
    ),
    "scan": (
        *("_bmm_chunk_", "_chunk_cumsum_", "_chunk_scan_", "_chunk_state_", "_state_passing_"),
        *("_selective_scan_update_kernel", "update_state"),
    ),
    "conv": ("causal_conv1d_",),
    "matrix products": ("nvjet_", "cutlass::Kernel2<cutlass_80", "cublasLt::splitKreduce"),
    "loss": ("liger_cross_entropy_kernel", "_cross_entropy_in_place"),
    "optimizer": ("multi_tensor_apply_kernel", "_adamw"),
    "memory": ("Memcpy", "Memset", "CatArrayBatchedCopy", "indexSelectSmallIndex", "vectorized_gather_kernel"),
    "norm and elementwise": (
        *("vectorized_layer_norm_kernel", "layer_norm_grad_input", "reduce_kernel"),
        *("vectorized_elementwise_kernel<4, CUDAFunctor_add", "at_cuda_detail::cub::detail::scan::DeviceScan"),
    ),
}


@functools.cache
def kernels():
    """Of the committed records, and of the backends that earlier ones took."""
    recorded = {name for record in load([RESULTS], pytest.fail) if record.observed for name in record.observed.kernels}
    return recorded | set(json.loads((Path(__file__).parent / "h200_kernels.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize(("kind", "prefix"), [(kind, prefix) for kind, found in H200.items() for prefix in found])
def test_real_kernels_are_in_their_class(kind, prefix):
    found = [name for name in kernels() if name.startswith(prefix)]
    assert found, f"no record ran {prefix}"
    assert {classify(name) for name in found} == {kind}


@pytest.mark.parametrize("name", ["mamba3_siso_fwd_kernel", "mamba3_siso_bwd_kernel_dzdo", "angle_dt_bwd_kernel"])
def test_kernels_of_mamba3_are_scans(name):
    assert classify(name) == "scan"


def test_a_scan_in_one_pass_is_a_scan():
    pytest.importorskip("triton", reason="triton is not installed, so there is no kernel to name")
    from hybridbench.kernels.scan import triton_ssd, triton_ssd_backward

    names = {**vars(triton_ssd), **vars(triton_ssd_backward)}
    kernels = [name for name in names if name.startswith("scan_") and name.endswith("_kernel")]
    assert len(kernels) == 7
    assert {classify(name) for name in kernels} == {"scan"}


@pytest.mark.parametrize(
    "part", ["fwd_sm90FlashAttentionForwardSm90", "bwd_postprocessFlashAttentionBackwardPostprocess"]
)
def test_kernels_of_flash_attn_4_are_attention(part):
    assert (
        classify(f"kernel_cutlass_kernel_flash_attncuteflash_{part}_object_at__tensor0000o41112104113") == "attention"
    )


def test_our_own_decode_kernels_are_attention():
    assert {classify(f"_attention_decode_{part}") for part in ("partials", "combine")} == {"attention"}


def traced(kind, arch, context="128"):
    return trace_case(cases(Sweep(kind, arch=arch, ctx=context), has_gpu=False)[0], steps=2)


def test_matrix_products_of_a_decode_step_are_its_linear_layers_and_nothing_else():
    found = traced("decode", "inter")
    products = {spent.name: spent.launches for spent in found.kernels if spent.kind == "matrix products"}
    # Two projections in each of 6 mixers and 6 MLPs, and the head. The scan's own products are the scan's.
    assert products["aten::mm"] == 2 * 6 + 2 * 6 + 1
    assert {spent.name for spent in found.classes} >= {"matrix products", "attention", "scan", "conv"}


def test_the_backward_belongs_to_the_operation_it_undoes():
    found = traced("train", "intra")
    kinds = {}
    for spent in found.kernels:
        kinds.setdefault(spent.name, set()).add(spent.kind)
    assert kinds["aten::bmm"] == {"scan"} or kinds["aten::bmm"] == {"scan", "attention"}
    assert kinds["aten::convolution_backward"] == {"conv"}
    assert "optimizer" in {spent.name for spent in found.classes}
    assert "loss" in {spent.name for spent in found.classes}
    assert not [name for name in kinds if name.startswith(("Optimizer.", trace.RANGE, trace.STEP))], "ranges"


@pytest.mark.slow
def test_attention_in_blocks_is_attention_forward_and_backward():
    found = traced("train", "swa", "640")  # one block behind the window of 512 and the 64 sinks
    kernel = "aten::_scaled_dot_product_flash_attention_for_cpu"
    for name in (kernel, f"{kernel}_backward"):
        (spent,) = [one for one in found.kernels if one.name == name]
        assert (spent.kind, spent.launches) == ("attention", 1 + 2 * 7), "a global layer, and seven with a window"
    assert not {one.kind for one in found.kernels if one.name == "aten::masked_fill"} - {"attention"}


@pytest.mark.parametrize("kind", ["train", "prefill", "decode"])
@pytest.mark.sampled
def test_classes_and_gaps_add_up_to_the_step(kind):
    found = traced(kind, "inter")
    assert sum(spent.seconds for spent in found.classes) == pytest.approx(found.busy_s)
    assert sum(spent.seconds for spent in found.kernels) == pytest.approx(found.busy_s)
    assert 0 < found.busy_s <= found.step_s
    assert found.gap_s == pytest.approx(found.step_s - found.busy_s)


class Event:
    """One of the profiler's events on a GPU; microseconds."""

    def __init__(self, name, start, end, annotation=False):
        self.name, self.device_type, self.is_user_annotation = name, trace.DeviceType.CUDA, annotation
        self.device_time_total = end - start
        self.time_range = type("Range", (), {"start": start, "end": end, "elapsed_us": lambda _: end - start})()


def classes_of(found):
    return {spent.name: round(spent.seconds * 1e6) for spent in found.classes}


def test_overlapping_kernels_count_once_and_an_instant_belongs_to_the_first():
    events = [Event("nvjet_a", 0, 10), Event("flash_b", 5, 12), Event("nvjet_a", 20, 30)]
    found = trace._of_kernels(events, steps=1)
    assert (found.step_s, found.busy_s, found.gap_s) == pytest.approx((30e-6, 22e-6, 8e-6))
    assert found.launches == 3
    assert classes_of(found) == {"matrix products": 20, "attention": 2}


def test_a_kernel_that_waits_for_the_one_before_does_not_count_its_wait():
    """Programmatic dependent launch: each kernel starts as soon as the one before does, and works after its end."""
    work = [("_chunk_scan_fwd_kernel", 4), ("project_a", 6), ("_adamw", 2), ("project_b", 8)]
    events, clock = [], 0
    for place, (name, length) in enumerate(work):
        start = 0 if place == 0 else events[-1].time_range.start + 1
        clock += length
        events.append(Event(name, start, clock))
    found = trace._of_kernels(reversed(events), steps=1)
    assert classes_of(found) == {"scan": 4, "matrix products": 14, "optimizer": 2}
    assert sum(spent.launches for spent in found.kernels) == 4


@settings(deadline=None)  # how long an example takes depends on what else runs
@given(st.lists(st.tuples(st.sampled_from(["nvjet_a", "flash_b", "_adamw"]), st.integers(0, 60), st.integers(1, 30))))
def test_every_instant_belongs_to_one_kernel_or_a_gap(drawn):
    """Compared with a count of microseconds one by one."""
    events = [Event(name, start, start + length) for name, start, length in drawn]
    found = trace._of_kernels(events, steps=1)
    owners = {}
    for at in range(90):
        running = [event for event in events if event.time_range.start <= at < event.time_range.end]
        if running:
            first = min(running, key=lambda event: (event.time_range.start, event.time_range.end))
            owners[classify(first.name)] = owners.get(classify(first.name), 0) + 1
    assert {name: us for name, us in classes_of(found).items() if us} == owners
    parts = sum(spent.seconds for spent in found.classes) + found.gap_s
    assert parts == pytest.approx(found.step_s)


def test_the_shares_of_every_stored_trace_add_up():
    """Each share is rounded to three digits, so the sum of a table may be off by half a last digit a row."""
    texts = [path.read_text(encoding="utf-8") for path in RESULTS.parent.rglob("traces*.txt")]
    tables = [part for text in texts for part in text.split("share [%]\n")[1:]]
    assert len(tables) >= 6
    for table in tables:
        rows = itertools.takewhile(lambda line: not line.startswith("A step takes"), table.splitlines())
        shares = [line.split()[-1] for line in rows]
        last_digits = [10.0 ** -len(share.partition(".")[2]) for share in shares]
        assert sum(map(float, shares)) == pytest.approx(100, abs=sum(last_digits) / 2)


def test_ranges_are_no_kernels_whatever_their_name():
    kernels = [Event("nvjet_a", 10, 20), Event("_adamw", 30, 40), Event("_adamw", 45, 50), Event("Step", 60, 61)]
    names = ("Optimizer.step#AdamW.step", trace.STEP, f"{trace.RANGE}adamw", "_adamw")
    ranges = [Event(name, 5, 90, annotation=True) for name in names]
    assert trace._of_kernels(kernels + ranges, steps=1) == trace._of_kernels(kernels, steps=1)
    assert longest_first(ranges + kernels) == ["_adamw", "nvjet_a", "Step"]


def test_a_kernel_of_cutlass_is_named_by_its_module_and_class():
    name = "kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90_object_at__tensor0000o4111"
    assert longest_first([Event(name, 0, 1)]) == ["flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90"]


def test_names_of_kernels_give_way_to_figures(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    row = trace.Spent("a_kernel_whose_name_is_long" * 4, "norm and elementwise", 0.5664, 1234.0)
    show(trace.Trace(step_s=1.0, busy_s=0.9, classes=[row], kernels=[row], steps=1), "a case")
    longest = capsys.readouterr().out.splitlines()[-1]
    assert longest.split()[1:] == ["norm", "and", "elementwise", "1234", "566", "ms"]
    assert longest.split()[0].endswith("…")


def test_a_range_of_the_profiler_is_an_annotation_by_kind():
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler, record_function("a name"):
        torch.ones(1).add(1)
    kinds = {event.name: event.is_user_annotation for event in profiler.events()}
    assert (kinds["a name"], kinds["aten::add"]) == (True, False)


def test_the_command_prints_shares_writes_a_chrome_trace_and_keeps_json_clean(tmp_path):
    args = ["trace", "--device", "cpu", "--arch", "mamba", "--ctx", "64", "--steps", "1", "-o", str(tmp_path)]
    shown = CliRunner().invoke(main, args)
    assert shown.exit_code == 0, shown.output
    assert "matrix products" in shown.output
    assert "gaps" in shown.output
    first = (tmp_path / "trace.json").read_text()
    assert json.loads(first)["traceEvents"]
    document = json.loads(CliRunner().invoke(main, [*args, "--json"]).stdout)
    assert document["case"]["model"]["arch"] == "mamba"
    assert document["classes"]
    assert document["chrome_trace"] == str(tmp_path / "trace-2.json")
    assert (tmp_path / "trace.json").read_text() == first  # a second trace leaves the first one's file


def test_a_step_of_stored_codes_is_traced_with_them() -> None:
    args = ["trace", "--device", "cpu", "--arch", "transformer", "--ctx", "64", "--steps", "1", "--json"]
    plain, coded = (
        json.loads(CliRunner().invoke(main, [*args, *more], catch_exceptions=False).stdout)
        for more in ([], ["--weight-dtype", "int8", "--kv-dtype", "fp8"])
    )
    assert coded["case"]["execution"]["weight_dtype"] == "int8"
    assert coded["case"]["execution"]["kv_dtype"] == "fp8"
    multiplied = [
        sum(one["launches"] for one in found["kernels"] if one["name"] == "aten::mul") for found in (plain, coded)
    ]
    assert multiplied[1] > multiplied[0] > 0, "scales multiply"


def test_each_of_several_cases_is_traced_and_kept(tmp_path):
    args = ["trace", "--device", "cpu", "--arch", "mamba,inter", "--ctx", "64", "--steps", "1", "-o", str(tmp_path)]
    done = CliRunner().invoke(main, [*args, "--json"])
    assert done.exit_code == 0, done.output
    traces = json.loads(done.stdout)["traces"]
    assert [one["case"]["model"]["arch"] for one in traces] == ["mamba", "inter"]
    assert [one["chrome_trace"] for one in traces] == [str(tmp_path / name) for name in ("trace.json", "trace-2.json")]
    assert {one.case.model.arch for one in load([tmp_path], print, kind=TraceRecord)} == {"mamba", "inter"}


@pytest.mark.parametrize(
    ("wrong", "traced", "said"),
    [
        (Unsupported("no such kernel"), ["inter"], "was not traced: unsupported, no such kernel"),
        (RuntimeError("CUDA error: an illegal memory access"), [], "1 more were not tried"),
    ],
)
def test_a_case_that_cannot_be_traced_loses_no_other(wrong, traced, said, monkeypatch):
    real = trace.trace_case

    def of_case(case, **options):
        if case.model.arch == "mamba":
            raise wrong
        return real(case, **options)

    monkeypatch.setattr(trace, "trace_case", of_case)
    args = ["trace", "--device", "cpu", "--arch", "mamba,inter", "--ctx", "64", "--steps", "1", "--json"]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 1, done.output
    assert [one["case"]["model"]["arch"] for one in json.loads(done.stdout)["traces"]] == traced
    assert said in done.stderr
    alone = CliRunner().invoke(main, ["trace", "--device", "cpu", "--arch", "mamba", "--ctx", "64", "--json"])
    assert alone.exit_code != 0
    assert not alone.stdout
