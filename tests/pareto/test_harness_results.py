"""Result files of lm-evaluation-harness: whose stack they are of, their scores, and the frontier that they make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hybridbench.arch.presets import PRESETS
from hybridbench.cli.main import main
from hybridbench.errors import BadInput
from hybridbench.pareto.harness_results import read_harness

COMMITTED = Path(__file__).parents[2] / "results/nvidia-h200/paper"


def results(path: Path, acc: float = 0.5, told: dict[str, Any] | None = None, **more: Any) -> Path:
    """A file as version 0.4.13 writes it, without what is not read."""
    body = {
        "results": {
            "lambada_openai": {
                "alias": "lambada_openai", "sample_len": 100, "perplexity,none": 12.5, "perplexity_stderr,none": 0.4,
                "acc,none": acc, "acc_stderr,none": 0.02,
            },
            "gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.1, "exact_match_stderr,strict-match": "N/A"},
        },
        "higher_is_better": {"lambada_openai": {"perplexity": False, "acc": True}, "gsm8k": {"exact_match": True}},
        "lm_eval_version": "0.4.13",
        **({} if told is None else {"hybridbench": told}),
        **more,
    }  # fmt: skip
    path.write_text(json.dumps(body))
    return path


def stack(arch: str, seed: int = 0, ratio: str = "") -> dict[str, Any]:
    return {"arch": arch, "scale": "1b", "ratio": ratio, "seed": seed, "tokens": 6e10, "flops": 4.5e20}


def test_scores_have_directions_units_and_errors(tmp_path: Path) -> None:
    found = {one.score.name: one for one in read_harness([results(tmp_path / "a.json", told=stack("mamba"))])}
    assert list(found) == ["lambada_openai:perplexity", "lambada_openai:acc", "gsm8k:exact_match:strict-match"]
    acc, perplexity = found["lambada_openai:acc"], found["lambada_openai:perplexity"]
    assert (acc.score.better, acc.score.unit, acc.std, acc.flops) == ("higher", "frac", 0.02, 4.5e20)
    assert (perplexity.score.better, perplexity.score.unit, perplexity.value) == ("lower", "", 12.5)
    assert found["gsm8k:exact_match:strict-match"].std is None
    assert acc.source == "lm-evaluation-harness 0.4.13"


def test_seeds_of_a_stack_are_one_figure(tmp_path: Path) -> None:
    files = [results(tmp_path / f"{n}.json", 0.5 + n / 10, stack("mamba", n)) for n in range(3)]
    (acc,) = (one for one in read_harness(files) if one.score.name == "lambada_openai:acc")
    assert (acc.value, acc.seeds, acc.std) == (pytest.approx(0.6), 3, pytest.approx(0.1))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"lr": 2e-3}, r"with other learning rates \(0.001 and 0.002\): they are no seeds of one figure"),
        ({"arm": "b"}, r"with other trainings \(a and b\)"),
        ({"corpus": "y"}, r"with other corpora \(x and y\)"),
        ({"limit": 10}, r"with other limits of examples \(--limit\) \(not told and 10\)"),
        ({"shots": 5}, r"with other examples in the prompt \(--shots\) \(not told and 5\)"),
        ({"context": 128}, r"with other contexts \(--ctx\) \(256 and 128\)"),
        ({"seed": 0}, "both give lambada_openai:perplexity of seed 0 of mamba 1b: name one"),
        ({"seed": 20251006}, "b.json is of a run that only chose a learning rate: leave it out"),
        ({"lr": {}}, "has a field under hybridbench that is neither text nor number"),
    ],
)
def test_only_seeds_of_one_training_are_one_figure(other: dict[str, Any], said: str, tmp_path: Path) -> None:
    told = {**stack("mamba"), "lr": 1e-3, "arm": "a", "corpus": "x", "limit": None, "shots": None, "context": 256}
    first = results(tmp_path / "a.json", 0.5, told)
    second = results(tmp_path / "b.json", 0.7, {**told, "seed": 1, **other})
    with pytest.raises(BadInput, match=said):
        read_harness([first, second])


def test_a_published_model_has_one_figure(tmp_path: Path) -> None:
    name = next(iter(PRESETS))
    files = [results(tmp_path / f"{n}.json", model_name=name) for n in range(2)]
    with pytest.raises(BadInput, match=f"both give lambada_openai:perplexity of {name} .*: name one"):
        read_harness(files)


def test_other_peoples_files_are_of_published_models(tmp_path: Path) -> None:
    name, preset = next(iter(PRESETS.items()))
    for config in ({"model_args": f"pretrained={preset.repo},dtype=bfloat16"}, {"model_args": {"pretrained": name}}):
        assert read_harness([results(tmp_path / "a.json", config=config)])[0].spec.arch == name
    assert read_harness([results(tmp_path / "a.json", model_name=preset.repo)])[0].spec.arch == name
    with pytest.raises(BadInput, match="of the model 'me/mine', which is no published model known here"):
        read_harness([results(tmp_path / "b.json", config={"model_args": "pretrained=me/mine"})])


@pytest.mark.parametrize("text", ["{}", "[]", '{"results": []}', '{"results": {"a": 1}}', "{"])
def test_what_is_no_result_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"is no result file|is not JSON|is no JSON"):
        read_harness([path])


def pareto(*given: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(main, ["pareto", str(COMMITTED), *map(str, given)])


def test_the_frontier_is_of_a_task(tmp_path: Path) -> None:
    files = [
        results(tmp_path / "t.json", 0.40, stack("transformer")),
        results(tmp_path / "m.json", 0.60, stack("mamba")),
    ]
    asked = [word for file in files for word in ("--quality", file)]
    done = pareto(*asked, "--score", "lambada_openai:acc", "--ctx", "8k", "--workload", "generate", "--json")
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert (body["score"], body["score_better"]) == ("lambada_openai:acc", "higher")
    verdicts = {(row["model"], row["beaten_by"]) for row in body["rows"]}
    assert verdicts == {("mamba", None), ("transformer", "mamba")}
    wrong = pareto(*asked, "--score", "lambada_openai:ac")
    assert wrong.exit_code == 2
    assert "did you mean 'lambada_openai:acc'?" in wrong.stderr


def test_stacks_of_other_flops_are_joined_by_tokens(tmp_path: Path) -> None:
    """Two stacks of equal tokens have no equal FLOPs: the one that is left out is named with what would join it."""
    files = [
        results(tmp_path / "t.json", 0.40, {**stack("transformer"), "flops": 5.5e20}),
        results(tmp_path / "m.json", 0.60, stack("mamba")),
    ]
    asked = [word for file in files for word in ("--quality", file)]
    where = ("--score", "lambada_openai:acc", "--ctx", "8k", "--workload", "generate")
    missing, hint = "without a figure of quality in this budget:", "; --matched tokens joins more stacks"
    said = " ".join(pareto(*asked, *where).stdout.split())
    assert missing in said
    assert "mamba" in said.partition(missing)[2].partition(hint)[0]
    assert hint in said
    joined = pareto(*asked, *where, "--matched", "tokens")
    assert hint not in " ".join(joined.stdout.split())
    assert joined.exit_code == 0, joined.output


def test_files_of_quality_without_the_option_are_told(tmp_path: Path) -> None:
    """As a shell writes ``--quality *.json``."""
    files = [results(tmp_path / f"{n}.json", 0.5, stack("mamba", n)) for n in range(3)]
    done = pareto("--quality", *files)
    assert done.exit_code == 2
    assert f"{files[1]} is no folder or .jsonl file of results" in done.stderr
    assert "write --quality before it, and before each other one" in done.stderr
    assert "Delete the line" not in done.stderr
