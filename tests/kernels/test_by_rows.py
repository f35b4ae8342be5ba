"""A batch in groups of sequences: the same outputs, states and gradients as at once, in the layout they came in.

The kernels are the plain PyTorch ones of every operation over sequences, called on the whole batch as what is expected.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridbench.bench import Bench, run_case
from hybridbench.errors import Unsupported, WrongResult
from hybridbench.kernels import Backend, Problem, available, backends, reference_of, resolve, resolver, verify
from hybridbench.kernels.again import recomputed
from hybridbench.kernels.by_rows import by_rows, holds_sequences, in_groups
from hybridbench.kernels.delta import reference as delta_reference
from hybridbench.kernels.scan import reference as scan_reference
from hybridbench.kernels.scan.reference import mamba3 as mamba3_reference
from hybridbench.kernels.verify import Inputs, inputs_at
from hybridbench.model import checkpoint
from hybridbench.model.build import resolve_backends
from hybridbench.model.checkpoint import cheap, learning, remembering
from hybridbench.operations import OPERATIONS
from hybridbench.suite.sweep import Sweep, cases

KERNELS = {op: backends(op) for op, row in OPERATIONS.items() if row.inputs}
"""What runs each operation of tensors."""

OVER_SEQUENCES = [op for op, row in OPERATIONS.items() if row.sequences]
MAMBA2 = {"head_dim": 16, "n_heads": 4, "d_state": 16, "n_groups": 2, "chunk_size": 16, "d_conv": 4, "width": 64}
MAMBA3 = {"head_dim": 16, "n_heads": 4, "d_state": 16, "n_angles": 4, "chunk_size": 16, "width": 64, "row": 400}
DELTA = {"head_dim": 16, "n_heads": 4, "n_kv_heads": 2, "chunk_size": 16, "row": 512}
SIZES: dict[str, dict[str, int]] = {
    **{op: {"head_dim": 16, "n_heads": 4, "n_kv_heads": 2, "row": 160} for op in ("attention", "attention_decode")},
    **dict.fromkeys(("ssd", "ssd_step", "mamba2_core"), MAMBA2),
    **{op: {"width": 24, "d_conv": 4, "row": 64} for op in ("conv1d", "conv1d_step")},
    **{op: {"width": 24, "d_state": 8} for op in ("selective_scan", "selective_step")},
    **dict.fromkeys(("mamba3_scan", "mamba3_step"), MAMBA3),
    **dict.fromkeys(("gated_delta", "gated_delta_step"), DELTA),
    **{op: DELTA | {"n_kv_heads": 4} for op in ("kda", "kda_step", "lightning", "lightning_step")},
    **{op: DELTA | {"n_kv_heads": 4} for op in ("kda", "kda_step")},
    **{op: {"head_dim": 16, "n_heads": 4, "chunk_size": 16, "row": 64} for op in ("rwkv7", "rwkv7_step")},
}


def asked(op: str, **changes: Any) -> Problem:
    return dataclasses.replace(Problem("cpu", "float64", length=37, batch=5, **SIZES[op]), **changes)


def drawn(op: str, **changes: Any) -> Inputs:
    return inputs_at(op, asked(op, **changes), device="cpu", seed=4)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        # products of other shapes round differently
        torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=1e-12, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("op", OVER_SEQUENCES)
def test_groups_are_the_whole(op: str, rows: int) -> None:
    inputs, whole = drawn(op), backends(op)["reference"].load()
    with torch.no_grad():
        same(inputs.run(by_rows(op, whole, rows)), inputs.run(whole))


@pytest.mark.parametrize("op", [op for op in OVER_SEQUENCES if not op.endswith("_step") and op != "attention_decode"])
def test_gradients_of_groups_are_those_of_the_whole(op: str) -> None:
    inputs, whole = drawn(op), backends(op)["reference"].load()
    found: list[dict[str, Tensor]] = []
    for function in (whole, by_rows(op, whole, 2)):
        leaves = {n: t.detach().clone().requires_grad_(t.is_floating_point()) for n, t in inputs.tensors.items()}
        made = [out for out in inputs.call(function, leaves).values() if out.requires_grad]
        generator = torch.Generator().manual_seed(8)
        upstream = [torch.randn(out.shape, generator=generator, dtype=out.dtype) for out in made]
        gradients = torch.autograd.grad(made, list(leaves.values()), upstream)
        found.append(dict(zip(leaves, gradients, strict=True)))
    same(found[1], found[0])


@pytest.mark.parametrize("op", OVER_SEQUENCES)
def test_each_group_is_of_at_most_so_many(op: str) -> None:
    whole, sizes = backends(op)["reference"].load(), []
    names = list(inspect.signature(reference_of(op)).parameters)

    def watched(*given: Any, **options: Any) -> Any:
        named = dict(zip(names, given, strict=False)) | options
        sizes.append({t.shape[0] for name, t in named.items() if holds_sequences(name) and isinstance(t, Tensor)})
        return whole(*given, **options)

    with torch.no_grad():
        drawn(op).run(by_rows(op, watched, 2))
    calls = 2 if op == "conv1d_step" else 1  # its inputs are of two steps
    assert sizes == [{2}, {2}, {1}] * calls


@pytest.mark.parametrize("op", OVER_SEQUENCES)
def test_the_names_of_shapes_say_what_holds_sequences(op: str) -> None:
    """Every tensor that is drawn with one row a sequence, and no parameter, is one to split."""
    inputs = drawn(op, batch=3)
    for name, tensor in inputs.tensors.items():
        assert holds_sequences(name) == (tensor.shape[0] == 3 and tensor.dim() > 0), name


def test_positions_side_by_side_stay_so_and_are_handed_over_without_the_batch_between_them() -> None:
    x = torch.randn(8, 3, 50).permute(1, 2, 0)  # (B, T, C), as Mamba-1 has it
    weight, strides = torch.randn(8, 4), []

    def convolve(x_BTC: Tensor, weight_CW: Tensor, bias_C: Tensor | None) -> Tensor:
        strides.append(x_BTC.stride())
        out = scan_reference.conv1d(x_BTC, weight_CW, bias_C)
        return out.permute(2, 0, 1).contiguous().permute(1, 2, 0)  # as causal_conv1d leaves it

    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            out = by_rows("conv1d", convolve, 2)(x, weight, None)
        torch.testing.assert_close(out, scan_reference.conv1d(x, weight, None))
        assert out.stride() == x.stride()
    assert strides == [(50, 1, 100), (50, 1, 50)] * 2


def test_a_step_updates_the_state_it_was_given() -> None:
    before = drawn("gated_delta_step").tensors["state_BHPV"]
    expected, state = before.clone(), before.clone()
    others = list(drawn("gated_delta_step").tensors.values())[1:]
    out = delta_reference.gated_delta_step(expected, *others)
    torch.testing.assert_close(by_rows("gated_delta_step", delta_reference.gated_delta_step, 2)(state, *others), out)
    torch.testing.assert_close(state, expected)
    assert not torch.equal(state, before)


def test_states_to_start_from_are_split_too() -> None:
    """Given by name, alone or as a tuple of several."""
    inputs = drawn("ssd", length=17)  # a chunk and one: with a state
    assert "initial_state_BHPN" in inputs.tensors
    same(inputs.run(by_rows("ssd", scan_reference.ssd, 2)), inputs.run(scan_reference.ssd))
    scan = drawn("mamba3_scan")
    given = list(scan.tensors.values())
    *_, angle, state, k, x = mamba3_reference.mamba3_scan(*given, chunk_size=16)
    again = {"chunk_size": 16, "initial": (angle, state, k, x)}
    whole, groups = mamba3_reference.mamba3_scan, by_rows("mamba3_scan", mamba3_reference.mamba3_scan, 2)
    for expected, found in zip(whole(*given, **again), groups(*given, **again), strict=True):
        torch.testing.assert_close(found, expected)


def core_with_recomputations(*given: Any, **options: Any) -> tuple[Tensor, Tensor, list[Any]]:
    """``mamba2_core`` of two parts that can be made again, as the fused kernel has them."""
    packed, weight, bias, *_ = given
    inner, channels = 64, weight.shape[0]

    def convolved(packed: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.nn.functional.silu(packed[..., inner : inner + channels] * weight[:, 0] + bias)

    def gated(mixed: Tensor, packed: Tensor) -> Tensor:
        return mixed[..., :inner] * torch.nn.functional.silu(packed[..., :inner])

    mixed = cheap(convolved, packed, weight, bias)
    out = gated(mixed, packed)
    return out, mixed.sum(1), [(mixed, convolved, (packed, weight, bias)), (out, gated, (mixed, packed))]


def test_what_can_be_made_again_of_groups_can_be_of_the_whole() -> None:
    """Selective checkpointing keeps no output of the core, and has the gradients of keeping it."""

    def core(*given: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return core_with_recomputations(*given, **options)[:2]

    groups = by_rows("mamba2_core", recomputed(core, core_with_recomputations), 2)
    packed = torch.randn(5, 7, 64 + 96 + 4, dtype=torch.float64)
    weight, bias, out_weight = (torch.randn(*s, dtype=torch.float64) for s in ((96, 4), (96,), (64, 64)))
    gradients, kept = [], []
    for function in (core, groups):
        leaves = [t.clone().requires_grad_() for t in (packed, weight, bias, out_weight)]
        with remembering():
            out, state = learning("mamba2_core", function)(leaves[0], leaves[1], leaves[2], None, None, None, None)
            loss = (out @ leaves[3]).square().sum() + state.sum()
            memory = checkpoint._memory
            assert memory is not None
            kept.append(int(out.untyped_storage()._cdata) in memory._known)
        gradients.append(torch.autograd.grad(loss, leaves))
    assert kept == [True, True]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one)


def wrong_in_groups(x_BTC: Tensor, weight_CW: Tensor, bias_C: Tensor | None) -> Tensor:
    """Right on one sequence, and so in groups of one; of several it confuses two."""
    return scan_reference.conv1d(x_BTC.roll(1, 0), weight_CW, bias_C)


def test_what_runs_in_groups_is_verified_in_groups() -> None:
    def backend(load: Callable[..., Any]) -> Backend:
        return dataclasses.replace(backends("conv1d")["reference"], name="mine", load=lambda: load)

    problem = Problem("cpu", "float32", d_conv=4)
    with pytest.raises(WrongResult, match="'mine'"):
        verify(backend(wrong_in_groups), problem, device="cpu", seed=1)
    verify(in_groups(backend(wrong_in_groups), 1), problem, device="cpu", seed=1)
    with pytest.raises(WrongResult, match="'mine, 2 rows at a time'"):
        verify(in_groups(backend(wrong_in_groups), 2), problem, device="cpu", seed=1)
    sizes = []

    def watched(*given: Any) -> Tensor:
        sizes.append(given[0].shape[0])
        return scan_reference.conv1d(*given)

    verify(in_groups(backend(watched), 1000), problem, device="cpu", seed=1)
    assert set(sizes) == {3, 1}, "two groups, the second one cut short, at a batch that is cheap"


LONG = Problem("cuda", "bfloat16", d_conv=4, width=4096, row=12352, length=131072, batch=4)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is a GPU and every package: kernels load as their references."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    hopper = SimpleNamespace(major=9, minor=0, shared_memory_per_multiprocessor=233_472)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: hopper)
    for op, table in KERNELS.items():
        for name, backend in table.items():
            reference = reference_of(op)
            monkeypatch.setitem(table, name, dataclasses.replace(backend, load=lambda reference=reference: reference))
    monkeypatch.setattr(resolver, "backends", KERNELS.__getitem__)


@pytest.mark.usefixtures("on_a_gpu")
def test_a_backend_gets_as_many_sequences_as_are_right() -> None:
    for ask in ("auto", "causal-conv1d"):
        found = resolve("conv1d", ask, LONG)
        assert (found.name, found.rows, found.ran) == ("causal-conv1d", 3, "causal-conv1d, 3 rows at a time")
        small = resolve("conv1d", ask, dataclasses.replace(LONG, batch=3))
        assert (small.name, small.rows, small.ran) == ("causal-conv1d", 0, "causal-conv1d")
    sizes = []

    def watched(*given: Any) -> Tensor:
        sizes.append(given[0].shape[0])
        return scan_reference.conv1d(*given)

    one = in_groups(dataclasses.replace(found, load=lambda: watched), 1)
    assert one.ran == "causal-conv1d, 1 row at a time"
    one.load()(torch.randn(3, 5, 8), torch.randn(8, 4), None)
    assert sizes == [1, 1, 1]


@pytest.mark.usefixtures("on_a_gpu")
def test_where_not_even_one_sequence_is_right_the_sentence_says_how_long_it_may_be() -> None:
    longer = dataclasses.replace(LONG, length=393216, batch=1)
    assert resolve("conv1d", "auto", longer).name == "reference"
    with pytest.raises(Unsupported) as refused:
        resolve("conv1d", "causal-conv1d", longer)
    assert "right up to 2^32 elements of (B - 1) x T x 12,352" in str(refused.value)
    assert f"one sequence of 393,216 tokens has {393216 * 12352:,}" in str(refused.value)
    assert "What can run here: reference." in str(refused.value)
    assert available(backends("conv1d")["reference"], longer) is None


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize(
    ("pattern", "backends", "ran"),
    [
        ("M-M-", {}, {"mamba2_core": "one-pass"}),
        ("M-M-", {"mamba2_core": "fused"}, {"mamba2_core": "fused, 1 row at a time"}),
        ("M-M-", {"mamba2_core": "mamba-ssm"}, {"mamba2_core": "mamba-ssm, 1 row at a time"}),
        (
            "M-M-",
            {"ssd": "mamba-ssm", "conv1d": "causal-conv1d"},
            {"ssd": "mamba-ssm, 1 row at a time", "conv1d": "causal-conv1d"},
        ),
        ("G-G-", {}, {"conv1d": "causal-conv1d, 3 rows at a time", "gated_delta": "fla"}),
        ("K-K-", {}, {"conv1d": "causal-conv1d, 3 rows at a time", "kda": "fla"}),
        ("L-L-", {}, {"lightning": "fla"}),
        ("3-3-", {}, {"mamba3_scan": "mamba-ssm, 2 rows at a time"}),
        ("m-m-", {}, {"conv1d": "causal-conv1d", "selective_scan": "mamba-ssm"}),
    ],
)
def test_four_prompts_of_128k_run_in_groups_that_are_right(
    pattern: str, backends: dict[str, str], ran: dict[str, str]
) -> None:
    sweep = Sweep("prefill", pattern=pattern, scale="1b", ctx="128k", batch="4", device="cuda", backends=backends)
    (case,) = cases(sweep, has_gpu=True)
    found = {item.op: item.backend.ran for item in resolve_backends(case)}
    assert found == found | ran


@pytest.mark.usefixtures("on_a_gpu")
def test_wide_states_are_scanned_in_pieces_where_none_are_kept_for_gradients() -> None:
    """3B has 256 states, for which training would keep 24% more memory, for some 5% of speed."""
    sweep = Sweep("prefill", arch="mamba", scale="3b", ctx="8k", batch="2", device="cuda")

    def core(**changed: Any) -> Any:
        (case,) = cases(dataclasses.replace(sweep, **changed), has_gpu=True)
        (found,) = (item for item in resolve_backends(case) if item.op == "mamba2_core")
        return found

    assert core().backend.ran == "one-pass-pieces"
    trained = core(workload="train")
    assert trained.backend.ran == "fused"
    assert "name it where memory allows" in dict(trained.choice.passed_over)["one-pass-pieces"]
    assert core(workload="train", backends={"mamba2_core": "one-pass-pieces"}).backend.ran == "one-pass-pieces"


@pytest.mark.usefixtures("on_a_gpu")
def test_one_prompt_of_256k_takes_another_kernel_or_says_why_not() -> None:
    sweep = Sweep("prefill", pattern="M-M-", scale="1b", ctx="256k", batch="1", device="cuda")
    (case,) = cases(sweep, has_gpu=True)
    assert {item.op: item.backend.ran for item in resolve_backends(case)}["mamba2_core"] == "one-pass"
    for name in ("fused", "mamba-ssm"):
        (asked,) = cases(dataclasses.replace(sweep, backends={"mamba2_core": name}), has_gpu=True)
        with pytest.raises(Unsupported, match=r"262,144 tokens has 2,222,981,120\. What can run here: "):
            resolve_backends(asked)


@pytest.mark.parametrize(("workload", "checkpoint"), [("prefill", "none"), ("decode", "none"), ("train", "selective")])
@pytest.mark.sampled
def test_a_case_in_groups_is_measured_counted_and_named_so(
    workload: str, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole path, with every operation over sequences one at a time: as many FLOPs, but for einsum's choices."""
    sweep = Sweep(workload, pattern="M-*-", scale="tiny", ctx="64", batch="3", device="cpu", max_time_s=0.02)
    (case,) = cases(dataclasses.replace(sweep, checkpoint=checkpoint), has_gpu=False)
    bench = Bench(torch.device("cpu"), None, None, ceilings={"float32": None})
    whole, _ = run_case(case, bench)
    monkeypatch.setattr(resolver, "rows_at_once", lambda *_: 1)
    groups, _ = run_case(case, bench)
    ran = {use.op: use.ran for use in groups.backends}
    for use in whole.backends:
        assert ran[use.op] == (f"{use.ran}, 1 row at a time" if use.op in OVER_SEQUENCES else use.ran)
    assert any(name.endswith("1 row at a time") for name in ran.values())
    assert [count.error for count in groups.counts] == [count.error for count in whole.counts]
    assert [count.flops for count in groups.counts] == pytest.approx([count.flops for count in whole.counts], rel=0.01)
