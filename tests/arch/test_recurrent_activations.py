"""Lists of other mixers beside what their published sources allocated, run on CPU tensors with every kernel left out.

Two sequences of 2,048 tokens in bfloat16 and a model dimension of 256, so that weights and their gradients are small
beside what grows with the tokens; bytes a token, what enters and leaves the block aside. Sources as in
``arch.activations``; of the conv and of Mamba-1's scan, which are compiled, the tensors that they return.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridbench.arch.activations import activations
from hybridbench.arch.block import Mixer, Storage
from hybridbench.arch.families import Options, build_spec
from hybridbench.arch.terms import largest, total

TOKENS = 2 * 2048
ALLOCATED = {
    # mixer, scale: forward without gradients, kept for the backward, backward
    ("mamba1", "350m"): (37_363, 37_411, 18_710),
    ("mamba1", "1b"): (49_796, 49_860, 24_904),
    ("mamba3", "350m"): (66_178, 55_706, 43_200),
    ("mamba3", "1b"): (87_875, 73_226, 57_600),
    ("gated-delta", "350m"): (78_048, 55_635, 161_088),
    ("gated-delta", "1b"): (104_064, 74_180, 214_784),
    ("kda", "350m"): (124_544, 68_480, 154_944),
    ("kda", "1b"): (165_888, 91_136, 206_592),
    # without the zeros that autograd hands over as the gradient of the final state
    ("lightning", "350m"): (62_208, 55_296, 67_970),
    ("lightning", "1b"): (82_944, 73_728, 90_626),
    # kept with elementwise work in PyTorch, less what its own kernels do not keep: the difference from the token before
    # (256 channels), a scaled key (3,072 or 4,096), and the lengths of keys twice (48 or 64 heads)
    ("rwkv7", "350m"): (196_992, 115_584 - 2 * (256 + 3_072 + 2 * 48), 252_484),
    ("rwkv7", "1b"): (262_656, 152_832 - 2 * (256 + 4_096 + 2 * 64), 336_646),
}


@pytest.mark.parametrize(("mixer", "scale"), ALLOCATED)
def test_what_is_listed_is_what_the_sources_allocate(mixer: str, scale: str) -> None:
    spec = build_spec("mamba", scale, Options(mixer=mixer))
    (block,) = (block for block in spec.blocks.values() if isinstance(block, Mixer))
    lists = activations(replace(block, d_model=256), Storage.of("bfloat16"))
    kept = [term for term in lists.saved if term.name != "block input"]
    forward, saved, backward = ALLOCATED[mixer, scale]
    # final states and sums over programs are left out; of Mamba-3's norms a CPU keeps more than a GPU
    assert largest(lists.forward, TOKENS) / TOKENS == pytest.approx(forward, rel=0.016)
    assert total(kept, TOKENS) / TOKENS == pytest.approx(saved, rel=0.051 if mixer == "mamba3" else 2e-4)
    assert largest(lists.backward, TOKENS) / TOKENS == pytest.approx(backward, rel=6e-3)
    assert len(lists.saved) - len(kept) == 1
