"""delta: the gated delta rule, Kimi delta attention and RWKV-7's rule, their decode steps, and what is around them."""

from __future__ import annotations

from hybridbench.arch.block import Convention
from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.kda import Kda
from hybridbench.arch.blocks.rwkv7 import Rwkv7
from hybridbench.operations.operation import REST, SCAN, SHIFTED, Operation, own, public
from hybridbench.problem import Problem

_FLA = "fla-core 0.6.0: programs' numbers are widened to 64 bits before any product (its issue 1080)"


def _gated_delta(problem: Problem) -> GatedDelta:
    """The block whose scan a problem is."""
    return GatedDelta(
        d_model=1,
        n_heads=problem.n_heads,
        n_k_heads=problem.kv_heads,
        k_head_dim=problem.head_dim,
        v_head_dim=problem.value_dim,
    )


def _kda(problem: Problem) -> Kda:
    """The block whose scan a problem is."""
    return Kda(d_model=1, n_heads=problem.n_heads, head_dim=problem.head_dim)


def _norms(problem: Problem) -> int:
    """Norms of a position: one a value head, or fewer and wider ones."""
    return problem.n_heads * problem.value_dim // problem.norm_dim


def _rwkv7(problem: Problem) -> Rwkv7:
    """The block whose scan a problem is."""
    heads, width = problem.n_heads, problem.head_dim
    return Rwkv7(d_model=1, n_heads=heads, head_dim=width, decay_rank=1, rate_rank=1, value_rank=1, gate_rank=1)


_KEY_HEADS = {"G": lambda problem: problem.kv_heads}
"""A group of value heads shares a query and key head."""

_GATES = ("A_log_H: float32", "dt_bias_H: float32")
_GATES_BY_CHANNEL = ("A_log_H: float32", "dt_bias_HP: float32")
_INITIAL = "initial_state_BHPV: float32, optional"

