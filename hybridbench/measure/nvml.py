"""nvml: what NVML says of a GPU: its clocks, limits, power, temperature, energy and other processes.

NVML is read through the module ``pynvml`` of the package nvidia-ml-py. What a driver, a container or a card does not
report is None; nothing here raises. NVML numbers GPUs by PCI order and ignores CUDA_VISIBLE_DEVICES, so a torch device
is found by its UUID.

    gpu = Gpu.open(torch.device("cuda:0"))      # None without NVML
    with Watch(gpu) as watch:
        ...                                     # 40 runs of the step
    watch.before, watch.after, watch.energy(steps=40, idle_power_w=None)
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from hybridbench.record import Energy, GpuState
from hybridbench.units import NS_PER_S

# nvml.h, nvmlClocksEventReasons: bits that mean that something holds the card below the clock it would choose.
THROTTLE_REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clock setting",
}
NEAR_LIMIT = 0.6
"""Share of a board's power limit above which work may reach it. On an H200 of 700 W, kernels that drew 470 W in the
first 0.3 s were at the limit a second later."""
# Left out: idle, which is not a limit, and clocks locked by an administrator, which are this machine's normal clocks.
GPU_IDLE, APPLICATION_CLOCKS = 0x1, 0x2


def throttle_reasons(mask: int | None) -> list[str]:
    """The limits in a mask of clock event reasons; an unknown bit is named by its value.

    >>> throttle_reasons(0x1 | 0x4)
    ['software power cap']
    """
    limits = (mask or 0) & ~(GPU_IDLE | APPLICATION_CLOCKS)
    bits = [1 << position for position in range(limits.bit_length()) if limits >> position & 1]
    return [THROTTLE_REASONS.get(bit, f"unknown limit {bit:#x}") for bit in bits]


class Gpu:
    """One GPU as NVML sees it; made by ``open``."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    @classmethod
    def open(cls, device: torch.device, nvml: Any = None) -> Gpu | None:
        """The GPU of a torch device; None for a CPU, for a MIG slice, and where NVML is missing or does not know it.

        Args:
            device: the torch device, numbered within CUDA_VISIBLE_DEVICES.
            nvml: the ``pynvml`` module; None imports it.
        """
        if device.type != "cuda":
            return None
        if nvml is None:
            try:
                nvml = importlib.import_module("pynvml")
            except ImportError:
                return None
        properties: Any = torch.cuda.get_device_properties(device)
        # A MIG slice reports the clock, power and processes of the whole card, which other users share.
        if " MIG " in properties.name:
            return None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            return None
        try:
            return cls(nvml, nvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}"))
        except nvml.NVMLError:
            pass
        address = f"{properties.pci_domain_id:08x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"
        try:
            return cls(nvml, nvml.nvmlDeviceGetHandleByPciBusId(address))
        except nvml.NVMLError:
            return None

    def state(self) -> GpuState:
        """One reading of everything that can make a measurement doubtful."""
        mask = self._throttle_mask()
        return GpuState(
            sm_clock_hz=_scaled(self._read("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM), 1e6),
            memory_clock_hz=_scaled(self._read("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_MEM), 1e6),
            power_w=self.power_w(),
            temperature_c=_scaled(self._read("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU), 1.0),
            throttle_mask=mask,
            throttle_reasons=throttle_reasons(mask),
            other_processes=self._other_processes(),
        )

    def power_w(self) -> float | None:
        """Board power now, averaged over up to a second by the driver (nvmlDeviceGetPowerUsage); watts."""
        return _scaled(self._read("nvmlDeviceGetPowerUsage"), 1e-3)

    def power_limit_w(self) -> float | None:
        """The power that the driver holds the board to (nvmlDeviceGetEnforcedPowerLimit); watts."""
        return _scaled(self._read("nvmlDeviceGetEnforcedPowerLimit"), 1e-3)

    def near_power_limit(self) -> bool:
        """Whether power limits the clocks now, or comes so near that it soon may: readings lag by up to a second."""
        power_w, limit_w = self.power_w(), self.power_limit_w()
        hot = power_w is not None and limit_w is not None and power_w > NEAR_LIMIT * limit_w
        return hot or bool(throttle_reasons(self._throttle_mask()))

    def idle_power_w(self) -> float | None:
        """Board power if the GPU reports itself as idle, else None; watts. Read it a second after work has ended."""
        mask = self._throttle_mask()
        return self.power_w() if mask is not None and mask & GPU_IDLE else None

    def total_energy_j(self) -> float | None:
        """Energy since the driver was loaded (nvmlDeviceGetTotalEnergyConsumption); joules."""
        return _scaled(self._read("nvmlDeviceGetTotalEnergyConsumption"), 1e-3)

    def driver(self) -> str | None:
        """Version of the driver."""
        try:
            version = self._nvml.nvmlSystemGetDriverVersion()
        except self._nvml.NVMLError:
            return None
        return version.decode() if isinstance(version, bytes) else str(version)

    def _read(self, function: str, *args: Any) -> Any | None:
        # An older pynvml lacks the function; an older driver raises FunctionNotFound.
        call = getattr(self._nvml, function, None)
        if call is None:
            return None
        try:
            return call(self._handle, *args)
        except self._nvml.NVMLError:
            return None

    def _throttle_mask(self) -> int | None:
        mask = self._read("nvmlDeviceGetCurrentClocksEventReasons")
        if mask is None:  # the function's name before driver 535
            mask = self._read("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if mask is None else int(mask)

    def _other_processes(self) -> int | None:
        """The number of other compute processes on the GPU; None where NVML does not tell.

        In a container NVML lists processes by their ids on the host, where this process has another id, or lists none.
        So with an open CUDA context one listed process is this one, whatever its id, and an empty list means that NVML
        does not tell.
        """
        processes = self._read("nvmlDeviceGetComputeRunningProcesses")
        if processes is None:
            return None
        pids = {process.pid for process in processes}
        if torch.cuda.is_initialized():
            return len(pids) - 1 if pids else None
        return len(pids - {os.getpid()})


class Watch:
    """Reads a GPU's state and energy counter on entry and on exit; without a GPU all readings are None.

    The caller must synchronise before the exit, else queued work is not included.
    """

    def __init__(self, gpu: Gpu | None, now: Callable[[], int] = time.perf_counter_ns) -> None:
        self.before: GpuState | None = None
        self.after: GpuState | None = None
        self._gpu = gpu
        self._now = now
        self._window_ns = 0
        self._start_j: float | None = None
        self._end_j: float | None = None

    def __enter__(self) -> Watch:
        if self._gpu is not None:
            self.before = self._gpu.state()
            self._start_j = self._gpu.total_energy_j()
        self._window_ns = -self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._window_ns += self._now()
        if self._gpu is not None:
            # The counter comes first: reading the state takes half a dozen calls, and the card draws power meanwhile.
            self._end_j = self._gpu.total_energy_j()
            self.after = self._gpu.state()

    def energy(self, steps: int, idle_power_w: float | None) -> Energy | None:
        """The energy between entry and exit; None where the GPU has no energy counter or it did not change.

        Args:
            steps: runs of the step between entry and exit, untimed ones included.
            idle_power_w: ``Gpu.idle_power_w`` before the work; watts.
        """
        if self._start_j is None or self._end_j is None or self._end_j <= self._start_j:
            return None
        return Energy(self._end_j - self._start_j, self._window_ns / NS_PER_S, steps, idle_power_w)


def _scaled(value: Any | None, factor: float) -> float | None:
    return None if value is None else float(value) * factor
