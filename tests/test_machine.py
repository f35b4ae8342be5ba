"""The peak table is dense, sourced and never guesses."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from hybridbench.errors import BadInput
from hybridbench.machine import PEAKS, Peak, alike_gpus, find_peak, gpu_uuids, peaks, usable_cores, visible_gpus


def test_a_row_needs_no_aliases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is typed as it is, or in lower case with hyphens."""
    added = replace(PEAKS[0], name="New GPU 96GB", device_names=("NEW-96",), aliases=())
    monkeypatch.setattr(peaks, "PEAKS", (*PEAKS, added))
    assert added.short == "new-gpu-96gb"
    assert peaks.find_gpu("new-gpu-96gb") is peaks.find_gpu("New GPU 96GB") is added
    with pytest.raises(BadInput, match="new-gpu-96gb"):
        peaks.find_gpu("new-gpu-97gb")


@pytest.mark.parametrize(
    ("device_name", "flops_per_s", "bytes_per_s"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12, 2.039e12),
        ("A100-SXM4-40GB", 312e12, 1.555e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12, 3.35e12),
        ("NVIDIA H100 PCIe", 756e12, 2.0e12),
        ("NVIDIA H100 NVL", 835e12, 3.9e12),
        ("NVIDIA H200", 989.4e12, 4.8e12),
        ("NVIDIA B200", 2.25e15, 8e12),
        ("NVIDIA GB200", 2.5e15, 8e12),
        ("NVIDIA L40S", 362e12, 864e9),
        ("NVIDIA L4", 121e12, 300e9),
        ("NVIDIA GeForce RTX 3090", 71e12, 936e9),
        ("NVIDIA GeForce RTX 4090", 165.2e12, 1008e9),
        ("NVIDIA GeForce RTX 5090", 209.5e12, 1792e9),
        ("AMD Instinct MI300X", 1307.4e12, 5.3e12),
    ],
)
def test_known_gpus_have_their_data_sheets_dense_rates(
    device_name: str, flops_per_s: float, bytes_per_s: float
) -> None:
    peak = find_peak(device_name)
    assert peak is not None
    assert peak.bf16_dense_flops_per_s == pytest.approx(flops_per_s, rel=0.001)
    assert peak.memory_bytes_per_s == pytest.approx(bytes_per_s, rel=0.02)


@pytest.mark.parametrize(
    "device_name",
    [
        "",
        "NVIDIA",
        "NVIDIA A100",
        "NVIDIA H100",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA H20",
        "NVIDIA H800",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA L40",
        "NVIDIA GH200 480GB",
        "Tesla V100-SXM2-32GB",
        "AMD Instinct MI300X VF",
        "AMD EPYC 9654 96-Core Processor",
        "nvidia h200",
    ],
)
def test_a_gpu_outside_the_table_has_no_peak(device_name: str) -> None:
    assert find_peak(device_name) is None


@pytest.mark.parametrize("peak", PEAKS, ids=lambda peak: peak.name)
def test_every_row_is_sourced_and_plausible(peak: Peak) -> None:
    source = peak.source.lower()
    assert source.startswith(("nvidia", "amd"))
    assert "sheet" in source or "white paper" in source
    tf32 = peak.tf32_dense_flops_per_s
    assert tf32 is not None
    assert peak.fp32_flops_per_s <= tf32 < peak.bf16_dense_flops_per_s
    # Matrix units of all these generations run bf16 at twice the rate of TF32: a row of which one figure was halved
    # and the other was not would break this.
    assert peak.bf16_dense_flops_per_s / tf32 == pytest.approx(2, rel=0.05)


def test_no_two_rows_claim_one_device_name() -> None:
    names = [name for peak in PEAKS for name in peak.device_names]
    assert len(names) == len(set(names))


class Driver:
    """NVML of a machine with some GPUs, each a name; numbered, and with a UUID."""

    NVMLError = RuntimeError

    def __init__(self, *names: str) -> None:
        self._names = names

    def nvmlInit(self) -> None:  # noqa: N802 - the name that pynvml gives it
        if not self._names:
            raise self.NVMLError("no driver")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - the name that pynvml gives it
        return len(self._names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802 - the name that pynvml gives it
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802 - the name that pynvml gives it
        if uuid not in (known := [f"GPU-{index}" for index in range(len(self._names))]):
            raise self.NVMLError("not found")
        return known.index(uuid)

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802 - the name that pynvml gives it
        if self._names[handle] == "?":
            raise self.NVMLError("not told")
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802 - the name that pynvml gives it
        return self._names[handle]


@pytest.mark.parametrize(
    ("names", "allowed", "visible", "alike"),
    [
        ("", None, [], []),
        ("aa", None, ["0", "1"], ["0", "1"]),
        ("ab", None, ["0", "1"], []),
        ("aba", "2,0", ["2", "0"], ["2", "0"]),
        ("aba", "GPU-0, GPU-2", ["GPU-0", "GPU-2"], ["GPU-0", "GPU-2"]),
        ("aba", "GPU-0,GPU-1", ["GPU-0", "GPU-1"], []),
        ("aa", "GPU-ab12", ["GPU-ab12"], []),  # CUDA takes the beginning of one, NVML does not
        ("aa", "1,7,0", ["1"], ["1"]),
        ("aa", "-1", [], []),
        ("aa", "", [], []),
    ],
)
def test_gpus_are_those_that_cuda_would_show(
    names: str, allowed: str | None, visible: list[str], alike: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if allowed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert visible_gpus(Driver(*names)) == visible
    assert list(alike_gpus(visible, Driver(*names))) == alike


def test_a_gpu_has_one_uuid_whatever_a_process_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node-3")
    assert gpu_uuids(["2", "0"], Driver(*"aba")) == {"2": "GPU-2", "0": "GPU-0"}
    assert gpu_uuids(["GPU-2", "MIG-7"], Driver(*"aba")) == {"GPU-2": "GPU-2", "MIG-7": "MIG-7"}
    assert gpu_uuids(["GPU-"], Driver("a")) == {"GPU-": "GPU-0"}, "CUDA takes the beginning of one"
    assert gpu_uuids(["1"], Driver("a", "?")) == {"1": "node-3-1"}, "of two nodes, not the same GPU"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process to cores")
def test_cores_are_those_of_this_process() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores() == len(before)
