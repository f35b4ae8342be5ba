"""What torch and Triton decide is observed as it is: launches by hand, compiled kernels by another tool."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hybridbench.arch.families import ARCHS, MAMBA2, Options, build_spec
from hybridbench.arch.kinds import MIXERS
from hybridbench.errors import Unsupported
from hybridbench.gate import exact
from hybridbench.gate.baseline import differences, read_baseline

pytest.importorskip("triton.knobs", reason="triton is not installed, so there is no kernel to compile")

BASELINE = Path(__file__).parents[2] / "results" / "baselines" / "exact.json"


@pytest.mark.slow
def test_a_fused_step_launches_five_kernels_a_block_and_three_more() -> None:
    """Three products and what mixes or reads the state in a mixer and its MLP; the first, the head, the last."""
    found = exact.PARTS["launches"]()
    for arch in ("transformer", "swa", "mamba", "inter"):
        for scale in ("tiny", "1b", "3b"):
            blocks = sum(letter not in "-E" for letter in build_spec(arch, scale).layers)
            assert found.figures[f"{arch}/{scale}"]["launches"] == 5 * blocks + 3, (arch, scale)
    for mixer in MIXERS:
        if mixer != MAMBA2:
            blocks = Counter(
                letter for letter in build_spec("inter", "1b", Options(mixer=mixer)).layers if letter != "-"
            )
            more = blocks["m"]  # Mamba-1 has a product between its conv and its state
            assert found.figures[f"inter {mixer}/1b"]["launches"] == 5 * blocks.total() + more + 3, mixer
    kept = read_baseline(BASELINE)["launches"]
    if kept.versions == found.versions:
        assert differences("launches", kept, found) == []


@pytest.mark.slow
def test_small_steps_have_no_graph_breaks_and_are_not_compiled_again() -> None:
    found = exact.PARTS["steps"]()
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


def test_a_program_that_fails_is_told_in_a_sentence() -> None:
    with pytest.raises(Unsupported, match="could not be observed here: StopIteration"):
        exact.kernels(["sm_10"])
