"""workflows: the workflow files of this repository and of the documentation, read, with the commands of their steps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILES = [*sorted((ROOT / ".github/workflows").iterdir()), ROOT / "docs/kernel-check.yml"]


def read(path: Path) -> dict[str, Any]:
    """A workflow; its triggers are under ``on``, which YAML 1.1 takes for True."""
    body = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in body.items()}


@dataclass(frozen=True)
class Command:
    """The command of a step, with the environment that its workflow gives it."""

    file: str
    name: str
    run: str
    shell: str
    env: Mapping[str, str]

    def environment(self, expressions: Mapping[str, str]) -> dict[str, str]:
        """The environment with every expression replaced by what GitHub would put there; KeyError for another one."""
        found = {}
        for name, text in self.env.items():
            found[name] = re.sub(r"\$\{\{ *(.*?) *\}\}", lambda match: expressions[match[1]], str(text))
        return found


def commands() -> list[Command]:
    """Every command of every step of every workflow."""
    found = []
    for path in FILES:
        body = read(path)
        for job in body["jobs"].values():
            for step in job["steps"]:
                if "run" not in step:
                    continue
                shell = step.get("shell") or body.get("defaults", {}).get("run", {}).get("shell", "")
                env = {**body.get("env", {}), **job.get("env", {}), **step.get("env", {})}
                found.append(Command(path.name, step.get("name", step["run"]), step["run"], shell, env))
    return found
