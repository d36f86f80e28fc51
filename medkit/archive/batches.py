"""Some files of a tree, packed by one process into a piece of a shard.

A piece is the members of a zip as they stand in it, without a directory; a shard is pieces one
after the other. Its bytes depend on the files and the options alone.
"""

from __future__ import annotations

import calendar
import mmap
import os
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import imagecodecs

from medkit.archive.codecs import find_codec
from medkit.archive.elements import OddFileError
from medkit.archive.index import BLOCK, FILE, LEFT_OUT, Row, describe_packed, write_index
from medkit.archive.members import STORED, ZSTD, Packed, hash_bytes, pack_file, store_file
from medkit.archive.plan import Found, to_path
from medkit.sources import zstd
from medkit.workspace import move_into_place

if TYPE_CHECKING:
    from medkit.archive.deidentification import Disguised, Rules
    from medkit.archive.pseudonyms import Pair

_LEVEL = 19  # of heads: a small part of the work, and of the bytes
_MAPPED = 1 << 26  # a longer file is not read at once
_ZIP_YEARS = (calendar.timegm((1980, 1, 1, 0, 0, 0)), calendar.timegm((2107, 12, 31, 0, 0, 0)))
OWN_FOLDER = ".medkit"


@dataclass(frozen=True)
class Batch:
    """What one process packs at a time.

    Attributes
    ----------
    root, work : str
        The tree, and where the piece is written.
    number : int
        Of the piece.
    codec, effort : str
        As of `codecs`.
    found : tuple of Found
        The files and folders.
    cautious : bool
        Keep all as they are: a process died over them.
    rules : Rules, optional
        De-identify each.
    """

    root: str
    work: str
    number: int
    codec: str
    effort: str
    found: tuple[Found, ...]
    cautious: bool = False
    rules: Rules | None = None

    @property
    def piece(self) -> Path:
        """The file of the piece."""
        return Path(self.work, f"{self.number:06d}.piece")

    @property
    def rows(self) -> Path:
        """The rows of its index; where they are, the piece is whole."""
        return Path(self.work, f"{self.number:06d}.parquet")


def pack_batch(batch: Batch) -> int:
    """Write the piece of a batch, and return its number."""
    beside = batch.piece.with_suffix(".part")
    with beside.open("wb") as sink:
        writer = _Writer(sink)
        rows = (
            _pack_disguised(batch, batch.rules, writer)
            if batch.rules
            else [_pack_found(batch, found, writer) for found in batch.found]
        )
        _write_heads(batch.number, writer, rows)
    move_into_place(beside, batch.piece)
    rows += writer.blocks
    for row in rows:
        row.pop("bytes", None)
    write_index(batch.rows, rows)
    return batch.number


def _pack_found(batch: Batch, found: Found, writer: _Writer) -> Row:
    row: Row = {
        "path": found.name,
        "original": None if found.name.encode() == found.original else found.original,
        "kind": found.kind,
        "size": found.size,
        "mtime_ns": found.mtime_ns,
        "mode": found.mode,
        "reason": found.reason or None,
    }
    if found.kind != FILE:
        return row
    try:
        with _open_whole(to_path(batch.root, found.path)) as data:
            if len(data) != found.size:
                return row | {"kind": LEFT_OUT, "reason": "changed-meanwhile"}
            return _write_packed(_pack(batch, data), data, row, writer)
    except PermissionError:
        return row | {"kind": LEFT_OUT, "reason": "unreadable"}
    except FileNotFoundError:
        return row | {"kind": LEFT_OUT, "reason": "changed-meanwhile"}


def _pack(batch: Batch, data: Any) -> Packed:
    if batch.cautious:
        return store_file(data, "codec-died")
    return pack_file(data, find_codec(batch.codec), batch.effort)


def _write_packed(packed: Packed, data: Any, row: Row, writer: _Writer) -> Row:
    row = row | describe_packed(packed) | {"sha256": hash_bytes(data)}
    row |= writer.write(make_info(row, packed.form), packed.content, row)
    return row | {"bytes": packed.outside}


