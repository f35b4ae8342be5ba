"""What each command prints and writes when it is used as it should be."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from hybridbench.arch.kinds import BLOCK_LETTERS, MIXERS
from hybridbench.arch.presets import PRESETS
from hybridbench.cli import quickstart as quickstart_module
from hybridbench.cli.inspecting import advise
from hybridbench.cli.main import main
from hybridbench.measure.environment import fingerprint
from hybridbench.record import Ceilings, Record
from hybridbench.store import RecordWriter, load
from hybridbench.suite.file import Suite
from hybridbench.suite.sweep import Sweep

FAST = ["--device", "cpu", "--max-time", "0.05"]


def run(*args):
    result = CliRunner(env={"COLUMNS": "120"}).invoke(main, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result


def document(*args):
    return json.loads(run(*args, "--json").stdout)


def test_cost_json_holds_a_row_per_model_and_context_with_the_papers_figures():
    rows = document("cost", "--scale", "1b", "--ctx", "8k,16k", "--convention", "paper")["rows"]
    assert [(row["arch"], row["context"]) for row in rows[:3]] == [
        ("transformer", 8192),
        ("transformer", 16384),
        ("swa", 8192),
    ]
    wanted = {
        *("arch", "scale", "pattern", "convention", "context", "batch", "params", "params_non_embedding"),
        *("params_active", "train_flops", "prefill_flops", "decode_flops", "cache_bytes", "kv_cache_bytes"),
        *("ssm_state_bytes", "conv_state_bytes", "decode_bytes_moved"),
    }
    assert wanted <= set(rows[0])
    at_8k = {row["arch"]: row for row in rows if row["context"] == 8192}
    found = [round(at_8k[arch]["train_flops"] / 1e12, 2) for arch in ("transformer", "mamba", "inter", "intra")]
    assert found == [61.02, 50.14, 50.05, 51.05]
    for row in rows:
        parts = row["kv_cache_bytes"] + row["ssm_state_bytes"] + row["conv_state_bytes"]
        assert row["cache_bytes"] == parts


def test_cost_per_layer_adds_up_to_the_model():
    (row,) = document("cost", "--arch", "inter", "--ctx", "4k", "--layers")["rows"]
    for part in ("params", "train_flops", "decode_flops", "decode_bytes_moved"):
        assert sum(layer[part] for layer in row["layers"]) == row[part]


def test_a_typed_pattern_is_the_family_it_spells():
    typed = document("cost", "--pattern", "M-M-M-*-M-M-M-*-M-M-M-M-M-")["rows"][0]
    family = document("cost", "--arch", "inter")["rows"][0]
    for part in ("pattern", "params", "train_flops", "cache_bytes", "decode_bytes_moved"):
        assert typed[part] == family[part]


def test_published_and_imported_models_cost_like_families(tmp_path):
    config = tmp_path / "config.json"
    sizes = {"hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "vocab_size": 128_256}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True}
    config.write_text(json.dumps({"model_type": "llama", **sizes, **heads}))
    asked = ["cost", "--model", "Llama-3.2-1B,nemotron-h-8b", "--config", config, "--ctx", "4k,8k", "--batch", "2"]
    for convention in ("exact", "hardware", "paper"):
        rows = document(*asked, "--layers", "--convention", convention)["rows"]
        assert [(row["arch"], row["scale"]) for row in rows[::2]] == [
            ("llama-3.2-1b", "preset"),
            ("nemotron-h-8b", "preset"),
            ("llama", "config"),
        ]
        for row in rows:
            assert sum(layer["params"] for layer in row["layers"]) == row["params"]
            assert sum(layer["decode_bytes_moved"] for layer in row["layers"]) == row["decode_bytes_moved"]
        for part in ("params", "train_flops", "cache_bytes", "decode_bytes_moved"):
            assert [row[part] for row in rows[:2]] == [row[part] for row in rows[4:]]
    family = document("cost", "--arch", "transformer", "--ctx", "4k", "--batch", "2")["rows"][0]
    assert document(*asked)["rows"][0]["params"] == family["params"]
    shown = run(*asked, "-o", tmp_path / "out").stdout
    assert "nemotron-h-8b 4+24" in shown
    assert (tmp_path / "out" / "cost.csv").read_text().count("\n") == 1 + 6


def test_experts_show_how_many_parameters_are_active():
    assert "active" in run("cost", "--model", "granite-4.0-h-tiny").stdout
    assert "active" not in run("cost", "--model", "granite-4.0-h-1b").stdout


@pytest.mark.slow
def test_a_model_without_modules_is_recorded_as_unsupported(tmp_path):
    args = ["decode", "--pattern", "R-*-", "--scale", "tiny", "--ctx", "64", "-o", tmp_path, *FAST]
    done = CliRunner().invoke(main, [str(arg) for arg in args])
    assert done.exit_code == 1, done.output
    (path,) = tmp_path.glob("records-*.jsonl")
    (line,) = path.read_text().splitlines()
    record = Record.from_json(line)
    assert record.status.value == "unsupported"
    assert "hybridbench can cost" in record.message


def test_cost_writes_tables_and_charts(tmp_path):
    output = run("cost", "--ctx", "4k..16k", "-o", tmp_path).output
    assert "transformer" in output
    assert (tmp_path / "cost.md").exists()
    assert (tmp_path / "cost.csv").read_text().count("\n") == 1 + 15
    assert len(list((tmp_path / "charts").glob("*.png"))) == len(list((tmp_path / "charts").glob("*.svg"))) == 3


def test_help_and_cost_take_at_most_a_quarter_of_importing_torch():
    """In CPU seconds of processes that run one after the other, because a busy machine slows both of a pair alike.

    What others disturb is measured again. Compiled modules are kept, as they are where it is installed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def cpu_seconds(*command):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    left = {"--help": [], "cost --ctx 4k..128k": []}
    for _ in range(5):
        whole = cpu_seconds("-c", "import torch")
        for words, shares in left.items():
            shares.append(cpu_seconds("-m", "hybridbench.cli.main", *words.split()) / whole)
        left = {words: shares for words, shares in left.items() if min(shares) > 1 / 4}
        if not left:
            return
    pytest.fail(f"shares of the time that importing torch takes, in five rounds: {left}")


