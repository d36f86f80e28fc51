"""Sections that plugins add to a report: escaped text, and figures that load and run nothing."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Seen, check_page
from test_report import POISON, fabricate_run

from medkit.errors import PluginError, UsageError
from medkit.evaluation import sections
from medkit.evaluation.report import write_page
from medkit.evaluation.sections import Figure, Paragraph, RunData, Table, clean_svg
from medkit.workspace import Workspace

SVG = b"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'>%s</svg>"
CIRCLE = SVG % b"<circle r='3' fill='url(#a)'/>"


@pytest.fixture
def written(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Path]:
    """Write a report with a section that a function gives."""
    folder = fabricate_run(workspace)

    def write(give: Callable[[RunData], Any], name: str = "page") -> Path:
        monkeypatch.setattr(sections, "load_plugin", lambda kind, plugin: give)

        class Entry:
            origin = "mine 1.0"

        monkeypatch.setattr(sections, "find_plugin", lambda kind, plugin: Entry)
        path = workspace.root / f"{name}.html"
        return write_page([folder], path, workspace, saliency=False, sections=["mine"])

    return write


def test_blocks_stand_on_the_page_escaped(written: Callable[[Any], Path]) -> None:
    page = written(
        lambda run: (
            POISON,
            [
                Paragraph(POISON),
                Table(POISON, ["name", POISON], [[POISON, 0.25], ["two", np.int64(1234)]]),
                Table("none", ["a", "b"], [["x", None], ["y", float("nan")], ["z", np.True_]]),
                Figure(CIRCLE, POISON, POISON),
                Figure(b"\x89PNG\r\n\x1a\n...", "a picture"),
            ],
        )
    )
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html and "mine 1.0" in html
    assert "0.250" in html and "1,234" in html
    found = re.findall(r'class="added" src="data:image/(svg\+xml|png);base64,([^"]+)"', html)
    assert [kind for kind, _ in found] == ["svg+xml", "png"]
    assert b"circle" in base64.b64decode(found[0][1])


def test_without_sections_a_report_is_as_it_was(
    written: Callable[[Any], Path], workspace: Workspace
) -> None:
    def fail(run: RunData) -> Any:
        raise ValueError(f"no{POISON}")

    html = written(fail).read_text(encoding="utf-8")
    assert "This section could not be written: ValueError: no" in html and "<script" not in html
    bare = write_page(
        [workspace.run("first")], workspace.root / "bare.html", workspace, saliency=False
    )
    section = html.index('<section aria-labelledby="r1-added1')
    rest = html[:section] + html[html.index("<section", section + 1) :]
    rest = rest.replace('<li><a href="#r1-added1">mine</a></li>\n', "")
    assert re.sub(r"\s+", " ", rest) == re.sub(r"\s+", " ", bare.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda run: exit(3), "SystemExit"),
        (lambda run: None, "TypeError"),
        (lambda run: ("title", "text"), "1 to 50 blocks"),
        (lambda run: ("title", ["<b>"]), "str is no block"),
        (lambda run: ("title", []), "1 to 50 blocks"),
        (lambda run: (3, [Paragraph("x")]), "at most 20,000 characters"),
        (lambda run: ("t", [Paragraph("x" * 20_001)]), "at most 20,000 characters"),
        (lambda run: ("t", [Table("c", ["a"], [["b", "c"]])]), "another number of cells"),
        (lambda run: ("t", [Table("c", ["a"], [[object()]])]), "nothing that a table shows"),
        (lambda run: ("t", [Figure(CIRCLE, " ")]), "words for those who cannot see"),
        (lambda run: ("t", [Figure(b"GIF89a", "x")]), "neither PNG nor SVG"),
        (lambda run: ("t", [Figure(b"\x89PNG\r\n\x1a\n" * 10**6, "x")]), "bytes of PNG or SVG"),
    ],
)
def test_a_section_that_is_wrong_is_a_note(
    given: Any, words: str, written: Callable[[Any], Path]
) -> None:
    html = written(given).read_text(encoding="utf-8")
    assert words in html.partition("This section could not be written: ")[2][:400]
    assert "What was taken for what" in html


def test_it_cannot_change_what_the_rest_shows(written: Callable[[Any], Path]) -> None:
    def spoil(run: RunData) -> Any:
        assert run.metrics is not None and run.predictions is not None
        run.metrics["metrics"]["auc"]["value"] = 1.0
        run.record["classes"].clear()
        run.predictions.loc[:, "label"] = "CT"
        return "t", [Paragraph("done")]

    honest = written(lambda run: ("t", [Paragraph("done")]), "honest").read_text(encoding="utf-8")
    assert written(spoil).read_text(encoding="utf-8") == honest


@pytest.mark.parametrize(
    "inside",
    [
        b"<script>alert(1)</script>",
        b"<circle onclick='x()' r='1'/>",
        b"<image href='http://example.org/a.png'/>",
        b"<use href='http://example.org/a.svg#b'/>",
        b"<a href='http://example.org'><circle r='1'/></a>",
        b"<style>@import 'http://example.org/a.css';</style>",
        b"<style>circle { fill: url(http://example.org/a) }</style>",
        b"<circle style='fill: url(\"http://example.org/a\")' r='1'/>",
        b"<foreignObject><b xmlns='http://www.w3.org/1999/xhtml'>x</b></foreignObject>",
        b"<b xmlns='http://www.w3.org/1999/xhtml'>x</b>",
        b"<animate attributeName='href'/>",
    ],
)
def test_an_svg_that_runs_or_loads_is_refused(inside: bytes) -> None:
    with pytest.raises(PluginError, match="not shown"):
        clean_svg(SVG % inside)


def test_a_document_type_goes_and_one_with_entities_is_refused() -> None:
    plain = b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/svg11.dtd">'
    metadata = b"<metadata><a href='http://purl.org'/></metadata><g/>"
    cleaned = clean_svg(b"<?xml version='1.0'?>" + plain + SVG % metadata)
    assert b"DOCTYPE" not in cleaned and b"metadata" not in cleaned and b"<g" in cleaned
    bomb = b"<!DOCTYPE svg [<!ENTITY a 'aaaa'>]>" + CIRCLE
    with pytest.raises(PluginError, match="document type"):
        clean_svg(bomb)


def test_what_matplotlib_writes_is_shown() -> None:
    import io

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure as Drawing

    drawing, written = Drawing(), io.BytesIO()
    drawing.subplots().plot([1, 2], [3, 4], label="a")
    drawing.savefig(written, format="svg")
    assert b"<path" in clean_svg(written.getvalue())


def test_one_that_is_not_installed_is_named(workspace: Workspace) -> None:
    folder = fabricate_run(workspace)
    with pytest.raises(UsageError, match="no section plugin is named 'missing'"):
        write_page([folder], workspace.root / "p.html", workspace, sections=["missing"])


def test_the_page_is_whole_without_a_network(
    written: Callable[[Any], Path], browse: Callable[[Path], Seen]
) -> None:
    page = written(lambda run: ("More", [Paragraph("x"), Figure(CIRCLE, "a circle")]))
    assert check_page(page, browse(page))["img"] >= 1
