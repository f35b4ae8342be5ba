"""Mamba-1, Mamba-3, gated delta net, KDA, lightning attention and RWKV-7 on a GPU: long sequences, captured steps, and
training steps that learn.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hybridbench.arch.families import MAMBA2, Options, build_spec
from hybridbench.arch.kinds import MIXERS
from hybridbench.kernels import Problem, available, backends, reference_of
from hybridbench.kernels.scan import reference
from hybridbench.kernels.scan.reference import mamba3 as mamba3_reference
from hybridbench.kernels.verify import inputs_at
from hybridbench.model import build_model, resolve_backends
from hybridbench.model.lightning import log_decays
from hybridbench.suite.case import GRAPH, Case, Execution
from hybridbench.suite.workloads import DECODE, TRAIN, Workload
from hybridbench.workload import prepare

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1200),  # fla's kernels tune themselves to every number of heads, Mamba-3's for minutes
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),
]

OTHERS = [mixer for mixer in MIXERS if mixer != MAMBA2]
DELTAS = ("gated_delta", "kda")


def error(found: Tensor, expected: Tensor) -> float:
    assert found.isfinite().all()
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def loaded(op: str, name: str, problem: Problem) -> Any:
    if reason := available(backends(op)[name], problem):
        pytest.skip(reason)
    return backends(op)[name].load()


def bf16(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def delta_inputs(op: str, *lead: int, H: int = 16, P: int = 128) -> tuple[list[Tensor], list[Tensor]]:
    """What a model hands over, as wide as at 1b: sequences, and parameters."""
    G, channel = (H, (P,)) if op == "kda" else (H // 2, ())
    sequences = [bf16(*lead, G, P), bf16(*lead, G, P), bf16(*lead, H, P), bf16(*lead, H, *channel), bf16(*lead, H)]
    bias = torch.linspace(-6.9, -2.3, H, device="cuda")
    return sequences, [
        torch.linspace(0, 2.7, H, device="cuda"),
        bias[:, None].expand(H, P).contiguous() if channel else bias,
    ]


@pytest.mark.parametrize("op", DELTAS)
def test_long_sequences_of_a_delta_rule(op: str) -> None:
    rule = loaded(op, "fla", Problem("cuda", "bfloat16", head_dim=128, n_heads=16, chunk_size=64, length=4096))
    torch.manual_seed(0)
    sequences, parameters = delta_inputs(op, 1, 4096)
    o, state = rule(*sequences, *parameters, chunk_size=64)
    exact = [tensor.float() for tensor in sequences]
    o_ref, state_ref = reference_of(op)(*exact, *parameters, chunk_size=64)
    print(f"{op}: {error(o, o_ref):.2e} {error(state, state_ref):.2e}")  # noqa: T201
    assert error(o, o_ref) < 1e-2
    assert error(state, state_ref) < 1e-2


def lightning_inputs(*lead: int, H: int = 16, P: int = 128) -> tuple[list[Tensor], Tensor]:
    """What a model hands over, as wide as at 1b, with the decays of its middle."""
    return [bf16(*lead, H, P) for _ in range(3)], log_decays(H, 5, 11).cuda()


def test_a_long_sequence_of_lightning_attention_and_the_rest_of_one() -> None:
    """With gradients, those of a state to start from too."""
    sizes = {"head_dim": 128, "n_heads": 16, "chunk_size": 64}
    rule = loaded("lightning", "fla", Problem("cuda", "bfloat16", length=4096, training=True, **sizes))
    torch.manual_seed(0)
    sequences, decays = lightning_inputs(1, 4096)
    start = torch.rand(1, 16, 128, 128, device="cuda") - 0.5
    found = [x.requires_grad_() for x in (*sequences, start)]
    exact = [x.detach().float().requires_grad_() for x in found]
    reference_rule, made = reference_of("lightning"), []
    for run, given in ((rule, found), (reference_rule, exact)):
        o, state = run(*given[:3], decays, chunk_size=64, initial_state_BHPP=given[3])
        made.append((o, state, *torch.autograd.grad(o.float().sum() + state.sum(), given)))
    for name, ours, theirs in zip(("o", "state", "dq", "dk", "dv", "dS"), *made, strict=True):
        print(f"lightning {name}: {error(ours, theirs):.2e}")  # noqa: T201
        assert error(ours, theirs) < (1e-2 if name in ("o", "state") else 2e-2), name
    with torch.no_grad():
        first, left = rule(*(x[:, :1000] for x in sequences), decays, chunk_size=64, initial_state_BHPP=start)
        rest, _last = rule(*(x[:, 1000:] for x in sequences), decays, chunk_size=64, initial_state_BHPP=left)
    assert error(torch.cat((first, rest), 1), made[1][0]) < 1e-2


@pytest.mark.parametrize("op", ["rwkv7_shift", "rwkv7_keys"])
def test_what_rwkv7_reads_before_its_rule_is_right_at_size_and_equal_from_run_to_run(op: str) -> None:
    """Outputs and gradients at 4 x 8k and the sizes of 1b; the parameters' gradients are sums over 32,768 positions."""
    sizes = {"head_dim": 64, "n_heads": 64, "d_model": 2048, "batch": 4, "length": 8192}
    problem = Problem("cuda", "bfloat16", training=True, **sizes)
    kernel, inputs = loaded(op, "triton", problem), inputs_at(op, problem, device="cuda", seed=0)
    upstream: dict[str, Tensor] = {}

    def run(function: Any, dtype: torch.dtype) -> dict[str, Tensor]:
        given = {name: x.detach().to(dtype).requires_grad_() for name, x in inputs.tensors.items()}
        made = inputs.call(function, given)
        for name, x in made.items():
            upstream.setdefault(name, torch.randn_like(x))
        above = [upstream[name].to(dtype) for name in made]
        gradients = torch.autograd.grad(list(made.values()), list(given.values()), above)
        named = zip(given, gradients, strict=True)
        return {name: x.detach() for name, x in made.items()} | {f"gradient of {name}": x for name, x in named}

    found, again = run(kernel, torch.bfloat16), run(kernel, torch.bfloat16)
    expected = run(reference_of(op), torch.float32)
    for name, ours in found.items():
        assert torch.equal(ours, again[name]), name
        print(f"{op} {name}: {error(ours, expected[name]):.2e}")  # noqa: T201
        assert error(ours, expected[name]) < (2e-2 if name.startswith("gradient") else 1e-2), name


