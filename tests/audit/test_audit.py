"""On plain kernels no difference stays unexplained, operation by operation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cases_audited import EVERYTHING, SMALL, TILE, audited, case_of
from click.testing import CliRunner

from hybridbench.arch import plain_scan
from hybridbench.arch.block import Mixer
from hybridbench.arch.blocks import mamba1 as mamba1_block
from hybridbench.arch.blocks.ssd_kernels import KERNELS
from hybridbench.arch.families import pattern_spec
from hybridbench.arch.kinds import KINDS, BlockKind
from hybridbench.arch.model import ModelSpec
from hybridbench.audit import run
from hybridbench.audit.exchange import Observation
from hybridbench.audit.judge.reasons import ONE_WIDTH
from hybridbench.audit.judge.views import BASE, EXACT, GPU, Audit, is_product
from hybridbench.audit.observe.counters import observe
from hybridbench.audit.observing import AuditRun
from hybridbench.cli.main import main
from hybridbench.count.account import FVCORE, REST, TORCH
from hybridbench.kernels.delta import reference as delta_reference
from hybridbench.kernels.rwkv7 import reference as rwkv7_reference
from hybridbench.kernels.scan.reference import mamba1, mamba2, mamba3
from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import SCAN
from hybridbench.session import Proofs
from hybridbench.suite.workloads import DECODE, PREFILL, TRAIN


def unexplained(found: Audit) -> dict[str, dict[str, int]]:
    assert not [view.error for name, view in found.views.items() if name != GPU and view.error]
    return {name: left for name in BASE if (left := found.unexplained(name))}


@pytest.mark.parametrize(("kind", "context"), [(TRAIN, 70), (TRAIN, 64), (PREFILL, 150), (DECODE, 70)])
@pytest.mark.sampled
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


SEGMENTS = 1 << 15
"""So few values at once that a scan of 150 positions has several segments."""
PLACES = [(TRAIN, 70, None), (TRAIN, 16, None), (TRAIN, 150, SEGMENTS), (PREFILL, 150, SEGMENTS), (DECODE, 70, None)]


@pytest.mark.parametrize(
    ("letter", "kind", "context", "held"),
    [
        pytest.param(letter, *place, marks=[pytest.mark.slow] if place[0] == PREFILL and letter in "mK7" else [])
        for letter in "m3GKL7"
        for place in PLACES
    ],
)
@pytest.mark.sampled
def test_nothing_stays_unexplained_of_a_plain_scan(
    letter: str, kind: str, context: int, held: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole and filled chunks, one chunk, and, with few values ``held`` at once, several segments.

    Mamba-1's scan goes by single positions and holds more of each: with as few it would have a segment every four.
    """
    if held is not None:
        held *= 4 if letter == "m" else 1
        for module in (mamba1, mamba2, mamba3, delta_reference, rwkv7_reference, mamba1_block, plain_scan):
            monkeypatch.setattr(module, "CHUNK_ELEMENTS", held)
    found = audited(case_of(pattern_spec(f"{letter}-", "tiny", SMALL), kind, context))
    for counter in (TORCH, FVCORE):
        assert found.views[counter].error is None
        assert found.unexplained(counter) == {}
    (scan,) = (name for name in found.views[EXACT].flops if name.endswith(" scan"))
    assert (found.views[TORCH].flops.get(scan, 0) > 0) == (kind != DECODE)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.mixer], ids=lambda kind: kind.mixer)
def test_every_mixer_s_scan_has_a_formula_of_its_plain_products(kind: BlockKind) -> None:
    """Of a mixer that is added too: products grow with the tokens, and more sequences at once make none fewer."""
    block = pattern_spec(f"{kind.letter}-", "tiny", SMALL).blocks[kind.letter]
    assert isinstance(block, Mixer)
    assert [op for op in block.sequence_ops if OPERATIONS[op].spends == SCAN], "a scan"
    few, many = block.plain_scan(64, 1), block.plain_scan(1024, 1)
    assert 0 < 16 * few.forward <= many.forward
    assert block.plain_scan(1024, 8).forward >= many.forward


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
@pytest.mark.sampled
def test_nothing_stays_unexplained_whatever_kernel_and_fusion(spec: ModelSpec, backends: dict[str, str]) -> None:
    found = audited(case_of(spec, TRAIN, **backends))
    assert unexplained(found) == {}
    assert set(backends.values()) <= {name for names in found.backends.values() for name in names.split(", ")}


@pytest.mark.parametrize("kind", [TRAIN, PREFILL])
@pytest.mark.parametrize("pattern", ["*S-", "(*&M)-"])
@pytest.mark.sampled
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


def test_json_is_one_document_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(asked: AuditRun, found: list[Observation]) -> None:
        for place, case in enumerate(asked.cases):
            found.append(observe(case, Proofs()))
            asked.tell(place, "observed", None)

    monkeypatch.setattr(run, "observe_all", here)
    words = ["audit", "--pattern", "*-", "--scale", "tiny", "--workload", "decode", "--ctx", "9", "--device", "cpu"]
    done = CliRunner().invoke(main, [*words, "--json"])
    assert set(json.loads(done.stdout)["audits"][0]["views"]) == {EXACT, *BASE}
