"""Every backend in the table either agrees with its reference here or says in a sentence why it cannot run."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from hybridbench.errors import BadInput, Unsupported
from hybridbench.kernels import Backend, Problem, available, backends, resolve, resolver, verify
from hybridbench.kernels.attention.flash_attn import unsupported_flash_attn_4
from hybridbench.kernels.delta.fla import unsupported_gated_delta
from hybridbench.kernels.scan.core import unsupported_one_pass
from hybridbench.operations import OPERATIONS
from hybridbench.suite.ops import DECODE_STEP, OPS, OPS_ALONE

KERNELS = {op: backends(op) for op, row in OPERATIONS.items() if row.inputs}
"""What runs each operation of tensors."""

SHAPES: dict[str, list[dict[str, int]]] = {
    "attention": [
        {"head_dim": 16, "n_heads": 4, "n_kv_heads": 4},
        {"head_dim": 64, "n_heads": 32, "n_kv_heads": 8},
        {"head_dim": 72, "v_head_dim": 128, "n_heads": 16, "n_kv_heads": 4},
        {"head_dim": 16, "n_heads": 8, "n_kv_heads": 2, "window": 70, "length": 300},
        {"head_dim": 16, "n_heads": 8, "n_kv_heads": 2, "window": 70, "sinks": 9, "length": 300},
    ],
    "attention_decode": [
        {"head_dim": 64, "n_heads": 32, "n_kv_heads": 8},
        {"head_dim": 24, "v_head_dim": 48, "n_heads": 4, "n_kv_heads": 4},
    ],
    "ssd": [{"head_dim": 64, "n_heads": 8, "d_state": 32, "chunk_size": 64, "n_groups": g} for g in (1, 4)],
    "ssd_step": [{"head_dim": 64, "n_heads": 8, "d_state": 32, "n_groups": g} for g in (1, 4)],
    "conv1d": [{"d_conv": 4}, {"d_conv": 2}],
    "conv1d_step": [{"d_conv": 4}],
    "mamba2_core": [
        {"head_dim": 64, "n_heads": 8, "d_state": 32, "chunk_size": 64, "d_conv": 4, "n_groups": g} for g in (1, 4)
    ],
    "selective_scan": [{"d_state": 16}, {"d_state": 5}],
    "selective_step": [{"d_state": 16}],
    "mamba3_scan": [
        {"head_dim": 16, "n_heads": 4, "d_state": 32, "n_angles": 8, "chunk_size": 64},
        {"head_dim": 24, "n_heads": 8, "d_state": 16, "n_angles": 8, "chunk_size": 32, "n_groups": 4},
    ],
    "mamba3_step": [{"head_dim": 16, "n_heads": 4, "d_state": 32, "n_angles": 8, "n_groups": g} for g in (1, 2)],
    "gated_delta": [
        {"head_dim": 16, "v_head_dim": 24, "n_heads": 4, "n_kv_heads": 2, "chunk_size": 64},
        {"head_dim": 24, "n_heads": 3, "chunk_size": 32},
    ],
    "gated_delta_step": [{"head_dim": 16, "v_head_dim": 24, "n_heads": 4, "n_kv_heads": 2}],
    "kda": [{"head_dim": 16, "n_heads": 3, "chunk_size": 64}],
    "kda_step": [{"head_dim": 16, "n_heads": 3}],
    "lightning": [{"head_dim": 16, "n_heads": 4, "chunk_size": 64}, {"head_dim": 24, "n_heads": 3, "chunk_size": 16}],
    "product": [{}],
    "lightning_step": [{"head_dim": 16, "n_heads": 4}],
    "norm_gate": [{"head_dim": 16, "v_head_dim": 24}, {"head_dim": 16, "n_heads": 6, "norm_width": 96}],
    "rwkv7": [{"head_dim": 16, "n_heads": 3, "chunk_size": 64}, {"head_dim": 24, "n_heads": 2, "chunk_size": 16}],
    "rwkv7_step": [{"head_dim": 16, "n_heads": 3}],
    "rwkv7_output": [{"head_dim": 16}, {"head_dim": 24}],
    "rwkv7_shift": [{}, {"d_model": 200}],
    "rwkv7_keys": [{"head_dim": 16}, {"head_dim": 24}],
    "swiglu": [{}, {"width": 200}],
    "add_rms_norm": [{}, {"width": 200}],
    "rotary": [{"head_dim": 16, "n_heads": 8, "n_kv_heads": 2}, {"head_dim": 24, "v_head_dim": 48, "n_heads": 4}],
    "gate": [{}, {"width": 200}],
    "head_norms": [{"head_dim": 16, "v_head_dim": 24}],
    "experts": [{}],
    "linear_cross_entropy": [{}],
    "adamw": [{}],
}


def cases() -> list[pytest.param]:
    return [
        pytest.param(
            backend,
            Problem(device="cpu", dtype=dtype, training=training, **shape),
            id=f"{op}-{name}-{i}-{dtype}-{training}",
        )
        for op, table in KERNELS.items()
        for name, backend in table.items()
        for i, shape in enumerate(SHAPES[op])
        for dtype, training in (("float32", True), ("bfloat16", True), ("float64", False))
    ]


@pytest.mark.parametrize(("backend", "problem"), cases())
@pytest.mark.sampled
def test_a_backend_is_right_or_says_why_not(backend: Backend, problem: Problem) -> None:
    reason = available(backend, problem)
    if reason is None:
        check = verify(resolve(backend.op, backend.name, problem), problem, device="cpu", seed=3)
        assert (check.op, check.backend) == (backend.op, backend.name)
        assert check.error <= check.bound
        assert check.cases >= 1
    else:
        with pytest.raises(Unsupported) as refused:
            resolve(backend.op, backend.name, problem)
        assert backend.name in str(refused.value)
        assert reason in str(refused.value)
        assert "What can run here: " in str(refused.value)


def test_every_operation_has_a_reference_and_a_complete_order() -> None:
    assert set(OPERATIONS) == {*OPS, *OPS_ALONE}, "a kind of block asks for what is no operation, or nobody asks"
    assert set(OPERATIONS) - {DECODE_STEP} == set(KERNELS) == set(SHAPES)
    for op, table in KERNELS.items():
        assert "reference" in table
        for name, backend in table.items():
            assert (backend.op, backend.name) == (op, name)
        for device in ("cpu", "cuda"):
            order = OPERATIONS[op].order[device]
            assert order[-1] == "reference"
            assert set(order) <= set(table)
        never_on_a_gpu = {backend.name for backend in OPERATIONS[op].cpu_only}
        assert set(OPERATIONS[op].order["cuda"]) == set(table) - never_on_a_gpu


@pytest.mark.parametrize(
    ("op", "problem", "chosen"),
    [
        ("attention", Problem("cpu", "float32", head_dim=64, n_heads=4), "sdpa-flash"),
        ("attention", Problem("cpu", "float32", head_dim=64, v_head_dim=128, n_heads=4), "sdpa-blocks"),
        ("attention", Problem("cpu", "float32", head_dim=64, n_heads=4, window=512, sinks=64), "sdpa-blocks"),
        ("attention_decode", Problem("cpu", "float32", head_dim=64, n_heads=4), "sdpa-mask"),
        ("ssd", Problem("cpu", "float32", head_dim=64, n_heads=4, d_state=16, chunk_size=64), "reference"),
        ("linear_cross_entropy", Problem("cpu", "float32"), "chunked"),
    ],
)
def test_auto_on_a_cpu(op: str, problem: Problem, chosen: str) -> None:
    assert resolve(op, "auto", problem).name == chosen


@pytest.mark.parametrize(
    ("problem", "chosen"),
    [
        (Problem("cuda", "bfloat16", head_dim=64, n_heads=32, n_kv_heads=8, training=True), "flash-attn-4"),
        (Problem("cuda", "bfloat16", head_dim=72, v_head_dim=128, n_heads=18, n_kv_heads=6), "flash-attn-4"),
        (
            Problem("cuda", "bfloat16", head_dim=72, v_head_dim=128, n_heads=18, n_kv_heads=6, training=True),
            "sdpa-cudnn",
        ),
        (Problem("cuda", "bfloat16", head_dim=60, n_heads=32), "sdpa-cudnn"),
        (Problem("cuda", "float32", head_dim=64, n_heads=32, n_kv_heads=8), "flex"),
        (Problem("cuda", "bfloat16", head_dim=64, n_heads=32, n_kv_heads=8, window=512), "flash-attn-4"),
        (Problem("cuda", "bfloat16", head_dim=64, n_heads=32, n_kv_heads=8, window=512, sinks=64), "flex"),
        (Problem("cuda", "bfloat16", head_dim=96, v_head_dim=192, n_heads=16, window=512), "flex"),
    ],
)
def test_auto_on_cuda_follows_the_refusals(problem: Problem, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every package installed and no device to try kernels on, only the stated refusals decide."""

    def stated_reason(backend: Backend, asked: Problem | None = None, _ruled_out: str | None = None) -> str | None:
        return backend.unsupported(asked) if asked else None

    monkeypatch.setattr(resolver, "available", stated_reason)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve("attention", "auto", problem).name == chosen


