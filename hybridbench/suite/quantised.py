"""quantised: which cases may store weights, or keys and values, in fewer bits than they compute with.

A decode step reads every weight and every cached key and value once and does little else with them, so that fewer bytes
make it faster. Training and prefill are bound by arithmetic, which stays as it is: no kernel here stores them so.
"""

from __future__ import annotations

from collections.abc import Callable

from hybridbench.arch.block import DTYPE_BYTES, KV_FORMATS
from hybridbench.arch.stored import RUN_KV
from hybridbench.arch.weights import RUN_SCHEMES, SCHEMES
from hybridbench.errors import BadInput, unknown_name
from hybridbench.suite.case import EAGER, GRAPH, Execution
from hybridbench.suite.workloads import DECODE


def check_quantised(execution: Execution, workload: str, spelled: Callable[[str], str] = str) -> None:
    """Check that a case may be stored as its execution says; it may always be if that names nothing.

    Raises:
        BadInput: an unknown name, a format that nothing here runs, or a workload or mode that has none.
    """
    asked = (
        ("weight_dtype", "weights", execution.weight_dtype, RUN_SCHEMES, {*SCHEMES, *DTYPE_BYTES}),
        ("kv_dtype", "keys and values", execution.kv_dtype, RUN_KV, set(KV_FORMATS)),
    )
    for field, what, name, runs, known in asked:
        if name is None:
            continue
        if name not in known:
            raise unknown_name(what.removesuffix("s") + " dtype", name, [*runs, *DTYPE_BYTES])
        if name not in runs:
            raise BadInput(
                f"{spelled(field)} {name} beside {execution.dtype}: no kernel here runs {what} in it; give "
                f"{' or '.join([*runs, execution.dtype])}, and predict the others with hybridbench cost."
            )
        if workload != DECODE:
            raise BadInput(f"{spelled(field)} {name} for {workload}: only decode runs it; leave it out.")
        if execution.mode not in (EAGER, GRAPH):
            raise BadInput(
                f"{spelled(field)} {name} in mode {execution.mode}: only {EAGER} and {GRAPH} run it; give one of them."
            )
