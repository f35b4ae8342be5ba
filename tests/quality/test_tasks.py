"""Every task asks what an independent solver answers, at its published setting, and its seeds give lasting examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from solvers import copied, moved, odd, recalled, recalled_motifs, recalled_pairs

from hybridbench.errors import BadInput
from hybridbench.quality.tasks.examples import IGNORED, ExamplePart, Examples, distinct
from hybridbench.quality.tasks.mad import fixed_map
from hybridbench.quality.tasks.task import TASKS, Task, named

ROWS = 60


def few(task: Task, part: ExamplePart, training: bool = False) -> Examples:
    """Some examples of a part of the published setting."""
    rng = np.random.default_rng([7, part.length, part.pairs])
    return task.draw(replace(part, examples=ROWS), task.full.vocabulary, rng, training)


def same_answers(examples: Examples, solve: Callable[[list[int]], list[int]]) -> None:
    for tokens, targets in zip(examples.token_NT.tolist(), examples.target_NT.tolist(), strict=True):
        assert solve(tokens) == targets


@pytest.mark.parametrize("part", TASKS["mqar"].full.test, ids=lambda part: part.label)
def test_mqar_asks_for_the_values_of_keys(part: ExamplePart) -> None:
    examples = few(TASKS["mqar"], part)
    chance = 0
    for tokens, targets in zip(examples.token_NT.tolist(), examples.target_NT.tolist(), strict=True):
        due = recalled(tokens, part.pairs)
        asked = [target for target in targets if target != IGNORED]
        assert sorted(asked) == sorted(tokens[1 : 2 * part.pairs : 2])  # each value is asked for once
        chance += sum(have != want for have, want in zip(targets, due, strict=True))
        assert all(want == have for have, want in zip(targets, due, strict=True) if have != IGNORED)
    assert chance <= 0.2 * ROWS * part.pairs  # random tokens are one of the keys now and then


def test_mqar_has_keys_and_values_apart_and_queries_near() -> None:
    part = ExamplePart(256, 4000, 16)
    examples = TASKS["mqar"].draw(part, 8192, np.random.default_rng(0), True)
    key_NP, value_NP = examples.token_NT[:, 0:32:2], examples.token_NT[:, 1:32:2]
    assert 1 <= key_NP.min() <= key_NP.max() < 4096 <= value_NP.min() <= value_NP.max() < 8192
    assert all(len(set(row)) == 16 for row in (*key_NP[:200].tolist(), *value_NP[:200].tolist()))
    every = (np.nonzero(examples.target_NT[:, 32:] != IGNORED)[1] // 2).reshape(4000, 16)
    nearest = (every == 0).any(1).mean()
    assert nearest > 0.85  # 16 of 112 gaps: 0.14 if they were uniform
    assert (every < 16).mean() > 0.45


RECALL = [
    ("mad-in-context-recall", partial(recalled_pairs, keys=8, known=16)),
    ("mad-noisy-recall", partial(recalled_pairs, keys=8, known=16)),
    ("mad-fuzzy-recall", partial(recalled_motifs, keys=7, pad=15)),
    ("mad-selective-copying", partial(copied, mark=15, blank=14)),
    ("parity", odd),
    ("s5", moved),
]


@pytest.mark.parametrize(("name", "solve"), RECALL, ids=[name for name, _ in RECALL])
def test_a_solver_gives_what_is_asked(name: str, solve: Callable[[list[int]], list[int]]) -> None:
    task = TASKS[name]
    for part in task.full.test[:1]:
        same_answers(few(task, part), solve)


@pytest.mark.parametrize("name", ["mad-in-context-recall", "mad-noisy-recall", "mad-fuzzy-recall"])
def test_recall_trains_on_every_next_token(name: str) -> None:
    task = TASKS[name]
    examples = few(task, task.full.train[0], training=True)
    assert (examples.token_NT[:, 1:] == examples.target_NT[:, :-1]).all()
    assert IGNORED not in examples.target_NT


def test_noise_is_a_fifth_of_the_pairs() -> None:
    task = TASKS["mad-noisy-recall"]
    tokens = task.draw(ExamplePart(128, 500), 32, np.random.default_rng(0), True).token_NT
    assert (tokens >= 16).mean() == pytest.approx(0.2, abs=0.01)


def test_fuzzy_keys_are_judged_at_their_longest() -> None:
    task = TASKS["mad-fuzzy-recall"]
    tokens = few(task, task.full.test[0]).token_NT
    trained = few(task, task.full.train[0], training=True).token_NT
    assert tokens.shape == trained.shape == (ROWS, 128)
    lengths = {
        name: {len(run) for row in rows.tolist() for run in "".join("k" if t < 7 else " " for t in row).split()}
        for name, rows in (("judged", tokens[:, 8:-8]), ("trained", trained))
    }
    assert lengths["trained"] >= {1, 2, 3}
    assert max(lengths["judged"]) == 3


def test_memorisation_asks_for_one_map_in_training_and_judgement() -> None:
    task = TASKS["mad-memorisation"]
    found: dict[int, int] = {}
    for examples in (*task.train(task.full, 3), *task.test(task.full)):
        for tokens, targets in zip(examples.token_NT.tolist(), examples.target_NT.tolist(), strict=True):
            assert set(tokens[1::2]) == {255}
            assert set(targets[::2]) == {IGNORED}
            for key, value in zip(tokens[::2], targets[1::2], strict=True):
                assert found.setdefault(key, value) == value
    assert len(found) == 127
    assert len(set(found.values())) == 127
    assert min(found.values()) >= 127
    assert max(found.values()) < 255
    assert fixed_map(255).tolist() == [found[key] for key in range(127)]


def test_compression_asks_for_all_it_read() -> None:
    task = TASKS["mad-compression"]
    examples = few(task, task.full.test[0])
    assert (examples.token_NT == examples.target_NT).all()
    assert set(examples.token_NT[:, -1].tolist()) == {15}
    assert examples.token_NT[:, :-1].max() == 14


def test_only_what_is_beyond_training_is_asked_beyond_it() -> None:
    for name, trained in (("parity", 40), ("s5", 32)):
        for part in TASKS[name].full.test[1:]:
            asked = few(TASKS[name], part).target_NT != IGNORED
            assert part.first >= trained
            assert not asked[:, : part.first].any()
            assert asked[:, part.first :].all()
            assert not TASKS[name].full.within(part)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_seeds_give_lasting_and_different_examples(task: Task) -> None:
    setting = replace(task.toy, train=tuple(replace(part, examples=4) for part in task.toy.train))
    first, again, other = (task.train(setting, seed) for seed in (1, 1, 2))
    assert all((one.token_NT == two.token_NT).all() for one, two in zip(first, again, strict=True))
    assert not all((one.token_NT == two.token_NT).all() for one, two in zip(first, other, strict=True))
    for setting in (task.toy, task.full):
        for part in setting.train:
            examples = task.draw(replace(part, examples=3), setting.vocabulary, np.random.default_rng(0), True)
            assert 0 <= examples.token_NT.min() <= examples.token_NT.max() < setting.vocabulary
            assert examples.token_NT.shape[1] in (part.length, part.length - 1)


def test_draws_without_repetition_are_uniform() -> None:
    found = distinct(np.random.default_rng(0), 20_000, 3, 5)
    assert all(len(set(row)) == 3 for row in found[:500].tolist())
    counts = np.bincount(found[:, 0] * 25 + found[:, 1] * 5 + found[:, 2], minlength=125)
    assert (counts > 0).sum() == 60  # 5 x 4 x 3 orders
    assert counts[counts > 0].min() > 333 - 6 * 18.3  # mean 333, standard deviation 18.2
    assert counts.max() < 333 + 6 * 18.3


def test_tasks_are_named_alone_and_together() -> None:
    assert [task.name for task in named("parity,mqar,parity")] == ["parity", "mqar"]
    assert len(named("mad")) == 6
    assert len(named("all")) == len(TASKS) == 9
    with pytest.raises(BadInput, match="unknown task 'mad-recal'"):
        named("mad-recal")
