"""Which cases may run on several ranks, what part each rank has, and what is said of those that may not."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from hybridbench.arch import model as arch
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.families import ARCHS, Options, build_spec, pattern_spec
from hybridbench.arch.held import held_parts, shared_params
from hybridbench.arch.model import shard
from hybridbench.arch.stored import Dtypes
from hybridbench.cli.options import as_typed
from hybridbench.derive import transfers
from hybridbench.errors import BadInput
from hybridbench.machine import find_gpu
from hybridbench.metrics import value
from hybridbench.model.build import build_model, resolve_backends
from hybridbench.predict.fit import largest_fit
from hybridbench.predict.group import GpuGroup
from hybridbench.record import BackendUse, Ceilings, Links, Memory, Observed, RankObserved, Record, Status
from hybridbench.report.scaling import scaling_sentences, scaling_table
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.file import load_suite
from hybridbench.suite.spread import part_of_case
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.suite.workloads import Workload
from hybridbench.team import Team, _settings


def test_a_case_of_one_rank_has_the_key_and_the_text_that_it_had_before() -> None:
    (case,) = cases(Sweep("train", arch="inter", ctx="1k", batch="2"), has_gpu=False)
    assert "gpus" not in case.to_dict()["execution"]
    (same,) = cases(Sweep("train", arch="inter", ctx="1k", batch="2", gpus="1", tp="1"), has_gpu=False)
    assert same.key == case.key
    two = cases(Sweep("train", arch="inter", ctx="1k", batch="2", gpus="1,2"), has_gpu=False)
    assert [one.ranks for one in two] == [1, 2]
    assert two[0].key == case.key != two[1].key
    assert Case.from_dict(json.loads(json.dumps(two[1].to_dict()))) == two[1]
    assert two[1].label.endswith("FSDP2 on 2 processes")


def test_a_suite_names_ranks_as_the_command_line_does(tmp_path: Path) -> None:
    suite = tmp_path / "two.toml"
    suite.write_text('[[sweep]]\nworkload = "train"\narch = "mamba"\nbatch = 4\ngpus = "1,2"\n[[sweep]]\n')
    suite.write_text(suite.read_text() + 'workload = "decode"\narch = "mamba"\nctx = "64"\ntp = 2\n')
    found = load_suite(suite).cases(has_gpu=False)
    assert [(one.execution.gpus, one.execution.tp) for one in found] == [(1, 1), (2, 1), (1, 2)]


KINDS = "mamba2, mamba3, gated_delta, kda, rwkv7, attention, parallel, mlp, moe"
REFUSED = {
    "both ways": ({"gpus": "2", "tp": "2"}, "--gpus 2 with --tp 2: a case is spread one way; give one of them."),
    "a batch": ({"gpus": "3", "batch": "4"}, "--gpus 3: batch 4, that of all ranks, does not divide by 3."),
    "query heads": (
        {"tp": "4", "scale": "5m", "arch": "swa"},
        "has n_heads 6 of window attention, which 4 GPUs cannot share; give 2 or 6.",
    ),
    "SSM heads": ({"tp": "8"}, "has n_heads 4 of mamba2, which 8 GPUs cannot share; give 2 or 4."),
    "a mixer": (
        {"tp": "2", "mixer": "mamba1"},
        f"a block of kind mamba1: only blocks of kind {KINDS} run divided.",
    ),
    "experts": ({"gpus": "2", "moe": True}, "routed experts are not sharded; give --tp instead."),
    "compiled": ({"tp": "2", "mode": "compile"}, "--tp 2 in mode compile: several ranks run in mode eager or graph."),
    "checkpoints": ({"gpus": "2", "checkpoint": "full"}, "--gpus 2 with checkpoint full: several ranks keep all"),
    "too many": ({"gpus": "2k"}, "--gpus 2048: give 1024 at most."),
    "none": ({"tp": "0"}, "tp '0'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_spread_is_refused_with_one_sentence(name: str) -> None:
    options, sentence = REFUSED[name]
    asked = Sweep("train", **{"arch": "inter", "scale": "tiny", "ctx": "64", "batch": "2", **options})
    with pytest.raises(BadInput) as refused:
        cases(asked, has_gpu=False, spelled=as_typed)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_sequences_are_divided_in_training_only() -> None:
    with pytest.raises(BadInput, match="only train divides its sequences; give --tp instead"):
        cases(Sweep("decode", arch="mamba", ctx="64", batch="2", gpus="2"), has_gpu=False, spelled=as_typed)


def test_groups_that_neither_divide_nor_can_be_held_by_as_many_ranks_are_refused() -> None:
    spec = build_spec("transformer", "5m")
    block = replace(spec.blocks["*"], n_heads=12, n_kv_heads=4)
    with pytest.raises(BadInput, match="has n_kv_heads 4 of attention, which 6 GPUs cannot share; give 2, 4 or 12"):
        shard(replace(spec, blocks={**spec.blocks, "*": block}), 6)


OTHERS = ("gated-delta", "kda", "mamba3", "rwkv7")
SPLIT = {
    **{f"{name} {scale}": (build_spec(name, scale), 2) for name in ARCHS for scale in ("toy", "1b", "3b")},
    "transformer on 16": (build_spec("transformer", "3b"), 16),
    "mamba on 8": (build_spec("mamba", "3b"), 8),
    "gate": (build_spec("intra", "tiny", Options(fusion_scale="gate")), 2),
    "experts": (build_spec("inter", "1b", Options(moe=True)), 4),
    **{f"{m} on 4": (build_spec("inter", "1b", Options(mixer=m)), 4) for m in OTHERS},
    **{f"{m} beside": (build_spec("intra", "3b", Options(mixer=m)), 2) for m in OTHERS},
    "lent": (pattern_spec("(*&M)-", "tiny", Options(fusion_value="shared", fusion_scale="vector")), 2),
}


@pytest.mark.parametrize("name", SPLIT)
def test_the_parts_of_all_ranks_make_every_parameter_once(name: str) -> None:
    """And each part is what the module of the part's own spec has."""
    spec, ranks = SPLIT[name]
    work = Workload("decode", 16, 1)
    whole, part = (
        build_model(case, resolve_backends(case))
        for case in (Case(one, work, Execution("cpu", "float32", "eager")) for one in (spec, shard(spec, ranks)))
    )
    for block, layer, mine in zip(spec.placed, whole.blocks, part.blocks, strict=True):
        parts, packed = dict(mine.named_parameters()), block.packing()
        assert {name: one.numel() for name, one in layer.named_parameters()} == {
            name: one.size for name, one in packed.items()
        }
        of_ranks = [held_parts(block, ranks, rank) for rank in range(ranks)]
        held_by_several = 0
        for parameter, tensor in layer.named_parameters():
            cuts = [held[parameter] for held in of_ranks]
            assert all(sum(b - a for a, b in cut.spans) == parts[parameter].shape[cut.dim] for cut in cuts)
            shared = {span for span, _, _ in cuts[0].shared}
            held = [span for cut in cuts for at, span in enumerate(cut.spans) if at not in shared]
            common = {span for cut in cuts for at, span in enumerate(cut.spans) if at in shared}
            edges = sorted([*held, *common])
            assert edges[0][0] == 0
            assert edges[-1][1] == tensor.shape[cuts[0].dim]
            assert all(before[1] == after[0] for before, after in itertools.pairwise(edges)), parameter
            held_by_several += sum(b - a for a, b in common) * tensor.numel() // tensor.shape[cuts[0].dim]
        assert shared_params(block, ranks) == held_by_several


