"""A record reads back as it was written, and a line that was cut, edited, foreign or newer is refused in a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import pytest

from hybridbench.arch.families import build_spec
from hybridbench.errors import BadResults
from hybridbench.plain import from_plain, to_plain
from hybridbench.record import (
    ADVICE,
    SCHEMA,
    BackendUse,
    CacheObserved,
    Caveat,
    Ceilings,
    Energy,
    Environment,
    GpuState,
    Memory,
    Observed,
    OperatorCount,
    Part,
    Record,
    Status,
)
from hybridbench.record import record as record_module
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import Workload

CASE = Case(build_spec("intra", "tiny"), Workload("decode", 4096, 2), Execution("cuda", "bfloat16", "graph", "float32"))
ENVIRONMENT = Environment(
    *("NVIDIA H200", "cuda", 150_000_000_000, "a CPU", 16, None, "570.1", "13.0", "3.12.3", "Linux"),
    packages={"torch": "2.11.0"},
    hybridbench="0.1.0",
    git_commit=None,
)
GPU = GpuState(1.98e9, 2.6e9, 512.5, 41.0, 0, [], None)
OBSERVED = Observed(
    samples_ns=[1_000_003, 1_000_001],
    steps_per_sample=1,
    warmup_steps=2,
    warmup_ns=5,
    timer="cuda events",
    parameters=7,
    memory=Memory(1, None, None, 2, 3, None),
    cache=CacheObserved(4097, 1, 2, 3),
    counts=[OperatorCount("flop_counter", 12, {"aten.x": 3}), OperatorCount("fvcore", None, {}, "it broke")],
    backends=[BackendUse("ssd", "auto", "triton", "triton", "3.6", 1e-3, None)],
    kernels=["a", "b"],
    gpu_before=GPU,
    gpu_after=None,
    energy=Energy(12.5, 1.0, 100, None),
    build_ns=1,
    prepare_ns=2,
    ceilings=Ceilings("bfloat16", 789e12, 4.1e12, 3.9e12, 690e12),
    parts=[Part(None, [3, 4]), Part(4096, [5])],
)
MEASURED = Record(CASE, Status.OK, "run", "2026-11-21T18:00:00Z", ENVIRONMENT, OBSERVED, caveats=[Caveat.SHARED_GPU])
FAILED = Record(CASE, Status.OOM, "run", "2026-11-21T18:00:00Z", ENVIRONMENT, message="full", traceback="at x")


@pytest.mark.parametrize("record", [MEASURED, FAILED], ids=["ok", "oom"])
def test_a_record_reads_back_as_written(record: Record) -> None:
    line = record.to_json()
    again = Record.from_json(line)
    assert again == record
    assert isinstance(again.status, Status)
    assert isinstance(again.environment, Environment)
    assert all(isinstance(caveat, Caveat) for caveat in again.caveats)
    assert again.to_json() == line


def test_a_line_is_one_line_with_the_key_in_front() -> None:
    line = replace(FAILED, traceback="two\nlines\u2028").to_json()
    assert line.startswith('{"key":"' + CASE.key + '",')
    assert len(line.splitlines()) == 1


def test_whole_numbers_are_read_where_a_float_is_due() -> None:
    body = json.loads(MEASURED.to_json())
    body["observed"]["energy"]["energy_j"] = 12
    energy = Record.from_json(json.dumps(body)).observed
    assert energy is not None
    assert energy.energy is not None
    assert isinstance(energy.energy.energy_j, float)


def test_the_history_tells_of_every_schema() -> None:
    told = re.findall(r"^    (\d+)   \S", record_module.__doc__ or "", re.MULTILINE)
    assert [int(number) for number in told] == list(range(1, SCHEMA + 1))


def test_an_older_record_has_no_sustained_rate() -> None:
    body = json.loads(MEASURED.to_json())
    body["schema"] = 3
    del body["observed"]["ceilings"]["sustained_matmul_flops_per_s"]
    older = Record.from_json(json.dumps(body))
    assert older.observed is not None
    assert older.observed.ceilings == Ceilings("bfloat16", 789e12, 4.1e12, 3.9e12, None)
    assert replace(older, schema=SCHEMA) == replace(MEASURED, observed=older.observed)


def refuse(line: str) -> str:
    with pytest.raises(BadResults) as caught:
        Record.from_json(line)
    text = str(caught.value)
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize("schema", [SCHEMA + 1, 99])
def test_a_newer_schema(schema: int) -> None:
    body = json.loads(MEASURED.to_json())
    body["schema"] = schema
    text = refuse(json.dumps(body))
    assert f"the record has schema {schema}, this hybridbench reads up to {SCHEMA}: upgrade hybridbench." in text


@pytest.mark.parametrize("schema", [0, -1, "1", "4", None, True, 1.0], ids=repr)
def test_a_schema_that_is_none(schema: object) -> None:
    body = json.loads(MEASURED.to_json())
    body["schema"] = schema
    text = refuse(json.dumps(body))
    expected = f"where a whole number from 1 to {SCHEMA} is expected: it was edited."
    assert text == f"the record has schema {schema!r}, {expected}"


@pytest.mark.parametrize("foreign", ["{}", "[]", "3", "null", '"schema case"', '{"schema":1}', '{"case":{}}'])
def test_foreign_json(foreign: str) -> None:
    assert refuse(foreign) == "the line is JSON but not a hybridbench record: it has no 'schema' and 'case'."


def test_a_line_cut_anywhere() -> None:
    line = FAILED.to_json()
    for end in range(0, len(line), 37):
        text = refuse(line[:end])
        assert "not a JSON line (" in text
        assert "at column" in text


def at(*path: str | int) -> Callable[[dict[str, Any], object], None]:
    """Sets one place of a record's JSON."""

    def edit(body: Any, value: object) -> None:
        for part in path[:-1]:
            body = body[part]
        body[path[-1]] = value

    return edit


