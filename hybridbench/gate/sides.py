"""sides: where each side of a check comes from: a revision as a git worktree, another Python, or this one.

A revision is of the repository that the command runs in: this package's own, or that of a person's kernels. What of the
path of Python lies in the repository is taken from the worktree instead; all else is the same on both sides.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import hybridbench
from hybridbench.errors import BadInput
from hybridbench.gate.revisions import changed_here, commit_of, described, git, ignored, root_of

PACKAGE = Path(hybridbench.__file__).resolve().parent
_INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Setup:
    """How one side's process is started.

    Args:
        name: for people.
        python: its interpreter.
        folder: where it runs.
        path: its ``PYTHONPATH``.
        package: the folder that its ``hybridbench`` must come from; None where another Python decides.
        revision: what is timed, for people: a commit, and whether more than it; empty where nothing says.
    """

    name: str
    python: str = sys.executable
    folder: Path = field(default_factory=Path.cwd)
    path: tuple[str, ...] = ()
    package: Path | None = PACKAGE
    revision: str = ""


def here(name: str = "change") -> Setup:
    """The side that this process itself is of."""
    listed = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    root = PACKAGE.parent
    if root.name not in _INSTALLED and str(root) not in listed:
        listed.insert(0, str(root))
    return Setup(name, path=tuple(listed))


def of_python(python: str) -> Setup:
    """The side of another environment's Python, with the package that is installed there.

    Raises:
        BadInput: there is no such program.
    """
    path = Path(python).expanduser()
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise BadInput(f"--base-python {python} is no program: give the path of an environment's python.")
    own = str(PACKAGE.parent)
    listed = tuple(part for part in here().path if str(Path(part).resolve()) != own)
    return Setup("base", str(path.absolute()), path=listed, package=None, revision=f"the environment of {path}")


def as_it_is(side: Setup, own_kernels: bool) -> Setup:
    """A side of this working tree with its commit, and whether it has changes that are not committed.

    Args:
        own_kernels: whether kernels of a person's own are timed, which the repository may hold.
    """
    try:
        root = root_of(side.folder, "the revision")
        if not (own_kernels or PACKAGE.is_relative_to(root)):
            return side
        commit = described(root, "HEAD").short
        changed = changed_here(root, new=(".py",))
    except BadInput:  # no repository, or one without a commit
        return side
    return replace(side, revision=f"{commit}{', working tree with uncommitted changes' if changed else ''}")


@contextmanager
def of_revision(revision: str, own_kernels: bool, option: str = "--base") -> Iterator[Setup]:
    """The side of a revision, in a worktree that is removed at the end.

    Args:
        own_kernels: whether kernels of a person's own are timed, which the revision may hold.
        option: the one that names the revision, for errors.

    Raises:
        BadInput: no repository here, no such revision, or nothing that is timed comes from it.
    """
    change = here()
    root = root_of(change.folder, option)
    commit = commit_of(root, revision, option)
    check_timed_from(root, own_kernels, f"{option} {revision}")
    with tempfile.TemporaryDirectory(prefix="hybridbench-base-") as folder:
        tree = Path(folder).resolve() / root.name
        words = ("-c", f"core.hooksPath={os.devnull}", "worktree", "add", "--detach", str(tree), commit)
        git(root, *words, why=f"{option} '{revision}' is not checked out")
        try:
            typed = f"{commit[:10]} ({revision})" if not commit.startswith(revision) else commit[:10]
            yield moved(replace(change, name=f"{option.lstrip('-')} {revision}", revision=typed), root, tree)
        finally:
            subprocess.run(
                ["git", "-C", str(root), "worktree", "remove", "--force", str(tree)], capture_output=True, check=False
            )


def check_timed_from(root: Path, own_kernels: bool, named: str) -> None:
    """Check that something that is timed comes from a repository.

    Args:
        own_kernels: whether kernels of a person's own are timed.
        named: the revisions, as typed.

    Raises:
        BadInput: nothing does, so that revisions of it would all be the same.
    """
    if not PACKAGE.is_relative_to(root) and not own_kernels:
        raise BadInput(
            f"{named} is of {root}, and nothing that is timed comes from there: name a kernel of it with "
            "--kernel OP=package.module:function, or run this in a checkout of hybridbench."
        )


def moved(side: Setup, root: Path, tree: Path) -> Setup:
    """A side with what lies in a repository taken from another tree of it.

    What git ignores, such as an environment, is of no revision and stays where it is. Anything else that the tree lacks
    came later: there, its path leads nowhere, since what it holds here would be timed as the revision's.
    """

    def there(path: Path) -> Path:
        resolved = path.resolve()
        if not resolved.is_relative_to(root):
            return path
        other = tree / resolved.relative_to(root)
        return path if not other.exists() and ignored(root, resolved) else other

    package = there(side.package) if side.package is not None else None
    listed = dict.fromkeys(str(there(Path(part))) for part in side.path)
    folder = there(side.folder)
    runs_in = folder if folder != side.folder and folder.is_dir() else tree
    return replace(side, folder=runs_in, path=tuple(listed), package=package)


def check_package(side: Setup, said: str) -> None:
    """Check that a side's process has the package that it should.

    Args:
        said: the folder of its ``hybridbench``.

    Raises:
        BadInput: it has another one, so that both sides would be the same.
    """
    if side.package is not None and Path(said).resolve() != side.package.resolve():
        raise BadInput(f"the {side.name} would time hybridbench of {said}, not of {side.package}: unset PYTHONPATH.")
