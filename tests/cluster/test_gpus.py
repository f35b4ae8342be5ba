"""Workers of one node and its GPUs: each GPU has one worker of a run, whatever workers call it and however they end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from hybridbench.cli.placing import Place, Shared
from hybridbench.cluster import member
from hybridbench.cluster.opening import Opened
from hybridbench.cluster.status import look
from hybridbench.early import Early
from hybridbench.errors import BadInput, HybridbenchError
from hybridbench.queue import gpus as gpus_of_queue
from hybridbench.queue.gpus import GpuClaims
from hybridbench.queue.plan import GPUS, HELD, MEMBERS, WAITING, QueuePlan, create, remove
from hybridbench.queue.shared import SharedQueue
from hybridbench.runner import Events
from hybridbench.suite.sweep import Sweep, cases

RUN = "20260102T030405Z-1-aaaa"
TWO = {"0": "GPU-a", "1": "GPU-b"}


def planned_for(folder, *, has_gpu=True):
    return create(folder, QueuePlan(RUN, "some"), cases(Sweep("decode", arch="mamba", scale="tiny"), has_gpu=has_gpu))


@pytest.fixture
def planned(tmp_path):
    return planned_for(tmp_path)


def claims(planned, number, **how):
    queue = SharedQueue(planned, planned.folder.parents[1] / f"records-{RUN}-{number}.jsonl", renew_s=None, **how)
    return GpuClaims(planned.folder, queue.member, queue.watch), queue


def test_workers_that_race_have_a_gpu_each_and_one_is_left_over(planned):
    gpus = {str(number): f"GPU-{number}" for number in range(7)}
    found = []

    def take(number):
        found.append(tuple(claims(planned, number)[0].take(gpus)))

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [(), *((gpu,) for gpu in gpus)]
    assert not list((planned.folder / GPUS).glob("*.new")), "a claim that failed leaves nothing"


def test_workers_that_see_the_same_gpu_free_at_once_do_not_both_have_it(planned, monkeypatch):
    together, first = threading.Barrier(8), threading.local()
    look_up = gpus_of_queue._holder

    def holder(place):
        found = look_up(place)
        if not hasattr(first, "done"):
            first.done = True
            assert found is None
            together.wait(timeout=20)
        return found

    monkeypatch.setattr(gpus_of_queue, "_holder", holder)
    found = []
    workers = [claims(planned, number)[0] for number in range(8)]
    threads = [threading.Thread(target=lambda one=one: found.append(one.take({"0": "GPU-a"}))) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [*[[]] * 7, ["0"]]


def test_jobs_that_call_their_gpus_the_same_have_both(planned):
    """As where Slurm shows each job its own GPU as number 0."""
    assert claims(planned, 1)[0].take({"0": "GPU-a"}) == ["0"]
    assert claims(planned, 2)[0].take({"0": "GPU-b"}) == ["0"]
    assert claims(planned, 3)[0].take({"1": "GPU-b", "0": "GPU-c"}) == ["0"]


def test_a_gpu_that_was_released_is_free_and_its_next_worker_keeps_it(planned):
    (one, _), (two, _), (three, _) = (claims(planned, number) for number in range(3))
    assert one.take(TWO, most=2) == ["0", "1"]
    assert two.take(TWO) == []
    one.release()
    assert two.take(TWO) == ["0"]
    one.release()
    assert three.take(TWO, most=2) == ["1"], "what one released before is not freed a second time"


def test_the_gpu_of_a_worker_that_renews_no_more_is_free_after_its_lease(planned):
    now = [0.0]
    holder, its_queue = claims(planned, 1, about={"machine": "another"})
    later, _ = claims(planned, 2, now=lambda: now[0])
    assert holder.take({"0": "GPU-a"}) == ["0"]
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds
        if now[0] < 30.0:
            its_queue.lease.renew()

    assert later.take({"0": "GPU-a"}, sleep=sleep) == [], "a worker that renews its lease keeps its GPU"
    assert now[0] < 10.0, "and this is soon known"
    now[0] = 30.0
    assert later.take({"0": "GPU-a"}, sleep=sleep) == ["0"]
    assert 30.0 + planned.plan.lease_s <= now[0] <= 30.0 + planned.plan.lease_s + 15.0
    holder.release()
    assert os.listdir(planned.folder / GPUS / "GPU-a") == [later.member], "the other has lost it"


def test_the_gpu_of_a_process_that_was_killed_here_is_free_at_once(planned):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom hybridbench.queue.gpus import GpuClaims\n"
        "from hybridbench.queue.lease import Lease, LeaseWatch\n"
        f"folder = Path({str(planned.folder)!r})\nlease = Lease(folder / {MEMBERS!r}, {{}})\n"
        f"print(GpuClaims(folder, lease.name, LeaseWatch(folder / {MEMBERS!r})).take({TWO!r}, most=2), flush=True)\n"
        "sys.stdin.read()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout.readline().strip() == "['0', '1']"
        assert claims(planned, 1)[0].take(TWO) == []
        other.kill()
    assert claims(planned, 2)[0].take(TWO) == ["0"]


@pytest.fixture
def ran(monkeypatch):
    """What each worker of a node ran its cases on; each starts while those before are at work."""
    monkeypatch.setattr("hybridbench.cluster.opening.gpu_uuids", lambda gpus: {gpu: f"GPU-{gpu}" for gpu in gpus})
    seen = []

    def later(_queue, _writer, *, gpus, events, workers=1, early=None):
        seen.append((list(gpus), workers))
        if waiting:
            waiting.pop(0)()
        return []

    waiting = []
    monkeypatch.setattr("hybridbench.cluster.member.run_sweep", later)
    monkeypatch.setattr("hybridbench.runner.run_sweep", later)
    return seen, waiting


def test_workers_of_a_node_take_a_gpu_each_and_the_surplus_one_ends_without_a_case(planned, ran, capsys):
    seen, waiting = ran
    told = []
    waiting += [
        lambda: member.serve(str(planned.folder), list(TWO)),
        lambda: told.append(member.serve(str(planned.folder), list(TWO))),
    ]
    member.serve(str(planned.folder), list(TWO))
    assert seen == [(["0"], 1), (["1"], 1)]
    assert told == [0]
    said = (
        "this node's 2 GPUs each have a worker of this run: this one ends without taking a case; give fewer --workers"
    )
    assert capsys.readouterr().err.count(said) == 1
    assert len(os.listdir(planned.folder / WAITING)) == len(planned.lines)
    assert os.listdir(planned.folder / HELD) == os.listdir(planned.folder / MEMBERS) == []
    assert (
        "1 worker ended without a case: every GPU of the node had a worker." in look(planned.folder.parents[1]).lines()
    )
    member.serve(str(planned.folder), list(TWO))
    assert seen[-1] == (["0"], 1), "it is free again"


def test_workers_of_cases_on_a_cpu_claim_nothing(tmp_path, ran):
    seen, waiting = ran
    planned = planned_for(tmp_path, has_gpu=False)
    waiting.append(lambda: member.serve(str(planned.folder), ["0"]))
    member.serve(str(planned.folder), ["0"])
    assert len(seen) == 2


def test_a_worker_that_comes_when_all_is_done_is_no_surplus(planned):
    one, queue = claims(planned, 1)
    other, _ = claims(planned, 2)
    assert one.take({"0": "GPU-a"}) == ["0"]
    remove(planned)
    assert other.take({"0": "GPU-a"}) == []
    one.release()
    queue.leave()


def test_a_second_command_of_a_host_takes_what_the_first_left_free(planned, ran):
    seen, waiting = ran
    results = planned.folder.parents[1]
    shared = Shared(results, [], "some", 0, resume=True, gpus=["0", "1", "2"])

    def command(workers):
        Place(workers=workers).run(shared, Opened(planned, joined=True), Events(), lambda _sentence: None)

    waiting += [lambda: command(None), lambda: command(1)]
    with pytest.raises(BadInput, match=r"each GPU of this machine has a worker of the run in .* already: wait for it"):
        command(1)
    assert seen == [(["0"], 1), (["1", "2"], 2)]


def test_workers_that_were_started_early_are_the_runs(planned, monkeypatch, tmp_path):
    monkeypatch.setattr("hybridbench.cluster.opening.gpu_uuids", lambda gpus: {gpu: f"GPU-{gpu}" for gpu in gpus})
    handed = []
    monkeypatch.setattr("hybridbench.runner.run_sweep", lambda *_jobs, early, **_more: handed.append(early))
    shared = Shared(planned.folder.parents[1], [], "some", 0, resume=True, gpus=["0"])
    early = Early([], [], tmp_path)
    with pytest.raises(HybridbenchError, match="did not run"):
        Place().run(shared, Opened(planned, joined=True), Events(), lambda _sentence: None, early)
    assert handed == [early]


def test_workers_of_cases_on_two_gpus_take_two_each(tmp_path, ran, capsys):
    """Also where Slurm gives their jobs none of their own; a GPU that is left over has no worker."""
    seen, waiting = ran
    decode = Sweep("decode", arch="mamba", scale="tiny", tp="1,2")
    planned = create(tmp_path, QueuePlan(RUN, "some"), cases(decode, has_gpu=True))
    waiting += [lambda: member.serve(str(planned.folder), list("01234")) for _ in range(2)]
    member.serve(str(planned.folder), list("01234"))
    assert seen == [(["0,1"], 1), (["2,3"], 1)]
    assert "ends without taking a case" in capsys.readouterr().err
    shared = Shared(tmp_path, [], "some", 0, resume=True, gpus=list("01234"))
    with pytest.raises(HybridbenchError, match=r"2 cases of .* did not run"):
        Place().run(shared, Opened(planned, joined=True), Events(), lambda _sentence: None)
    assert seen[-1] == (["0,1", "2,3"], 2)
