"""loss: the language-model head and its cross entropy."""

from __future__ import annotations

from hybridbench.operations.operation import LOSS, Operation, own, public

ROWS = (
    Operation(
        name="linear_cross_entropy",
        family="kernels.loss",
        spends=LOSS,
        inputs=("hidden_ND", "weight_VD", "target_N: int64"),
        outputs=("loss: float32",),
        dimensions={
            "N": lambda problem: problem.batch * problem.length,
            "V": lambda problem: problem.vocabulary,
        },
        forward=lambda problem: 2 * problem.batch * problem.length * problem.vocabulary * problem.width,
        # backends with whole logits last: those logits make long training steps run out of memory
        backends=(
            own("fused", "triton", "kernels.loss.chunked:fused"),
            public(
                "liger",
                "liger_kernel",
                "kernels.loss.liger:linear_cross_entropy",
                wide="liger_kernel 0.8.5, cross_entropy.py: the program's number is widened first",
            ),
            own("chunked", "hybridbench", "kernels.loss.chunked:chunked"),
        ),
        on_cpu=("chunked",),
        kernels=("^_scaled$", "cross_entropy", "log_softmax", "nll_loss", "logsumexp"),
    ),
)
