"""The comment on a pull request shows verdicts, and nothing that an artifact from a fork could smuggle in."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from hybridbench.gate.report import step_summary, summary_without_verdict
from hybridbench.gate.verdict import CellVerdict, Word

SPEC = importlib.util.spec_from_file_location("comment", Path(__file__).parents[2] / ".github/comment.py")
assert SPEC is not None
assert SPEC.loader is not None
comment = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(comment)

HEAD = "a" * 40
NAME = "ssd | <b> inter_1b, batch=4 [hot]"
PAGE = step_summary([CellVerdict(NAME, "kernel", Word.REGRESSION, "It is slower.", 0.031, 0.02, 0.04, 0.0075, 8)])


class Calls:
    """What ``gh`` is asked, with the head of the pull request and the comments that are there."""

    def __init__(self, head: str = HEAD, comments: str = "") -> None:
        self.head, self.comments = head, comments
        self.asked: list[tuple[tuple[str, ...], dict[str, Any] | None]] = []

    def __call__(self, *words: str, given: str | None = None) -> str:
        self.asked.append((words, None if given is None else json.loads(given)))
        return self.head if "/pulls/" in words[0] else self.comments if words[0] == "--paginate" else ""


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in (("GITHUB_REPOSITORY", "o/r"), ("HEAD_SHA", HEAD), ("RUN_URL", "https://github.com/o/r/1")):
        monkeypatch.setenv(name, value)
    (tmp_path / "number").write_text("12\n")
    (tmp_path / "summary.md").write_text(PAGE)
    return tmp_path


def written(artifact: Path, monkeypatch: pytest.MonkeyPatch, calls: Calls) -> str:
    monkeypatch.setattr(comment, "gh", calls)
    comment.main(artifact)
    body = calls.asked[-1][1]
    assert body is not None
    return str(body["body"])


def html(page: str) -> str:
    return str(MarkdownIt("commonmark").enable("table").render(page))


def test_the_first_comment_is_made_and_later_ones_replace_it(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    body = written(artifact, monkeypatch, calls)
    assert calls.asked[-1][0] == ("--method", "POST", "repos/o/r/issues/12/comments", "--input", "-")
    assert body.startswith(comment.MARK)
    calls = Calls(comments="99\n100")
    written(artifact, monkeypatch, calls)
    assert calls.asked[-1][0] == ("--method", "PATCH", "repos/o/r/issues/comments/99", "--input", "-")


def test_a_page_of_verdicts_reads_as_it_was(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = html(written(artifact, monkeypatch, Calls()).replace(comment.MARK, ""))
    assert "<h2>Performance check</h2>" in shown
    assert "<td" in shown
    assert "+3.10" in shown
    for part in ("ssd | &lt;b&gt; inter_1b, batch=4 [hot]", "regression [1]"):
        assert part in shown
    assert shown.count("<a ") == 1  # to the run
    assert shown.index("as trustworthy as that") < shown.index("<h2>")  # no page can hide it


HOSTILE = {
    "a link": "[here](https://evil.example)",
    "a picture": "![x](https://evil.example/x.png)",
    "a reference": "[x]\n\n[x]: https://evil.example",
    "an escaped link": "\\[here](https://evil.example)",
    "HTML": "<script>alert(1)</script><img src=x>",
    "half a comment": "<!-- \n",
    "an autolink": "<https://evil.example>",
    "a fence": "~~~\n[here](https://evil.example)\n```\n",
    "mathematics": "$\\href{https://evil.example}{here}$",
    "an entity": "&lt;img src=x&gt; &#64;someone &commat;someone",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nothing_of_a_page_becomes_a_link_or_html(text: str) -> None:
    shown = html(comment.harmless(text))
    for tag in ("<a ", "<img", "<script", "<!--", "<code"):
        assert tag not in shown
    assert "@someone" not in shown
    assert not set("$~`<>[]") & set(comment.harmless(text))


@pytest.mark.parametrize(
    "text", ["@someone", "https://evil.example", "WWW.evil.example", "#12", "o/r#12", "a@b.example"]
)
def test_nothing_of_a_page_calls_people_or_is_read_as_an_address(text: str) -> None:
    shown = comment.harmless(text)
    assert text not in shown
    assert shown.replace(comment.APART, "") == text


def test_control_characters_are_left_out() -> None:
    assert comment.harmless("a\x1b[31mb\r\u202ec\nd") == "a&#91;31mbc\nd"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("number", b"12; rm -rf /", "no pull request"),
        ("number", b"0", "no pull request"),
        ("number", b"1" * 10, "no pull request"),
        ("number", b"", "no pull request"),
        ("number", "\u0661".encode(), "no pull request"),
        ("number", None, "no file number"),
        ("summary.md", b"\xff", "no text in UTF-8"),
        ("summary.md", b"x" * 50_001, "longer than 50,000 bytes"),
    ],
)
def test_other_artifacts_are_refused(
    name: str, content: bytes | None, said: str, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (artifact / name).unlink()
    if content is not None:
        (artifact / name).write_bytes(content)
    refused(artifact, monkeypatch, Calls(), said)


def refused(artifact: Path, monkeypatch: pytest.MonkeyPatch, calls: Calls, said: str) -> None:
    monkeypatch.setattr(comment, "gh", calls)
    with pytest.raises(comment.Refused, match=said):
        comment.main(artifact)
    assert all(given is None for _, given in calls.asked)


@pytest.mark.parametrize("page", [None, "", " \n"])
def test_a_run_that_left_no_page_is_commented_as_one_without_a_verdict(
    page: str | None, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (artifact / "summary.md").unlink()
    if page is not None:
        (artifact / "summary.md").write_text(page)
    body = written(artifact, monkeypatch, Calls(comments="99"))
    assert body.startswith(comment.MARK)
    assert "No verdict: the run ended before the check could say why." in body
    assert "[the run](https://github.com/o/r/1)" in body


def test_a_page_that_says_why_there_is_no_verdict_is_shown(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (artifact / "summary.md").write_text(summary_without_verdict("GPU 0 is in use by 1 other process (41)."))
    assert "No verdict: GPU 0 is in use by 1 other process (41)." in written(artifact, monkeypatch, Calls())


def test_a_link_is_not_followed(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (artifact / "summary.md").rename(artifact / "other")
    (artifact / "summary.md").symlink_to(artifact / "other")
    refused(artifact, monkeypatch, Calls(), "no file summary.md")


def test_the_number_of_another_pull_request_is_refused(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(artifact, monkeypatch, Calls(head="b" * 40), "the run was of aaaa")


def test_a_long_page_fits_a_comment_of_github() -> None:
    assert len(comment.body_of("x" * comment.MOST_BYTES, HEAD, "https://github.com/o/r/1")) < 65_536
