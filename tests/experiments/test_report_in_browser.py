"""The pages in headless Chromium: visible, without errors, within the width of a phone, a tablet and a desktop."""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cvjax.workflow.report.index import find_runs, index_of
from tests.experiments.written_pages import METRICS, write_finished, write_live

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1440, 900)}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium opens the pages")]


class Browser:
    """One tab of a headless Chromium, asked by the DevTools protocol over a pipe."""

    def __init__(self, folder: Path) -> None:
        (to_read, self._to), (self._from, to_write) = os.pipe(), os.pipe()
        low = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 100) for end in (to_read, to_write)]

        def wire() -> None:  # Chromium reads from 3 and writes to 4
            os.dup2(low[0], 3)
            os.dup2(low[1], 4)

        self._process = subprocess.Popen(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
             f"--user-data-dir={folder}", "about:blank"], preexec_fn=wire, close_fds=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in (to_read, to_write, *low):
            os.close(end)
        self._asked, self._rest, self.events = 0, b"", []
        self._session: str | None = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one request; events that come before it are kept."""
        self._asked += 1
        request = {"id": self._asked, "method": method, "params": parameters}
        if self._session:
            request["sessionId"] = self._session
        os.write(self._to, json.dumps(request).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._asked:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._from, 1 << 20)
            assert read, "Chromium has ended"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        """Open a file and wait until it is there."""
        self.events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                 mobile=width < 500)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=path.as_uri())
        self.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")

    def value(self, expression: str) -> Any:
        """What JavaScript says."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 30) -> None:
        """Wait until JavaScript says yes."""
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.1)

    def press(self, key: str) -> None:
        """Press a key and release it."""
        code = {"Tab": 9, "Enter": 13}[key]
        more = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    @property
    def complaints(self) -> list[Any]:
        """Errors of scripts and of the console, and requests for anything but the page and what is in it."""
        self.value("1")  # reads what has come
        found = []
        for event in self.events:
            method, said = event["method"], event["params"]
            if method == "Runtime.exceptionThrown" or method == "Log.entryAdded" and said["entry"]["level"] == "error":
                found.append(said)
            elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning"):
                found.append(said)
            elif method == "Network.requestWillBeSent":
                url = said["request"]["url"]
                if not url.startswith("data:image/png") and not url.endswith(".html"):
                    found.append(url)
        return found

    def close(self) -> None:
        os.close(self._to)
        self._process.wait(30)
        os.close(self._from)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A page of each kind."""
    runs = tmp_path_factory.mktemp("runs")
    for experiment, name in (("supervised", "a"), ("supervised", "b" * 80)):
        write_finished(runs / experiment / name, METRICS | {"test/top1": 0.5 + len(name) / 1000})
    write_live(runs / "supervised" / "live")
    write_live(runs / "supervised" / "stopped", stopped="saved at step 50 of 200")
    (runs / "index.html").write_text(index_of(runs, find_runs(runs))[0], encoding="utf-8")
    found = {"finished": "a", "long": "b" * 80, "live": "live", "stopped": "stopped"}
    return {"index": runs / "index.html"} | {kind: runs / "supervised" / name / "report.html"
                                             for kind, name in found.items()}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["finished", "long", "live", "stopped", "index"])
def test_a_page_is_visible_and_as_wide_as_the_window(browser, pages, kind, size):
    browser.open(pages[kind], *SIZES[size])
    assert browser.value("document.title") and "obeyed" not in browser.value("document.title").split('"')
    wanted = {"index": ["h1", "table", "nav"], "live": ["h1", "#progress", "svg.plot", "#state", "#refresh"],
              "stopped": ["h1", "#progress", ".alarm", "pre.command", "svg.plot"]}
    for selector in wanted.get(kind, ["h1", "#state", ".tiles dd", "svg.plot", "img", "#next pre", "#made details"]):
        box = f"document.querySelector('{selector}').getBoundingClientRect()"
        assert browser.value(f"{box}.width > 8 && {box}.height > 8"), selector
    browser.value("document.querySelectorAll('details').forEach(part => part.open = true)")
    width = browser.value("document.documentElement.scrollWidth")
    assert width <= SIZES[size][0], f"{width} pixels wide: it scrolls sideways"
    assert browser.value("[...document.images].every(image => image.naturalWidth > 0)")
    assert browser.complaints == []


def test_light_and_dark(browser, pages):
    brightness = []
    for dark in (False, True):
        browser.open(pages["finished"], 390, 844, dark)
        colours = [browser.value(f"getComputedStyle(document.querySelector('{part}')).{what}").strip("rgb()").split(",")
                   for part, what in (("body", "backgroundColor"), ("body", "color"), ("section", "backgroundColor"),
                                      (".note", "color"))]
        brightness.append([sum(map(int, colour)) / 765 for colour in colours])
    (page, ink, card, soft), (dark_page, dark_ink, dark_card, dark_soft) = brightness
    assert min(page, card) - max(ink, soft) > 0.5 and min(dark_ink, dark_soft) - max(dark_page, dark_card) > 0.4


def test_the_keyboard_reaches_everything(browser, pages):
    browser.open(pages["finished"], 1440, 900)
    browser.press("Tab")
    assert browser.value("document.activeElement.className") == "skip"
    browser.press("Enter")
    browser.wait_for("location.hash === '#main'")
    seen = []
    for _ in range(40):
        browser.press("Tab")
        seen.append(browser.value("document.activeElement.tagName + '#' + document.activeElement.parentElement?.id"))
    for place in ("SUMMARY#changed", "SUMMARY#protocol", "SUMMARY#environment", "PRE#next", "SUMMARY#resume"):
        assert place in seen, (place, seen)
    browser.value("document.querySelector('#changed summary').focus()")
    browser.press("Enter")
    browser.wait_for("document.querySelector('#changed').open")


def test_the_index_is_sorted_by_a_click_on_a_heading(browser, pages):
    browser.open(pages["index"], 1440, 900)

    def rows() -> list[str]:
        return browser.value("[...document.querySelectorAll('table.sorted tbody th')].map(cell => cell.dataset.value)")

    best_first = ["supervised/" + "b" * 80, "supervised/a"]
    assert rows() == best_first
    button = "document.querySelectorAll('table.sorted thead th')[%d].querySelector('button').click()"
    for column, order, sort in ((0, best_first[::-1], "ascending"), (0, best_first, "descending"),
                                (1, best_first, "descending"), (1, best_first[::-1], "ascending")):
        browser.value(button % column)
        assert rows() == order
        assert browser.value(f"document.querySelectorAll('table.sorted thead th')[{column}].ariaSort") == sort
    assert browser.complaints == []


def test_a_live_page_loads_itself_anew_until_the_run_is_complete_and_says_when_it_is_old(browser, tmp_path):
    run = write_live(tmp_path / "run")
    browser.open(run / "report.html", 390, 844)
    assert browser.value("document.getElementById('alarm').hidden")
    assert "seconds ago" in browser.value("document.getElementById('ago').textContent")
    browser.value("document.getElementById('fields').open = true")
    content = (run / "report.html").read_text(encoding="utf-8")
    old = content.replace(content.split('datetime="')[1][:20], "2020-01-01T00:00:00Z")
    (run / "report.html").write_text(old, encoding="utf-8")
    browser.wait_for("document.getElementById('alarm')?.hidden === false")
    browser.wait_for("document.getElementById('state')?.textContent === 'no sign of life'")
    browser.wait_for("document.getElementById('fields')?.open")  # what a reader has opened stays open
    write_finished(run)
    browser.wait_for("document.getElementById('state')?.textContent === 'complete'")
    assert browser.complaints == []
