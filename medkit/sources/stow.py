"""Servers of DICOMweb that take instances: STOW-RS (PS3.18, section 10.5).

Bodies are streamed from disk with a stated length. What the server refuses is in its answer, one
item an instance (FailedSOPSequence); what it says nothing of, a query tells.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medkit.errors import SourceError, UsageError
from medkit.sources.addresses import check_url, hide_query, place_of
from medkit.sources.deposits import Outgoing, Refusal, describe_status
from medkit.sources.dicomweb import (
    ask_pages,
    bring_instance,
    bring_series,
    find_url,
    list_instances,
    read_value,
)
from medkit.sources.https import CHUNK, Client
from medkit.sources.manners import Manners
from medkit.sources.matching import Series
from medkit.sources.retries import VainError, persist

_PATIENCE = 300.0  # seconds: some answer when all is in their database
_BODY = 1 << 26  # bytes of a request, unless one instance has more
_FAILED, _INSTANCE, _REASON = "00081198", "00081155", "00081197"
_SYNTAX = 415
_ANSWERS = (200, 202, 409)  # that say what became of each: all, some, none


class WebServer:
    """A `deposits.Server` behind an address such as ``dicomweb+https://host/dicom-web``.

    Parameters
    ----------
    address : str
        As `dicomweb.find_url` takes it.
    plain : bool
        Whether http without s will do, where it is not this machine.

    Raises
    ------
    UsageError
        If it is no such address.
    """

    streams = 4

    def __init__(self, address: str, *, plain: bool = False) -> None:
        self._url = find_url(address)
        if "?" in self._url or "#" in self._url:
            raise UsageError(f"{hide_query(self._url)} was given with a query; give the root alone")
        check_url(self._url, plain=plain or urlsplit(self._url).scheme == "https")
        self.name = hide_query(self._url)
        place = place_of(self._url)
        manners = Manners((place.rpartition(":")[0],), (place,), plain)
        self._client = Client(manners, patience=_PATIENCE)

    def list_instances(self, series: Series) -> set[str]:
        """Return the SOPInstanceUIDs that it has of a series."""
        asked = [("StudyInstanceUID", series.study), ("SeriesInstanceUID", series.uid)]
        if not any(True for _ in ask_pages(self._client, f"{self._url}/series", asked)):
            return set()
        return set(list_instances(self._client, self._url, series))

    def store(self, batch: Sequence[Outgoing]) -> dict[str, Refusal]:
        """Send instances, and return those that were refused, by SOPInstanceUID."""
        refused: dict[str, Refusal] = {}
        for part in _cut(batch):
            refused |= self._store(part)
        return refused

    def _store(self, part: Sequence[Outgoing]) -> dict[str, Refusal]:
        try:
            status, answer = persist(
                lambda: self._post(part), f"what is for {self.name}", verb="sent"
            )
        except VainError:
            self._client.read(f"{self._url}/series?limit=1")  # is it there at all?
            if len(part) == 1:
                return {part[0].uid: Refusal("the server fails over it, again and again")}
            status, answer = 500, b""
        if status in _ANSWERS and (failed := _read_failures(answer)) is not None:
            return failed if failed or status != 409 else _refuse(part, status)
        if status in (200, 202):
            return {}  # no word of failures; the query tells
        if len(part) > 1:  # too much at once, or it means one of them
            return {uid: why for one in part for uid, why in self._store([one]).items()}
        return _refuse(part, status)

    def _post(self, part: Sequence[Outgoing]) -> tuple[int, bytes]:
        boundary = uuid.uuid4().hex
        start = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        end = f"--{boundary}--\r\n".encode()
        length = sum(len(start) + one.size + 2 for one in part) + len(end)
        headers = {
            "Accept": "application/dicom+json",
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(length),
        }

        def read() -> Iterator[bytes]:
            for one in part:
                yield start
                yield from _read(one)
                yield b"\r\n"
            yield end

        return self._client.post(f"{self._url}/studies", headers, read)

    def bring(
        self, series: Series, uids: Collection[str], folder: Path, complete: bool
    ) -> Mapping[str, Path]:
        """Bring instances back into a folder; those that do not come are not in the answer."""
        came: dict[str, Path] = {}
        if complete:
            return bring_series(self._client, self._url, series, folder, lambda _: None)[1]
        for uid in uids:
            try:
                bring_instance(self._client, self._url, series, uid, folder, came)
            except SourceError:
                self._client.read(f"{self._url}/series?limit=1")
        return came


def _cut(batch: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """Yield instances in groups that make one request each."""
    group: list[Outgoing] = []
    for one in batch:
        if group and sum(other.size for other in group) + one.size > _BODY:
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _read(one: Outgoing) -> Iterator[bytes]:
    left = one.size
    with one.path.open("rb") as stream:
        while left and (chunk := stream.read(min(CHUNK, left))):
            left -= len(chunk)
            yield chunk
    if left:
        raise SourceError(f"{one.path} changed while it was sent")


def _read_failures(answer: bytes) -> dict[str, Refusal] | None:
    """Return what an answer refuses; None if it is no answer of STOW-RS (PS3.18, 10.5.3.2)."""
    try:
        found: Any = json.loads(answer)
    except ValueError:
        return None
    found = found[0] if isinstance(found, list) and found else found
    if not isinstance(found, dict):
        return None
    items = found.get(_FAILED, {}).get("Value", [])
    reasons = {
        read_value(item, _INSTANCE): int(read_value(item, _REASON) or 0)
        for item in items
        if isinstance(item, dict)
    }
    return {uid: describe_status(code) for uid, code in reasons.items()}


def _refuse(part: Sequence[Outgoing], status: int) -> dict[str, Refusal]:
    why = Refusal(f"the server answers HTTP {status}", status == _SYNTAX)
    return {one.uid: why for one in part}
