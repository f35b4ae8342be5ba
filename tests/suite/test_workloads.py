"""A workload is one row: its words and passes say what it costs, holds and runs, and its builder what is timed."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from click.testing import CliRunner

from hybridbench.arch.block import Storage
from hybridbench.arch.families import build_spec
from hybridbench.cli.main import main
from hybridbench.errors import BadInput
from hybridbench.metrics import METRICS
from hybridbench.model.language import LanguageModel
from hybridbench.predict.work import phases, step_bytes, step_flops
from hybridbench.session import Proofs, open_session
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.ops import OPS_OF_MODEL, block_ops, block_uses, model_ops_in, ops_of
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.suite.workloads import DECODE, GENERATE, PASSES, TRAIN, WORKLOADS, Workload, WorkloadRow, one_pass
from hybridbench.units import parse_range
from hybridbench.workload import PREPARE
from hybridbench.workload.at_size import Checker
from hybridbench.workload.decode import prepare_decode
from hybridbench.workload.prepared import Prepared

SPEC = build_spec("inter", "tiny")
ROWS = list(WORKLOADS.values())


def work_of(row: WorkloadRow) -> Workload:
    return Workload(row.name, context=96, batch=3, prompt=64 if row.prompted else 0)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_whole(row: WorkloadRow) -> None:
    assert WORKLOADS[row.name] is row
    assert set(row.passes) <= set(PASSES)
    assert row.utilisation in METRICS
    assert parse_range(row.ctx_on_gpu, "context")
    assert parse_range(row.ctx_on_cpu, "context")
    assert row.name in PREPARE
    assert row.over_sequences or row.decodes
    assert (row.name in one_pass()) == (len(row.passes) == 1)
    shown = CliRunner().invoke(main, [row.command, "--help"]).stdout
    assert " ".join(row.about.split()) in " ".join(shown.split())
    assert ("--checkpoint" in shown) == row.trains
    assert ("--as-published" in shown) == row.decodes
    assert ("--depths" in shown) == row.prompted


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_passes_follow_one_another(row: WorkloadRow) -> None:
    passes = work_of(row).passes
    assert all(one.tokens > 0 for one in passes)
    assert all(one.stop == other.start for one, other in itertools.pairwise(passes))
    assert tuple(one.kind for one in passes) == row.passes
    assert [first.passes for first in work_of(row).first_steps if first.kind != DECODE] == [
        (one,) for one in passes if one.kind != DECODE
    ]


def test_tokens_and_caches_by_hand() -> None:
    found = {row.name: (work_of(row).tokens, work_of(row).cache_tokens) for row in ROWS}
    by_hand = {"train": (288, 0), "prefill": (288, 96), "decode": (3, 97), "generate": (96, 96)}
    assert {name: found[name] for name in by_hand} == by_hand


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_operations_are_those_of_its_passes(row: WorkloadRow) -> None:
    """A workload runs what its passes run, and a pass over a sequence nothing of a decode step."""
    assert set(ops_of(SPEC, row.name)) == {op for one in row.passes for op in ops_of(SPEC, one)}
    assert set(model_ops_in(row)) <= set(OPS_OF_MODEL)
    for block, borrows in block_uses(SPEC):
        sequence, step = block_ops(block, borrows)
        assert set(sequence) <= set(ops_of(SPEC, row.name)) or not row.over_sequences
        assert set(step) <= set(ops_of(SPEC, row.name)) or not row.decodes


@pytest.mark.parametrize("kind", ["generat", "", "Train"])
def test_an_unknown_kind_is_an_error_that_names_the_known_ones(kind: str) -> None:
    case = Case(SPEC, Workload(TRAIN, 96, 1), Execution("cpu", "float32", "eager")).to_dict()
    case["workload"]["kind"] = kind
    for made in (
        lambda: Workload(kind, 96, 3),
        lambda: Case.from_dict(case),
        lambda: ops_of(SPEC, kind),
        lambda: cases(Sweep(kind), has_gpu=False),
    ):
        with pytest.raises(BadInput, match=f"unknown workload '{kind}'.*Known: {', '.join(WORKLOADS)}"):
            made()


def test_a_new_workload_is_a_row_and_a_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens a step: it is priced as two decode steps, runs, and unset it is unknown again."""
    pair = WorkloadRow(
        "pair",
        word="pairs",
        command="pairs",
        about="Two tokens a step.",
        passes=(DECODE,),
        edges=lambda work: (work.context, work.context + 2),
        ctx_on_gpu="4k",
        ctx_on_cpu="64",
        utilisation="mbu_frac",
    )

    def prepare_pair(case: Case, model: LanguageModel, checker: Checker | None = None) -> Prepared:
        return prepare_decode(case, model, checker)

    with monkeypatch.context() as known:
        known.setitem(WORKLOADS, "pair", pair)
        known.setitem(PREPARE, "pair", prepare_pair)
        (case,) = cases(Sweep("pair", arch="inter"), has_gpu=False)
        single = [Workload(DECODE, context, 1) for context in (64, 65)]
        assert step_flops(SPEC, case.workload) == sum(step_flops(SPEC, one) for one in single)
        assert step_bytes(SPEC, case.workload, Storage()) == sum(step_bytes(SPEC, one, Storage()) for one in single)
        assert len(phases(SPEC, case.workload, Storage())) == 1
        assert (case.workload.tokens, case.workload.cache_tokens) == (2, 66)
        session = open_session(case, torch.device("cpu"), Proofs())
        session.work.step()
        assert session.sized
        assert all(math.isfinite(check.error) for check in session.sized)
    with pytest.raises(BadInput, match="unknown workload 'pair'"):
        Workload("pair", 64, 1)


def test_steps_that_metrics_count_are_of_one_pass_each() -> None:
    work = work_of(WORKLOADS[GENERATE])
    assert work.first_steps == (Workload("prefill", 64, 3), Workload("decode", 64, 3))
    assert work.sequence_tokens == 64
