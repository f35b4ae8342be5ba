"""price, fit, crossover and cache: what they print, and that trials on a GPU find the boundary they are given."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.families import ARCHS, build_spec
from hybridbench.cli.main import main
from hybridbench.cli.stored import stored_records
from hybridbench.machine import PEAKS
from hybridbench.predict.layouts import LAYOUTS
from hybridbench.record import Record, Status
from hybridbench.store import load
from hybridbench.suite.case import Case

RESULTS = Path(__file__).parents[2] / "results" / "nvidia-h200"
(SAMPLE, *_) = load([RESULTS / "efficiency"], lambda _text: None)


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "160"}).invoke(main, list(args))
    assert result.exit_code == code, result.output
    return result


def document(*args: str) -> Any:
    return json.loads(run(*args, "--json").stdout)


def test_price_is_called_a_prediction_and_names_its_sources() -> None:
    text = run("price", "--arch", "mamba", "--gpu", "h200,rtx-4090", "--efficiency", str(RESULTS / "efficiency")).stdout
    assert text.startswith("predicted, nothing was run: decode, 1b; all in bfloat16")
    assert "mamba 1b, batch 4, 4k to 128k, on NVIDIA H200" in text
    rows = document("price", "--arch", "mamba", "--gpu", "all", "--ctx", "4k,8k", "--batch", "1,2")["rows"]
    assert len(rows) == len(PEAKS) * 4
    assert all(row["prediction"] and row["source"] and row["step_s"] is None for row in rows)


def test_a_price_says_in_what_it_lies_beyond_the_records() -> None:
    known = ("--efficiency", str(RESULTS / "efficiency"))
    rows = document("price", "--arch", "intra", "--ctx", "4k,512k", "--batch", "4,64", *known)["rows"]
    assert [row["efficiency_beyond"] for row in rows] == ["", "ctx", "batch", "ctx, batch"]
    other = document("price", "--arch", "intra", "--recipe", "hymba", "--ctx", "4k", "--batch", "4", *known)["rows"]
    assert other[0]["efficiency_beyond"] == "model"
    assert "beyond" not in run("price", "--arch", "mamba", "--ctx", "4k", "--batch", "4", *known).stdout


def test_a_price_says_between_which_records_it_lies() -> None:
    known = ("--gpu", "l40s", "--efficiency", str(RESULTS / "batch"))
    asked = ("price", "--arch", "mamba", "--ctx", "4k,5k,64k", "--batch", "4,8", *known)
    rows = document(*asked)["rows"]
    assert [row["efficiency_between"] for row in rows] == ["", "ctx", "", "batch", "ctx, batch", "batch"]
    assert [row["efficiency_beyond"] for row in rows] == ["", "", "ctx"] * 2
    (source,) = {row["efficiency_of"] for row in rows}
    assert source == "decode of mamba 100m to 3b, batch 1 to 256, 4k to 32k, on NVIDIA H200 (20 records)"
    text = run(*asked).stdout
    for words in ("among records", "measured", "between: ctx, batch", "between: batch; beyond: ctx"):
        assert words in text


def test_a_reference_that_names_its_scale_is_one_for_several() -> None:
    (first, second) = document("cost", "--arch", "mamba", "--scale", "350m,1b", "--match", "params", "--to",
                               "transformer/1b")["matches"]  # fmt: skip
    assert first.startswith("mamba 350m is")
    assert second.startswith("mamba 1b is")


def test_configs_of_one_type_are_told_apart_by_their_files(tmp_path: Path) -> None:
    body = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    body |= {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 100, "tie_word_embeddings": True}
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, layers in zip(paths, (2, 3), strict=True):
        path.write_text(json.dumps({**body, "num_hidden_layers": layers}))
    rows = document("cost", *(word for path in paths for word in ("--config", str(path))))["rows"]
    assert [row["label"] for row in rows] == [f"llama {path}" for path in paths]
    assert document("cost", "--config", str(paths[0]))["rows"][0]["label"] == "llama"


def test_a_family_without_records_has_a_floor_and_a_footnote() -> None:
    text = run("price", "--pattern", "M-*-", "--efficiency", str(RESULTS)).stdout
    assert "no record of decode of M-*- with all in bfloat16" in " ".join(text.split())


def test_prices_are_sorted_best_first_and_written_with_what_memory_holds(tmp_path: Path) -> None:
    """Memory is compared with ``cost``, which counts one sequence."""
    asked = ("--arch", "inter,mamba,transformer", "--ctx", "8k,32k", "--gpu", "h200,l4", "--batch", "3")
    known = ("--efficiency", str(RESULTS / "efficiency"))
    for sort, key, sign in (("throughput", "step_tokens_per_s", -1), ("energy", "energy_per_token_j", 1)):
        amounts = [sign * row[key] for row in document("price", *asked, *known, "--sort", sort)["rows"]]
        assert amounts == sorted(amounts)
        assert len(set(amounts)) > 6
    rows = document("price", *asked, "--sort", "cache", "-o", str(tmp_path))["rows"]
    costs = document("cost", "--arch", "inter,mamba,transformer", "--ctx", "8k,32k")["rows"]
    memory = {(row["label"], row["context"]): row for row in costs}
    for row in rows:
        of_one = memory[row["label"], row["context"]]
        assert row["weight_bytes"] == of_one["weight_bytes"]
        assert row["kv_cache_bytes"] == 3 * of_one["kv_cache_bytes"]
        assert row["state_bytes"] == 3 * (of_one["ssm_state_bytes"] + of_one["conv_state_bytes"])
    sizes = [row["kv_cache_bytes"] + row["state_bytes"] for row in rows]
    assert sizes == sorted(sizes)
    written = pd.read_csv(tmp_path / "price.csv")
    assert list(written["floor_s"]) == [row["floor_s"] for row in rows]
    assert list(written["context"]) == [row["context"] for row in rows]
    assert {path.stem for path in (tmp_path / "charts").glob("*.svg")} == {
        f"price-{gpu}-1b-{what}" for gpu in ("h200-sxm", "l4") for what in ("throughput", "energy")
    }
    assert (tmp_path / "price.md").read_text().startswith("# Predicted price")
    run("price", *asked, "-o", str(tmp_path))
    training = document("price", "--arch", "inter", "--workload", "train")["rows"][0]
    assert (training["kv_cache_bytes"], training["state_bytes"]) == (0, 0)
    page = " ".join((tmp_path / "price.md").read_text().split())
    assert re.search(r"weights \[[KMG]iB\] \| KV \[[KMG]iB\] \| state \[[KMG]iB\]", page)


def test_a_config_is_one_side_of_a_crossover(tmp_path: Path) -> None:
    """Ours as a config: a transformer as wide and deep as the family's has the family's cache everywhere."""
    spec = build_spec("transformer", "1b")
    attention = spec.blocks["*"]
    assert isinstance(attention, Attention)
    sizes = {"hidden_size": spec.d_model, "num_hidden_layers": spec.pattern.count("*"), "vocab_size": spec.vocab_size}
    sizes |= {"num_attention_heads": attention.n_heads, "num_key_value_heads": attention.n_kv_heads}
    config = tmp_path / "config.json"
    sizes |= {"intermediate_size": 8192, "tie_word_embeddings": True}
    config.write_text(json.dumps({"model_type": "llama", **sizes}))
    for pair in (("transformer", "--config", str(config)), ("--config", str(config), "transformer")):
        found = document("crossover", *pair)
        assert [model["arch"] for model in found["models"]] == ["transformer", "llama"]
        assert [stretch["less"] for stretch in found["stretches"]] == [None]
    copy = tmp_path / "again.json"
    copy.write_text(config.read_text())
    assert document("crossover", "--config", str(config), "--config", str(copy))["stretches"][0]["less"] is None


def test_each_side_of_a_crossover_counts_in_its_own_files_dtypes(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    pair = []
    for dtype in ("float32", "bfloat16"):
        path = tmp_path / f"{dtype}.json"
        path.write_text(json.dumps({"model_type": "llama", "vocab_size": 97, "torch_dtype": dtype, **sizes}))
        pair += ["--config", str(path)]
    found = document("crossover", *pair)
    assert [one["kv_dtype"] for one in found["dtypes"]] == ["float32", "bfloat16"]
    assert [stretch["less"] for stretch in found["stretches"]] == ["b"]
    title = " ".join(run("crossover", *pair).stdout.split("less in")[0].split())
    assert "all in float32" in title
    assert "all in bfloat16" in title
    assert [stretch["less"] for stretch in document("crossover", *pair, "--dtype", "float16")["stretches"]] == [None]
    timed = ("crossover", *pair, "--metric", "flops", "--measure", "--device", "cpu")
    assert "give --dtype" in " ".join(run(*timed, code=2).stderr.split())
    assert "no kernel here runs them" in " ".join(run(*timed, "--kv-dtype", "int8", code=2).stderr.split())


@pytest.fixture(scope="module")
def all_records() -> list[Record]:
    """Every committed record, read once."""
    return stored_records((RESULTS,))


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("more", ["", " --ctx 1m --batch 8 --scale 3b", " --pattern M-M-M-*-M-M-M-*-"])
def test_prices_with_an_efficiency_fit_the_terminal(
    width: int, more: str, all_records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridbench.cli.pricing.stored_records", lambda _paths: all_records)
    args = f"price --workload decode --gpu h200,rtx-5090{more} --efficiency {RESULTS}".split()
    shown = CliRunner(env={"COLUMNS": str(width)}).invoke(main, args)
    assert shown.exit_code == 0, shown.output
    assert max(map(len, shown.stdout.splitlines())) <= width


def test_fit_parts_add_up_and_larger_cards_hold_more() -> None:
    rows = document("fit", "--arch", "inter", "--workload", "train", "--gpu", "h100,h200,b200")["rows"]
    parts = ("weights", "gradients", "optimizer", "activations", "head", "cache", "workspace", "inputs")
    for row in rows:
        assert row["peak_bytes"] == sum(row[f"{part}_bytes"] for part in parts) <= row["budget_bytes"]
        assert row["solved"] == "batch"
    batches = [row["batch"] for row in rows]
    assert batches == sorted(set(batches))
    kept = document("fit", "--arch", "inter", "--workload", "train", "--checkpoint", "full")["rows"][0]
    assert kept["batch"] > batches[1]


def test_matches_are_told_in_every_command() -> None:
    wanted = ("--arch", "mamba", "--match", "decode-bytes", "--to", "transformer", "--ctx", "32k")
    for name in ("cost", "price", "fit"):
        (sentence,) = document(name, *wanted)["matches"]
        assert "off in decode-bytes, with " in sentence
        assert sentence in " ".join(run(name, *wanted).stdout.split())


def test_crossover_says_where_and_who() -> None:
    found = document("crossover", "transformer", "mamba")
    assert found["stretches"] == [
        {"first": 1, "last": 429, "less": "a"},
        {"first": 430, "last": 1 << 24, "less": "b"},
    ]
    assert found["sentence"] == "mamba has less from 430 on"
    assert "equal at every context" in run("crossover", "mamba", "mamba").stdout
    assert "never has more" in run("crossover", "swa", "inter/1:3", "--metric", "decode-floor").stdout


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_formula_and_tensors_agree_to_the_byte_at_every_length(dtype: str) -> None:
    given = ("--scale", "tiny", "--cache-layout", "all", "--dtype", dtype, "--batch", "3")
    rows = document("cache", *given, "--ctx", "1,575,576,577,4096")["rows"]
    assert len(rows) == len(ARCHS) * len(LAYOUTS) * 5
    for row in rows:
        unbuilt = row["layout"] == "transformers" and row["arch"] == "swa"
        unbuilt = unbuilt or not LAYOUTS[row["layout"]].built
        assert row["tensor_bytes"] == (None if unbuilt else row["formula_bytes"])
        assert row["paged_bytes"] == row["formula_bytes"] + row["last_pages_bytes"] + row["padding_bytes"]


# Trials.


Runner = Callable[[Sequence[Case], Any], list[Record]]


def ended(case: Case, status: Status, peak: int = 0) -> Record:
    """A record of a case that ended somehow."""
    assert SAMPLE.observed is not None
    memory = replace(SAMPLE.observed.memory, peak_allocated_bytes=peak)
    observed = replace(SAMPLE.observed, memory=memory) if status is Status.OK else None
    return replace(SAMPLE, case=case, status=status, observed=observed, message=None if observed else "it said no")


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Case], Record]], list[Case]]:
    """A machine with an H200 whose trials end as a function says; the cases it was given."""

    def install(outcome: Callable[[Case], Record]) -> list[Case]:
        given: list[Case] = []

        def sweep(cases: Sequence[Case], _writer: Any, **_: Any) -> list[Record]:
            given.extend(cases)
            return [outcome(case) for case in cases]

        monkeypatch.setattr("hybridbench.runner.run_sweep", sweep)
        monkeypatch.setattr("hybridbench.cli.planning.visible_gpus", lambda: ["0"])
        monkeypatch.setattr("hybridbench.cli.crossing.visible_gpus", lambda: ["0"])
        monkeypatch.setattr("hybridbench.cli.planning._device_name", lambda: "NVIDIA H200")
        return given

    return install


def test_verify_finds_the_batch_at_which_memory_runs_out(h200: Any, tmp_path: Path) -> None:
    truth = 11

    def outcome(case: Case) -> Record:
        batch = case.workload.batch
        return ended(case, Status.OK, peak=batch << 33) if batch <= truth else ended(case, Status.OOM)

    given = h200(outcome)
    args = ("fit", "--arch", "inter", "--workload", "train", "--verify", "-o", str(tmp_path))
    (row,) = document(*args)["rows"]
    assert (row["found"], row["found_fails"], row["found_peak_bytes"]) == (truth, truth + 1, truth << 33)
    assert all(case.sampling.probes and case.execution.mode == "eager" for case in given)
    assert len(given) <= 6
    assert f"batch {truth} ran with a peak of 88.0 GiB, {truth + 1} did not" in run(*args).stdout


def test_what_trials_found_is_shown_when_they_are_stopped(h200: Any, tmp_path: Path) -> None:
    def outcome(case: Case) -> Record:
        batch = case.workload.batch
        if batch == 11:
            raise KeyboardInterrupt
        return ended(case, Status.OK, peak=batch << 33)

    h200(outcome)
    args = ("fit", "--arch", "mamba,inter", "--workload", "train", "--ctx", "8k", "--verify", "-o", str(tmp_path))
    stopped = run(*args, code=130)
    assert "stopped" in stopped.stderr
    assert "10 or more" in stopped.stdout
    assert "in 1 trial batch 10 ran with a peak of 80.0 GiB, and none failed, then they were stopped" in stopped.stdout
    first, second = json.loads(run(*args, "--json", code=130).stdout)["rows"]
    assert (first["found"], first["found_is_final"], second["found"]) == (10, False, None)


def test_verify_of_a_context_is_within_a_hundredth(h200: Any, tmp_path: Path) -> None:
    truth = 1_050_000
    given = h200(lambda case: ended(case, Status.OK if case.workload.context <= truth else Status.OOM))
    (row,) = document("fit", "--arch", "transformer", "--batch", "4", "--verify", "-o", str(tmp_path))["rows"]
    assert row["found"] <= truth < row["found_fails"] <= row["found"] + 0.012 * truth
    assert {case.execution.mode for case in given} == {"graph"}


@pytest.mark.parametrize("checkpoint", ["none", "full"])
def test_trials_keep_the_activations_that_were_asked_for(h200: Any, tmp_path: Path, checkpoint: str) -> None:
    given = h200(lambda case: ended(case, Status.OK if case.workload.batch <= 11 else Status.OOM))
    args = (
        "fit",
        "--arch",
        "inter",
        "--workload",
        "train",
        "--checkpoint",
        checkpoint,
        "--verify",
        "-o",
        str(tmp_path),
    )
    assert document(*args)["rows"][0]["found"] == 11
    assert {case.execution.checkpoint for case in given} == {checkpoint}


def test_a_trial_that_breaks_otherwise_ends_the_search(h200: Any, tmp_path: Path) -> None:
    h200(lambda case: ended(case, Status.UNSUPPORTED))
    failed = run("fit", "--arch", "mamba", "--verify", "-o", str(tmp_path), code=1)
    assert "ended as unsupported" in failed.stderr
    assert "it said no" in failed.stderr


def test_verify_only_on_the_gpu_that_is_here(h200: Any) -> None:
    h200(lambda case: ended(case, Status.OK))
    assert "the GPU here is H200 SXM" in run("fit", "--verify", "--gpu", "b200", code=2).stderr


def test_verify_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridbench.cli.planning.visible_gpus", list)
    assert "no NVIDIA GPU" in run("fit", "--verify", code=2).stderr


def test_measured_crossover_is_bracketed(h200: Any, tmp_path: Path) -> None:
    def outcome(case: Case) -> Record:
        slow = case.model.arch == "transformer"
        ns = 1_000 * case.workload.context if slow else 10_000_000
        record = ended(case, Status.OK)
        assert record.observed is not None
        return replace(record, observed=replace(record.observed, samples_ns=[ns - 5, ns, ns + 5] * 5))

    given = h200(outcome)
    args = ("crossover", "transformer", "mamba", "--metric", "decode-floor", "--measure", "-o", str(tmp_path))
    low, high = document(*args)["measured"]["interval"]
    assert low < 10_000 < high < 1.1 * low
    assert {case.workload.kind for case in given} == {"decode"}
    assert "the faster one changes between" in run(*args).stdout


def test_a_stopped_search_still_shows_what_was_predicted(h200: Any, tmp_path: Path) -> None:
    def outcome(_case: Case) -> Record:
        raise KeyboardInterrupt

    h200(outcome)
    args = ("crossover", "transformer", "mamba", "--metric", "decode-floor", "--measure", "-o", str(tmp_path))
    stopped = run(*args, code=130)
    assert "predicted decode-floor of transformer and mamba" in stopped.stdout
    assert "stopped" in stopped.stderr


@pytest.mark.parametrize("command", ["cost", "price", "fit", "cache"])
def test_rows_say_what_the_file_leaves_out_and_their_dtypes(command: str) -> None:
    config = Path(__file__).parents[1] / "cases" / "configs" / "minimax_cache.json"
    extra = ("--workload", "decode") if command in ("price", "fit") else ()
    (row,) = document(command, "--config", str(config), "--ctx", "64", "--dtype", "float32", *extra)["rows"]
    (note,) = row["notes"]
    assert note.startswith("not in its file, so as its class in transformers has it: ")
    assert "head_dim 4" in note
    assert {row["kv_dtype"], row["state_dtype"], row["conv_dtype"]} == {"float32"}
    (family,) = document(command, "--arch", "mamba", "--ctx", "64", *extra)["rows"]
    assert "notes" not in family
