"""--tp and --gpus: what cost, cache, fit and price print of one GPU of several, and what they refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hybridbench.cli.main import main

NANO = ("--model", "nemotron-nano-9b-v2")


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(main, list(args))
    assert result.exit_code == code, result.output
    return result


def rows(*args: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(*args, "--json").stdout)["rows"]
    return found


def test_cache_of_one_gpu_as_an_engine_keeps_it() -> None:
    engine = ("--cache-layout", "vllm", "--state-dtype", "float32", "--ctx", "1k", "--tp", "1,2,4,8")
    found = rows("cache", *NANO, *engine)
    assert [row["tp"] for row in found] == [1, 2, 4, 8]
    assert [row["kv_cache_bytes"] / 1024 for row in found] == [16_384, 8_192, 4_096, 2_048]
    states = [row["ssm_state_bytes"] + row["conv_state_bytes"] for row in found]
    assert [round(count / 1e6, 1) for count in states] == [143.5, 71.8, 35.9, 17.9]
    text = run("cache", *NANO, *engine).stdout
    assert text.startswith("cache of a batch of 1, per GPU, preset")
    assert "   GPUs   " in text
    assert "nemotron-nano-9b-v2 4+27 at 1k, vllm, 8 GPUs:" in text


@pytest.mark.parametrize("family", ["inter", "intra", "swa"])
def test_built_caches_of_one_gpu_hold_what_the_formula_says(family: str) -> None:
    for row in rows("cache", "--arch", family, "--scale", "tiny", "--tp", "2", "--ctx", "100", "--batch", "3"):
        assert row["tensor_bytes"] == row["formula_bytes"]


@pytest.mark.parametrize("command", ["cost", "cache", "fit", "price"])
def test_one_gpu_of_one_is_the_whole_model(command: str) -> None:
    args = (command, "--arch", "inter", "--scale", "350m", "--ctx", "4k")
    plain, one = rows(*args), rows(*args, "--tp", "1")
    assert [{key: row[key] for key in plain[0]} for row in one] == plain
    assert set(one[0]) - set(plain[0]) >= {"tp"}
    assert "GPUs" not in run(*args).stdout


def test_cost_names_the_gpus_and_has_a_column_of_all_reduces() -> None:
    text = run("cost", "--arch", "inter", "--scale", "1b", "--tp", "2").stdout
    assert text.startswith("predicted cost of one sequence, per GPU: 1b, 2 GPUs, tp 2, convention exact")
    assert "all-reduce a token" in text
    half, whole = (rows("cost", "--arch", "transformer", "--tp", tp)[0] for tp in ("2", "1"))
    for field in ("params_non_embedding", "train_flops", "prefill_flops", "decode_flops", "cache_bytes"):
        assert half[field] * 2 == pytest.approx(whole[field], rel=1e-4)
    assert (half["all_reduce_bytes"], whole["all_reduce_bytes"]) == (33 * 2048 * 2, 0)


def test_layers_of_one_gpu_say_what_each_adds_up() -> None:
    (row,) = rows("cost", "--arch", "inter", "--scale", "1b", "--tp", "2", "--layers")
    layers = {layer["kind"]: layer["all_reduce_bytes"] for layer in row["layers"]}
    assert layers == {
        "mamba2": 2 * 2048 + 4,  # both GPUs norm one group together
        "mlp": 2 * 2048,
        "attention": 2 * 2048,
        "embedding, final norm and head": 2 * 2048,
    }
    assert sum(layer["all_reduce_bytes"] for layer in row["layers"]) == row["all_reduce_bytes"]


def test_cost_of_training_on_several_gpus_says_what_is_stored_and_exchanged() -> None:
    args = ("cost", "--arch", "transformer", "--scale", "1b")
    one, eight = rows(*args, "--gpus", "1,8")
    assert one["train_state_bytes"] == 4 * 2 * one["params"]
    assert eight["train_state_bytes"] == 4 * -(-2 * one["params"] // 8)
    assert eight["scattered_bytes"] == 4 * one["params"] * 7 // 8
    assert (one["gathered_bytes"], one["scattered_bytes"], eight["all_reduce_bytes"]) == (0, 0, 0)
    assert eight["train_flops"] == one["train_flops"]
    assert "train_state_bytes" not in rows(*args, "--tp", "2")[0]
    text = run(*args, "--gpus", "8", "--tp", "2").stdout
    assert "8 GPUs, tp 2" in text
    assert "stored to train" in text


def test_fit_finds_the_number_of_gpus_that_a_model_needs() -> None:
    args = ("fit", "--model", "nemotron-3-super-120b-a12b", "--ctx", "128k", "--gpu", "b200")
    found = rows(*args, "--tp", "1,2,4,8")
    assert [(row["gpus"], row["tp"], row["fits"]) for row in found] == [
        (1, 1, False),
        (2, 2, True),
        (4, 4, True),
        (8, 8, True),
    ]
    assert [row["weights_bytes"] for row in found] == sorted((row["weights_bytes"] for row in found), reverse=True)
    assert "per GPU, in GiB" in run(*args, "--tp", "4").stdout


def test_fit_of_training_divides_what_is_stored() -> None:
    args = ("fit", "--workload", "train", "--arch", "inter", "--scale", "3b", "--ctx", "8k")
    one, eight = rows(*args, "--gpus", "1,8")
    assert eight["optimizer_bytes"] == -(-one["optimizer_bytes"] // 8)
    assert (one["gathered_bytes"], one["gpus"], one["tp"]) == (0, 1, 1)
    assert eight["gathered_bytes"] > 0
    assert "gathered_bytes" not in rows(*args)[0]
    (both,) = rows(*args, "--gpus", "8", "--tp", "2")
    assert (both["gpus"], both["tp"]) == (8, 2)
    assert both["batch"] >= eight["batch"]


def test_price_says_what_the_links_carry() -> None:
    args = ("price", "--workload", "train", "--arch", "transformer", "--gpus", "8", "--batch", "1")
    (row,) = rows(*args)
    assert row["link_bytes"] == row["gathered_bytes"] + row["scattered_bytes"]
    assert row["link_s"] == pytest.approx(row["link_bytes"] / 450e9)
    (slow,) = rows(*args, "--link", "1")
    assert (slow["bound"], slow["floor_s"]) == ("link", pytest.approx(row["link_bytes"] / 1e9))
    text = run("price", "--arch", "inter", "--gpu", "l40s", "--tp", "2").stdout
    assert "no sourced rate of links for L40S" in text
    assert "bytes per GPU" in text


def test_a_prediction_from_one_gpu_says_that_it_goes_beyond() -> None:
    known = ("--efficiency", "results/nvidia-h200/efficiency", "--ctx", "4k", "--batch", "4")
    found = rows("price", "--arch", "inter", "--tp", "1,2", *known)
    assert [row["efficiency_beyond"] for row in found] == ["", "GPUs"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("cost", "--arch", "transformer", "--scale", "tiny", "--tp", "3"), ["--tp 3", "n_heads 4", "give 2 or 4"]),
        (("cache", *NANO, "--tp", "3"), ["n_heads 128 of mamba2", "give 2, 4 or 8"]),
        (("fit", "--model", "hymba-1.5b", "--batch", "1", "--tp", "2"), ["n_heads 25", "no number of GPUs"]),
        (("price", "--model", "falcon-h1-7b", "--tp", "8"), ["n_heads 12 of attention", "give 2, 4, 6 or 12"]),
        (("cost", "--tp", "0"), ["--tp '0'", "1 or more"]),
        (("cost", "--tp", "-2"), ["--tp", "'-2'"]),
        (("fit", "--tp", "two"), ["--tp", "'two'"]),
        (("cost", "--tp", "2,,4"), ["--tp '2,,4'"]),
        (("fit", "--workload", "train", "--gpus", "6", "--tp", "4"), ["--gpus 6 with --tp 4", "4 divides"]),
        (("fit", "--gpus", "8"), ["--gpus 8 with decode", "--tp 8"]),
        (("price", "--workload", "prefill", "--gpus", "2"), ["--gpus 2 with prefill"]),
        (("fit", "--ctx", "8k", "--tp", "2", "--verify", "--gpu", "h200"), ["--verify runs on one GPU"]),
        (("price", "--link", "50"), ["--link does nothing without --tp or --gpus"]),
        (("price", "--tp", "2", "--link", "0"), ["--link 0", "450"]),
        (("price", "--tp", "2", "--link", "nan"), ["--link nan"]),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, tuple) else "",
)
def test_what_gpus_cannot_share_is_one_sentence(args: tuple[str, ...], said: list[str]) -> None:
    text = run(*args, code=2).output
    for words in said:
        assert words in text
    assert text.startswith("error: ")
    assert "Traceback" not in text
