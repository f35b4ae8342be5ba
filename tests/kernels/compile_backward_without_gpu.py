"""Runs a scan's backward twice for a GPU that is not there: its kernels are compiled as for one, and launched nowhere.

Prints, as JSON, which kernels were compiled, whether in the main thread, and which were launched, in order. A program
of its own, because a driver holds for a whole process.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import torch
import triton
from triton.runtime.driver import driver

from hybridbench.gate.observe.nowhere import Nowhere
from hybridbench.kernels.scan import triton_ssd_backward
from hybridbench.kernels.scan.triton_ssd import states_shape

compiled: list[list[Any]] = []
launched: list[str] = []


def backward(B: int, T: int, H: int, P: int, N: int) -> None:
    x_BTHP, dt_BTH = (torch.zeros(B, T, H, *end, dtype=torch.bfloat16) for end in ((P,), ()))
    b_BTGN, c_BTGN = (torch.zeros(B, T, 1, N, dtype=torch.bfloat16) for _ in "bc")
    states = torch.zeros(states_shape(B, T, H, P, N, True), dtype=torch.bfloat16)
    into = {"d_x": x_BTHP, "d_dt": dt_BTH, "d_b": b_BTGN, "d_c": c_BTGN}
    per_head = torch.zeros(H)
    given = x_BTHP, None, x_BTHP, dt_BTH, per_head, b_BTGN, c_BTGN, per_head, per_head, states
    triton_ssd_backward.scan_backward(*given, **into)


def main() -> None:
    driver.set_active(Nowhere(lambda source, metadata: launched.append(metadata.name)))
    build = triton.compiler.compiler.compile

    def told(source: Any, *given: Any, **more: Any) -> Any:
        compiled.append([source.name, threading.current_thread() is threading.main_thread()])
        return build(source, *given, **more)

    triton.compiler.compile = triton.compiler.compiler.compile = told
    for _ in range(2):
        backward(2, 128, 4, 64, 64)
    sys.stdout.write(json.dumps({"compiled": compiled, "launched": launched}))


if __name__ == "__main__":
    main()
