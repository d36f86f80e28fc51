"""The index of an archive: a row a file, with all that restoring and checking it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medkit.archive.anatomy import IDENTITY, Samples
from medkit.archive.members import Packed
from medkit.errors import SourceError
from medkit.workspace import write_beside

FILE, FOLDER, LEFT_OUT, BLOCK = "file", "folder", "left-out", "heads"

_NAMES = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    {
        "path": pa.string(),  # as in the shard; the same on every system
        "original": pa.binary(),  # as it was in the tree, where that is something else
        "kind": _NAMES,
        "size": pa.int64(),
        "mtime_ns": pa.int64(),
        "mode": pa.int32(),
        "sha256": pa.string(),
        "form": _NAMES,
        "reason": _NAMES,
        "shard": _NAMES,
        "offset": pa.int64(),
        "packed_size": pa.int64(),
        "packed_sha256": pa.string(),
        "crc32": pa.int64(),
        # What restoring a recompressed file takes: its other bytes, and the shape of its samples.
        "heads": pa.int32(),
        "heads_offset": pa.int64(),
        "head": pa.int64(),
        "shared": pa.int64(),
        "outside": pa.int64(),
        "pixels": pa.int64(),
        "frames": pa.int32(),
        "rows": pa.int32(),
        "columns": pa.int32(),
        "samples": pa.int32(),
        "words": _NAMES,
        "stored": pa.int32(),
        "planar": pa.bool_(),
        **dict.fromkeys(IDENTITY, pa.string()),
        "identified": pa.bool_(),
        "burned_in": _NAMES,
    }
)
Row = dict[str, Any]


def describe_packed(packed: Packed) -> Row:
    """Return what the index says of a packed file, as far as that follows from it alone."""
    row: Row = {"form": packed.form, "reason": packed.reason or None, **packed.identity}
    samples = packed.samples
    if samples is not None:
        row |= {
            "head": packed.head,
            "shared": packed.shared,
            "outside": len(packed.outside),
            "pixels": packed.pixels,
            **{name: getattr(samples, name) for name in _SHAPE},
        }
    return row


_SHAPE = ("frames", "rows", "columns", "samples", "words", "stored", "planar")


def read_packed(row: Mapping[str, Any], outside: bytes) -> Packed:
    """Return what `members.restore` takes, from a row of the index.

    Raises
    ------
    SourceError
        If the row contradicts itself.
    """
    frames, rows, columns, samples = (row[name] or 0 for name in _SHAPE[:4])
    width = {"|u1": 1, "|i1": 1, "<u2": 2, "<i2": 2, ">u2": 2, ">i2": 2}.get(row["words"], 0)
    size = frames * rows * columns * samples * width
    head, shared, stored = row["head"] or 0, row["shared"] or 0, row["stored"] or 0
    if (
        min(frames, rows, columns, samples) <= 0
        or not width
        or not (0 <= head <= len(outside) and shared >= 0 and 0 < stored <= 8 * width)
    ):
        raise SourceError("the index has no shape of its samples")
    if size + len(outside) + shared != row["size"]:
        raise SourceError("the index contradicts itself: its parts are not as long as the file")
    shape = Samples(
        start=head,
        size=size,
        frames=frames,
        rows=rows,
        columns=columns,
        samples=samples,
        words=row["words"],
        stored=stored,
        planar=bool(row["planar"]),
        photometric="",
    )
    return Packed(
        row["form"],
        b"",
        outside=outside,
        head=head,
        shared=shared,
        pixels=row["pixels"] or 0,
        samples=shape,
    )


def write_index(path: Path, rows: Iterable[Row] | pa.Table) -> None:
    """Write an index, or a part of one; equal rows are equal bytes."""
    with write_beside(path) as beside:
        write_table(rows if isinstance(rows, pa.Table) else to_table(rows), beside)


def write_table(table: pa.Table, sink: Any) -> None:
    """Write an index to a path or a buffer; equal rows are equal bytes."""
    pq.write_table(
        table.combine_chunks().unify_dictionaries(),
        sink,
        compression="zstd",
        use_dictionary=[one.name for one in SCHEMA if one.type == _NAMES],
        write_page_checksum=True,
    )


def to_table(rows: Iterable[Row]) -> pa.Table:
    """Return rows as a table."""
    return pa.Table.from_pylist([*rows], schema=SCHEMA)


def read_index(source: Any) -> pa.Table:
    """Return an index from a file or a buffer.

    Raises
    ------
    SourceError
        If it is damaged, or lacks a column.
    """
    try:
        table = pq.read_table(source, page_checksum_verification=True)
        return pa.Table.from_arrays(
            [table[one.name].cast(one.type) for one in SCHEMA], schema=SCHEMA
        ).unify_dictionaries()
    except (pa.ArrowException, KeyError, OSError) as error:
        raise SourceError(f"the archive's index is damaged: {error}") from None