@pytest.mark.parametrize(
    ("op", "name", "problem", "says"),
    [
        ("attention", "flash-attn", Problem("cuda", "bfloat16", head_dim=32, n_heads=4), "33 to 128 and 193 to 256"),
        (
            "attention",
            "flash-attn",
            Problem("cuda", "bfloat16", head_dim=96, v_head_dim=192, n_heads=4),
            "width is 192",
        ),
        ("attention", "flash-attn", Problem("cuda", "float16", head_dim=64, n_heads=4), "float16"),
        ("attention", "flash-attn", Problem("cuda", "bfloat16", head_dim=64, n_heads=4, window=8, sinks=2), "no sinks"),
        ("attention", "flash-attn-4", Problem("cuda", "float32", head_dim=64, n_heads=4), "dtype is float32"),
        ("attention", "flash-attn-4", Problem("cuda", "bfloat16", head_dim=60, n_heads=4), "they are 60 and 60"),
        ("attention", "flash-attn-4", Problem("cuda", "bfloat16", head_dim=512, n_heads=4), "from 8 to 256"),
        (
            "attention",
            "flash-attn-4",
            Problem("cuda", "bfloat16", head_dim=64, n_heads=4, window=8, sinks=2),
            "2 sinks",
        ),
        (
            "attention",
            "flash-attn-4",
            Problem("cuda", "bfloat16", head_dim=72, v_head_dim=128, n_heads=18, n_kv_heads=6, training=True),
            "they are 128 and 72",
        ),
        ("attention", "flash-attn-4", Problem("cuda", "bfloat16", head_dim=96, v_head_dim=192), "they are 96 and 192"),
        ("attention", "flash-attn-4", Problem("cpu", "bfloat16", head_dim=64, n_heads=4), "device is cpu"),
        ("attention", "sdpa-cudnn", Problem("cuda", "bfloat16", head_dim=64, n_heads=4, window=8), "window of 8"),
        ("attention", "sdpa-math", Problem("cpu", "float32", head_dim=64, n_heads=4, window=8, length=9000), "9000"),
        ("attention", "flex", Problem("cpu", "float32", head_dim=64, n_heads=4), "backward"),
        ("attention_decode", "flash-attn", Problem("cuda", "bfloat16", head_dim=72, v_head_dim=128), "128 and 72"),
        ("attention_decode", "flash-attn", Problem("cuda", "bfloat16", head_dim=100), "multiple of 8"),
        ("ssd", "mamba-ssm", Problem("cuda", "float32", head_dim=64, d_state=16, chunk_size=64), "tf32"),
        ("conv1d", "causal-conv1d", Problem("cuda", "bfloat16", d_conv=7), "d_conv is 7"),
        ("mamba2_core", "one-pass", Problem("cuda", "bfloat16", head_dim=192, d_state=256, d_conv=4), "d_state 256"),
        (
            "mamba2_core",
            "one-pass-pieces",
            Problem("cuda", "bfloat16", head_dim=64, d_state=64, d_conv=4),
            "d_state 64",
        ),
        (
            "mamba2_core",
            "one-pass-pieces",
            Problem("cuda", "bfloat16", head_dim=64, d_state=256, d_conv=4, n_groups=2),
            "n_groups 2",
        ),
        ("mamba2_core", "one-pass", Problem("cuda", "bfloat16", head_dim=48, d_state=64, d_conv=4), "head_dim is 48"),
        ("selective_scan", "mamba-ssm", Problem("cuda", "bfloat16", d_state=300), "d_state is 300"),
        ("selective_scan", "mamba-ssm", Problem("cuda", "float64", d_state=16), "no float64"),
        ("mamba3_scan", "mamba-ssm", Problem("cuda", "float16", head_dim=64, d_state=64, n_angles=16), "are float16"),
        ("mamba3_scan", "mamba-ssm", Problem("cuda", "bfloat16", head_dim=192, d_state=64), "head_dim is 192"),
        ("mamba3_scan", "mamba-ssm", Problem("cuda", "bfloat16", head_dim=64, d_state=64, chunk_size=48), "is 48"),
        ("mamba3_step", "mamba-ssm", Problem("cuda", "bfloat16", head_dim=64, d_state=8, n_angles=2), "d_state is 8"),
        ("mamba3_step", "mamba-ssm", Problem("cuda", "bfloat16", head_dim=64, d_state=64, n_angles=34), "not 34"),
        ("gated_delta", "fla", Problem("cuda", "float32", head_dim=64, n_heads=4), "tf32"),
        ("gated_delta", "fla", Problem("cuda", "bfloat16", head_dim=320, n_heads=4), "head_dim is 320"),
        ("gated_delta", "fla", Problem("cuda", "bfloat16", head_dim=64, n_heads=4, chunk_size=128), "16 or 32 or 64"),
        ("kda", "fla", Problem("cpu", "bfloat16", head_dim=64, n_heads=4), "device is cpu"),
        ("kda_step", "triton", Problem("cuda", "float64", head_dim=64, n_heads=4), "float32"),
        ("lightning", "fla", Problem("cuda", "float32", head_dim=64, n_heads=4), "tf32"),
        ("lightning", "fla", Problem("cuda", "bfloat16", head_dim=63, n_heads=4), "head_dim is 63"),
        ("lightning", "fla", Problem("cuda", "bfloat16", head_dim=64, chunk_size=256), "chunk_size is 256"),
        ("lightning_step", "fla", Problem("cuda", "float64", head_dim=64, n_heads=4), "float32"),
        ("rwkv7", "fla", Problem("cuda", "bfloat16", head_dim=64, n_heads=4, chunk_size=128), "16 or 32 or 64"),
        ("rwkv7_step", "fla", Problem("cpu", "bfloat16", head_dim=64, n_heads=4), "device is cpu"),
        ("conv1d", "causal-conv1d", Problem("cpu", "bfloat16", d_conv=4), "device is cpu"),
    ],
)
def test_refusals_name_the_offending_value(op: str, name: str, problem: Problem, says: str) -> None:
    with pytest.raises(Unsupported, match=says):
        resolve(op, name, problem)


