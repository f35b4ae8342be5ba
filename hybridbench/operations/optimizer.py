"""optimizer: the update of a training step."""

from __future__ import annotations

from hybridbench.operations.operation import OPTIMIZER, Operation, own

ROWS = (
    # Called as (parameters, *, lr), it returns a torch.optim.Optimizer with AdamW's state: these are the tensors that a
    # step of it goes through, all parameters as one.
    Operation(
        name="adamw",
        family="kernels.optimizer",
        spends=OPTIMIZER,
        inputs=("parameter_I: in place", "gradient_I", "exp_avg_I: in place", "exp_avg_sq_I: in place"),
        outputs=("optimizer",),
        settings=("lr",),
        dimensions={"I": lambda problem: problem.n_params},
        # the decay 2, the first moment 3, the second 4; root, correction, eps, rate, quotient and difference
        forward=lambda problem: 15 * problem.n_params,
        # one pass in float32; torch's kernel computes in float64 in part, which takes three times as long
        backends=(
            own("triton", "triton", "kernels.optimizer.adamw:of_triton"),
            own("torch", "torch", "kernels.optimizer.adamw:of_torch"),
        ),
        on_cpu=("torch",),
        kernels=("multi_tensor_apply", "adam", "_foreach_"),
    ),
)
