"""Trained models in lm-evaluation-harness, against log-likelihoods by hand; a local task; files that are refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from texts import words

from hybridbench.bench import Bench, Instruments
from hybridbench.cli.main import main
from hybridbench.errors import BadInput
from hybridbench.pareto.harness_results import read_harness
from hybridbench.quality.corpus.build import CorpusPlan, build
from hybridbench.quality.corpus.sources import named_source
from hybridbench.quality.training.case import LearnCase
from hybridbench.quality.training.place import weights_path
from hybridbench.quality.training.run import run_learn
from hybridbench.quality.training.trained import Trained, load_trained

CaseOf = Callable[..., LearnCase]
BOS, EOS = 256, 257


@pytest.fixture
def trained(case_of: CaseOf, corpus: Path) -> Trained:
    case = case_of("inter", steps=4)
    run_learn(case, Bench(torch.device("cpu"), None, None, instruments=Instruments(ceilings=lambda *_: None)))
    return load_trained(weights_path(case), corpus, "cpu")


@pytest.fixture(autouse=True)
def _warnings_of_the_harness() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def asked(*given: Any) -> list[Any]:
    return [SimpleNamespace(args=one) for one in given]


def by_hand(trained: Trained, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of what follows each id, of one sequence without padding."""
    with torch.no_grad():
        logits = trained.model(torch.tensor([ids]))[0, :, :258]
    return logits.double().log_softmax(-1)


def test_weights_come_back(trained: Trained, corpus: Path, case_of: CaseOf, tmp_path: Path) -> None:
    case = case_of("inter", steps=4)
    kept = load_file(weights_path(case))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in trained.model.state_dict().items())
    assert replace(trained.case, place=case.place).key == case.key
    bare = tmp_path / "bare.safetensors"
    save_file(kept, bare)
    with pytest.raises(BadInput, match="holds no weights of a finished run"):
        load_trained(bare, corpus, "cpu")
    told = {"case": json.dumps({name: value for name, value in case_of("mamba").to_dict().items() if name != "place"})}
    save_file(kept, bare, told)
    with pytest.raises(BadInput, match="does not hold the weights of mamba"):
        load_trained(bare, corpus, "cpu")
    with pytest.raises(BadInput, match="holds no weights"):
        load_trained(tmp_path / "none", corpus, "cpu")
    (tmp_path / "text").mkdir()
    for number in range(40):
        (tmp_path / "text" / f"{number}").write_text(words(number + 99, 100))
    other = tmp_path / "other"
    build(
        [named_source(str(tmp_path / "text"), "text", None)], other, CorpusPlan(held_out_frac=0.2), lambda _said: None
    )
    with pytest.raises(BadInput, match="holds another corpus"):
        load_trained(weights_path(case), other, "cpu")


@pytest.mark.slow
def test_log_likelihoods_are_those_of_single_sequences(trained: Trained) -> None:
    from hybridbench.quality.harness import HarnessModel

    model = HarnessModel(trained, batch=2)
    pairs = [("a b", " c"), ("longer context", " and more of it"), ("", "x")]
    for (context, added), (told, greedy) in zip(pairs, model.loglikelihood(asked(*pairs)), strict=True):
        first, rest = list(context.encode()), list(added.encode())
        logp = by_hand(trained, [BOS, *first, *rest][:-1])[len(first) :]
        assert told == pytest.approx(float(logp.gather(-1, torch.tensor(rest)[:, None]).sum()), abs=1e-4)
        assert greedy == (logp.argmax(-1).tolist() == rest)
    # Of a sequence beyond the context of 32 the end counts: BOS, then the last 32 ids.
    context, added = "z" * 60, "tail"
    ids = [BOS, *(context + added).encode()[-32:]]
    due = by_hand(trained, ids[:-1])[-4:].gather(-1, torch.tensor(ids[-4:])[:, None]).sum()
    assert model.loglikelihood(asked((context, added)))[0][0] == pytest.approx(float(due), abs=1e-4)


