"""A set on disk: what lies where, what it promises, and how it is opened and verified.

set.json          the manifest: recipe, catalog snapshot, versions, counts, and the size and
                  SHA-256 of every other file; written last, so its presence means complete
images.parquet    a row an image that landed
refused.parquet   a row a frame that did not, and why
pixels.zarr/      a Zarr v3 group, one array a kind of pixel (`arrays`)
.partial/         work in progress, or what a kill left of it; no part of the set
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
from medkit.images.pixels import hash_values
from medkit.images.reader import Images, StoredCodes

FORMAT = 1
MANIFEST = "set.json"
TABLE = "images.parquet"
REFUSED = "refused.parquet"
PIXELS = "pixels.zarr"
PARTIAL = ".partial"

_text, _integer, _number, _truth = pa.string(), pa.int64(), pa.float64(), pa.bool_()

# Columns that an image has from the catalog, as the catalog has them.
CATALOG_FIELDS = (
    pa.field("file", _text),
    pa.field("source", _text),
    pa.field("root", _text),
    pa.field("path", _text),
    pa.field("frame", _integer),
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
    [("file", _text), ("frame", _integer), ("path", _text), ("code", _text), ("detail", _text)]
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
        A row a frame that was selected and did not land: file, frame, path, code, detail.
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
        for path, entry in manifest["files"].items():
            file = folder / path
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                raise _damaged(folder, f"{path} is missing or cut")
        for path in (TABLE, REFUSED):
            if workspace.hash_file(folder / path) != manifest["files"][path]["sha256"]:
                raise _damaged(folder, f"{path} has changed since it was written")
        return cls(folder, manifest, _read_table(folder / TABLE), _read_table(folder / REFUSED))

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def id(self) -> str:
        """A hash of its content: equal sets have equal ids, whatever their name, place or age."""
        hashes = {path: entry["sha256"] for path, entry in self.manifest["files"].items()}
        return workspace.hash_json(hashes)

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


def write_manifest(folder: Path, files: Iterable[str], content: Mapping[str, Any]) -> None:
    """Write ``set.json`` by way of the work folder, which makes the set complete.

    Parameters
    ----------
    folder : Path
        Of the set.
    files : iterable of str
        Everything else that belongs to it, in place.
    content : mapping
        All but ``format``, ``files`` and ``checksum``, which are added here.
    """
    entries = {path: _describe_file(folder / path) for path in files}
    sealed = _sealed({**content, "format": FORMAT, "files": entries})
    beside = folder / PARTIAL / MANIFEST
    beside.write_bytes(workspace.dump_json(sealed))
    workspace.move_into_place(beside, folder / MANIFEST)


def write_table(path: Path, table: pd.DataFrame, schema: pa.Schema) -> None:
    """Write a table of a set; equal rows give equal bytes."""
    # What pandas adds to the metadata names its own version.
    content = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
    pyarrow.parquet.write_table(content.replace_schema_metadata(), path, compression="zstd")


def verify(folder: Path) -> list[Fault]:
    """Read every byte of a set, and return all that is not as its manifest says.

    A wrong shard is looked into: each image in it that fails its checksum or its hash is named.
    """
    try:
        manifest = read_manifest(folder)
    except ImageSetError as error:
        return [Fault(MANIFEST, None, str(error))]
    known: dict[str, dict[str, Any]] = manifest["files"]
    faults = [
        Fault(path, None, "is no part of the set")
        for path in _list_files(folder)
        if path not in known
    ]
    states = {path: _compare(folder / path, entry["sha256"]) for path, entry in known.items()}
    changed = {path: detail for path, detail in states.items() if detail}
    # Without a sound table nobody knows which image lies where.
    table = None if TABLE in changed else _read_table(folder / TABLE)
    for path, detail in changed.items():
        found = [] if table is None else list(_name_images(folder, path, table, detail))
        faults += found or [Fault(path, None, detail)]
    return sorted(
        faults, key=lambda fault: (fault.file, -1 if fault.image is None else fault.image)
    )


def _describe_file(path: Path) -> dict[str, Any]:
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


def _read_table(path: Path) -> pd.DataFrame:
    table: pd.DataFrame = pyarrow.parquet.read_table(path).to_pandas()
    return table


def _sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    checksum = hashlib.sha256(workspace.dump_json(content)).hexdigest()
    return {**content, "checksum": checksum}


def _damaged(folder: Path, detail: str) -> ImageSetError:
    return ImageSetError(
        f"the set {folder.name!r} is damaged: {detail}; see 'medkit verify {folder.name}', and "
        f"make it again with 'medkit normalise {folder.name} --replace'"
    )