def test_a_worker_with_several_gpus_uses_none_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (on("mamba", "decode", 2, tp=tp) for tp in (1, 2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert [Team().takes(case) for case in (one, two)] == [False, True]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    assert [Team().takes(case) for case in (one, two)] == [True, True]
    settings = [_settings(2, ["3", "4"], rank)["CUDA_VISIBLE_DEVICES"] for rank in (0, 1)]
    assert settings == ["3,4", "4,3"], "each rank's own GPU is the first that it sees"


def record(case: Case, step_ns: int, silent_ns: int = 0) -> Record:
    memory = Memory(1, None, None, None, 7, 9)
    ranks = [RankObserved(rank, [step_ns], memory) for rank in range(case.ranks)] if case.ranks > 1 else []
    seen = Observed(
        samples_ns=[step_ns], steps_per_sample=1, warmup_steps=1, warmup_ns=1, timer="scripted",
        parameters=arch.params(part_of_case(case).model), memory=memory, cache=None, counts=[], backends=[], kernels=[],
        gpu_before=None, gpu_after=None, energy=None, build_ns=1, prepare_ns=1, ranks=ranks,
        ceilings=Ceilings("bfloat16", 1e15, 4e12, 4e12),
        links=Links(4e11, 2e11, 3e11, 1e-5) if ranks else None,
        silent_ns=[silent_ns] if silent_ns else [],
    )  # fmt: skip
    from hybridbench.dialogue import UNKNOWN

    return Record(case, Status.OK, "run", "2026-01-01T00:00:00+00:00", UNKNOWN, seen)


def on(spec_name: str, kind: str, batch: int, **spread: int) -> Case:
    mode = "graph" if kind == "decode" else "eager"
    return Case(build_spec(spec_name, "1b"), Workload(kind, 8192, batch), Execution("cuda", "bfloat16", mode, **spread))


def with_step(found: Record, backend: str) -> Record:
    """The record as one whose decode step ran by a backend."""
    assert found.observed is not None
    use = BackendUse("decode_step", "auto", backend, None, None, None, None)
    return replace(found, observed=replace(found.observed, backends=[use]))


def test_bytes_of_transfers_by_hand() -> None:
    vocabulary, width, layers = 128_256, 2048, 32
    sharded = transfers.links_of(record(on("transformer", "train", 4, gpus=2), 10**9))
    params, root = 1_235_814_400, (vocabulary + layers + 1) * width
    assert sharded is not None
    assert sharded.gathered == (2 * params - root) * 2 / 2, "half of it comes from the other rank"
    assert sharded.scattered == params * 4 / 2
    assert sharded.all_reduced == 0
    decoding = record(on("transformer", "decode", 4, tp=2), 10**6)
    for made, size in ((with_step(decoding, "modules"), 2), (with_step(decoding, "fused"), 4)):
        found = transfers.links_of(made)
        assert found is not None
        assert found.all_reduced == (layers + 1) * 4 * width * size, "the fused step adds up in float32"
        assert found.gathered == 4 * 8, "the best logit of the other rank's words, and its word"
        assert transfers.transfer_bytes(made) == found.all_reduced + found.gathered
    trained = transfers.links_of(record(on("transformer", "train", 1, tp=2), 10**9))
    assert trained is not None
    assert trained.gathered == trained.scattered == 0.5 * vocabulary * width * 2, "the head, and its gradient"
    assert trained.all_reduced == 2 * (layers + 1) * 8192 * width * 2
    (sixteen,) = {transfers.links_of(record(on("transformer", "train", 1, tp=16), 10**9))}
    assert sixteen is not None
    keys_and_values = 16 * 2 * (8 * 64) * width  # 8 KV heads, each of which two ranks hold
    assert sixteen.all_reduced == trained.all_reduced + 4 * keys_and_values, "gradients, in float32"
    assert transfers.links_of(record(on("transformer", "decode", 4), 10**6)) is None


def test_parameters_in_float32_are_added_up_and_not_sharded() -> None:
    """Mamba-2 at 1b: 64 heads, each with A_log, dt_bias and D."""
    case = on("inter", "train", 4, gpus=2)
    heads = sum(3 * block.n_heads for block in case.model.placed if isinstance(block, Mamba2))
    found = transfers.links_of(record(case, 10**9))
    assert found is not None
    assert found.all_reduced == 4 * heads > 0
    assert found.scattered == 4 * (arch.params(case.model) - heads) // 2
    assert found.sent == found.gathered + found.scattered + found.all_reduced


def test_a_rank_computes_its_part_with_its_part_of_the_head() -> None:
    part = part_of_case(on("transformer", "decode", 4, tp=2))
    spec, batch = part.model, part.workload.batch
    assert (spec.vocab_size, spec.blocks["*"].n_heads, spec.blocks["-"].d_ff, batch) == (64_128, 16, 4096, 4)
    part = part_of_case(on("transformer", "train", 4, gpus=2))
    assert (part.model.vocab_size, part.model.blocks["*"].n_heads, part.workload.batch) == (128_256, 32, 2)


def test_the_peak_of_a_rank_is_predicted_as_fit_predicts_it() -> None:
    """Beside the largest that a rank had. FSDP2 and tensor parallelism are those of ``fit --gpus`` and ``fit --tp``."""
    h200, half = find_gpu("h200"), Dtypes.of("bfloat16")
    for case, group in (
        (on("inter", "train", 4, gpus=2), GpuGroup(2)),
        (on("inter", "train", 4, tp=2), GpuGroup(2, 2)),
        (on("inter", "decode", 4, tp=2), GpuGroup(2, 2)),
    ):
        found, work = record(case, 10**9), case.workload
        each = work.batch // group.ranks
        fit = largest_fit(case.model, h200, work.kind, half, context=work.context, batch=each, group=group)
        assert value(found, "predicted_peak_bytes") == fit.footprint.total
        assert value(found, "rank_peak_bytes") == 7
        alone = record(replace(case, execution=replace(case.execution, gpus=1, tp=1)), 10**9)
        assert fit.footprint.total < (value(alone, "predicted_peak_bytes") or 0)


def test_the_table_compares_with_one_gpu_at_the_same_batch_and_at_the_same_batch_each() -> None:
    records = [
        record(on("inter", "train", 2), 100_000_000),
        record(on("inter", "train", 4), 180_000_000),
        record(on("inter", "train", 4, gpus=2), 110_000_000, 95_000_000),
    ]
    table = scaling_table(records)
    assert table is not None
    (row,) = table.rows
    found = {column.key: cell.value for column, cell in zip(table.columns, row, strict=True)}
    assert found["strong_frac"] == pytest.approx(180 / (2 * 110))
    assert found["weak_frac"] == pytest.approx(100 / 110)
    assert found["exposed_s"] == pytest.approx(0.015)
    assert found["gpu_tokens_per_s"] == pytest.approx(4 * 8192 / 0.110 / 2)
    sent = transfers.links_of(records[2])
    assert sent is not None
    by_hand = sent.gathered / 4e11 + sent.scattered / 2e11 + sent.all_reduced / 3e11
    assert found["transfer_s"] == pytest.approx(by_hand)
    assert found["rank_peak_bytes"] == 7
    assert found["predicted_peak_bytes"] == value(records[2], "predicted_peak_bytes") is not None
    assert found["scaling_floor_frac"] == pytest.approx(1.0), "transfers take less than the work, so they can be hidden"
    assert scaling_table(records[:2]) is None
    assert scaling_sentences(records) == [
        "train at 1b, --gpus 2: each GPU gives 81.8% of what one alone gives with the same batch (at the floor 100%); "
        "13.6% of a step is spent waiting for transfers."
    ]
    assert scaling_sentences(records[2:]) == []
