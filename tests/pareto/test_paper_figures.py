"""The published figures of quality, held to the paper's own formulas, and CSVs that people hand over."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from hybridbench.arch.block import Convention
from hybridbench.arch.families import Options, build_spec
from hybridbench.arch.model import cost
from hybridbench.errors import BadInput
from hybridbench.pareto.quality import COLUMNS, Quality, paper_figures, read_quality
from hybridbench.pareto.stacks import identity, stack_named
from hybridbench.report.paper.figures import STACKS, stack_of

PAPER = paper_figures()


def flops_per_token(quality: Quality) -> float:
    """By the paper's formulas, at the 8k tokens that its tables 9 and 10 were trained on."""
    return cost(quality.spec, 8192, 1, Convention.PAPER).train_flops / 8192


def test_tokens_and_flops_of_a_figure_are_those_of_the_papers_formula() -> None:
    """A figure that stands in the row of another stack has another number of tokens or FLOPs."""
    checked = 0
    for quality in PAPER:
        if quality.tokens is None or quality.flops is None or quality.score.name.endswith("k"):
            continue
        stack = stack_of(quality.spec)
        if quality.tokens == 60e9 and stack is not None and stack.train_misprint:
            continue
        if (quality.spec.arch, quality.spec.scale) == ("intra", "350m"):
            continue  # its tables 15 and 20 print different widths of these blocks
        # Printed to two digits each: within half a unit of both.
        allowed = 0.05 / (quality.flops / 1e20) + 0.5e9 / quality.tokens
        assert quality.flops == pytest.approx(flops_per_token(quality) * quality.tokens, rel=allowed), quality
        checked += 1
    assert checked == 90


def test_all_stacks_of_table_13_have_a_loss_at_equal_flops_but_for_none() -> None:
    found = {identity(q.spec): q.value for q in PAPER if q.score.name == "dclm_nll" and q.flops == 4.5e20}
    assert set(found) == {identity(stack.spec) for stack in STACKS}
    by_name = {stack.name: found[identity(stack.spec)] for stack in STACKS}
    # The paper's own words: intra is the best family, the Transformer the worst stack.
    assert min(by_name, key=lambda name: by_name[name]).startswith("intra")
    assert max(by_name, key=lambda name: by_name[name]) == "transformer"


def test_more_tokens_or_flops_make_no_stack_worse() -> None:
    """Within one size; the paper's isoFLOP figures fall with the budget."""
    by_stack: dict[str, list[tuple[float, float]]] = {}
    for quality in PAPER:
        if quality.score.name == "dclm_nll" and quality.tokens is None and quality.flops:
            by_stack.setdefault(quality.stack, []).append((quality.flops, quality.value))
    assert len(by_stack) == 16
    for figures in by_stack.values():
        losses = [loss for _, loss in sorted(figures)]
        assert losses == sorted(losses, reverse=True)


def test_every_figure_has_a_source_and_stands_once() -> None:
    assert all(quality.source.startswith("arXiv 2510.04800 v3, table") for quality in PAPER)
    counted = Counter((one.stack, one.score.name, one.tokens, one.flops) for one in PAPER)
    assert set(counted.values()) == {1}
    fusions = {one.spec.recipe: one.spec for one in PAPER if "table 18" in one.source}
    layers = {name: spec.pattern.count("(") for name, spec in fusions.items()}
    assert layers == {"hymba": 14, "concat": 13, "falcon-h1": 13, "diff-transformer": 16, "diff-mamba": 13}


