"""The kernels of a decode step on codes of 8 bits: right in triton's interpreter, and compiled for a Hopper GPU."""

from __future__ import annotations

import pytest
from hopper import for_hopper
from interpreted import right_steps

pytestmark = pytest.mark.slow

pytest.importorskip("triton", reason="triton is not installed, so there is no kernel to test")

TYPES = {
    **dict.fromkeys(("length_ptr", "count_ptr"), "*i32"),
    **dict.fromkeys(("part_ptr", "lse_ptr", "squares_ptr", "scale_ptr", "k_scale_ptr", "v_scale_ptr"), "*fp32"),
    **dict.fromkeys(("scale_log2", "eps"), "fp32"),
}


@pytest.mark.timeout(900)  # it runs on one core, of which others may leave it a third
def test_the_fused_step_is_right_on_codes_in_the_interpreter() -> None:
    """Logits and caches of every mixer, of tiles of many sequences, and attention's kernel, against the plain code."""
    found = right_steps("step_quantised_in_interpreter.py")
    assert len(found) >= 16


@pytest.mark.parametrize("codes", ["fp8e4nv", "i8"])
@pytest.mark.parametrize("tokens", [8, 16])
def test_weights_of_one_byte_are_loaded_16_bytes_at_a_time_and_multiplied_in_16_bit(tokens: int, codes: str) -> None:
    from hybridbench.kernels.step import triton_dense
    from hybridbench.model.tiling import Tiling

    tiling = Tiling.choose(16_384, 2048, 132, tokens, 1)
    constants = {"D": 2048, "F": 8192, "HALF": tiling.rows // 2, "PARTS": 32, "PARTS_TILE": 32, "B": tokens}
    constants |= {"TOKENS": tokens, "PDL": True, **tiling.constants}
    types = TYPES | dict.fromkeys(("xw_ptr", "act_ptr"), "*fp16") | {"w_ptr": f"*{codes}"}
    compiled = for_hopper(triton_dense.project_swiglu, constants, types, num_warps=tiling.warps)
    ptx = compiled.asm["ptx"]
    before = ptx[: ptx.index("griddepcontrol.wait")]
    assert before.count("ld.global.v4.b32") >= 4, "weights are loaded before the wait"
    assert "cp.async.cg.shared.global" in ptx
    assert "cp.async.ca.shared.global" not in ptx
    assert "f16.f16.f32" in ptx
    assert ".e4m3.e4m3" not in ptx
    weights = tiling.rows * tiling.block_k // (32 * tiling.warps)
    converted = ptx.count("cvt.rn.f16x2.e4m3x2" if codes == "fp8e4nv" else "sub.f16x2")
    assert 0 < converted <= 2 * weights, "one instruction for two codes, in the loop and after it"
    assert not [line for line in ptx.splitlines() if "cvt." in line and ("bf16" in line or ".s8" in line)]


def test_codes_of_keys_are_loaded_asynchronously_and_leave_room_for_two_programs() -> None:
    import triton

    from hybridbench.kernels.attention import triton_decode

    P = V = 64
    constants = {"q_stride_h": P, "k_stride_s": 8 * P, "k_stride_k": P, "v_stride_s": 8 * V, "v_stride_k": V, "K": 8}
    constants |= {"R": 4, "P": P, "V": V, "SPLITS": 32, "CHUNK": 32, "R_TILE": 4, "ROWS": 16, "HEAD_NORM": False}
    constants |= {"P_TILE": triton.next_power_of_2(P), "V_TILE": triton.next_power_of_2(V), "PDL": True}
    how = triton_decode.reading(P + V, 1, pairs=16, slots=10**6, n_sms=132)
    block = how.block_size(P + V, pairs=16, slots=10**6, n_sms=132)
    constants |= {"BLOCK": block, "STAGES": how.stages}
    compiled = for_hopper(
        triton_decode.attention_decode_kernel, constants, TYPES | {"k_ptr": "*fp8e4nv", "v_ptr": "*i16"}
    )
    ptx = compiled.asm["ptx"]
    assert "cp.async" in ptx
    assert "ldmatrix.sync.aligned.m8n8.x4.trans" in ptx, "values are transposed in pairs, not byte by byte"
    assert "ld.shared.b8" not in ptx
    assert block == 256
    assert compiled.metadata.shared * how.per_sm <= 228 << 10
    assert compiled.metadata.shared * (how.per_sm + 1) > 228 << 10
