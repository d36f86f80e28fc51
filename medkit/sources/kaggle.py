"""Kaggle's competitions and datasets, by its HTTPS interface and the usual keys.

Nothing is accepted on anybody's behalf: where rules wait for a yes, the address to open is shown.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from medkit.errors import SourceError, UsageError
from medkit.sources.addresses import place_of
from medkit.sources.descriptor import Descriptor
from medkit.sources.endpoints import Endpoint, find_endpoint
from medkit.sources.plans import Item, Plan, Preflight

# A proxy of one's own before Kaggle.
ENDPOINT = "MEDKIT_KAGGLE_ENDPOINT"
_SITE = "https://www.kaggle.com"
# Its downloads are redirected to Google's storage.
_HOSTS = ("www.kaggle.com", "api.kaggle.com", "storage.googleapis.com", "*.kaggleusercontent.com")
_NAME = r"[A-Za-z0-9_-]+"
_COMPETITION = re.compile(rf"competition/({_NAME})")
_DATASET = re.compile(rf"dataset/({_NAME})/({_NAME})(?:/versions/([0-9]+))?")
_KEYS = (
    f"make a token at {_SITE}/settings and put it into KAGGLE_API_TOKEN or "
    "~/.kaggle/access_token (or user name and key into KAGGLE_USERNAME and KAGGLE_KEY, or "
    "~/.kaggle/kaggle.json)"
)


@dataclass(frozen=True)
class _Place:
    """A competition or a dataset.

    Attributes
    ----------
    page : str
        Its page for people.
    listing, download : str
        Addresses of the interface, without the service; a file's name goes after the second.
    query : mapping
        Sent with both.
    rules : str
        Where to accept what must be accepted.
    """

    page: str
    listing: str
    download: str
    query: Mapping[str, str]
    rules: str


def describe(selection: str, where: str = "") -> Descriptor:
    """Return what is known of a competition or a dataset that a user named, which is little.

    Raises
    ------
    UsageError
        If it is neither.
    """
    place = _find_place(selection)
    return Descriptor(
        name=selection.partition("/")[2].replace("/", "-"),
        title=f"the {selection.partition('/')[0]} {selection.partition('/')[2]} of Kaggle",
        version="not stated",
        licence=f"as {place.rules} says",
        homepage=place.page,
        protocol="kaggle",
        access="account",
        selection=selection,
        where=where,
    )


def plan(descriptor: Descriptor) -> Plan:
    """Plan a competition or a dataset; its files are listed when they are brought.

    Raises
    ------
    UsageError
        If the selection is neither.
    """
    place = _find_place(descriptor.selection)
    service = find_endpoint(ENDPOINT, _SITE, _HOSTS)
    key = find_key()
    warnings = () if key else (f"no key for Kaggle is found: {_KEYS}",)
    home = place_of(service.url)

    def introduce(url: str) -> Mapping[str, str]:
        return {"Authorization": key} if key and place_of(url) == home else {}

    refusals = _explain_refusals(place)
    return Plan(
        source=descriptor,
        items=lambda: _list_items(place, service, introduce, refusals, descriptor.where),
        request=["kaggle", descriptor.selection, descriptor.where],
        preflight=Preflight(
            files=descriptor.file_count, size=descriptor.size_bytes, warnings=warnings
        ),
        hosts=service.hosts,
        asked=service.asked,
        credentials=introduce,
        refusals=refusals,
    )


def find_key() -> str:
    """Return the header that says who we are, from the places where Kaggle's own tools look.

    In their order: a token in KAGGLE_API_TOKEN (or in the file that it names) or in
    ``~/.kaggle/access_token``; then user and key in KAGGLE_USERNAME and KAGGLE_KEY, or in
    ``kaggle.json``. Nothing, if there is none.

    Raises
    ------
    UsageError
        If ``kaggle.json`` is there and has none.
    """
    if token := _find_token():
        return f"Bearer {token}"
    user, key = os.environ.get("KAGGLE_USERNAME", ""), os.environ.get("KAGGLE_KEY", "")
    if not (user and key):
        user, key = _read_key_file()
    return f"Basic {b64encode(f'{user}:{key}'.encode()).decode()}" if user and key else ""


def _find_token() -> str:
    stated = os.environ.get("KAGGLE_API_TOKEN", "").strip()
    if stated:
        return _read_text(Path(stated)) or stated
    names = ("access_token", "access_token.txt")
    return next(filter(None, (_read_text(Path.home() / ".kaggle" / name) for name in names)), "")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    except OSError:  # such as a token that is too long for the name of a file
        return ""


def _read_key_file() -> tuple[str, str]:
    settings = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    named = os.environ.get("KAGGLE_CONFIG_DIR")
    folders = [Path(named)] if named else [Path.home() / ".kaggle", Path(settings, "kaggle")]
    path = next(
        (folder / "kaggle.json" for folder in folders if (folder / "kaggle.json").is_file()), None
    )
    if path is None:
        return "", ""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return str(entry["username"]), str(entry["key"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{path} holds no user name and key; {_KEYS}") from None


def _find_place(selection: str) -> _Place:
    if found := _COMPETITION.fullmatch(selection):
        name = found[1]
        page = f"{_SITE}/competitions/{name}"
        return _Place(
            page,
            f"/api/v1/competitions/data/list/{name}",
            f"/api/v1/competitions/data/download/{name}/",
            {},
            f"{page}/rules",
        )
    if found := _DATASET.fullmatch(selection):
        owner, name, version = found.groups()
        page = f"{_SITE}/datasets/{owner}/{name}"
        return _Place(
            page,
            f"/api/v1/datasets/list/{owner}/{name}",
            f"/api/v1/datasets/download-raw/{owner}/{name}/",
            {"datasetVersionNumber": version} if version else {},
            page,
        )
    raise UsageError(
        f"{selection!r} is nothing of Kaggle's; give kaggle:competition/NAME, "
        "kaggle:dataset/OWNER/NAME or kaggle:dataset/OWNER/NAME/versions/3"
    )


def _explain_refusals(place: _Place) -> Mapping[int, str]:
    return {
        401: f"the key is not taken; {_KEYS}",
        403: f"open {place.rules} in a browser, sign in and accept what it asks, then run again",
        404: f"look at {place.page}; it was withdrawn, or is called otherwise",
    }


def _list_items(
    place: _Place, service: Endpoint, introduce: Any, refusals: Mapping[int, str], pattern: str
) -> Iterator[Item]:
    """Yield the files, by pages of the listing."""
    if "/competitions/" in place.listing and not introduce(service.url):
        raise UsageError(f"{place.page} asks who you are; {_KEYS}")
    client = service.make_client(introduce, refusals)
    token, found = "", 0
    while True:
        query = urlencode(
            {**place.query, "pageSize": 1000} | ({"pageToken": token} if token else {})
        )
        files, token = _read_page(client.read(f"{service.url}{place.listing}?{query}"))
        for name in files:
            if fnmatchcase(name, pattern or "*"):
                found += 1
                yield _make_item(place, service, name)
        if not token:
            break
    if not found:
        raise SourceError(f"{place.page} lists no files{f' like {pattern!r}' if pattern else ''}")


def _make_item(place: _Place, service: Endpoint, name: str) -> Item:
    query = f"?{urlencode(place.query)}" if place.query else ""
    url = f"{service.url}{place.download}{quote(name, safe='')}{query}"
    # The size that is listed is of the file, and what comes may be a zip of it.
    return Item(url, name, unpack=True)


def _read_page(answer: bytes) -> tuple[list[str], str]:
    """Return the names on a page of a listing, and what asks for the next page."""
    try:
        page = json.loads(answer)
        if isinstance(page, list):
            page = {"files": page}
        rows = page.get("files") or page.get("datasetFiles") or []
        names = [str(row.get("name") or row["ref"]) for row in rows]
    except (ValueError, AttributeError, TypeError, KeyError):
        raise SourceError("Kaggle answers with something that is no list of files") from None
    return names, str(page.get("nextPageToken") or "")
