"""A value of the first layer of a kind reaches the later ones, however a model is run, checked or checkpointed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import hybridbench.arch.activations
import hybridbench.arch.model
import hybridbench.predict.memory
from hybridbench.arch.activations import activations
from hybridbench.arch.block import Storage
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.families import pattern_spec
from hybridbench.arch.terms import Activations, Term
from hybridbench.errors import WrongResult
from hybridbench.model import LanguageModel, build_model, resolve_backends
from hybridbench.model.block import Step
from hybridbench.model.cache import growing
from hybridbench.model.kinds import MODULES
from hybridbench.model.mamba2 import Mamba2Module
from hybridbench.model.paper_decode import PaperDecode
from hybridbench.predict.memory import prefill_memory, train_memory
from hybridbench.session import Proofs, open_session
from hybridbench.suite.case import CHECKPOINTS, Case, Execution, Sampling
from hybridbench.suite.workloads import PREFILL, TRAIN, Workload

B, T = 2, 24
CPU = torch.device("cpu")
PATTERN = "*-M-(*&M)-M-"
"""The first Mamba-2 leaves its input; the branch, which stands between, reads it too."""


class Leading(Mamba2Module):
    """Mamba-2 whose later layers add the first one's input to their own."""

    shares: tuple[str, ...] = ("first input",)
    wrong_rows: ClassVar[bool] = False

    def __init__(self, spec: Mamba2, ops: Any, make: Any, **branch: bool) -> None:
        super().__init__(spec, ops, make, **branch)
        before = (mixer for block in make.layers[: make.index] for mixer in block.mixers)
        self.first = not any(isinstance(mixer, Mamba2) for mixer in before)

    def _joined(self, x: Tensor, step: Step) -> Tensor:
        if self.first:
            # not the tensor itself, as a projection of it would not be
            step.share("first input", 2 * x if not (self.wrong_rows and len(x) > 1) else x * 2.5)
            return x
        return x + step.shared["first input"]

    def mix(self, x_BTD: Tensor, step: Step, cache: Any = None, value: Any = None) -> tuple[Tensor, Tensor]:
        return super().mix(self._joined(x_BTD, step), step, cache, value)

    def mix_step(self, x_BD: Tensor, step: Step, cache: Any, value: Any = None) -> tuple[Tensor, Tensor]:
        return super().mix_step(self._joined(x_BD, step), step, cache, value)


@pytest.fixture(autouse=True)
def _leading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, Mamba2, Leading)


def a_case(kind: str, checkpoint: str = "none", mode: str = "eager") -> Case:
    sampling = Sampling(warmup_max_s=0.0, warmup_min_steps=1, min_samples=1, max_samples=1, max_time_s=0.1)
    prompt = T // 2 if kind == "generate" else 0
    execution = Execution("cpu", "float32", mode, checkpoint=checkpoint)
    return Case(pattern_spec(PATTERN, "tiny"), Workload(kind, T, B, prompt), execution, sampling)


def built(kind: str, checkpoint: str = "none", mode: str = "eager") -> LanguageModel:
    case = a_case(kind, checkpoint, mode)
    model = build_model(case, resolve_backends(case))
    model.allocate(CPU, 0)
    return model


def tokens(model: LanguageModel) -> Tensor:
    return torch.randint(model.embedding_VD.shape[0], (B, T + 1), generator=torch.Generator().manual_seed(1))


def gradients(model: LanguageModel) -> list[Tensor]:
    batch = tokens(model)
    loss = model.loss(batch[:, :-1], batch[:, 1:])
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


def test_only_the_first_layer_of_the_kind_leaves_it() -> None:
    model = built(TRAIN)
    assert [module.first for module in model.modules() if isinstance(module, Leading)] == [True, False, False]
    assert model.blocks[4].shares == ("first input",), "a parallel block shares what its branches do"


