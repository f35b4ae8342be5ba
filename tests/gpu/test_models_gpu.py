"""Whole models on a GPU in bfloat16: prefill + decode against one forward, graph against eager, fast against plain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from hybridbench.arch.block import Storage
from hybridbench.arch.families import ARCHS, MAMBA2, RECIPES, Options, build_spec
from hybridbench.arch.kinds import MIXERS
from hybridbench.arch.model import ModelSpec
from hybridbench.capture import captured
from hybridbench.model import build_model, resolve_backends
from hybridbench.model.language import LanguageModel
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.ops import DECODE_STEP, OPS
from hybridbench.suite.workloads import GENERATE, TRAIN, Workload
from hybridbench.workload import prepare
from hybridbench.workload.decode import DecodeLoop

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BF16_BOUND = 3e-2
"""Relative error of logits between two orders of the same bfloat16 arithmetic, some ten layers deep.

One rounding to bfloat16 is 2^-9; the residual stream takes one per sublayer and each branch a few, all independent:
about sqrt(60) * 2^-9 / sqrt(3) = 0.9e-2, with room for the larger roundings inside attention and the scan.
"""
GRADIENT_BOUND = 0.2
"""Relative difference of a parameter's gradient between two ways to run the same bfloat16 kernels: some percent where
terms of either sign are summed, and 1 or not a number where it is another gradient."""
ROUNDING_RATIO = 1.5
"""How much further from float32 fast kernels may take logits than plain PyTorch in bfloat16 with the same weights."""

SPECS = {
    **{arch: build_spec(arch, "100m") for arch in ARCHS},
    **{f"intra {name}": build_spec("intra", "100m", Options(recipe=name)) for name in RECIPES if name != "paper"},
    "moe inter": build_spec("inter", "100m", Options(moe=True)),
    **{f"inter {mixer}": build_spec("inter", "100m", Options(mixer=mixer)) for mixer in MIXERS if mixer != MAMBA2},
    **{
        f"intra {mixer}": build_spec("intra", "100m", Options(mixer=mixer))
        for mixer in ("mamba1", "gated-delta", "rwkv7")
    },
}


def build(
    spec: ModelSpec,
    kind: str = GENERATE,
    mode: str = "eager",
    backends: dict[str, str] | None = None,
    dtype: str = "bfloat16",
) -> tuple[Case, LanguageModel]:
    case = Case(spec, Workload(kind, 400, 2, 300), Execution("cuda", dtype, mode, backends=backends or {}))
    model = build_model(case, resolve_backends(case))
    model.allocate(torch.device("cuda"), 0)
    return case, model


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The typical token's relative error: the median over tokens.

    A router near a tie may send a token to another expert after any rounding, and that token then differs by a lot; few
    do. Without experts median and mean are alike.
    """
    difference, size = (found.float() - expected.float()).norm(dim=-1), expected.float().norm(dim=-1)
    return float((difference / size).median())


