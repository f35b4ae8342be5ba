"""Cases with weights, keys and values in codes: which there are, what they are called, what is predicted of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from hybridbench.arch import model as arch
from hybridbench.arch.families import build_spec
from hybridbench.arch.stored import StorageOptions, check_runs
from hybridbench.cli.main import main
from hybridbench.errors import BadInput
from hybridbench.predict.memory import decode_memory
from hybridbench.predict.work import step_bytes
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.spread import check_spreads
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.suite.workloads import DECODE, Workload

ASKED = {"weight_dtype": "fp8", "kv_dtype": "fp8"}
SPEC = build_spec("inter", "1b")


def case_of(**asked: str) -> Case:
    (case,) = cases(Sweep(DECODE, arch="inter", ctx="32k", batch="4", **asked), has_gpu=True)
    return case


def test_a_case_says_what_it_stores_and_keeps_its_key_where_that_is_nothing_special() -> None:
    plain, coded = case_of(), case_of(**ASKED)
    assert case_of(weight_dtype="bfloat16", kv_dtype="bfloat16").key == plain.key != coded.key
    assert not {"weight_dtype", "kv_dtype"} & set(plain.to_dict()["execution"])
    assert Case.from_dict(json.loads(json.dumps(coded.to_dict()))) == coded
    assert coded.label == f"{plain.label}, weights fp8, KV cache fp8"
    assert coded.execution.dtypes.to_dict()["weight_dtype"] == "fp8"


def test_a_step_must_move_a_byte_for_each_weight_and_key_and_the_scales() -> None:
    """By hand, from the plain step's bytes: matrices halve, and so do keys and values; every row has 4 bytes more."""
    plain, coded = case_of(), case_of(**ASKED)
    work, attention = plain.workload, SPEC.blocks["*"]
    matrices = [matrix for block in SPEC.placed for matrix in block.matrices()]
    halved = sum(matrix.size - 4 * matrix.rows for matrix in matrices)
    halved += SPEC.vocab_size * (SPEC.d_model - 4) + work.batch * (SPEC.d_model - 4)  # the head, and rows of tokens
    uses = SPEC.layers.count("*")
    tokens = work.context + 1
    halved += work.batch * uses * (attention.n_kv_heads * 128 * tokens - 2 * 4 * attention.n_kv_heads)
    assert step_bytes(SPEC, work, plain.execution.storage) - step_bytes(SPEC, work, coded.execution.storage) == halved


def test_fp8_weights_of_a_1b_model_make_the_floor_of_one_sequence_1_9_times_lower() -> None:
    alone = Workload(DECODE, 1024, 1)
    plain, coded = (step_bytes(SPEC, alone, one.execution.storage) for one in (case_of(), case_of(**ASKED)))
    assert 1.9 < plain / coded < 2


def test_memory_holds_codes_and_modules_make_the_largest_matrix_whole() -> None:
    storage = case_of(**ASKED).execution.storage
    fused, modules = (decode_memory(SPEC, 1024, 4, storage, graph) for graph in (True, False))
    assert fused.weights == arch.weight_bytes(SPEC, storage)
    assert fused.activations == 0
    assert modules.activations == SPEC.vocab_size * SPEC.d_model * 2 + (4 << 24)
    only_keys = decode_memory(SPEC, 1 << 20, 4, case_of(kv_dtype="fp8").execution.storage, graph=False)
    a_sequence = SPEC.blocks["*"].n_kv_heads * 128 * ((1 << 20) + 1)
    assert 0 <= only_keys.activations - 2 * 2 * a_sequence < 1000, "codes, and their scales counted with them"
    assert decode_memory(SPEC, 1024, 4, case_of().execution.storage, graph=False).activations == 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"weight_dtype": "fp7"}, r"weight dtype 'fp7'.*fp8"),
        ({"kv_dtype": "fp7"}, r"dtype 'fp7'.*fp8"),
        ({"weight_dtype": "gptq"}, r"weight_dtype gptq .* give fp8 or int8 or bfloat16, and predict"),
        ({"weight_dtype": "float32"}, r"weight_dtype float32 beside bfloat16"),
        ({"kv_dtype": "int8"}, r"kv_dtype int8 .* give fp8 or bfloat16"),
        ({**ASKED, "mode": "compile"}, r"in mode compile: only eager and graph"),
        ({**ASKED, "as_published": True}, r"in mode published"),
        ({**ASKED, "tp": "2"}, r"tp 2 with quantised weights"),
        ({**ASKED, "workload": "generate"}, r"weight_dtype fp8 for generate: only decode"),
        ({**ASKED, "workload": "prefill"}, r"for prefill: only decode"),
        ({**ASKED, "workload": "train"}, r"for train: only decode"),
    ],
)
def test_what_nothing_runs_is_refused_with_the_way_out(asked: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        cases(Sweep(**{"workload": DECODE, "arch": "inter", **asked}), has_gpu=True)  # type: ignore[arg-type]


def test_a_stored_case_on_several_ranks_is_refused() -> None:
    coded = case_of(**ASKED)
    with pytest.raises(BadInput, match="on one GPU only"):
        check_spreads(replace(coded, execution=replace(coded.execution, tp=2)))


def test_a_search_measures_what_runs() -> None:
    plain = StorageOptions(dtype="bfloat16")
    for weights, kv in (("fp8", "fp8"), ("int8", None)):
        check_runs(replace(plain, weights=weights, kv=kv).dtypes(SPEC.stored))
    with pytest.raises(BadInput, match="weights in fp8-block: no kernel here runs them"):
        check_runs(replace(plain, weights="fp8-block").dtypes(SPEC.stored))
    with pytest.raises(BadInput, match="keys and values in int8"):
        check_runs(replace(plain, kv="int8").dtypes(SPEC.stored))


def test_the_command_offers_what_runs_and_says_it_of_a_case() -> None:
    stored = ["--weight-dtype", "int8", "--kv-dtype", "fp8"]
    given = ["decode", "--arch", "inter", "--device", "cpu", *stored, "--dry-run"]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    assert "weights int8, KV cache fp8" in done.stdout
    refused = CliRunner().invoke(main, ["generate", "--weight-dtype", "fp8"])
    assert refused.exit_code == 2, "only decode has the option"


def test_a_cache_in_fp8_is_built_with_its_scales() -> None:
    given = [
        "cache",
        "--arch",
        "intra",
        "--scale",
        "tiny",
        "--ctx",
        "4k",
        "--batch",
        "3",
        "--kv-dtype",
        "fp8",
        "--json",
    ]
    (row,) = json.loads(CliRunner().invoke(main, given).stdout)["rows"]
    assert row["tensor_bytes"] == row["formula_bytes"]
    (engine,) = json.loads(CliRunner().invoke(main, [*given, "--cache-layout", "vllm"]).stdout)["rows"]
    assert engine["tensor_bytes"] is None


def test_an_execution_of_an_older_record_stores_everything_plainly() -> None:
    assert Execution("cuda", "bfloat16", "graph").quantises is False
    assert not case_of().execution.storage.kv_codes
