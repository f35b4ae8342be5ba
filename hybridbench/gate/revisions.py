"""revisions: what git says of a repository: its root, a commit, the commits between two, and what one touched."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridbench.errors import BadInput
from hybridbench.processes import last_line

GIT_LIMIT_S = 120.0
WHOLE = "fetch its whole history (git fetch --unshallow; in GitHub Actions fetch-depth: 0)"
"""The way out where a clone is shallow."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit.

    Args:
        name: its full hash.
        subject: the first line of its message.
        date: of its committer, as ``2026-01-31``.
    """

    name: str
    subject: str = ""
    date: str = ""

    @property
    def short(self) -> str:
        """The first ten digits of its hash."""
        return self.name[:10]


def git(folder: Path, *words: str, why: str) -> str:
    """What a git command prints, without the line feed at its end.

    Args:
        why: begins the sentence that says what failed.

    Raises:
        BadInput: git cannot be run, or fails.
    """
    done = _run(folder, words, why)
    if done.returncode != 0:
        said = f" ({last_line(done.stderr)})" if done.stderr.strip() else ""
        raise BadInput(f"{why}{said}: give a commit, branch or tag that git knows.")
    return done.stdout.rstrip("\n")


def _run(folder: Path, words: Sequence[str], why: str) -> subprocess.CompletedProcess[str]:
    command = ("git", "-C", str(folder), *words)
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=GIT_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BadInput(f"{why}: git cannot be run ({exc}).") from exc


def root_of(folder: Path, option: str) -> Path:
    """The top folder of the repository that a folder is in.

    Args:
        option: the option that needs it, such as ``--base``.

    Raises:
        BadInput: it is in none.
    """
    why = f"{option} needs a git repository here"
    done = _run(folder, ("rev-parse", "--show-toplevel"), why)
    if done.returncode != 0:
        said = last_line(done.stderr)
        raise BadInput(f"{why}, and {folder} lies in none ({said}): run this in a checkout.")
    return Path(done.stdout.rstrip("\n")).resolve()


def commit_of(root: Path, revision: str, option: str) -> str:
    """The full hash of the commit that a revision names.

    Raises:
        BadInput: git knows no such commit; of a shallow clone the text says how to fetch the rest.
    """
    why = f"{option} '{revision}' is no revision of the repository at {root}"
    words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    try:
        return git(root, *words, why=why)
    except BadInput as exc:
        if shallow(root):
            raise BadInput(f"{why}, which is a shallow clone: {WHOLE}, or name a commit that it has.") from exc
        raise


def shallow(root: Path) -> bool:
    """Whether a clone lacks the beginning of its history."""
    return git(root, "rev-parse", "--is-shallow-repository", why="bisect reads the history") == "true"


def is_ancestor(root: Path, old: str, new: str) -> bool:
    """Whether one commit is another one or among those that led to it."""
    return _run(root, ("merge-base", "--is-ancestor", old, new), "bisect reads the history").returncode == 0


def described(root: Path, commit: str) -> Commit:
    """A commit with its subject and date."""
    text = git(root, "show", "--no-patch", "--format=%H%x00%s%x00%cs", commit, why=f"{commit} cannot be read")
    return _commit(text)


def _commit(line: str) -> Commit:
    name, subject, date = line.split("\0")
    return Commit(name, subject, date)


def between(root: Path, good: str, bad: str) -> list[Commit]:
    """The commits that led from one to another one, in order, without the first and with the last.

    Of a merge only the first parent is followed, so that the commits are those that a branch went through.

    Args:
        good, bad: full hashes; raised errors name them as --good and --bad.

    Raises:
        BadInput: they are one commit, or the first did not lead to the second.
    """
    if good == bad:
        raise BadInput(f"--good and --bad are the same commit, {good[:10]}: give two, the good one the older.")
    if not is_ancestor(root, good, bad):
        if is_ancestor(root, bad, good):
            raise BadInput(f"--good {good[:10]} is newer than --bad {bad[:10]}: swap the two.")
        if shallow(root):
            raise BadInput(f"--good {good[:10]} is not known to lead to --bad in this shallow clone: {WHOLE}.")
        raise BadInput(
            f"--good {good[:10]} did not lead to --bad {bad[:10]}, they are of two branches: give a good commit that "
            f"both have, such as that of git merge-base {good[:10]} {bad[:10]}."
        )
    words = ("log", "--first-parent", "--reverse", "--format=%H%x00%s%x00%cs", f"{good}..{bad}")
    return [_commit(line) for line in git(root, *words, why="the revisions cannot be listed").splitlines()]


def parent_of(root: Path, commit: str) -> str:
    """The full hash of a commit's first parent."""
    return git(root, "rev-parse", f"{commit}^1", why=f"{commit[:10]} has no parent here")


def touched(root: Path, commit: str) -> list[str]:
    """The files that a commit changed against its first parent, as ``path (+added -removed)``."""
    words = ("diff-tree", "--numstat", "--no-commit-id", "-r", "-M", f"{commit}^1", commit)
    lines = git(root, *words, why=f"what {commit[:10]} touched cannot be listed").splitlines()
    found = []
    for line in lines:
        added, removed, path = line.split("\t", 2)
        found.append(f"{path} (binary)" if added == "-" else f"{path} (+{added} -{removed})")
    return found


def changed_here(root: Path, new: Sequence[str] = ()) -> bool:
    """Whether tracked files of the working tree differ from its commit.

    Args:
        new: endings of names; new files with one of them count too, unless git ignores them.
    """
    words = ("status", "--porcelain", f"--untracked-files={'all' if new else 'no'}")
    lines = git(root, *words, why="the working tree cannot be read").splitlines()
    return any(not line.startswith("??") or line.rstrip('"').endswith(tuple(new)) for line in lines)


def ignored(root: Path, path: Path) -> bool:
    """Whether git leaves a path of a working tree aside: it holds nothing tracked, and a rule ignores it."""
    if git(root, "ls-files", "--", str(path), why=f"{path} cannot be looked up"):
        return False
    return _run(root, ("check-ignore", "--quiet", "--", str(path)), f"{path} cannot be looked up").returncode == 0


def own_folder(root: Path) -> Path:
    """Git's own folder of a working tree, whose files belong to no commit."""
    return Path(git(root, "rev-parse", "--absolute-git-dir", why="the repository has no folder of git"))