@pytest.mark.parametrize(
    ("gpu", "says"), [((8, 0), "compute capability is 8.0"), ((9, 0), None), ((10, 0), "compute capability is 10.0")]
)
def test_flash_attn_4_is_used_where_it_was_checked(
    gpu: tuple[int, int], says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: gpu)
    reason = unsupported_flash_attn_4(Problem("cuda", "bfloat16", head_dim=64, n_heads=4))
    assert reason is None if says is None else says in str(reason)


@pytest.mark.parametrize(
    ("gpu", "says"),
    [
        ((8, 0, 167_936), "compute capability 9.0, and this GPU's is 8.0"),
        ((9, 0, 233_472), None),
        ((10, 0, 233_472), None),
        ((12, 0, 102_400), "an SM here has 102400"),
    ],
    ids=["A100", "H100", "B200", "RTX 5090"],
)
def test_the_scan_in_one_pass_wants_bulk_copies_and_room(
    gpu: tuple[int, int, int], says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = SimpleNamespace(major=gpu[0], minor=gpu[1], shared_memory_per_multiprocessor=gpu[2])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: found)
    reason = unsupported_one_pass(Problem("cuda", "bfloat16", head_dim=128, d_state=128, d_conv=4))
    assert reason is None if says is None else says in str(reason)


