"""linear: lightning attention, over a sequence and in one step."""

from __future__ import annotations

from hybridbench.arch.block import Convention
from hybridbench.arch.blocks.lightning import Lightning
from hybridbench.operations.operation import SCAN, Operation, public
from hybridbench.problem import Problem

_FLA = (
    "fla-core 0.6.0, common/chunk_h.py, chunk_o.py and fused_recurrent.py: programs' numbers are widened to 64 bits "
    "before any product, and a chunk's position is i_t_int64 * BT"
)


def _lightning(problem: Problem) -> Lightning:
    return Lightning(d_model=1, n_heads=problem.n_heads, head_dim=problem.head_dim)


ROWS = (
    Operation(
        name="lightning",
        family="kernels.linear",
        spends=SCAN,
        inputs=(
            "q_BTHP",
            "k_BTHP",
            "v_BTHP",
            "log_decay_H: float32, constant",
            "initial_state_BHPP: float32, optional",
        ),
        outputs=("o_BTHP", "final_state_BHPP: float32"),
        settings=("chunk_size",),
        forward=lambda problem: problem.batch * _lightning(problem).core_prefill(problem.length, Convention.EXACT).scan,
        backends=(public("fla", "fla-core", "kernels.linear.fla:lightning", wide=_FLA),),
        kernels=("chunk_fwd_kernel_[ho]$", "chunk_bwd_kernel_(dh|dqkwg|dv)$"),
        sequences=True,
    ),
    Operation(
        name="lightning_step",
        family="kernels.linear",
        spends=SCAN,
        inputs=("state_BHPP: in place", "q_BHP", "k_BHP", "v_BHP", "log_decay_H: float32, constant"),
        outputs=("o_BHP",),
        forward=lambda problem: problem.batch * _lightning(problem).core_decode(0, Convention.EXACT).scan,
        backends=(public("fla", "fla-core", "kernels.linear.fla:lightning_step", wide=_FLA),),
        kernels=("fused_recurrent_fwd_kernel",),
        sequences=True,
    ),
)
