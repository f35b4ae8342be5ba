"""operations: every operation, one row each, without PyTorch: what it is called with, what it costs, what can run it.

What is said of an operation is said in its row of ``OPERATIONS``: ``kernels.resolver`` chooses among its backends,
``kernels.verify`` draws and judges by it, ``trace`` finds its time, ``limits`` of stored records are judged by it. What
needs PyTorch, it names: a path, which ``kernels.loading`` follows when somebody asks. Only an operation's name stands
elsewhere too, in ``suite``, which says what each kind of block asks for.

    >>> ssd = OPERATIONS["ssd"]
    >>> ssd.order["cuda"], ssd.order["cpu"], ssd.outputs
    (('mamba-ssm', 'reference'), ('reference',), ('y_BTHP', 'final_state_BHPN: float32'))
    >>> ssd.by_name["mamba-ssm"].path
    'kernels.scan.published:ssd'

To add a backend, write its loader and its refusals in its family's folder and add one line to the row, at its rank on a
GPU. To add an operation, write its reference implementation and draw its inputs there, and add a row.
"""

from __future__ import annotations

from hybridbench.operations import attention, delta, dense, loss, optimizer, scan, step
from hybridbench.operations.operation import Operation

OPERATIONS: dict[str, Operation] = {
    row.name: row for family in (attention, scan, delta, dense, loss, optimizer, step) for row in family.ROWS
}
"""Every operation by its name."""
