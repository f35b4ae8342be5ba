"""``run``, ``status`` and ``merge``: what they say, and what they refuse in a sentence."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from hybridbench.cli.main import main
from hybridbench.cluster import member, slurm
from hybridbench.cluster.opening import open_queue
from hybridbench.errors import BadInput, HybridbenchError
from hybridbench.queue.plan import WAITING, QueuePlan, create, find
from hybridbench.queue.shared import SharedQueue
from hybridbench.record import Record, Status
from hybridbench.store import RecordWriter, load
from hybridbench.suite.sweep import Sweep, cases

STORED = Path(__file__).parents[2] / "results" / "nvidia-h200" / "crossover"
SUITE = 'name = "one"\n[[sweep]]\nworkload = "decode"\narch = "mamba"\nctx = "64"\ndevice = "cpu"\nscale = "tiny"\n'
RUN = "20260102T030405Z-1-aaaa"


@pytest.fixture
def stored():
    return load([STORED], lambda _sentence: None)[:4]


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "one.toml"
    path.write_text(SUITE)
    return str(path)


def invoked(*words):
    done = CliRunner(env={"COLUMNS": "200"}).invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def write(folder, records, run_id=None):
    with RecordWriter(folder, run_id or records[0].run_id) as writer:
        for record in records:
            writer.append(replace(record, run_id=writer.run_id))


def some_cases(ctx="64..512"):
    return cases(Sweep("decode", arch="mamba", ctx=ctx, scale="tiny"), has_gpu=False)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--on", "slurm"], "--on slurm without --workers"),
        (["--workers", "2", "--time", "1:00"], "--time is for --on slurm"),
        (["--partition", "gpu"], "--partition is for --on slurm"),
        (["--slurm", "account=lab"], "--slurm is for --on slurm"),
        (["--workers", "9999"], "--workers 9999: this machine shows"),
        (["--workers", "0"], "--workers"),
        (["--on", "sluurm"], "--on"),
    ],
)
def test_places_that_make_no_sense_are_refused(suite, tmp_path, words, error):
    done = invoked("run", suite, "-o", tmp_path / "out", *words)
    assert done.exit_code == 2
    assert error in done.stderr
    assert not (tmp_path / "out").exists()


def test_slurm_where_there_is_no_sbatch_is_told(suite, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = invoked("run", suite, "-o", tmp_path / "out", "--on", "slurm", "--workers", "2")
    assert done.exit_code == 2
    assert "there is no sbatch on this machine's PATH" in done.stderr


@pytest.fixture
def sinfo(tmp_path, monkeypatch):
    """Commands of Slurm that print what a test says."""

    def says(text, sbatch="exit 1"):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, body in {"sinfo": f"cat <<'END'\n{text}\nEND", "sbatch": sbatch, "squeue": "true"}.items():
            (folder / name).write_text(f"#!/bin/sh\n{body}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    return says


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [("gpu:8", 16), ("gpu:h100:4(S:0-1)", 8), ("gpu:a100:4,gpu:v100:2,nvme:1", 12), ("(null)", 0), ("gpu", 2)],
)
def test_gpus_of_a_partition_are_counted_as_sinfo_names_them(sinfo, gres, gpus):
    pytest.importorskip("submitit")
    sinfo(f"cpu*|3|64|(null)|n/a|infinite\ngpu|2|96+|{gres}|1:00:00|2-00:00:00")
    found = slurm.partition_for(slurm.JobOptions(2, "gpu"))
    assert (found.gpus, found.cpus, found.time) == (gpus, 192, "1:00:00")
    assert slurm.partition_for(slurm.JobOptions(2)) == slurm.Partition("cpu*", 3, 192, 0, "0")
    with pytest.raises(BadInput, match=f"has {gpus or 192} {'GPUs' if gpus else 'cores'} in all"):
        slurm.partition_for(slurm.JobOptions(193, "gpu"))


@pytest.mark.parametrize(
    ("workers", "ranks", "error"),
    [
        (4, 2, ""),
        (5, 2, "--workers 5: partition gpu has 10 GPUs in all, and each worker needs 2 of one node: give --workers 4."),
        (2, 3, ""),  # two nodes of three GPUs; those of two have none for such a case
        (3, 3, "give --workers 2."),
        (1, 4, "a case on 4 GPUs: nodes of partition gpu have 3 GPUs at most, and a case runs on one node: give fewer"),
    ],
)
def test_a_job_takes_its_gpus_from_one_node(sinfo, workers, ranks, error):
    pytest.importorskip("submitit")
    sinfo("gpu*|2|64|gpu:3|n/a|infinite\ngpu*|2|64|gpu:2|n/a|infinite\ngpu*|7|64|(null)|n/a|infinite")
    asked = slurm.JobOptions(workers, ranks=ranks)
    if not error:
        assert slurm.partition_for(asked).gpus == 10
        return
    with pytest.raises(BadInput) as refused:
        slurm.partition_for(asked)
    assert error in str(refused.value)


def test_two_suites_in_one_folder_are_refused_while_the_first_runs(tmp_path):
    queue = SharedQueue(open_queue(tmp_path, some_cases(), "first").planned, tmp_path / "records-x.jsonl")
    with pytest.raises(BadInput, match=r"another run \(first\) is going on in .*, with 1 worker, at other cases"):
        open_queue(tmp_path, some_cases("1k"), "second", resume=True)
    with pytest.raises(BadInput, match="give --resume to help"):
        open_queue(tmp_path, some_cases(), "first")
    assert open_queue(tmp_path, some_cases("64,128"), "first", resume=True).joined
    queue.leave()
    assert not open_queue(tmp_path, some_cases("1k"), "second").joined, "nobody is at the first one"
    assert find(tmp_path).plan.name == "second"


def test_a_worker_of_another_version_does_not_join(tmp_path):
    planned = create(tmp_path, QueuePlan(RUN, "first", hybridbench="0.0.9+sources.aaaaaaaa"), some_cases())
    queue = SharedQueue(planned, tmp_path / "records-x.jsonl")
    with pytest.raises(BadInput, match=r"by hybridbench 0\.0\.9\+sources\.aaaaaaaa, and this is"):
        open_queue(tmp_path, some_cases(), "first", resume=True)
    queue.leave()


def test_a_job_of_another_version_ends_before_it_takes_a_case(tmp_path):
    planned = create(tmp_path, QueuePlan(RUN, "first", hybridbench="0.0.9+sources.aaaaaaaa"), some_cases())
    with pytest.raises(
        HybridbenchError, match=r"the queue is of hybridbench 0\.0\.9.* use one environment on all nodes"
    ):
        member.serve(str(planned.folder), [])
    assert len(list((planned.folder / WAITING).iterdir())) == len(planned.lines)


def test_status_tells_cases_workers_and_failures(tmp_path):
    planned = create(tmp_path, QueuePlan(RUN, "night", recorded=3), some_cases())
    queue = SharedQueue(planned, tmp_path / f"records-{RUN}.jsonl", workers=2)
    with RecordWriter(tmp_path, RUN) as writer:
        claim = queue.take()
        (one,) = load([STORED], lambda _sentence: None)[:1]
        lost = Record(claim.job, Status.OOM, RUN, one.started_at, one.environment, message="20 GiB do not fit")
        writer.append(lost)
        queue.settle(claim)
        at = queue.take()
        queue.at(at, "measure")
        queue.lease.renew()
        done = invoked("status", tmp_path)
        assert done.exit_code == 0, done.output
        text = " ".join(done.stdout.split())
        assert "night: 1 of 4 cases done (3 more had a record before), 1 running, 2 waiting; " in text
        assert "Records: 1 oom." in text
        assert "2 workers on 1 node" in text
        assert f"{at.job.label}: measure" in text
        assert "20 GiB do not fit" in text
        seen = json.loads(invoked("status", tmp_path, "--json").stdout)
        assert [one["state"] for one in seen["workers"]] == ["at work", "idle"]
        assert seen["failures"] == [{"case": claim.job.label, "status": "oom", "message": "20 GiB do not fit"}]
    queue.leave()
    assert "Nobody works at it" in invoked("status", tmp_path).stdout


def test_status_of_a_finished_run_and_of_nothing(tmp_path, stored):
    write(tmp_path, stored)
    assert "No run is going on" in invoked("status", tmp_path).stdout
    (tmp_path / "empty").mkdir()
    assert invoked("status", tmp_path / "empty").exit_code == 2
    assert "does not exist" in invoked("status", tmp_path / "nowhere").stderr


def test_merge_joins_folders_and_keeps_each_record_once(tmp_path, stored):
    write(tmp_path / "a", stored[:3], "run-a")
    write(tmp_path / "b", stored[2:], "run-b")
    shutil.copytree(tmp_path / "a", tmp_path / "again")
    done = invoked("merge", *(tmp_path / name for name in ("a", "b", "again")), "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "5 records of 3 folders" in done.stderr
    assert "3 records stood in several" in done.stderr
    lines = [file.read_text().splitlines() for file in sorted((tmp_path / "out").iterdir())]
    assert list(map(len, lines)) == [3, 2]
    assert sorted(load([tmp_path / "out"], pytest.fail), key=repr) == sorted(
        load([tmp_path / "a", tmp_path / "b"], pytest.fail), key=repr
    )


@pytest.mark.parametrize(
    ("what", "change", "named"),
    [
        ("machines", {"device": "NVIDIA B200"}, "NVIDIA B200"),
        ("versions", {"packages": {"torch": "9.9"}}, "torch 9.9"),
        ("versions", {"driver": "999.1"}, "driver 999.1"),
        ("versions", {"hybridbench": "9.0"}, "hybridbench 9.0"),
    ],
)
def test_merge_names_what_it_would_mix(tmp_path, stored, what, change, named):
    write(tmp_path / "a", stored[:2], "run-a")
    other = [replace(one, environment=replace(one.environment, **change)) for one in stored[2:]]
    write(tmp_path / "b", other, "run-b")
    words = ("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    done = invoked(*words)
    assert done.exit_code == 4
    assert f"different {what}" in done.stderr
    assert named in done.stderr
    assert f"{tmp_path / 'b'} has" in done.stderr
    assert not (tmp_path / "out").exists()
    assert invoked(*words, "--allow", what).exit_code == 0
    assert len(load([tmp_path / "out"], pytest.fail)) == 4


def test_merge_writes_into_a_new_folder_only(tmp_path, stored):
    write(tmp_path / "a", stored, "run-a")
    done = invoked("merge", tmp_path / "a", "-o", tmp_path / "a")
    assert done.exit_code == 2
    assert "holds something already" in done.stderr
    assert invoked("merge", tmp_path / "nowhere", "-o", tmp_path / "out").exit_code == 2