def test_dry_run_lists_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = run("decode", "--device", "cpu", "--ctx", "4k..128k", "--arch", "inter", "--dry-run").output
    assert "decode inter 1+5 tiny ctx 128k b1" in output
    assert "6 cases" in output
    assert not list(tmp_path.iterdir())


def test_a_measurement_prints_json_writes_records_and_reports_again(tmp_path, blank_charts):
    blank_charts.add("decode-throughput")
    first = tmp_path / "first"
    rows = document("decode", "--arch", "mamba,swa", "--ctx", "64,128", *FAST, "-o", first)["rows"]
    assert [(row["arch"], row["context"], row["status"]) for row in rows] == [
        ("mamba", 64, "ok"),
        ("mamba", 128, "ok"),
        ("swa", 64, "ok"),
        ("swa", 128, "ok"),
    ]
    (file,) = first.glob("*.jsonl")
    records = [Record.from_json(line) for line in file.read_text().splitlines()]
    for row, record in zip(rows, records, strict=True):
        seen = record.observed
        assert seen is not None
        assert seen.samples_ns
        assert {count.counter for count in seen.counts} == {"torch", "fvcore"}
        assert all(count.flops for count in seen.counts), "both counters saw the matrix products"
        assert all(count.unseen for count in seen.counts), "neither saw everything"
        assert row["cache_bytes"] == row["predicted_cache_bytes"]
        assert row["params"] == row["predicted_params"]
        assert row["mfu_frac"] is None, "a CPU has no peak in the table"
    assert (first / "report" / "report.md").exists()
    again = run("report", first, "-o", tmp_path / "again").output
    assert "swa 1+7" in again
    assert len(list((tmp_path / "again" / "charts").glob("*.png"))) >= 3


SUITE = """
[defaults]
scale = "tiny"
device = "cpu"
max_time_s = 0.05
[[sweep]]
workload = "train"
arch = "intra"
ctx = 64
[[sweep]]
workload = "train"
arch = "transformer"
moe = true
ctx = 64
[[sweep]]
workload = "prefill"
arch = "intra"
recipe = "hymba"
ratio = "1:1"
ctx = 96
[[sweep]]
workload = "generate"
arch = "inter"
prompt = 16
ctx = 24
[[sweep]]
workload = "decode"
pattern = "M-E (S&M)- *-"
ctx = 64
batch = 2
"""


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_a_suite_runs_every_workload_on_a_cpu(tmp_path):
    suite = tmp_path / "suite.toml"
    suite.write_text(SUITE)
    rows = document("run", suite, "-o", tmp_path / "out")["rows"]
    assert [(row["workload"], row["status"]) for row in rows] == [
        *(("train", "ok"), ("train", "ok"), ("prefill", "ok"), ("generate", "ok"), ("decode", "ok")),
    ]
    assert all(row["tokens_per_s"] > 0 for row in rows)


