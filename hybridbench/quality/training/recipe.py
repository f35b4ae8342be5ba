"""recipe: how a model is trained: the learning rate of its scale, its schedule, and the optimizer's numbers.

The rule of the learning rate, for ``--lr`` to replace and ``--sweep-lr`` to multiply:

    2e-3 * (384 / d_model)^(1/2) * (tokens a step / 131,072)^(1/4)

so 2e-3 at 20m and 128 sequences of 1k. Adam's best rate falls with the width and rises with the batch; both exponents
are rules of thumb. At the paper's 100M with 2M tokens a step the rule gives 2.4e-3, where the paper took 6e-3. It is a
start and no optimum: sweep it.

The schedule is the paper's trapezoid (WSD): a quarter of the steps up, a fifth down to zero, constant between.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridbench.errors import BadInput

BASE_RATE, BASE_WIDTH, BASE_TOKENS = 2e-3, 384, 131_072


def rate_for(width: int, tokens_per_step: int) -> float:
    """The learning rate of the rule.

    >>> rate_for(384, 131_072), round(rate_for(64, 1024), 5)
    (0.002, 0.00146)
    """
    return float(BASE_RATE * (BASE_WIDTH / width) ** 0.5 * (tokens_per_step / BASE_TOKENS) ** 0.25)


@dataclass(frozen=True)
class LearnRecipe:
    """The numbers of a training run.

    Args:
        lr: the learning rate of the constant part.
        warmup_frac, cooldown_frac: shares of the steps in which the rate rises from 0 and falls to 0.
        weight_decay: of matrices; vectors, conv taps, norms and logarithms of decays have none.
        beta1, beta2: AdamW's.
        clip: the largest norm of all gradients together.
    """

    lr: float
    warmup_frac: float = 0.25
    cooldown_frac: float = 0.20
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.lr <= 10:
            raise BadInput(f"--lr {self.lr:g}: give a learning rate above 0 and at most 10, such as 2e-3.")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step ``step`` (from 0) of ``steps``.

        >>> [round(LearnRecipe(1.0).rate(step, 20), 2) for step in (0, 4, 10, 15, 16, 19)]
        [0.2, 1.0, 1.0, 1.0, 1.0, 0.25]
        """
        up, down = max(1, round(self.warmup_frac * steps)), max(1, round(self.cooldown_frac * steps))
        return self.lr * min(1.0, (step + 1) / up, (steps - step) / down)
