"""What torch and Triton decide is observed as it is: launches by hand, compiled kernels by another tool."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridbench.arch.families import ARCHS, MAMBA2, Options, build_spec
from hybridbench.arch.kinds import MIXERS
from hybridbench.errors import Unsupported
from hybridbench.gate import exact
from hybridbench.gate.baseline import Section, differences, read_baseline

pytest.importorskip("triton.knobs", reason="triton is not installed, so there is no kernel to compile")

from hybridbench.gate.observe import sources

BASELINE = Path(__file__).parents[2] / "results" / "baselines" / "exact.json"


@pytest.mark.slow
def test_a_fused_step_launches_five_kernels_a_block_and_three_more() -> None:
    """Three products and what mixes or reads the state in a mixer and its MLP; the first, the head, the last."""
    found = exact.PARTS["launches"](None)
    for arch in ("transformer", "swa", "mamba", "inter"):
        for scale in ("tiny", "1b", "3b"):
            blocks = sum(letter not in "-E" for letter in build_spec(arch, scale).layers)
            assert found.figures[f"{arch}/{scale}"]["launches"] == 5 * blocks + 3, (arch, scale)
    for mixer in MIXERS:
        if mixer != MAMBA2:
            blocks = Counter(
                letter for letter in build_spec("inter", "1b", Options(mixer=mixer)).layers if letter != "-"
            )
            # Mamba-1 has a product between its conv and its state, KDA and RWKV-7 second products of low rank, and
            # RWKV-7 mixes each token with the one before first
            more = blocks["m"] + blocks["K"] + 2 * blocks["7"]
            assert found.figures[f"inter {mixer}/1b"]["launches"] == 5 * blocks.total() + more + 3, mixer
    kept = read_baseline(BASELINE)["launches"]
    if kept.versions == found.versions:
        assert differences("launches", kept, found) == []


@pytest.mark.slow
def test_small_steps_have_no_graph_breaks_and_are_not_compiled_again() -> None:
    found = exact.PARTS["steps"](None)
    assert len(found.figures) == 3 * len(ARCHS)
    for name, row in found.figures.items():
        assert row["graph breaks"] == row["recompilations"] == 0, name
        assert row["graphs"], name
    # A family of one kind of block has as many more operators as it has more blocks; training has the most.
    assert (found.figures["mamba/tiny train"]["operators"] or 0) > 2 * (
        found.figures["mamba/tiny prefill"]["operators"] or 0
    )
    kept = read_baseline(BASELINE)["steps"]
    if kept.versions == found.versions:
        assert differences("steps", kept, found) == []


OTHER_TOOL = """
import json, re, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from hybridbench.gate.observe import compiled

gpu = next(gpu for gpu in compiled.GPUS if gpu.capability == 90)
((name, (kernel, given)),) = list(compiled.launches(gpu, ["_adamw"]).items())
built = triton.compile(
    ASTSource(kernel, given["signature"], given["constants"], given["configs"][0]),
    target=GPUTarget("cuda", 90, 32),
    options={"num_warps": given["num_warps"], "num_stages": given["num_stages"]},
)
with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
    file.write(built.asm["cubin"])
    file.flush()
    said = subprocess.run([compiled._tool("cuobjdump"), "-res-usage", file.name], capture_output=True, text=True).stdout
registers = int(re.search(r"REG:(\\d+)", said)[1])
sass = [line for line in built.asm["sass"].splitlines() if re.search(r";\\s*$", line) and "NOP" not in line]
tight = json.loads(given["specialization_data"])
tight["options"]["maxnreg"] = 16
from triton import knobs
knobs.cache.dir = tempfile.mkdtemp()
knobs.nvidia.dump_ptxas_log = True
few = compiled.figures((kernel, {**given, "specialization_data": json.dumps(tight)}), gpu)
json.dump({"registers": registers, "instructions": len(sass), "starved": few, "name": name}, sys.stdout)
"""


def other_tool() -> Mapping[str, Any]:
    done = subprocess.run([sys.executable, "-c", OTHER_TOOL], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_compiled_figures_are_those_of_another_tool() -> None:
    there = other_tool()
    found = exact.kernels(["sm_90"], ["_adamw"])
    row = found.figures[there["name"]]
    assert row["registers sm_90"] == there["registers"]
    assert row["instructions sm_90"] == there["instructions"]
    assert row["spill stores [B] sm_90"] == row["spill loads [B] sm_90"] == 0
    assert there["starved"]["registers"] < there["registers"]
    assert there["starved"]["spill stores [B]"] > 0
    kept = read_baseline(BASELINE)["kernels"]
    if kept.versions == found.versions:
        assert kept.figures[there["name"]]["registers sm_90"] == there["registers"]


OF_8_BITS = """
import json, sys
from hybridbench.gate.observe import compiled