@pytest.mark.slow
def test_a_generation_integrated_and_as_published(tmp_path):
    args = ["generate", "--arch", "inter", "--prompt", "16", "--ctx", "48", *FAST, "-o", tmp_path]
    (row,) = document(*args, "--depths", "3", "--as-published")["rows"]
    assert (row["depths"], row["mode"]) == (3, "published")
    assert "attention_decode=naive" in row["ran"]
    assert 0 < row["step_low_s"] <= row["step_s"] <= row["step_high_s"]
    assert row["step_p95_s"] is None
    assert row["prefill_part_s"] > 0
    assert row["cache_bytes"] == row["predicted_cache_bytes"]
    assert not row["problems"]
    assert row["energy_per_token_j"] is None
    assert "integrated over 3 depths" in run("report", tmp_path, "-o", tmp_path / "again").output


def test_nothing_that_worked_is_exit_code_1(tmp_path):
    args = ["decode", "--arch", "mamba", "--ctx", "64", "--dtype", "float16", *FAST, "--limit", "0.001", "-o", tmp_path]
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == 1, result.output
    assert "timed out" in result.output


@pytest.mark.slow
def test_quickstart_measures_predicts_and_says_where_everything_is(tmp_path, monkeypatch, blank_charts):
    blank_charts.add("decode-latency")
    sweeps = tuple(
        Sweep(kind, arch="intra", scale="tiny", device="cpu", ctx="64,128", max_time_s=0.05)
        for kind in ("train", "decode")
    )
    monkeypatch.setattr(quickstart_module, "suite_for", lambda _on_gpu: Suite("quickstart", sweeps))
    output = run("quickstart", "-o", tmp_path / "out").output
    assert "Predicted at 1B" in output
    assert "Try next" in output
    for place in ("report/report.md", "report/charts/decode-latency.png", "predicted-1b/cost.md"):
        assert (tmp_path / "out" / place).exists()


def test_quickstart_wants_what_a_second_can_give():
    cpu, gpu = (quickstart_module.cases_for(on_gpu) for on_gpu in (False, True))
    for planned in (cpu, gpu):
        assert {case.sampling.target_rel_ci for case in planned} == {0.05}
        assert {case.workload.kind for case in planned} == {"train", "prefill", "decode"}
        assert len({case.model.arch for case in planned}) == 5


@pytest.mark.parametrize(("arch", "kernels"), [("swa", {"sdpa-flash", "sdpa-blocks"}), ("intra", {"sdpa-blocks"})])
def test_quickstarts_arms_are_on_the_same_class_of_attention(arch, kernels):
    from hybridbench.model.build import resolve_backends

    planned = [case for case in quickstart_module.cases_for(False) if case.model.arch == arch]
    ran = {item.backend.name for case in planned for item in resolve_backends(case) if item.op == "attention"}
    assert ran == kernels


def test_what_can_be_built_and_run_here():
    archs = document("archs")
    assert {row["arch"] for row in archs["archs"]} == {"transformer", "swa", "mamba", "inter", "intra"}
    assert set(archs["recipes"]) >= {"paper", "hymba", "falcon-h1", "diff-transformer", "diff-mamba"}
    kernels = document("backends")["backends"]
    for row in kernels:
        assert row["runs_here"] == (row["reason"] is None)
    assert any(row["op"] == "ssd" and row["backend"] == "reference" and row["runs_here"] for row in kernels)
    said = {(row["op"], row["backend"]): row["right_up_to"] for row in kernels}
    assert said["ssd", "mamba-ssm"] == [
        "right up to 2^31 elements of B x T x 8,480 (rows of the projection, of which dt is a view)"
    ]
    assert said["kda", "fla"] == ["right at any size: its offsets have 64 bits"]
    assert said["ssd", "reference"] == []
    assert "right up to 2^31 elements of B x 524,288 (states)" in run("backends").output
    assert 'pip install "hybridbench' not in run("archs").output
    assert document("doctor")["environment"]["packages"]["torch"]
    for command in ("archs", "backends", "doctor"):
        assert run(command).output


