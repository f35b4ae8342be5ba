"""A suite in TOML: defaults, lists, cases that two sweeps name, and mistakes by file, table and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridbench.errors import BadInput
from hybridbench.suite.file import decoding_as_published, load_suite
from hybridbench.suite.sweep import Sweep
from hybridbench.suite.workloads import WORKLOADS

# --- TOML


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_suite_from_toml(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        name = "smoke"
        [defaults]
        scale = "tiny"
        arch = ["transformer", "mamba"]
        ctx = 1024
        backends = {ssd_step = "torch"}
        [[sweep]]
        workload = "decode"
        ctx = "1k..4k"
        [[sweep]]
        workload = "prefill"
        arch = "inter"
        ctx = [2048, "4k"]
        batch = 2
        ratio = ["1:1", "1:5"]
        max_time_s = 1
        [[sweep]]
        workload = "train"
        arch = "inter"
        positions = [2, 4]
        moe = true
        """,
    )
    suite = load_suite(path)
    assert suite.name == "smoke"
    assert suite.sweeps[0] == Sweep(
        "decode", arch="transformer,mamba", scale="tiny", ctx="1k..4k", backends={"ssd_step": "torch"}
    )
    assert (suite.sweeps[1].ctx, suite.sweeps[1].batch, suite.sweeps[1].ratio) == ("2048,4k", "2", "1:1,1:5")
    found = [(c.workload.kind, c.model.label, c.workload.context, c.workload.batch) for c in suite.cases(has_gpu=False)]
    assert found == [
        *[("decode", arch, context, 1) for arch in ("transformer", "mamba") for context in (1024, 2048, 4096)],
        *[("prefill", label, context, 2) for label in ("inter 4+3", "inter 1+5") for context in (2048, 4096)],
        ("train", "inter 2+4 moe", 1024, 1),
    ]


def test_a_suite_is_named_after_its_file_by_default(tmp_path: Path) -> None:
    path = write(tmp_path, '[[sweep]]\nworkload = "decode"\narch = "intra"\nscale = "tiny"\npositions = 3\n')
    suite = load_suite(path)
    assert suite.name == "mine"
    assert suite.sweeps[0].positions == "3"


def test_a_case_that_two_sweeps_name_runs_once(tmp_path: Path) -> None:
    text = '[[sweep]]\nworkload = "decode"\nctx = "1k,2k"\narch = "mamba"\n'
    text += '[[sweep]]\nworkload = "decode"\nctx = "2k,4k"\narch = "mamba"\n'
    made = load_suite(write(tmp_path, text)).cases(has_gpu=False)
    assert [case.workload.context for case in made] == [1024, 2048, 4096]


SWEEP = '[[sweep]]\nworkload = "decode"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no [[sweep]] table: a suite needs at least one."),
        ("sweep = 3", "has no [[sweep]] table"),
        ("sweep = [3]", "has no [[sweep]] table"),
        ("[sweep]\nworkload = 'decode'", "has no [[sweep]] table"),
        ("name = \n", "is not TOML: Invalid value (at line 1"),
        ("[[sweep]]\narch = 'mamba'\n", f"[[sweep]] 1 has no workload: give one of {', '.join(WORKLOADS)}."),
        ("nmae = 'x'\n" + SWEEP, "unknown key 'nmae' at the top: known are name, [defaults] and [[sweep]]."),
        ("name = 3\n" + SWEEP, "name is 3, not text."),
        ("name = '../../up'\n" + SWEEP, "name is '../../up', but a folder is named after it"),
        ("defaults = 3\n" + SWEEP, "[defaults] is 3, not a table."),
        ("[defaults]\nctxx = 3\n" + SWEEP, "[defaults]: unknown key 'ctxx': did you mean 'ctx'?"),
        (SWEEP + SWEEP + "bach = 3\n", "[[sweep]] 2: unknown key 'bach': did you mean 'batch'?"),
        (SWEEP + "moe = 'yes'\n", "[[sweep]] 1: moe is 'yes', where true or false is expected."),
        (SWEEP + "moe = 1\n", "moe is 1, where true or false is expected."),
        (SWEEP + "window = '8'\n", "window is '8', where a whole number is expected."),
        (SWEEP + "window = true\n", "window is True, where a whole number is expected."),
        (SWEEP + "seed = 1.5\n", "seed is 1.5, where a whole number is expected."),
        (SWEEP + "ctx = 1.5\n", "ctx is 1.5, where text is expected."),
        (SWEEP + "ctx = true\n", "ctx is True, where text is expected."),
        (SWEEP + "ctx = []\n", "ctx is an empty list: give at least one value, or leave it out."),
        (SWEEP + "scale = 1\n", "scale is 1, where text is expected."),
        (SWEEP + "max_time_s = 'long'\n", "max_time_s is 'long', where a whole number or a number is expected."),
        (SWEEP + "backends = 'torch'\n", "backends is 'torch', where a table is expected."),
        (SWEEP + "backends = {ssd = 3}\n", "backends is {'ssd': 3}, where each operation names a backend as text."),
    ],
)
def test_suites_with_mistakes_name_file_table_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(BadInput) as caught:
        load_suite(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)


@pytest.mark.parametrize("published", [False, True])
def test_values_out_of_range_name_the_file_and_the_sweep_too(tmp_path: Path, published: bool) -> None:
    train, decode = SWEEP.replace('"decode"', '"train"'), SWEEP
    for wrong, said in (
        ("batch = '0'\n", "batch '0' is zero"),
        ("ctx = '4q'\n", "context '4q'"),
        ("scale = 'tony'\n", "unknown scale"),
    ):
        path = write(tmp_path, train + decode + wrong)
        suite = decoding_as_published(load_suite(path)) if published else load_suite(path)
        with pytest.raises(BadInput) as caught:
            suite.cases(has_gpu=False)
        assert str(caught.value).startswith(f"{path}: [[sweep]] 2: {said}")


def test_a_suite_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no suite at .*none.toml: give the path of a TOML file such as"):
        load_suite(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="cannot be read as a suite"):
        load_suite(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read as a suite"):
        load_suite(binary)
