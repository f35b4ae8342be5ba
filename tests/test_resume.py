"""What is left of a plan: what is not recorded, was blocked, or ran out of time and is given more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hybridbench.record import Status
from hybridbench.resume import remaining_of
from hybridbench.store import load

RESULTS = Path(__file__).parents[1] / "results" / "nvidia-h200" / "efficiency"
RECORDS = load([RESULTS], lambda _text: None)[:4]
PLAN = [record.case for record in RECORDS]


def test_what_is_recorded_is_done_however_it_ended() -> None:
    first, second, *rest = RECORDS
    stored = {one.case.key: one for one in (first, replace(second, status=Status.CRASHED))}
    left = remaining_of(PLAN, stored)
    assert left.todo == [one.case for one in rest]
    assert left.done == set(stored)
    assert left.sampled_otherwise == 0
    assert remaining_of(PLAN, {}).todo == PLAN


def test_a_case_that_ran_out_of_time_is_tried_again_with_more() -> None:
    (record, *_) = RECORDS
    stored = {record.case.key: replace(record, status=Status.TIMED_OUT)}
    longer = replace(record.case, limit_s=record.case.limit_s + 1)
    assert remaining_of([record.case], stored).todo == []
    assert remaining_of([longer], stored).todo == [longer]
    assert remaining_of([longer], {record.case.key: record}).todo == []
    assert remaining_of([], stored).done == set(stored), "a record of another plan stays"


def test_what_something_stood_in_the_way_of_is_tried_again() -> None:
    (record, *_) = RECORDS
    stored = {record.case.key: replace(record, status=Status.BLOCKED)}
    assert remaining_of([record.case], stored).todo == [record.case]


def test_other_sampling_is_another_case_and_is_counted() -> None:
    (record, *_) = RECORDS
    other = replace(record.case, sampling=replace(record.case.sampling, max_time_s=1.25))
    left = remaining_of([other], {record.case.key: record})
    assert (left.todo, left.sampled_otherwise) == ([other], 1)
