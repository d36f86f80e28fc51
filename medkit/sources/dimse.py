"""Archives that speak DIMSE (PS3.7): series found by C-FIND, brought by C-GET or C-MOVE.

A series is complete when the instances that came are those that C-FIND lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medkit.errors import SourceError
from medkit.sources.associations import (
    PENDING,
    SCHEME,
    SUCCESS,
    Archive,
    make_entity,
    make_keys,
    parse_address,
    read_status,
)
from medkit.sources.descriptor import Descriptor
from medkit.sources.matching import (
    Series,
    is_uid,
    list_modalities,
    parse_condition,
    read_text,
    settle,
)
from medkit.sources.plans import Item, Plan, Preflight, Unsteady
from medkit.sources.retrieval import Sink, get_series, move_series

if TYPE_CHECKING:
    from pydicom import Dataset
    from pynetdicom.association import Association

# Of a query at the level of studies; a server with the Study Root model answers them there.
_OF_STUDIES = {
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "StudyInstanceUID", "StudyDescription", "AccessionNumber", "ModalitiesInStudy",
    "ReferringPhysicianName",
}  # fmt: skip


def describe(address: str, where: str = "") -> Descriptor:
    """Return what is known of an archive that a user named.

    Raises
    ------
    UsageError
        If it is no address of one, or the condition cannot be asked.
    """
    archive = parse_address(address)
    parse_condition(where)
    return Descriptor(
        name=archive.title,
        title=f"the archive {archive.title} at {archive.host}:{archive.port}",
        version="not stated",
        licence="not stated",
        protocol="dimse",
        selection=address,
        where=where,
    )


def plan(descriptor: Descriptor, *, leave_out: bool = False) -> Plan:
    """Plan the series of an archive that match a condition; the archive is asked which.

    Parameters
    ----------
    descriptor : Descriptor
        Of the protocol ``dimse``.
    leave_out : bool
        Whether instances that the archive lists and does not give are left out.

    Raises
    ------
    UsageError
        If pynetdicom is not installed, or the address or the condition is none.
    SourceError
        If the archive does not say, or nothing matches.
    """
    archive = parse_address(descriptor.selection)
    try:
        found = sorted(_find_series(archive, descriptor.where), key=lambda one: one.key)
    except Unsteady as error:
        raise SourceError(str(error)) from None
    if not found:
        raise SourceError(f"{archive.title} has no series that match")
    known = {one.key: one for one in found}
    counts = [one.instances for one in found]
    bring = move_series if archive.listening else get_series

    def fill(item: Item, folder: Path, moved: Callable[[int], None]) -> list[str]:
        series = known[item.url.partition("://")[2]]
        listed = dict(find_instances(archive, series))
        sink = Sink(folder, set(listed), moved)
        bring(archive, series, listed, sink)
        sink.check()
        return settle(series, [*listed], sink.came, sink.reasons, leave_out=leave_out)

    return Plan(
        # A condition names persons: it is not written down.
        source=replace(descriptor, where="", modality=list_modalities(found)),
        items=lambda: [Item(f"{SCHEME}://{key}", key) for key in known],
        request=[
            SCHEME,
            archive.title,
            archive.host,
            archive.port,
            descriptor.where,
            sorted(known),
        ],
        preflight=Preflight(
            series=len(found),
            files=sum(count for count in counts if count) if all(counts) else None,
        ),
        fillers={SCHEME: fill},
    )


def _find_series(archive: Archive, where: str) -> Iterator[Series]:
    asked = parse_condition(where)
    of_studies = {key: value for key, value in asked.items() if key in _OF_STUDIES}
    if "Modality" in asked:  # narrows the studies, where the archive can
        of_studies.setdefault("ModalitiesInStudy", asked["Modality"])
    of_series = {key: value for key, value in asked.items() if key not in _OF_STUDIES}
    wanted = {"Modality": "", "SeriesInstanceUID": "", "NumberOfSeriesRelatedInstances": ""}
    with _open_query(archive) as peer:
        studies = _find(peer, "STUDY", {"StudyInstanceUID": "", **of_studies})
        for uid in sorted({read_text(row, "StudyInstanceUID") for row in studies}):
            rows = _find(peer, "SERIES", {**wanted, **of_series, "StudyInstanceUID": uid})
            yield from (_describe_series(uid, row) for row in rows)


def _describe_series(study: str, row: Dataset) -> Series:
    uid = read_text(row, "SeriesInstanceUID")
    if not is_uid(study) or not is_uid(uid):
        raise SourceError("the archive lists a series without UIDs")
    count = read_text(row, "NumberOfSeriesRelatedInstances")
    return Series(study, uid, read_text(row, "Modality"), int(count) if count.isdigit() else None)


def find_instances(archive: Archive, series: Series) -> Iterator[tuple[str, str]]:
    """Yield SOPInstanceUID and SOPClassUID (may be empty) of each instance of a series."""
    keys = {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.uid}
    with _open_query(archive) as peer:
        rows = _find(peer, "IMAGE", {**keys, "SOPInstanceUID": "", "SOPClassUID": ""})
    for row in rows:
        uid = read_text(row, "SOPInstanceUID")
        if not is_uid(uid):
            raise SourceError(f"series {series.uid}: the archive lists an instance without a UID")
        yield uid, read_text(row, "SOPClassUID")


@contextmanager
def _open_query(archive: Archive) -> Iterator[Association]:
    make_entity(archive.ours)  # says what is missing
    from pynetdicom import build_context
    from pynetdicom.sop_class import (  # type: ignore[attr-defined]
        StudyRootQueryRetrieveInformationModelFind as Model,
    )

    with archive.associate([build_context(Model)]) as peer:
        yield peer


def _find(peer: Association, level: str, keys: dict[str, str]) -> list[Dataset]:
    from pynetdicom.sop_class import (  # type: ignore[attr-defined]
        StudyRootQueryRetrieveInformationModelFind as Model,
    )

    found = []
    for status, row in peer.send_c_find(make_keys(level, keys), Model):
        code = read_status(status)
        if code in PENDING and row is not None:
            found.append(row)
        elif code not in (*SUCCESS, *PENDING):
            raise Unsteady(f"the archive answers a query with status 0x{code:04X}")
    return found
