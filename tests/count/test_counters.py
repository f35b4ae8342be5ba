"""Counters agree with FLOPs counted by hand, and what they do not see is listed."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from hybridbench.count.by_fvcore import count_with_fvcore
from hybridbench.count.by_torch import count_with_torch
from hybridbench.record import OperatorCount

T, D, H = 6, 4, 10


def by_torch(step: Callable[[], object]) -> OperatorCount:
    """What a record keeps of a step that belongs to no model."""
    account, _ = count_with_torch(step)
    return account.observed()


def by_fvcore(
    module: nn.Module, inputs: tuple[torch.Tensor, ...] = (), *, forward: Callable[..., object] | None = None
) -> OperatorCount:
    """What a record keeps of a forward that belongs to no model."""
    return count_with_fvcore(forward or module, inputs, module).observed()


class Mixed(nn.Module):
    """Products a transformer is made of, all of different sizes: linear, depthwise convolution, batched."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(D, H)
        self.conv = nn.Conv1d(H, H, 3, groups=H)
        self.down = nn.Linear(H, D, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.up(x)  # T x D @ D x H
        hidden = self.conv(hidden.t()[None])[0].t()  # H channels, T-2 positions, 3 taps
        out = self.down(hidden)  # T-2 x H @ H x D
        return torch.bmm(out[None], out.t()[None])  # T-2 x D @ D x T-2


FORWARD_FLOPS = 2 * (T * D * H + H * (T - 2) * 3 + (T - 2) * H * D + (T - 2) * D * (T - 2))


class Doubled(torch.autograd.Function):
    """Stands for a kernel of one's own: what happens inside is not an operator of torch's."""

    @staticmethod
    def forward(_ctx: object, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.detach().numpy() * 2)

    @staticmethod
    def backward(_ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 2


def test_both_counters_agree_with_the_count_by_hand() -> None:
    model, x = Mixed(), torch.randn(T, D)
    assert by_torch(lambda: model(x)) == OperatorCount("torch", FORWARD_FLOPS, {})
    assert by_fvcore(model, (x,)) == OperatorCount("fvcore", FORWARD_FLOPS, {})


def test_both_counters_agree_on_a_plain_mlp() -> None:
    model, x = nn.Sequential(nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, 16)), torch.randn(8, 16)
    counts = by_torch(lambda: model(x)), by_fvcore(model, (x,))
    assert [count.flops for count in counts] == [2 * 8 * 16 * 64 * 2] * 2
    assert [count.unseen for count in counts] == [{"aten::silu": 1}] * 2


def test_a_linear_backward_counts_twice_its_forward() -> None:
    model, x = nn.Linear(D, H, bias=False), torch.randn(T, D, requires_grad=True)
    assert by_torch(lambda: model(x).backward(torch.ones(T, H))).flops == 3 * 2 * T * D * H


@pytest.mark.parametrize("equation", ["ab,bc->ac", "ab,cb->ac"])
def test_fvcore_counts_an_einsum_in_multiply_adds_too(equation: str) -> None:
    left, right = torch.randn(3, 5), torch.randn(5, 7)
    right = right if equation.startswith("ab,bc") else right.t().contiguous()
    count = by_fvcore(nn.Identity(), (left, right), forward=lambda a, b: torch.einsum(equation, a, b))
    assert count.flops == 2 * 3 * 5 * 7


def test_fvcores_norms_are_not_multiply_adds_and_are_not_doubled() -> None:
    # fvcore.nn.jit_handles.norm_flop_counter: 5 per element with an affine part.
    assert by_fvcore(nn.LayerNorm(16), (torch.randn(8, 16),)).flops == 5 * 8 * 16


def test_attention_on_the_cpu_counts_as_a_gpus_does() -> None:
    q = torch.randn(1, 2, 8, 16, requires_grad=True)

    def step() -> None:
        functional.scaled_dot_product_attention(q, q, q, is_causal=True).sum().backward()

    product = 2 * 2 * 8 * 8 * 16  # of 2 heads, every query against every key
    count = by_torch(step)
    assert count.flops == 7 * product  # two forward, five backward
    assert not [name for name in count.unseen if "attention" in name]
    traced = by_fvcore(nn.Identity(), (q,), forward=lambda q: functional.scaled_dot_product_attention(q, q, q))
    assert (traced.flops, traced.unseen) == (2 * product, {})


def test_arithmetic_without_an_entry_is_listed_with_how_often_it_ran() -> None:
    x = torch.randn(4, 4)
    count = by_torch(lambda: (x * x + x).exp().cumsum(0).mul_(2).sum())
    assert count.unseen == {
        "aten::mul": 1,
        "aten::add": 1,
        "aten::exp": 1,
        "aten::cumsum": 1,
        "aten::mul_": 1,
        "aten::sum": 1,
    }


def test_moving_making_and_comparing_numbers_is_no_arithmetic() -> None:
    x, indices = torch.randn(4, 6), torch.tensor([0, 2])

    def step() -> None:
        y = torch.cat([x.t().reshape(4, 6), torch.zeros(2, 6)]).to(torch.bfloat16).clone()
        y[0] = y[indices].contiguous()[1]
        functional.embedding(indices, y)
        torch.where(y > 0, y, torch.full_like(y, -1.0)).masked_fill_(y == 0, 1.0).argmax(-1)
        y.chunk(2, -1)[0].expand(2, 6, 3).permute(2, 0, 1).index_select(0, indices + 1 - 1)
        y.copy_(torch.randn(6, 6).tril())
        functional.pad(y, (1, 1)).roll(1, 0)

    assert by_torch(step) == OperatorCount("torch", 0, {})


def test_composite_operators_are_taken_apart_in_inference_mode() -> None:
    model, x = nn.Linear(D, H), torch.randn(T, D)

    def step() -> None:
        with torch.inference_mode():
            model(x)

    assert by_torch(step) == OperatorCount("torch", 2 * T * D * H, {})


def test_a_kernel_past_the_dispatcher_is_seen_by_nobody() -> None:
    """Which is why a model's kernels are counted by closed forms, or listed, by whoever knows that they run."""
    x = torch.randn(3, 3)
    assert by_torch(lambda: Doubled.apply(x)).unseen == {}
    assert by_fvcore(nn.Identity(), (x,), forward=Doubled.apply).unseen == {"prim::PythonOp.Doubled": 1}


def test_an_operator_of_a_library_of_ones_own_is_listed() -> None:
    with torch.library._scoped_library("hybridbench_test", "DEF") as library:
        library.define("scan(Tensor x) -> Tensor")
        library.impl("scan", lambda x: x.cumsum(0), "CPU")
        x = torch.randn(3)
        assert by_torch(lambda: torch.ops.hybridbench_test.scan(x)).unseen == {"hybridbench_test::scan": 1}


def test_a_step_that_cannot_run_under_the_counter_yields_its_reason() -> None:
    count = by_torch(lambda: torch.randn(2, 3) @ torch.randn(2, 3))
    assert (count.flops, count.unseen) == (None, {})
    assert count.error is not None
    assert count.error.startswith("RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert "\n" not in count.error


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    caches: list[torch.Tensor]


def test_fvcore_follows_outputs_in_dataclasses_and_any_function_of_the_module() -> None:
    model, x = nn.Linear(D, H, bias=False), torch.randn(T, D)
    count = by_fvcore(model, (x,), forward=lambda x: Output(model(x), [model(x)]))
    assert count.flops == 2 * (2 * T * D * H)
    without_arguments = by_fvcore(model, forward=lambda: model(x))
    assert without_arguments.flops == 2 * T * D * H


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda x: x @ x, "RuntimeError: mat1 and mat2"),
        (lambda _x: None, "ValueError: it returns no tensor"),
        (lambda x: x.no_such_attribute, "AttributeError:"),
        (lambda x: [x][3], "IndexError:"),
    ],
)
def test_a_forward_that_cannot_be_traced_yields_its_reason(forward: object, reason: str) -> None:
    count = by_fvcore(nn.Identity(), (torch.randn(2, 3),), forward=forward)
    assert count.flops is None
    assert count.error is not None
    assert count.error.startswith(f"the forward cannot be traced: {reason}")


