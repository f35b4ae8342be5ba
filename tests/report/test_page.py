"""The page in HTML: nothing of a record becomes markup or code, and a browser draws it without a request."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hybridbench.record import Environment, Record, Status
from hybridbench.record.traced import TraceRecord
from hybridbench.report.build import build_report
from hybridbench.report.chart import Plot, Point
from hybridbench.report.render.charts import FAMILY_COLORS, draw
from hybridbench.report.render.html.elements import json_script
from hybridbench.report.render.html.page import html_page
from hybridbench.store import load
from hybridbench.suite.sweep import Sweep, cases

Make = Callable[..., Record]
EVIL = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)> &amp; \u2028\x00"


class Elements(HTMLParser):
    """The elements, the text and the JSON of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.json: dict[str, Any] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        attrs = self.tags[-1][1] if self.tags else {}
        if attrs.get("type") == "application/json":
            self.json[attrs["id"] or ""] = json.loads(data)
            self.tags.append(("", {}))
        else:
            self.words.append(data)


def test_a_page_shows_what_the_report_says(decode_records: list[Record]) -> None:
    report = build_report(decode_records)
    page = Elements(html_page(report))
    said = " ".join(page.words)
    for sentence in (*report.groups[0].findings, *report.machines):
        assert sentence in said
    assert "head_dim 72: no kernel takes it" in said
    figures = [attrs["id"] for tag, attrs in page.tags if tag == "figure"]
    charts = page.json["charts"]["charts"]
    # 6 plots, the spread, the roofline, and two predictions against their measurements
    assert figures == [f"chart-{number}" for number in range(10)]
    assert len(charts) == 10
    ok = sum(record.status is Status.OK for record in decode_records)
    assert len(charts[0]["rows"]) == ok
    assert [row[3] for row in charts[0]["rows"]] == pytest.approx(
        [point.amount for point in report.groups[0].plots["decode-throughput"].points], rel=1e-6
    )
    assert len(charts[0]["failed"]) == len(decode_records) - ok


def test_every_link_within_a_page_leads_somewhere(decode_records: list[Record], traces: list[TraceRecord]) -> None:
    page = Elements(html_page(build_report(decode_records, traces=traces)))
    linked = [attrs["href"] or "" for tag, attrs in page.tags if tag == "a"]
    inside = {link[1:] for link in linked if link.startswith("#")}
    named = {attrs["id"] for _, attrs in page.tags if attrs.get("id")}
    assert inside <= named
    assert {"group-0", "trace-0", "setting", "failures", "repeat", "unsaid"} <= inside
    assert "all of it was measured on NVIDIA H200" in " ".join(page.words)


def test_a_page_asks_for_nothing(decode_records: list[Record]) -> None:
    page = Elements(html_page(build_report(decode_records)))
    assert not any("src" in attrs for _, attrs in page.tags)
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "iframe", "object", "base", "form"})
    targets = [attrs["href"] or "" for tag, attrs in page.tags if tag == "a"]
    assert all(target.startswith(("#", "tables/")) for target in targets)
    (policy,) = [attrs["content"] or "" for _, attrs in page.tags if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'")


def test_nothing_of_a_record_becomes_markup_or_code(record_of: Make, h200: Environment) -> None:
    made = cases(Sweep("decode", arch="transformer,mamba", ctx="4k,8k"), has_gpu=True)
    evil = replace(h200, device=EVIL, cpu=EVIL, platform=EVIL, packages={EVIL: EVIL})
    records = [record_of(case, 0.002, evil) for case in made[1:]]
    records.append(record_of(made[0], environment=evil, status=Status.CRASHED, message=EVIL))
    tame = replace(h200, device="some GPU", packages={"torch": "2.11.0"})
    plain = [record_of(case, 0.002, tame) for case in made[1:]]
    plain.append(record_of(made[0], environment=tame, status=Status.CRASHED, message="signal 9"))
    text = html_page(build_report(records))
    page, same = Elements(text), Elements(html_page(build_report(plain)))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in same.tags]
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "\x00" not in text
    assert "<script>alert(1)</script>" in " ".join(page.words)


def test_json_in_a_script_cannot_end_it() -> None:
    script = json_script("x", {EVIL: [EVIL]})
    body = script.partition(">")[2].rpartition("</script>")[0]
    assert "<" not in body
    assert json.loads(body) == {EVIL: [EVIL]}


def test_one_colour_per_family_in_every_chart(decode_records: list[Record]) -> None:
    charts = Elements(html_page(build_report(decode_records))).json["charts"]["charts"]
    found = {(name.split()[0], color[-8:-1].upper()) for chart in charts for name, color, _ in chart["legend"]}
    assert found == {(arch, color.upper()) for arch, color in FAMILY_COLORS.items()}
    assert len({shape for chart in charts for _, _, shape in chart["legend"]}) == len(FAMILY_COLORS)


