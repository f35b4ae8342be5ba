"""Losses by position and needles are those of whole forwards, prompts are as described, and mistakes are sentences."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
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
from hybridbench.model.language import LanguageModel
from hybridbench.model.swap import swapped
from hybridbench.predict.memory import prefill_memory
from hybridbench.quality.contexts.case import ANSWER, Beyond, ContextCase, There
from hybridbench.quality.contexts.plan import ContextOptions, planned
from hybridbench.quality.contexts.record import ContextObserved, ContextRecord, Needle, StretchLoss
from hybridbench.quality.contexts.render import by_position, heat_map, write
from hybridbench.quality.contexts.report import build
from hybridbench.quality.contexts.run import Reader, run_contexts
from hybridbench.quality.contexts.text import Haystack, Prompt, PromptSet, drawn_documents, held_out_documents
from hybridbench.quality.corpus.manifest import Manifest
from hybridbench.quality.corpus.vocabulary import ByteVocabulary
from hybridbench.quality.training.case import LearnCase
from hybridbench.quality.training.checkpoint import save_weights
from hybridbench.quality.training.record import Event, Judged, LearnObserved, LearnRecord, Mark
from hybridbench.quality.training.run import Learner
from hybridbench.record import Memory, Status
from hybridbench.resume import remaining_of
from hybridbench.suite.case import Execution
from hybridbench.units import format_si
from hybridbench.workload.prepared import present

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


def haystack_of(reader: Reader) -> Haystack:
    manifest = reader.texts.manifest
    return Haystack(ByteVocabulary(), manifest.vocabulary.bos, held_out_documents(reader.folder, manifest, 1))


@torch.no_grad()
def test_losses_by_position_are_those_of_whole_logits(reader_of: Callable[[str], Reader]) -> None:
    reader = reader_of("inter")
    found = list(reader.by_position())
    assert [(one.first, one.last) for one in found] == [(at, at + 4) for at in range(0, 96, 4)]
    bos = np.full((4, 1), 256)
    logits = reader.model(torch.from_numpy(np.concatenate((bos, reader.texts.token_NT[:, :-1]), 1)))
    losses = F.cross_entropy(logits.transpose(1, 2), torch.from_numpy(reader.texts.token_NT), reduction="none").numpy()
    for one in found:
        assert one.losses == pytest.approx(losses[:, one.first : one.last].mean(1), rel=1e-5)
        assert one.text_bytes == 4 * 4


@torch.no_grad()
def sharpen(reader: Reader) -> None:
    """Initial weights hardly look at anything but the last token."""
    for weight in reader.model.parameters():
        if weight.dim() == 2:
            weight.mul_(5)


def text_of(ids: Sequence[int]) -> str:
    return bytes(one for one in ids if one < 256).decode(errors="replace")


@torch.no_grad()
def by_whole_forwards(model: LanguageModel, prompts: Sequence[Prompt], steps: int) -> list[list[int]]:
    """The likeliest tokens after prompts of one length, each by a forward over all tokens before it."""
    token_BT = torch.from_numpy(np.stack([prompt.ids for prompt in prompts]))
    for _ in range(steps):
        token_BT = torch.cat((token_BT, model(token_BT)[:, -1].argmax(-1, keepdim=True)), 1)
    said: list[list[int]] = token_BT[:, -steps:].tolist()
    return said


@pytest.mark.parametrize("arch", ["transformer", "swa", "mamba", "intra"])
@torch.no_grad()
def test_needles_are_those_of_whole_forwards(
    arch: str, reader_of: Callable[[str], Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine prompts of two lengths in batches of two, after a check has filled the caches that they share."""
    reader = reader_of(arch)
    sharpen(reader)
    reader.check()
    said: list[torch.Tensor] = []
    after = reader.continuation.after
    monkeypatch.setattr(reader.continuation, "after", lambda token_BT: said.append(after(token_BT)) or said[-1])
    found = list(reader.needles())
    assert [len(one) for one in said] == [2] * 10, "the last batch is filled up"
    for index, length in enumerate((128, 150)):
        cells = found[3 * index : 3 * index + 3]
        assert [(cell.length, cell.depth) for cell in cells] == [(length, depth) for depth in (0, 50, 100)]
        prompts = [one for depth in (0, 50, 100) for one in haystack_of(reader).prompts(length, depth, 3)]
        rows = torch.cat(said[5 * index : 5 * index + 5])[:9].tolist()
        assert rows == by_whole_forwards(reader.model, prompts, ANSWER)
        assert len({tuple(row) for row in rows}) > 1, "what is compared depends on the prompt"
        token_BT = torch.from_numpy(np.stack([np.concatenate((one.ids, one.answer)) for one in prompts]))
        logits = reader.model(token_BT)[:, length - 1 : -1]
        losses = F.cross_entropy(logits.transpose(1, 2), token_BT[:, length:], reduction="none").mean(1)
        numbers = [one.number in text_of(ids) for one, ids in zip(prompts, rows, strict=True)]
        for at, cell in enumerate(cells):
            assert cell.loss == pytest.approx(float(losses[3 * at : 3 * at + 3].mean()), rel=1e-5)
            assert (cell.trials, cell.found) == (3, sum(numbers[3 * at : 3 * at + 3]))


