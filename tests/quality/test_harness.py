"""Trained models in lm-evaluation-harness, against log-likelihoods by hand; a local task; files that are refused."""

from __future__ import annotations

import itertools
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
from hybridbench.cli import evaluating
from hybridbench.cli.main import main
from hybridbench.dialogue import UNKNOWN
from hybridbench.errors import BadInput
from hybridbench.pareto import harness_results
from hybridbench.pareto.harness_results import read_harness
from hybridbench.quality.corpus.build import CorpusPlan, build
from hybridbench.quality.corpus.sources import named_source
from hybridbench.quality.training.case import TUNING_SEED, LearnCase
from hybridbench.quality.training.checkpoint import save_weights
from hybridbench.quality.training.place import weights_path
from hybridbench.quality.training.plan import with_rate, with_seed
from hybridbench.quality.training.record import Event, Judged, LearnObserved, LearnRecord, Mark
from hybridbench.quality.training.run import Learner, run_learn
from hybridbench.quality.training.trained import Trained, check_learned, load_trained
from hybridbench.record import Memory, Status
from hybridbench.store import RecordWriter

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


SECONDS = itertools.count()
"""Of when kept runs started: each after the one before."""


def keep(case: LearnCase, *, ending: Event | None = None, finished: bool = True, value: float | None = None) -> Path:
    """Weights of a run with its record, as if it had learned; ``value`` stands in one of them."""
    model = Learner(case, Bench(torch.device("cpu"), None, None)).model
    if value is not None:
        next(iter(model.state_dict().values()))[0] = value
    weights = save_weights(case, model)
    curve = [Judged(case.steps, 2.0, 100, 50, 1, None)]
    events = [Event(Mark.SPIKE, 3, 5.0), *([] if ending is None else [ending])]
    memory = Memory(1, None, None, None, None, None)
    seen = LearnObserved([2.0], [1.0], curve, events, finished, [], [], 1, memory, [], [], 1, 1, weights=weights)
    with RecordWriter(Path(case.place.out), kind=LearnRecord) as writer:
        started = f"2026-11-29T00:{next(SECONDS):02}:00+00:00"
        writer.append(LearnRecord(case, Status.OK, writer.run_id, started, UNKNOWN, seen))
    return weights_path(case)


def test_a_folder_is_its_runs_that_are_compared(
    case_of: CaseOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By model, rate and seed, without those that chose a rate and those that went wrong."""
    made = [
        keep(with_seed(with_rate(case_of(arch), lr), seed))
        for arch, lr, seed in (("mamba", 3e-3, 1), ("inter", 3e-3, 2), ("mamba", 1e-3, 1), ("mamba", 3e-3, 0))
    ]
    tuning = [keep(with_seed(with_rate(case_of("mamba"), lr), TUNING_SEED)) for lr in (1e-3, 3e-3)]
    keep(with_seed(case_of("swa"), 5), value=float("nan"))
    keep(with_seed(case_of("swa"), 6), finished=False, ending=Event(Mark.DIVERGED, 4, 9.0))
    found = evaluating._cases([tmp_path / "out"])
    assert list(found) == [made[1], made[2], made[3], made[0]]
    assert [(case.model.arch, case.recipe.lr, case.seed) for case in found.values()] == [
        ("inter", 3e-3, 2), ("mamba", 1e-3, 1), ("mamba", 3e-3, 0), ("mamba", 3e-3, 1)
    ]  # fmt: skip
    said = " ".join(capsys.readouterr().err.split())
    assert "Left out: 2 runs that only chose a learning rate." in said
    assert "values that are no numbers, such as " in said
    assert "is of a run that went wrong (diverged at step 4)" in said
    with pytest.raises(BadInput, match="is of a run that only chose a learning rate"):
        evaluating._cases(tuning[:1])


def test_a_folder_with_nothing_to_evaluate_says_why(case_of: CaseOf, tmp_path: Path) -> None:
    keep(with_seed(case_of("mamba"), TUNING_SEED))
    with pytest.raises(BadInput, match=r"1 run that only chose a learning rate\. No weights are left to evaluate"):
        evaluating._cases([tmp_path / "out"])


def test_weights_of_a_run_that_went_wrong_are_no_model(case_of: CaseOf, corpus: Path, tmp_path: Path) -> None:
    for number, value in enumerate((float("nan"), float("inf"))):
        path = keep(with_seed(case_of("mamba"), number), value=value)
        with pytest.raises(BadInput, match="holds 1 tensor with values that are no numbers"):
            load_trained(path, corpus, "cpu")
    ended = Event(Mark.NOT_A_NUMBER, 11, None)
    for number, (ending, finished) in enumerate(((ended, False), (ended, True), (None, False)), start=7):
        path = keep(with_seed(case_of("mamba"), number), ending=ending, finished=finished)
        said = "not a number at step 11" if ending else "not all steps done"
        with pytest.raises(BadInput, match=rf"is of a run that went wrong \({said}\)"):
            load_trained(path, corpus, "cpu")
    again = with_seed(case_of("mamba"), 7)
    assert check_learned(keep(again)).key == again.key  # it ran once more, and well
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(keep(with_seed(case_of("mamba"), 20)).read_bytes())
    load_trained(alone, corpus, "cpu")


def test_the_seed_that_chooses_rates_is_that_of_learn() -> None:
    assert harness_results.TUNING_SEED == TUNING_SEED


def test_no_sequence_is_longer_than_in_training(case_of: CaseOf, corpus: Path) -> None:
    from hybridbench.quality.harness import HarnessModel

    path = keep(case_of("mamba"))
    with pytest.raises(BadInput, match="a context of 33 is beyond the 32 tokens that mamba was trained with"):
        HarnessModel(load_trained(path, corpus, "cpu"), 33)
    done = typed("evaluate", path, "--data", corpus, "--tasks", "mine", "--device", "cpu", "--ctx", 33)
    assert done.exit_code == 2
    assert "--ctx 33 is more than the 32 tokens of a sequence" in done.stderr


def test_a_folder_that_cannot_be_written_is_told_before_anything_runs(
    case_of: CaseOf, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_given: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(evaluating, "TemporaryFile", refuse)
    monkeypatch.setattr(evaluating, "_evaluated", lambda *_given: pytest.fail("a model ran"))
    where = ("--data", corpus, "--device", "cpu", "-o", tmp_path)
    done = typed("evaluate", keep(case_of("mamba")), "--tasks", "mine", *where)
    assert done.exit_code == 2
    assert "cannot hold results (Read-only file system): make it writable" in done.stderr


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
    told = json.loads(file.read_text())["hybridbench"]
    assert (told["arm"], told["lr"], told["seed"], told["context"]) == (trained.case.arm, 3e-3, 0, 32)
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
