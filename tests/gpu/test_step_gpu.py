"""The fused decode step on a GPU: against the modules over 64 tokens, captured against not, one stream against two."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hybridbench.arch.families import ARCHS, MAMBA2, Options, build_spec, pattern_spec
from hybridbench.arch.kinds import KINDS, MIXERS
from hybridbench.capture import captured
from hybridbench.model import build_model, resolve_backends
from hybridbench.model.kinds import STEPS as FUSED_STEPS
from hybridbench.model.step import BOUND
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import GENERATE, Workload
from hybridbench.workload.prepared import present

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PROMPT, STEPS = 600, 64
FUSED = {row.mixer for row in KINDS if row.spec in FUSED_STEPS}
OTHERS = [mixer for mixer in MIXERS if mixer != MAMBA2 and mixer in FUSED]
SPECS = {
    **{arch: build_spec(arch, "100m") for arch in ARCHS},
    "intra concat": build_spec("intra", "100m", Options(recipe="concat")),
    "intra 3b widths": build_spec("intra", "3b", Options(ratio="1:0", vocab_size=4096)),
    **{mixer: pattern_spec(f"{MIXERS[mixer]}-*-{MIXERS[mixer]}-", "1b") for mixer in OTHERS},
    **{f"intra {mixer}": pattern_spec(f"(*&{MIXERS[mixer]})-{MIXERS[mixer]}-", "1b") for mixer in OTHERS},
}


class Decoding:
    """A model with a prompt in its caches, ready to decode again and again from the same state."""

    def __init__(self, name: str, batch: int, streams: int = 1) -> None:
        spec = SPECS[name]
        case = Case(
            spec,
            Workload(GENERATE, PROMPT + STEPS, batch, PROMPT),
            Execution("cuda", "bfloat16", "graph", streams=streams),
        )
        self.model = build_model(case, resolve_backends(case))
        assert self.model.fused_step is not None, "the fused step is what auto takes here"
        self.model.allocate(torch.device("cuda"), 0)
        self.tokens = torch.randint(spec.vocab_size, (batch, PROMPT + STEPS), device="cuda")
        self.caches = self.model.new_caches(batch, PROMPT + STEPS, case.execution.storage)
        self.token_B = torch.zeros(batch, dtype=torch.int64, device="cuda")
        self.position_B = torch.zeros(batch, dtype=torch.int64, device="cuda")
        self.plan = self.model.fused_step(
            self.model, self.caches, self.token_B, self.position_B, advance=True, streams=streams
        )

    def start(self) -> None:
        with torch.no_grad():
            self.token_B.copy_(self.model.prefill(self.tokens[:, :PROMPT], self.caches).argmax(-1))
        self.position_B.fill_(PROMPT)

    def decoded(self, step: Callable[[], object]) -> torch.Tensor:
        """64 tokens fed back one after the other."""
        out = []
        for _ in range(STEPS):
            step()
            out.append(self.token_B.clone())
        assert int(self.position_B[0]) == PROMPT + STEPS
        return torch.stack(out)


@pytest.mark.parametrize("batch", [1, 4, 11])
@pytest.mark.parametrize("name", SPECS)
def test_fused_is_what_the_modules_compute_over_64_tokens(name: str, batch: int) -> None:
    """The same tokens are fed to both, so that a near tie between two of them is not taken for a difference."""
    at = Decoding(name, batch)
    worst = 0.0
    with torch.no_grad():
        at.start()
        expected = []
        for i in range(STEPS):
            position = torch.full((batch,), PROMPT + i, device="cuda")
            expected.append(at.model.decode(at.tokens[:, PROMPT + i], position, at.caches).float())
        plain = [tensor.clone() for cache in present(at.caches) for tensor in cache.compared().values()]
        at.start()
        for i, logits in enumerate(expected):
            at.token_B.copy_(at.tokens[:, PROMPT + i])
            found = at.plan().float()
            assert torch.equal(at.token_B, found.argmax(-1))
            worst = max(worst, float((found - logits).norm() / logits.norm()))
        fused = [tensor for cache in present(at.caches) for tensor in cache.compared().values()]
    apart = max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(fused, plain, strict=True))
    print(f"{name} b{batch}: logits {worst:.2e}, caches {apart:.2e}")  # noqa: T201
    assert worst < BOUND
    assert apart < BOUND


@pytest.mark.parametrize("name", SPECS)
def test_a_captured_step_decodes_the_same_tokens_bit_for_bit(name: str) -> None:
    at = Decoding(name, 4)
    with torch.no_grad():
        at.start()
        eager, logits = at.decoded(at.plan), at.plan.logits_BV.clone()
        at.start()
        replay = captured(at.plan)
        at.start()
        assert torch.equal(at.decoded(replay), eager)
        assert torch.equal(at.plan.logits_BV, logits)


@pytest.mark.parametrize("name", ["intra", "intra concat", *(f"intra {mixer}" for mixer in OTHERS)])
def test_two_streams_change_nothing(name: str) -> None:
    decoded = []
    for streams in (1, 2):
        at = Decoding(name, 4, streams)
        with torch.no_grad():
            at.tokens = torch.randint(2000, at.tokens.shape, device="cuda", generator=_seeded())
            at.start()
            replay = captured(at.plan)
            at.start()
            decoded.append(at.decoded(replay))
    assert torch.equal(*decoded)


def _seeded() -> torch.Generator:
    return torch.Generator(device="cuda").manual_seed(3)
