"""problem: what an operation is asked to do, found from a case without PyTorch.

A backend says yes or no from a ``Problem`` alone, and ``limits`` says from one how much of a batch a kernel may be
given at once: before anything is allocated, and of stored records too.

    >>> Problem(device="cuda", dtype="bfloat16", head_dim=64, n_heads=32, n_kv_heads=8).kv_heads
    8
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybridbench.arch.attention import Attention
from hybridbench.arch.block import Block, Mixer
from hybridbench.arch.delta import GatedDelta, Kda
from hybridbench.arch.mamba1 import Mamba1
from hybridbench.arch.mamba2 import Mamba2
from hybridbench.arch.mamba3 import Mamba3
from hybridbench.arch.mlp import Mlp
from hybridbench.arch.model import mixers
from hybridbench.arch.moe import Moe
from hybridbench.arch.parallel import Parallel
from hybridbench.sizes import aligned
from hybridbench.suite import GENERATE, TRAIN, Case


@dataclass(frozen=True)
class Problem:
    """What one operation is asked to do: enough for a backend to say yes or no. Zero means not applicable.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        dtype: of the activations: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"float64"``.
        head_dim: P, the width of a query, key or SSM head.
        v_head_dim: V, the width of a value head; 0 means the same as ``head_dim``.
        n_heads: H, query or SSM heads.
        width: D of a norm, F of a gated activation, the channels of a gate.
        n_kv_heads: K, key/value heads; 0 means as many as ``n_heads``.
        window: a query sees this many latest keys, itself included; None sees all.
        sinks: the first keys that stay visible outside the window.
        d_state: N, columns of the SSM state.
        n_groups: G, groups of B and C vectors.
        n_angles: R, rotary angles a head of Mamba-3 turns B and C by.
        chunk_size: Q, positions per chunk of the SSD scan.
        d_conv: W, taps of the depthwise convolution.
        training: gradients are needed.
        length: the longest sequence or cache, in tokens; 0 is unknown.
        batch: sequences; 0 is unknown.
        row: columns of the packed projection that the kernels read views of: the stride of a position. 0 where they
            read no such views, as Mamba-1's, whose positions lie side by side.
    """

    device: str
    dtype: str
    head_dim: int = 0
    v_head_dim: int = 0
    n_heads: int = 0
    n_kv_heads: int = 0
    window: int | None = None
    sinks: int = 0
    d_state: int = 0
    n_groups: int = 1
    chunk_size: int = 0
    d_conv: int = 0
    training: bool = False
    length: int = 0
    width: int = 0
    n_angles: int = 0
    batch: int = 0
    row: int = 0

    @property
    def value_dim(self) -> int:
        """V, the width of a value head."""
        return self.v_head_dim or self.head_dim

    @property
    def kv_heads(self) -> int:
        """K, the number of key/value heads."""
        return self.n_kv_heads or self.n_heads

    def any_size(self) -> Problem:
        """The same problem whatever its sizes: what a proof on small inputs holds for."""
        return replace(self, length=0, batch=0, row=0)


def problem_of(block: Block | None, case: Case, borrows: bool = False) -> Problem:
    """What a block asks of its kernels in this case; ``None`` is the head's loss.

    Args:
        borrows: its value is another branch's, so that it may read a view of that branch's row; ``row`` is then the
            widest of the model.
    """
    work, execution = case.workload, case.execution
    common = {
        "device": execution.device,
        "dtype": execution.dtype,
        "training": work.kind == TRAIN,
        "length": work.context,
        "batch": work.batch,
    }
    if isinstance(block, Mixer):
        rows = [packed_row(mixer) for _, mixer in mixers(case.model)] if borrows else []
        common["row"] = max([packed_row(block), *rows])
    if isinstance(block, Attention):
        return Problem(
            head_dim=block.head_dim,
            v_head_dim=block.v_head_dim,
            n_heads=block.n_heads,
            n_kv_heads=block.n_kv_heads,
            window=block.window,
            sinks=block.sinks,
            **common,  # type: ignore[arg-type]
        )
    if isinstance(block, Mamba2):
        return Problem(
            head_dim=block.head_dim,
            n_heads=block.n_heads,
            d_state=block.d_state,
            n_groups=block.n_groups,
            chunk_size=block.chunk_size,
            d_conv=block.d_conv,
            width=block.d_inner,
            **common,  # type: ignore[arg-type]
        )
    if isinstance(block, Mamba1):
        return Problem(d_state=block.d_state, d_conv=block.d_conv, width=block.d_inner, **common)  # type: ignore[arg-type]
    if isinstance(block, Mamba3):
        return Problem(
            head_dim=block.head_dim,
            n_heads=block.n_heads,
            d_state=block.d_state,
            n_groups=block.n_groups,
            n_angles=block.n_angles,
            chunk_size=block.chunk_size,
            width=block.d_inner,
            **common,  # type: ignore[arg-type]
        )
    if isinstance(block, GatedDelta | Kda):
        return Problem(
            head_dim=block.k_head_dim,
            v_head_dim=block.v_head_dim,
            n_heads=block.n_heads,
            n_kv_heads=block.n_k_heads,
            chunk_size=block.chunk_size,
            d_conv=block.d_conv,
            width=block.out_width,
            **common,  # type: ignore[arg-type]
        )
    if isinstance(block, Parallel):
        heads = (branch.out_width // _out_heads(branch) for branch in block.branches)
        return Problem(head_dim=next(heads), v_head_dim=next(heads), **common)  # type: ignore[arg-type]
    if isinstance(block, Mlp):
        return Problem(width=block.d_ff, **common)  # type: ignore[arg-type]
    width = block.d_shared if isinstance(block, Moe) else case.model.d_model
    return Problem(width=width, **common)  # type: ignore[arg-type]


def of_op(op: str, problem: Problem, case: Case, *, step: bool) -> Problem:
    """What one operation of a block is asked, of what the block is.

    Args:
        step: it runs in a decode step. What runs over a sequence meets a generation's prompt only.
    """
    if op == "attention_decode":  # a window is kept by the ring buffer: this kernel sees a short cache without one
        return replace(problem, window=None, sinks=0)
    return replace(problem, length=case.workload.prompt) if case.workload.kind == GENERATE and not step else problem


def packed_row(block: Block) -> int:
    """Columns of a mixer's fused projection of a sequence, zero columns behind it included; 0 for Mamba-1, whose
    positions lie side by side.

    What each projection holds, in order, is in ``model.attention``, ``model.mamba2``, ``model.mamba3`` and
    ``model.delta``.
    """
    if isinstance(block, Attention):
        return (block.n_heads + block.n_kv_heads) * block.head_dim + block.n_kv_heads * block.v_head_dim
    if isinstance(block, Mamba2):
        return aligned(2 * block.d_inner + 2 * block.n_groups * block.d_state + block.n_heads)
    if isinstance(block, Mamba3):
        states = 2 * block.n_groups * block.d_state
        return aligned(2 * block.d_inner + states + 3 * block.n_heads + block.n_angles)
    if isinstance(block, GatedDelta | Kda):
        keys = 2 * block.n_k_heads * block.k_head_dim
        # KDA's gate and decay come through one head's columns each
        gate_and_decay = 2 * block.k_head_dim if isinstance(block, Kda) else block.out_width + block.n_heads
        return aligned(keys + block.out_width + gate_and_decay + block.n_heads)
    return 0


def _out_heads(branch: Mixer) -> int:
    """Heads a branch's output divides into; the channels of Mamba-1 are one group."""
    if isinstance(branch, Mamba1):
        return 1
    with_heads = (Attention, Mamba2, Mamba3, GatedDelta, Kda)
    assert isinstance(branch, with_heads), f"no heads in a mixer of kind {branch.kind}"
    return branch.n_heads
