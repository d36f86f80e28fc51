"""Readers of plugins: file formats that medkit itself does not know.

A reader is named by the user (``medkit catalog --reader NAME``); the catalog's journal remembers
it. It is imported where files are read, in processes that may die, and nowhere else. DICOM is
never given to one; of everything else it is asked before medkit looks itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy.typing as npt

from medkit.catalog import triage
from medkit.catalog.findings import Finding, UnreadableFileError
from medkit.catalog.identity import name_usable
from medkit.catalog.journal import Record, append_journal, read_journal
from medkit.catalog.schema import HEADER
from medkit.catalog.stacks import NOT_READ, Stack, VoxelsNotReadError, describe_stack
from medkit.errors import CatalogError, PluginError, UsageError
from medkit.plugins import find_plugin, load_plugin

if TYPE_CHECKING:
    import pyarrow as pa

DICOM_KINDS = ("image", "other-dicom")
NONE = "none"  # as the name of a reader: no longer any
FAILED = "reader-failed"  # in the table ``problems``

_BETWEEN = " + "  # medkit's own reader, and those of plugins
_IMAGES = 2**20  # that one file may hold
_OWN = {"dicom", "png", "jpeg", "tiff", "bmp", "nifti", "metaimage", "nrrd", "raw", NONE}
# What follows from the stack, or from what the user says of a source.
_SETTLED = {
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("TransferSyntaxUID", "SOPClassUID", "PixelPresentation", "PixelSpacing"),
    *("ImageOrientationPatient", "RescaleSlope", "RescaleIntercept"),
}
_COLUMNS = {one.name for one in HEADER} - _SETTLED


@dataclass(frozen=True)
class StoredImage:
    """One image, or one volume, in a file of a plugin's format.

    Attributes
    ----------
    stack : Stack
        Shape, type and geometry. Its slices are frames of one series; where and how the voxels
        lie in the file (``data``, ``packed_from``, ``offset``) is the plugin's own business.
    name : str
        Of the image in the file, with ``/`` between folders, such as ``train/cat/17``, and
        part of its path in the catalog: ``set.npz!train/cat/17``. Labels, persons and given folds
        are told by that path. Empty where the file is one image.
    columns : mapping
        What else is known, by columns of ``instances`` that DICOM would have in a header, such as
        ``{"Modality": "CR", "PatientID": "7"}``.
    """

    stack: Stack
    name: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)


class OpenedFile(Protocol):
    """A file that a reader opened."""

    def images(self) -> Iterable[StoredImage]:
        """Yield what is in it, in an order that follows from its bytes; no pixel is decoded.

        Raises
        ------
        VoxelsNotReadError
            If the format is right, and the content of a kind that is not read.
        """
        ...

    def read(self, name: str, frame: int) -> npt.NDArray[Any]:
        """Return the stored values of one frame: (rows, columns), or (rows, columns, 3).

        Frames of one image are asked for one after the other, as a rule.
        """
        ...


class FormatReader(Protocol):
    """What a plugin's hook ``medkit_reader`` returns: an object, or a module, with two functions.

    The name of its entry point is that of the format in the catalog.
    """

    def recognise(self, head: bytes, size: int) -> bool:
        """Tell by the first `triage.HEAD` bytes, or all there are, whether this is its format."""
        ...

    def open(self, stream: BinaryIO) -> OpenedFile:
        """Open a file; the stream is seekable, at its start, and stays open as long as it."""
        ...


def load_reader(name: str) -> FormatReader:
    """Import the plugin of that name, and return its reader.

    Raises
    ------
    UsageError
        If no plugin has that name, or the name is that of a format medkit reads itself.
    PluginError
        If it cannot be imported, or returns something else.
    """
    if name in _OWN:
        raise UsageError(f"a reader cannot be named {name!r}: medkit itself uses that name")
    return _load(name)


@lru_cache(maxsize=16)
def _load(name: str) -> FormatReader:
    reader: FormatReader = load_plugin("reader", name)
    missing = [part for part in ("recognise", "open") if not callable(getattr(reader, part, None))]
    if missing:
        raise PluginError(
            f"the plugin {name!r} ({find_plugin('reader', name).origin}) is no reader: it gave "
            f"{reader!r}, which lacks {' and '.join(missing)}"
        )
    return reader


# ---- Which readers a catalog has -----------------------------------------------------------------


def remember_readers(folder: Path, names: Sequence[str] | None) -> tuple[str, ...]:
    """Write to a catalog's journal which readers it has, where that is news, and return them.

    Parameters
    ----------
    folder : Path
        The catalog's.
    names : sequence of str or None
        In the order in which they are asked; `NONE` alone for none, None for those of before.

    Raises
    ------
    UsageError, PluginError
        As of `load_reader`.
    """
    before = find_readers(read_journal(folder))
    chosen = before if names is None else tuple(dict.fromkeys(names))
    if names is not None and chosen == (NONE,):
        chosen = ()
    for name in chosen:
        load_reader(name)
    if chosen != before:
        append_journal(folder, [{"type": "readers", "names": list(chosen)}])
    return chosen


def find_readers(records: Iterable[Record]) -> tuple[str, ...]:
    """Return the readers that a journal names last."""
    names = [record["names"] for record in records if record["type"] == "readers"]
    return tuple(names[-1]) if names else ()


def list_distributions(folder: Path) -> list[str]:
    """Return the distributions that a catalog's readers are of."""
    names = find_readers(read_journal(folder))
    return [find_plugin("reader", name).distribution for name in names]


