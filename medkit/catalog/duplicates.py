"""Copies: images that claim one SOPInstanceUID.

The same pixel bytes, described the same way, make a file an alias of the first; other pixels make
a conflict: both are kept, and flagged. One image in two transfer syntaxes is a conflict here, for
nothing is decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medkit.catalog.database import Database
from medkit.catalog.profiles import Integers
from medkit.engine import Died, map_items
from medkit.errors import SourceError
from medkit.sources.trees import locate_file, open_file
from medkit.sources.unpacking import open_member

_CHUNK = 2**20
_DEFLATED = "1.2.840.10008.1.2.1.99"  # Deflated Explicit VR Little Endian (PS3.5 A.5)
# What must be equal for equal bytes to be equal pixels.
_DESCRIPTION = (
    "TransferSyntaxUID",
    "pixel_keyword",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "BitsAllocated",
    "PixelRepresentation",
    "NumberOfFrames",
)
# A surrogate follows from the path within a source, and two roots may share a source.
_MADE = "synthetic_uid AND starts_with(SOPInstanceUID, '2.25.')"
_HASHES = f"""
SELECT coalesce(CASE WHEN counts AND format = 'dicom' AND NOT ({_MADE})
    THEN hash(SOPInstanceUID) END, 0::UBIGINT) FROM instances POSITIONAL JOIN standing