SIZED = {
    "what": "prefill",
    "against": "each row alone",
    "batch": 2,
    "context": 64,
    "compared": 1,
    "worst": "logits",
} | {"error": 0.001}
EDITS = {
    "status": (at("status"), "fine", "'fine' is not a valid Status"),
    "status-number": (at("status"), 3, "3"),
    "caveat": (at("caveats"), ["rainy"], "'rainy' is not a valid Caveat"),
    "caveats-text": (at("caveats"), "shared_gpu", "expected a list, not 'shared_gpu'"),
    "run-id": (at("run_id"), 7, "expected str, not 7"),
    "samples-text": (at("observed", "samples_ns"), [1, "2"], "expected int, not '2'"),
    "samples-float": (at("observed", "samples_ns"), [1.5], "expected int, not 1.5"),
    "samples-bool": (at("observed", "samples_ns"), [True], "expected int, not True"),
    "samples-none": (at("observed", "samples_ns"), None, "expected a list, not None"),
    "observed-list": (at("observed"), [], "expected the fields of Observed, not []"),
    "environment-null": (at("environment"), None, "expected the fields of Environment, not None"),
    "environment-text": (at("environment"), "H200", "expected the fields of Environment, not 'H200'"),
    "packages-list": (at("environment", "packages"), [], "expected a table, not []"),
    "packages-number": (at("environment", "packages"), {"torch": 2.11}, "expected str, not 2.11"),
    "unknown-field": (at("mood"), "good", "unknown field 'mood'"),
    "unknown-inside": (at("observed", "memory", "swap_bytes"), 1, "unknown field 'swap_bytes'"),
    "case-list": (at("case"), [], ""),
    "case-text": (at("case"), "decode", ""),
    "blocks-list": (at("case", "model", "blocks"), [], ""),
    "block-null": (at("case", "model", "blocks", "M"), None, ""),
    "pattern": (at("case", "model", "pattern"), "M-Q-", "'Q' is no layer"),
    "pattern-number": (at("case", "model", "pattern"), 5, ""),
    "heads": (at("case", "model", "blocks", "M", "head_dim"), 7, "does not divide into SSM heads of 7"),
    "heads-zero": (at("case", "model", "blocks", "M", "head_dim"), 0, "head_dim is 0"),
    "context": (at("case", "workload", "context"), "4096", "expected int, not '4096'"),
    "workload-unknown": (at("case", "workload", "depth"), 1, "depth"),
    "workload-kind": (at("case", "workload", "kind"), "generat", "unknown workload 'generat'"),
    "dtype": (at("case", "execution", "dtype"), 16, "expected str, not 16"),
    "backends": (at("case", "execution", "backends"), ["auto"], "expected a table, not ['auto']"),
    "no time": (at("observed", "samples_ns"), [0, 5], "not above 0"),
    "no samples": (lambda body, _: body["observed"].update(samples_ns=[], parts=[]), None, "samples_ns is empty"),
    "bound of nothing": (at("observed", "sized"), [{**SIZED, "bound": 0.0}], "observed.sized[0].bound: 0.0"),
    "window of no time": (at("observed", "energy", "window_s"), 1e-320, "observed.energy.window_s: 1e-320"),
    "ratios text": (at("case", "ratios"), "1:7", "ratios: expected a list of texts, not '1:7'"),
    "ratios number": (at("case", "ratios"), [1], "ratios: expected a list of texts, not [1]"),
    "sampling": (at("case", "sampling", "max_time_s"), "5", "expected float, not '5'"),
}