def _pack_disguised(batch: Batch, rules: Rules, writer: _Writer) -> list[Row]:
    """Pack files without what identifies them; what cannot be de-identified is left out."""
    rows: list[Row] = []
    pairs: set[Pair] = set()
    for found in batch.found:
        path = os.fsdecode(found.path)
        try:
            disguised = _disguise(batch, rules, found, path)
            if batch.cautious:  # unpacked, nothing says what its pixels hide
                raise OddFileError("codec-died", "a process died over it or a neighbour")
            packed = _pack(batch, disguised.content)
            disguised.check(packed)
        except OddFileError as odd:
            hidden = f"{LEFT_OUT}/{rules.pseudonyms.hide('path', path)}"
            rows.append({"path": hidden, "kind": LEFT_OUT, "size": 0, "mtime_ns": 0, "mode": 0})
            rows[-1]["reason"] = odd.code
            pairs.add((f"{LEFT_OUT}: {odd.code}", path, hidden))
            continue
        row = {"path": disguised.name, "kind": FILE, "size": len(disguised.content)}
        row |= {"mtime_ns": _ZIP_YEARS[0] * 10**9, "mode": 0o644}
        rows.append(_write_packed(packed, disguised.content, row, writer) | disguised.told)
        pairs |= disguised.pairs
    rules.map.write_part(batch.number, pairs)
    return rows


def _disguise(batch: Batch, rules: Rules, found: Found, path: str) -> Disguised:
    # With it comes pydicom, which takes long where many processes start.
    from medkit.archive.deidentification import disguise

    if found.kind != FILE:
        raise OddFileError(found.reason, "it is no file")
    try:
        with _open_whole(to_path(batch.root, found.path)) as data:
            if len(data) != found.size:
                raise OddFileError("changed-meanwhile", "it has another length")
            return disguise(data, path, rules)
    except PermissionError:
        raise OddFileError("unreadable", "it must not be read") from None
    except FileNotFoundError:
        raise OddFileError("changed-meanwhile", "it is gone") from None


@contextmanager
def _open_whole(path: Path) -> Iterator[Any]:
    """Yield all bytes of a file; of a long one without reading them at once."""
    with path.open("rb") as stream:
        if path.stat().st_size <= _MAPPED:
            yield stream.read()
            return
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        yield mapped  # it is closed when nobody looks at it any more


def _write_heads(number: int, writer: _Writer, rows: Sequence[Row]) -> None:
    """Write what is not samples, all together, series by series: neighbours are much alike."""
    headed = [row for row in rows if row.get("bytes")]
    headed.sort(key=lambda row: row.get("SeriesInstanceUID") or "")
    place = 0
    for row in headed:
        row |= {"heads": number, "heads_offset": place}
        place += row["outside"]
    if not headed:
        return
    content = b"".join(row["bytes"] for row in headed)
    row = {"path": f"{OWN_FOLDER}/heads-{number:06d}.zst", "kind": BLOCK, "heads": number}
    row |= {"size": len(content), "mtime_ns": 0, "sha256": hash_bytes(content)}
    packed = zstd.compress(content, _LEVEL)
    writer.blocks.append(row | writer.write(make_info(row, STORED), packed, row))


class _Writer:
    """Writes members as they stand in a zip."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self.blocks: list[Row] = []

    def write(self, info: zipfile.ZipInfo, content: Any, row: Row) -> Row:
        """Write a member, and return what the index says of it."""
        checksum = int(imagecodecs.deflate_crc32(content))
        info.file_size = info.compress_size = len(content)
        info.CRC = checksum
        self._sink.write(info.FileHeader())
        offset = self._sink.tell()
        self._sink.write(content)
        return {
            "offset": offset,
            "packed_size": len(content),
            "packed_sha256": hash_bytes(content),
            "crc32": checksum,
        }


def make_info(row: Row, form: str) -> zipfile.ZipInfo:
    """Return what a zip says of a member, but for its length."""
    moment = min(max(row["mtime_ns"] // 10**9, _ZIP_YEARS[0]), _ZIP_YEARS[1])
    name = row["path"] + (zstd.SUFFIX if form == ZSTD else "")
    info = zipfile.ZipInfo(name, time.gmtime(moment)[:6])
    info.create_system = 3  # the same on every system
    info.external_attr = 0o100644 << 16
    if form == ZSTD:
        info.extra = zstd.write_mark(row["size"])
    return info
