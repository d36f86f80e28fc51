"""Sections of a report that plugins add: text, tables and figures, and no markup of their own.

What a plugin gives is data. Text is escaped by the page's templates as any other; a figure is a
picture in an ``img``, where a browser runs no script and asks for nothing (HTML Standard, 4.8.4.4;
SVG 2, 2.7: secure static mode), and an SVG that would is refused all the same. A section that
fails is a note where it would stand, and the rest of the report is as it was.
"""

from __future__ import annotations

import base64
import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from medkit.errors import PluginError
from medkit.evaluation.evidence import Evidence
from medkit.plugins import find_plugin, load_plugin

_PNG = b"\x89PNG\r\n\x1a\n"
_FIGURE = 4 * 2**20  # bytes
_TEXT = 20_000  # characters
_BLOCKS, _ROWS, _COLUMNS = 50, 1000, 20
# What matplotlib and others write before and beside a drawing, which says nothing to a reader.
_DOCTYPE = re.compile(rb"<!DOCTYPE[^\[>]*>")
_SVG = "{http://www.w3.org/2000/svg}"
_FORBIDDEN = {"script", "foreignObject", "image", "iframe", "a", "animate", "set", "handler"}
_LOADS = re.compile(r"url\(\s*['\"]?(?!#|['\"]?#)|@import", re.IGNORECASE)


@dataclass(frozen=True)
class Paragraph:
    """Some sentences."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of texts and numbers; a number is shown with three decimals, None as a dash.

    Attributes
    ----------
    caption : str
        What it shows.
    columns : sequence of str
        Their heads.
    rows : sequence of sequence
        Of str, int, float or None.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes
    ----------
    picture : bytes
        A PNG, or an SVG that loads nothing and runs nothing.
    alternative : str
        What it shows, for those who cannot see it.
    caption : str
        Below it.
    """

    picture: bytes
    alternative: str
    caption: str = ""


Block = Paragraph | Table | Figure
SectionWriter = Callable[["RunData"], tuple[str, Sequence[Block]]]


@dataclass(frozen=True)
class RunData:
    """What a section is made from: copies, which the plugin may change as it likes.

    Attributes
    ----------
    name : str
        Of the run.
    folder : Path
        The run's, to read from.
    record : dict
        ``run.json``.
    metrics : dict or None
        ``metrics.json``.
    predictions : DataFrame or None
        ``predictions.parquet``: image, person, fold, label, predicted, and ``p:CLASS`` of each
        class, out of fold.
    folds : DataFrame or None
        ``image, split_group, label, fold`` of every image that was dealt out.
    """

    name: str
    folder: Path
    record: dict[str, Any]
    metrics: dict[str, Any] | None
    predictions: pd.DataFrame | None
    folds: pd.DataFrame | None


def write_sections(evidence: Evidence, plugins: Sequence[str]) -> list[dict[str, Any]]:
    """Return what plugins add to the report of a run, for the template.

    Raises
    ------
    UsageError
        If no plugin has such a name.
    PluginError
        If two have; what else goes wrong is a note in the section.
    """
    return [_write(evidence, plugin) for plugin in plugins]


def _write(evidence: Evidence, plugin: str) -> dict[str, Any]:
    found = {"plugin": plugin, "origin": find_plugin("section", plugin).origin, "note": ""}
    try:
        title, blocks = load_plugin("section", plugin)(_copy(evidence))
        described = [_describe(block) for block in _check_length(blocks)]
        return {**found, "title": _check_text(title), "blocks": described}
    except (Exception, SystemExit) as error:  # the report is there for more than this
        note = f"{type(error).__name__}: {error}"[:300]
        return {**found, "title": plugin, "blocks": [], "note": note}


def _copy(evidence: Evidence) -> RunData:
    def table(given: pd.DataFrame | None) -> pd.DataFrame | None:
        return None if given is None else given.copy(deep=True)

    metrics: Mapping[str, Any] | None = evidence.metrics
    return RunData(
        evidence.name,
        evidence.folder,
        copy.deepcopy(dict(evidence.run)),
        None if metrics is None else copy.deepcopy(dict(metrics)),
        table(evidence.predictions),
        table(evidence.folds),
    )


def _check_length(blocks: Any) -> Sequence[Any]:
    if not isinstance(blocks, list | tuple) or not 0 < len(blocks) <= _BLOCKS:
        raise PluginError(f"a section is a list of 1 to {_BLOCKS} blocks")
    return blocks


