"""Copies: images that claim one SOPInstanceUID.

The same pixel bytes, described the same way, make a file an alias of the first; other pixels make
a conflict: both are kept, and flagged. One image in two transfer syntaxes is a conflict here, for
nothing is decoded.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medkit.engine import Died, map_items
from medkit.errors import SourceError
from medkit.sources.unpacking import open_member

_CHUNK = 2**20
# What must be equal for equal bytes to be equal pixels.
_DESCRIPTION = [
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
]


@dataclass(frozen=True)
class PixelPlace:
    """Where the bytes lie that are hashed.

    Attributes
    ----------
    file : str
        The file's key.
    path : Path
        Of the file, or of the archive that it is a member of.
    member : str, optional
        Its name in the archive.
    offset, length : int
        Of the bytes; a length of -1 reaches to the end of the file.
    description : str
        What the header says of the pixels.
    """

    file: str
    path: Path
    member: str | None
    offset: int
    length: int
    description: str


def mark_duplicates(instances: pd.DataFrame, *, engine: str, workers: int | None) -> pd.DataFrame:
    """Return ``pixels_sha256``, ``duplicate`` and ``alias_of`` of each instance, by its index.

    Parameters
    ----------
    instances : DataFrame
        The table ``instances`` with ``root``, ``path``, ``archive`` (the path of its container)
        and ``counts`` (whether it is an image that is there) beside.
    """
    marks = instances[["pixels_sha256"]].assign(duplicate=None, alias_of=None).astype(object)
    colliding = _find_collisions(instances)
    unknown = colliding[colliding["pixels_sha256"].isna()]
    hashes = _hash_all([_locate(row) for row in unknown.itertuples()], engine, workers)
    marks.loc[unknown.index, "pixels_sha256"] = [hashes[file] for file in unknown["file"]]
    files, uids = colliding["file"], colliding["SOPInstanceUID"]
    # Pixels that cannot be read are nobody's copy.
    pixels = marks.loc[colliding.index, "pixels_sha256"].fillna(files)
    first = files.groupby([uids, pixels]).transform("first")
    alias = first != files
    conflict = (pixels.groupby(uids).transform("nunique") > 1) & ~alias
    marks.loc[files.index[alias], "duplicate"] = "alias"
    marks.loc[files.index[alias], "alias_of"] = first[alias]
    marks.loc[files.index[conflict], "duplicate"] = "conflict"
    return marks


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


def _find_collisions(instances: pd.DataFrame) -> pd.DataFrame:
    """Return the images that share a SOPInstanceUID, the first of each group first."""
    images = instances[instances["counts"] & (instances["format"] == "dicom")]
    # A surrogate follows from the path within a source, and two roots may share a source.
    made = images["synthetic_uid"] & images["SOPInstanceUID"].str.startswith("2.25.")
    images = images[~made]
    repeated = images.duplicated("SOPInstanceUID", keep=False)
    return images[repeated].sort_values(["source", "path", "file"])


def _locate(row: Any) -> PixelPlace:
    whole = row.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    archived = not pd.isna(row.archive)
    return PixelPlace(
        row.file,
        Path(row.root, row.archive if archived else row.path),
        row.path[len(row.archive) + 1 :] if archived else None,
        0 if whole else int(row.pixel_offset),
        -1 if whole else int(row.pixel_length),
        repr([str(getattr(row, name)) for name in _DESCRIPTION]),
    )


def _hash_all(places: list[PixelPlace], engine: str, workers: int | None) -> dict[str, str | None]:
    return {
        outcome.item.file: None if isinstance(outcome.result, Died) else outcome.result
        for outcome in map_items(hash_pixels, places, engine=engine, workers=workers)
    }


def _open(place: PixelPlace) -> AbstractContextManager[BinaryIO]:
    if place.member is None:
        return place.path.open("rb")
    return open_member(place.path, place.member)
