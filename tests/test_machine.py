"""The peak table is dense, sourced and never guesses."""

from __future__ import annotations

import pytest

from hybridbench.machine import PEAKS, Peak, find_peak


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