@pytest.mark.parametrize(("triton", "refused"), [("3.3.1", False), ("3.6.0", True), ("3.7.1", False)])
def test_a_backward_that_triton_miscompiles_for_hopper_is_refused(
    triton: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    monkeypatch.setattr("importlib.metadata.version", lambda name: triton)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    problem = Problem("cuda", "bfloat16", head_dim=64, n_heads=4, training=True)
    reason = unsupported_gated_delta(problem)
    assert (reason is not None and "triton 3.7.1 or tilelang" in reason) if refused else reason is None
    assert unsupported_gated_delta(dataclasses.replace(problem, training=False)) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="the packages may be installed where there is a GPU")
@pytest.mark.parametrize(
    ("op", "name", "says"),
    [
        ("ssd", "mamba-ssm", "selective_scan_cuda"),
        ("ssd_step", "mamba-ssm", "CUDA extension"),
        ("conv1d", "causal-conv1d", "compiled CUDA extension"),
        ("attention", "flash-attn", "compiled CUDA extension"),
        ("attention_decode", "flash-attn", "compiled CUDA extension"),
        ("attention", "flash-attn-4", "the package flash-attn-4"),
        ("linear_cross_entropy", "liger", "liger_kernel"),
        ("selective_scan", "mamba-ssm", "selective_scan_cuda"),
        ("mamba3_scan", "mamba-ssm", "selective_scan_cuda"),
        ("mamba3_step", "mamba-ssm", "CUDA extension"),
        ("gated_delta", "fla", "fla-core"),
        ("kda_step", "fla", "flash-linear-attention"),
        ("lightning", "fla", "flash-linear-attention"),
        ("rwkv7_output", "fla", "flash-linear-attention"),
    ],
)
def test_a_missing_package_says_how_to_install_it(op: str, name: str, says: str) -> None:
    reason = available(backends(op)[name])
    assert reason is not None
    assert says in reason
    assert f'pip install "hybridbench[{"flash-attn-4" if name == "flash-attn-4" else "cuda"}]"' in reason
    assert backends(op)[name].version is None


