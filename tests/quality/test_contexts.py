"""Losses by position and needles are those of whole forwards, prompts are as described, and mistakes are sentences."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from texts import words

from hybridbench.bench import Bench
from hybridbench.cli.main import main
from hybridbench.dialogue import UNKNOWN
from hybridbench.errors import BadInput, BadResults
from hybridbench.quality.contexts.case import Beyond, ContextCase, There
from hybridbench.quality.contexts.plan import ContextOptions, planned
from hybridbench.quality.contexts.record import ContextObserved, ContextRecord, Needle, StretchLoss
from hybridbench.quality.contexts.render import heat_map, write
from hybridbench.quality.contexts.report import build
from hybridbench.quality.contexts.run import Reader, run_contexts
from hybridbench.quality.contexts.text import Haystack, drawn_documents, held_out_documents
from hybridbench.quality.corpus.manifest import Manifest
from hybridbench.quality.corpus.vocabulary import ByteVocabulary
from hybridbench.quality.training.case import LearnCase
from hybridbench.quality.training.checkpoint import save_weights
from hybridbench.quality.training.record import Judged, LearnObserved, LearnRecord
from hybridbench.quality.training.run import Learner
from hybridbench.record import Memory, Status
from hybridbench.suite.case import Execution

CaseOf = Callable[..., LearnCase]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def learned_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("learned")


def trained(case: LearnCase, weights: str = "weights/missing.safetensors") -> LearnRecord:
    curve = [Judged(case.steps, 2.0, 100, 50, 1, None)]
    memory = Memory(1, None, None, None, None, None)
    seen = LearnObserved([2.0], [1.0], curve, [], True, [], [], 1, memory, [], [], 1, 1, weights=weights)
    return LearnRecord(case, Status.OK, "run", "2026-11-29T00:00:00+00:00", UNKNOWN, seen)


def learned(case: LearnCase) -> LearnRecord:
    """The record and the weights of a run that has not gone far."""
    return trained(case, save_weights(case, Learner(case, Bench(CPU, None, None)).model))


def context_case(record: LearnRecord, corpus: Path, **changes: Any) -> ContextCase:
    case = ContextCase(
        model=record.case.model,
        learned=record.case.key,
        corpus=record.case.corpus,
        trained=record.case.context,
        seed=0,
        tokens=record.case.tokens,
        beyond=Beyond(3, 4, (128, 150), (0, 50, 100), 3),
        batch=2,
        execution=Execution("cpu", "float32", "eager"),
        place=There(str(corpus), str(Path(record.case.place.out, str(record.observed and record.observed.weights)))),
    )
    return replace(case, **changes)


@pytest.fixture
def reader_of(case_of: CaseOf, corpus: Path, learned_in: Path) -> Callable[[str], Reader]:
    def make(arch: str) -> Reader:
        case = case_of(arch, out=learned_in / arch, steps=12)
        return Reader(context_case(learned(case), corpus), Bench(CPU, None, None))

    return make


@torch.no_grad()
def test_losses_by_position_are_those_of_whole_logits(reader_of: Callable[[str], Reader]) -> None:
    reader = reader_of("inter")
    found = list(reader.by_position())
    assert [(one.first, one.last) for one in found] == [(at, at + 4) for at in range(0, 96, 4)]
    bos = np.full((4, 1), 256)
    logits = reader.model(torch.from_numpy(np.concatenate((bos, reader.token_NT[:, :-1]), 1)))
    losses = F.cross_entropy(logits.transpose(1, 2), torch.from_numpy(reader.token_NT), reduction="none").numpy()
    for one in found:
        assert one.losses == pytest.approx(losses[:, one.first : one.last].mean(1), rel=1e-5)
        assert one.text_bytes == 4 * 4


@pytest.mark.parametrize("arch", ["swa", "mamba", "intra"])
@torch.no_grad()
def test_what_is_generated_is_the_likeliest_after_whole_forwards(
    arch: str, reader_of: Callable[[str], Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(arch)
    for weight in reader.model.parameters():
        if weight.dim() == 2:
            weight.mul_(5)  # initial weights hardly look at anything but the last token
    prompts = list(reader.haystack.prompts(140, 50, 2))
    decoded: list[torch.Tensor] = []
    decode = reader.model.decode
    monkeypatch.setattr(reader.model, "decode", lambda *given: decoded.append(decode(*given)) or decoded[-1])
    found = reader._generated(prompts)
    token_BT = torch.from_numpy(np.stack([prompt.ids for prompt in prompts]))
    for place in range(4):
        logits_BV = reader.model(token_BT)[:, -1]
        if place:
            torch.testing.assert_close(decoded[place - 1], logits_BV, rtol=1e-3, atol=1e-3)
        assert [ids[place] for ids in found] == logits_BV.argmax(-1).tolist()
        token_BT = torch.cat((token_BT, logits_BV.argmax(-1)[:, None]), 1)


@torch.no_grad()
def test_a_number_counts_as_found_only_where_it_is_said(
    reader_of: Callable[[str], Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of("mamba")
    right = lambda prompts: [[*prompt.answer.tolist(), 46] for prompt in prompts]  # noqa: E731
    monkeypatch.setattr(reader, "_generated", right)
    cell = reader._cell(128, 50)
    assert (cell.trials, cell.found) == (3, 3)
    prompts = list(reader.haystack.prompts(128, 50, 3))
    losses = []
    for prompt in prompts:
        whole = np.concatenate((prompt.ids, prompt.answer))
        logits = reader.model(torch.from_numpy(whole[None]))[0]
        rows, answer = logits[len(prompt.ids) - 1 : -1], torch.from_numpy(prompt.answer)
        losses.append(float(F.cross_entropy(rows, answer)))
    assert cell.loss == pytest.approx(np.mean(losses), rel=1e-4)
    monkeypatch.setattr(
        reader, "_generated", lambda prompts: [[*prompt.answer[:-1].tolist(), 46] for prompt in prompts]
    )
    assert reader._cell(128, 50).found == 0


def test_prompts_are_as_long_and_as_deep_as_asked() -> None:
    text = np.frombuffer(words(1, 400).encode(), np.uint8).astype(np.int64)
    haystack = Haystack(ByteVocabulary(), 256, [text[:1000], text[1000:]])
    for length in (haystack.shortest(), 200, 555):
        for depth in (0, 30, 100):
            prompts = list(haystack.prompts(length, depth, 5))
            assert len({prompt.number for prompt in prompts}) == 5
            for prompt in prompts:
                assert len(prompt.ids) == length
                assert prompt.ids[0] == 256
                said = bytes(prompt.ids[1:].tolist()).decode()
                assert said.startswith("<context>\n")
                line = next(one for one in said.split("\n") if "magic" in one)
                assert line.endswith(f" number is: {prompt.number}.")
                assert said.endswith(f"\n</context>\n{line.removesuffix(f' {prompt.number}.')}")
                assert bytes(prompt.answer.tolist()).decode() == f" {prompt.number}"
                before, after = said.removeprefix("<context>\n").split(line)
                around = len(before.removesuffix("\n")) + len(after.partition("\n</context>")[0].removeprefix("\n"))
                assert len(before.removesuffix("\n")) == pytest.approx(around * depth / 100, abs=1)
    again = [prompt.ids.tolist() for prompt in haystack.prompts(200, 30, 2)]
    assert again == [prompt.ids.tolist() for prompt in haystack.prompts(200, 30, 2)]
    with pytest.raises(BadInput, match="no room for a needle"):
        list(haystack.prompts(60, 0, 1))
    with pytest.raises(BadInput, match="fewer than a prompt"):
        list(haystack.prompts(5000, 0, 1))


def test_documents_are_held_out_ones_from_their_start(corpus: Path, manifest: Manifest) -> None:
    texts = [words(number, 100).encode() for number in range(40)]
    found = held_out_documents(corpus, manifest, 1)
    assert len(found) == manifest.held_out.documents
    assert all(bytes(one.tolist()) in texts for one in found)
    long = held_out_documents(corpus, manifest, 590)
    assert [one.tolist() for one in long] == [one.tolist() for one in found if len(one) >= 590]
    drawn = drawn_documents(found, 3, 50)
    assert drawn.shape == (3, 50)
    assert all(any((row == one[:50]).all() for one in found) for row in drawn)


def test_a_run_is_observed_and_comes_back(case_of: CaseOf, corpus: Path) -> None:
    case = context_case(learned(case_of("transformer", steps=12)), corpus)
    assert ContextCase.from_dict(json.loads(json.dumps(case.to_dict()))) == case
    seen, _ = run_contexts(case, Bench(CPU, None, None))
    assert len(seen.stretches) == 24
    assert [(cell.length, cell.depth) for cell in seen.needles] == [(n, d) for n in (128, 150) for d in (0, 50, 100)]
    assert seen.sized
    record = ContextRecord(case, Status.OK, "run", "2026-11-29T00:00:00+00:00", UNKNOWN, seen)
    assert ContextRecord.from_json(record.to_json()) == record
    with pytest.raises(BadResults, match="more found than tried"):
        ContextRecord.from_json(record.to_json().replace('"found":', '"found":9', 1))


def test_weights_of_another_model_are_refused(case_of: CaseOf, corpus: Path) -> None:
    record = learned(case_of("mamba", steps=12))
    bench = Bench(CPU, None, None)
    other = case_of("transformer").model
    with pytest.raises(BadInput, match=r"is of another architecture: .* weights differ"):
        Reader(context_case(record, corpus, model=other), bench)
    with pytest.raises(BadInput, match="has the weights of another run"):
        Reader(context_case(record, corpus, learned="0" * 16), bench)
    case = context_case(record, corpus)
    Path(case.place.weights).write_bytes(b"no weights")
    with pytest.raises(BadInput, match="no file of weights of hybridbench learn"):
        Reader(case, bench)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"times": 0}, "--to 0: give how many times"),
        ({"times": 40}, "no held-out document of .* has 1,280 tokens"),
        ({"documents": 0}, "--documents 0"),
        ({"trials": -1}, "--trials -1"),
        ({"trials": 2}, "takes .* tokens or more, over twice the trained 32"),
        ({"trials": 0}, "the weights of .* are not below"),
    ],
)
def test_what_cannot_be_read_is_told(
    asked: dict[str, Any], said: str, case_of: CaseOf, corpus: Path, manifest: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=said):
        planned([(tmp_path, trained(case_of()))], corpus, manifest, ContextOptions(**asked), has_gpu=False)


def test_models_of_another_vocabulary_are_refused(case_of: CaseOf, corpus: Path, manifest: Manifest) -> None:
    case = case_of()
    case = replace(case, corpus="0" * 16, model=replace(case.model, vocab_size=4096))
    with pytest.raises(BadInput, match="whose ids may mean something else"):
        planned([(corpus, trained(case))], corpus, manifest, ContextOptions(), has_gpu=False)


def observed(case: LearnCase, corpus: Path, level: float, rise: float) -> ContextRecord:
    """Four documents whose loss rises beyond the trained length, a needle found in a third of the trials."""
    made = replace(context_case(trained(case), corpus), seed=case.seed)
    stretches = [
        StretchLoss(at, at + 4, [level + 0.1 * n + (rise if at >= 64 else 0.0) for n in range(4)], 16)
        for at in range(0, 96, 4)
    ]
    needles = [Needle(length, depth, 3, 1, 2.0) for length in (128, 150) for depth in (0, 50, 100)]
    seen = ContextObserved(stretches, needles, [], [], 1)
    return ContextRecord(made, Status.OK, "run", "2026-11-29T00:00:00+00:00", UNKNOWN, seen)


def test_tables_by_hand(case_of: CaseOf, corpus: Path, tmp_path: Path) -> None:
    mamba, other = case_of("mamba"), case_of("transformer")
    seeds = [replace(mamba, execution=replace(mamba.execution, seed=seed)) for seed in (0, 1)]
    records = [
        observed(seeds[0], corpus, 2.0, 0.0),
        observed(seeds[1], corpus, 3.0, 0.0),
        observed(other, corpus, 2.0, 0.5),
    ]
    report = build(records)
    table = report.tables["contexts-positions"]
    keys = [column.key for column in table.columns]
    rows = {row[0].value: {key: cell.value for key, cell in zip(keys, row, strict=True)} for row in table.rows}
    assert rows["mamba"]["seeds"] == 2
    assert rows["mamba"]["loss_nats_1x"] == pytest.approx(2.65)
    assert rows["mamba"]["verdict"] == "tie"
    assert rows["transformer"]["loss_nats_3x"] == pytest.approx(2.65)
    assert rows["transformer"]["growth_nats"] == pytest.approx(0.5)
    assert rows["transformer"]["verdict"] == "worse"
    curve = report.tables["contexts-curves"]
    bits = [column.key for column in curve.columns].index("bits_per_byte")
    assert curve.rows[0][bits].value == pytest.approx(2.65 / math.log(2))
    needles = report.tables["contexts-needles"]
    assert needles.rows[0][3].value == pytest.approx(1 / 3)
    assert needles.rows[0][-1].value == 2 * 6 * 3
    definition = heat_map(report, "found")
    assert definition is not None
    assert len(definition["data"]["values"]) == 2 * 6
    assert {cell["found"] for cell in definition["data"]["values"]} == {1 / 3}
    page = write(report, tmp_path / "report").read_text()
    assert page.startswith("# Long contexts\n")
    assert {path.stem for path in (tmp_path / "report" / "charts").glob("*.svg")} == {
        "contexts-positions", "contexts-needles", "contexts-needle-loss"
    }  # fmt: skip
    assert (tmp_path / "report" / "tables" / "contexts-cells.csv").read_text().count("\n") == 1 + 2 * 6


def typed(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, [str(word) for word in words])


def test_the_command_asks_for_what_it_needs(corpus: Path, tmp_path: Path) -> None:
    assert "contexts without --data" in typed("contexts", tmp_path).stderr
    assert "holds no corpus" in typed("contexts", tmp_path, "--data", tmp_path).stderr
    done = typed("contexts", tmp_path, "--data", corpus)
    assert done.exit_code == 2
    assert "has no *.jsonl file" in done.stderr


@pytest.mark.slow
def test_models_that_were_learned_are_read_beyond_their_length(tmp_path: Path) -> None:
    rows = "\n".join(json.dumps({"text": words(seed, 200)}) for seed in range(60))
    (tmp_path / "rows.jsonl").write_text(rows)
    corpus, out = tmp_path / "corpus", tmp_path / "learn"
    assert typed("corpus", "build", "--from", tmp_path / "rows.jsonl", "--held-out", 20, "-o", corpus).exit_code == 0
    ask = ("--arch", "swa,inter", "--ctx", 128, "--tokens", "3k", "--seeds", 1, "--evals", 1)
    done = typed("learn", "--data", corpus, *ask, "-o", out)
    assert done.exit_code == 0, done.output
    read = typed("contexts", out, "--data", corpus, "--trials", 1, "--documents", 3, "-o", tmp_path / "far", "--json")
    assert read.exit_code == 0, read.output
    runs = json.loads(read.stdout)["runs"]
    assert {run["arch"] for run in runs} == {"swa", "inter"}
    assert all(run["positions"][-1]["last"] == 512 and run["status"] == "ok" for run in runs)
    shown = typed("report", tmp_path / "far")
    assert shown.exit_code == 0, shown.output
    assert "needles found, over all depths" in " ".join(shown.output.split())