ROWS = (
    Operation(
        name="gated_delta",
        family="kernels.delta",
        spends=SCAN,
        inputs=("q_BTGP", "k_BTGP", "v_BTHV", "dt_BTH", "beta_BTH", *_GATES, _INITIAL),
        outputs=("o_BTHV", "final_state_BHPV: float32"),
        settings=("chunk_size",),
        dimensions=_KEY_HEADS,
        forward=lambda problem: (
            problem.batch * _gated_delta(problem).core_prefill(problem.length, Convention.EXACT).scan
        ),
        backends=(
            public("fla", "fla-core", "kernels.delta.fla:gated_delta", wide=_FLA),
            public("fla-kda", "fla-core", "kernels.delta.fla:gated_delta_as_kda", wide=_FLA),
        ),
        # flash-linear-attention's parts of a delta rule
        kernels=(
            "chunk_gated",
            "chunk_(local_cumsum|(fwd|bwd)_kernel)",
            "gdn_gate",
            "l2norm_",
            "recompute_w_u",
            "prepare_wy",
            "merge_16x16",
            "solve_tril",
        ),
        sequences=True,
        sums={"dt_bias_H": "dt_BTH"},
    ),
    Operation(
        name="gated_delta_step",
        family="kernels.delta",
        spends=SCAN,
        inputs=("state_BHPV: in place", "q_BGP", "k_BGP", "v_BHV", "dt_BH", "beta_BH", *_GATES),
        outputs=("o_BHV",),
        dimensions=_KEY_HEADS,
        forward=lambda problem: problem.batch * _gated_delta(problem).core_decode(0, Convention.EXACT).scan,
        # in place; fla's kernel writes a new state in float32, which then has to be copied
        backends=(
            own("triton", "triton", "kernels.delta.own:gated_delta_step"),
            public("fla", "fla-core", "kernels.delta.fla:gated_delta_step", wide=_FLA),
        ),
        kernels=("fused_(beta_sigmoid|recurrent)", "_delta_step"),
        sequences=True,
    ),
    Operation(
        name="kda",
        family="kernels.delta",
        spends=SCAN,
        inputs=("q_BTHP", "k_BTHP", "v_BTHV", "dt_BTHP", "beta_BTH", *_GATES_BY_CHANNEL, _INITIAL),
        outputs=("o_BTHV", "final_state_BHPV: float32"),
        settings=("chunk_size",),
        forward=lambda problem: problem.batch * _kda(problem).core_prefill(problem.length, Convention.EXACT).scan,
        backends=(public("fla", "fla-core", "kernels.delta.fla:kda", wide=_FLA),),
        kernels=("chunk_(kda|gla)", "kda_gate"),
        sequences=True,
        sums={"dt_bias_HP": "dt_BTHP"},
    ),
    Operation(
        name="kda_step",
        family="kernels.delta",
        spends=SCAN,
        inputs=("state_BHPV: in place", "q_BHP", "k_BHP", "v_BHV", "dt_BHP", "beta_BH", *_GATES_BY_CHANNEL),
        outputs=("o_BHV",),
        forward=lambda problem: problem.batch * _kda(problem).core_decode(0, Convention.EXACT).scan,
        backends=(
            own("triton", "triton", "kernels.delta.own:kda_step"),
            public("fla", "fla-core", "kernels.delta.fla:kda_step", wide=_FLA),
        ),
        sequences=True,
    ),
    Operation(
        name="norm_gate",
        family="kernels.delta",
        spends=REST,
        inputs=("y_BTHV", "z_BTHV", "weight_V"),
        outputs=("out_BTHV",),
        settings=("eps", "activation"),
        dimensions={"H": _norms, "V": lambda problem: problem.norm_dim},
        # a norm: square, sum, scale and weight of a channel, and the root of their mean; silu(z) and the product
        forward=lambda problem: problem.batch * problem.length * _norms(problem) * (8 * problem.norm_dim + 3),
        backends=(own("triton", "triton", "kernels.delta.own:norm_gate"),),
        again="of_whole",
    ),
    Operation(
        name="rwkv7",
        family="kernels.rwkv7",
        spends=SCAN,
        inputs=("r_BTHP", "w_BTHP", "k_BTHP", "v_BTHV", "kk_BTHP", "a_BTHP", _INITIAL),
        outputs=("o_BTHV", "final_state_BHPV: float32"),
        settings=("chunk_size",),
        forward=lambda problem: problem.batch * _rwkv7(problem).core_prefill(problem.length, Convention.EXACT).scan,
        backends=(public("fla", "fla-core", "kernels.delta.fla:rwkv7", wide=_FLA),),
        kernels=("chunk_(dplr|rwkv6)", "wu_fwd"),
        sequences=True,
    ),
    Operation(
        name="rwkv7_step",
        family="kernels.rwkv7",
        spends=SCAN,
        inputs=("state_BHPV: in place", "r_BHP", "w_BHP", "k_BHP", "v_BHV", "kk_BHP", "a_BHP"),
        outputs=("o_BHV",),
        forward=lambda problem: problem.batch * _rwkv7(problem).core_decode(0, Convention.EXACT).scan,
        backends=(public("fla", "fla-core", "kernels.delta.fla:rwkv7_step", wide=_FLA),),
        sequences=True,
    ),
    Operation(
        name="rwkv7_output",
        family="kernels.rwkv7",
        spends=REST,
        inputs=("y_BTHV", "r_BTHP", "k_BTHP", "v_BTHV", "gate_BTHV", "weight_HV", "bias_HV", "bonus_HP"),
        outputs=("out_BTHV",),
        settings=("eps",),
        # a head: sum, difference, square, sum, scale, weight and bias of a channel, mean, variance and root; two
        # products and a sum of the bonus, its product with the value, a sum, and the gate
        forward=lambda problem: problem.batch * problem.length * problem.n_heads * (13 * problem.value_dim + 4),
        backends=(public("fla", "fla-core", "kernels.delta.fla:rwkv7_output", wide=_FLA),),
        kernels=("layer_norm_(fwd|bwd)_kernel", "gate_output_correction"),
        again="of_whole",
    ),
    Operation(
        name="rwkv7_shift",
        family="kernels.rwkv7",
        spends=REST,
        inputs=("x_BTD", "share_LD", "front_BD: optional"),
        outputs=("mixed_LBTD: apart",),
        dimensions={"D": lambda problem: problem.d_model},
        # a channel: the difference, and a product and a sum of each mix
        forward=lambda problem: problem.batch * problem.length * problem.d_model * (1 + 2 * SHIFTED),
        backends=(own("triton", "triton", "kernels.rwkv7.own:rwkv7_shift"),),
        again="of_each",
    ),
    Operation(
        name="rwkv7_keys",
        family="kernels.rwkv7",
        spends=REST,
        inputs=("k_BTHP", "rate_BTHP", "removal_HP", "added_HP"),
        outputs=("kk_BTHP", "key_BTHP", "a_BTHP"),
        # a channel: three of a sigmoid; a product, square, sum and quotient of the removal key; two sums and two
        # products of the added key; a head: a root
        forward=lambda problem: problem.batch * problem.length * problem.n_heads * (11 * problem.head_dim + 1),
        backends=(own("triton", "triton", "kernels.rwkv7.own:rwkv7_keys"),),
        again="of_several",
    ),
)
