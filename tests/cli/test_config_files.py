"""Commands that read a config.json say what its class sets, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from hybridbench.cli.main import main

CASES = Path(__file__).parents[1] / "cases" / "configs"


COMMANDS = [["cost"], ["price", "--gpu", "h100"], ["fit", "--gpu", "h100"], ["cache"], ["crossover", "mamba"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_of_a_file_stand_below_every_table_of_it(command: list[str]) -> None:
    path = CASES / "size_guessed_kv_lora.json"
    done = CliRunner().invoke(main, [*command, "--config", str(path)])
    assert done.exit_code == 0, done.output
    assert "kv_lora_rank 512" in " ".join(done.output.split())


def test_a_misspelt_field_ends_with_a_sentence() -> None:
    done = CliRunner().invoke(main, ["cost", "--config", str(CASES / "misspelt_kv.json")])
    assert done.exit_code == 2
    assert "did you mean num_key_value_heads?" in done.output
    assert "Traceback" not in done.output
