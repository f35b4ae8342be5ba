"""at_size: the work that is timed, checked at its own size before it is.

Published kernels compute offsets in 32 bits: they are right at 1,500 tokens, where each is verified, and silently wrong
at 128k. So a case is compared with itself: a batch with its rows alone, a sequence with its pieces, a gradient with
those of the rows, a decode step with one sequence's (``sequence``, ``gradients``, ``decode``).
"""

from hybridbench.workload.at_size.checker import Checker

__all__ = ["Checker"]
