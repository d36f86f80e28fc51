"""The Cancer Imaging Archive: collections, and the ``.tcia`` manifests of its search pages.

What the Imaging Data Commons has, too, comes from there, object by object; the rest comes from
NBIA, TCIA's own service, a zip a series with the MD5 of each file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from medkit.errors import SourceError, UsageError
from medkit.sources import idc
from medkit.sources.descriptor import Descriptor
from medkit.sources.endpoints import Endpoint, find_endpoint
from medkit.sources.plans import Item, Plan, Preflight
from medkit.text import reveal
from medkit.workspace import hash_json

_LIMIT = 1 << 26  # bytes of a manifest: a million series
_HEAD = "ListOfSeriesToDownload="
_UID = re.compile(r"[0-9]+(\.[0-9]+){2,}")
_SUFFIX = ".tcia"
# A proxy of one's own before NBIA.
ENDPOINT = "MEDKIT_NBIA_ENDPOINT"
_HOST, _NLST = "nbia.cancerimagingarchive.net", "nlst.cancerimagingarchive.net"
_POLICY = "https://www.cancerimagingarchive.net/data-usage-policies-and-restrictions/"
_SUMS = "md5hashes.csv"


@dataclass(frozen=True)
class Manifest:
    """What a manifest asks for.

    Attributes
    ----------
    uids : tuple of str
        SeriesInstanceUIDs, each once, in the manifest's order.
    repeated, strange : int
        Lines that repeat one, and lines below the list's head that are none.
    first : str
        The first of the strange lines.
    """

    uids: tuple[str, ...]
    repeated: int = 0
    strange: int = 0
    first: str = ""


def is_manifest(path: Path) -> bool:
    """Tell whether a file is a manifest, by its name."""
    return path.suffix.lower() == _SUFFIX and path.is_file()


def read_manifest(path: Path) -> Manifest:
    """Read a manifest: whatever stands before the list's head, and however its lines end.

    Raises
    ------
    UsageError
        If it is none, or lists nothing.
    """
    if path.stat().st_size > _LIMIT:
        raise UsageError(f"{path} is too large for a manifest")
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    start = next((n for n, line in enumerate(lines) if line.startswith(_HEAD)), None)
    if start is None:
        raise UsageError(f"{path} has no line {_HEAD!r}, with which a manifest's list begins")
    listed = [line for line in [lines[start].removeprefix(_HEAD), *lines[start + 1 :]] if line]
    right = [line for line in listed if is_uid(line)]
    strange = [line for line in listed if not is_uid(line)]
    if not right:
        raise UsageError(f"{path} lists no series")
    uids = tuple(dict.fromkeys(right))
    first = reveal(strange[0][:80]) if strange else ""
    return Manifest(uids, len(right) - len(uids), len(strange), first)


def is_uid(text: str) -> bool:
    """Tell whether a text is a UID (PS3.5, section 9.1)."""
    return len(text) <= 64 and bool(_UID.fullmatch(text))


def describe(selection: str, where: str = "") -> Descriptor:
    """Return what is known of a collection, or of the path of a manifest, that a user named.

    A condition is asked of the index of IDC, and so fits what comes from there alone.
    """
    path = Path(selection)
    by_manifest = is_manifest(path)
    return Descriptor(
        name=path.stem if by_manifest else selection.replace(" ", "-"),
        title=f"the manifest {path.name}" if by_manifest else f"{selection}, from TCIA",
        version="not stated",
        licence="as its collections state",
        homepage=_POLICY,
        protocol="tcia",
        selection=str(path.resolve()) if by_manifest else selection,
        where=where,
    )


def plan(descriptor: Descriptor) -> Plan:
    """Plan a collection or a manifest.

    Raises
    ------
    UsageError
        If the manifest is none.
    SourceError
        If NBIA has to be asked for the series of a collection, and does not say.
    """
    selection = descriptor.selection
    known = (
        idc.is_installed() and not is_manifest(Path(selection)) and idc.has_collection(selection)
    )
    if descriptor.where and not known:
        raise UsageError(
            "--where is asked of the index of the Imaging Data Commons, and this does not come "
            "from it alone"
        )
    if is_manifest(Path(selection)):
        manifest = read_manifest(Path(selection))
        return _plan_uids(descriptor, manifest.uids, _warn(manifest))
    if known:
        planned = idc.plan(replace(descriptor, protocol="idc"))
        facts = planned.preflight
        said = "TCIA's collection is brought from the Imaging Data Commons, which holds it, too"
        return replace(
            planned,
            preflight=replace(facts, warnings=(*facts.warnings, said)),
            source=_complete(descriptor, facts),
        )
    return _plan_uids(descriptor, tuple(_list_series(selection)), ())


def _complete(descriptor: Descriptor, facts: Preflight) -> Descriptor:
    """Return a descriptor with the licences and citations that the index states."""
    return replace(
        descriptor,
        licence=", ".join(facts.licences) or descriptor.licence,
        citation="; ".join(facts.citations) or descriptor.citation,
        size_bytes=facts.size,
    )


def _warn(manifest: Manifest) -> tuple[str, ...]:
    said = []
    if manifest.repeated:
        said.append(f"{manifest.repeated} lines of the manifest name a series a second time")
    if manifest.strange:
        said.append(
            f"{manifest.strange} lines of the manifest are no UIDs and are passed over, the "
            f"first {manifest.first!r}"
        )
    return tuple(said)


def _plan_uids(descriptor: Descriptor, uids: Sequence[str], warnings: tuple[str, ...]) -> Plan:
    """Plan some series: from IDC where its index has them, and from NBIA."""
    if idc.is_installed():
        chosen, rest = idc.choose_uids(uids)
        planned = idc.plan_chosen(descriptor, chosen) if chosen.series else None
    else:
        planned, rest = None, list(uids)
        warnings += ("with medkit[idc] installed, series come from the Imaging Data Commons",)
    facts = planned.preflight if planned else Preflight()
    nbia = _find_endpoint(descriptor.selection)
    if rest:
        warnings += (
            f"{len(rest)} of {len(uids)} series come from NBIA, which states no sizes here",
        )
    return Plan(
        source=_complete(descriptor, facts),
        items=lambda: chain(planned.items() if planned else (), _list_zips(nbia, rest)),
        request=["tcia", hash_json(sorted(uids))],
        preflight=replace(
            facts,
            series=len(uids),
            files=None if rest else facts.files,
            size=None if rest else facts.size,
            lossy=None if rest else facts.lossy,
            warnings=warnings,
        ),
        hosts=(*(planned.hosts or () if planned else ()), *nbia.hosts),
        asked=(*(planned.asked if planned else ()), *nbia.asked),
        refusals=_explain_refusals(),
    )


def _explain_refusals() -> Mapping[int, str]:
    closed = (
        "controlled-access series have left NBIA; ask for access, and use TCIA's data-retriever: "
        "https://github.com/TCIA/data-retriever"
    )
    return {401: closed, 403: closed, 404: "NBIA does not have this series (any more)"}


def _list_zips(nbia: Endpoint, uids: Iterable[str]) -> Iterator[Item]:
    for uid in uids:
        query = urlencode({"SeriesInstanceUID": uid})
        url = f"{nbia.url}/getImageWithMD5Hash?{query}"
        yield Item(url, f"{uid}.zip", unpack=True, sums=_SUMS)


def _find_endpoint(selection: str) -> Endpoint:
    """Return where NBIA answers; NLST has a server of its own, and the other says 400 of it."""
    host = _NLST if selection.upper() == "NLST" else _HOST
    return find_endpoint(ENDPOINT, f"https://{host}/nbia-api/services/v4", (_HOST, _NLST))


def _list_series(collection: str) -> list[str]:
    """Return the series that NBIA has of a collection."""
    nbia = _find_endpoint(collection)
    client = nbia.make_client(refusals=_explain_refusals())
    query = urlencode({"Collection": collection})
    rows = _read_json(client.read(f"{nbia.url}/getSeries?{query}"))
    uids = [row.get("SeriesInstanceUID") for row in rows if isinstance(row, dict)]
    if not uids or not all(isinstance(uid, str) and is_uid(uid) for uid in uids):
        raise SourceError(
            f"NBIA names no series of a collection {collection!r}; names are as on "
            "https://www.cancerimagingarchive.net/browse-collections/"
        )
    return sorted(map(str, uids))


def _read_json(answer: bytes) -> list[Any]:
    try:
        found = json.loads(answer or b"[]")
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise SourceError(f"{_HOST} answers with something that is no list of series")
    return found
