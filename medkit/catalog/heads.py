"""The quick road: plain DICOM files, thousands at a time, by their heads.

A file goes this way if its header is sound, little-endian, not deflated and has nothing per
frame; then its rows are exactly those of `medkit.catalog.headers`. Of all others, nothing is said
but that they are left over.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medkit.catalog import elements, triage
from medkit.catalog.columns import Heads
from medkit.catalog.entries import Entries
from medkit.catalog.findings import Finding, ignore
from medkit.catalog.headers import (
    DICOMDIR,
    FRAMES_LIMIT,
    NATIVE,
    NOT_IMAGES,
    PIXEL_KEYWORDS,
)
from medkit.catalog.schema import HEADER, IDENTIFIERS, READ_TABLES, RESOLVED
from medkit.sources.trees import is_remote, read_ranges

Rows = npt.NDArray[np.intp]
Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Truths = npt.NDArray[np.bool_]
Tables = dict[str, pa.Table]

_BATCH = 2**12  # files in hand at a time, of which a few values are kept

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "TransferSyntaxUID")


def read_plain(
    entries: Entries, rows: Rows, keep_identifiers: bool
) -> tuple[list[Tables], dict[int, Finding], list[int]]:
    """Read those of some files that are plain.

    Parameters
    ----------
    entries : Entries
        Files.
    rows : (n,) int array
        Which to look at; none is empty.
    keep_identifiers : bool
        Also take the person's name and birth date.

    Returns
    -------
    tables : list of dict of str to pyarrow.Table
        Pieces of the tables of `schema.READ_TABLES` but for ``files``, which has ``entry``, the
        position of the file, with ``kind``, ``reason`` and ``detail``.
    findings : dict of int to Finding
        What was settled without a header: files of no known kind.
    left : list of int
        All others.
    """
    pieces: list[Tables] = []
    findings: dict[int, Finding] = {}
    left: list[int] = []
    for begin in range(0, len(rows), _BATCH):
        part = rows[begin : begin + _BATCH]
        heads = Heads(entries.sizes[part], _Files(entries, part).read)
        for row, start in heads.strangers.items():
            entry = int(part[row])
            if finding := _tell_stranger(entries, entry, start):
                findings[entry] = finding
            else:
                left.append(entry)
        tables, taken = _tabulate(entries, part, heads, keep_identifiers)
        pieces.append(tables)
        taken[[*heads.strangers]] = True
        left.extend(part[~taken].tolist())
    return pieces, findings, sorted(left)


class _Files:
    """The files of a batch, read as `Heads` asks for them."""

    def __init__(self, entries: Entries, part: Rows) -> None:
        self._root = entries.root
        self._paths = [entries.paths[row] for row in part.tolist()]
        self._compiled = os.name == "posix" and not is_remote(entries.root)
        if self._compiled:
            self._names = np.frombuffer(os.fsencode("\0".join([*self._paths, ""])), np.uint8)
            self._starts = np.concatenate([[0], np.flatnonzero(self._names == 0)[:-1] + 1])

    def read(self, rows: Integers, offsets: Integers, widths: Integers, data: Bytes) -> None:
        """Fill an array with parts of files."""
        begins = np.cumsum(widths) - widths
        fill = self._fill_compiled if self._compiled else self._fill
        got = fill(rows, offsets, data, begins, widths)
        for row in np.flatnonzero(got != widths):  # no longer as it was a moment ago
            data[begins[row] : begins[row] + widths[row]] = 0

    def _fill_compiled(
        self, rows: Integers, offsets: Integers, data: Bytes, begins: Integers, widths: Integers
    ) -> Integers:
        """Fill an array with parts of files, and return how much of each there is."""
        got = np.full(len(rows), -1)
        with suppress(OSError):  # the folder is gone
            handle = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                starts = self._starts[rows]
                elements.read_windows(
                    handle, self._names, starts, offsets, data, begins, widths, got
                )
            finally:
                os.close(handle)
        return got

    def _fill(
        self, rows: Integers, offsets: Integers, data: Bytes, begins: Integers, widths: Integers
    ) -> Integers:
        """Do the same, wherever the files are."""
        paths = [self._paths[row] for row in rows.tolist()]
        found = read_ranges(self._root, paths, offsets.tolist(), widths.tolist())
        got = np.array([-1 if isinstance(part, OSError) else len(part) for part in found], np.int64)
        for row in np.flatnonzero(got == widths):
            part = cast("bytes", found[row])
            data[begins[row] : begins[row] + widths[row]] = np.frombuffer(part, np.uint8)
        return got


def _tell_stranger(entries: Entries, entry: int, start: bytes) -> Finding | None:
    """Return what a file is that has no DICOM prefix; None if it is of a known kind."""
    # Zeros alone are what stands for a file that cannot be read.
    if not any(start) or triage.recognise(start, int(entries.sizes[entry])):
        return None
    return ignore(triage.explain(entries.paths[entry]))


def _tabulate(
    entries: Entries, rows: Rows, heads: Heads, keep_identifiers: bool
) -> tuple[Tables, Truths]:
    """Return the rows of the files that are plain in every respect, and which these are."""
    fields = [*HEADER, *IDENTIFIERS] if keep_identifiers else [*HEADER]
    columns = {one.name: heads.read(one.name) for one in fields}
    position = heads.read("ImagePositionPatient")
    columns |= _locate_pixels(heads)
    kinds = _classify(heads, columns)
    frames = _count_frames(heads, columns)
    image = np.asarray(kinds["kind"]) == "image"
    sound = ~heads.failed & ~_lacks_any(columns, _UIDS) & ~_is_special(heads, columns, image)
    sound &= ~image | _has_sound_pixels(heads, columns, frames)
    count = len(rows)
    single = pa.array(image & (frames == 1))
    keys = [entries.keys[row] for row in rows.tolist()]
    columns |= {
        "file": pa.array(keys),
        "format": pa.repeat("dicom", count),
        "source": pa.repeat(entries.source, count),
        "synthetic_uid": pa.repeat(False, count),
        "has_modality_lut": pa.repeat(False, count),
        "one_frame": single,
        # One position cannot be that of several frames.
        "ImagePositionPatient": pc.if_else(single, position, None),
    }
    instances = _make_table(columns, "instances", count)
    files = pa.table({"entry": pa.array(rows), **kinds})
    if not sound.all():  # to pick all would be to copy all
        files, instances = (table.filter(pa.array(sound)) for table in (files, instances))
    several = np.flatnonzero(sound & image & (frames > 1))
    listed = _list_frames(columns, several, frames[several])
    return {"files": files, "instances": instances, "frames": listed}, sound


def _make_table(columns: dict[str, pa.Array], name: str, count: int) -> pa.Table:
    """Return a table of that name's schema; columns that are missing are null."""
    schema = READ_TABLES[name]
    arrays = [
        columns[one.name] if one.name in columns else pa.nulls(count, one.type) for one in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _locate_pixels(heads: Heads) -> dict[str, pa.Array]:
    tags, places, lengths = heads.pixels[:, 1:].T
    there = tags >= 0
    names = pa.array([*PIXEL_KEYWORDS.values()])
    which = np.searchsorted([*PIXEL_KEYWORDS], np.where(there, tags, 0))
    return {
        "pixel_keyword": names.take(pa.array(which % len(names), mask=~there)),
        "pixel_offset": pa.array(places, mask=~there),
        "pixel_length": pa.array(lengths, mask=~there),
        "encapsulated": pa.array(there & (lengths < 0)),
    }


def _classify(heads: Heads, columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    """Return kind, reason and detail, as `headers.read_header` would."""
    kind = columns["SOPClassUID"].fill_null("")
    kind = pc.if_else(pc.equal(kind, ""), heads.read("MediaStorageSOPClassUID"), kind)
    others = pa.array([*NOT_IMAGES])
    which = pc.index_in(kind, others)
    other = np.asarray(which.is_valid())
    bare = ~other & (heads.pixels[:, 1] < 0)
    reasons = np.where(other, 1, np.where(bare, 2, 0))
    return {
        "kind": pa.array(["image", "other-dicom", "other-dicom"]).take(pa.array(reasons)),
        "reason": pa.array([None, "not-an-image-class", "no-pixels"]).take(pa.array(reasons)),
        "detail": pa.array([*NOT_IMAGES.values()]).take(which),
    }


def _lacks_any(columns: dict[str, pa.Array], names: tuple[str, ...]) -> Truths:
    return np.asarray(np.any([columns[name].is_null() for name in names], axis=0))


def _is_special(heads: Heads, columns: dict[str, pa.Array], image: Truths) -> Truths:
    """Say which files have what the quick road does not read."""
    directory = pc.equal(columns["SOPClassUID"], DICOMDIR).fill_null(False)
    directory = pc.or_(
        directory, pc.equal(heads.read("MediaStorageSOPClassUID"), DICOMDIR).fill_null(False)
    )
    grouped = heads.has("SharedFunctionalGroupsSequence")
    grouped |= heads.has("PerFrameFunctionalGroupsSequence")
    special = np.asarray(directory) | heads.has("ModalityLUTSequence") | (grouped & image)
    return np.asarray(special)


def _count_frames(heads: Heads, columns: dict[str, pa.Array]) -> npt.NDArray[np.int64]:
    """Return how many frames each has; 0 if that cannot be."""
    frames = _numbers(columns["NumberOfFrames"], 1)
    frames = np.where(frames == 0, 1, frames)
    room = np.maximum(1, heads.sizes - heads.pixels[:, 2])
    return np.where((frames >= 1) & (frames <= np.minimum(FRAMES_LIMIT, room)), frames, 0)


def _has_sound_pixels(
    heads: Heads, columns: dict[str, pa.Array], frames: npt.NDArray[np.int64]
) -> Truths:
    """Say where size, syntax and length of the pixel data agree; see `headers`."""
    rows, lines = _numbers(columns["Rows"], 0), _numbers(columns["Columns"], 0)
    bits = _numbers(columns["BitsAllocated"], 0)
    samples = _numbers(columns["SamplesPerPixel"], 1)
    samples = np.where(samples == 0, 1, samples)
    halved = pc.equal(columns["PhotometricInterpretation"], "YBR_FULL_422").fill_null(False)
    samples = np.where(np.asarray(halved), 2, samples)
    place, length = heads.pixels[:, 2], heads.pixels[:, 3]
    native = np.asarray(pc.is_in(columns["TransferSyntaxUID"], pa.array([*NATIVE])))
    possible = frames > 0
    # Larger numbers belong to no file, and their product would overflow.
    for number, limit in ((rows, 2**16), (lines, 2**16), (bits, 2**8), (samples, 2**4)):
        possible &= (number > 0) & (number < limit)
    needed = -(-np.where(possible, rows * lines * frames * samples * bits, 0) // 8)
    exact = (length == needed) | (length == needed + needed % 2)
    complete = exact & (place + length <= heads.sizes)
    return np.asarray(possible & (native != (length < 0)) & (~native | complete))


def _numbers(column: pa.Array, missing: int) -> npt.NDArray[np.int64]:
    return np.asarray(column.fill_null(missing))


def _list_frames(
    columns: dict[str, pa.Array], rows: Rows, frames: npt.NDArray[np.int64]
) -> pa.Table:
    """Return a row for each of several frames; they share all but their number and position."""
    repeated = np.repeat(rows, frames)
    starts = np.repeat(np.cumsum(frames) - frames, frames)
    found = {name: columns[name].take(pa.array(repeated)) for name in ("file", *RESOLVED)}
    found["frame"] = pa.array(np.arange(len(repeated)) - starts)
    return _make_table(found, "frames", len(repeated))
