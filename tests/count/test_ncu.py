"""Nsight Compute's report is read to the number, and whatever is not a report says why."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from hybridbench.count import ncu
from hybridbench.processes import alive

HEAD = """\
==PROF== Connected to process 4242 (/usr/bin/python3.12)
==PROF== Disconnected from process 4242
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","""
KERNELS = (
    '"0","4242","python3.12","127.0.0.1","at::cuda::spin_kernel(long)","1","7","(1, 1, 1)","(1, 1, 1)","0","9.0",',
    '"1","4242","python3.12","127.0.0.1","nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_NTN","1","7","(384, 1, 1)",'
    '"(132, 1, 1)","0","9.0",',
    '"2","4242","python3.12","127.0.0.1","void at::native::vectorized_elementwise_kernel<4, '
    'at::native::AddFunctor<float>, std::array<char*, 3> >(int, T2, T3)","1","7","(128, 1, 1)","(64, 1, 1)","0","9.0",',
)


def report(names: str, units: str, *rows: str) -> str:
    """As Nsight Compute writes it, with some metrics; a kernel's in each row."""
    table = [HEAD + names, '"","","","","","","","","","","",' + units]
    table += [kernel + row for kernel, row in zip(KERNELS, rows, strict=True)]
    return "\n".join([*table, "==WARNING== Found outstanding GPU clock reset, trying to revert...Success.", ""])


REPORT = report(
    '"dram__bytes_read.sum","dram__bytes_write.sum","profiler__replayer_passes",'
    '"sm__ops_path_tensor_src_bf16_dst_fp32.sum"',
    '"byte","byte","pass",""',
    *('"1,024","0","1","0"', '"16,777,216","8,388,608","3","17,179,869,184"', '"64","32","1","0"'),
)
INSTRUCTION = "smsp__sass_thread_inst_executed_op_{}_pred_on.sum"
VECTOR = report(
    ",".join(f'"{INSTRUCTION.format(name)}"' for name in ("fadd", "ffma", "fmul", "hfma", "hadd")),
    '"inst","inst","inst","inst","inst"',
    *('"0","0","0","0","0"', '"1,000","2,000","500","10","3"', '"4,096","0","0","0","0"'),
)


def test_a_report_is_read_to_the_number() -> None:
    marker, product, add = ncu.parse(REPORT)
    assert "spin_kernel" in marker.name
    assert product == ncu.Launch(1, "nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_NTN", 2 * 2048**3, 0, 2**24, 2**23)
    assert (add.number, add.tensor_flops, add.read_bytes, add.flops) == (2, 0, 64, 0)
    assert add.name.endswith("(int, T2, T3)")
    assert ncu.passes(REPORT) == 3
    assert ncu.passes(REPORT.replace("profiler__replayer_passes", "profiler__other")) == 0


def test_instructions_come_from_a_report_of_the_same_kernels() -> None:
    launches = ncu.parse(REPORT)
    both = ncu.with_vector(launches, VECTOR)
    assert [launch.vector_flops for launch in both] == [0, 1000 + 2 * 2000 + 500 + 4 * 10 + 2 * 3, 4096]
    assert [launch.tensor_flops for launch in both] == [launch.tensor_flops for launch in launches]
    for other in (VECTOR.replace("spin_kernel", "another"), VECTOR.replace(KERNELS[2], KERNELS[1])):
        with pytest.raises(ncu.NoCountersError, match="other kernels ran"):
            ncu.with_vector(launches, other)
    with pytest.raises(ncu.NoCountersError, match="no counter of instructions"):
        ncu.with_vector(launches, REPORT)


def test_scaled_units_and_a_missing_row_of_units_are_understood() -> None:
    scaled = REPORT.replace('"byte","byte"', '"Mbyte","Kbyte"').replace('"16,777,216","8,388,608"', '"16.5","2"')
    assert [ncu.parse(scaled)[1].read_bytes, ncu.parse(scaled)[1].written_bytes] == [16_500_000, 2000]
    units = next(line for line in REPORT.splitlines() if line.startswith('"",'))
    assert ncu.parse(REPORT.replace(units + "\n", "")) == ncu.parse(REPORT)


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ("==ERROR== ERR_NVGPUCTRPERM - The user does not have permission.\n", "ERR_NVGPUCTRPERM - The user"),
        ("==WARNING== No kernels were profiled.\n", "no kernel was profiled"),
        (REPORT.replace("dram__bytes_read.sum", "dram__sectors.sum"), "no column dram__bytes_read.sum"),
        (REPORT.replace("sm__ops_path_tensor_src_bf16_dst_fp32.sum", "sm__cycles.sum"), "no counter of tensor cores"),
        (REPORT.replace('"17,179,869,184"', '"n/a"'), "counted no sm__ops_path_tensor_src_bf16_dst_fp32.sum of nvjet"),
    ],
)
def test_what_is_no_report_says_why(report: str, reason: str) -> None:
    with pytest.raises(ncu.NoCountersError, match=reason):
        ncu.parse(report)