def add_readers(own: str, names: Sequence[str]) -> str:
    """Return what rows say of their reader, medkit's own and those of plugins with versions."""
    return _BETWEEN.join(
        [own, *(f"{name} {find_plugin('reader', name).version}" for name in names)]
    )


def name_own(reader: str) -> str:
    """Return medkit's own part of that, which is all that DICOM files depend on."""
    return reader.partition(_BETWEEN)[0]


def is_current(files: pa.Table, reader: str) -> pa.ChunkedArray:
    """Tell which rows of ``files`` say what this reader would say."""
    import pyarrow as pa
    import pyarrow.compute as pc

    dicom = pc.is_in(files["kind"], pa.array(DICOM_KINDS))
    own = pc.and_(pc.equal(files["reader"], name_own(reader)), dicom)
    return pc.or_kleene(pc.equal(files["reader"], reader), own)


# ---- Looking into a file -------------------------------------------------------------------------


def find_reader(names: Sequence[str], head: bytes, size: int) -> str | None:
    """Return the first reader whose format a file is; None for DICOM, and where there is none.

    Raises
    ------
    UnreadableFileError
        `FAILED`: one of them failed at that.
    """
    if not names or triage.recognise(head, size) in ("dicom", "bare-dicom"):
        return None
    for name in names:
        try:
            if load_reader(name).recognise(head, size):
                return name
        except Exception as error:  # whatever a plugin raises is the plugin's fault
            raise explain_failure(name, error) from None
    return None


def inspect_plugged(
    stream: BinaryIO, size: int, names: Sequence[str]
) -> tuple[Finding, list[tuple[str, int, Finding]]] | None:
    """Return what a reader finds in a file, and in the images of it; None where no reader wants it.

    Parameters
    ----------
    stream : binary file
        Seekable; afterwards it is at its start.
    size : int
        Of the file.
    names : sequence of str
        Of readers.

    Returns
    -------
    finding : Finding
        Of the file: an archive where it holds images with names.
    members : list of (str, int, Finding)
        Name, bytes and finding of each of these.

    Raises
    ------
    UnreadableFileError
        `FAILED`, where the reader does.
    """
    if not names or not size:
        return None
    name = find_reader(names, stream.read(triage.HEAD), size)
    stream.seek(0)
    if name is None:
        return None
    try:
        return _describe_all(name, load_reader(name).open(stream).images())
    except VoxelsNotReadError as error:
        values = {"format": name}
        return Finding("non-dicom", values=values, problems=[(NOT_READ, error.detail)]), []
    except Exception as error:
        raise explain_failure(name, error) from None
    finally:
        stream.seek(0)


def explain_failure(name: str, error: Exception) -> UnreadableFileError:
    """Return the error that stands for a file whose reader failed."""
    detail = f"the reader {name!r}: {type(error).__name__}: {error}"
    return UnreadableFileError(FAILED, detail[:300])


def _describe_all(
    form: str, images: Iterable[StoredImage]
) -> tuple[Finding, list[tuple[str, int, Finding]]]:
    found: dict[str, tuple[str, int, Finding]] = {}
    for image in images:
        _check_name(image.name, found)
        found[image.name] = image.name, image.stack.length, _describe(form, image)
    if not found:
        raise CatalogError("no image in it")
    if [*found] == [""]:
        return found[""][2], []
    return Finding("archive"), [*found.values()]


def _check_name(name: str, found: Mapping[str, Any]) -> None:
    parts = name.split("/")
    if name and ("!" in name or not name.isprintable() or {"", ".", ".."} & {*parts}):
        raise CatalogError(f"an image cannot be named {name!r}")
    if name in found or (found and "" in (name, *found)):
        raise CatalogError(f"two images are named {name!r}, or one of several has no name")
    if len(found) >= _IMAGES:
        raise CatalogError(f"more than {_IMAGES:,} images")


def _describe(form: str, image: StoredImage) -> Finding:
    unknown = sorted({*image.columns} - _COLUMNS)
    if unknown:
        raise CatalogError(f"there is no column {unknown[0]!r} that a reader could fill")
    stack = image.stack
    if stack.kind.kind not in "iuf" or stack.kind.itemsize > 8 or stack.kind.name == "float16":
        raise VoxelsNotReadError(f"values of the type {stack.kind.name}")
    if not all(isinstance(length, int) for length in stack.shape):
        raise CatalogError(f"a shape of {stack.shape}")
    size = math.prod(stack.shape) * stack.samples * stack.kind.itemsize + max(stack.offset, 0)
    finding = describe_stack(stack, form, size)
    assert finding.values is not None
    finding.values.update(image.columns)
    # A name such as ANON says nobody, and would join all who have it.
    finding.values["PatientID"] = name_usable(image.columns.get("PatientID"))
    return finding
