"""The fingerprint says what is known about machine and software, and nothing it cannot know."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hybridbench.measure import environment


def test_a_cpu_goes_by_its_model_and_has_no_driver() -> None:
    found = environment.fingerprint(torch.device("cpu"))
    assert found.device == found.cpu != ""
    assert found.device_kind == "cpu"
    assert (found.device_memory_bytes, found.driver, found.cuda) == (None, None, None)
    assert found.python == platform.python_version()
    assert found.packages["torch"] == importlib.metadata.version("torch")
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory_bytes is not None
    assert found.memory_bytes > 2**28


def test_a_gpu_goes_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="NVIDIA H200", total_memory=150_754_820_096)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    gpu = SimpleNamespace(driver=lambda: "580.95.05")
    found = environment.fingerprint(torch.device("cuda", 0), gpu)
    assert (found.device, found.device_kind, found.device_memory_bytes) == ("NVIDIA H200", "cuda", 150_754_820_096)
    assert (found.cuda, found.driver) == ("13.0", "580.95.05")


def test_packages_that_are_not_installed_are_left_out() -> None:
    assert environment.installed(("torch", "no-such-package-anywhere")) == {
        "torch": importlib.metadata.version("torch")
    }


def test_the_processor_falls_back_on_its_architecture(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: AMD EPYC 9654 96-Core Processor\nmodel name\t: other\n")
    assert environment.cpu_model(cpuinfo) == "AMD EPYC 9654 96-Core Processor"
    cpuinfo.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")  # Arm
    assert environment.cpu_model(cpuinfo) in (platform.processor(), platform.machine())
    assert environment.cpu_model(tmp_path / "absent") in (platform.processor(), platform.machine())


def git(folder: Path, *args: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package folder committed to a repository."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return package


def test_a_checkout_has_its_commit_and_says_when_it_was_changed(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert environment.git_commit(checkout) == head
    (checkout / "__init__.py").write_text("changed = True\n")
    assert environment.git_commit(checkout) == f"{head}-dirty"


def test_a_package_installed_inside_a_foreign_repository_has_no_commit(checkout: Path) -> None:
    installed = checkout / "site-packages" / "hybridbench"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert environment.git_commit(installed) is None


def test_no_repository_and_no_git_are_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.git_commit(tmp_path / "absent") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.git_commit(tmp_path) is None
