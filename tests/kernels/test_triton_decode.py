"""The Triton decode kernel is right in triton's interpreter and compiles for a Hopper GPU, both without a GPU."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hopper import for_hopper
from interpreted import right_steps, said

from hybridbench.arch.families import MAMBA2
from hybridbench.arch.kinds import MIXERS

pytestmark = pytest.mark.slow

pytest.importorskip("triton", reason="triton is not installed, so there is no kernel to test")

SCRIPTS = Path(__file__).parent
TYPES = {
    **dict.fromkeys(("length_ptr", "count_ptr"), "*i32"),
    **dict.fromkeys(("part_ptr", "lse_ptr", "squares_ptr"), "*fp32"),
    **dict.fromkeys(("scale_log2", "eps"), "fp32"),
}


@pytest.mark.timeout(240)  # it runs on one core, of which others may leave it a third
def test_right_in_the_interpreter() -> None:
    errors = said("decode_in_interpreter.py")
    assert len(errors) >= 9
    for case, error in errors:
        # the interpreter cuts bfloat16 off where a GPU rounds, so its errors lean one way
        assert error < {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}[case.split("'")[1]], case


@pytest.mark.timeout(240)  # it runs on one core, of which others may leave it a third
def test_the_fused_step_is_right_in_the_interpreter() -> None:
    """Logits and caches of a few decoded tokens, every kind of block and several tilings, against the plain modules."""
    assert (
        len(
            right_steps(
                "step_in_interpreter.py",
            )
        )
        >= 6
    )


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mixer", [mixer for mixer in MIXERS if mixer != MAMBA2])
def test_a_mixer_s_stages_are_right_in_the_interpreter(mixer: str) -> None:
    """Alone and beside attention in a parallel block, in float32, and in bfloat16."""
    found = right_steps("step_in_interpreter.py", MIXERS[mixer])
    assert len(found) >= 3
    assert {case.split()[-1] for case, *_ in found} == {"float32", "bfloat16"}
    assert any("&" in case for case, *_ in found)


@pytest.mark.timeout(600)  # it runs on one core, of which others may leave it a third
def test_a_step_of_many_sequences_is_right_in_the_interpreter() -> None:
    """Tiles of 32 to 256 tokens, filled in part, with every kind of block, against the plain modules."""
    found = right_steps("step_many_in_interpreter.py")
    assert len(found) >= 13


@pytest.mark.timeout(400)  # it runs on one core, of which others may leave it a third
def test_a_search_drops_what_is_wrong_and_keeps_what_is_fast() -> None:
    told = said("tune_in_interpreter.py")
    assert told["found"] == [["qkv", 32, True, 50.0], ["head", 32, True, 50.0]]
    assert [line.split()[0] for line in told["dropped"]] == ["qkv", "head"]
    assert all("logits differs by" in line for line in told["dropped"])
    assert told["seen"] == [[2, 4], [4, 4]]
    assert told["seconds"] > 0
    faster = [["qkv"], ["head"], 90, 100]
    assert told["whole"] == [faster, [[], ["head"], 90, 100], [[], [], 100, 100]], "a step is slower with the head's"


def budgets(*words: str) -> list[tuple[str, dict[str, int]]]:
    """What each kernel of a step takes on a Hopper GPU, by name with constants. None spills registers."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "step_budgets.py"), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr[-2000:]}"
    lines = [line.partition(": ") for line in done.stdout.splitlines()]
    return [
        (name, {key: int(value) for key, value in re.findall(r"(\S+)=(\d+)", figures)}) for name, _, figures in lines
    ]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("batch", ["32", "64", "128", "256"])
def test_kernels_for_many_sequences_fit_a_hopper_gpu(batch: str) -> None:
    """None spills registers, every product runs on wgmma, and all copies to shared memory have 16 bytes."""
    products = [(name, taken) for name, taken in budgets("1b", batch) if " project_" in name]
    assert len(products) >= 6
    for name, taken in products:
        assert taken["HGMMA"] > 0, name
        assert taken["LDGSTS.E.BYPASS.128"] == taken["LDGSTS"], name


