"""The Triton kernels of training are right in triton's interpreter and compile for a Hopper GPU, both without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hopper import for_hopper
from interpreted import said

pytestmark = pytest.mark.slow

pytest.importorskip("triton", reason="triton is not installed, so there is no kernel to test")

SCRIPTS = Path(__file__).parent
BOUND = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1e-2}


@pytest.mark.parametrize(
    ("part", "cases"), [("elementwise", 45), ("optimizer", 214), ("published", 12), ("one-pass", 14)]
)
@pytest.mark.timeout(240)  # it runs on one core, of which others may leave it a third
def test_right_in_the_interpreter(part: str, cases: int) -> None:
    errors = said("train_in_interpreter.py", part)
    assert len(errors) >= cases
    for case, error in errors:
        # the interpreter cuts bfloat16 off where a GPU rounds, so its errors lean one way
        assert error < BOUND[case.split()[0]], case


KERNELS: dict[str, dict[str, Any]] = {
    # At 1B shapes: what is a constant of each kernel there.
    "_swiglu_forward": {"BLOCK": 2048},
    "_swiglu_backward": {"BLOCK": 2048},
    "_add_rms_norm_forward": {"ADD": True, "BLOCK": 2048},
    "_add_rms_norm_backward": {"ADD": True, "BLOCK": 2048, "STAGES": 3},
    "_rotary": {"INVERSE": True, "H": 32, "K": 8, "R": 512, "P": 64, "HALF": 32, "SLOTS": 64},
    "_gate_forward": {"NORM": True, "BLOCK": 4096, "UNIT": 8},
    "_gate_backward": {"BLOCK": 2048, "UNIT": 8},
    "_gate_norm_backward": {"BLOCK": 4096, "UNIT": 8, "STAGES": 3},
    "_head_norm_forward": {"GROUPS": 16, "P_TILE": 128},
    "_head_norm_backward": {"GROUPS": 16, "P_TILE": 128},
    "_cross_entropy_in_place": {"GRADIENT": True, "GROUPS": 2048, "TOGETHER": 8},
    "_scaled": {"BLOCK": 4096},
    "_adamw": {"BLOCK": 2048},
}
TYPES = {
    **dict.fromkeys(("cos_ptr", "sin_ptr", "d_weight_ptr", "loss_ptr", "by_ptr"), "*fp32"),
    **dict.fromkeys(("eps", "scale", "decay", "rate", "correction"), "fp32"),
    **dict.fromkeys(("keep_first", "add_first", "keep_second", "add_second"), "fp32"),
    "target_ptr": "*i64",
}
WARPS = {"_rotary": 8, "_gate_forward": 8, "_gate_norm_backward": 8, "_cross_entropy_in_place": 32, "_scaled": 8}


@pytest.mark.parametrize("name", KERNELS)
def test_compiles_for_hopper_with_wide_loads_and_no_spills(name: str) -> None:
    """A kernel that only moves memory must move 16 bytes a load, and keep what it loaded in registers."""
    from hybridbench.kernels.dense import (
        triton_add_rms_norm,
        triton_gate,
        triton_head_norms,
        triton_rotary,
        triton_swiglu,
    )
    from hybridbench.kernels.loss import triton_loss
    from hybridbench.kernels.optimizer import triton_adamw

    dense = (triton_add_rms_norm, triton_gate, triton_head_norms, triton_rotary, triton_swiglu)
    modules = (*dense, triton_loss, triton_adamw)
    kernel = next(vars(module)[name] for module in modules if name in vars(module))
    registers = {"maxnreg": triton_gate.REGISTERS} if name == "_gate_norm_backward" else {}
    ptx = for_hopper(kernel, KERNELS[name], TYPES, num_warps=WARPS.get(name, 4), **registers).asm["ptx"]
    # cp.async.cg is the copy into shared memory that comes in 16 bytes only.
    assert any(load in ptx for load in ("ld.global.v4.b32", "ld.global.v2.b64", "cp.async.cg")), sorted(
        {line.split()[1] for line in ptx.splitlines() if "ld.global" in line}
    )
    assert "st.local" not in ptx


HOPPER, RESERVED = 233_472, 1024
"""Bytes of shared memory of an SM, and those of each program that the driver takes."""
SCAN = {"P": 128, "N": 128, "SHARE": 32, "BLOCK": 64, "SLICE": 64, "STAGES": 2}
SCAN_KERNELS: dict[str, dict[str, Any]] = {
    "scan_forward_kernel": {**SCAN, "HAS_INITIAL": False, "KEEP": True, "ADD": False},
    "scan_reverse_kernel": {**SCAN, "HAS_FINAL": True},
    "scan_d_x_kernel": {**SCAN, "HEADS": 32, "ADD": False},
    "scan_d_b_kernel": {**SCAN, "HEADS": 32},
    "scan_d_c_kernel": {**SCAN, "HEADS": 32},
}
TILES = {
    **dict.fromkeys(("x_tiles", "y_tiles", "d_y_tiles", "d_x_tiles"), "tensordesc<bf16[1,64,64]>"),
    **dict.fromkeys(("b_tiles", "c_tiles"), "tensordesc<bf16[1,64,128]>"),
    **dict.fromkeys(("d_b_tiles", "d_c_tiles"), "tensordesc<fp32[1,64,128]>"),
    **dict.fromkeys(("states_tiles", "d_states_tiles"), "tensordesc<bf16[64,128]>"),
    "d_scores_tiles": "tensordesc<bf16[64,64]>",
}


@pytest.mark.parametrize("name", SCAN_KERNELS)
def test_a_scan_compiles_for_hopper_to_bulk_copies_and_asynchronous_products(name: str) -> None:
    from hybridbench.kernels.scan import triton_ssd, triton_ssd_backward
    from hybridbench.kernels.scan.core import SHARED_BYTES

    kernel = {**vars(triton_ssd), **vars(triton_ssd_backward)}[name]
    types = TILES | {argument: "*fp32" for argument in kernel.arg_names if argument.endswith("_ptr")}
    types |= {"states_ptr": "*bf16"} if "states_ptr" in kernel.arg_names else {}
    compiled = for_hopper(kernel, SCAN_KERNELS[name], types, num_warps=triton_ssd.WARPS)
    ptx = compiled.asm["ptx"]
    assert "cp.async.bulk.tensor" in ptx
    assert "wgmma.mma_async" in ptx
    assert "mma.sync.aligned" not in ptx.replace("wgmma.mma_async.sync.aligned", "")
    assert "ld.global.b16" not in ptx, "a tile is read element by element"
    assert compiled.metadata.shared <= SHARED_BYTES
    if "ADD" in SCAN_KERNELS[name]:
        added = for_hopper(kernel, {**SCAN_KERNELS[name], "ADD": True}, types, num_warps=triton_ssd.WARPS)
        assert "cp.reduce.async.bulk.tensor" in added.asm["ptx"]
        assert "st.local" not in added.asm["ptx"]
        assert 2 * (added.metadata.shared + RESERVED) <= HOPPER, "two programs have room on an SM"
    if name == "scan_forward_kernel":
        assert 2 * (compiled.metadata.shared + RESERVED) <= HOPPER, "two programs have room on an SM"
        alone = for_hopper(kernel, {**SCAN_KERNELS[name], "STAGES": triton_ssd.LONE_STAGES}, types)
        assert alone.metadata.shared == SHARED_BYTES
        for stages in (SCAN["STAGES"], triton_ssd.LONE_STAGES):
            continued = for_hopper(kernel, {**SCAN_KERNELS[name], "HAS_INITIAL": True, "STAGES": stages}, types)
            assert continued.metadata.shared <= SHARED_BYTES
            assert "st.local" not in continued.asm["ptx"]