def test_rows_name_stacks_as_records_do() -> None:
    kda = build_spec("inter", "1b", Options(mixer="kda"))
    assert stack_named({"arch": kda.arch, "scale": "1b", "ratio": "1:5"}) == kda
    assert stack_named({"arch": "inter", "scale": "1B", "ratio": "1:5", "mixer": "kda"}) == kda
    alone = build_spec("mamba", "1b", Options(mixer="gated-delta"))
    assert identity(stack_named({"arch": alone.arch, "scale": "1b"})) == identity(alone)
    placed = build_spec("intra", "1b", Options(positions=(4, 8)))
    row = {"arch": "intra", "scale": "1b", "pattern": placed.pattern, "recipe": placed.recipe or ""}
    assert identity(stack_named(row)) == identity(placed)
    fused = build_spec("intra", "1b", Options(recipe="concat", fusion_norm="none", split="512:1280"))
    row = {"arch": "intra", "scale": "1b", "ratio": "1:5", "recipe": fused.recipe or ""}
    assert identity(stack_named(row)) == identity(fused)
    typed = stack_named({"scale": "1b", "pattern": build_spec("inter", "1b").pattern})
    assert identity(typed) == identity(build_spec("inter", "1b"))
    routed = build_spec("mamba", "1b", Options(moe=True))
    assert identity(stack_named({"arch": "mamba", "scale": "1b", "pattern": routed.pattern})) == identity(routed)


HEADING = "arch,scale,metric,value"

WRONG = {
    "": "is empty: it needs the columns arch, scale",
    HEADING: "has a heading and no rows",
    "arch,scale,metric,valeu\n": "line 1: unknown column 'valeu': did you mean 'value'?",
    "arch,scale,metric\nmamba,1b,loss": "has no column value",
    f"{HEADING},value\nmamba,1b,loss,1,1": "has a column twice",
    f"{HEADING}\nmamba,1b,loss": "line 2: it has 3 fields, where the heading has 4",
    f"{HEADING}\nmamba,1b,los,2.7": "line 2: unknown metric 'los': did you mean 'loss'?",
    f"{HEADING}\nmanba,1b,loss,2.7": "line 2: unknown arch 'manba': did you mean 'mamba'?",
    f"{HEADING}\nmamba,2b,loss,2.7": "line 2: unknown scale '2b'",
    f"{HEADING}\n,1b,loss,2.7": "line 2: the row has neither arch nor pattern",
    f"{HEADING}\nmamba,1b,loss,": "line 2: value is empty",
    f"{HEADING}\nmamba,1b,loss,nan": "line 2: value is 'nan', where a number from 0 is expected",
    f"{HEADING}\nmamba,1b,accuracy,52.0": "is no fraction from 0 to 1: divide percent by 100",
    f"{HEADING},seeds\nmamba,1b,loss,2.7,1.5": "seeds is 1.5, where a whole number from 1 is expected",
    f"{HEADING},recipe\nmamba,1b,loss,2.7,hymba": "recipe 'hymba' of mamba: only intra has one",
    f"{HEADING},recipe\nintra,1b,loss,2.7,hymbo": "unknown recipe 'hymbo': did you mean 'hymba'?",
    f"{HEADING},ratio\nmamba,1b,loss,2.7,1:5": "--ratio for mamba",
    f"{HEADING},pattern\nmamba,1b,loss,2.7,M-M-": "pattern M-M- is not that of mamba 1b",
    f"{HEADING}\nmamba,1b,loss,2.7\nmamba,1b,loss,2.8": "line 3 has the stack, metric and budget of line 2",
    f'{HEADING}\nmamba,1b,loss,"2.7': "is not CSV",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_with_a_csv_is_said_with_its_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        read_quality(path)
    assert WRONG[text] in str(caught.value)
    assert "mine.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_csv_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_bytes("größe".encode("utf-16"))
    for path in (tmp_path / "none.csv", tmp_path / "other.csv", tmp_path):
        with pytest.raises(BadInput, match=path.name):
            read_quality(path)


def test_a_csv_gives_back_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    values = "inter,1b,1:3,,,,loss,2.75,4,0.002,60e9,3.6e20,our run"
    path.write_text(f"\ufeff{','.join(COLUMNS)}\r\n{values}\r\n", encoding="utf-8")
    (one,) = read_quality(path)
    assert one == Quality(
        build_spec("inter", "1b", Options(ratio="1:3")), one.score, 2.75, 4, 0.002, 60e9, 3.6e20, "our run"
    )
    assert one.noise == pytest.approx(0.001)