def _describe(block: Any) -> dict[str, Any]:
    for kind, describe in _BLOCKS_OF.items():
        if isinstance(block, kind):
            found: dict[str, Any] = describe(block)
            return {"kind": kind.__name__.lower(), **found}
    raise PluginError(f"{type(block).__name__} is no block; there are Paragraph, Table and Figure")


def _describe_paragraph(block: Paragraph) -> dict[str, Any]:
    return {"text": _check_text(block.text)}


def _describe_table(block: Table) -> dict[str, Any]:
    columns = [_check_text(column) for column in block.columns]
    if len(columns) > _COLUMNS or len(block.rows) > _ROWS:
        raise PluginError(f"a table has at most {_COLUMNS} columns and {_ROWS} rows")
    if any(len(row) != len(columns) for row in block.rows):
        raise PluginError("a row of a table has another number of cells than there are columns")
    rows = [[_describe_cell(cell) for cell in row] for row in block.rows]
    return {"caption": _check_text(block.caption), "columns": columns, "rows": rows}


def _describe_cell(cell: Any) -> str | int | float | None:
    if cell is None or isinstance(cell, bool):
        return None if cell is None else ("yes" if cell else "no")
    if isinstance(cell, str):
        return _check_text(cell)
    number = cell.item() if hasattr(cell, "item") else cell  # of NumPy
    if isinstance(number, int):
        return number
    if isinstance(number, float):
        return number if math.isfinite(number) else None
    raise PluginError(f"{type(cell).__name__} is nothing that a table shows")


def _describe_figure(block: Figure) -> dict[str, Any]:
    alternative = _check_text(block.alternative)
    if not alternative.strip():
        raise PluginError("a figure needs words for those who cannot see it")
    picture = block.picture
    if not isinstance(picture, bytes) or len(picture) > _FIGURE:
        raise PluginError(f"a figure is at most {_FIGURE:,} bytes of PNG or SVG")
    kind = "png"
    if not picture.startswith(_PNG):
        kind, picture = "svg+xml", clean_svg(picture)
    address = f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
    return {"address": address, "alternative": alternative, "caption": _check_text(block.caption)}


_BLOCKS_OF: Mapping[type, Any] = {
    Paragraph: _describe_paragraph,
    Table: _describe_table,
    Figure: _describe_figure,
}


def clean_svg(picture: bytes) -> bytes:
    """Return an SVG without its document type and metadata.

    Raises
    ------
    PluginError
        If it is none, or has what could run, load or lead elsewhere.
    """
    stripped = _DOCTYPE.sub(b"", picture, count=1)
    if b"<!DOCTYPE" in stripped or b"<!ENTITY" in stripped or b"<?xml-stylesheet" in stripped:
        raise PluginError("an SVG with a document type of its own is not shown")
    try:
        root = ElementTree.fromstring(stripped)
    except ElementTree.ParseError as error:
        raise PluginError(f"a figure is neither PNG nor SVG: {error}") from None
    if root.tag != f"{_SVG}svg":
        raise PluginError("a figure is neither PNG nor SVG")
    for parent in [*root.iter()]:
        for child in [*parent]:
            if child.tag == f"{_SVG}metadata":
                parent.remove(child)
    for element in root.iter():
        _check_element(element)
    for prefix, space in (("", _SVG[1:-1]), ("xlink", "http://www.w3.org/1999/xlink")):
        ElementTree.register_namespace(prefix, space)
    return ElementTree.tostring(root)


def _check_element(element: ElementTree.Element) -> None:
    name = str(element.tag).removeprefix(_SVG)
    if name in _FORBIDDEN or name.startswith("{"):
        raise PluginError(f"an SVG with the element {name!r} is not shown")
    for key, value in [*element.attrib.items(), ("", element.text or "")]:
        local = key.rpartition("}")[2].lower()
        leads = local in ("href", "src") and not value.startswith("#")
        if local.startswith("on") or leads or _LOADS.search(value):
            raise PluginError(f"an SVG whose {name} runs or loads something is not shown")


def _check_text(text: Any) -> str:
    if not isinstance(text, str) or len(text) > _TEXT:
        raise PluginError(f"a text is at most {_TEXT:,} characters, not {type(text).__name__}")
    return text
