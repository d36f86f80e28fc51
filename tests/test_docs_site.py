"""The site builds without a warning, and a page of it asks no other host for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import DESKTOP, PHONE, Browser, start_browser
from docpages import REPOSITORY

pytest.importorskip("mkdocs", reason="needs the extra 'docs'")

# One page of each kind: start, text with tables, generated, from docstrings, from outside of docs/.
SEEN = ("index", "pixels", "reference/commands", "reference/python", "plugins/medkit-cnn/index")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    quiet = {"NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | quiet
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with start_browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


def test_no_page_names_a_script_style_font_or_picture_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 35
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]+src=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link[^>]+href=\"([^\"]+)\"", text)
        assert loaded
        assert not [one for one in loaded if "//" in one], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("page", SEEN)
def test_a_page_is_whole_without_a_network(
    site: Path, browser: Browser, page: str, size: tuple[int, int]
) -> None:
    browser.open(site / f"{page}.html", size)
    seen = browser.see()
    assert seen.console == []
    assert [one for one in seen.requested if not one.startswith(site.as_uri())] == []
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.run("document.querySelector('article').innerText.length > 500")


def test_the_site_can_be_searched_without_a_network(site: Path, browser: Browser) -> None:
    browser.open(site / "index.html")
    browser.run("document.querySelector('[data-md-component=search-query]').focus()")
    browser.run(
        "(() => { const query = document.querySelector('[data-md-component=search-query]');"
        "query.value = 'letterbox';"
        "query.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true})); })()"
    )
    until = time.monotonic() + 60
    hits = "[...document.querySelectorAll('.md-search-result__item a')].map(hit => hit.href)"
    while not (found := browser.run(hits)):
        assert time.monotonic() < until, "nothing is found"
        time.sleep(0.1)
    assert any("commands.html" in one or "design.html" in one for one in found)
