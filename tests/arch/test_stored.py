"""Dtypes that a model's file names are counted and printed, and an option overrides each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hybridbench.arch import model
from hybridbench.arch.imports.huggingface import model_from_config, read_config
from hybridbench.arch.presets import PRESETS
from hybridbench.arch.stored import Dtypes, StoredDtypes, check_runs
from hybridbench.cli.main import main
from hybridbench.errors import BadInput

CONFIGS = Path(__file__).parents[1] / "cases/configs"
NEMOTRON = CONFIGS / "min-5-ssm-cache-dtype.json"
STATE = 2 * 64 * 128
"""Elements of its one state: heads, their channels, states of each."""


def document(*words: str) -> Any:
    done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_file_names_its_states_dtype_under_either_name() -> None:
    body = json.loads(NEMOTRON.read_text())
    del body["mamba_ssm_cache_dtype"]
    for name in ("mamba_ssm_cache_dtype", "mamba_ssm_dtype"):
        assert model_from_config({**body, name: "float32"}).stored == StoredDtypes(state="float32")
    for nothing in (None, "auto"):
        assert model_from_config({**body, "mamba_ssm_cache_dtype": nothing}).stored == StoredDtypes()
    for name in ("torch_dtype", "dtype"):
        assert model_from_config({**body, name: "float16"}).stored == StoredDtypes(dtype="float16")


def test_dtypes_that_are_unknown_or_differ_are_refused() -> None:
    body = json.loads(NEMOTRON.read_text())
    with pytest.raises(BadInput, match="dtype in mamba_ssm_cache_dtype 'float8'"):
        model_from_config({**body, "mamba_ssm_cache_dtype": "float8"})
    with pytest.raises(BadInput, match="dtype is 5: give the name"):
        model_from_config({**body, "dtype": 5})
    with pytest.raises(BadInput, match="dtype float32 and torch_dtype bfloat16 differ"):
        model_from_config({**body, "dtype": "float32", "torch_dtype": "bfloat16"})


def test_how_a_model_is_stored_is_no_part_of_what_it_is() -> None:
    body = json.loads(NEMOTRON.read_text())
    one, other = (model_from_config({**body, "dtype": dtype}) for dtype in ("float32", "bfloat16"))
    assert one == other
    assert one.to_dict() == other.to_dict()


@pytest.mark.parametrize(
    ("options", "state", "weights"),
    [
        ([], 4, 2),
        (["--state-dtype", "bfloat16"], 2, 2),
        (["--dtype", "float32"], 4, 4),
        (["--dtype", "float64", "--state-dtype", "float16"], 2, 8),
    ],
)
def test_commands_count_in_the_files_dtypes_unless_told(options: list[str], state: int, weights: int) -> None:
    given = ("--config", str(NEMOTRON), *options)
    (cost,) = document("cost", *given)["rows"]
    params = model.params(read_config(NEMOTRON))
    fp32 = 3 * 2  # A, D and the step's bias of each head
    assert cost["ssm_state_bytes"] == STATE * state
    assert cost["weight_bytes"] == (params - fp32) * weights + fp32 * 4
    (cache,) = document("cache", *given)["rows"]
    assert cache["ssm_state_bytes"] == STATE * state
    (fit,) = document("fit", *given, "--workload", "decode", "--batch", "1", "--ctx", "8")["rows"]
    assert fit["cache_bytes"] == cost["cache_bytes"]


@pytest.mark.parametrize(("state", "batch"), [("bfloat16", 381), ("float32", 258)])
def test_a_files_wider_states_leave_room_for_fewer_sequences(state: str, batch: int, tmp_path: Path) -> None:
    """Nemotron-3-Nano-30B-A3B at 4k on an H100: its file says float32."""
    config = PRESETS["nemotron-3-nano-30b-a3b"].config
    assert config is not None
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**config, "mamba_ssm_cache_dtype": state}))
    (fit,) = document("fit", "--config", str(file), "--gpu", "h100", "--ctx", "4k")["rows"]
    assert fit["batch"] == batch


@pytest.mark.parametrize("command", ["cost", "cache", "fit", "price"])
def test_every_table_of_bytes_says_its_dtypes_above_itself(command: str) -> None:
    out = CliRunner().invoke(main, [command, "--config", str(NEMOTRON), "--ctx", "8"]).stdout
    above = " ".join(out.split("model")[0].split())
    assert "KV cache bfloat16, SSM state float32, conv state bfloat16" in above
    assert command == "cache" or "weights bfloat16" in above
    out = CliRunner().invoke(main, [command, "--arch", "mamba", "--scale", "tiny", "--ctx", "8"]).stdout
    said = "caches bfloat16" if command == "cache" else "all in bfloat16"
    assert said in " ".join(out.split("model")[0].split())


def test_models_of_several_dtypes_are_told_apart() -> None:
    given = ("--config", str(NEMOTRON), "--model", "mamba2-130m", "--ctx", "8")
    above = " ".join(CliRunner().invoke(main, ["cost", *given]).stdout.split("params")[0].split())
    assert "mamba2-130m preset: all in bfloat16; nemotron_h config: weights bfloat16" in above


def test_kernels_here_run_few_quantised_keys() -> None:
    check_runs(Dtypes.of("bfloat16", state="float32"))
    check_runs(Dtypes.of("bfloat16", kv="fp8"))
    with pytest.raises(BadInput, match=r"keys and values in int8 .* --kv-dtype bfloat16"):
        check_runs(Dtypes.of("bfloat16", kv="int8"))
    with pytest.raises(BadInput, match=r"state in bfloat16 beside weights in float32"):
        check_runs(Dtypes.of("float32", state="bfloat16"))


@pytest.mark.parametrize("command", ["decode", "prefill", "train-throughput", "generate", "cost", "fit"])
def test_a_quantised_dtype_is_refused_in_a_sentence_that_says_what_predicts_it(command: str) -> None:
    done = CliRunner().invoke(main, [command, "--arch", "mamba", "--scale", "tiny", "--dtype", "fp8"])
    assert done.exit_code == 2
    said = " ".join(done.stderr.split())
    assert said.startswith("error: dtype 'fp8': no kernel here computes in it; give")
    assert "--weight-dtype" in said


def test_a_layouts_own_dtype_is_the_one_that_is_printed() -> None:
    """Transformers keeps lightning attention's state in the model's dtype, and Mamba-2's in float32."""
    for pattern, state in (("L-", "bfloat16"), ("M-", "float32")):
        (row,) = document("cache", "--pattern", pattern, "--scale", "tiny", "--cache-layout", "transformers")["rows"]
        assert row["state_dtype"] == state
        assert row["tensor_bytes"] == row["formula_bytes"]


def test_keys_and_values_in_fp8_take_half() -> None:
    (whole,), (half,) = (
        document("cache", "--arch", "transformer", "--ctx", "4k", *more)["rows"] for more in ((), ("--kv-dtype", "fp8"))
    )
    scales = 16 * 2 * 8 * 4  # float32, of keys and of values of 8 heads in 16 layers
    assert whole["kv_cache_bytes"] == 2 * (half["kv_cache_bytes"] - scales)
    assert half["tensor_bytes"] == half["formula_bytes"]