@pytest.mark.parametrize("checkpoint", CHECKPOINTS[1:])
def test_gradients_pass_through_it_however_little_is_kept(checkpoint: str) -> None:
    plain = built(TRAIN)
    expected, found = gradients(plain), gradients(built(TRAIN, checkpoint))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_layer_leaves_and_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *given, **named: compiled(*given, backend="aot_eager", **named))
    model = built(PREFILL).eval()
    batch = tokens(model)
    with torch.no_grad():
        expected = model.hidden(batch)
        with model.compiling(model.compiled_layers()):
            torch.testing.assert_close(model.hidden(batch), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_prefill_and_decode_are_one_long_forward() -> None:
    model = built("generate").eval()
    batch, half = tokens(model), T // 2
    expected = model(batch)
    caches = model.new_caches(B, T + 1, Storage.of("float32"))
    found = [model.prefill(batch[:, : half - 3], caches), model.prefill(batch[:, half - 3 : half], caches, half - 3)]
    found += [model.decode(batch[:, t], torch.full((B,), t), caches) for t in range(half, T)]
    for logits, t in zip(found, (half - 4, *range(half - 1, T)), strict=True):
        torch.testing.assert_close(logits, expected[:, t], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("capture", [None, lambda step: step], ids=["eager", "captured"])
@torch.no_grad()
def test_it_passes_between_the_pieces_of_the_paper_s_step(capture: Any) -> None:
    usual, pieces = built("generate").eval(), built("generate", mode="published").eval()
    caches = usual.new_caches(B, T, Storage.of("float32"))
    grown = [growing(cache, held=False) for cache in pieces.new_caches(B, 1, Storage.of("float32"))]
    token_B, position_B = torch.zeros(B, dtype=torch.int64), torch.zeros(B, dtype=torch.int64)
    decode = PaperDecode(pieces, token_B, position_B, grown, capture)
    batch = tokens(usual)
    torch.testing.assert_close(pieces.prefill(batch[:, :8], grown), usual.prefill(batch[:, :8], caches))
    for t in range(8, T):
        token_B.copy_(batch[:, t])
        position_B.fill_(t)
        expected = usual.decode(token_B, position_B, caches)
        torch.testing.assert_close(decode(token_B, position_B, grown), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [TRAIN, PREFILL, "generate"])
def test_the_size_that_is_timed_is_proved_with_it(kind: str) -> None:
    session = open_session(a_case(kind), CPU, Proofs())
    assert session.sized
    assert all(check.error < 1e-3 for check in session.sized)


@pytest.mark.parametrize("kind", [TRAIN, PREFILL])
def test_what_is_left_wrong_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leading, "wrong_rows", True)
    with pytest.raises(WrongResult, match=r"first input of M|output of M"):
        open_session(a_case(kind), CPU, Proofs())


def forget() -> None:
    """Everything that was computed once per model is computed anew."""
    for module in (hybridbench.arch.model, hybridbench.arch.activations, hybridbench.predict.memory):
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What this test computes is not remembered for others."""
    yield
    forget()


@pytest.mark.usefixtures("forgotten")
def test_memory_has_it_where_nothing_else_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, storage, long = pattern_spec(PATTERN, "tiny"), Storage.of("float32"), 8192
    plain = {how: train_memory(spec, long, B, storage, how).activations for how in CHECKPOINTS}
    prefilled = prefill_memory(spec, long, B, storage).activations
    lent = Term("first input", 4 * spec.d_model)
    core = Mamba2.core_activations

    def lending(self: Mamba2, *given: Any, **named: Any) -> Activations:
        found = core(self, *given, **named)
        assert found is not None
        return replace(found, lent=(lent,))

    monkeypatch.setattr(Mamba2, "core_activations", lending)
    forget()
    assert activations(spec.blocks["M"], storage).lent == (lent,)
    once = lent.bytes(B * long)
    assert prefill_memory(spec, long, B, storage).activations == prefilled + once
    gained = {how: train_memory(spec, long, B, storage, how).activations - before for how, before in plain.items()}
    # Where all is kept the peak is at the loss, when the value is among what is kept and has no gradient yet.
    assert gained == {"none": 0, "selective": 0, "full": 2 * once}