@pytest.mark.parametrize("most", [1.9, 90.0])
def test_a_floor_far_below_leaves_the_plot_to_the_lines(most: float) -> None:
    class Kin:
        arch = "mamba"

    def plot(floor: float) -> Plot:
        lines = [Point("mamba", 1024, 1.0), Point("mamba", 2048, most)]
        floors = [Point("mamba", place, floor, "predicted") for place in (1024, 2048)]
        return Plot("x", "x", "of a machine", "step", "s", "context", {"mamba": Kin()}, [*lines, *floors], [])

    scale = draw(plot(0.001))["layer"][0]["encoding"]["y"]["scale"]
    near = draw(plot(0.5))["layer"][0]["encoding"]["y"]["scale"]
    assert scale == near if most < 10 else scale["domain"] == [1.0, 100.0]
    subtitle = draw(plot(0.001))["title"]["subtitle"][0]
    assert subtitle == "of a machine" + ("; predicted below the axis where it is missing" if most > 10 else "")


def test_charts_that_look_alike_share_a_definition(decode_records: list[Record], h200: Environment) -> None:
    once = Elements(html_page(build_report(decode_records))).json["charts"]
    others = [replace(record, environment=replace(h200, device="NVIDIA H200 NVL")) for record in decode_records]
    both = Elements(html_page(build_report([*decode_records, *others]))).json["charts"]
    assert len(both["charts"]) == 2 * len(once["charts"])
    assert len(both["specs"]) < len(once["specs"]) + 5
    for chart in both["charts"]:
        fields = {name for name, _ in chart["columns"]}
        layers = both["specs"][chart["spec"]]["layer"]
        assert {part["field"] for layer in layers for part in layer["encoding"].get("tooltip", ())} <= fields


def test_two_runs_are_drawn_against_each_other(record_of: Make) -> None:
    made = cases(Sweep("decode", arch="transformer,mamba", ctx="4k,8k"), has_gpu=True)
    before = [replace(record_of(case, 0.002), run_id="a") for case in made]
    after = [replace(record_of(case, 0.003), run_id="b") for case in made]
    charts = build_report([*before, *after], {"a": "before", "b": "after"}).groups[0].scatters
    (chart,) = [chart for chart in charts if chart.name == "runs"]
    assert {(dot.series, dot.place) for dot in chart.dots} == {
        (arch, place) for arch in ("transformer", "mamba") for place in (4096, 8192)
    }
    assert all(dot.y / dot.x == pytest.approx(1.5) for dot in chart.dots)


def busy() -> float:
    """How many times as long as on an idle core of a server 10 million additions take now: there it is 0.4 s."""
    start, total = time.process_time(), 0
    for number in range(10_000_000):
        total += number
    return max(1.0, (time.process_time() - start) / 0.4)


@pytest.mark.slow
def test_ten_thousand_records_are_a_page_that_opens(record_of: Make, h200: Environment) -> None:
    made = cases(Sweep("decode", ctx="1k,2k,4k,8k,16k,32k,64k,128k"), has_gpu=True)
    records = [
        replace(
            record_of(case, 0.002 * 1.3 ** (number % 10)), environment=replace(h200, device=f"NVIDIA H200 {number}")
        )
        for number in range(250)
        for case in made
    ]
    assert len(records) == 10_000
    seconds = []
    for _ in range(2):  # a neighbour on the same core makes a second of it longer, before, after and meanwhile
        before = busy()
        again = [replace(record) for record in records]  # of which nothing is known yet
        start = time.process_time()
        page = html_page(build_report(again))
        seconds.append((time.process_time() - start) * 2 / (before + busy()))
    assert min(seconds) < 10, f"{seconds} s"
    assert len(page.encode()) < 15e6, f"{len(page):,} bytes"


# In a browser.

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CONTRAST = """
(() => {
  const parts = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
  const light = (color) => parts(color).slice(0, 3).map((one) => one / 255)
    .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (color !== "transparent" && parts(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const color = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const [low, high] = [light(color), light(behind(element))].sort((a, b) => a - b);
    found.push([walker.currentNode.data.slice(0, 40), parseFloat(style.fontSize), (high + 0.05) / (low + 0.05)]);
  }
  return found;
})()
"""
OVERLAPS = """
[...document.querySelectorAll("figure")].flatMap((figure) => {
  const plot = figure.querySelector(".plot").getBoundingClientRect();
  const words = [...figure.querySelectorAll(".plot svg text")]
    .filter((one) => one.textContent.trim() && getComputedStyle(one).opacity !== "0")
    .map((one) => [one.textContent, one.getBoundingClientRect()]);
  return words.flatMap(([word, box], at) => [
    ...(box.left < plot.left - 1 || box.right > plot.right + 1 ? [[figure.id, word, "is cut off"]] : []),
    ...words.slice(at + 1).filter(([, other]) =>
      Math.min(box.right, other.right) - Math.max(box.left, other.left) > 1 &&
      Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top) > 3
    ).map(([other]) => [figure.id, word, other]),
  ]);
})
"""
"""Words of charts that lie on each other or beyond their chart."""