def test_a_case_is_explained_operation_by_operation():
    asked = "--explain --device cpu --scale tiny --ctx 1k"
    mamba, swa = document(*f"backends {asked} --arch mamba,swa --workload prefill".split())["cases"]
    ran = {(row["op"], row["block"]): row for row in mamba["operations"]}
    assert ran["ssd", "mamba2"]["runs"] == "reference"
    assert ran["conv1d", "mamba2"]["asked"] == "auto"
    (over,) = {row["runs"]: row["passed_over"] for row in swa["operations"] if row["op"] == "attention"}["sdpa-blocks"]
    assert over["candidate"] == "sdpa-flash"
    assert "no window by itself" in over["reason"]
    (step,) = document(*f"backends {asked} --arch mamba".split())["cases"][0]["operations"][-1]["passed_over"]
    assert step["candidate"] == "fused"
    (published,) = document(*f"backends {asked} --arch transformer --mode published".split())["cases"]
    assert published["operations"][0]["why"] == "mode published decodes attention as plain eager code"
    text = run(*f"backends {asked} --arch transformer".split()).output
    assert "not fused: its kernels run on CUDA devices only" in text
    text = run(*f"backends {asked} --arch transformer --backend attention_decode=triton".split()).output
    assert "unsupported: attention_decode backend 'triton' cannot run here" in text


@pytest.mark.parametrize("hopper", [True, False])
def test_doctor_says_how_to_install_the_kernels_of_this_gpu(hopper):
    gpu = replace(
        fingerprint(torch.device("cpu")), device="NVIDIA H200", device_kind="cuda", packages={"torch": "2.11.0"}
    )
    advice = [line for line in advise(gpu, known=True, watched=True, hopper=hopper) if "is not installed" in line]
    lacking = {line.partition(" ")[0]: line.partition("install ")[2] for line in advice}
    assert lacking["mamba-ssm"] == '"hybridbench[cuda]"'
    assert lacking.get("flash-attn-4") == ('"hybridbench[flash-attn-4]"' if hopper else None)


@pytest.mark.parametrize(
    ("sustained", "shown"),
    [(690e12, "789 TFLOP/s measured, 690 TFLOP/s sustained over 1 s"), (None, "789 TFLOP/s measured")],
)
def test_doctor_shows_the_sustained_product_beside_the_burst(monkeypatch, sustained, shown):
    rates = Ceilings("bfloat16", 789e12, 4.1e12, 3.9e12, sustained)
    monkeypatch.setattr("hybridbench.measure.ceilings.measure_ceilings", lambda _device, _dtype: rates)
    lines = run("doctor", "--ceilings").output.splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines if line.startswith("product bfloat16")] == [shown]
    assert document("doctor", "--ceilings")["ceilings"][0]["sustained_matmul_flops_per_s"] == sustained


@pytest.mark.slow
def test_a_second_run_into_a_folder_reports_what_both_measured(tmp_path: Path) -> None:
    for workload in ("prefill", "decode"):
        command = [workload, "--arch", "mamba", "--scale", "tiny", "--ctx", "64", "--max-time", "0.05"]
        result = CliRunner().invoke(main, [*command, "--device", "cpu", "-o", str(tmp_path)])
        assert result.exit_code == 0, result.output
    assert "with 1 more of the records in" in result.stdout
    page = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert re.search("^## prefill", page, re.MULTILINE)
    assert re.search("^## decode", page, re.MULTILINE)
    (broken,) = [path for path in tmp_path.glob("*.jsonl") if '"prefill"' in path.read_text("utf-8")]
    broken.write_text("not a record\n" + broken.read_text("utf-8"), "utf-8")
    again = CliRunner().invoke(main, [*command, "--device", "cpu", "-o", str(tmp_path)])
    assert again.exit_code == 0, again.output
    assert f"{broken}:1: not a JSON line" in again.stderr
    page = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert re.search("^## prefill", page, re.MULTILINE), "what is good in the damaged file is still there"


@pytest.mark.usefixtures("blank_charts")
def test_files_that_start_with_a_byte_order_mark_are_read(tmp_path):
    def marked(name, text):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8-sig")
        return path

    suite = marked("suite.toml", '[[sweep]]\nworkload = "decode"\narch = "mamba"\nctx = "64"\ndevice = "cpu"\n')
    assert len(document("run", suite, "--dry-run")["cases"]) == 1
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 256}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True}
    config = marked("config.json", json.dumps({"model_type": "llama", **sizes, **heads}))
    assert document("cost", "--config", config)["rows"]
    (records,) = Path("results/nvidia-h200/streams").glob("*.jsonl")
    again = marked("records.jsonl", records.read_text())
    plain = tmp_path / "plain" / "records.jsonl"  # a report is written beside its records
    plain.parent.mkdir()
    plain.write_text(records.read_text())
    assert document("report", again)["rows"] == document("report", plain)["rows"]


