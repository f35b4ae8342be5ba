"""A queue in a folder: no case is lost or run twice, whatever its workers do."""

from __future__ import annotations

import itertools
import json
import os
import threading

import pytest
from scripted_workers import COMPILES_S, Cluster

from hybridbench.errors import BadInput, BadResults
from hybridbench.queue.jobs import End, InMemory
from hybridbench.queue.lease import Lease, LeaseWatch
from hybridbench.queue.order import choose
from hybridbench.queue.plan import DONE, ENDED, HELD, MEMBERS, WAITING, QueuePlan, create, find, remove
from hybridbench.queue.shared import SharedQueue
from hybridbench.suite.sweep import Sweep, cases

RUN = "20260102T030405Z-1-aaaa"


def some_cases(count):
    """Cases of five kinds, as many as asked."""
    each = -(-count // 5)
    ctx = ",".join(str(64 * number) for number in range(1, each + 1))
    return cases(Sweep("decode", ctx=ctx, scale="tiny"), has_gpu=False)[:count]


@pytest.fixture
def planned(tmp_path):
    return create(tmp_path, QueuePlan(RUN, "some"), some_cases(10))


def names(planned, part):
    return sorted(os.listdir(planned.folder / part))


def worker(planned, number=0, **how):
    records = planned.folder.parents[1] / f"records-{RUN}-{number}.jsonl"
    return SharedQueue(planned, records, renew_s=None, **how)


@pytest.mark.slow
def test_64_workers_run_1000_cases_once_each_and_scheduling_takes_less_than_a_hundredth(tmp_path):
    planned = create(tmp_path, QueuePlan(RUN, "thousand"), some_cases(1000))
    assert len(planned.lines) == 1000
    cluster = Cluster(tmp_path, planned, workers=64)
    cluster.run()
    assert len(cluster.recorded) == 1000
    assert set(cluster.recorded.values()) == set(cluster.began.values()) == {1}
    assert names(planned, WAITING) == names(planned, HELD) == []
    assert names(planned, MEMBERS) == [f"{cluster.follower}.json"], "the others have left"
    assert cluster.scheduling_s < 0.01 * cluster.busy_s
    # In the plan's order each worker would compile for all five kinds, 320 times in all. Now each compiles for one
    # kind, and once more if that runs out.
    assert 64 <= cluster.compiled <= 128
    longest_s = cluster.busy_s / 64 + 60.0 + COMPILES_S
    assert cluster.took_s < longest_s + 60.0, "workers are idle while cases wait"


@pytest.mark.slow
def test_workers_that_die_cost_their_lease_and_a_case_that_ends_two_is_told_with_both(tmp_path):
    planned = create(tmp_path, QueuePlan(RUN, "thousand"), some_cases(1000))
    poison = names(planned, WAITING)[500]
    cluster = Cluster(tmp_path, planned, 64, dies_at={3: 1, 17: 5, 40: 9, 63: 12}, poison=frozenset([poison]))
    cluster.run()
    assert set(cluster.crashed) == {poison}
    assert len({end.worker for end in cluster.crashed[poison]}) == 2
    assert all("gone while the case was" in end.how for end in cluster.crashed[poison])
    assert len(cluster.recorded) == 999
    assert set(cluster.recorded.values()) == {1}
    assert sorted(count for count in cluster.began.values() if count > 1) == [2] * 5, "four deaths, and the poison"
    assert len(names(planned, DONE)) == 1000


def test_threads_that_race_for_the_same_cases_take_each_once(planned):
    queues = [worker(planned, number) for number in range(8)]
    taken = []

    def take(queue):
        while (claim := queue.take()) is not None:
            taken.append(claim.name)
            queue.settle(claim)

    threads = [threading.Thread(target=take, args=(queue,)) for queue in queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 10
    assert len(names(planned, DONE)) == 10


def test_a_worker_stays_with_its_kind_and_a_second_one_takes_another(planned):
    one, two = worker(planned, 1), worker(planned, 2)
    first = one.take()
    other = two.take()
    assert first.kind != other.kind
    one.settle(first)
    assert one.take(first.kind).kind == first.kind


def test_the_kind_with_most_cases_for_each_worker_gets_help():
    waiting = [("1", "a"), ("2", "b"), ("3", "b"), ("4", "b")]
    assert choose(waiting, ["a", "b"], "c")[0] == ("2", "b")
    assert choose(waiting, ["a", "b", "b", "b", "b"], "c")[0] == ("1", "a")


@pytest.mark.parametrize("off_s", [-3600, 0, 3600])
def test_a_lease_does_not_depend_on_clocks_that_agree(tmp_path, off_s):
    """The owner's file has a time an hour off; what counts is whether it changes while the reader's clock runs."""
    now = itertools.count(0, 10)
    lease = Lease(tmp_path, {"machine": "another"}, renew_s=None)
    file = tmp_path / f"{lease.name}.json"
    watch = LeaseWatch(tmp_path, lease_s=30.0, now=lambda: float(next(now)))
    for _ in range(20):
        lease.renew()
        os.utime(file, (file.stat().st_mtime + off_s, 1_800_000_000 + off_s))
        assert not watch.gone(lease.name)
    assert any(watch.gone(lease.name) for _ in range(8))


def test_a_lease_is_renewed_where_the_disk_is_full(tmp_path, monkeypatch):
    lease = Lease(tmp_path, {"machine": "another"}, renew_s=None)
    now = [0.0]
    watch = LeaseWatch(tmp_path, lease_s=30.0, now=lambda: now[0])

    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    for now[0] in (0.0, 29.0, 58.0, 87.0):
        lease.renew()
        assert not watch.gone(lease.name)


def test_a_process_of_this_machine_is_looked_up(tmp_path):
    lease = Lease(tmp_path, {}, renew_s=None)
    watch = LeaseWatch(tmp_path)
    assert not watch.gone(lease.name)
    assert watch.alive() == {lease.name}
    lease.tell(started="1")  # another process had this id before
    lease.renew()
    assert watch.gone(lease.name)
    assert watch.alive() == set()


def test_what_a_dead_worker_had_recorded_is_not_run_again(planned):
    dead = worker(planned, 1, about={"pid": 2**22 + 1})
    done, begun = dead.take(), dead.take()
    (planned.folder.parents[1] / f"records-{RUN}-1.jsonl").write_text(f'{{"key":"{done.job.key}","schema":6}}\n')
    other = worker(planned, 2)
    assert list(other.abandoned()) == []
    assert names(planned, DONE) == [done.name]
    assert begun.name in names(planned, WAITING)
    assert [end.worker for end in other.ends(begun.name)] == [dead.member]
    assert other.ends(done.name) == []


def test_a_record_that_was_cut_short_does_not_count(planned):
    dead = worker(planned, 1, about={"pid": 2**22 + 1})
    claim = dead.take()
    (planned.folder.parents[1] / f"records-{RUN}-1.jsonl").write_text(f'{{"key":"{claim.job.key}","sche')
    assert list(worker(planned, 2).abandoned()) == []
    assert names(planned, DONE) == []
    assert len(names(planned, WAITING)) == 10


def test_two_dead_workers_are_told_with_the_ends_of_their_logs(planned):
    results = planned.folder.parents[1]
    for number in (1, 2):
        dead = worker(planned, number, about={"pid": 2**22 + 1, "node": f"gpu{number}"})
        claim = dead.take()
        dead.at(claim, "measure")
        dead.lease.renew()
        (results / f"worker-{RUN}-{number}-0.log").write_text(f"Xid 79 of worker {number}\n")
        found = list(worker(planned, 9).abandoned())
    ((crashed, ends),) = found
    assert crashed.name == claim.name
    assert [end.log for end in ends] == ["Xid 79 of worker 1", "Xid 79 of worker 2"]
    assert "on gpu1 was gone while the case was in phase 'measure'" in ends[0].how


def test_a_worker_that_dies_while_it_puts_a_case_back_is_no_fault_of_the_case(planned):
    dead = worker(planned, 1, about={"pid": 2**22 + 1})
    name = dead.take().name
    (planned.folder / HELD / f"{name}@{dead.member}").rename(planned.folder / HELD / f"{name}@{dead.member}!")
    assert list(worker(planned, 2).abandoned()) == []
    assert name in names(planned, WAITING)
    assert names(planned, ENDED) == []


def test_a_worker_that_stood_still_and_lost_its_lease_finishes_its_case(planned):
    slow, other = worker(planned, 1), worker(planned, 2)
    claim = slow.take()
    (planned.folder / HELD / f"{claim.name}@{slow.member}").rename(planned.folder / WAITING / claim.name)
    slow.settle(claim)
    assert names(planned, DONE) == [claim.name]
    assert claim.name not in {other.take().name for _ in range(9)}
    assert other.take() is None


def test_a_worker_that_leaves_puts_back_what_it_holds(planned):
    queue = worker(planned)
    queue.take()
    queue.leave()
    assert len(names(planned, WAITING)) == 10
    assert names(planned, HELD) == names(planned, MEMBERS) == []


def test_two_idle_workers_stay_while_others_work(planned):
    """As many as a case may end: the first may take what comes back, and die of it."""
    busy, *idle = [worker(planned, number, stays=False) for number in range(5)]
    while busy.take():
        pass
    for queue in idle:
        assert queue.take() is None
        queue.lease.renew()
    assert sorted(queue.left for queue in idle) == [False, False, True, True]
    assert busy.left


def test_a_folder_has_one_queue(planned, tmp_path):
    with pytest.raises(BadInput, match="cannot take a queue"):
        create(tmp_path, QueuePlan("another", "some"), some_cases(2))
    assert os.listdir(tmp_path) == ["queue"], "what was begun is gone"
    assert find(tmp_path) == planned
    remove(planned)
    assert find(tmp_path) is None
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps({"queue": 2, "hybridbench": "0.9", "news": 1}), "queue of version 2, made by hybridbench '0.9'"),
        ("{}", "damaged"),
        ("garbage", "damaged"),
        ('{"queue": 1}', "damaged"),
        ("\0\0", "damaged"),
    ],
)
def test_a_queue_of_another_version_or_damaged_is_refused(planned, tmp_path, content, said):
    (planned.folder / "plan.ndjson").write_text(content)
    with pytest.raises(BadResults, match=said):
        find(tmp_path)


def test_a_results_folder_that_was_removed_is_told(tmp_path):
    planned = create(tmp_path / "out", QueuePlan(RUN, "some"), some_cases(2))
    queue = worker(planned)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="was removed during the run"):
        queue.take()


def test_jobs_in_memory_that_come_back_are_next_and_remember_their_ends():
    queue = InMemory(["a", "b"])
    claim = queue.take()
    assert queue.ended(claim, End("w", "ended", None)) == [End("w", "ended", None)]
    queue.settle(claim, ["a"])
    assert [(one.job, ends) for one, ends in queue.given_up()] == [("a", [End("w", "ended", None)])]
    assert queue.take().job == "b"