def test_versions_come_from_installed_distributions() -> None:
    assert backends("attention")["sdpa-math"].version == torch.__version__


def test_an_unknown_name_suggests_the_nearest() -> None:
    problem = Problem("cpu", "float32", head_dim=16, n_heads=2)
    with pytest.raises(BadInput, match="did you mean 'sdpa-flash'"):
        resolve("attention", "sdpa-flahs", problem)
    with pytest.raises(BadInput, match="did you mean 'ssd'"):
        resolve("sssd", "auto", problem)


def test_a_kernel_of_ones_own_by_path() -> None:
    problem = Problem("cpu", "float32", d_conv=4, training=True)
    mine = resolve("conv1d", "hybridbench.kernels.scan.reference:conv1d", problem)
    assert verify(mine, problem, device="cpu", seed=0).backend == "hybridbench.kernels.scan.reference:conv1d"
    for path in ("no_such_module:f", "hybridbench.kernels.scan.reference:no_such_function", ":f"):
        with pytest.raises(BadInput, match=r"package\.module:function"):
            resolve("conv1d", path, problem)


def test_importing_the_package_imports_no_third_party() -> None:
    third_parties = ("flash_attn", "mamba_ssm", "causal_conv1d", "liger_kernel", "triton", "fla")
    code = f"import sys, hybridbench.kernels; print([m for m in {third_parties} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
