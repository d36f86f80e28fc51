"""Servers of DICOMweb (PS3.18): series found by QIDO-RS, brought whole by WADO-RS.

A series is asked for as it is stored, ``transfer-syntax=*``, so that the server does not
transcode. It is complete when the instances that came are those that the server lists.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from medkit.errors import SourceError, UsageError
from medkit.sources.addresses import hide_query, place_of
from medkit.sources.descriptor import Descriptor
from medkit.sources.matching import (
    Series,
    is_uid,
    list_modalities,
    parse_condition,
    read_identity,
    settle,
)
from medkit.sources.multipart import find_boundary, split_parts
from medkit.sources.plans import Item, Plan, Preflight
from medkit.sources.retries import persist

if TYPE_CHECKING:
    from medkit.sources.https import Client

SCHEMES = ("dicomweb+https", "dicomweb+http", "dicomweb")
_PAGE = 500
_FEW = 3  # attempts at an instance that the series did not bring
_JSON = {"Accept": "application/dicom+json"}
_STORED = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
_STUDY, _SERIES, _INSTANCE, _MODALITY, _COUNT = (
    "0020000D", "0020000E", "00080018", "00080060", "00201209",
)  # fmt: skip


def describe(address: str, where: str = "") -> Descriptor:
    """Return what is known of a server that a user named, ``dicomweb+https://host/dicom-web``.

    Raises
    ------
    UsageError
        If it is no such address, or the condition cannot be asked.
    """
    url = find_url(address)
    parse_condition(where)
    return Descriptor(
        name=(urlsplit(url).hostname or "").replace(":", "-"),
        title=f"the DICOMweb server {hide_query(url)}",
        version="not stated",
        licence="not stated",
        protocol="dicomweb",
        selection=address,
        where=where,
    )


def plan(
    descriptor: Descriptor, *, asked: str = "", plain: bool = False, leave_out: bool = False
) -> Plan:
    """Plan the series of a server that match a condition; the server is asked which.

    Parameters
    ----------
    descriptor : Descriptor
        Of the protocol ``dicomweb``.
    asked : str
        The address, if the user typed it.
    plain : bool
        As of `Plan`.
    leave_out : bool
        Whether instances that the server lists and does not give are left out.

    Raises
    ------
    SourceError
        If the server does not say, or nothing matches.
    """
    from medkit.sources.https import Client
    from medkit.sources.manners import Manners

    url = find_url(descriptor.selection)
    place = place_of(url)
    manners = Manners((place.rpartition(":")[0],), (place,) if asked else (), plain and bool(asked))
    client = Client(manners)
    found = sorted(_find_series(client, url, descriptor.where), key=lambda one: one.key)
    if not found:
        raise SourceError(f"{hide_query(url)} has no series that match")
    counts = [one.instances for one in found]
    known = {one.key: one for one in found}

    def fill(item: Item, folder: Path, moved: Callable[[int], None]) -> list[str]:
        series = known[item.url.partition("://")[2]]
        listed, came, reasons = bring_series(client, url, series, folder, moved)
        return settle(series, listed, came, reasons, leave_out=leave_out)

    return Plan(
        # A condition names persons: it is not written down.
        source=replace(descriptor, where="", modality=list_modalities(found)),
        items=lambda: [Item(f"dicomweb://{key}", key) for key in known],
        request=["dicomweb", hide_query(url), descriptor.where, sorted(known)],
        preflight=Preflight(
            series=len(found),
            files=sum(count for count in counts if count) if all(counts) else None,
        ),
        hosts=manners.hosts,
        asked=manners.asked,
        plain=manners.plain,
        fillers={"dicomweb": fill},
    )


def find_url(address: str) -> str:
    """Return the address of a server, without its ``dicomweb+``.

    Raises
    ------
    UsageError
        If it is none.
    """
    scheme, mark, rest = address.partition("://")
    if scheme not in SCHEMES or not mark or not rest.strip("/"):
        raise UsageError(
            f"{hide_query(address)!r} is no address of DICOMweb; give one such as "
            "dicomweb+https://host/dicom-web"
        )
    usual = scheme.partition("+")[2] or "https"
    return f"{usual}://{rest}".rstrip("/")


def _find_series(client: Client, url: str, where: str) -> Iterator[Series]:
    """Yield each series that matches, once."""
    asked = [*parse_condition(where).items(), ("includefield", _COUNT)]
    seen: set[str] = set()
    for row in ask_pages(client, f"{url}/series", asked):
        study, uid = read_value(row, _STUDY), read_value(row, _SERIES)
        if not is_uid(study) or not is_uid(uid):
            raise SourceError(f"{hide_query(url)} lists a series without UIDs")
        count = read_value(row, _COUNT)
        one = Series(
            study, uid, read_value(row, _MODALITY), int(count) if count.isdigit() else None
        )
        if one.key not in seen:
            seen.add(one.key)
            yield one


def ask_pages(client: Client, url: str, asked: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Yield the answers to a query, by pages; some servers know no pages and give all of them."""
    offset = 0
    seen: set[str] = set()
    while True:
        paged = [*asked, ("limit", str(_PAGE)), ("offset", str(offset))]
        query = urlencode(paged, safe="*", quote_via=quote)  # %2A is no wild card to some servers
        rows = _read_rows(client.read(f"{url}?{query}", _JSON), url)
        fresh = {json.dumps(row, sort_keys=True): row for row in rows}
        fresh = {key: row for key, row in fresh.items() if key not in seen}
        seen.update(fresh)
        yield from fresh.values()
        if not fresh or len(rows) > _PAGE:
            return
        offset += len(rows)


