"""What a command prints is what was typed or read, and a pipe that closes or a disk that is full is no traceback."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import hybridbench
from hybridbench.cli.main import main

PACKAGE = Path(hybridbench.__file__).parent
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 256,
    "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip
NAMES = ["out[red]", "[/]", "[/bold]x", "a:smile:b", "[link=x]"]


def run(*args):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(main, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(params=NAMES)
def name(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return request.param


def test_the_folder_that_is_named_is_the_folder_that_is_there(name):
    assert f"Tables and charts: {name}\n" in run("cost", "--arch", "mamba", "-o", f"./{name}")
    assert (Path(name) / "cost.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out[red]", "[/]"], indirect=True)
def test_a_run_its_resumption_and_its_report_name_their_folder(name):
    asked = ["decode", "--arch", "mamba", "--ctx", "64", "--device", "cpu", "--max-time", "0.02", "-o", f"./{name}"]
    assert f"Report: {name}/report/report.md\n" in run(*asked)
    assert f"1 of 1 cases are recorded in {name};" in CliRunner().invoke(main, [*asked, "--resume"]).output
    assert f"Report: {name}/report/report.md\n" in run("report", f"./{name}")


def test_models_from_files_keep_the_names_of_their_files(name):
    folder = Path(f"./{name}")
    folder.mkdir(parents=True)
    for width in (64, 128):
        (folder / f"{width}.json").write_text(json.dumps({**CONFIG, "hidden_size": width}))
    shown = run("cost", "--config", folder / "64.json", "--config", folder / "128.json", "--layers")
    assert f"llama {name}/64.json" in shown
    assert f"llama {name}/128.json" in shown


def test_errors_show_what_was_typed(name):
    result = CliRunner().invoke(main, ["report", f"./{name}"])
    assert result.exit_code == 2
    assert f"error: {name} does not exist" in result.output


def test_no_module_of_the_command_line_makes_a_console_that_reads_markup():
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "cli" / "output.py":
            continue
        text = path.read_text()
        if not any(word in text for word in ("Console", "from_markup", "TextColumn")):
            continue
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        for call in calls:
            words = ast.unparse(call.func)
            assert words not in ("Console", "Text.from_markup"), f"{path}: {ast.unparse(call)}"
            if words == "TextColumn":
                assert any(word.arg == "markup" for word in call.keywords), f"{path}: {ast.unparse(call)}"


LONG = ["cost", "--arch", "mamba", "--ctx", "1..1000+1"]
"""More rows than a pipe holds."""
FORMS = [[*LONG, "--json"], ["cost", "--ctx", "4k"], ["--help"], ["cost", "--help"], ["archs"]]


def command(args):
    return [sys.executable, "-m", "hybridbench.cli.main", *args]


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def environment(request):
    """Streams that hold what they cannot write, and streams that do not."""
    return {**os.environ, "PYTHONUNBUFFERED": request.param}


@pytest.mark.parametrize("args", FORMS, ids=" ".join)
@pytest.mark.sampled
def test_a_closed_pipe_is_quiet(args, environment):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            command(args), stdout=closed, stderr=subprocess.PIPE, text=True, check=False, env=environment
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_head_takes_its_line_and_ends_the_rest():
    with subprocess.Popen(command(LONG), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline().startswith("predicted cost")
        running.stdout.close()
        assert running.stderr.read() == ""
        assert running.wait() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("args", FORMS, ids=" ".join)
@pytest.mark.sampled
def test_a_full_disk_is_one_sentence(args, environment):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command(args), stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the output cannot be written (No space left on device): ")
    assert done.stderr.count("\n") == 1


def test_a_page_of_the_users_own_is_kept_and_nothing_is_run_for_it(tmp_path):
    places = {
        "cost.md": ["cost", "--arch", "mamba", "-o", tmp_path],
        "audit.md": ["audit", "--arch", "mamba", "--ctx", "64", "--device", "cpu", "-o", tmp_path],
        "report/report.md": ["decode", "--arch", "mamba", "--ctx", "64", "--device", "cpu", "-o", tmp_path],
    }
    for place, args in places.items():
        page = tmp_path / place
        page.parent.mkdir(exist_ok=True)
        page.write_text("my notes")
        result = CliRunner().invoke(main, [str(arg) for arg in args])
        assert result.exit_code == 2
        assert result.stdout == ""
        assert f"{page} is not a page of hybridbench" in result.stderr
        assert page.read_text() == "my notes"
    assert not list(tmp_path.rglob("*.jsonl")), "nothing was measured"


def test_a_page_of_costs_is_replaced(tmp_path):
    for arch in ("mamba", "inter"):
        run("cost", "--arch", arch, "-o", tmp_path)
        assert arch in (tmp_path / "cost.md").read_text()