def fake(tmp_path: Path, body: str) -> str:
    """A stand-in for ``ncu``: a script that finds the log's place among its arguments."""
    path = tmp_path / "ncu"
    path.write_text(f"#!{sys.executable}\nimport sys\nlog = sys.argv[sys.argv.index('--log-file') + 1]\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_the_program_runs_under_it(tmp_path: Path) -> None:
    script = fake(tmp_path, f"open(log, 'w').write({REPORT!r})\nassert sys.argv[-2:] == ['prog', 'arg']")
    report = ncu.run(script, ["some"], tmp_path / "log", ["prog", "arg"], limit_s=60)
    assert report == REPORT


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (
            "open(log, 'w').write('==ERROR== An error was reported by the driver\\n'); sys.exit(3)",
            ncu.NoCountersError,
            "exit code 3: An error was reported by the driver$",
        ),
        (
            "open(log, 'w').write('==ERROR== The library says:\\n==ERROR== Failed to initialize the profiler: No.\\n')"
            "; sys.exit(1)",
            ncu.NeverCountersError,
            "exit code 1: The library says: Failed to initialize the profiler: No$",
        ),
        (
            "print('==ERROR== ERR_NVGPUCTRPERM - No permission.'); sys.exit(1)",
            ncu.NeverCountersError,
            "ERR_NVGPUCTRPERM",
        ),
        ("print('nothing')", ncu.NoCountersError, "exit code 0"),
        ("import time; time.sleep(600)", ncu.NoCountersError, "had not finished after 500 ms"),
    ],
)
def test_a_run_that_fails_says_how(tmp_path: Path, body: str, kind: type[Exception], reason: str) -> None:
    with pytest.raises(ncu.NoCountersError, match=reason) as caught:
        ncu.run(
            fake(tmp_path, body),
            ["some"],
            tmp_path / "log",
            ["prog"],
            limit_s=0.5 if "sleep" in body else 60,
        )
    assert type(caught.value) is kind


@pytest.mark.parametrize("ends", ["time.sleep(600)", "sys.exit(3)"])
def test_what_was_profiled_does_not_outlive_the_profiler(tmp_path: Path, ends: str) -> None:
    pid = tmp_path / "pid"
    starts = "import subprocess, time; child = subprocess.Popen(['sleep', '600'], start_new_session=True)"
    script = fake(tmp_path, f"{starts}; open({str(pid)!r}, 'w').write(str(child.pid)); {ends}")
    for limit_s in (1.5, 6, 24):  # on a busy machine it takes longer to start what is profiled
        with pytest.raises(ncu.NoCountersError):
            ncu.run(script, ["some"], tmp_path / "log", ["prog"], limit_s=limit_s)
        if pid.exists() and pid.read_text():
            break
    assert not alive(int(pid.read_text()))


def test_what_cannot_be_started_and_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ncu.NeverCountersError, match="cannot be started"):
        ncu.run(str(tmp_path / "none"), ["some"], tmp_path / "log", [], limit_s=1)
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    monkeypatch.setattr(ncu, "_PLACES", ())
    assert ncu.find() is None
    fake(tmp_path, "")
    assert ncu.find() == str(tmp_path / "ncu")


def test_what_takes_one_pass_is_asked_for_apart() -> None:
    tensor = "sm__ops_path_tensor_src_bf16_dst_fp32.sum"
    assert ncu.step_metrics("bfloat16") == (tensor, "dram__bytes_read.sum", "dram__bytes_write.sum")
    assert len(ncu.step_metrics("float16")) == 2 + 2
    assert len(set(ncu.vector_metrics("float16"))) == 6
    assert {name.split("_op_")[1][0] for name in ncu.vector_metrics("float64")} == {"d"}
    words = ncu.command("ncu", ["one", "two"], Path("log"), ["python", "x"])
    assert words[words.index("--metrics") + 1] == "one,two"
    assert words[:2] == ["ncu", "--csv"]
    assert words[-2:] == ["python", "x"]
    assert {"--profile-from-start", "--clock-control"} < set(words)