def test_a_long_selective_scan_copies_nothing_that_lies_right() -> None:
    scan = loaded("selective_scan", "mamba-ssm", Problem("cuda", "bfloat16", d_state=16, length=4096))
    torch.manual_seed(0)
    T, width, N = 4096, 1024, 16
    x, dt, z, B, C = (bf16(n, 2, T).permute(1, 2, 0) for n in (width, width, width, N, N))
    A = -torch.arange(1, N + 1, device="cuda", dtype=torch.float32).expand(width, N).contiguous()
    D, bias = torch.ones(width, device="cuda"), torch.full((width,), -4.0, device="cuda", dtype=torch.bfloat16)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        y, state = scan(x, dt, A, B, C, D, z, bias)
    # The ungated output, the gated one, and states every 2,048 positions; a copy of an input would be one more.
    assert torch.cuda.max_memory_allocated() - before < 2.5 * x.numel() * x.element_size()
    exact = (x.float(), dt.float(), A, B.float(), C.float(), D, z.float(), bias.float())
    y_ref, state_ref = reference.selective_scan(*exact)
    print(f"selective_scan: {error(y, y_ref):.2e} {error(state, state_ref):.2e}")  # noqa: T201
    assert error(y, y_ref) < 1e-2
    assert error(state, state_ref) < 1e-2


def mamba3_inputs(*lead: int, H: int = 32, P: int = 64, N: int = 128, R: int = 32) -> tuple[list[Tensor], list[Tensor]]:
    """What a model hands over: sequences, and parameters."""
    shapes = [(H, P), (H,), (H,), (H,), (1, N), (1, N), (R,), (H, P)]
    steps = torch.linspace(-6.9, -2.3, H, device="cuda")
    biases = torch.rand(2, H, N, device="cuda") + 0.5
    return [bf16(*lead, *shape) for shape in shapes], [steps, *biases, torch.ones(H, device="cuda")]


def test_a_long_scan_of_mamba3_and_the_rest_of_one() -> None:
    """Its angles are rounded to bfloat16, so what a second call goes on from is off by as much."""
    sizes: dict[str, Any] = {"head_dim": 64, "n_heads": 32, "d_state": 128, "n_angles": 32, "chunk_size": 64}
    scan = loaded("mamba3_scan", "mamba-ssm", Problem("cuda", "bfloat16", length=4096, **sizes))
    torch.manual_seed(0)
    sequences, parameters = mamba3_inputs(1, 4096)
    exact = [v.float() for v in sequences]
    y_ref, angle_ref, *kept_ref = mamba3_reference.mamba3_scan(*exact, *parameters, chunk_size=64)
    with torch.no_grad():
        y, angle, *kept = scan(*sequences, *parameters, chunk_size=64)
        first, *left = scan(*(v[:, :1000] for v in sequences), *parameters, chunk_size=64)
        rest, *_last = scan(*(v[:, 1000:] for v in sequences), *parameters, chunk_size=64, initial=tuple(left))
    print(f"mamba3_scan: {error(y, y_ref):.2e} {[f'{error(a, b):.2e}' for a, b in zip(kept, kept_ref, strict=True)]}")  # noqa: T201
    assert error(y, y_ref) < 1e-2
    assert error(torch.stack((angle.cos(), angle.sin())), torch.stack((angle_ref.cos(), angle_ref.sin()))) < 1e-2
    assert all(error(a, b) < 1e-2 for a, b in zip(kept, kept_ref, strict=True))
    assert error(torch.cat((first, rest), 1), y_ref) < 2e-2


