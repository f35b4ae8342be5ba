"""cut: the sizes of one rank's part of a block under tensor parallelism, as serving engines divide them.

Heads and widths are divided. What several heads share (key and value heads, Mamba-2's groups of B and C) is divided
too, or copied to every rank that needs it where there are more ranks than of them. Norms, routers, biases of outputs,
projections into a latent or a low rank, and what stands beside mixers and feed-forward blocks are on every rank whole.

Sources: vLLM's ``model_executor/layers/linear.py`` (``QKVParallelLinear``), ``layers/mamba`` (``mamba_mixer2.py``,
``mamba_utils.py``), ``models``.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridbench.errors import BadInput


class Uncut(BadInput):
    """A block that so many ranks cannot share.

    Args:
        what: its size that does not divide, in words such as ``n_heads 8 of attention``.
    """

    def __init__(self, what: str, tp: int) -> None:
        super().__init__(f"{what} does not divide among {tp} ranks: give a number of ranks that divides it.")
        self.what = what


@dataclass(frozen=True, slots=True)
class Cut:
    """How ``tp`` ranks share a block.

    Args:
        name: of the block, for errors.
    """

    tp: int
    name: str

    def divided(self, field: str, count: int) -> int:
        """One rank's part of ``count``.

        Raises:
            Uncut: the parts would not be equal.
        """
        if count % self.tp:
            raise Uncut(f"{field} {count} of {self.name}", self.tp)
        return count // self.tp

    def shared(self, field: str, count: int) -> int:
        """The same for what several heads share: 1, a copy, where each of ``count`` serves several ranks.

        >>> [Cut(tp, "attention").shared("n_kv_heads", 2) for tp in (1, 2, 8)]
        [2, 1, 1]

        Raises:
            Uncut: a rank would need parts of several.
        """
        return 1 if self.tp % count == 0 else self.divided(field, count)


def rows_of(count: int, tp: int) -> int:
    """Rows of a table of ``count`` that a rank has: the last rank's may be fewer, but it stores as many."""
    return -(-count // tp)
