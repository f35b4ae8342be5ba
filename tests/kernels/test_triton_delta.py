"""The Triton kernels of the delta rules are right in triton's interpreter and compile for Hopper, without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
from interpreted import said

pytestmark = pytest.mark.slow

pytest.importorskip("triton", reason="triton is not installed, so there is no kernel to test")

BOUND = {"float32": 1e-5, "bfloat16": 1e-2}


@pytest.mark.timeout(240)  # it runs on one core, of which others may leave it a third
def test_right_in_the_interpreter() -> None:
    errors = said("delta_in_interpreter.py")
    assert len(errors) == 3 * 12 + 2 * 10
    for case, error in errors:
        # the interpreter cuts bfloat16 off where a GPU rounds, so its errors lean one way
        assert error < BOUND[case.split()[0]], case


STEP = {"H": 32, "P": 128, "V": 128, "P_TILE": 128, "V_TILE": 32}
KERNELS: dict[str, dict[str, Any]] = {
    # At 1B shapes: what is a constant of each kernel there.
    "_delta_step": {**STEP, "SHARED": 2, "PER_CHANNEL": False},
    "_delta_step by channel": {**STEP, "SHARED": 1, "PER_CHANNEL": True},
    "_norm_gate_forward": {"SILU": True, "GROUPS": 16, "V_TILE": 128},
    "_norm_gate_backward": {"SILU": True, "GROUPS": 16, "V_TILE": 128},
}
TYPES = {
    **dict.fromkeys(("A_log_ptr", "dt_bias_ptr", "d_weight_ptr"), "*fp32"),
    **dict.fromkeys(("eps", "scale", "unit_eps"), "fp32"),
}


@pytest.mark.parametrize("name", KERNELS)
def test_compiles_for_hopper_with_wide_loads_and_no_spills(name: str) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hybridbench.kernels.delta import triton_delta

    kernel, constants = vars(triton_delta)[name.split()[0]], KERNELS[name]

    def kind(argument: str) -> str:
        if argument in constants:
            return "constexpr"
        return TYPES.get(argument, "*bf16" if argument.endswith("_ptr") else "i32")

    signature = {argument: kind(argument) for argument in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, argument in enumerate(kernel.arg_names)
        if signature[argument] not in ("fp32", "constexpr")
    }
    values = {(kernel.arg_names.index(argument),): value for argument, value in constants.items()}
    source = ASTSource(kernel, signature, values, aligned)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm["ptx"]
    assert any(load in ptx for load in ("ld.global.v4.b32", "ld.global.v2.b64"))
    assert "st.local" not in ptx
