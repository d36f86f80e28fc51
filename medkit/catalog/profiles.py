"""What files of one series usually share: so many a thousand files are one row.

All that follows from the files together is derived from these rows, which are few, and from a few
numbers for each file. Nothing here is an object for each file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medkit.catalog.database import Database

Integers = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]

# Images that differ in one of these are never of one volume.
_KINDS = (
    "SOPClassUID",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "FrameOfReferenceUID",
    "TemporalPositionIdentifier",
    "EchoTime",
    "DiffusionBValue",
    # What sets an image apart within its series: value 3 on (PS3.3 C.7.6.1.1.2).
    "flavour",
    # UIDs were known to be shared by two persons.
    "PatientID",
    "IssuerOfPatientID",
)
_KIND = ", ".join(f'"{name}"' for name in _KINDS)
# What a series or a study takes from the first of its files that says it.
_SAID = ("SeriesNumber", "SeriesDescription", "BodyPartExamined", "StudyDate", "StudyDescription")

_KEY = "('0x' || file)::UBIGINT"  # of a file, as a number

_MET = f"""
CREATE TEMP TABLE met AS
SELECT row_number() OVER () - 1 AS profile, * FROM (
    SELECT root, vanished, shown, source, format = 'dicom' AS dicom, PatientID,
        IssuerOfPatientID, StudyInstanceUID, SeriesInstanceUID, Modality,
        coalesce(list_contains(ImageType, 'LOCALIZER'), false) AS scout,
        coalesce(list_contains(ImageType, 'MOSAIC'), false) AS mosaic,
        coalesce(array_to_string(ImageType[3:], '\\'), '') AS flavour,
        told.basis AS told_basis, told.patient AS told_patient,
        {", ".join(f'"{name}"' for name in (*_KINDS[:-3], *_SAID))},
        list(row) AS members
    FROM (SELECT row_number() OVER () - 1 AS row, * FROM instances POSITIONAL JOIN standing)
    LEFT JOIN told USING (file)
    GROUP BY ALL
)
"""
_SERIES = """
CREATE TEMP TABLE series_ids AS
SELECT row_number() OVER (ORDER BY source, StudyInstanceUID, SeriesInstanceUID) - 1 AS series,
    dense_rank() OVER (ORDER BY source, StudyInstanceUID) - 1 AS study, *
FROM (
    SELECT DISTINCT source, StudyInstanceUID, SeriesInstanceUID FROM met
    WHERE StudyInstanceUID IS NOT NULL AND SeriesInstanceUID IS NOT NULL
)
"""
# Most series have one profile, and one kind.
_KINDS_OF_SERIES = f"""
CREATE TEMP TABLE kinds AS
SELECT profile, dense_rank() OVER (PARTITION BY series ORDER BY {_KIND}) AS kind
FROM met JOIN series_ids USING (source, StudyInstanceUID, SeriesInstanceUID)
WHERE series IN (
    SELECT series FROM met JOIN series_ids USING (source, StudyInstanceUID, SeriesInstanceUID)
    GROUP BY series HAVING count(*) > 1
)
"""
_PROFILES = f"""
CREATE TEMP TABLE profiles AS
SELECT profile, roots.name AS root, vanished, shown, source, dicom, PatientID,
    IssuerOfPatientID, StudyInstanceUID, SeriesInstanceUID, Modality, "Rows", "Columns", scout,
    mosaic, told_basis, told_patient, series, study, coalesce(kind, 0) AS kind, {", ".join(_SAID)}