@pytest.mark.parametrize(("edit", "value", "said"), EDITS.values(), ids=EDITS.keys())
def test_an_edited_field(edit: Callable[[dict[str, Any], object], None], value: object, said: str) -> None:
    body = json.loads(MEASURED.to_json())
    edit(body, value)
    text = refuse(json.dumps(body))
    assert text.startswith("the record lacks or misstates a field (")
    assert "it was cut or edited" in text
    assert said in text


@pytest.mark.parametrize("name", ["status", "run_id", "started_at", "environment"])
def test_a_missing_field(name: str) -> None:
    body = json.loads(MEASURED.to_json())
    del body[name]
    assert name in refuse(json.dumps(body))


def test_a_missing_field_inside() -> None:
    for name in ("samples_ns", "memory", "timer"):
        body = json.loads(MEASURED.to_json())
        del body["observed"][name]
        assert name in refuse(json.dumps(body))


def test_fields_with_a_default_may_be_missing() -> None:
    body = json.loads(FAILED.to_json())
    for name in ("key", "observed", "caveats"):
        del body[name]
    assert Record.from_json(json.dumps(body)) == FAILED


def test_unknown_is_none_never_nan() -> None:
    record = replace(MEASURED, observed=replace(OBSERVED, loss=float("nan")))
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.to_json()


def test_every_caveat_comes_with_advice() -> None:
    assert set(ADVICE) == set(Caveat)


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Leaf:
    size: int
    share: float | None = None


@dataclass(frozen=True)
class Tree:
    leaves: list[Leaf]
    colour: Colour
    names: dict[str, int]


def test_plain_and_back() -> None:
    tree = Tree([Leaf(1), Leaf(2, 0.5)], Colour.RED, {"a": 1})
    plain = {"leaves": [{"size": 1, "share": None}, {"size": 2, "share": 0.5}], "colour": "red", "names": {"a": 1}}
    assert to_plain(tree) == plain
    assert from_plain(Tree, plain) == tree


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        ({"leaves": [], "colour": "red"}, TypeError, "names"),
        ({"leaves": [], "colour": "red", "names": {}, "x": 1}, ValueError, "unknown field 'x'"),
        ({"leaves": {}, "colour": "red", "names": {}}, ValueError, "expected a list, not {}"),
        ({"leaves": [1], "colour": "red", "names": {}}, ValueError, "expected the fields of Leaf, not 1"),
        ({"leaves": [{"size": 1.0}], "colour": "red", "names": {}}, ValueError, "expected int, not 1.0"),
        ({"leaves": [{"size": 1, "share": True}], "colour": "red", "names": {}}, ValueError, "expected float"),
        ({"leaves": [], "colour": "green", "names": {}}, ValueError, "'green' is not a valid Colour"),
        ({"leaves": [], "colour": "red", "names": {"a": "b"}}, ValueError, "expected int, not 'b'"),
        ({"leaves": [], "colour": "red", "names": {1: 1}}, ValueError, "expected str, not 1"),
    ],
    ids=["missing", "unknown", "list", "leaf", "int", "bool", "enum", "value", "name"],
)
def test_plain_of_the_wrong_type(body: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        from_plain(Tree, body)
