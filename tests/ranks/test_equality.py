"""A case on two ranks computes what it computes on one: losses, gradients, logits, and the weights it begins with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from two_ranks import on_ranks
from variants import small

from hybridbench.arch.families import ARCHS, Options, build_spec, pattern_spec
from hybridbench.arch.held import held_parts, held_words
from hybridbench.arch.model import ModelSpec
from hybridbench.model.across import Across
from hybridbench.model.build import build_model, resolve_backends
from hybridbench.model.language import LanguageModel
from hybridbench.ranks.place import RankPlace, place_of
from hybridbench.ranks.watch import collectives
from hybridbench.ranks.weights import cut
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import GENERATE, TRAIN, Workload
from hybridbench.workload import prepare

# toy has one KV head and one group of B and C, which both ranks hold; tiny has two KV heads
LENT = {"fusion_value": "shared", "fusion_norm": "none", "fusion_out": "joint", "fusion_op": "add"}
SPECS = {
    **{f"{arch} {scale}": small(build_spec(arch, scale)) for arch in ARCHS for scale in ("toy", "tiny")},
    "vector concat": small(build_spec("intra", "tiny", Options(recipe="diff-mamba", fusion_scale="vector"))),
    "gate": small(build_spec("intra", "tiny", Options(fusion_scale="gate"))),
    "alpha joint": small(build_spec("intra", "tiny", Options(fusion_scale="alpha", fusion_out="joint"))),
    "lent value": small(pattern_spec("(*&M)-M-", "tiny", Options(**LENT))),
    "two groups": small(build_spec("mamba", "tiny")),
}
OTHERS = ("gated-delta", "kda", "mamba3", "rwkv7")
SPECS |= {f"{m} between": small(build_spec("inter", "tiny", Options(mixer=m))) for m in OTHERS}
SPECS |= {f"{m} beside": small(build_spec("intra", "tiny", Options(mixer=m))) for m in OTHERS if m != "gated-delta"}
SPECS["experts"] = small(build_spec("inter", "tiny", Options(moe=True)))
SPECS["odd vocabulary"] = replace(small(build_spec("inter", "toy")), vocab_size=321)
SPECS["two groups"] = replace(
    SPECS["two groups"],
    blocks={**SPECS["two groups"].blocks, "M": replace(SPECS["two groups"].blocks["M"], n_groups=2)},
)
QUICK = ("odd vocabulary",)
# Python 3.12 warns of a fork where other threads run; those of the tests' runner hold no lock that a rank needs
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
named = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SPECS]
)


def made(
    spec: ModelSpec, kind: str, dtype: str = "float32", batch: int = 2, **spread: int
) -> tuple[Case, LanguageModel, RankPlace | None]:
    work = Workload(TRAIN, 40, batch) if kind == TRAIN else Workload(GENERATE, 45, batch, 37)
    case = Case(spec, work, Execution("cpu", dtype, "eager", seed=3, **spread))
    place = place_of(case)
    part = case if place is None else place.part
    resolved = resolve_backends(part)
    model = build_model(part, resolved)
    if place is None:
        model.allocate(torch.device("cpu"), 3)
    else:
        place.allocate(model, resolved, torch.device("cpu"))
    return part, model, place


def trained(
    spec: ModelSpec, dtype: str = "float32", batch: int = 2, **spread: int
) -> tuple[list[float], dict[str, list[Tensor]]]:
    """The losses of three steps, and each parameter before them and its gradient in the first, whole where sharded."""
    case, model, place = made(spec, TRAIN, dtype, batch, **spread)
    work = prepare(case, model)
    before = {name: whole(parameter) for name, parameter in model.named_parameters()}
    losses, gradients = [], {}
    for step in range(3):
        work.step()
        losses.append(work.loss())
        if step == 0:
            gradients = {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    if place is not None:
        begun = collectives().begun
        with place.silent():
            work.step()
            assert collectives().begun == begun, "a step without transfers has none"
        assert torch.tensor(work.loss()).isfinite()
    return losses, {name: [before[name], gradients[name]] for name in before}


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def numbers(found: dict[str, list[Tensor]]) -> dict[str, list[object]]:
    return {name: [tensor.numpy() for tensor in tensors] for name, tensors in found.items()}


def trained_on_rank(spec: ModelSpec, spread: dict[str, int]) -> tuple[list[float], dict[str, list[object]]]:
    losses, found = trained(spec, **spread)
    return losses, numbers(found)


def close(found: object, expected: Tensor, what: str) -> None:
    given = torch.as_tensor(found)
    assert given.shape == expected.shape, what
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=2e-6, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SPECS if name != "experts"],
)
def test_training_with_sharded_weights_equals_training_on_one_rank(name: str) -> None:
    losses, expected = trained(SPECS[name])
    ranks = on_ranks(2, trained_on_rank, SPECS[name], {"gpus": 2})
    means = [sum(pair) / 2 for pair in zip(*(found for found, _ in ranks), strict=True)]
    assert means == pytest.approx(losses, rel=1e-5)
    for _, found in ranks:
        assert found.keys() == expected.keys()
        for parameter, (before, gradient) in expected.items():
            assert torch.equal(torch.as_tensor(found[parameter][0]), before), f"{parameter} begins differently"
            close(found[parameter][1], gradient, f"gradient of {parameter}")


@named
def test_training_on_parts_of_every_sublayer_equals_training_on_one_rank(name: str) -> None:
    spec = SPECS[name]
    losses, expected = trained(spec)
    ranks = on_ranks(2, trained_on_rank, spec, {"tp": 2})
    for rank, (found_losses, found) in enumerate(ranks):
        assert found_losses == pytest.approx(losses, rel=1e-5)
        assert found.keys() == expected.keys()
        for parameter, tensors in expected.items():
            for what, tensor, mine in zip(("begin", "gradient"), tensors, found[parameter], strict=True):
                close(mine, part(spec, parameter, tensor, rank), f"{what} of {parameter} on rank {rank}")


@pytest.mark.slow
def test_weights_that_three_ranks_cannot_divide_evenly() -> None:
    spec = SPECS["intra toy"]
    losses, expected = trained(spec, batch=3)
    ranks = on_ranks(3, trained_on_rank, spec, {"gpus": 3, "batch": 3})
    means = [sum(each) / 3 for each in zip(*(found for found, _ in ranks), strict=True)]
    assert means == pytest.approx(losses, rel=1e-5)
    for parameter, (before, gradient) in expected.items():
        assert torch.equal(torch.as_tensor(ranks[2][1][parameter][0]), before)
        close(ranks[2][1][parameter][1], gradient, f"gradient of {parameter}")


def trained_in_bfloat16(spec: ModelSpec, spread: dict[str, int]) -> tuple[list[float], dict[str, list[object]]]:
    losses, found = trained(spec, "bfloat16", **spread)
    return losses, {name: [one.float().numpy() for one in tensors] for name, tensors in found.items()}


def test_parameters_of_another_dtype_are_whole_on_every_rank_and_their_gradients_the_mean() -> None:
    spec = SPECS["mamba toy"]
    losses, expected = trained(spec, "bfloat16")
    odd = [name for name, (before, _) in expected.items() if before.dtype == torch.float32]
    assert {name.rpartition(".")[2] for name in odd} == {"A_log_H", "dt_bias_H", "D_H"}
    first, second = on_ranks(2, trained_in_bfloat16, spec, {"gpus": 2})
    means = [sum(pair) / 2 for pair in zip(first[0], second[0], strict=True)]
    assert means == pytest.approx(losses, rel=1e-3)
    for name in odd:
        before, gradient = (torch.as_tensor(one) for one in first[1][name])
        assert torch.equal(gradient, torch.as_tensor(second[1][name][1])), name
        assert torch.equal(before, expected[name][0]), name
        right = expected[name][1]
        assert float((gradient - right).norm() / right.norm()) < 0.05, name


def part(spec: ModelSpec, parameter: str, tensor: Tensor, rank: int) -> Tensor:
    """A rank's part of a parameter, or of its gradient."""
    if parameter == "embedding_VD":
        first, last = held_words(spec.vocab_size, 2, rank)
        rows = -(-spec.vocab_size // 2)
        return torch.cat((tensor[first:last], tensor.new_zeros(rows - (last - first), tensor.shape[1])))
    if not parameter.startswith("layers."):
        return tensor
    _, index, name = parameter.split(".", 2)
    found = held_parts(spec.placed[int(index)], 2, rank)[name]
    shape = list(tensor.shape)
    shape[found.dim] = sum(last - first for first, last in found.spans)
    mine = torch.empty(shape)
    cut(mine, tensor, found)
    return mine


def decoded(spec: ModelSpec, **spread: int) -> tuple[list[object], list[list[int]]]:
    """The logits of a prompt and of eight decode steps, of a rank's own words, and the words picked of each."""
    case, model, _ = made(spec, GENERATE, **spread)
    tokens = torch.randint(spec.vocab_size, (2, 45), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        caches = model.new_caches(2, 45, case.execution.storage)
        logits = [model.prefill(tokens[:, :37], caches)]
        for position in range(37, 45):
            logits.append(model.decode(tokens[:, position], torch.full((2,), position), caches))
        picked = [model.pick(one).tolist() for one in logits]
    return [one.numpy().copy() for one in logits], picked


def decoded_on_rank(spec: ModelSpec) -> tuple[list[object], list[list[int]]]:
    return decoded(spec, tp=2)


@named
def test_prefill_and_decode_on_parts_of_every_sublayer_give_the_logits_of_one_rank(name: str) -> None:
    expected, words = decoded(SPECS[name])
    for rank, (found, picked) in enumerate(on_ranks(2, decoded_on_rank, SPECS[name])):
        own = slice(*held_words(SPECS[name].vocab_size, 2, rank))
        assert picked == words
        for step, (mine, logits) in enumerate(zip(found, expected, strict=True)):
            close(mine, torch.as_tensor(logits)[:, own], f"logits of step {step} on rank {rank}")


def picked(local: list[float], vocabulary: int) -> list[int]:
    across = Across(dist.get_rank(), dist.get_world_size(), vocabulary)
    own = torch.tensor([local])[:, across.first_word : across.last_word]
    return [int(word) for word in across.pick(own)]


def test_the_first_of_equal_words_is_picked_also_where_a_rank_has_none() -> None:
    for logits in ([0.0, 2.0, 1.0, 2.0, -1.0], [-3.0, -2.0, -2.5, -4.0, -1.0], [7.0] * 5):
        right = [logits.index(max(logits))]
        assert on_ranks(2, picked, logits, 5) == [right] * 2
        assert on_ranks(4, picked, logits, 5) == [right] * 4  # two words each: the last rank has none