def test_ten_steps_of_mamba3_in_a_captured_graph_are_ten_of_the_reference() -> None:
    step = loaded("mamba3_step", "mamba-ssm", Problem("cuda", "bfloat16", head_dim=64, d_state=128, n_angles=32))
    torch.manual_seed(0)
    sequences, parameters = mamba3_inputs(3)
    zeros = [torch.zeros(3, 32, *shape, device="cuda") for shape in ((32,), (64, 128), (128,), (64,))]
    kept, expected_kept = zeros[:2] + [v.bfloat16() for v in zeros[2:]], [v.clone() for v in zeros]
    step(*(v.clone() for v in kept), *sequences, *parameters)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = step(*kept, *sequences, *parameters)
    for _ in range(10):
        for tensor in sequences:
            tensor.normal_()
        graph.replay()
        expected = mamba3_reference.mamba3_step(*expected_kept, *(v.float() for v in sequences), *parameters)
        assert error(y, expected) < 2e-2
        assert error(kept[0].cos(), expected_kept[0].cos()) < 1e-2
        assert all(error(a, b) < 2e-2 for a, b in zip(kept[1:], expected_kept[1:], strict=True))


STEPS = [
    ("selective_step", "mamba-ssm"),
    ("selective_step", "reference"),
    *((f"{op}_step", name) for op in DELTAS for name in ("triton", "fla", "reference")),
    *(("lightning_step", name) for name in ("fla", "reference")),
    *(("rwkv7_step", name) for name in ("fla", "reference")),
]


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("op", "name"), STEPS)
def test_steps_in_a_captured_graph_update_the_state(op: str, name: str, state_dtype: torch.dtype) -> None:
    """Ten replays are ten steps of the reference."""
    step = loaded(op, name, Problem("cuda", "bfloat16", head_dim=128, n_heads=16, d_state=16))
    torch.manual_seed(0)
    if op == "selective_step":
        A = -torch.rand(512, 16, device="cuda") * 8 - 0.1
        x, dt, z, B, C = bf16(3, 512), bf16(3, 512), bf16(3, 512), bf16(3, 16), bf16(3, 16)
        inputs = [x, dt, A, B, C, torch.ones(512, device="cuda"), z, bf16(512)]
        fresh, state = [x, dt, z, B, C], torch.zeros(3, 512, 16, device="cuda", dtype=state_dtype)
    elif op == "lightning_step":
        fresh, decays = lightning_inputs(3)
        inputs, state = [*fresh, decays], torch.zeros(3, 16, 128, 128, device="cuda", dtype=state_dtype)
    elif op == "rwkv7_step":
        inputs = [bf16(3, 16, 128) for _ in range(4)]
        inputs += [torch.nn.functional.normalize(bf16(3, 16, 128), dim=-1), bf16(3, 16, 128).sigmoid()]
        fresh, state = inputs[:4], torch.zeros(3, 16, 128, 128, device="cuda", dtype=state_dtype)
    else:
        fresh, parameters = delta_inputs(op.removesuffix("_step"), 3)
        inputs, state = [*fresh, *parameters], torch.zeros(3, 16, 128, 128, device="cuda", dtype=state_dtype)
    reference, expected_state = reference_of(op), state.clone().float()
    step(state.clone(), *inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = step(state, *inputs)
    for _ in range(10):
        for tensor in fresh:
            tensor.normal_()
        graph.replay()
        expected = reference(expected_state, *(tensor.float() for tensor in inputs))
        assert error(y, expected) < 2e-2
        assert error(state, expected_state) < 2e-2


@pytest.mark.parametrize("mixer", OTHERS)
def test_a_training_step_learns_and_uses_the_published_kernels(mixer: str) -> None:
    case = Case(
        build_spec("inter", "100m", Options(mixer=mixer)),
        Workload(TRAIN, 512, 2),
        Execution("cuda", "bfloat16", "eager"),
    )
    resolved = resolve_backends(case)
    ran = {item.op: item.backend.name for item in resolved}
    ops = {"mamba1": "selective_scan", "mamba3": "mamba3_scan", "gated-delta": "gated_delta"}
    assert ran[ops.get(mixer, mixer)] in ("mamba-ssm", "fla", "fla-kda")
    model = build_model(case, resolved)
    model.allocate(torch.device("cuda"), 0)
    work = prepare(case, model)
    assert work.loss is not None
    work.step()
    first = work.loss()
    for _ in range(15):
        work.step()
    assert work.loss() < first - 0.2
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("mixer", OTHERS)
def test_a_decode_step_is_captured_at_1b(mixer: str) -> None:
    case = Case(
        build_spec("inter", "1b", Options(mixer=mixer)), Workload(DECODE, 4096, 4), Execution("cuda", "bfloat16", GRAPH)
    )
    model = build_model(case, resolve_backends(case))
    model.allocate(torch.device("cuda"), 0)
    work = prepare(case, model)
    for _ in range(3):
        work.step()
    torch.cuda.synchronize()
    assert all(t.isfinite().all() for cache in work.caches for kept in cache.tensors().values() for t in kept)