@pytest.mark.timeout(300)
def test_kernels_for_one_sequence_fit_a_hopper_gpu() -> None:
    """Its attention has the most splits to add up; values are 96 and 192 wide in a parallel block."""
    attentions = [name for name, _ in budgets("350m,3b", "1", "(*&M)-") if " attention_decode_kernel " in name]
    assert len(attentions) == 2
    assert all("splits=33" in name for name in attentions)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("batch", "stages", "block"), [(1, 4, 64), (16, 3, 256), (32, 4, 128)])
def test_what_is_reckoned_of_shared_memory_is_what_compiled_kernels_take(batch: int, stages: int, block: int) -> None:
    """Blocks of attention are small for one sequence, where two programs fit beside the product before."""
    from hybridbench.kernels.attention.triton_decode import SMALL, SMALL_PROGRAM
    from hybridbench.model.tiling import SM_SHARED, Tiling, token_tile

    found = dict(budgets("1b", str(batch), "*-"))
    product = next(taken for name, taken in found.items() if " project_qkv " in name)
    name, attention = next((name, taken) for name, taken in found.items() if " attention_decode_kernel " in name)
    tokens = token_tile(batch)
    tiling = Tiling.choose(3072, 2048, 132, tokens)
    assert tiling.shared_bytes(tokens, 2) == product["shared"]
    programs = 3072 // tiling.rows * tiling.splits
    room = SM_SHARED - -(-programs // 132) * (product["shared"] + 1024)
    assert tiling.room_beside(programs, 132, tokens) == room
    assert f"stages={stages} " in name
    assert f"block={block} " in name
    assert (room > SMALL.per_sm * SMALL_PROGRAM) is (batch < 32)
    if batch == 1:
        assert attention["shared"] + 1024 == SMALL_PROGRAM


def test_tilings_fill_the_gpu_and_divide_what_they_cut() -> None:
    from hybridbench.model.tiling import Tiling

    sizes = ((3072, 2048), (2048, 8192), (16384, 2048), (4882, 2048), (2048, 4352), (128_256, 2048), (256, 48))
    for n_rows, k in sizes:
        for tokens in (8, 16, 32, 64, 128, 256):
            tiling = Tiling.choose(n_rows, k, 132, tokens)
            assert k % tiling.block_k == 0
            assert tiling.splits <= k // tiling.block_k
            if n_rows * k >= 1 << 22:
                # above 8 tokens a split's programs do not wait for SMs: 96 of 3072 rows were faster than 144 on H200s,
                # of 16 tokens only where a program has no more than a thousand columns then; of 128 the sums of a
                # split fit into registers only where a product has no convolution
                many = tokens <= 8 or (tokens <= 16 and k > 1024 * tiling.splits)
                least = 0.9 if many else 0.7 if tokens <= 64 else 0.5
                assert -(-n_rows // tiling.rows) * tiling.splits >= least * 132
            if tokens > 16:
                assert tiling.stages * (tiling.rows + tokens) * tiling.block_k * 2 <= 227 << 10


def test_splits_follow_from_static_shapes() -> None:
    from hybridbench.kernels.attention.triton_decode import LARGE, MAX_SPLITS, MEDIUM, SMALL

    assert MEDIUM.split_count(pairs=32, slots=32768, block=64, n_sms=132) == 2 * 132 // 32
    assert LARGE.split_count(pairs=32, slots=32768, block=64, n_sms=132) == 132 // 32
    assert MEDIUM.split_count(pairs=32, slots=100, block=64, n_sms=132) == 2
    assert MEDIUM.split_count(pairs=10**6, slots=32768, block=64, n_sms=132) == 1
    assert MEDIUM.split_count(pairs=1, slots=10**6, block=64, n_sms=132) == MAX_SPLITS
    assert [how.block_size(256, 32, 32768, 132) for how in (SMALL, MEDIUM, LARGE)] == [64, 128, 256]
    assert MEDIUM.block_size(256, pairs=32, slots=576, n_sms=132) == 64, "short: a program for every SM"
    for row_bytes in (512, 768, 1024, 16, 2048):
        for how in (SMALL, MEDIUM, LARGE):
            block = how.block_size(row_bytes, pairs=8, slots=10**6, n_sms=132)
            assert 16 <= block <= 256
            assert block & (block - 1) == 0


@pytest.mark.parametrize(
    ("row_bytes", "pairs", "slots", "room", "named"),
    [
        (256, 8, 4096, 120, "SMALL"),  # one sequence at 1b, two programs fit beside the product's
        (256, 8, 4096, 100, "LARGE"),
        (256, 32, 4096, 120, "LARGE"),
        (256, 128, 4096, 0, "LARGE"),
        (256, 256, 4096, 0, "MEDIUM"),
        (256, 512, 4096, 0, "SMALL"),  # more than fit at a time
        (256, 32, 576, 120, "SMALL"),  # windows
        (256, 32, 576, 100, "MEDIUM"),
        (256, 128, 576, 0, "MEDIUM"),
        (512, 8, 4096, 120, "MEDIUM"),  # heads of 96
        (512, 32, 4096, 0, "LARGE"),
        (512, 512, 4096, 0, "LARGE"),
        (512, 128, 576, 0, "MEDIUM"),
        (768, 16, 4096, 0, "LARGE"),  # intra at 1b and 3b
        (768, 64, 4096, 0, "MEDIUM"),
    ],
)
def test_how_a_cache_is_read(row_bytes: int, pairs: int, slots: int, room: int, named: str) -> None:
    from hybridbench.kernels.attention import triton_decode

    assert triton_decode.reading(row_bytes, 2, pairs, slots, 132, room << 10) is getattr(triton_decode, named)
    assert triton_decode.reading(row_bytes, 1, pairs, slots, 132, room << 10) is triton_decode.MEDIUM, "codes"


@pytest.mark.parametrize(
    ("P", "V", "named"),
    [
        (64, 64, "SMALL"),
        (64, 64, "MEDIUM"),
        (72, 128, "MEDIUM"),
        (96, 192, "MEDIUM"),
        (64, 64, "LARGE"),
        (96, 96, "LARGE"),
    ],
)
def test_compiles_for_hopper_with_its_loads_in_flight(P: int, V: int, named: str) -> None:
    """A pipelined kernel copies its tiles asynchronously, 16 bytes at a time even where heads are 72 wide, and as many
    programs as are meant fit into one SM's 228 KiB, and no more; small ones leave room for as many of a product's.
    """
    import triton

    from hybridbench.kernels.attention import triton_decode

    how: triton_decode.CacheReading = getattr(triton_decode, named)
    row_bytes = 2 * (triton.next_power_of_2(P) + triton.next_power_of_2(V))
    constants = {
        "q_stride_h": P,
        "k_stride_s": 4 * P,
        "k_stride_k": P,
        "v_stride_s": 4 * V,
        "v_stride_k": V,
        "K": 4,
        "R": 4,
        "P": P,
        "V": V,
        "SPLITS": 32,
        "CHUNK": 8,
        "R_TILE": 4,
        "ROWS": 16,
        "P_TILE": triton.next_power_of_2(P),
        "V_TILE": triton.next_power_of_2(V),
        "BLOCK": how.block_size(row_bytes, pairs=128, slots=10**6, n_sms=132),
        "STAGES": how.stages,
        "HEAD_NORM": False,
        "PDL": True,
        "k_scale_ptr": None,
        "v_scale_ptr": None,
    }
    compiled = for_hopper(triton_decode.attention_decode_kernel, constants, TYPES)
    ptx = compiled.asm["ptx"]
    assert "cp.async.cg.shared.global" in ptx
    assert "cp.async.ca.shared.global" not in ptx
    assert "mma.sync" in ptx
    assert ptx.index("griddepcontrol.wait") < ptx.index("griddepcontrol.launch_dependents")
    fit = 2 * how.per_sm if named == "SMALL" else how.per_sm
    assert (compiled.metadata.shared + 1024) * fit <= 228 << 10
    assert (compiled.metadata.shared + 1024) * (fit + 1) > 228 << 10


@pytest.mark.parametrize("late", [False, True])
def test_attention_starts_before_or_after_the_product(late: bool) -> None:
    from hybridbench.kernels.step import triton_mixers

    constants = {"D": 2048, "H": 32, "K": 8, "P": 64, "V": 64, "TURN_PAIRS": 32, "PARTS": 32, "PARTS_TILE": 32}
    constants |= {"B": 4, "TOKENS": 8, "HALF": 16, "SPLITS": 2, "BLOCK_K": 128, "STAGES": 4, "ROTATES": True}
    constants |= {"LATE": late, "PDL": True, "scale_ptr": None, "k_scale_ptr": None, "v_scale_ptr": None}
    types = TYPES | {"turn_ptr": "*fp32", "slot_ptr": "*i64"}
    ptx = for_hopper(triton_mixers.project_qkv, constants, types).asm["ptx"]
    starts, wait = ptx.index("griddepcontrol.launch_dependents"), ptx.index("griddepcontrol.wait")
    assert ptx.count("griddepcontrol.launch_dependents") == 1
    assert wait < starts
    assert (starts > ptx.rindex("mma.sync")) is late
    assert starts < ptx.index("acq_rel", wait), "before the parts are added up"


def test_what_is_short_or_of_codes_starts_late() -> None:
    from hybridbench.kernels.attention.triton_decode import starts_late

    assert starts_late(2, pairs=32, slots=576, n_sms=132)
    assert not starts_late(2, pairs=8, slots=576, n_sms=132)
    assert not starts_late(2, pairs=128, slots=4096, n_sms=132)
    assert starts_late(1, pairs=128, slots=8192, n_sms=132)
    assert not starts_late(1, pairs=32, slots=8192, n_sms=132)


def test_weights_are_loaded_before_the_wait() -> None:
    """Programmatic dependent launch gains nothing unless what comes before the wait stays there."""
    from hybridbench.kernels.step import triton_dense

    constants = {"D": 2048, "F": 8192, "HALF": 64, "SPLITS": 1, "PARTS": 32, "PARTS_TILE": 32, "B": 4, "TOKENS": 8}
    constants |= {"BLOCK_K": 64, "STAGES": 4, "PDL": True}
    ptx = for_hopper(triton_dense.project_swiglu, constants, TYPES).asm["ptx"]
    before = ptx[: ptx.index("griddepcontrol.wait")]
    assert before.count("ld.global.v4.b32") >= 8
    assert "cp.async.cg.shared.global" not in before


def test_a_mixer_s_state_is_loaded_before_the_wait_and_its_weights_16_bytes_at_a_time() -> None:
    from hybridbench.kernels.step import triton_delta_rule, triton_segments

    cut = {"B": 4, "TOKENS": 8, "ROWS": 32, "SPLITS": 1, "BLOCK_K": 128, "STAGES": 4, "PARTS": 32, "PARTS_TILE": 32}
    constants = {"K": 2048, "X_WIDTH": 2048, "R": 12352, "WIDTH": 12352, "FIRST": 0, "LAST": 8192, "TAPS": 4}
    constants |= {"COLUMNS": 4, "BIAS": False, "NORMED": True, "PDL": True, **cut}
    ptx = for_hopper(triton_segments.project_segments, constants, TYPES).asm["ptx"]
    assert ptx[: ptx.index("griddepcontrol.wait")].count("ld.global.v4.b32") >= 32 * 128 // (8 * 128)
    assert "cp.async.cg.shared.global" in ptx
    assert "cp.async.ca.shared.global" not in ptx
    head = {"H": 32, "G": 16, "P": 128, "V": 128, "WIDTH": 12352, "RANK": 0, "SECOND_WIDTH": 0}
    head |= {"PIECE": 64, "P_TILE": 128, "V_TILE": 128, "HEAD_NORM": False, "PDL": True}
    types = TYPES | dict.fromkeys(("A_log_ptr", "dt_bias_ptr", "raw_ptr"), "*fp32")
    types |= dict.fromkeys(("scale", "unit_eps", "head_eps"), "fp32")
    ptx = for_hopper(triton_delta_rule.update_delta, head, types, num_warps=4).asm["ptx"]
    before = ptx[: ptx.index("griddepcontrol.wait")]
    assert len(re.findall(r"ld\.global\S*\.v4\.b32", before)) >= 128 * 64 // (8 * 128)