def test_an_explanation_lists_every_operation_though_none_can_run():
    """Compared with the operations of a case on a CPU, all of which can."""
    asked = ("backends", "--explain", "--arch", "inter", "--scale", "tiny", "--ctx", "64", "--mode", "eager", "--json")
    (there,) = document(*asked, "--device", "cpu", "--backend", "ssd_step=reference")["cases"]
    assert {row["runs"] for row in there["operations"]} >= {"reference"}
    (missing,) = document(*asked, "--device", "cpu", "--backend", "ssd_step=mamba-ssm", "--backend",
                          "attention_decode=flash-attn")["cases"]  # fmt: skip
    assert [row["op"] for row in missing["operations"]] == [row["op"] for row in there["operations"]]
    assert {row["op"] for row in missing["operations"] if row["runs"] is None} == {"ssd_step", "attention_decode"}
    assert missing["unsupported"] in [row.get("unsupported") for row in missing["operations"]]


def test_archs_lists_every_mixer_and_every_letter():
    text = run("archs").stdout
    listed = text.partition("layers of a pattern")[2].partition("models that")[0].splitlines()
    assert [line.split()[0] for line in listed[1:-2]] == list(BLOCK_LETTERS)
    assert {name for name in MIXERS if any(line.endswith(f" {name}") for line in listed)} == set(MIXERS)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [("M-*-", "M-*-"), ("M-M-M-*-" * 4, "M-M-M-*- x4"), ("*-" + "M-" * 20, "*-M-M-M-M-M-M-M-M-M-M-M-M-… 1+20")],
)
def test_a_pattern_is_named_by_itself(pattern, name):
    rows = document("cost", "--pattern", pattern)["rows"]
    assert [(row["label"], row["pattern"]) for row in rows] == [(name, pattern)]


@pytest.mark.slow
def test_results_of_the_same_cases_are_shown_side_by_side(tmp_path):
    stored = load([Path("results/nvidia-h200/streams")], pytest.fail)[:2]
    for name, seconds in (("before", 0), ("after", 1)):
        with RecordWriter(tmp_path / name, run_id=name) as writer:
            for record in stored:
                writer.append(replace(record, run_id=name, started_at=f"2026-11-28T00:00:0{seconds}+00:00"))
    shown = run("report", tmp_path / "before", tmp_path / "after").output
    for record in stored:
        for name in ("before", "after"):
            assert f"{record.case.model.label} ({name})" in shown
    assert (tmp_path / "before" / "report" / "report.md").exists()
    rows = document("report", tmp_path / "before", tmp_path / "after")["rows"]
    assert [row["run"] for row in rows] == ["before"] * 2 + ["after"] * 2
    twice = document("report", tmp_path / "before", tmp_path / "before" / "records-before.jsonl")["rows"]
    assert [row["run_id"] for row in twice] == ["before"] * 2
    alone = run("report", tmp_path).output
    assert "2 earlier records of the same cells are not shown, only the newest of each" in " ".join(alone.split())


def test_every_ratio_that_was_asked_for_is_in_the_tables(tmp_path):
    asked = ("--arch", "inter", "--scale", "350m", "--ratio", "1:7,1:8,1:12", "--ctx", "8k")
    said = "ratios 1:7, 1:8, 1:12 are the same stack, inter 1+10 350m"
    for command in ("cost", "price", "fit", "cache"):
        shown = run(command, *asked).stdout
        assert said in " ".join(shown.split())
        assert [ratio for ratio in ("1:7", "1:8", "1:12") if f"inter 1+10 {ratio} " in shown] == ["1:7", "1:8", "1:12"]
        assert [row["ratio"] for row in document(command, *asked)["rows"]] == ["1:7", "1:8", "1:12"]
    run("cost", *asked, "-o", tmp_path)
    assert list(pd.read_csv(tmp_path / "cost.csv")["ratio"]) == ["1:7", "1:8", "1:12"]
    planned = run("decode", *asked, "--device", "cpu", "--dry-run")
    assert f"{said}, which is measured once, for all of them." in planned.stderr
    assert len(planned.stdout.splitlines()) == 1


def test_conventions_and_models_are_lists(tmp_path):
    rows = document("cost", "--arch", "inter", "--convention", "exact,paper")["rows"]
    assert [row["convention"] for row in rows] == ["exact", "paper"]
    for row in rows:
        assert row == document("cost", "--arch", "inter", "--convention", row["convention"])["rows"][0]
    run("cost", "--arch", "inter", "--convention", "exact,paper", "-o", tmp_path)
    charts = {path.name for path in tmp_path.glob("charts/*cache.png")}
    assert charts == {"cost-exact-cache.png", "cost-paper-cache.png"}
    assert [row["arch"] for row in document("cost", "--model", "all")["rows"]] == list(PRESETS)
