"""step: one decode step of a whole model, module by module or as one plan of fused kernels."""

from __future__ import annotations

from hybridbench.operations.operation import Operation, own

ROWS = (
    Operation(
        name="decode_step",
        family="model",
        spends=None,
        outputs=("logits_BV",),
        backends=(own("fused", "triton", "model.step:fused"),),
        plain="modules",
        plain_path="model.step:modules",
    ),
)
