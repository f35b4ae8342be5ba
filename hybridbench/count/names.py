"""names: what the name of a GPU kernel or an operator says: its class of time, and a short form."""

from __future__ import annotations

import functools
import re

from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import ATTENTION, CONV, LOSS, MATMUL, OPTIMIZER, REST, SCAN

NAME_LENGTH = 120
_CUTE = "kernel_cutlass_kernel_"


def shortened(name: str) -> str:
    """A kernel's name without its return type and commonest namespaces; long arguments of templates are cut.

    CUTLASS's Python DSL puts a kernel's module and class between a prefix and a list of its arguments.
    """
    name = name.removeprefix("void ").replace("(anonymous namespace)::", "").replace("at::native::", "")
    if name.startswith(_CUTE):
        return name.removeprefix(_CUTE).partition("_object_at_")[0]
    return name if len(name) <= NAME_LENGTH else f"{name[:NAME_LENGTH]}..."


MEMORY = "memory"
"""The class of copies, fills and other moves, which are no operation's."""


@functools.cache
def _classes() -> dict[str, re.Pattern[str]]:
    """Class of time to the names of its kernels: those of its operations, and of kernels outside them.

    The first whose pattern matches decides: attention kernels are matrix products too, and "scan" is also a sorting
    step.
    """
    of_no_operation = {
        MATMUL: r"^project_|nvjet|gemm|cublas|cutlass|wgmma|splitk|::(mm|addmm|bmm|baddbmm|matmul|linear)$",
        MEMORY: r"memcpy|memset|copy|catarray|fill|gather|index|embedding|::(cat|clone|zeros?_?|empty\w*|to|_to_copy)$",
    }
    found = {}
    for name in (ATTENTION, SCAN, CONV, LOSS, OPTIMIZER, MATMUL, MEMORY):
        patterns = [kernel for row in OPERATIONS.values() if row.spends == name for kernel in row.kernels]
        patterns += [of_no_operation[name]] if name in of_no_operation else []
        found[name] = re.compile("|".join(patterns), re.IGNORECASE)
    return found


def classify(name: str) -> str:
    """The class of a GPU kernel or a PyTorch operator by its name; a name of no other class is elementwise work.

    >>> classify("nvjet_sm90_tst_128x8_64x12_2x1_v_bz_TNT"), classify("_chunk_scan_fwd_kernel")
    ('matrix products', 'scan')
    """
    return next((found for found, pattern in _classes().items() if pattern.search(name)), REST)
