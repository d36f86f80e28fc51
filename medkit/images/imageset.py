"""A set on disk: what lies where, what it promises, and how it is opened and verified.

set.json          the manifest: recipe, catalog snapshot, versions, counts, and the size and
                  SHA-256 of every other file; written last, so its presence means complete
images.parquet    a row an image that landed
refused.parquet   a row an image that did not, and why
origins.parquet   the files that both are of, as they were: what `normalise --append` compares
pixels.zarr/      a Zarr v3 group, one array a kind of pixel (`arrays`)
.partial/         work in progress, or what a kill left of it; no part of the set

A set is made, or grows, in ``.partial/staged``, and takes its place once all of it is there: from
the moment that ``.partial/staged/set.json`` stands, it is only moved (`assembly.settle`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from medkit import workspace
from medkit.errors import ImageSetError, WorkspaceError
from medkit.images import arrays
from medkit.images.reader import Images, StoredCodes

FORMAT = 2
MANIFEST = "set.json"
TABLE = "images.parquet"
REFUSED = "refused.parquet"
ORIGINS = "origins.parquet"
PIXELS = "pixels.zarr"
PARTIAL = ".partial"
STAGED = "staged"

_text, _integer, _number, _truth = pa.string(), pa.int64(), pa.float64(), pa.bool_()

_identity_fields = (
    pa.field("file", _text),
    pa.field("frame", _integer),
    pa.field("tile", _integer),  # of a mosaic, in its order
    pa.field("plane", _text),  # that a volume was cut along anew; null where it is as stored
    pa.field("plane_index", _integer),
)
# Which image of a catalog it is. Of one that is made of a whole volume, ``frame`` is the frame
# nearest to it.
IDENTITY = tuple(field.name for field in _identity_fields)

# Columns that an image has from the catalog, as the catalog has them.
CATALOG_FIELDS = (
    _identity_fields[0],
    pa.field("source", _text),
    pa.field("root", _text),
    pa.field("path", _text),
    *_identity_fields[1:],
    pa.field("SOPInstanceUID", _text),
    pa.field("SeriesInstanceUID", _text),
    pa.field("StudyInstanceUID", _text),
    pa.field("PatientID", _text),
    pa.field("person", _text),
    pa.field("volume", _text),
    pa.field("Modality", _text),
    pa.field("Manufacturer", _text),
    pa.field("ManufacturerModelName", _text),
    pa.field("SOPClassUID", _text),
    pa.field("TransferSyntaxUID", _text),
    pa.field("PhotometricInterpretation", _text),
    pa.field("Rows", _integer),
    pa.field("Columns", _integer),
    pa.field("BitsStored", _integer),
    pa.field("PixelSpacing", pa.list_(_number)),
    pa.field("StudyDate", _text),
    pa.field("PatientAge", _text),
    pa.field("PatientSex", _text),
    pa.field("BurnedInAnnotation", _text),
)

# Columns that come of decoding and resampling it.
PIXEL_FIELDS = (
    pa.field("slope", _number),  # real-world value = code * slope + intercept
    pa.field("intercept", _number),
    pa.field("units", _text),
    pa.field("full_low", _number),  # what the source could represent, in real-world units
    pa.field("full_high", _number),
    pa.field("WindowCenter", _number),  # real-world units, after a turn of polarity
    pa.field("WindowWidth", _number),
    pa.field("VOILUTFunction", _text),
    pa.field("fill_value", _number),  # real-world value of what lies outside the image
    pa.field("polarity", _text),  # kept, or turned
    pa.field("source_sha256", _text),  # of the decoded stored values, with type and shape
    pa.field("pixels_sha256", _text),  # of the stored codes, with type and shape
    pa.field("affine", pa.list_(_number)),  # 2 x 3, row by row: output (x, y) to source (x, y)
    pa.field("pad_box", pa.list_(_integer)),  # left, top, right, bottom of the image in the output
    pa.field("padding_share", _number),
    pa.field("lossy", _truth),
    pa.field("constant", _truth),
)

IMAGES_SCHEMA = pa.schema(
    [
        pa.field("image", _integer),
        pa.field("array", _text),
        pa.field("row", _integer),
        *CATALOG_FIELDS,
        # The persons who may not be separated: those who share pixels with one another.
        pa.field("split_group", _text),
        *PIXEL_FIELDS,
    ]
)

REFUSED_SCHEMA = pa.schema(
    [
        *_identity_fields,
        pa.field("path", _text),
        pa.field("code", _text),
        pa.field("detail", _text),
    ]
)

ORIGINS_SCHEMA = pa.schema(
    [
        *_identity_fields,
        pa.field("size", _integer),
        pa.field("mtime_ns", _integer),
        pa.field("members", _text),  # a hash of the same of all slices that it is made of
    ]
)


@dataclass(frozen=True)
class Fault:
    """Something that is not as the manifest says.

    Attributes
    ----------
    file : str
        Path inside the set.
    image : int or None
        The image that cannot be trusted, where the damage lies in one image's pixels.
    detail : str
        What was found.
    """

    file: str
    image: int | None
    detail: str


@dataclass(frozen=True)
class ImageSet:
    """A complete set. Open one with `ImageSet.open`.

    Attributes
    ----------
    folder : Path
        Where it lies.
    manifest : dict
        What ``set.json`` says.
    table : DataFrame
        A row an image, in the order of the ``image`` column, which counts from 0.
    refused : DataFrame
        A row an image that did not land: file, frame, tile, plane, plane_index, path, code,
        detail.
    """

    folder: Path
    manifest: Mapping[str, Any]
    table: pd.DataFrame
    refused: pd.DataFrame

    @classmethod
    def open(cls, folder: Path) -> ImageSet:
        """Open a set after a quick check: the manifest, the tables, and every file's size.

        Raises
        ------
        ImageSetError
            If the set is missing, incomplete or damaged. Damage inside the pixels is found when
            they are read, or all at once by `verify`.
        """
        manifest = read_manifest(folder)
        check_sizes(folder, manifest)
        tables = (read_table(folder, manifest, path).to_pandas() for path in (TABLE, REFUSED))
        return cls(folder, manifest, *tables)

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def id(self) -> str:
        """A hash of its content: equal sets have equal ids, whatever their name, place or age."""
        files = self.manifest["files"].items()
        # When files were last written is in their origins, and makes nothing another set.
        return workspace.hash_json({path: of["sha256"] for path, of in files if path != ORIGINS})

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns) of every image."""
        rows, columns = self.manifest["recipe"]["size"]
        return rows, columns

    def images(self) -> Images:
        """Return all images, lazily."""
        return Images(StoredCodes(self.folder / PIXELS, self.id, self.size), self.table)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what ``set.json`` says, after checking it against its own checksum.

    Raises
    ------
    ImageSetError
        If there is no complete set in the folder, or its manifest is damaged or of another
        version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        state = "is incomplete" if (folder / PARTIAL).is_dir() else "does not exist"
        raise ImageSetError(
            f"the set {folder.name!r} {state}; make it with 'medkit normalise {folder.name}'"
        )
    try:
        manifest = workspace.read_json(path)
        content = {key: value for key, value in manifest.items() if key != "checksum"}
        sound = path.read_bytes() == workspace.dump_json(_sealed(content))
    except (WorkspaceError, AttributeError) as error:
        raise _damaged(folder, f"{MANIFEST} cannot be read ({error})") from None
    if not sound:
        raise _damaged(folder, f"{MANIFEST} does not fit its own checksum")
    if manifest.get("format") != FORMAT:
        raise ImageSetError(
            f"the set {folder.name!r} has format {manifest.get('format')}, and this medkit reads "
            f"{FORMAT}; make it again with 'medkit normalise {folder.name} --replace'"
        )
    return content


