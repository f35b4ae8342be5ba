"""dense: operations on single positions: activations, norms, gates, rotations and routed experts."""

from __future__ import annotations

from hybridbench.arch.blocks.moe import Moe
from hybridbench.operations.operation import MATMUL, REST, Declared, Operation, own
from hybridbench.problem import Problem


def _tokens(problem: Problem) -> int:
    return problem.batch * problem.length


def _in_one_pass(op: str) -> Declared:
    """Declare the kernel of this package, which makes one pass over memory."""
    return own("triton", "triton", f"kernels.dense.elementwise:{op}")


def _experts(problem: Problem) -> int:
    spec = Moe(d_model=problem.d_model, d_expert=problem.d_expert, n_experts=problem.n_experts, top_k=problem.top_k)
    return _tokens(problem) * spec.products()["moe experts"]


SILU = 3
"""FLOPs of x / (1 + exp(-x))."""

NORM, NORM_ROW = 4, 3
"""FLOPs of an RMSNorm. Per channel: square, sum, scale and weight. Per row: mean, eps and root."""

ROWS = (
    Operation(
        name="swiglu",
        family="kernels.dense",
        spends=REST,
        inputs=("packed_NC",),
        outputs=("out_NF",),
        letters={"N": _tokens, "C": lambda problem: 2 * problem.width},
        forward=lambda problem: _tokens(problem) * problem.width * (SILU + 1),
        backends=(_in_one_pass("swiglu"),),
        again="of_whole",
    ),
    Operation(
        name="add_rms_norm",
        family="kernels.dense",
        spends=REST,
        inputs=("x_BTD", "residual_BTD", "weight_D"),
        outputs=("normed_BTD", "added_BTD"),
        settings=("eps",),
        forward=lambda problem: _tokens(problem) * ((1 + NORM) * problem.width + NORM_ROW),
        backends=(_in_one_pass("add_rms_norm"),),
        again="of_norm",
    ),
    Operation(
        name="rotary",
        family="kernels.dense",
        spends=REST,
        inputs=("packed_BTC", "cos_TR: float32, constant", "sin_TR: float32, constant"),
        outputs=("q_BTHP", "k_BTKP", "rest_BTI"),
        settings=("n_heads", "n_kv_heads", "head_dim"),
        letters={
            "C": lambda problem: (
                (problem.n_heads + problem.kv_heads) * problem.head_dim + problem.kv_heads * problem.value_dim
            ),
            "I": lambda problem: problem.kv_heads * problem.value_dim,
            "R": lambda problem: problem.head_dim // 2,
        },
        # two products and a sum of each channel
        forward=lambda problem: 3 * _tokens(problem) * (problem.n_heads + problem.kv_heads) * problem.head_dim,
        backends=(_in_one_pass("rotary"),),
    ),
    Operation(
        name="gate",
        family="kernels.dense",
        spends=REST,
        inputs=("y_BTI", "z_BTI", "weight_I"),
        outputs=("out_BTI",),
        settings=("eps",),
        forward=lambda problem: _tokens(problem) * ((SILU + 1 + NORM) * problem.width + NORM_ROW),
        backends=(_in_one_pass("gate"),),
        again="of_whole",
    ),
    Operation(
        name="head_norms",
        family="kernels.dense",
        spends=REST,
        inputs=("first_BTI", "second_BTJ"),
        outputs=("joined_BTC",),
        settings=("heads", "eps"),
        letters={
            "I": lambda problem: problem.n_heads * problem.head_dim,
            "J": lambda problem: problem.kv_heads * problem.value_dim,
            "C": lambda problem: problem.n_heads * problem.head_dim + problem.kv_heads * problem.value_dim,
        },
        # without a weight; a row is a head
        forward=lambda problem: (
            _tokens(problem)
            * (
                problem.n_heads * ((NORM - 1) * problem.head_dim + NORM_ROW)
                + problem.kv_heads * ((NORM - 1) * problem.value_dim + NORM_ROW)
            )
        ),
        backends=(_in_one_pass("head_norms"),),
        again="of_whole",
    ),
    Operation(
        name="experts",
        family="kernels.dense",
        spends=MATMUL,
        inputs=("x_ND", "chosen_NK: int64", "weight_NK", "in_weight_EFD", "out_weight_EDI"),
        outputs=("out_ND",),
        letters={
            "N": _tokens,
            "D": lambda problem: problem.d_model,
            "K": lambda problem: problem.top_k,
            "E": lambda problem: problem.n_experts,
            "F": lambda problem: 2 * problem.d_expert,
            "I": lambda problem: problem.d_expert,
        },
        forward=_experts,
        backends=(
            own(
                "grouped-mm",
                "torch",
                "kernels.dense.experts:grouped_mm",
                wide="torch 2.11, GroupMMCommon.cuh: strides are int64_t",
            ),
        ),
        on_cpu=("grouped-mm",),
        kernels=("::_grouped_mm$",),
    ),
    # a linear layer, timed by itself: models run it as PyTorch's own module
    Operation(
        name="product",
        family="kernels.dense",
        spends=MATMUL,
        inputs=("x_NI", "weight_OI"),
        outputs=("out_NO",),
        letters={"N": _tokens, "I": lambda problem: problem.d_model, "O": lambda problem: problem.width},
        forward=lambda problem: 2 * _tokens(problem) * problem.d_model * problem.width,
        backends=(
            own(
                "torch",
                "torch",
                "kernels.dense.product:product",
                wide="torch 2.11, CUDABlas.h: gemm takes sizes and strides as int64_t",
            ),
        ),
        on_cpu=("torch",),
    ),
)
