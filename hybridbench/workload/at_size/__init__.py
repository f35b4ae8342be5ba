"""at_size: the work that is timed, checked at its own size before it is.

Third-party kernels compute offsets in 32 bits: they are right at 1,500 tokens, where each is verified, and wrong
without an error at 128k. So the work of a case is compared with parts of itself: a batch with its rows alone, a
sequence with its pieces, a gradient with those of the rows, a decode step with that of one sequence (``sequence``,
``gradients``, ``decode``).
"""

from hybridbench.workload.at_size.checker import Checker

__all__ = ["Checker"]