def check_sizes(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Return if every file of a set is there, and as long as its manifest says.

    Raises
    ------
    ImageSetError
        If one is not.
    """
    for path, entry in manifest["files"].items():
        file = folder / path
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            raise _damaged(folder, f"{path} is missing or cut")


def read_table(folder: Path, manifest: Mapping[str, Any], path: str) -> pa.Table:
    """Return a table of a set, after comparing its bytes with the manifest.

    Raises
    ------
    ImageSetError
        If they are others.
    """
    try:
        content = (folder / path).read_bytes()
    except FileNotFoundError:
        raise _damaged(folder, f"{path} is missing") from None
    # The bytes that were compared are those that are read, whoever replaces the file meanwhile.
    if hashlib.sha256(content).hexdigest() != manifest["files"][path]["sha256"]:
        raise _damaged(folder, f"{path} has changed since it was written")
    return pyarrow.parquet.read_table(pa.BufferReader(content))


def write_manifest(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``set.json``; ``format`` and ``checksum`` are added here."""
    workspace.write_json(path, _sealed({**content, "format": FORMAT}))


def write_table(path: Path, parts: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write a table of a set, part by part; equal parts give equal bytes."""
    with (
        workspace.write_beside(path) as beside,
        pyarrow.parquet.ParquetWriter(beside, schema, compression="zstd") as writer,
    ):
        for part in parts:
            # Neither metadata nor the cut into chunks is content.
            writer.write_table(part.select(schema.names).cast(schema).combine_chunks())


def verify(folder: Path) -> list[Fault]:
    """Read every byte of a set, and return all that is not as its manifest says.

    A wrong shard is looked into: each image in it that fails its checksum or its hash is named.
    """
    try:
        manifest = read_manifest(folder)
    except ImageSetError as error:
        return [Fault(MANIFEST, None, str(error))]
    if _is_moving(folder):
        return [Fault(MANIFEST, None, str(_damaged(folder, "")))]
    known: dict[str, dict[str, Any]] = manifest["files"]
    faults = [
        Fault(path, None, "is no part of the set")
        for path in _list_files(folder)
        if path not in known
    ]
    states = {path: _compare(folder / path, entry["sha256"]) for path, entry in known.items()}
    changed = {path: detail for path, detail in states.items() if detail}
    # Without a sound table nobody knows which image lies where.
    table = None if TABLE in changed else read_table(folder, manifest, TABLE).to_pandas()
    for path, detail in changed.items():
        found = [] if table is None else list(_name_images(folder, path, table, detail))
        faults += found or [Fault(path, None, detail)]
    return sorted(
        faults, key=lambda fault: (fault.file, -1 if fault.image is None else fault.image)
    )


def describe_file(path: Path) -> dict[str, Any]:
    """Return what the manifest says of a file."""
    return {"bytes": path.stat().st_size, "sha256": workspace.hash_file(path)}


def _compare(path: Path, sha256: str) -> str | None:
    """Return what is wrong with a file; None where it is as it was written."""
    try:
        sound = workspace.hash_file(path) == sha256
    except FileNotFoundError:
        return "is missing"
    except OSError as error:  # a failing disk is what this is here to find
        return f"cannot be read ({error.strerror})"
    return None if sound else "has changed since it was written"


def _list_files(folder: Path) -> list[str]:
    """Return the files of a set but its manifest, as sorted paths with ``/``."""
    found = []
    for parent, folders, names in os.walk(folder):
        if Path(parent) == folder and PARTIAL in folders:
            folders.remove(PARTIAL)
        found += [(Path(parent) / name).relative_to(folder).as_posix() for name in names]
    return sorted(path for path in found if path != MANIFEST)


def _name_images(folder: Path, path: str, table: pd.DataFrame, detail: str) -> Iterator[Fault]:
    """Yield a fault for each image of a shard that cannot be read as it was written."""
    # Brings decoders and pydicom, which whoever only reads a set has no use for.
    from medkit.images.pixels import hash_values

    match path.split("/"):
        case [_, name, "c", number, *_]:
            pass
        case _:
            return
    try:
        array = arrays.open_array(folder / PIXELS / name)
    except ValueError:  # its metadata is damaged, which is a fault of its own
        return
    rows = arrays.shard_rows(array, int(number))
    inside = table[(table["array"] == name) & table["row"].isin(rows)]
    for image, row, expected in inside[["image", "row", "pixels_sha256"]].itertuples(index=False):
        try:
            sound = hash_values(np.asarray(array[row].read().result())) == expected
        except ValueError:
            sound = False
        if not sound:
            yield Fault(path, int(image), f"the shard {detail}, and this image in it is damaged")


def _sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    checksum = hashlib.sha256(workspace.dump_json(content)).hexdigest()
    return {**content, "checksum": checksum}


def _is_moving(folder: Path) -> bool:
    """Say whether what was staged takes its place, or was broken off while it did."""
    return (folder / PARTIAL / STAGED / MANIFEST).exists()


def _damaged(folder: Path, detail: str) -> ImageSetError:
    if _is_moving(folder):
        return ImageSetError(
            f"the set {folder.name!r} is incomplete: it was broken off while more images took "
            f"their place in it; give the same 'medkit normalise {folder.name}' again"
        )
    return ImageSetError(
        f"the set {folder.name!r} is damaged: {detail}; see 'medkit verify {folder.name}', and "
        f"make it again with 'medkit normalise {folder.name} --replace'"
    )
