"""The Triton decode kernel is right in triton's interpreter and compiles for a Hopper GPU, both without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed, so there is no kernel to test")

SCRIPTS = Path(__file__).parent


def test_right_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "2"}
    script = [sys.executable, str(SCRIPTS / "decode_in_interpreter.py")]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, cwd=SCRIPTS.parents[1], check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    errors = json.loads(done.stdout)
    assert len(errors) >= 8
    for case, error in errors:
        # the interpreter cuts bfloat16 off where a GPU rounds, so its errors lean one way
        assert error < {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}[case.split("'")[1]], case


def test_splits_follow_from_static_shapes() -> None:
    from hybridbench.kernels.triton_decode import MAX_SPLITS, PROGRAMS_PER_SM, block_size, split_count

    assert split_count(pairs=32, slots=32768, block=64, n_sms=132) == 132 * PROGRAMS_PER_SM // 32
    assert split_count(pairs=32, slots=100, block=64, n_sms=132) == 2
    assert split_count(pairs=10**6, slots=32768, block=64, n_sms=132) == 1
    assert split_count(pairs=1, slots=10**6, block=64, n_sms=132) == MAX_SPLITS
    assert block_size(64, 64, 2) == 64
    for P, V, size in ((64, 64, 4), (72, 128, 2), (96, 192, 2), (256, 256, 4), (8, 8, 2)):
        block = block_size(P, V, size)
        assert 16 <= block <= 128
        assert block & (block - 1) == 0


@pytest.mark.parametrize(("P", "V"), [(64, 64), (72, 128), (96, 192)])
def test_compiles_for_hopper_with_its_loads_in_flight(P: int, V: int) -> None:
    """A pipelined kernel copies its tiles asynchronously, and four programs must fit into one SM's 228 KiB."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hybridbench.kernels import triton_decode

    kernel = triton_decode._attention_decode_partials
    constants = {
        "K": 4,
        "R": 4,
        "P": P,
        "V": V,
        "SPLITS": 32,
        "ROWS": 16,
        "P_TILE": triton.next_power_of_2(P),
        "V_TILE": triton.next_power_of_2(V),
        "BLOCK": triton_decode.block_size(P, V, 2),
        "STAGES": 3,
    }
    types = {"q_ptr": "*bf16", "k_ptr": "*bf16", "v_ptr": "*bf16", "length_ptr": "*i32", "scale_log2": "fp32"}
    types |= {"out_ptr": "*fp32", "lse_ptr": "*fp32"}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name] not in ("fp32", "constexpr")
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    compiled = triton.compile(ASTSource(kernel, signature, values, aligned), target=GPUTarget("cuda", 90, 32))
    ptx = compiled.asm["ptx"]
    assert "cp.async.cg.shared.global" in ptx
    assert "mma.sync" in ptx
    assert compiled.metadata.shared * triton_decode.PROGRAMS_PER_SM <= 228 << 10
