"""What tables and sentences of the pages say of architectures, options, statuses and bounds is so in the program."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest
from pages import ALL, ROOT, TEXTS, fenced, table

from hybridbench.arch.block import Convention
from hybridbench.arch.blocks.parallel import FUSION_NORMS, FUSION_OPS, FUSION_OUTS, FUSION_SCALES, FUSION_VALUES
from hybridbench.arch.families import ARCHS, RECIPES, Options, build_spec
from hybridbench.arch.imports.huggingface import MODEL_TYPES
from hybridbench.arch.kinds import BLOCK_LETTERS, MIXERS, SHAPELESS
from hybridbench.arch.model import params
from hybridbench.arch.scales import SCALES
from hybridbench.errors import BadInput, HybridbenchError, NotComparable, NothingCompared
from hybridbench.metrics import value
from hybridbench.record import Status
from hybridbench.store import load
from hybridbench.suite.case import Sampling
from hybridbench.suite.sweep import ENERGY_WINDOW_S
from hybridbench.units import format_tokens


def test_families_have_the_blocks_and_parameters_shown() -> None:
    rows = table("family")
    scales = re.findall(r"^\| family \| (.*) \|$", ALL, re.MULTILINE)[0].split(" | ")
    assert scales == [name for name in SCALES if name != "tiny"]
    assert [row[0] for row in rows] == list(ARCHS)
    for arch, *cells in rows:
        for scale, cell in zip(scales, cells, strict=True):
            spec = build_spec(arch, scale)
            blocks = spec.label.partition(" ")[2] or str(sum(layer not in "-E" for layer in spec.layers))
            assert cell == f"{blocks}, {params(spec) / 1e6:,.0f} M", (arch, scale)


def test_recipes_and_fusion_axes_are_those_of_the_program() -> None:
    shown = {name: axes for name, *axes in table("recipe")}
    assert shown == {name: list(asdict(recipe.fusion).values()) for name, recipe in RECIPES.items()}
    text = " ".join(ALL.split())
    axes = {"norm": FUSION_NORMS, "scale": FUSION_SCALES, "op": FUSION_OPS, "value": FUSION_VALUES, "out": FUSION_OUTS}
    for axis, values in axes.items():
        assert f"{axis}: {', '.join(f'`{value}`' for value in values)}." in text


def test_conventions_statuses_and_exit_codes_are_those_of_the_program() -> None:
    assert [row[0] for row in table("convention")] == [convention.value for convention in Convention]
    assert [row[0] for row in table("status")] == [status.value for status in Status]
    meaning = {int(code): text for code, text in table("exit code", TEXTS["docs/results.md"])}
    refused = [NotComparable.exit_code, NothingCompared.exit_code]
    assert list(meaning) == [0, HybridbenchError.exit_code, BadInput.exit_code, *refused, 130]


def test_options_list_the_names_of_the_program() -> None:
    values = dict(re.findall(r"^\| `(--[a-z]+)` \| (.*) \|$", ALL, re.MULTILINE))
    named = {"--arch": ARCHS, "--scale": SCALES, "--recipe": RECIPES, "--mixer": MIXERS, "--convention": Convention}
    for option, names in named.items():
        listed = re.findall(r"`([^`]+)`", values[option])
        assert listed == [str(name) for name in names], option


def test_mixers_have_the_blocks_and_parameters_shown() -> None:
    rows = table("mixer")
    assert [row[0] for row in rows] == list(MIXERS)
    for mixer, cell, *_ in rows:
        spec = build_spec("inter", "1b", Options(mixer=mixer))
        assert cell == f"{spec.label.split()[-1]}, {params(spec) / 1e6:,.0f} M", mixer


def test_model_types_and_letters_are_those_of_the_program() -> None:
    page = (ROOT / "docs/model-types.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == sorted(MODEL_TYPES)
    assert f"for {len(MODEL_TYPES)} model types" in ALL
    (row,) = re.findall(r"^\| `--pattern` \| (.*) \|$", ALL, re.MULTILINE)
    assert set(re.findall(r"`(\S)`", row)) == {*BLOCK_LETTERS, "+"} - {*SHAPELESS}


def test_bounds_and_limits_are_those_of_the_program() -> None:
    from hybridbench.kernels.verify import BOUNDS

    assert {row[0]: (float(row[1]), float(row[2])) for row in table("dtype")} == BOUNDS
    sampling, text = Sampling(), " ".join(ALL.split())
    assert f"no faster than the one before, or after {sampling.warmup_max_s:g} s" in text
    assert f"is within {sampling.target_rel_ci * 100:g}%, after {sampling.max_samples} samples" in text
    assert f"after {sampling.max_time_s:g} s of samples" in text
    assert f"at least {ENERGY_WINDOW_S:g} s, for the energy counter" in text


def test_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    *_, source = fenced("python", TEXTS["docs/python.md"])
    exec(compile(source, "python.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("intra ")
    assert printed[-1] == f"(2, {SCALES['tiny'].vocab_size})"


@pytest.mark.parametrize("name", ["README.md", "docs/h200.md"])
def test_measured_tables_and_sentences_are_those_of_the_records(name: str) -> None:
    """Tokens per second of decode steps on one H200, the lead of Mamba-2, and the shares of the floor."""
    records = [
        record
        for record in load([ROOT / "results/nvidia-h200/efficiency"], print)
        if record.case.workload.kind == "decode"
    ]
    speeds = {
        (record.case.model.label, format_tokens(record.case.workload.context)): value(record, "tokens_per_s") or 0
        for record in records
    }
    shown = _by_model(name)[0]
    assert shown == {cell: f"{speed:,.0f}" for cell, speed in speeds.items()}
    text = " ".join(TEXTS[name].split())
    leads = [speeds["mamba", at] / speeds["transformer", at] for at in ("4k", "128k")]
    assert "Mamba-2 leads the Transformer {:.1f} times at 4k and {:.1f} times at 128k.".format(*leads) in text
    shares = [100 * (value(record, "floor_frac") or 0) for record in records]
    assert f"{min(shares):.0f} to {max(shares):.0f}% of the speed that" in text


def _by_model(name: str) -> list[dict[tuple[str, str], str]]:
    """The cells of each table of models in a page, by model and heading."""
    tables = []
    for headings, body in re.findall(r"^\| model +\|(.*)\|\n\|[-:|]+\|\n((?:\|.*\n)+)", TEXTS[name], re.MULTILINE):
        shown = {}
        for line in body.splitlines():
            model, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            shown |= {(model, at.strip()): cell for at, cell in zip(headings.split("|"), cells, strict=True)}
        tables.append(shown)
    return tables


def test_the_table_of_many_sequences_is_that_of_the_records() -> None:
    """Tokens per second at 1B and 4k, and the shares of the floor."""
    measured = {}
    for record in load([ROOT / "results/nvidia-h200/batch-readings"], print):
        model, work = record.case.model, record.case.workload
        if (model.scale, work.context) == ("1b", 4096) and work.batch in {1, 16, 64, 256}:
            speed, share = value(record, "tokens_per_s"), value(record, "floor_frac")
            assert speed is not None
            assert share is not None
            measured[model.label, str(work.batch)] = f"{speed:,.0f} ({share:.0%})"
    _, shown = _by_model("docs/h200.md")
    assert shown == measured


def test_the_shares_at_every_scale_are_those_of_the_records() -> None:
    shares: dict[tuple[str, str | None], list[float]] = {}
    for record in load([ROOT / "results/nvidia-h200/scales"], print):
        share = value(record, "floor_frac")
        assert share is not None
        shares.setdefault((record.case.workload.kind, record.case.model.scale), []).append(100 * share)
    scales = [name for name in SCALES if name != "tiny"]
    rows = table("phase", TEXTS["docs/h200.md"])
    assert [row[0].partition(",")[0] for row in rows] == list(dict.fromkeys(kind for kind, _ in shares))
    for name, *cells in rows:
        for scale, cell in zip(scales, cells, strict=True):
            found = shares[name.partition(",")[0], scale]
            assert len(found) == len(ARCHS)
            assert cell == f"{min(found):.0f} to {max(found):.0f}%", (name, scale)
