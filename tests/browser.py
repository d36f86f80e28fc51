"""A page as a browser shows it: what stands on it, what it asked for, what it complained of."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

SHOWN = ("svg", "img", "table", "section")
# What a page is looked at on: width and height in CSS pixels.
PHONE, DESKTOP = (390, 844), (1280, 900)
_PATIENCE = 60.0
# Chromium reads commands from descriptor 3 and answers on 4.
_START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)


class Reader(HTMLParser):
    """Collects elements, their attributes and the text a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Reader:
    return Reader(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Seen:
    """What a browser made of a page."""

    dom: Reader
    requested: list[str]
    console: list[str]


@dataclass
class Browser:
    """A browser without a window, spoken to by its debugging protocol over two pipes."""

    commands: int
    answers: int
    events: list[dict[str, Any]] = field(default_factory=list)
    session: str | None = None
    number: int = 0
    rest: bytes = b""

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give a command and return its answer; events that come before it are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        for answer in self._read():
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)
        raise AssertionError("the browser has ended")

    def _read(self) -> Iterator[dict[str, Any]]:
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            while b"\0" in self.rest:
                message, _, self.rest = self.rest.partition(b"\0")
                yield json.loads(message)
            found = os.read(self.answers, 1 << 20)
            if not found:
                return
            self.rest += found
        raise AssertionError("the browser does not answer")

    def open(self, page: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        """Show a page, at a size and in a colour scheme, and wait until all of it is there."""
        if self.session is None:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self.session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1],
            deviceScaleFactor=1, mobile=size[0] < 600,
        )  # fmt: skip
        scheme_feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[scheme_feature])
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        until = time.monotonic() + _PATIENCE
        # The page before it may still be there for a moment.
        done = f"document.readyState == 'complete' && location.href == {json.dumps(page.as_uri())}"
        while not self.run(done):
            assert time.monotonic() < until, "the page is never complete"
            time.sleep(0.02)

    def run(self, script: str) -> Any:
        """Return what a script in the page gives; a promise is waited for."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def shoot(self, path: Path, *, whole: bool = False) -> None:
        """Write a picture of what is seen, or of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def see(self) -> Seen:
        """Return what became of the page that is open."""
        dom = Reader(self.run("document.documentElement.outerHTML"))
        return Seen(dom, self._list_requests(), self._list_complaints())

    def _list_requests(self) -> list[str]:
        sent = [one for one in self.events if one.get("method") == "Network.requestWillBeSent"]
        urls = {
            one["params"]["request"]["url"] for one in sent if one["params"]["type"] != "Document"
        }
        return sorted(url for url in urls if not url.startswith("data:"))

    def _list_complaints(self) -> list[str]:
        said = []
        for event in self.events:
            facts = event.get("params", {})
            if event.get("method") == "Runtime.consoleAPICalled":
                said.append(str([one.get("value") for one in facts["args"]]))
            if event.get("method") == "Runtime.exceptionThrown":
                said.append(str(facts["exceptionDetails"]["text"]))
            # What could not be loaded stands among the requests.
            entry = facts.get("entry", {})
            if event.get("method") == "Log.entryAdded" and entry["source"] != "network":
                said.append(str(entry["text"]))
        return said


@contextmanager
def start_browser(folder: Path) -> Iterator[Browser]:
    """Start a browser that finds no host; it keeps its files in the folder."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-sync", "--disable-component-update"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe"]
    flags += [f"--user-data-dir={folder / 'profile'}"]
    ours, theirs = [0, 0], [0, 0]
    theirs[0], ours[0] = os.pipe()
    ours[1], theirs[1] = os.pipe()
    # Away from 3 and 4, so that one is not overwritten by the other.
    high = [fcntl.fcntl(one, fcntl.F_DUPFD, 20) for one in theirs]
    command = [sys.executable, "-c", _START, *map(str, high), program, *flags]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, pass_fds=high, **quiet)
    for one in (*theirs, *high):
        os.close(one)
    browser = Browser(*ours)
    try:
        yield browser
        browser.session = None
        browser.call("Browser.close")
        process.wait(_PATIENCE)
    finally:
        process.kill()
        process.wait()
        for one in ours:
            os.close(one)


def open_page(page: Path, folder: Path) -> Seen:
    """Open a page in a browser of its own, and return what it made of it."""
    with start_browser(folder) as browser:
        browser.open(page)
        return browser.see()


def check_page(page: Path, seen: Seen) -> dict[str, int]:
    """Check that a browser showed all of a page and asked for nothing; return what it shows."""
    assert seen.requested == []
    assert seen.console == []
    counts = []
    for parsed in (seen.dom, read(page)):
        tags = [tag for tag, _ in parsed.elements]
        counts.append({tag: tags.count(tag) for tag in SHOWN})
    assert counts[0] == counts[1]
    return counts[0]
