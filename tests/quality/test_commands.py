"""The commands: a corpus from a folder, runs in worker processes, seeds added, mistakes as sentences."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from texts import words

from hybridbench.cli.main import main
from hybridbench.quality.training.plan import parse_multiples
from hybridbench.store import load


def typed(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, [str(word) for word in words])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tokens", "10"), "--tokens 10 is less than one step of 4 sequences of 256 tokens"),
        (("--ctx", "32k", "--batch", "1", "--tokens", "1m"), "sequences of 32,768 tokens are longer than the data"),
        (("--seeds", "0"), "--seeds 0: give a number from 1"),
        (("--lr", "nan"), "--lr nan: give a learning rate above 0"),
        (("--sweep-lr", "1"), "leaves nothing to choose"),
        (("--sweep-lr", "1,x"), "is no list of numbers"),
        (("--mode", "published"), "unknown mode of training 'published'"),
        (("--mode", "graph", "--device", "cpu"), "--mode graph captures a CUDA graph: leave --mode out on a CPU"),
        (("--at-once", "0"), "--at-once 0: give a number from 1"),
        (("--dtype", "float16"), "unknown dtype of training 'float16'"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--evals", "0"), "--evals 0: give a number"),
        (("--resume",), "--resume without -o"),
        (("--scale", "20"), "unknown scale '20': did you mean '20m'?"),
    ],
)
def test_mistakes_are_sentences(corpus: Path, options: tuple[str, ...], said: str) -> None:
    done = typed("learn", "--data", corpus, "--arch", "mamba", *options)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.output


def test_data_is_asked_for_and_checked(tmp_path: Path, corpus: Path) -> None:
    assert "learn without --data: make a corpus first" in typed("learn").stderr
    assert "holds no corpus: make one with" in typed("learn", "--data", tmp_path).stderr
    assert "unknown action 'bild': did you mean 'build'?" in typed("corpus", "bild", "-o", tmp_path).stderr
    assert "corpus build without --from" in typed("corpus", "build", "-o", tmp_path / "new").stderr
    body = json.loads(typed("corpus", "check", "-o", corpus, "--json").stdout)
    assert body["train"]["documents"] + body["held_out"]["documents"] == 40


def test_a_dry_run_tells_what_runs_must_cost(corpus: Path) -> None:
    options = ("--arch", "mamba,inter", "--seeds", 2, "--tokens", "4k", "--ctx", 64, "--sweep-lr", "0.5,2", "--dry-run")
    done = typed("learn", "--data", corpus, *options, "--json")
    assert done.exit_code == 0, done.output
    cases = json.loads(done.stdout)["cases"]
    assert len(cases) == 2 * 2 + 2 * 2
    assert len({case["key"] for case in cases}) == 8
    assert "8 runs, " in done.stderr
    assert "FLOPs in all: predicted" in done.stderr


def test_a_plan_needs_no_corpus_and_reads_what_is_finished(tmp_path: Path) -> None:
    done = typed("learn", "--plan", "0.01", "--arch", "mamba,inter", "--scale", "toy", "-o", tmp_path / "none")
    assert done.exit_code == 0, done.output
    assert "A difference of 0.01 bits per byte takes" in done.stdout
    assert "(assumed: " in done.stdout
    body = json.loads(typed("learn", "--plan", "0.01", "--scale", "toy", "--json").stdout)
    assert (body["models"], body["noise_freedom"]) == (5, 0)
    assert not (tmp_path / "none").exists()
    assert "--plan 0: give a difference above 0" in typed("learn", "--plan", 0, "--scale", "toy").stderr


def test_a_missing_package_is_named_before_anything_runs(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "safetensors" else found(name))
    done = typed("learn", "--data", corpus, "--arch", "mamba", "--ctx", 64, "--tokens", "2k")
    assert done.exit_code == 2
    assert "pip install 'hybridbench[quality]'" in done.stderr


def test_multiples_are_numbers_above_zero() -> None:
    assert parse_multiples("0.5,1,0.5") == [0.5, 1.0]


@pytest.mark.slow
def test_a_corpus_is_learned_seed_by_seed(tmp_path: Path) -> None:
    from hybridbench.quality.training.record import LearnRecord

    rows = "\n".join(json.dumps({"body": words(seed, 100)}) for seed in range(60))
    (tmp_path / "rows.jsonl").write_text(rows)
    where = ("-o", tmp_path / "corpus")
    done = typed("corpus", "build", "--from", tmp_path / "rows.jsonl", "--field", "body", "--held-out", 20, *where)
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    ask = ("learn", "--data", tmp_path / "corpus", "--arch", "transformer,mamba", "--tokens", "2k", "--ctx", 64)
    first = typed(*ask, "--evals", 2, "--seeds", 1, "--sweep-lr", "0.5,2", "-o", out)
    assert first.exit_code == 0, first.output
    assert "mamba toy learns at " in first.stderr
    more = typed(*ask, "--evals", 2, "--seeds", 2, "--sweep-lr", "0.5,2", "-o", out, "--resume")
    assert more.exit_code == 0, more.output
    assert "4 of 4 cases are recorded" in more.stderr
    assert "2 of 4 cases are recorded" in more.stderr
    records = load([out], lambda _said: None, None, LearnRecord)
    assert len(records) == 4 + 4
    assert not (out / "checkpoints").exists()
    assert all((out / str(record.observed and record.observed.weights)).exists() for record in records)
    shown = typed("report", out, "--json")
    assert shown.exit_code == 0, shown.output
    runs = json.loads(shown.stdout)["runs"]
    assert sorted(run["seed"] for run in runs if not run["tuning"]) == [0, 0, 1, 1]
    assert all(run["loss_nats"] > 0 and run["status"] == "ok" for run in runs)
