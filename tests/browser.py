"""A page as a browser shows it: what stands on it, what it asked for, what it complained of."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

SHOWN = ("svg", "img", "table", "section")
NOBODY = "not an origin"


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


def open_page(page: Path, folder: Path) -> Seen:
    """Open a page in a browser that finds no host; it writes into the folder."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed")
    log = folder / f"{page.stem}-network.json"
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
    command += ["--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}"]
    command += ["--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # The browser's own pages, which it may load beside, complain too.
    console = [line for line in said if "source: chrome://" not in line]
    return Seen(Reader(done.stdout), list_requests(log), console)


def list_requests(log: Path) -> list[str]:
    """Return the addresses that a page asked for; the browser's own requests have no origin."""
    logged = [event.get("params", {}) for event in json.loads(log.read_bytes())["events"]]
    asked = {one["url"] for one in logged if one.get("initiator", NOBODY) != NOBODY}
    return sorted(url for url in asked if not url.startswith("chrome"))


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