@pytest.mark.slow
def test_whole_texts_and_generations(trained: Trained) -> None:
    from hybridbench.quality.harness import HarnessModel

    model = HarnessModel(trained)
    text = words(3, 30)[:70]
    ids = list(text.encode())
    due = 0.0
    for start, first, last in ((0, 0, 32), (32, 32, 64), (38, 64, 70)):
        logp = by_hand(trained, [BOS, *ids[start : last - 1]])[first - start :]
        due += float(logp.gather(-1, torch.tensor(ids[first:last])[:, None]).sum())
    assert model.loglikelihood_rolling(asked((text,)))[0] == pytest.approx(due, abs=1e-3)
    added: list[int] = []
    for _ in range(8):
        added.append(int(by_hand(trained, [BOS, *b"the ", *added])[-1].argmax()))
    whole = bytes(one for one in added if one < BOS).decode(errors="replace")
    assert EOS not in added
    (found,) = model.generate_until(asked(("the ", {"max_gen_toks": 8, "until": []})))
    assert found == whole
    (cut,) = model.generate_until(asked(("the ", {"max_gen_toks": 8, "until": [whole[1]]})))
    assert cut == whole[: whole.find(whole[1])]
    with pytest.raises(BadInput, match="a task samples"):
        model.generate_until(asked(("the ", {"do_sample": True})))


TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def typed(*given: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, [str(word) for word in given])


@pytest.mark.slow
def test_a_local_task_without_a_network(
    trained: Trained, case_of: CaseOf, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The accuracy is that of choices by log-likelihood by hand, and pareto reads the files."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"text": words(n, 3), "choices": ["the", "qzx", "of a"], "label": n % 3} for n in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(TASK.format(name="mine", rows=tmp_path / "rows.jsonl"))
    right = 0
    for row in rows:
        told = []
        for choice in row["choices"]:
            first, rest = list(str(row["text"]).encode()), list(f" {choice}".encode())
            ids = [BOS, *(first + rest)[-32:]]
            logp = by_hand(trained, ids[:-1])[-len(rest) :]
            told.append(float(logp.gather(-1, torch.tensor(rest)[:, None]).sum()))
        right += told.index(max(told)) == row["label"]
    out = tmp_path / "found"
    where = ("--data", corpus, "--include", tmp_path / "tasks", "--device", "cpu", "-o", out)
    weights = weights_path(case_of("inter", steps=4))
    done = typed("evaluate", weights, "--tasks", "mine", *where, "--json")
    assert done.exit_code == 0, done.output
    (file,) = out.glob("*.json")
    assert json.loads(file.read_text())["results"]["mine"]["acc,none"] == pytest.approx(right / 9)
    (figure,) = read_harness([file])
    assert (figure.score.name, figure.score.unit, figure.seeds) == ("mine:acc", "frac", 1)
    assert figure.tokens == trained.case.tokens
    assert figure.spec.pattern == trained.case.model.pattern
    unknown = typed("evaluate", weights, "--tasks", "mine,mien", *where)
    assert unknown.exit_code == 2
    assert "the harness knows no task 'mien'" in unknown.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--tasks", "mine"), "evaluate without --data"),
        (("--data", "c"), "evaluate without --tasks"),
        (("--data", "c", "--tasks", "a", "--limit", "0"), "--limit 0: give a whole number from 1"),
        (("--data", "c", "--tasks", "a", "--device", "cuda"), "this machine shows no NVIDIA GPU"),
        (("--data", "c", "--tasks", "a", "--device", "cpu"), "is no file of weights and has none below it"),
    ],
)
def test_mistakes_are_sentences(given: tuple[str, ...], said: str, tmp_path: Path) -> None:
    if "cuda" in given and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = typed("evaluate", tmp_path, *given)
    assert done.exit_code == 2
    assert said in done.stderr