gpu = next(gpu for gpu in compiled.GPUS if gpu.capability == 80)
found = {name: launch for name, launch in compiled.launches(gpu, ["begin"]).items() if "*fp8e4nv" in name}
json.dump({name: compiled.figures(launch, gpu) for name, launch in found.items()}, sys.stdout)
"""


@pytest.mark.slow
def test_kernels_of_e4m3_have_no_figures_before_ada() -> None:
    words = [sys.executable, "-c", OF_8_BITS]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found
    assert {value for figures in found.values() for value in figures.values()} == {None}


@pytest.mark.slow
def test_a_kernel_is_compiled_again_where_its_source_or_a_compiler_is_another() -> None:
    both = exact.kernels(["sm_90"], ["_adamw", "_swiglu_forward"])
    assert both.kept == 0
    (adamw,) = [name for name in both.figures if name.startswith("_adamw")]
    wrong = {name: dict.fromkeys(row, 1) for name, row in both.figures.items()}
    sources = {**both.sources, adamw: {"sm_90": "another"}}
    found = exact.kernels(["sm_90"], ["_adamw", "_swiglu_forward"], replace(both, figures=wrong, sources=sources))
    assert found.kept == 1
    assert found.sources == both.sources
    for name, row in found.figures.items():
        assert row == (both.figures[name] if name == adamw else wrong[name]), name
    older = replace(both, figures=wrong, versions={**both.versions, "ptxas": "12.0"})
    found = exact.kernels(["sm_90"], ["_adamw"], older)
    assert (found.kept, found.figures[adamw]) == (0, both.figures[adamw])


def test_a_source_without_figures_of_its_architecture_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    given = list[Any]()

    def observed(_program: str, architecture: str, *_wanted: str, **more: str) -> Section:
        given.append(json.loads(more["given"])["sources"])
        return Section({"a": {f"registers {architecture}": 1}}, {}, {"a": {architecture: "1"}})

    monkeypatch.setattr(exact, "_observed", observed)
    known = Section({"a": {"registers sm_90": 1}}, {}, {"a": {"sm_90": "1", "sm_100": "1"}})
    for architecture in ("sm_90", "sm_100", "sm_80"):
        exact.kernels([architecture], known=known)
    assert given == [{"a": "1"}, {}, {}]


TEXT = """
import triton
import triton.language as tl

SCALE = tl.constexpr({scale})


@triton.jit
def inner(x):
    return x * {factor}


@triton.jit
def outer(x_ptr):
    {comment}
    tl.store(x_ptr, inner(tl.load(x_ptr)) * SCALE)
"""


def text_of(tmp_path: Path, above: str = "", **changed: str) -> str:
    """The hash of ``outer``, from a file of its own."""
    text = above + TEXT.format(**{"scale": "2.0", "factor": "3", "comment": "", **changed})
    path = tmp_path / f"kernel_{hashlib.sha256(text.encode()).hexdigest()[:8]}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return sources.text_of(module.outer)


def test_a_source_is_another_where_anything_that_is_compiled_is(tmp_path: Path) -> None:
    known = text_of(tmp_path)
    assert text_of(tmp_path, above="# lines above it\n\n") == known
    changed = [
        text_of(tmp_path, factor="4"),  # in a function that it calls
        text_of(tmp_path, scale="2.5"),  # a global
        text_of(tmp_path, comment="tl.device_assert(True)"),
    ]
    assert len({known, *changed}) == 4


def test_a_source_holds_constants_alignments_options_and_the_gpu(tmp_path: Path) -> None:
    class Kernel:
        """A kernel whose text is known."""

        fn = object()

    sources._known[Kernel.fn] = "text"
    compile = {"signature": {"x": "*fp32"}, "constants": {(1,): 8}, "configs": [{(0,): [["tt.divisibility", 16]]}]}
    found = [
        sources.source_of(Kernel, compile, {"num_warps": 4}, 90),
        sources.source_of(Kernel, compile, {"num_warps": 4}, 100),
        sources.source_of(Kernel, compile, {"num_warps": 8}, 90),
        sources.source_of(Kernel, {**compile, "constants": {(1,): 16}}, {"num_warps": 4}, 90),
        sources.source_of(Kernel, {**compile, "configs": [{}]}, {"num_warps": 4}, 90),
        sources.source_of(Kernel, {**compile, "signature": {"x": "*bf16"}}, {"num_warps": 4}, 90),
    ]
    assert len(set(found)) == len(found)
    assert found[0] == sources.source_of(Kernel, compile, {"num_warps": 4}, 90)
    del sources._known[Kernel.fn]


@pytest.mark.slow
def test_a_program_that_fails_is_told_in_a_sentence() -> None:
    with pytest.raises(Unsupported, match="could not be observed here: StopIteration"):
        exact.kernels(["sm_10"])
