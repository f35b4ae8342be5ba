"""What is fused into one operation, padded or put side by side gives what its parts give, gradients included."""

from __future__ import annotations

import pytest
import torch
from variants import VARIANTS

from hybridbench.errors import BadInput
from hybridbench.kernels.scan import reference
from hybridbench.model import build_model, mixer, resolve_backends
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.ops import CORE, CORE_PARTS
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.suite.workloads import TRAIN, Workload

PLAIN_CORE = {CORE: "reference"}
BORROWING = ("recipe diff-transformer", "mamba twice, one value", "fusion vector add shared")


def loss_and_gradients(spec, backends=None):
    case = Case(spec, Workload(TRAIN, 40, 2), Execution("cpu", "float32", "eager", backends=backends or {}))
    model = build_model(case, resolve_backends(case))
    model.allocate(torch.device("cpu"), 0)
    tokens = torch.randint(spec.vocab_size, (2, 41), generator=torch.Generator().manual_seed(1))
    loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters())]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["mamba", "inter", "intra", *BORROWING])
def test_one_core_gives_what_its_parts_give(name):
    assert_same(loss_and_gradients(VARIANTS[name], PLAIN_CORE), loss_and_gradients(VARIANTS[name]))


@pytest.mark.parametrize("backends", [{}, PLAIN_CORE])
@pytest.mark.parametrize("name", ["mamba", "intra", "fusion vector add shared"])
def test_padded_projections_change_nothing(name, backends, monkeypatch):
    plain = loss_and_gradients(VARIANTS[name], backends)
    monkeypatch.setattr(mixer, "padding", lambda columns, device: -columns % 64 + 64)
    assert_same(loss_and_gradients(VARIANTS[name], backends), plain)


def test_rows_of_projections_are_padded_on_a_gpu_only_where_they_need_it():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert mixer.padding(4882, cpu) == 0
    assert mixer.padding(4882, gpu) == 4888 - 4882
    assert mixer.padding(8480, gpu) == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if "fusion" in name and "gate" not in name else [])
        for name in VARIANTS
        if name == "intra" or "recipe" in name or "fusion" in name
    ],
)
def test_both_norms_in_one_operation_give_what_the_plain_fusion_gives(name, monkeypatch):
    from hybridbench.model.parallel import ParallelModule

    fused = loss_and_gradients(VARIANTS[name])
    monkeypatch.setattr(ParallelModule, "_fuse_sequence", ParallelModule._fuse)
    assert_same(fused, loss_and_gradients(VARIANTS[name]))


def test_a_case_runs_the_core_or_its_parts_and_never_both():
    def ran(name, **backends):
        case = Case(VARIANTS[name], Workload(TRAIN, 40, 2), Execution("cpu", "float32", "eager", backends=backends))
        return {item.op for item in resolve_backends(case)} & {CORE, *CORE_PARTS}

    assert ran("mamba") == set(CORE_PARTS), "without a fused kernel the parts are what runs"
    assert ran("mamba", mamba2_core="reference") == {CORE}
    assert ran("mamba", ssd="reference") == set(CORE_PARTS)
    assert ran("fusion vector add shared", mamba2_core="reference") >= set(CORE_PARTS), (
        "a borrowed value: no packed row"
    )
    with pytest.raises(BadInput, match="ask for one"):
        cases(Sweep("train", arch="mamba", backends={CORE: "reference", "ssd": "reference"}), has_gpu=False)


def test_the_core_reference_is_its_parts_on_a_whole_model_of_groups():
    torch.manual_seed(0)
    H, P, N, G = 4, 8, 8, 2
    inner, channels = H * P, H * P + 2 * G * N
    packed = torch.randn(2, 20, inner + channels + H)
    heads = -torch.rand(H), torch.randn(H), torch.randn(H)
    settings = {"head_dim": P, "n_groups": G, "chunk_size": 8, "eps": 1e-5}
    conv = torch.randn(channels, 4), torch.randn(channels)
    out, state = reference.mamba2_core(packed, *conv, *heads, None, **settings)
    wider, same_state = reference.mamba2_core(torch.nn.functional.pad(packed, (0, 5)), *conv, *heads, None, **settings)
    assert torch.equal(out, wider)
    assert torch.equal(state, same_state)
