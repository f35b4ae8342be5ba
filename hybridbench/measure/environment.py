"""environment: the fingerprint of the machine and software a record was made on.

Two records compare only if the parts that matter agree; which parts those are is decided where records are compared.
What cannot be found out is None or left out. Nothing here takes long.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import torch

import hybridbench
from hybridbench.machine import usable_cores
from hybridbench.measure.nvml import Gpu
from hybridbench.record import Environment
from hybridbench.version import full_version

PACKAGES = (
    "torch",
    "triton",
    "mamba-ssm",
    "causal-conv1d",
    "flash-attn",
    "flash-attn-4",
    "liger-kernel",
    "fla-core",
    "fvcore",
    "nvidia-ml-py",
)


def fingerprint(device: torch.device, gpu: Gpu | None = None) -> Environment:
    """The environment as it is now.

    Args:
        device: where the work runs. A CUDA or ROCm device has the driver's name, a CPU its model name.
        gpu: the same device as NVML sees it, for the driver's version.
    """
    on_gpu = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if on_gpu else None
    cpu = cpu_model()
    package = Path(hybridbench.__file__).parent
    return Environment(
        device=properties.name if properties is not None else cpu,
        device_kind=device.type,
        device_memory_bytes=properties.total_memory if properties is not None else None,
        cpu=cpu,
        cores=usable_cores(),
        memory_bytes=_host_memory_bytes(),
        driver=gpu.driver() if gpu is not None else None,
        cuda=_runtime() if on_gpu else None,
        python=platform.python_version(),
        platform=platform.platform(),
        threads=None if on_gpu else torch.get_num_threads(),
        packages=installed(PACKAGES),
        hybridbench=full_version(),
        git_commit=git_commit(package),
    )


def installed(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of the packages that are installed; none is imported."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model name; its architecture where the system does not give one (Arm, macOS, containers)."""
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine()


def git_commit(package: Path) -> str | None:
    """The commit a package folder was checked out from, with ``-dirty`` if files changed since; None if there is none.

    The package's files must be tracked by that repository: a virtual environment may lie inside an unrelated one.
    """
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    return _git(package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") if tracked else None


def _git(folder: Path, *args: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *args]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=2, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def _runtime() -> str | None:
    """Version of the CUDA or HIP runtime that torch was built with."""
    return torch.version.cuda or (f"hip {torch.version.hip}" if torch.version.hip else None)


def _host_memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