"""
_COLLIDING = f"""
CREATE TEMP TABLE colliding AS
SELECT row_number() OVER (ORDER BY SOPInstanceUID, source, path, file) - 1 AS number, * FROM (
    SELECT own.row, own.SOPInstanceUID, own.source, own.file, own.pixel_offset, own.pixel_length,
        {", ".join(f'own."{name}"' for name in _DESCRIPTION)},
        files.root, files.path, archives.path AS archive, hashed.pixels_sha256
    FROM (
        SELECT row_number() OVER () - 1 AS row, *
        FROM instances POSITIONAL JOIN suspicion
    ) AS own
    JOIN files USING (file)
    LEFT JOIN files AS archives ON files.container = archives.file
    LEFT JOIN hashed ON files.file = hashed.file AND files.size = hashed.size
        AND files.mtime_ns = hashed.mtime_ns AND files.inode = hashed.inode
    WHERE suspect
    QUALIFY count(*) OVER (PARTITION BY SOPInstanceUID) > 1
)
"""
_UNKNOWN = "SELECT * FROM colliding WHERE pixels_sha256 IS NULL ORDER BY number"
_KNOWN = """
SELECT dense_rank() OVER (ORDER BY SOPInstanceUID) AS uid, row, file, pixels_sha256
FROM colliding ORDER BY number
"""


@dataclass(frozen=True)
class Copies:
    """Images that share a SOPInstanceUID with another one.

    Attributes
    ----------
    rows : (n,) integers
        Their rows in the table ``instances``.
    files, hashes : pyarrow.Array
        Their keys, and the SHA-256 of their pixels; null where these cannot be read.
    originals : (n,) integers
        Of each, the first that has its pixels, as a position here; its own if it is the first.
    conflicts : (n,) bool array
        Whether it is such a first one, and another image has its UID and other pixels.
    """

    rows: Integers
    files: pa.Array
    hashes: pa.Array
    originals: Integers
    conflicts: npt.NDArray[np.bool_]

    @property
    def aliases(self) -> Integers:
        """(m,) integers: those that stand for nothing of their own, as positions here."""
        return np.flatnonzero(self.originals != np.arange(len(self.rows)))


@dataclass(frozen=True)
class PixelPlace:
    """Where the bytes lie that are hashed.

    Attributes
    ----------
    number : int
        Tells it from others.
    root, path : str
        Of the file, or of the archive that it is a member of.
    member : str, optional
        Its name in the archive.
    offset, length : int
        Of the bytes; a length of -1 reaches to the end of the file.
    description : str
        What the header says of the pixels.
    """

    number: int
    root: str
    path: str
    member: str | None
    offset: int
    length: int
    description: str


def find_copies(database: Database, *, engine: str, workers: int | None) -> Copies:
    """Return the images whose SOPInstanceUID another image has too.

    Parameters
    ----------
    database : Database
        With the raw tables, those of `medkit.catalog.profiles.draw_profiles`, and ``hashed``:
        what is known of pixels already.
    engine, workers
        For hashing pixels; see `medkit.engine.map_items`.
    """
    suspects = _find_suspects(database)
    if not suspects.any():
        none = np.empty(0, np.intp)
        texts = pa.array([], pa.string())
        return Copies(none, texts, texts, none, none.astype(bool))
    database.register("suspicion", pa.table({"suspect": suspects}))
    database.execute(_COLLIDING)
    new = dict(_hash_all(database, engine, workers))
    known = database.arrow(_KNOWN)
    hashes = known.column("pixels_sha256").to_pylist()
    for number, digest in new.items():
        hashes[number] = digest
    pixels, uids = _number(hashes), known.column("uid").to_numpy()
    _, first, group = np.unique(
        np.stack([uids, pixels]), axis=1, return_index=True, return_inverse=True
    )
    originals = first[group.reshape(-1)]
    kept = originals == np.arange(len(originals))
    _, part, several = np.unique(uids[kept], return_inverse=True, return_counts=True)
    conflicts = np.zeros(len(kept), bool)
    conflicts[kept] = (several > 1)[part]
    return Copies(
        known.column("row").to_numpy(),
        known.column("file").combine_chunks(),
        pa.array(hashes, pa.string()),
        originals,
        conflicts,
    )


def hash_pixels(place: PixelPlace) -> str | None:
    """Return the SHA-256 of pixel bytes and their description; None if they cannot be read."""
    digest = hashlib.sha256(place.description.encode())
    try:
        with _open(place) as stream:
            stream.seek(place.offset)
            left = place.length if place.length >= 0 else None
            while part := stream.read(_CHUNK if left is None else min(_CHUNK, left)):
                digest.update(part)
                left = None if left is None else left - len(part)
    except (OSError, SourceError):
        return None
    return digest.hexdigest()


def _find_suspects(database: Database) -> npt.NDArray[np.bool_]:
    """Return which instances may share a SOPInstanceUID, by a hash that is quickly compared."""
    hashes = np.concatenate(
        [np.empty(0, np.uint64), *(one.column(0).to_numpy() for one in database.batches(_HASHES))]
    )
    ordered = np.sort(hashes)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    repeated = np.unique(repeated[repeated != 0])  # of those that do not count
    return np.isin(hashes, repeated) if len(repeated) else np.zeros(len(hashes), bool)


def _hash_all(
    database: Database, engine: str, workers: int | None
) -> Iterator[tuple[int, str | None]]:
    """Yield the number in ``colliding`` and the hash of the pixels that are not known yet."""
    places = (
        _locate(row) for batch in database.batches(_UNKNOWN, 1024) for row in batch.to_pylist()
    )
    for outcome in map_items(hash_pixels, places, engine=engine, workers=workers):
        digest = None if isinstance(outcome.result, Died) else outcome.result
        yield outcome.item.number, digest


def _number(hashes: list[str | None]) -> Integers:
    """Return equal numbers for equal hashes; pixels that cannot be read are nobody's copy."""
    numbers: dict[str, int] = {}
    return np.array(
        [
            ~position if digest is None else numbers.setdefault(digest, position)
            for position, digest in enumerate(hashes)
        ],
        np.int64,
    )


def _locate(row: dict[str, Any]) -> PixelPlace:
    archive = row["archive"]
    whole = row["TransferSyntaxUID"] == _DEFLATED
    return PixelPlace(
        row["number"],
        row["root"],
        archive or row["path"],
        row["path"][len(archive) + 1 :] if archive else None,
        0 if whole else row["pixel_offset"],
        -1 if whole else row["pixel_length"],
        repr([str(row[name]) for name in _DESCRIPTION]),
    )


def _open(place: PixelPlace) -> AbstractContextManager[BinaryIO]:
    if place.member is None:
        return open_file(place.root, place.path)
    return open_member(locate_file(place.root, place.path), place.member)
