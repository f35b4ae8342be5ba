"""Flags become cases: defaults by device, products of lists, identity by content."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from hybridbench.arch.families import ARCHS, RECIPES, Options, build_spec, pattern_spec
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.scales import SCALES
from hybridbench.errors import BadInput
from hybridbench.suite.case import Case, Execution, Sampling
from hybridbench.suite.file import Suite, decoding_as_published
from hybridbench.suite.models import ALL_ARCHS, model_specs, same_stacks
from hybridbench.suite.ops import check_backends_used
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.suite.workloads import Workload

SPECS = [build_spec(arch, scale) for arch in ARCHS for scale in SCALES]
SPECS += [build_spec("intra", scale, Options(recipe=recipe)) for recipe in RECIPES for scale in SCALES]
SPECS += [build_spec(arch, "tiny", Options(moe=True)) for arch in ARCHS]


def case_of(spec: ModelSpec) -> Case:
    execution = Execution("cuda", "bfloat16", "graph", "float32", {"ssd": "triton"}, seed=3)
    return Case(spec, Workload("generate", 2048, 4, 512), execution, Sampling(max_time_s=1.5), limit_s=60.0)


def test_every_case_survives_json() -> None:
    for spec in SPECS:
        case = case_of(spec)
        again = Case.from_dict(json.loads(json.dumps(case.to_dict())))
        assert again == case
        assert again.key == case.key


def test_different_models_have_different_keys() -> None:
    unique = []
    for spec in SPECS:
        if spec not in unique:
            unique.append(spec)
    assert len(unique) > 50
    assert len({case_of(spec).key for spec in unique}) == len(unique)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from leaves(item, (*path, name))
    if not isinstance(value, dict | list):
        yield path, value


OTHER = {"group": "none", "none": "vector", "subtract": "add", "joint": "separate", "separate": "shared"}


def changed(path: tuple[str | int, ...], value: Any) -> Any:
    """Another value that still makes a case."""
    if path == ("workload", "kind"):
        return "prefill" if value != "prefill" else "train"
    if path[-1] == "pattern":
        return value + value
    if "fusion" in path:
        return "joint" if path[-1] == "out" else OTHER[value]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 or 1
    if path[-1] == "window":
        return 64
    return f"{value}x"


@pytest.mark.parametrize("arch", ["transformer", "swa", "intra"])
def test_any_changed_field_changes_the_key(arch: str) -> None:
    case = case_of(build_spec(arch, "tiny", Options(moe=arch == "transformer")))
    seen = {case.key}
    body = case.to_dict()
    # How long a case may take does not change what it is.
    fields = [(path, v) for path, v in leaves(body) if path[-1] != "kind" or path[0] == "workload"]
    fields = [(path, v) for path, v in fields if path != ("limit_s",)]
    assert len(fields) > 30
    for path, value in fields:
        other = copy.deepcopy(body)
        place: Any = other
        for part in path[:-1]:
            place = place[part]
        if path[-1] == "sinks" and place["window"] is None:
            continue  # sinks belong to a window
        place[path[-1]] = changed(path, value)
        key = Case.from_dict(other).key
        assert key not in seen, path
        seen.add(key)


def test_equal_cases_have_equal_keys() -> None:
    case = case_of(build_spec("inter", "tiny"))
    # Whole seconds typed as 60 or 60.0, and tables in another order, are the same case.
    same = dataclasses.replace(
        case,
        limit_s=60,
        model=dataclasses.replace(case.model, blocks=dict(reversed(case.model.blocks.items()))),
        execution=dataclasses.replace(case.execution, backends=dict(case.execution.backends)),
    )
    assert same == case
    assert same.key == case.key
    assert len(case.key) == 16
    int(case.key, 16)


def test_case_labels() -> None:
    assert case_of(build_spec("inter", "tiny")).label == "generate inter 1+5 tiny ctx 2k b4"


@pytest.mark.parametrize(("kind", "tokens"), [("train", 32), ("prefill", 32), ("decode", 4), ("generate", 20)])
def test_tokens_of_a_sample(kind: str, tokens: int) -> None:
    assert Workload(kind, 8, 4, 3 if kind == "generate" else 0).tokens == tokens


# --- sweeps


def test_defaults_on_a_cpu_and_on_a_gpu() -> None:
    on_cpu = cases(Sweep("decode"), has_gpu=False)
    assert [case.model.arch for case in on_cpu[::4]] == list(ARCHS)
    assert [case.workload.context for case in on_cpu[:4]] == [4096, 8192, 16384, 32768]
    assert {case.model.scale for case in on_cpu} == {"tiny"}
    assert {case.workload.batch for case in on_cpu} == {1}
    assert on_cpu[0].execution == Execution("cpu", "float32", "eager")
    on_gpu = cases(Sweep("decode"), has_gpu=True)
    assert [case.workload.context for case in on_gpu[:6]] == [4096 * 2**i for i in range(6)]
    assert {(case.model.scale, case.workload.batch) for case in on_gpu} == {("1b", 4)}
    assert on_gpu[0].execution == Execution("cuda", "bfloat16", "graph")
    assert cases(Sweep("train"), has_gpu=True)[0].execution.mode == "eager"
    assert cases(Sweep("train", device="cpu"), has_gpu=True)[0].execution.device == "cpu"
    assert on_gpu[0].sampling == Sampling(min_time_s=1.1), "ten ticks of the energy counter"


def test_contexts_vary_fastest_and_models_slowest() -> None:
    made = cases(Sweep("prefill", arch="mamba,swa", ctx="1k,2k", batch="1,2", scale="tiny"), has_gpu=False)
    assert [(c.model.arch, c.workload.batch, c.workload.context) for c in made] == [
        (arch, batch, context) for arch in ("mamba", "swa") for batch in (1, 2) for context in (1024, 2048)
    ]


def test_the_prompt_belongs_to_generation_only() -> None:
    assert cases(Sweep("generate", ctx="1k", prompt=100), has_gpu=False)[0].workload.prompt == 100
    assert cases(Sweep("decode", ctx="1k", prompt=100), has_gpu=False)[0].workload.prompt == 0


def test_depths_and_the_published_mode_reach_the_case() -> None:
    sweep = Sweep("generate", arch="mamba", ctx="1k", depths=5)
    case = cases(sweep, has_gpu=True)[0]
    assert (case.workload.depths, case.execution.mode) == (5, "graph")
    assert case.label == "generate mamba 1b ctx 1k b4 at 5 depths"
    assert case.workload.timed_contexts == (512, 639, 767, 895, 1023)
    assert cases(dataclasses.replace(sweep, depths=None), has_gpu=True)[0].workload.depths == 0
    for published in ({"as_published": True}, {"mode": "published"}):
        for has_gpu in (False, True):  # eager on a CPU, but the same code
            assert cases(dataclasses.replace(sweep, **published), has_gpu=has_gpu)[0].execution.mode == "published"


def test_a_suite_as_published_keeps_what_decodes() -> None:
    suite = Suite("mine", (Sweep("train"), Sweep("decode", ctx="1k"), Sweep("generate", ctx="1k"), Sweep("prefill")))
    published = decoding_as_published(suite)
    assert [(sweep.workload, sweep.as_published) for sweep in published.sweeps] == [
        ("decode", True),
        ("generate", True),
    ]
    with pytest.raises(BadInput, match="suite mine neither decodes nor generates"):
        decoding_as_published(Suite("mine", (Sweep("train"),)))


def test_sampling_and_limit() -> None:
    case = cases(Sweep("train", max_time_s=1, min_samples=500, limit_s=9, arch="mamba"), has_gpu=False)[0]
    assert (case.sampling.max_time_s, case.sampling.warmup_max_s) == (1, 1)
    assert (case.sampling.min_samples, case.sampling.max_samples, case.limit_s) == (500, 500, 9)


def test_a_ratio_applies_to_the_families_that_have_one() -> None:
    specs = model_specs(arch="transformer,inter,intra", scale="1b", ratio="1:3,1:5")
    assert [spec.label for spec in specs] == ["transformer", "inter 3+10", "inter 2+11", "intra 3+10", "intra 2+11"]
    assert [s.label for s in model_specs(arch="inter", scale="1b", ratio="1:5,2:10")] == ["inter 2+11"]


def test_options_apply_to_the_families_that_have_a_place_for_them() -> None:
    listed = ",".join(ARCHS)
    for options in ({"window": 256}, {"positions": "4,8"}, {"recipe": "concat"}, {"fusion_norm": "none"}):
        changed_specs = model_specs(arch=listed, scale="1b", **options)
        same = {spec.arch for spec in changed_specs if spec == build_spec(spec.arch, "1b")}
        assert (
            same
            == {
                "window": {"transformer", "mamba", "inter", "intra"},
                "positions": {"transformer", "mamba"},
                "recipe": {"transformer", "swa", "mamba", "inter"},
                "fusion_norm": {"transformer", "swa", "mamba", "inter"},
            }[next(iter(options))]
        )


def test_a_mixer_applies_to_the_families_that_have_mamba2() -> None:
    specs = model_specs(arch="transformer,mamba,inter", scale="tiny", mixer="mamba2,gated-delta")
    assert [spec.label for spec in specs] == [
        *("transformer", "mamba", "gated-delta", "inter 1+5", "inter gated-delta 1+5")
    ]
    assert model_specs(arch="mamba", scale="tiny", mixer="mamba2") == [build_spec("mamba", "tiny")]
    made = cases(Sweep("decode", arch="intra", mixer="kda,mamba1", scale="tiny"), has_gpu=False)
    assert {case.model.pattern for case in made} == {"K-K-(*&K)-K-K-", "m-m-(*&m)-m-m-m-"}
    assert {case.model.arch for case in made} == {"intra kda", "intra mamba1"}
    assert Case.from_dict(made[0].to_dict()) == made[0]


def test_a_pattern_in_place_of_families() -> None:
    specs = model_specs(arch=ALL_ARCHS, scale="tiny,1b", pattern="M- *-")
    assert specs == [pattern_spec("M-*-", scale) for scale in ("tiny", "1b")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workload": "decod"}, "unknown workload 'decod': did you mean 'decode'? Known: train,"),
        ({"device": "gpu"}, "unknown device 'gpu': did you mean 'cuda'? Known: cpu, cuda."),
        ({"arch": "mambo"}, "unknown arch 'mambo': did you mean 'mamba'?"),
        ({"arch": "mamba,"}, "arch 'mamba,' has an empty part: write names with single commas"),
        ({"scale": "tiny,,1b"}, "scale 'tiny,,1b' has an empty part"),
        ({"scale": "7b"}, "unknown scale '7b'"),
        ({"ctx": "8k..4k"}, "context '8k..4k' runs backwards"),
        ({"batch": "0"}, "batch '0' is zero"),
        ({"ratio": "1:5", "positions": "4"}, "--positions and --ratio both say where blocks go"),
        ({"ratio": "1:5", "arch": "transformer,mamba"}, "--ratio for transformer: all its blocks are alike"),
        ({"positions": "4", "arch": "transformer,mamba"}, "--positions for transformer: all its blocks are alike"),
        ({"recipe": "hymba", "arch": "inter,swa"}, "--recipe without a parallel block: inter has none"),
        ({"window": 8, "arch": "inter,intra"}, "--window without a window layer: inter has none"),
        ({"pattern": "M-*-", "ratio": "1:5"}, "--pattern already places every block: leave out --ratio"),
        ({"pattern": "M-*-", "positions": "1"}, "--pattern already places every block"),
        ({"pattern": "M-Q-"}, "'Q' is no layer"),
        ({"positions": "4,4"}, "positions '4,4' name a block twice"),
        ({"dtype": "bf16"}, "unknown dtype 'bf16': did you mean 'bfloat16'?"),
        ({"state_dtype": "fp32"}, "unknown dtype 'fp32'"),
        ({"mode": "graphs"}, "unknown mode 'graphs': did you mean 'graph'?"),
        ({"mode": "graph"}, "mode graph on the CPU: a CUDA graph needs a GPU; use --mode eager or compile."),
        (
            {"mode": "graph", "device": "cuda", "workload": "train"},
            "mode graph for train: only decode and generate are captured; use eager or compile.",
        ),
        ({"backends": {"scan": "triton"}}, "unknown operation 'scan'"),
        ({"workload": "generate", "ctx": "1k,512"}, "context 512 leaves nothing to generate after a prompt of 512"),
        ({"depths": 5}, "depths for decode: only a generation is integrated over depths."),
        ({"workload": "generate", "depths": 4}, "depths 4: give an odd number from 3 on, such as 5, or leave it out"),
        ({"workload": "generate", "depths": 1}, "depths 1: give an odd number from 3 on"),
        ({"workload": "generate", "ctx": "516,1k", "depths": 5}, "depths 5 for a generation of 4 tokens: leave it out"),
        ({"as_published": True, "mode": "eager"}, "as-published is a mode of its own, and mode eager another"),
        ({"workload": "train", "as_published": True}, "mode published for train: only decode and generate can be run"),
        (
            {"mode": "published", "backends": {"attention_decode": "triton"}},
            "mode published has its own attention_decode, attention as plain eager code: leave its backend out.",
        ),
        ({"workload": "generate", "prompt": 0}, "prompt 0: a generation starts from 1 token or more."),
        ({"max_time_s": 0}, "max_time_s 0 s leaves no time to sample: give more than 0."),
        ({"limit_s": 0}, "limit_s 0 s leaves no time to run: give more than 0."),
        ({"min_samples": 0}, "min_samples 0: give 1 or more."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_sweeps_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        cases(Sweep(**{"workload": "decode", **options}), has_gpu=False)
    assert said in str(caught.value)


def test_backends_reach_the_case() -> None:
    case = cases(Sweep("decode", backends={"ssd_step": "torch"}, arch="mamba"), has_gpu=False)[0]
    assert case.execution.backends == {"ssd_step": "torch"}


def test_more_time_is_the_same_case() -> None:
    case = case_of(build_spec("inter", "tiny"))
    assert dataclasses.replace(case, limit_s=case.limit_s + 1).key == case.key


def test_a_backend_goes_to_the_cases_that_run_it_and_to_no_other() -> None:
    made = cases(Sweep("decode", arch="transformer,mamba", backends={"ssd_step": "reference"}), has_gpu=False)
    by_arch = {case.model.arch: case for case in made}
    assert by_arch["mamba"].execution.backends == {"ssd_step": "reference"}
    assert by_arch["transformer"].execution.backends == {}
    plain = {case.key for case in cases(Sweep("decode", arch="transformer"), has_gpu=False)}
    assert by_arch["transformer"].key in plain, "it compares with a run that asked for nothing"
    check_backends_used(["ssd_step"], made)
    with pytest.raises(
        BadInput, match="no case here runs it; they run attention_decode, conv1d_step, decode_step, ssd_step, swiglu"
    ):
        check_backends_used(["ssd"], made)
    automatic = cases(Sweep("decode", arch="mamba", backends={"ssd_step": "auto"}), has_gpu=False)
    assert automatic[0].execution.backends == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_time_s": float("nan")}, "max_time_s nan s"),
        ({"limit_s": float("inf")}, "limit_s inf s"),
        ({"limit_s": 1e300}, "30 days"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 10**20}, "seed 100000000000000000000"),
        ({"ctx": ""}, "context ''"),
        ({"scale": ""}, "scale ''"),
        ({"dtype": "bfloat16", "state_dtype": "float16"}, "state_dtype float16 with bfloat16 weights"),
        ({"dtype": "float32", "state_dtype": "bfloat16"}, "state_dtype bfloat16 with float32 weights"),
        ({"pattern": "M-", "arch": "inter"}, "--arch 'inter' names another"),
    ],
)
def test_values_that_would_break_later_are_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=re.escape(said)):
        cases(Sweep("decode", **options), has_gpu=False)


def test_asking_for_samples_insists_on_them() -> None:
    (case, *_) = cases(Sweep("decode", min_samples=7), has_gpu=False)
    assert (case.sampling.min_samples, case.sampling.insist) == (7, True)
    assert not cases(Sweep("decode"), has_gpu=False)[0].sampling.insist


def test_two_ratios_that_round_to_one_stack_are_one_model() -> None:
    assert len(model_specs(arch="swa", scale="tiny", ratio="1:5,1:7")) == 1
    assert len(model_specs(arch="swa", scale="1b", ratio="1:5,1:12")) == 2


def test_ratios_of_one_stack_are_said_and_kept_apart_on_request() -> None:
    listed = {"arch": "inter,transformer", "scale": "350m", "ratio": "1:7,1:8,1:12,1:3"}
    assert [spec.ratio for spec in model_specs(**listed)] == ["1:7", "1:3", None]
    specs = model_specs(**listed, every_ratio=True)
    assert [spec.ratio for spec in specs] == ["1:7", "1:8", "1:12", "1:3", None]
    assert len({spec.pattern for spec in specs[:3]}) == 1
    assert same_stacks(specs) == ["ratios 1:7, 1:8, 1:12 are the same stack, inter 1+10 350m"]
    assert same_stacks(model_specs(**listed)) == []


def test_a_stack_of_several_ratios_is_one_case_that_keeps_them_all() -> None:
    sweep = Sweep("decode", arch="swa,mamba", scale="tiny", ratio="1:5,1:7,1:1", ctx="64")
    found = cases(sweep, has_gpu=False)
    assert [(case.model.ratio, case.ratios) for case in found] == [("1:5", ("1:5", "1:7")), ("1:1", ()), (None, ())]
    alone = cases(dataclasses.replace(sweep, arch="swa", ratio="1:5"), has_gpu=False)
    assert alone[0].key == found[0].key
    for case in found:
        body = json.loads(json.dumps(case.to_dict()))
        assert Case.from_dict(body) == case
        assert ("ratios" in body) == bool(case.ratios)


def test_recipes_are_a_list_that_only_parallel_blocks_multiply() -> None:
    specs = model_specs(arch="intra,inter", scale="tiny", recipe="paper,hymba")
    assert [(spec.arch, spec.recipe) for spec in specs] == [("intra", "paper"), ("intra", "hymba"), ("inter", None)]
    patterns = model_specs(arch=ALL_ARCHS, scale="tiny", pattern="(*&M)-M-", recipe="paper,hymba")
    assert [spec.recipe for spec in patterns] == ["paper", "hymba"]