def test_one_step_is_captured_for_all_prompts(case_of: CaseOf, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In mode graph, with a capture that hands the step back: it is made once, and its memory never moves."""
    made: list[object] = []

    def capture(step: Callable[[], object], **_options: object) -> Callable[[], object]:
        made.append(step)
        return step

    monkeypatch.setattr("hybridbench.workload.decode.captured", capture)
    case = context_case(learned(case_of("inter")), corpus)
    eager = Reader(case, Bench(CPU, None, None))
    graph = Reader(replace(case, execution=replace(case.execution, mode="graph")), Bench(CPU, None, None))
    assert not made
    graph.check()
    assert made.pop() == graph.continuation.loop.step
    assert len(made) == 2, "two sequences alone, to compare with"
    loop = graph.continuation.loop

    def memory() -> list[int]:
        kept = [x for cache in present(loop.caches) for some in cache.tensors().values() for x in some]
        return [x.data_ptr() for x in (loop.token_B, loop.position_B, *kept)]

    before = memory()
    assert list(graph.needles()) == list(eager.needles())
    assert memory() == before
    assert len(made) == 2


def test_a_number_counts_as_found_only_where_it_is_said(
    reader_of: Callable[[str], Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of("mamba")
    haystack = haystack_of(reader)
    prompts = [one for length in (128, 150) for depth in (0, 50, 100) for one in haystack.prompts(length, depth, 3)]
    answers = {tuple(prompt.ids.tolist()): prompt.answer.tolist() for prompt in prompts}

    def right(token_BT: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[*answers[tuple(ids)], 46] for ids in token_BT.tolist()])

    monkeypatch.setattr(reader.continuation, "after", right)
    assert [(cell.trials, cell.found) for cell in reader.needles()] == [(3, 3)] * 6
    one = prompts[4].ids.tolist()  # of 128 tokens, 50% deep

    def right_once(token_BT: torch.Tensor) -> torch.Tensor:
        return right(token_BT) * torch.tensor([[ids == one] for ids in token_BT.tolist()])

    monkeypatch.setattr(reader.continuation, "after", right_once)
    assert [cell.found for cell in reader.needles()] == [0, 1, 0, 0, 0, 0]
    monkeypatch.setattr(reader.continuation, "after", lambda token_BT: right(token_BT)[:, [0, 1, 2, 3, 4, 5, 6, 8]])
    assert all(cell.found == 0 for cell in reader.needles()), "six of seven digits"


@torch.no_grad()
def test_answers_of_several_lengths_are_judged_together(reader_of: Callable[[str], Reader]) -> None:
    reader = reader_of("inter")
    sharpen(reader)
    prompts = list(haystack_of(reader).prompts(128, 50, 3))
    prompts = [replace(one, answer=one.answer[:count]) for one, count in zip(prompts, (3, 8, 5), strict=True)]
    some = PromptSet.of(prompts)
    assert some.ids.shape == (3, 136)
    whole_BW, answer_B = torch.from_numpy(some.ids).long(), torch.from_numpy(some.answers)
    found = reader._answer_losses(whole_BW, 128, answer_B).tolist()
    for loss, prompt in zip(found, prompts, strict=True):
        logits = reader.model(torch.from_numpy(np.concatenate((prompt.ids, prompt.answer)))[None])[0, 127:-1]
        assert loss == pytest.approx(float(F.cross_entropy(logits, torch.from_numpy(prompt.answer))), rel=1e-4)


@torch.no_grad()
def test_attention_that_is_compiled_for_each_length_sees_few(reader_of: Callable[[str], Reader]) -> None:
    """Lengths become the trained 32 times a power of two, and nothing that comes out changes."""
    reader = reader_of("swa")
    sharpen(reader)
    plain = [cell.loss for cell in reader.needles()], [one.losses for one in reader.by_position()]
    lengths: list[int] = []

    def noted(attention: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def call(q_BTHP: torch.Tensor, *given: torch.Tensor, **options: Any) -> torch.Tensor:
            lengths.append(q_BTHP.shape[1])
            return attention(q_BTHP, *given, **options)

        return call

    asked = [item for item in reader.resolved if item.op == "attention"]
    ones = {id(item.function): noted(item.function) for item in asked}
    with swapped(reader.model, [item.function for item in asked], lambda _op, function: ones[id(function)]):
        list(reader.by_position())
        assert set(lengths) == {96}
        lengths.clear()
        for_each_length = [replace(item.backend, compiles_per_length=True) for item in asked]
        reader.resolved = [
            replace(item, choice=replace(item.choice, backend=backend), function=ones[id(item.function)])
            for item, backend in zip(asked, for_each_length, strict=True)
        ]
        with reader.few_lengths():
            again = [cell.loss for cell in reader.needles()], [one.losses for one in reader.by_position()]
    assert set(lengths) == {128, 256}
    assert again[0] == pytest.approx(plain[0], rel=1e-5)
    assert again[1] == [pytest.approx(losses, rel=1e-5) for losses in plain[1]]


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


def test_runs_are_the_same_however_they_are_batched_and_captured(case_of: CaseOf, corpus: Path) -> None:
    """A folder whose records are of eager steps, at another batch, is gone on with."""
    record = observed(case_of(), corpus, 2.0, 0.0)
    eager = record.case
    graph = replace(eager, batch=220, execution=replace(eager.execution, mode="graph"))
    assert graph.key == eager.key
    assert replace(eager, execution=replace(eager.execution, dtype="bfloat16")).key != eager.key
    left = remaining_of([graph, replace(graph, seed=1)], {eager.key: ContextRecord.from_json(record.to_json())})
    assert (left.todo, left.done) == ([replace(graph, seed=1)], {eager.key})


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


def test_a_gpu_reads_as_many_prompts_at_once_as_it_has_room_for(
    case_of: CaseOf, corpus: Path, manifest: Manifest
) -> None:
    """2,200 prompts of each length: as many at once as a fused step holds, or as a quarter of the memory, evenly."""
    case = replace(case_of("transformer"), context=96)
    record = learned(case)
    folder = Path(case.place.out)

    def case_at(device: str, memory_bytes: int | None = None) -> ContextCase:
        environment = replace(UNKNOWN, device_kind="cuda", device_memory_bytes=memory_bytes)
        ask = ContextOptions(times=2, trials=200, device=device)
        (one,) = planned([(folder, replace(record, environment=environment))], corpus, manifest, ask, has_gpu=True)
        return one

    fits = case_at("cuda")
    assert (fits.beyond.lengths, fits.beyond.prompts) == ((120, 132, 144, 156, 168, 180, 192), 2200)
    assert (fits.batch, fits.execution.mode) == (245, "graph"), "nine batches of 256 or fewer"
    assert fits.documents_at_once == 30
    small = case_at("cuda", 256 * 2**20)
    needed = [prefill_memory(small.model, 192, batch, small.execution.storage).total for batch in (small.batch, 245)]
    assert needed[0] <= 64 * 2**20 < needed[1]
    on_cpu = case_at("cpu")
    assert (on_cpu.batch, on_cpu.documents_at_once, on_cpu.execution.mode) == (1, 1, "eager")
    assert len({one.key for one in (fits, small)}) == 1
    assert fits.tokens_read == 30 * 192 + 2200 * (2 * sum(fits.beyond.lengths) + 7 * 20)


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
    words_of = ("contexts", out, "--data", corpus, "--trials", 1, "--documents", 3, "-o", tmp_path / "far")
    planned = typed(*words_of, "--dry-run")
    prompts = sum(2 * length + 20 for length in (128, 144, 160, 176, 192, 208, 224, 240, 256)) * 11
    assert f"Each of 2 models reads about {format_si(3 * 512 + prompts)} tokens" in planned.stderr
    assert planned.stdout.count("contexts ") == 2
    read = typed(*words_of, "--json")
    assert read.exit_code == 0, read.output
    runs = json.loads(read.stdout)["runs"]
    assert {run["arch"] for run in runs} == {"swa", "inter"}
    assert all(run["positions"][-1]["last"] == 512 and run["status"] == "ok" for run in runs)
    again = typed(*words_of, "--resume")
    assert again.exit_code == 0, again.output
    assert "2 of 2 cases are recorded" in again.stderr
    shown = typed("report", tmp_path / "far")
    assert shown.exit_code == 0, shown.output
    assert "needles found, over all depths" in " ".join(shown.output.split())


def stretched(case: ContextCase) -> ContextRecord:
    stretches = [StretchLoss(at, at + 4, [float(case.lr or 0.0), 2.0], 8) for at in range(0, 96, 4)]
    seen = ContextObserved(stretches, [], [], [], 1)
    return ContextRecord(case, Status.OK, "run", "2026-11-29T00:00:00+00:00", UNKNOWN, seen)


def test_models_of_other_rates_are_no_seeds_of_one(case_of: CaseOf, corpus: Path, manifest: Manifest) -> None:
    """Nor are those of earlier records, which do not tell the training, if a seed comes twice."""
    learned = [(lr, seed) for lr in (1e-3, 3e-3) for seed in (0, 1)]
    cases = []
    for lr, seed in learned:
        made = case_of("mamba")
        made = replace(made, recipe=replace(made.recipe, lr=lr), execution=replace(made.execution, seed=seed))
        case = context_case(trained(made), corpus, seed=seed, arm=made.arm, lr=lr)
        assert ContextCase.from_dict(json.loads(json.dumps(case.to_dict()))) == case
        assert replace(case, arm="", lr=None).key == case.key
        cases.append(case)
    report = build([stretched(case) for case in cases])
    names = ["mamba lr 0.001", "mamba lr 0.003"]
    assert [(stack.name, len(stack.records)) for stack in report.stacks] == [(name, 2) for name in names]
    assert [row[0].value for row in report.tables["contexts-positions"].rows] == names
    drawn = json.dumps(by_position(report))
    assert all(name in drawn for name in names)
    (alone,) = build([stretched(case) for case in cases[:2]]).stacks
    assert alone.name == "mamba"
    before = build([stretched(replace(case, arm="", lr=None)) for case in cases]).stacks
    assert [stack.name for stack in before] == [f"mamba {case.learned}" for case in cases]


def test_the_chart_by_position_shows_its_end_and_says_what_it_leaves_out(case_of: CaseOf, corpus: Path) -> None:
    drawn = by_position(build([stretched(context_case(trained(case_of("mamba")), corpus))]))
    assert drawn is not None
    x = drawn["layer"][0]["encoding"]["x"]
    assert (x["scale"]["domain"], x["axis"]["values"]) == ([0, 96], [0, 32, 64, 96])
    assert "'96': '96'" in x["axis"]["labelExpr"]
    assert "the first 4 positions, of higher loss, are not shown" in drawn["title"]["subtitle"][1]


def test_weights_that_are_no_numbers_are_not_read(case_of: CaseOf, corpus: Path) -> None:
    case = case_of("mamba")
    model = Learner(case, Bench(CPU, None, None)).model
    next(iter(model.state_dict().values()))[0] = math.nan
    record = trained(case, save_weights(case, model))
    with pytest.raises(BadInput, match="holds 1 tensor with values that are no numbers"):
        Reader(context_case(record, corpus), Bench(CPU, None, None))


def test_a_run_that_went_wrong_in_its_last_steps_is_not_read(
    case_of: CaseOf, corpus: Path, manifest: Manifest, tmp_path: Path
) -> None:
    record = trained(case_of("mamba"))
    assert record.observed is not None
    for events in ([Event(Mark.DIVERGED, 11, 9.0)], [Event(Mark.SPIKE, 3, 5.0), Event(Mark.NOT_A_NUMBER, 11, None)]):
        wrong = replace(record, observed=replace(record.observed, events=events))
        with pytest.raises(BadInput, match="these results hold no training run that went well"):
            planned([(tmp_path, wrong)], corpus, manifest, ContextOptions(), has_gpu=False)
