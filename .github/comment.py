"""comment: the verdicts of a GPU check as a comment on its pull request, from an artifact that is not trusted.

    python3 .github/comment.py FOLDER

The folder has ``number``, the pull request, and ``summary.md``, the page of ``hybridbench check --summary``. Of a run
that ended before it wrote a page, the comment says so. Both come from a run of the pull request's own code. So the
number counts only if that pull request's head is the commit that the run was of, and the page is shown as text with a
table: no links, pictures, HTML or mentions of people.

Environment: GITHUB_REPOSITORY, GH_TOKEN (which ``gh`` reads), and HEAD_SHA and RUN_URL of the run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

MARK = "<!-- hybridbench GPU check -->"
MOST_BYTES = 50_000
"""Of the page; GitHub takes comments of 65,536 characters."""
MOST_DIGITS = 9
APART = "\u200b"
"""A space of no width, which keeps GitHub from reading a mention, a reference or an address."""


WITHOUT = (
    "## Performance check\n\nNo verdict: the run ended before the check could say why. Its log shows in which step.\n"
)
"""The page of a run that left none, such as one whose installation failed."""


class Refused(Exception):
    """What is wrong with the artifact, in a sentence."""


def read(folder: Path, name: str) -> str:
    """The text of one file of the artifact.

    Raises:
        Refused: there is none, it is no regular file, or it is too long or no text.
    """
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise Refused(f"the artifact has no file {name}")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise Refused(f"{name} is longer than {MOST_BYTES:,} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Refused(f"{name} is no text in UTF-8") from exc


def read_page(folder: Path) -> str:
    """The page of the check; empty where the run ended before it wrote one. Raises as ``read`` does."""
    there = folder / "summary.md"
    return read(folder, "summary.md") if there.is_symlink() or there.exists() else ""


def harmless(page: str) -> str:
    """A page whose tables and headings stay, and in which nothing else is more than text."""
    text = "".join(mark for mark in page if mark.isprintable() or mark == "\n")
    for mark in "<>[]`":  # the page escapes these, and they are replaced below
        text = text.replace(f"\\{mark}", mark)
    text = text.replace("&", "&amp;")  # before the others, which become entities
    for mark in "<>[]`~$":
        text = text.replace(mark, f"&#{ord(mark)};")
    text = text.replace("@", f"@{APART}").replace("://", f":{APART}//")
    text = re.sub(r"(www)\.", rf"\1{APART}.", text, flags=re.IGNORECASE)
    return re.sub(r"(?<!&)#(?=\w)", f"#{APART}", text)


def body_of(page: str, head: str, url: str) -> str:
    """The comment; a page without a word says that there is no verdict."""
    page = page if page.strip() else WITHOUT
    said = f"Measured by the code of this pull request at {head}, so as trustworthy as that: [the run]({url})."
    return f"{MARK}\n{said}\n\n{harmless(page).strip()}\n"


def gh(*words: str, given: str | None = None) -> str:
    """What the GitHub command prints."""
    done = subprocess.run(["gh", "api", *words], input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(f"gh api {' '.join(words[:3])} failed ({done.stderr.strip()})")
    return done.stdout.strip()


def main(folder: Path) -> None:
    """Check the artifact, and write the comment or replace the one that is there.

    Raises:
        Refused: the artifact is not what a check leaves, or is of another pull request.
    """
    repository, head, url = (os.environ[name] for name in ("GITHUB_REPOSITORY", "HEAD_SHA", "RUN_URL"))
    number = read(folder, "number").strip()
    if not re.fullmatch(rf"[1-9][0-9]{{0,{MOST_DIGITS - 1}}}", number):
        raise Refused("the artifact's number is no pull request")
    there = gh(f"repos/{repository}/pulls/{number}", "--jq", ".head.sha")
    if there != head:
        raise Refused(f"the head of pull request {number} is {there}, and the run was of {head}")
    given = json.dumps({"body": body_of(read_page(folder), head, url)})
    own = f'.[] | select(.user.login == "github-actions[bot]" and (.body | startswith("{MARK}"))) | .id'
    comments = f"repos/{repository}/issues/{number}/comments"
    before = gh("--paginate", comments, "--jq", own).split()
    if before:
        gh("--method", "PATCH", f"repos/{repository}/issues/comments/{before[0]}", "--input", "-", given=given)
    else:
        gh("--method", "POST", comments, "--input", "-", given=given)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Refused as exc:
        sys.exit(f"error: {exc}: no comment is written.")
