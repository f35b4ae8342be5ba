"""operations: every operation, one row each, without PyTorch: its tensors, its cost, and its backends.

All that is known of an operation is in its row of ``OPERATIONS``: ``kernels.resolver`` chooses among its backends,
``kernels.verify`` draws inputs and judges outputs by it, ``trace`` finds its time with it, and stored records are
compared with its limits. Code that needs PyTorch is named by a path, which ``kernels.loading`` imports on demand. Only
the operation's name is used elsewhere: in ``arch``, where each kind of block names its operations.

    >>> ssd = OPERATIONS["ssd"]
    >>> ssd.order["cuda"], ssd.order["cpu"], ssd.outputs
    (('mamba-ssm', 'reference'), ('reference',), ('y_BTHP', 'final_state_BHPN: float32'))
    >>> ssd.by_name["mamba-ssm"].path
    'kernels.scan.third_party:ssd'

To add a backend, write its loader and its unsupported cases in its family's folder, and add one line to the row at its
rank on a GPU. To add an operation, write its reference implementation and the draw of its inputs there, and add a row.
"""

from __future__ import annotations

from hybridbench.operations import attention, delta, dense, linear, loss, optimizer, scan, step
from hybridbench.operations.operation import Operation

OPERATIONS: dict[str, Operation] = {
    row.name: row for family in (attention, scan, linear, delta, dense, loss, optimizer, step) for row in family.ROWS
}
"""Every operation by its name."""
