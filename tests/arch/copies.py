"""copies: what tensor parallelism keeps on more than one rank, written by hand for each kind of block.

A rank's part is a block, so the package has one formula for both. Here stands what the parts of all ranks hold beyond
the block itself, tensor by tensor, so that a field which is divided wrongly shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.altup import AltUp
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.channel_mix import ChannelMix
from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.indexed import IndexedAttention
from hybridbench.arch.blocks.kda import Kda
from hybridbench.arch.blocks.latent import LatentAttention
from hybridbench.arch.blocks.lightning import Lightning
from hybridbench.arch.blocks.mamba1 import Mamba1
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mamba3 import Mamba3
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.blocks.parallel import Parallel
from hybridbench.arch.blocks.per_layer import PerLayerInput
from hybridbench.arch.blocks.rg_lru import RgLru
from hybridbench.arch.blocks.routed_attention import RoutedAttention
from hybridbench.arch.blocks.rwkv7 import Rwkv7
from hybridbench.arch.blocks.shared import SharedBlock
from hybridbench.arch.blocks.short_conv import ShortConv


@dataclass(frozen=True)
class Copies:
    """Sums over all ranks, less the block's own.

    Args:
        matrices: weights of products that every token runs.
        other: parameters that are in no product: norms, biases, convolutions, tables.
        kv: cached numbers a token. conv, state: elements of the states of a sequence.
        core: FLOPs of a decode step at a context, beside its products.
    """

    matrices: int = 0
    other: int = 0
    kv: int = 0
    conv: int = 0
    state: int = 0
    core: Callable[[int], int] = lambda _context: 0

    def __add__(self, more: Copies) -> Copies:
        sums = {
            one.name: getattr(self, one.name) + getattr(more, one.name) for one in fields(self) if one.name != "core"
        }
        return Copies(**sums, core=lambda context: self.core(context) + more.core(context))


def _beyond(count: int, tp: int) -> int:
    """How many more than ``count`` heads, groups or rows all ranks have together, each as many and at least one."""
    return tp * max(1, -(-count // tp)) - count


def attention(block: Attention, tp: int, borrows: bool = False) -> Copies:
    heads = _beyond(block.n_kv_heads, tp)
    keys = 0 if block.reuses_kv else heads * block.head_dim
    made = 0 if block.reuses_kv or block.keys_as_values or borrows else heads * block.v_head_dim
    width = block.d_in or block.d_model
    norm = {"none": 0, "head": (1 if block.reuses_kv else 2) * block.head_dim * (tp - 1), "full": keys}[block.qk_norm]
    bias = (keys + made) * block.qkv_bias + block.d_model * block.out_bias * (tp - 1)
    conv = (keys + made) * (block.d_conv + 1) if block.d_conv else 0
    kept = 0 if block.reuses_kv else heads * (block.head_dim + block.v_head_dim)
    taps = 2 * block.d_conv * (keys + made)
    return Copies(
        (keys + made) * width, norm + bias + conv, kept, (keys + made) * block.d_conv, core=lambda _context: taps
    )


def mamba2(block: Mamba2, tp: int, borrows: bool = False) -> Copies:
    channels = 2 * _beyond(block.n_groups, tp) * block.d_state
    other = channels * (block.d_conv + block.conv_bias + block.in_bias) + block.d_model * block.out_bias * (tp - 1)
    taps = 2 * block.d_conv * channels
    return Copies(block.d_model * channels, other, conv=channels * block.d_conv, core=lambda _context: taps)


def mamba3(block: Mamba3, tp: int, borrows: bool = False) -> Copies:
    channels = 2 * _beyond(block.n_groups, tp) * block.d_state * block.rank + block.n_angles * (tp - 1)
    return Copies(block.d_model * channels, 2 * block.d_state * (tp - 1))


def mamba1(block: Mamba1, tp: int, borrows: bool = False) -> Copies:
    norms = (block.dt_rank + 2 * block.d_state) * block.inner_norms
    return Copies(other=(norms + block.d_model * block.proj_bias) * (tp - 1))


def latent(block: LatentAttention, tp: int, borrows: bool = False) -> Copies:
    ranks = block.q_rank or 0
    down = block.d_model * (block.kv_rank + block.rope_dim + ranks)
    norms = block.kv_rank + ranks
    bias = (block.kv_rank + block.rope_dim + ranks + block.d_model) * block.bias
    return Copies(down * (tp - 1), (norms + bias) * (tp - 1), (block.kv_rank + block.rope_dim) * (tp - 1))


def indexed(block: IndexedAttention, tp: int, borrows: bool = False) -> Copies:
    heads, width = block.index_heads, block.index_dim
    assert block.q_rank is not None
    own = block.q_rank * heads * width + block.d_model * (width + heads)
    return latent(block, tp) + Copies(
        own * (tp - 1),
        2 * width * (tp - 1),
        width * (tp - 1),
        core=lambda context: (tp - 1) * 2 * heads * (width + 1) * (context + 1),
    )


def routed(block: RoutedAttention, tp: int, borrows: bool = False) -> Copies:
    return Copies(block.n_experts * block.d_model * (tp - 1), block.d_model * (tp - 1))


def gated_delta(block: GatedDelta, tp: int, borrows: bool = False) -> Copies:
    return Copies(other=block.v_head_dim * (tp - 1))  # the norm of a head


def kda(block: Kda, tp: int, borrows: bool = False) -> Copies:
    down = 0 if block.full_rank else 2 * block.d_model * block.head_dim
    return Copies(down * (tp - 1), block.head_dim * (tp - 1))


def rwkv7(block: Rwkv7, tp: int, borrows: bool = False) -> Copies:
    ranks = block.decay_rank + block.rate_rank + block.value_rank + block.gate_rank
    mixed = 5 if borrows and not block.value_rank else 6
    width = block.d_model * (tp - 1)
    return Copies(ranks * width, mixed * width, conv=width)


def moe(block: Moe, tp: int) -> Copies:
    latents = 2 * block.d_model * block.latent if block.latent else 0
    products = block.n_experts * block.d_model + block.d_model * block.shared_gate + latents
    biases = block.n_experts * (1 + (block.latent or block.d_model)) * block.bias + block.d_model * block.out_bias
    norms = (4 * block.d_model + block.n_experts) * block.inner_norms
    return Copies(products * (tp - 1), (biases + norms) * (tp - 1))


def per_layer(block: PerLayerInput, tp: int) -> Copies:
    rows = _beyond(block.rows, tp) * block.width
    return Copies(3 * block.d_model * block.width * (tp - 1), rows + (block.d_model + block.width) * (tp - 1))


def altup(block: AltUp, tp: int) -> Copies:
    """All of it. What runs more than once for a token is counted with the products."""
    width, copies = block.d_model, block.copies
    laurel, ends = 2 * width * block.laurel_rank, 2 * (copies - 1) * width**2 * block.first
    small = copies * width + copies**3 + copies**2
    again = copies * width + copies**2 * width
    each = Copies(laurel + ends + small, 3 * width, core=lambda _context: 2 * again)
    return Copies(each.matrices * (tp - 1), each.other * (tp - 1), core=lambda _context: 2 * again * (tp - 1))


def shared(block: SharedBlock, tp: int) -> Copies:
    width, d_model, rank = block.attention.d_in or block.attention.d_model, block.mlp.d_model, block.lora_rank
    keys = 2 * _beyond(block.attention.n_kv_heads, tp) * block.attention.head_dim
    adapters = rank * (d_model + (3 * width if block.attention_lora else 0)) * (tp - 1)
    adapters += rank * keys if block.attention_lora else 0
    both = attention(block.attention, tp) + mlp(block.mlp, tp)
    return both + Copies(d_model**2 * (tp - 1) + adapters, (width + d_model) * (tp - 1))


def mlp(block: Mlp, tp: int) -> Copies:
    return Copies(other=block.d_model * block.bias * (tp - 1))


def parallel(block: Parallel, tp: int) -> Copies:
    branches = [mixer(one, tp, index == block.borrower) for index, one in enumerate(block.branches)]
    gate = block.d_model * (block.fusion.scale == "gate") * (tp - 1)
    one = (block.fusion.scale in ("scalar", "alpha")) * (tp - 1)
    both = branches[0] + branches[1] + Copies(gate, one)
    if block.borrower == 1 and all(isinstance(branch, Attention) for branch in block.branches):
        first = block.first
        assert isinstance(first, Attention)  # one cached value serves both
        both += Copies(kv=-_beyond(first.n_kv_heads, tp) * first.v_head_dim)
    return both


def nothing(block: Block, tp: int, borrows: bool = False) -> Copies:
    return Copies()


MIXERS: dict[type[Block], Callable[..., Copies]] = {
    Attention: attention,
    Mamba1: mamba1,
    Mamba2: mamba2,
    Mamba3: mamba3,
    LatentAttention: latent,
    IndexedAttention: indexed,
    RoutedAttention: routed,
    GatedDelta: gated_delta,
    Kda: kda,
    Lightning: nothing,
    Rwkv7: rwkv7,
    RgLru: lambda block, tp, borrows=False: Copies(other=block.d_model * (tp - 1)),
    ShortConv: lambda block, tp, borrows=False: Copies(other=block.d_model * block.bias * (tp - 1)),
}
OTHERS: dict[type[Block], Callable[..., Copies]] = {
    Mlp: mlp,
    Moe: moe,
    ChannelMix: lambda block, tp: Copies(
        other=(block.d_model + block.after_embedding) * (tp - 1), conv=block.d_model * (tp - 1)
    ),
    PerLayerInput: per_layer,
    AltUp: altup,
    SharedBlock: shared,
    Parallel: parallel,
}


def mixer(block: Any, tp: int, borrows: bool) -> Copies:
    """What more than one rank has of a mixer or a branch."""
    return MIXERS[type(block)](block, tp, borrows)


def copies(block: Block, tp: int) -> Copies:
    """What ``tp`` ranks hold together beyond a block."""
    return OTHERS[type(block)](block, tp) if type(block) in OTHERS else mixer(block, tp, False)