def _read_rows(answer: bytes, url: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(answer or b"[]")  # 204: nothing matches
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SourceError(f"{hide_query(url)} answers with something that is no DICOM JSON")
    return rows


def read_value(row: dict[str, Any], tag: str) -> str:
    """Return the first value of an element in DICOM's JSON (PS3.18, annex F)."""
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""


def bring_series(
    client: Client, url: str, series: Series, folder: Path, moved: Callable[[int], None]
) -> tuple[list[str], dict[str, Path], dict[str, str]]:
    """Fill a folder; return what is listed, what came, and why the rest did not."""
    place = f"{url}/studies/{series.study}/series/{series.uid}"
    came: dict[str, Path] = {}
    reasons: dict[str, str] = {}
    whole = ""
    try:
        _retrieve(client, place, series, folder, came, moved)
    except SourceError as error:  # then one by one, as far as they go
        whole = f" (the series: {error})"
    listed = [*list_instances(client, url, series)]
    for uid in sorted(set(listed) - came.keys()):
        try:
            bring_instance(client, url, series, uid, folder, came, moved)
        except SourceError as error:
            reasons[uid] = f"{error}{whole}"
    if reasons:  # is it there at all?
        client.read(f"{url}/series?limit=1", _JSON)
    return listed, came, reasons


def list_instances(client: Client, url: str, series: Series) -> Iterator[str]:
    """Yield the SOPInstanceUID of each instance that a server says a series has.

    Raises
    ------
    SourceError
        If it does not say.
    """
    place = f"{url}/studies/{series.study}/series/{series.uid}/instances"
    for row in ask_pages(client, place, []):
        uid = read_value(row, _INSTANCE)
        if not is_uid(uid):
            raise SourceError(f"series {series.uid}: the server lists an instance without a UID")
        yield uid


def bring_instance(
    client: Client,
    url: str,
    series: Series,
    uid: str,
    folder: Path,
    came: dict[str, Path],
    moved: Callable[[int], None] = lambda _: None,
) -> None:
    """Write one instance into a folder, under its UID, and note it in ``came``.

    Raises
    ------
    SourceError
        If it does not come, in a few attempts.
    """
    place = f"{url}/studies/{series.study}/series/{series.uid}/instances/{uid}"
    persist(partial(_retrieve, client, place, series, folder, came, moved), uid, attempts=_FEW)


def _retrieve(
    client: Client,
    place: str,
    series: Series,
    folder: Path,
    came: dict[str, Path],
    moved: Callable[[int], None],
) -> None:
    """Write what an address gives into a folder, a file an instance, under its own UID."""
    done = sum(path.stat().st_size for path in came.values())
    with client.open(place, _STORED) as answer:
        for number, part in enumerate(_open_parts(answer)):
            path = folder / f"{len(came)}-{number}.part"
            try:
                with path.open("wb") as file:
                    for chunk in part:
                        file.write(chunk)
                        done += len(chunk)
                        moved(done)
                _name_file(path, series, came)
            finally:
                path.unlink(missing_ok=True)  # of what was cut, or is none of ours


def _open_parts(answer: Any) -> Iterator[Iterator[bytes]]:
    kind = answer.headers.get("content-type", "")
    chunks = answer.stream(1 << 18, decode_content=True)
    if kind.partition(";")[0].strip().lower() == "application/dicom":
        if "content-length" not in answer.headers and not answer.chunked:
            raise SourceError("the server sends an instance whose end nobody could tell from a cut")
        return iter([chunks])  # a server that packs one instance alone not at all
    if not kind.lower().startswith("multipart/"):
        raise SourceError(f"the server sends {kind or 'something'!r} and no parts of DICOM")
    return split_parts(chunks, find_boundary(kind))


def _name_file(path: Path, series: Series, came: dict[str, Path]) -> None:
    instance, uid = read_identity(path)
    if uid != series.uid:
        raise SourceError(f"an instance of series {uid} comes where {series.uid} was asked for")
    if instance not in came:
        came[instance] = path.replace(path.with_name(f"{instance}.dcm"))