FROM met JOIN roots USING (root)
LEFT JOIN series_ids USING (source, StudyInstanceUID, SeriesInstanceUID)
LEFT JOIN kinds USING (profile)
"""
# A path orders files of several roots; within one root they are in its order.
_ACROSS = """
SELECT row FROM (SELECT row_number() OVER () - 1 AS row, * FROM instances POSITIONAL JOIN standing)
JOIN profiles USING (profile) JOIN files USING (file)
WHERE (profiles.source, profiles.StudyInstanceUID) IN (
    SELECT (source, StudyInstanceUID) FROM profiles
    GROUP BY source, StudyInstanceUID HAVING count(DISTINCT root) > 1
)
ORDER BY files.path, files.file
"""


@dataclass(frozen=True)
class Standing:
    """Numbers of the instances, in their order.

    Attributes
    ----------
    profile : (n,) int32 array
        The row of the table ``profiles``.
    counts : (n,) bool array
        Whether it is an image that is there.
    rank : (n,) int64 array
        Orders the files of one study, by path.
    """

    profile: npt.NDArray[np.int32]
    counts: Truths
    rank: Integers


def draw_profiles(database: Database) -> Standing:
    """Make the tables ``profiles``, ``series_ids`` and ``standing``.

    ``profiles`` has the distinct values of what tells person, series and kind; with ``root``,
    ``vanished``, ``shown`` (whether it has frames), ``series`` (the row of ``series_ids``; null
    where it has none) and ``kind`` (equal for images of a series that may be of one volume).
    ``standing`` has the attributes of `Standing`, and stands in the order of ``instances``: use
    ``instances POSITIONAL JOIN standing``.

    Parameters
    ----------
    database : Database
        With the raw tables, and ``told``: ``file``, ``basis`` and ``patient`` of pictures.
    """
    shown = read_column(database, "SELECT one_frame FROM instances", bool)
    roots, root, vanished = _read_files(database)
    frames = read_column(database, f"SELECT {_KEY} FROM frames WHERE frame = 0", np.uint64)
    # Where they are as many as the files, instances are the files, in the same order.
    if len(frames) or len(shown) != len(root):
        instances = read_column(database, f"SELECT {_KEY} FROM instances", np.uint64)
        shown |= np.isin(instances, frames)
        rows = _locate(instances, read_column(database, f"SELECT {_KEY} FROM files", np.uint64))
        root, vanished = root[rows], vanished[rows]
    database.register("roots", roots)
    database.register("standing", pa.table({"root": root, "vanished": vanished, "shown": shown}))
    for statement in (_MET, _SERIES, _KINDS_OF_SERIES, _PROFILES):
        database.execute(statement)
    profile = np.zeros(len(shown), np.int32)
    for batch in database.batches("SELECT profile, members FROM met"):
        members = batch.column("members")
        profile[members.flatten().to_numpy()] = np.repeat(
            batch.column("profile").to_numpy(), members.value_lengths().to_numpy()
        )
    database.execute("DROP TABLE met")
    standing = Standing(profile, shown & ~vanished, np.arange(len(profile)))
    register_standing(database, standing)
    if len(roots) > 1:
        across = [batch.column(0).to_numpy() for batch in database.batches(_ACROSS)]
        rows = np.concatenate([np.empty(0, np.int64), *across])
        standing.rank[rows] = np.sort(rows)
        register_standing(database, standing)
    return standing


def register_standing(database: Database, standing: Standing) -> None:
    """Give the numbers of the instances to the database, anew where they have changed."""
    database.register("standing", pa.table({**vars(standing)}))


def read_column(database: Database, sql: str, kind: type[Any]) -> npt.NDArray[Any]:
    """Return the one column of an answer."""
    answer = (batch.column(0) for batch in database.batches(sql))
    pieces = (column.to_numpy(zero_copy_only=False) for column in answer)
    return np.concatenate([np.empty(0, kind), *pieces])


def _read_files(database: Database) -> tuple[pa.Table, npt.NDArray[np.int32], Truths]:
    """Return the roots, and of each file its root's number and whether it vanished."""
    names = database.arrow("SELECT DISTINCT root FROM files ORDER BY root").column(0)
    roots = pa.table({"root": pa.array(range(len(names)), pa.int32()), "name": names})
    pieces = [(np.empty(0, np.int32), np.empty(0, bool))]
    for batch in database.batches("SELECT root, vanished FROM files"):
        root, vanished = batch.columns
        codes = pc.index_in(root, names).to_numpy()
        pieces.append((codes, vanished.to_numpy(zero_copy_only=False)))
    codes, gone = (np.concatenate(piece) for piece in zip(*pieces, strict=True))
    return roots, codes, gone


def _locate(wanted: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Return where in the keys each of the wanted ones is."""
    if np.array_equal(wanted, keys):  # every file is an instance
        return np.arange(len(keys))
    order = np.argsort(keys)
    return order[np.searchsorted(keys, wanted, sorter=order)]
