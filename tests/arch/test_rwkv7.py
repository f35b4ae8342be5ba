"""RWKV-7's parameters against those of the published models, its step by hand, and its place at the scales."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hybridbench.arch.block import CacheBytes, Convention, Flops, Storage
from hybridbench.arch.blocks.rwkv7 import Rwkv7, low_ranks
from hybridbench.arch.families import pattern_spec
from hybridbench.arch.scales import SCALES
from hybridbench.errors import BadInput

PUBLISHED = {
    # arXiv 2503.14456, the table of released models: layers, width, parameters in all; ranks of w, a, v and g
    "0.1B": (12, 768, 191_034_624, (64, 64, 32, 128)),
    "0.4B": (24, 1024, 450_767_872, (64, 64, 32, 128)),
    "1.5B": (24, 2048, 1_527_404_544, (96, 96, 64, 256)),
    "2.9B": (32, 2560, 2_947_735_040, (96, 96, 64, 320)),
}
VOCABULARY = 65_536


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_so_many_parameters(name: str) -> None:
    """Time mixing as here; channel mixing of two matrices d x 4 d and one share; norms with a bias, two a layer and two
    around all; embedding and head apart.
    """
    layers, width, total, ranks = PUBLISHED[name]
    later = Rwkv7(width, width // 64, 64, *ranks)
    mixing = later.leading({later.line}).params() + (layers - 1) * later.params()
    rest = layers * (8 * width**2 + width + 2 * 2 * width) + 2 * 2 * width
    assert mixing + rest + 2 * VOCABULARY * width == total


@pytest.mark.parametrize("name", PUBLISHED)
def test_ranks_follow_from_the_width(name: str) -> None:
    _, width, _, ranks = PUBLISHED[name]
    found = low_ranks(width)
    by_rule = tuple(found[f"{which}_rank"] for which in ("decay", "rate", "value", "gate"))
    assert by_rule == (ranks if width != 1024 else (*ranks[:3], 160)), "RWKV-LM sets the gate's to 128 at 1024"


def test_one_step_by_hand() -> None:
    d, heads, head = 2048, 64, 64
    width = heads * head
    spec = Rwkv7(d, heads, head, 96, 96, 64, 256)
    matmul = 4 * d * width + (96 + 96 + 64 + 256) * (d + width)
    vectors = 6 * d + (3 + 2 + 1 + 2) * width  # shares; bases of w, a, v; two of the key, the bonus, the norm
    assert spec.params() == matmul + vectors
    assert spec.decode_flops(3) == Flops(2 * matmul, scan=9 * heads * head**2)
    assert spec.cache(3, Storage()) == CacheBytes(ssm=2 * heads * head**2, conv=2 * d)
    assert spec.cache(3, Storage(ssm_bytes=4)).ssm == 4 * heads * head**2
    assert spec.cache_traffic(9, Storage()) == 2 * 2 * (heads * head**2 + d)
    first = spec.leading({spec.line})
    assert spec.params() - first.params() == 64 * (d + width) + width
    assert spec.decode_flops(3).matmul - first.decode_flops(3).matmul == 2 * 64 * (d + width)
    assert first.leading({first.line}) == first
    assert spec.leading(()) == spec.leading({(Rwkv7, 2 * width)}) == spec


def test_products_of_one_chunk_by_hand() -> None:
    """Fla's kernels, product by product: (rows, inner, columns) of every ``tl.dot``, c of a chunk and p of a head."""
    c, p = 64, 64
    spec = Rwkv7(128, 2, p, 32, 32, 32, 32, chunk_size=c)
    forward = [(c, c, p)] * 2 + [(c, p, c)] * 4  # sums of decays; A_qk, A_qb, A_ak, A_ab
    forward += [(c, c, c), (c, c, p), (c, c, p)]  # wu: the inverse with A_ak, w, u
    states = [(c, p, p), (p, c, p), (p, c, p)]  # h: w h, k^T v, b^T v2
    output = [(c, p, p), (c, c, p), (c, c, p)]  # o: q h, A_qk v, A_qb v2
    backward = [(c, p, c), (c, p, c), (c, c, p)]  # dAu
    backward += [(c, p, p), (p, c, p), (p, c, p)]  # dhu
    backward += [(c, p, p), (c, c, p)]  # dv
    backward += [(c, p, p)] * 4  # bwd_o: dq, dk, db, dw
    backward += [
        (c, c, c),
        (c, p, c),
        (c, c, p),
        (c, c, c),
        (c, c, c),
        (c, p, c),
        (c, c, p),
        (c, c, c),
        (c, c, c),
    ]  # wy
    backward += [(c, c, p)] * 8  # intra: two each of dq, da, dk, db

    def flops(products: list[tuple[int, int, int]]) -> int:
        return 2 * sum(2 * a * b * d for a, b, d in products)  # two heads

    hardware = Convention.HARDWARE
    assert spec.prefill_flops(c, hardware).scan == flops(forward + states + output)
    assert spec.prefill_flops(c + 1, hardware).scan == 2 * flops(forward + states + output)
    assert spec.train_flops(c, hardware).scan == flops(2 * (forward + states) + output + backward)
    assert spec.train_flops(c).scan == 3 * c * 9 * spec.state_size


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("branch", [False, True])
def test_it_is_as_wide_as_the_scale_s_mamba2(scale: str, branch: bool) -> None:
    ours, theirs = ("(*&7)", "(*&M)") if branch else ("7", "M")
    block, mamba2 = pattern_spec(ours, scale).blocks[ours], pattern_spec(theirs, scale).blocks[theirs]
    ours_mixer, theirs_mixer = block.mixers[0], mamba2.mixers[0]
    assert isinstance(ours_mixer, Rwkv7)
    assert ours_mixer.out_width == theirs_mixer.out_width
    assert ours_mixer.head_dim == 64


def test_another_width_has_the_ranks_of_that_width() -> None:
    spec = Rwkv7(1024, 32, 64, **low_ranks(1024))
    wider = spec.scaled(2048, 1024)
    assert wider == Rwkv7(2048, 64, 64, **low_ranks(2048))
    assert replace(spec, value_rank=0).scaled(2048, 1024) == replace(wider, value_rank=0)


@pytest.mark.parametrize(
    ("field", "value"), [("n_heads", 0), ("decay_rank", 0), ("value_rank", -1), ("value_rank", 1.5), ("gate_rank", -3)]
)
def test_misfits_are_refused(field: str, value: Any) -> None:
    sizes: dict[str, Any] = {"decay_rank": 4, "rate_rank": 4, "value_rank": 4, "gate_rank": 4, "n_heads": 2}
    with pytest.raises(BadInput, match=f"{field} is {value}"):
        Rwkv7(d_model=8, head_dim=4, **sizes | {field: value})