def relative_norm(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


Run = Callable[[LanguageModel, torch.Tensor], torch.Tensor]
"""Logits of tokens by a model."""


def forward(model: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(tokens)
    return logits


def assert_only_rounding(
    name: str, found: torch.Tensor, model: LanguageModel, tokens: torch.Tensor, run: Run = forward
) -> None:
    """``found``, logits of the last of ``tokens``, lies hardly further from a float32 model's forward than a plain
    bfloat16 model that ``run``s likewise: states that are rounded after each token cost more than a forward does.

    All three have ``model``'s weights. A delta rule, which subtracts what its state already says, rounds more than
    twice as much as Mamba-2 does, so a bound on the distance itself would fit one of them only.
    """
    backends = dict.fromkeys((op for op in OPS if op != DECODE_STEP), "reference")
    logits = []
    for dtype, how in (("bfloat16", run), ("float32", forward)):
        _, plain = build(SPECS[name], backends=backends, dtype=dtype)
        plain.load_state_dict({key: value.to(plain.embedding_VD.dtype) for key, value in model.state_dict().items()})
        with torch.no_grad():
            logits.append(how(plain, tokens)[:, -found.shape[1] :])
    rounded, exact = logits
    error, rounding = relative(found, exact), relative(rounded, exact)
    print(f"{name}: {error:.2e}, plain bfloat16 {rounding:.2e}")  # noqa: T201
    assert rounding < 2 * BF16_BOUND
    assert error < ROUNDING_RATIO * rounding


def prefilled_and_decoded(model: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of the last 65 tokens, of which 64 are decoded one by one with states in bfloat16."""
    batch, total = tokens.shape
    prompt = total - 64
    caches = model.new_caches(batch, total, Storage.of("bfloat16"))
    logits = [model.prefill(tokens[:, :prompt], caches)]
    for position in range(prompt, total):
        logits.append(model.decode(tokens[:, position], torch.full((batch,), position, device="cuda"), caches))
    return torch.stack(logits, 1)


@pytest.mark.parametrize("name", SPECS)
def test_prefill_then_64_decoded_tokens_give_the_logits_of_one_forward(name: str) -> None:
    spec = SPECS[name]
    _, model = build(spec)
    tokens = torch.randint(spec.vocab_size, (2, 764), device="cuda")
    with torch.no_grad():
        found = prefilled_and_decoded(model, tokens)
    assert_only_rounding(name, found, model, tokens, prefilled_and_decoded)


@pytest.mark.parametrize("name", SPECS)
def test_fast_kernels_give_the_logits_of_the_plain_ones(name: str) -> None:
    spec = SPECS[name]
    _, fast = build(spec)
    tokens = torch.randint(spec.vocab_size, (2, 700), device="cuda")
    with torch.no_grad():
        found = fast(tokens)
    assert_only_rounding(name, found, fast, tokens)


@pytest.mark.parametrize("name", SPECS)
def test_a_captured_graph_decodes_what_eager_decodes_over_64_tokens(name: str) -> None:
    spec = SPECS[name]
    case, model = build(spec)
    prompt, steps = 600, 64
    tokens = torch.randint(spec.vocab_size, (2, prompt), device="cuda")
    decoded = []
    for graphed in (False, True):
        loop = DecodeLoop.of(case, model, prompt + steps, advance=True)
        step: Callable[[], object] = loop.step
        with torch.no_grad():
            loop.token_B.copy_(model.prefill(tokens, loop.caches).argmax(-1))
        loop.position_B.fill_(prompt)
        if graphed:
            step = captured(loop.step)
            with torch.no_grad():  # capture ran the step: start again
                loop.token_B.copy_(model.prefill(tokens, loop.caches).argmax(-1))
            loop.position_B.fill_(prompt)
        out = []
        for _ in range(steps):
            step()
            out.append(loop.token_B.clone())
        decoded.append(torch.stack(out))
        assert int(loop.position_B[0]) == prompt + steps
    assert torch.equal(*decoded)


@pytest.mark.parametrize("name", SPECS)
def test_as_published_decodes_what_eager_decodes_over_64_tokens(name: str) -> None:
    """Graphs between eager attentions against no graph at all, on caches that grow; then against static caches."""
    spec = SPECS[name]
    case, model = build(spec, mode="published")
    prompt, steps = 600, 64
    tokens = torch.randint(spec.vocab_size, (2, prompt), device="cuda")
    decoded = []
    for graphed in (False, True):
        loop = DecodeLoop.of(case, model, prompt + steps, advance=True)
        with torch.no_grad():
            loop.token_B.copy_(model.prefill(tokens, loop.caches).argmax(-1))
        loop.position_B.fill_(prompt)
        out = []
        for _ in range(steps):
            (loop.step if graphed else loop.eager_step)()
            out.append(loop.token_B.clone())
        decoded.append(torch.stack(out, 1))
        assert int(loop.position_B[0]) == prompt + steps
    assert torch.equal(*decoded)
    _, usual = build(spec)
    forced = torch.cat((tokens, decoded[0]), 1)
    loop = DecodeLoop.of(case, model, prompt + steps, advance=True)
    caches = usual.new_caches(2, prompt + steps, Storage.of("bfloat16"))
    with torch.no_grad():
        found, expected = [model.prefill(tokens, loop.caches)], [usual.prefill(tokens, caches)]
        for position in range(prompt, prompt + steps):
            loop.token_B.copy_(forced[:, position])
            loop.position_B.fill_(position)
            found.append(loop._decode(loop.token_B, loop.position_B, loop.caches).clone())
            expected.append(usual.decode(loop.token_B, loop.position_B, caches))
    error = relative(torch.stack(found, 1), torch.stack(expected, 1))
    print(f"{name}: {error:.2e}")  # noqa: T201
    assert error < BF16_BOUND


@pytest.mark.parametrize("arch", ARCHS)
def test_an_integrated_generation_times_the_steps_of_a_true_one(arch: str) -> None:
    """Each depth's step is the one a generation takes there: the same caches, the same graph."""
    case, model = build(SPECS[arch], mode="graph")
    integrated = replace(case, workload=replace(case.workload, depths=5))
    work = prepare(integrated, model)
    assert [part.context for part in work.parts] == [None, 300, 324, 349, 374, 399]
    for part in work.parts:
        part.enter()
        part.step()
        torch.cuda.synchronize()
    assert work.capacity == 400


@pytest.mark.parametrize("arch", ARCHS)
def test_a_compiled_training_step_learns_what_an_eager_one_learns(arch: str) -> None:
    """And its first gradients are the eager ones but for rounding: no loss tells of a parameter that learns nothing."""
    losses, gradients = [], []
    for mode in ("eager", "compile"):
        case, model = build(SPECS[arch], kind=TRAIN, mode=mode)
        work = prepare(case, model)
        assert work.loss is not None
        seen = []
        for step in range(8):
            work.step()
            seen.append(work.loss())
            if step == 0:
                gradients.append({name: gradient(p).clone() for name, p in model.named_parameters()})
        losses.append(seen)
    for name, expected in gradients[0].items():
        assert relative_norm(gradients[1][name], expected) < GRADIENT_BOUND, name
    eager, compiled = losses
    assert eager[-1] < eager[0] - 0.2
    assert compiled == pytest.approx(eager, rel=2e-2)
