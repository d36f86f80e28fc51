"""Under which terms images came: what fetch noted when it brought their sources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from medkit.errors import UsageError
from medkit.sources.fetching import PROVENANCE
from medkit.text import reveal
from medkit.workspace import Workspace, read_json

UNKNOWN = "unknown: not fetched by medkit"

_UNSTATED = "not stated"
_STATED = ("licence", "title", "version", "citation", "homepage")
# Words of a licence, and what to say where they stand in it. No licence is called free: only its
# holder's words say what it allows.
_NOTICES = (
    (
        re.compile(r"unknown|not stated", re.IGNORECASE),
        "nobody stated under which terms these images may be used or passed on: ask whoever "
        "gave them to you before you do either",
    ),
    (
        re.compile(
            r"redistribut|non-?\s?commercial|no-?\s?deriv|\b(nc|nd)\b|restrict|agreement"
            r"|permission|on request|confidential|proprietary|terms",
            re.IGNORECASE,
        ),
        "its words set conditions on use or on passing the images on: read them before you do",
    ),
)
# What a dataset card may call a licence by; of any other its words stand in the file beside it.
_CARD_NAMES = {
    "apache-2.0", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0",
    "cc-by-nd-4.0", "mit", "pddl", "odc-by",
}  # fmt: skip


@dataclass(frozen=True)
class Terms:
    """What is known of a source, in its holder's words."""

    source: str
    licence: str = UNKNOWN
    title: str = ""
    version: str = ""
    citation: str = ""
    homepage: str = ""

    @property
    def notice(self) -> str:
        """What a user is to be told beside the licence; nothing where there is no need."""
        return next((words for pattern, words in _NOTICES if pattern.search(self.licence)), "")

    def to_json(self, images: int) -> dict[str, Any]:
        """Return what is known, the notice, and how many images come from there."""
        return asdict(self) | {"notice": self.notice, "images": images}


def read_terms(workspace: Workspace, sources: Iterable[str]) -> dict[str, Terms]:
    """Return what fetch noted of each source; of others, that their terms are unknown.

    Raises
    ------
    WorkspaceError
        If what it noted is damaged: terms that cannot be read are not to be passed over.
    """
    return {source: _read(workspace, source) for source in sorted(set(sources))}


def name_licence(terms: Iterable[Terms]) -> str:
    """Return what a dataset card calls the licence: its name if all have one, else ``other``."""
    names = {known.licence.strip().casefold() for known in terms}
    return names.pop() if len(names) == 1 and names <= _CARD_NAMES else "other"


def write_licences(sources: Iterable[Mapping[str, Any]]) -> str:
    """Return the licences of sources as plain text, no character of which acts unseen."""
    lines = ["The images beside this file come from these sources.", ""]
    for source in sources:
        lines += [f"{reveal(source['source'])}: {source['images']} images", ""]
        lines += [
            f"    {name}: {reveal(' '.join(source[name].split()))}"
            for name in (*_STATED, "notice")
            if source[name]
        ]
        lines.append("")
    return "\n".join(lines)


def _read(workspace: Workspace, source: str) -> Terms:
    try:
        path = workspace.source(source) / PROVENANCE
    except UsageError:  # what catalog --source was given need not be a name of a folder
        return Terms(source)
    if not path.exists():
        return Terms(source)
    noted = read_json(path)
    known = {name: str(noted[name]) for name in _STATED if noted.get(name)}
    if noted.get("protocol") == "local" and known.get("version") == _UNSTATED:
        # No descriptor told of it: fetch named it after its place on this disk.
        known.pop("title", None)
    return Terms(source, **known)
