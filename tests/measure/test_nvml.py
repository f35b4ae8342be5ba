"""NVML's readings in SI units, and None for what it does not tell."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hybridbench.measure.nvml import Gpu, Watch, throttle_reasons

CUDA = torch.device("cuda", 0)
UUID = "12345678-1234-1234-1234-123456789abc"


class FakeNvml:
    """The part of ``pynvml`` that is used, with a card whose every reading can be set or made to fail."""

    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, **readings: Any) -> None:
        self.readings: dict[str, Any] = {
            "nvmlInit": None,
            "nvmlDeviceGetHandleByUUID": "by uuid",
            "nvmlDeviceGetHandleByPciBusId": "by pci",
            "nvmlDeviceGetClockInfo": {1: 1980, 2: 3201},
            "nvmlDeviceGetPowerUsage": 512_345,
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
            "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=os.getpid())],
            "nvmlDeviceGetTotalEnergyConsumption": 1_000_000,
            "nvmlSystemGetDriverVersion": "580.95.05",
            **readings,
        }
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        if name not in self.readings:
            raise AttributeError(name)

        def call(*args: Any) -> Any:
            self.calls.append((name, args))
            reading = self.readings[name]
            if isinstance(reading, Exception):
                raise reading
            return reading[args[-1]] if isinstance(reading, dict) else reading

        return call


@pytest.fixture(autouse=True)
def fake_card(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    properties = SimpleNamespace(
        name="NVIDIA H200", uuid=UUID, pci_domain_id=0, pci_bus_id=0xDB, pci_device_id=0, total_memory=1
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    return properties


def opened(**readings: Any) -> Gpu:
    gpu = Gpu.open(CUDA, FakeNvml(**readings))
    assert gpu is not None
    return gpu


def test_a_reading_is_in_si_units() -> None:
    state = opened().state()
    assert state.sm_clock_hz == 1980e6
    assert state.memory_clock_hz == 3201e6
    assert state.power_w == pytest.approx(512.345)
    assert state.temperature_c == 61.0
    assert (state.throttle_mask, state.throttle_reasons) == (4, ["software power cap"])
    assert state.other_processes == 0
    assert opened().total_energy_j() == 1000.0
    assert opened().driver() == "580.95.05"
    assert opened(nvmlSystemGetDriverVersion=b"470.1").driver() == "470.1"


def test_the_card_is_found_by_uuid_because_nvml_numbers_cards_its_own_way() -> None:
    nvml = FakeNvml()
    Gpu.open(CUDA, nvml)
    assert ("nvmlDeviceGetHandleByUUID", (f"GPU-{UUID}",)) in nvml.calls
    assert "nvmlDeviceGetHandleByPciBusId" not in dict(nvml.calls)


def test_the_card_is_found_by_its_address_if_its_uuid_is_unknown() -> None:
    nvml = FakeNvml(nvmlDeviceGetHandleByUUID=FakeNvml.NVMLError("not found"))
    gpu = Gpu.open(CUDA, nvml)
    assert gpu is not None
    assert dict(nvml.calls)["nvmlDeviceGetHandleByPciBusId"] == ("00000000:db:00.0",)
    gpu.power_w()
    assert dict(nvml.calls)["nvmlDeviceGetPowerUsage"] == ("by pci",)


def test_every_refused_reading_is_none() -> None:
    refused = {
        name: FakeNvml.NVMLError("not supported")
        for name in FakeNvml().readings
        if name.startswith(("nvmlDeviceGet", "nvmlSystem")) and "Handle" not in name
    }
    gpu = opened(**refused)
    state = gpu.state()
    assert [state.sm_clock_hz, state.memory_clock_hz, state.power_w, state.temperature_c] == [None] * 4
    assert (state.throttle_mask, state.throttle_reasons, state.other_processes) == (None, [], None)
    assert [gpu.total_energy_j(), gpu.driver(), gpu.idle_power_w()] == [None] * 3
    with Watch(gpu) as watch:
        pass
    assert watch.energy(1, None) is None


@pytest.mark.parametrize("failing", [["nvmlInit"], ["nvmlDeviceGetHandleByUUID", "nvmlDeviceGetHandleByPciBusId"]])
def test_no_nvml_or_no_such_card_is_no_gpu(failing: list[str]) -> None:
    assert Gpu.open(CUDA, FakeNvml(**{name: FakeNvml.NVMLError(name) for name in failing})) is None


def test_a_cpu_and_a_slice_of_a_card_have_no_readings(fake_card: SimpleNamespace) -> None:
    assert Gpu.open(torch.device("cpu"), FakeNvml()) is None
    fake_card.name = "NVIDIA H200 MIG 1g.18gb"
    assert Gpu.open(CUDA, FakeNvml()) is None


def test_a_machine_without_the_bindings_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert Gpu.open(CUDA) is None


def test_older_bindings_call_the_mask_by_its_old_name() -> None:
    nvml = FakeNvml(nvmlDeviceGetCurrentClocksThrottleReasons=0x40)
    del nvml.readings["nvmlDeviceGetCurrentClocksEventReasons"]
    gpu = Gpu.open(CUDA, nvml)
    assert gpu is not None
    assert gpu.state().throttle_reasons == ["hardware thermal slowdown"]


@pytest.mark.parametrize(
    ("mask", "reasons"),
    [
        (None, []),
        (0, []),
        (0x1 | 0x2, []),  # idle, and clocks set by an administrator
        (0x4 | 0x80, ["software power cap", "hardware power brake"]),
        (0x4000, ["unknown limit 0x4000"]),
    ],
)
def test_a_mask_names_limits_only(mask: int | None, reasons: list[str]) -> None:
    assert throttle_reasons(mask) == reasons


@pytest.mark.parametrize(
    ("pids", "has_context", "others"),
    [
        ([], False, 0),
        ([], True, None),  # a container that hides processes: not even ours is listed
        ([os.getpid()], True, 0),
        ([os.getpid(), 1], True, 1),
        ([70_001], True, 0),  # ours under its number on the host
        ([70_001, 70_002], True, 1),
        ([70_001], False, 1),
    ],
)
def test_other_processes_are_those_that_are_not_this_one(
    monkeypatch: pytest.MonkeyPatch, pids: list[int], has_context: bool, others: int | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: has_context)
    processes = [SimpleNamespace(pid=pid) for pid in pids]
    assert opened(nvmlDeviceGetComputeRunningProcesses=processes).state().other_processes == others


@pytest.mark.parametrize(
    ("limit_mw", "reasons", "near"),
    [(700_000, 0, True), (900_000, 0, False), (900_000, 0x4, True), (None, 0, False)],
)
def test_a_card_that_draws_much_is_near_its_power_limit(limit_mw: int | None, reasons: int, near: bool) -> None:
    readings: dict[str, Any] = {"nvmlDeviceGetCurrentClocksEventReasons": reasons}
    if limit_mw is not None:
        readings["nvmlDeviceGetEnforcedPowerLimit"] = limit_mw
    assert opened(**readings).near_power_limit() is near


def test_idle_power_is_a_reading_of_an_idle_card() -> None:
    assert opened(nvmlDeviceGetCurrentClocksEventReasons=0x1).idle_power_w() == pytest.approx(512.345)
    assert opened(nvmlDeviceGetCurrentClocksEventReasons=0x0).idle_power_w() is None


def test_watch_measures_energy_and_time_between_its_ends() -> None:
    nvml = FakeNvml()
    gpu = Gpu.open(CUDA, nvml)
    clock_ns = iter([5_000_000_000, 7_500_000_000])
    with Watch(gpu, now=lambda: next(clock_ns)) as watch:
        nvml.readings["nvmlDeviceGetTotalEnergyConsumption"] += 1_250_000
        nvml.readings["nvmlDeviceGetClockInfo"] = {1: 1755, 2: 3201}
    assert watch.before is not None
    assert watch.after is not None
    assert (watch.before.sm_clock_hz, watch.after.sm_clock_hz) == (1980e6, 1755e6)
    energy = watch.energy(50, 75.0)
    assert energy is not None
    assert (energy.energy_j, energy.window_s, energy.steps, energy.idle_power_w) == (1250.0, 2.5, 50, 75.0)


def test_a_counter_that_did_not_move_is_no_energy_of_zero() -> None:
    with Watch(opened()) as watch:
        pass
    assert watch.energy(1, None) is None


def test_watch_without_a_gpu_knows_nothing_and_does_not_mind() -> None:
    with Watch(None) as watch:
        pass
    assert (watch.before, watch.after, watch.energy(3, None)) == (None, None, None)
