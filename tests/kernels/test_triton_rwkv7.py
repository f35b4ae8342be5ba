"""The Triton kernels of RWKV-7 are right in triton's interpreter and compile for Hopper, without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
from hopper import for_hopper
from interpreted import said

pytestmark = pytest.mark.slow

pytest.importorskip("triton", reason="triton is not installed, so there is no kernel to test")

BOUND = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}


@pytest.mark.timeout(240)  # it runs on one core, of which others may leave it a third
def test_right_in_the_interpreter_and_equal_from_run_to_run() -> None:
    errors = said("rwkv7_in_interpreter.py")
    assert len(errors) >= 75
    for case, error in errors:
        # the interpreter cuts bfloat16 off where a GPU rounds, so its errors lean one way
        assert error < BOUND[case.split()[0]], case


KERNELS: dict[str, dict[str, Any]] = {
    # At 1B shapes: what is a constant of each kernel there.
    "_shift_forward": {"FRONT": False, "MIXES": 6, "ROWS": 4, "BLOCK": 1024},
    "_shift_backward": {"FRONT": False, "MIXES": 6, "BLOCK": 1024, "STAGES": 3},
    "_keys_forward": {"GROUPS": 32, "P_TILE": 64},
    "_keys_backward": {"HEADS": 16, "P_TILE": 64, "STAGES": 3},
}
TYPES = {
    **dict.fromkeys(("d_share_ptr", "d_removal_ptr", "d_added_ptr"), "*fp32"),
    "eps": "fp32",
}
WIDE = ("ld.global.v4.b32", "ld.global.v2.b64", "cp.async.cg")
"""Loads of 16 bytes."""


@pytest.mark.parametrize("name", KERNELS)
def test_compiles_for_hopper_with_wide_accesses_and_no_spills(name: str) -> None:
    from hybridbench.kernels.rwkv7 import triton_keys, triton_shift

    kernel = {**vars(triton_shift), **vars(triton_keys)}[name]
    ptx = for_hopper(kernel, KERNELS[name], TYPES, num_warps=4).asm["ptx"]
    moved = [
        line
        for line in ptx.splitlines()
        if any(word in line for word in ("ld.global", "st.global", "cp.async.cg", "cp.async.ca"))
    ]
    narrow = [line for line in moved if not any(word in line for word in (*WIDE, "st.global.v4.b32"))]
    assert moved
    assert not narrow, narrow
    assert "st.local" not in ptx
