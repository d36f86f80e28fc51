"""Shards: zips of stored members, of pieces one after the other, each with its own index."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from medkit.archive.batches import OWN_FOLDER, make_info
from medkit.archive.index import BLOCK, Row, read_index, to_table, write_table
from medkit.errors import SourceError
from medkit.sources.unpacking import iterate_members
from medkit.workspace import move_into_place

INDEX = f"{OWN_FOLDER}/index.parquet"
_COMMENT = b"medkit archive, format 1: docs/archive.md"
_ROOM = 1 << 16  # a member's share of the directory is counted, the rest of a zip is not


class ShardWriter:
    """Writes one shard, which takes its name when it is whole.

    Parameters
    ----------
    path : Path
        Of the shard.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._beside = path.with_name(f".{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._archive = zipfile.ZipFile(self._beside, "w")
        self._rows: list[Row] = []
        self._directory = _ROOM

    @property
    def size(self) -> int:
        """Bytes that the shard has so far."""
        return self._archive.start_dir + self._directory

    def append(self, piece: Path, rows: list[Row]) -> None:
        """Add a piece."""
        archive = self._archive
        sink: Any = archive.fp
        base = archive.start_dir
        sink.seek(base)
        with piece.open("rb") as source:
            shutil.copyfileobj(source, sink, 1 << 20)
        archive.start_dir = sink.tell()
        for row in rows:
            if row["offset"] is not None:
                row["offset"] += base
                row["shard"] = self.path.name
                self._list_member(row)
            self._rows.append(row)

    def _list_member(self, row: Row) -> None:
        """Put a member of a piece into the zip's directory."""
        info = make_info(row, row["form"])
        info.file_size = info.compress_size = row["packed_size"]
        info.CRC = row["crc32"]
        info.header_offset = row["offset"] - len(info.FileHeader())
        self._directory += len(info.FileHeader()) + 64
        self._archive.filelist.append(info)

    def finish(self) -> pa.Table:
        """Write index and directory, and return the index."""
        table = to_table(self._rows)
        buffer = io.BytesIO()
        write_table(table, buffer)
        info = make_info({"path": INDEX, "mtime_ns": 0}, BLOCK)
        self._archive.writestr(info, buffer.getvalue())
        self._archive.comment = _COMMENT
        self._archive.close()
        move_into_place(self._beside, self.path)
        return table

    def abandon(self) -> None:
        """Let go of a shard that is not to be."""
        self._archive.close()
        self._beside.unlink(missing_ok=True)


def read_own_index(path: Path) -> pa.Table:
    """Return the index that a shard carries.

    Raises
    ------
    SourceError
        If there is none, or it is damaged.
    """
    for member in iterate_members(path):
        if member.name == INDEX:
            with member.open() as stream:
                return read_index(pa.BufferReader(stream.read()))
    raise SourceError(f"{path.name} is no shard of medkit: it has no index")
