"""anchors: what others published of a task and a kind of stack, and whether ours agrees.

An expectation is of stacks whose mixers are all of some kinds, by the letters of patterns. Other stacks have none.

Whoever has learned nothing fails beyond the trained length too. So a failure there is as published only of a model that
has solved the task within it; of any other it cannot be told. Nobody published that attention solves parity, or two
blocks S5, within the lengths trained on here: mostly these cannot be told, and still disagree if they solve it beyond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hybridbench.arch.kinds import FEED_FORWARD
from hybridbench.arch.model import ModelSpec
from hybridbench.quality.tasks.task import Setting

LEARNED = 0.9
"""Share of right answers on every part trained on, from which a model has learned a task that it is to fail beyond."""


@dataclass(frozen=True)
class Expectation:
    """What a kind of stack must reach, or must not.

    Args:
        task: its name.
        letters: the kinds of mixers that a stack may have.
        solves: whether it must reach ``bound`` on every part no larger than what it was trained on; if not, it must
            not exceed ``bound`` on the part that is furthest beyond, where it reaches ``LEARNED`` on all of those.
        least_width: of the stacks that it is known for.
        source: who published it.
    """

    task: str
    letters: str
    solves: bool
    bound: float
    source: str
    least_width: int = 0

    @property
    def words(self) -> str:
        """What is expected.

        >>> EXPECTATIONS[0].words
        'solves: 0.99 or more at trained sizes (zoology, figure 2)'
        """
        if self.solves:
            return f"solves: {self.bound:g} or more at trained sizes ({self.source})"
        return f"fails: {self.bound:g} or less at the longest ({self.source})"

    def holds(self, setting: Setting, accuracies: Sequence[float]) -> bool | None:
        """Whether accuracies, one for each part of ``setting.test``, are as expected.

        None where it cannot be told: of a model that fails beyond what it was trained on and within it too.
        """
        parts = zip(setting.test, accuracies, strict=True)
        least = min((accuracy for part, accuracy in parts if setting.within(part)), default=0.0)
        if self.solves:
            return least >= self.bound
        if accuracies[-1] > self.bound:
            return False
        return True if least >= LEARNED else None


EXPECTATIONS = (
    Expectation("mqar", "*", True, 0.99, "zoology, figure 2", least_width=64),
    Expectation("parity", "*", False, 0.6, "arXiv 2411.12537"),
    Expectation("parity", "MmG", False, 0.6, "arXiv 2411.12537: eigenvalues in [0, 1]"),
    Expectation("s5", "*", False, 0.1, "arXiv 2404.08819"),
    Expectation("s5", "Mm", False, 0.1, "arXiv 2404.08819"),
)


def expected_of(task: str, spec: ModelSpec) -> Expectation | None:
    """What was published of a stack like this one; None where nothing was."""
    mixers = {layer for layer in spec.layers if layer not in FEED_FORWARD}
    for one in EXPECTATIONS:
        if one.task == task and mixers <= set(one.letters) and spec.d_model >= one.least_width:
            return one
    return None
