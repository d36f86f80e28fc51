"""What MkDocs does not do by itself: pages that lie outside of docs/, and generated ones.

A page keeps the links it has in the repository, where they lead from file to file. Here they are
turned to where the page stands in the site; those to files that are no page lose their link.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
# A page of the repository, by where it stands in the site.
ROOT_PAGES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
FOLDERS = ("catalogs", "plugins/*", "examples/*")
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_MARK = re.compile(r"<!-- from the code: (\w+) -->")
_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)


def on_config(config: Any) -> Any:
    """Put the pages of plugins and examples where the navigation has their pattern."""
    for section in config.nav:
        for title, entries in section.items():
            if isinstance(entries, list):
                section[title] = [one for entry in entries for one in _expand(entry)]
    return config


def _expand(entry: Any) -> list[Any]:
    if entry not in FOLDERS:
        return [entry]
    return [place for place in list_outside() if PurePosixPath(place).match(f"{entry}/README.md")]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside of docs/."""
    for place, source in list_outside().items():
        files.append(File.generated(config, place, abs_src_path=str(REPOSITORY / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put in what is made from the code, and turn the links to where they lead in the site."""
    if _MARK.search(markdown):
        made = generate()
        markdown = _MARK.sub(lambda match: made[match[1]], markdown)
    return turn_links(markdown, page.file.src_uri)


def generate() -> dict[str, str]:
    """Return what is made from the code, by the name that a page has for it."""
    sys.path.insert(0, str(HERE))  # MkDocs loads this file alone
    from codes import draw_codes
    from commands import write_commands

    return draw_codes() | {"commands": write_commands()}


def list_outside() -> dict[str, str]:
    """Return where in the site each page outside of docs/ stands, and its path."""
    found = [path for folder in FOLDERS for path in sorted(REPOSITORY.glob(f"{folder}/README.md"))]
    names = [path.relative_to(REPOSITORY).as_posix() for path in found]
    return ROOT_PAGES | {name: name for name in names}


def turn_links(markdown: str, place: str) -> str:
    """Turn the links of a page from paths of the repository to places in the site.

    Parameters
    ----------
    markdown : str
        The page as it stands in the repository.
    place : str
        Where it is in the site, such as ``catalogs/README.md``.
    """
    source = list_outside().get(place, f"docs/{place}")
    held = [match.span() for match in _CODE.finditer(markdown)]

    def turn(match: re.Match[str]) -> str:
        text, target = match.groups()
        inside = any(first <= match.start() < last for first, last in held)
        if inside or ":" in target or target.startswith("#"):
            return match[0]
        path, _, anchor = target.partition("#")
        whole = normpath(f"{PurePosixPath(source).parent}/{path}")
        led = find_place(whole)
        if led is None:
            exists = (REPOSITORY / whole).exists()
            return text if exists else match[0]
        there = relpath(led, PurePosixPath(place).parent)
        return f"[{text}]({there}{'#' if anchor else ''}{anchor})"

    return _LINK.sub(turn, markdown)


def find_place(path: str) -> str | None:
    """Return where in the site a path of the repository stands; None where it is no page."""
    places = {source: place for place, source in list_outside().items()} | {"README.md": "index.md"}
    for name in _name_pages(path):
        if name in places:
            return places[name]
        if name.startswith("docs/") and name.endswith(".md"):
            return name.removeprefix("docs/")
    return None


def _name_pages(path: str) -> Iterator[str]:
    yield path
    yield f"{path}/README.md"