def test_fvcore_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fvcore.nn", None)
    count = by_fvcore(nn.Identity(), (torch.randn(2),))
    assert count.flops is None
    assert count.error is not None
    assert "pip install fvcore" in count.error


def test_fvcore_is_quiet(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> None:
    x = torch.randn(3)
    by_fvcore(nn.ModuleList([nn.Linear(3, 3)]), (x,), forward=lambda x: x.exp() * int(x.numel() and x[0] > 9))
    assert not caplog.records
    assert not recwarn.list


@pytest.mark.parametrize("kv_heads", [2, 8])
def test_fused_attention_with_grouped_heads_counts_as_with_repeated_ones(kv_heads: int) -> None:
    q = torch.empty(2, 8, 32, 16, device="meta", dtype=torch.bfloat16, requires_grad=True)
    k, v = (torch.empty(2, kv_heads, 32, 16, device="meta", dtype=torch.bfloat16, requires_grad=True) for _ in range(2))

    def step() -> None:
        out, *rest = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True)
        seeds = rest[5:7]
        torch.ops.aten._scaled_dot_product_flash_attention_backward(
            out, q, k, v, out, rest[0], None, None, 32, 32, 0.0, True, *seeds
        )

    # Seven products of 2 x 8 heads, each 2 * 32 * 32 * 16: two forward, five backward.
    assert by_torch(step).flops == 7 * 2 * 8 * 2 * 32 * 32 * 16


def test_a_sum_with_a_product_into_another_dtype_counts_as_a_product() -> None:
    a, b = torch.empty(8, 32, dtype=torch.bfloat16, device="meta"), torch.empty(32, 16, device="meta").bfloat16()
    total, batched = torch.empty(8, 16, device="meta"), torch.empty(3, 8, 16, device="meta")

    def step() -> None:
        torch.ops.aten.addmm.dtype(total, a, b, torch.float32)
        torch.addmm(total, a.float(), b.float())
        torch.baddbmm(batched, a.float().expand(3, 8, 32), b.float().expand(3, 32, 16))

    assert by_torch(step).flops == (2 + 3) * 2 * 8 * 32 * 16