class Browser:
    """A headless Chromium, spoken to in its DevTools protocol over a pair of pipes."""

    def __init__(self, profile: Path) -> None:
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_read, to_write)]
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            [str(CHROMIUM), *options, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: [os.dup2(end, place) for place, end in zip((3, 4), ends, strict=True)] and None,
            pass_fds=(3, 4),
        )
        for end in (to_read, to_write, *ends):
            os.close(end)
        self._numbers = itertools.count(1)
        self._rest = b""
        self.events: list[dict[str, Any]] = []
        self._session = ""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> Any:
        """Send a command and return its result; events on the way are kept."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        while (message := self._next()).get("id") != number:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            got = os.read(self._from, 1 << 16)
            assert got, "the browser has ended"
            self._rest += got
        first, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(first))

    def open(self, page: Path, width: int, scheme: str) -> None:
        """Open a page at a width in a colour scheme, and draw all its charts."""
        self.events.clear()
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())
        self.run("window.drawAll().then(() => true)")

    def run(self, code: str) -> Any:
        """The value of an expression in the page; that of a promise once it is kept."""
        found = self.ask("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(30)
        os.close(self._to)
        os.close(self._from)


@pytest.fixture(name="browser")
def _browser(tmp_path: Path) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine to open the page in")
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


@pytest.fixture(name="opened")
def _opened(decode_records: list[Record], tmp_path: Path) -> Path:
    page = tmp_path / "index.html"
    page.write_text(html_page(build_report(decode_records)), encoding="utf-8")
    return page


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("folder", ["efficiency", "lightning-rwkv7"])
def test_no_word_of_a_committed_result_is_cut_off(browser: Browser, tmp_path: Path, folder: str, width: int) -> None:
    results = Path(__file__).parents[2] / "results" / "nvidia-h200" / folder
    page = tmp_path / "index.html"
    page.write_text(html_page(build_report(load([results], lambda _: None))), encoding="utf-8")
    browser.open(page, width, "light")
    assert browser.run(OVERLAPS) == []
    assert browser.run("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (400, "dark"), (1600, "light"), (1600, "dark")])
def test_a_browser_draws_every_chart(browser: Browser, opened: Path, width: int, scheme: str) -> None:
    browser.open(opened, width, scheme)
    assert browser.run("document.querySelectorAll('figure[data-drawn] .plot svg').length") == 10
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    time.sleep(0.3)  # the tables behind charts are made in events of their own
    assert browser.run("document.querySelectorAll('figure .behind tbody').length") == 10
    assert browser.run("document.documentElement.scrollWidth") <= width
    small = [one for one in browser.run(CONTRAST) if one[1] < 11]
    assert small == []
    assert [one for one in browser.run(CONTRAST) if one[2] < 4.5] == []
    assert browser.run(OVERLAPS) == []
    methods = [event.get("method") for event in browser.events]
    assert "Runtime.exceptionThrown" not in methods
    assert [event for event in browser.events if event.get("method") == "Log.entryAdded"] == []
    assert [event for event in browser.events if event.get("method") == "Runtime.consoleAPICalled"] == []
    asked = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [opened.as_uri()]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1600, "light")])
def test_a_browser_draws_classes_and_hides_one(
    browser: Browser, traces: list[TraceRecord], tmp_path: Path, width: int, scheme: str
) -> None:
    page = tmp_path / "index.html"
    page.write_text(html_page(build_report([], traces=traces)), encoding="utf-8")
    browser.open(page, width, scheme)
    strips = "document.querySelectorAll('#chart-0 .mark-rect path').length"
    before = browser.run(strips)
    assert before == sum(len(trace.observed.parts_s) for trace in traces)
    assert browser.run(OVERLAPS) == []
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert [one for one in browser.run(CONTRAST) if one[1] < 11 or one[2] < 4.5] == []
    browser.run("document.querySelector('#chart-0 .legend button').click()")
    time.sleep(0.3)
    assert browser.run(strips) == before - len(traces), "matrix products are in both bars"


@pytest.mark.slow
def test_marks_say_their_values_and_legends_hide_them(
    browser: Browser, opened: Path, decode_records: list[Record]
) -> None:
    browser.open(opened, 1600, "light")
    marks = "document.querySelectorAll('#chart-0 .mark-symbol path').length"
    before = browser.run(marks)
    browser.run("document.querySelector('#chart-0 .legend button').click()")
    time.sleep(0.3)
    transformer = 4  # contexts
    assert browser.run(marks) == before - transformer
    browser.run("document.querySelector('#chart-0 .legend button').click()")
    time.sleep(0.3)
    assert browser.run(marks) == before
    box = browser.run(
        "(() => { const mark = document.querySelector('#chart-0 .mark-symbol path');"
        "mark.scrollIntoView({block: 'center'}); const one = mark.getBoundingClientRect();"
        "return [one.x + one.width / 2, one.y + one.height / 2]; })()"
    )
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    time.sleep(0.3)
    said = browser.run("document.querySelector('#vg-tooltip-element').innerText")
    named = dict(line.split("\t\n") for line in said.split("\n\n"))
    (plot,) = [plot for plot in build_report(decode_records).groups[0].plots.values() if plot.name == "throughput"]
    (point,) = [one for one in plot.points if one.series == named["model"] and one.place == 4096]
    assert named["context [tokens]"] == "4,096"
    assert float(named["throughput [tokens/s]"].replace(",", "")) == pytest.approx(point.amount, rel=1e-5)
