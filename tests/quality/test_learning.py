"""Runs learn, go on to the bit after a kill, see the batches of their seed, and say what goes wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hybridbench.bench import Bench, Instruments
from hybridbench.dialogue import UNKNOWN
from hybridbench.errors import BadInput, BadResults, Blocked, WrongResult
from hybridbench.quality.corpus.manifest import Manifest, Tokens
from hybridbench.quality.training.batches import Batches, spread_evenly
from hybridbench.quality.training.case import LearnCase
from hybridbench.quality.training.checkpoint import save_checkpoint
from hybridbench.quality.training.place import checkpoint_path, remove_checkpoints, weights_path
from hybridbench.quality.training.record import Event, LearnObserved, LearnRecord, Mark
from hybridbench.quality.training.run import Learner, run_learn
from hybridbench.quality.training.start import check_start
from hybridbench.quality.training.watch import WINDOW, new_events
from hybridbench.record import Status

CaseOf = Callable[..., LearnCase]


def bench(phase: Callable[[str], None] = lambda _name: None) -> Bench:
    instruments = Instruments(ceilings=lambda _device, _dtype: None)
    return Bench(torch.device("cpu"), None, None, phase, instruments=instruments)


def learned(case: LearnCase) -> LearnObserved:
    return run_learn(case, bench())[0]


def record_of(case: LearnCase, seen: LearnObserved | None, status: Status = Status.OK) -> LearnRecord:
    return LearnRecord(case, status, "run", "2026-11-29T00:00:00+00:00", UNKNOWN, seen)


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_to_the_bit(case_of: CaseOf, tmp_path: Path) -> None:
    whole = learned(case_of("inter", out=tmp_path / "whole"))
    case = case_of("inter", out=tmp_path / "parts", resume=True)
    for end in ("step 6 of", "step 10 of"):  # behind a checkpoint, and two steps behind one

        def phase(name: str, end: str = end) -> None:
            if name.startswith(end):
                raise Killed

        with pytest.raises(Killed):
            run_learn(case, bench(phase))
        assert checkpoint_path(case).exists()
        assert not weights_path(case).exists()
    seen = learned(case)
    assert seen.resumed_at == [4, 8]
    assert seen.losses == whole.losses
    assert seen.gradient_norms == whole.gradient_norms
    assert [point.loss for point in seen.curve] == [point.loss for point in whole.curve]
    ours, theirs = (load_file(folder / whole.weights) for folder in (tmp_path / "parts", tmp_path / "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    remove_checkpoints([record_of(case, seen)])
    assert not checkpoint_path(case).parent.exists()


def test_a_run_learns_and_its_record_comes_back(case_of: CaseOf) -> None:
    case = case_of(steps=40, recipe=replace(case_of().recipe, lr=1e-2))
    seen = learned(case)
    assert len(seen.losses) == len(seen.gradient_norms) == 40
    assert seen.curve[0].loss == pytest.approx(math.log(case.model.vocab_size), rel=0.05)
    assert seen.curve[-1].loss < seen.curve[0].loss - 1.5
    assert [point.step for point in seen.curve] == [0, 13, 26, 40]
    assert all(point.tokens == 4 * 32 for point in seen.curve)
    assert seen.finished
    record = record_of(case, seen)
    assert LearnRecord.from_json(record.to_json()) == record
    body = json.loads(record.to_json())
    body["observed"]["curve"] = []
    with pytest.raises(BadResults, match="curve has no points"):
        LearnRecord.from_json(json.dumps(body))


def test_losses_do_not_depend_on_what_sequences_stand_beside(case_of: CaseOf, corpus: Path, manifest: Manifest) -> None:
    """The held-out loss is the mean over all tokens, whatever the batch."""
    case = case_of()
    learner = Learner(case, bench())
    learner.judge()
    tokens = Tokens(corpus, manifest.held_out, 32)
    rows = torch.from_numpy(tokens.rows(spread_evenly(4, len(tokens))))
    inputs = torch.cat((torch.full((4, 1), 256), rows[:, :-1]), 1)
    with torch.no_grad():
        due = torch.nn.functional.cross_entropy(learner.model(inputs).flatten(0, 1), rows.flatten())
    assert learner.progress.curve[0].loss == pytest.approx(float(due), rel=1e-5)
    assert learner.progress.curve[0].text_bytes == int((rows < 256).sum())


def test_equal_seeds_see_equal_batches_and_each_sequence_once_an_epoch(corpus: Path, manifest: Manifest) -> None:
    tokens = Tokens(corpus, manifest.train, 32)
    device = torch.device("cpu")
    one, same, other = (Batches(tokens, 256, 3, seed, device) for seed in (1, 1, 2))
    epochs = 2
    steps = len(tokens) * epochs // 3
    seen = torch.cat([one.at(step)[1] for step in range(steps)])[: epochs * len(tokens)]
    every = tokens.rows(np.arange(len(tokens)))
    first = sorted(map(tuple, seen[: len(tokens)].tolist()))
    assert first == sorted(map(tuple, every.tolist()))
    assert not torch.equal(seen[: len(tokens)], seen[len(tokens) : 2 * len(tokens)][: len(tokens)])
    assert torch.equal(one.at(5)[0], same.at(5)[0])
    assert not torch.equal(one.at(5)[0], other.at(5)[0])
    inputs, targets = one.at(7)
    assert (inputs[:, 0] == 256).all()
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_initial_weights_are_held_to_their_distributions(case_of: CaseOf) -> None:
    model = Learner(case_of("mamba"), bench()).model
    assert {check.what for check in check_start(model)} >= {"mean of A", "standard deviation of matrices", "D"}
    breaks: list[tuple[str, Callable[[], object]]] = [
        ("A", lambda: [layer.A_log_H.data.zero_() for layer in model.modules() if hasattr(layer, "A_log_H")]),
        ("dt", lambda: [layer.dt_bias_H.data.fill_(1.0) for layer in model.modules() if hasattr(layer, "dt_bias_H")]),
        ("matrices", lambda: model.embedding_VD.data.mul_(1.1)),
        ("norm weights", lambda: model.norm_weights[1].data.zero_()),
    ]
    for word, damage in breaks:
        model.allocate(torch.device("cpu"), 0)
        check_start(model)
        damage()
        with pytest.raises(WrongResult, match=rf"initial weights: .*{word}"):
            check_start(model)


@pytest.mark.parametrize("wrong", [5, 11])
def test_a_run_that_leaves_the_numbers_ends_there(case_of: CaseOf, monkeypatch: pytest.MonkeyPatch, wrong: int) -> None:
    """Also where that is its last step."""
    stepped = Learner.step

    def step(self: Learner, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        loss, norm = stepped(self, number)
        return (loss * math.nan if number == wrong else loss), norm

    monkeypatch.setattr(Learner, "step", step)
    case = case_of()
    seen = learned(case)
    assert [(event.mark, event.step, event.loss) for event in seen.events] == [(Mark.NOT_A_NUMBER, wrong, None)]
    assert len(seen.losses) == wrong
    assert not seen.finished
    assert LearnRecord.from_json(record_of(case, seen).to_json()).observed == seen


def events(losses: list[float], kinds: list[int] | None = None, start: int = 0) -> list[tuple[Mark, int]]:
    found = new_events(losses, [1.0] * len(losses), kinds or [0] * len(losses), start)
    return [(event.mark, event.step) for event in found]


def test_spikes_and_divergence_are_told_apart() -> None:
    flat = [3.0] * (4 * WINDOW)
    assert events(flat) == []
    spiked = [*flat[:50], 4.0, 4.0, *flat[52:]]
    assert events(spiked) == [(Mark.SPIKE, 50)]
    assert events(flat + [4.5] * WINDOW)[-1] == (Mark.DIVERGED, 5 * WINDOW - 1)
    slow = [3.0 + 0.005 * step for step in range(6 * WINDOW)]
    assert events(slow) == []


@pytest.mark.parametrize("each", [1, 7, 50])
def test_pauses_do_not_make_one_spike_many(each: int) -> None:
    high = [3.0] * WINDOW + [4.0] * 9 + [3.0] * WINDOW + [4.0] * 3 + [3.0] * WINDOW
    whole = new_events(high, [1.0] * len(high), [0] * len(high), 0)
    assert [event.step for event in whole] == [WINDOW, 2 * WINDOW + 9]
    found: list[Event] = []
    for start in range(0, len(high), each):
        so_far = high[: start + each]
        found += new_events(so_far, [1.0] * len(so_far), [0] * len(so_far), start, found)
    assert found == whole


def test_spikes_of_a_run_are_told_once_whatever_its_pauses(case_of: CaseOf, monkeypatch: pytest.MonkeyPatch) -> None:
    stepped = Learner.step

    def step(self: Learner, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        loss, norm = stepped(self, number)
        return loss * 0 + (4.0 if 40 <= number < 50 else 3.0), norm

    monkeypatch.setattr(Learner, "step", step)
    seen = learned(case_of(steps=64))
    assert [(event.mark, event.step) for event in seen.events] == [(Mark.SPIKE, 40)]


HIGH, LOW = 8.0, 0.5
"""Losses of two kinds of batches, of which every fourth is of the first."""
KINDS = [int(step % 4 != 0) for step in range(12 * WINDOW)]


def mixed(*more: float) -> list[float]:
    """Losses of both kinds; in the second half each is so much higher, by its kind."""
    half = len(KINDS) // 2
    return [(HIGH, LOW)[kind] + (more[kind] if step >= half and more else 0.0) for step, kind in enumerate(KINDS)]


def test_losses_of_one_kind_of_batch_are_compared_with_each_other_only() -> None:
    assert events(mixed(), KINDS) == []
    bunched = sorted(KINDS[: 4 * WINDOW], reverse=True) + KINDS[4 * WINDOW :]
    assert events([(HIGH, LOW)[kind] for kind in bunched], bunched) == []
    once = mixed()
    rare = 8 * WINDOW
    assert KINDS[rare] == 0
    once[rare] += 1.0
    assert events(once, KINDS) == [(Mark.SPIKE, rare)]
    hidden = mixed()
    hidden[rare + 1] = 2.0  # far below the other kind's loss
    assert events(hidden, KINDS) == [(Mark.SPIKE, rare + 1)]


def test_a_divergence_of_one_kind_or_of_all_ends_a_run() -> None:
    half = len(KINDS) // 2
    for more, kind in (((1.2, 0.0), 0), ((0.0, 1.2), 1), ((1.2, 1.2), 1)):
        found = events(mixed(*more), KINDS)
        mark, step = found[-1]
        assert mark is Mark.DIVERGED
        assert KINDS[step] == kind, "where all diverge, the commonest is known first"
        assert KINDS[half:step].count(kind) < 2 * WINDOW
        assert found[0] == (Mark.SPIKE, KINDS.index(kind, half) if 0.0 in more else half)
        assert events(mixed(*more), KINDS, start=step)[-1] == (mark, step), "also where it was paused before"


def test_no_number_ends_a_run_at_any_kind_of_batch() -> None:
    for step in (0, 5, 8 * WINDOW):
        losses = mixed()
        losses[step] = math.nan
        assert events(losses, KINDS) == [(Mark.NOT_A_NUMBER, step)]
    norms = [1.0] * len(KINDS)
    norms[5] = math.inf
    assert [(one.mark, one.step) for one in new_events(mixed(), norms, KINDS, 0)] == [(Mark.NOT_A_NUMBER, 5)]


def test_another_corpus_and_another_runs_checkpoint_are_refused(case_of: CaseOf) -> None:
    with pytest.raises(BadInput, match="holds another corpus"):
        Learner(case_of(corpus="0" * 16), bench())
    case = case_of(resume=True)
    learner = Learner(case, bench())
    learner.begin()
    learner.judge()
    learner.steps_until(1)
    learner.keep()
    wide = {name: torch.zeros(*tensor.shape, 2) for name, tensor in learner.optimizer.tensors().items()}
    save_checkpoint(case, wide, learner.progress)
    with pytest.raises(Blocked, match="has other tensors than this run"):
        Learner(case, bench()).begin()
    learner.keep()
    other = replace(case, steps=13)
    checkpoint_path(case).rename(checkpoint_path(other))
    with pytest.raises(BadInput, match="is of another run: remove it"):
        Learner(other, bench()).begin()
    checkpoint_path(other).write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"cannot be read .* go on without --resume"):
        Learner(other, bench()).begin()


def test_seed_and_place_and_limit_are_no_part_of_an_arm(case_of: CaseOf) -> None:
    case = case_of()
    assert LearnCase.from_dict(json.loads(json.dumps(case.to_dict()))) == case
    assert replace(case, limit_s=1.0, place=replace(case.place, resume=True)).key == case.key
    other = replace(case, execution=replace(case.execution, seed=4))
    assert other.key != case.key
    assert other.arm == case.arm
    assert replace(case, steps=13).arm != case.arm
