"""An archive on disk: what is in it, and its bytes."""

from __future__ import annotations

import mmap
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from medkit.archive.codecs import CODECS
from medkit.archive.index import BLOCK, FILE, Row, read_index, read_packed
from medkit.archive.members import STORED, ZSTD, hash_bytes, restore
from medkit.catalog.database import Database
from medkit.errors import MedkitError, SourceError, UsageError
from medkit.sources import zstd
from medkit.workspace import hash_file, read_json

FORMAT = 1
MANIFEST, INDEX, SHARDS = "archive.json", "index.parquet", "shards"
_FACTS = ("format", "codec", "effort", "shard_size", "plan")
_OPTIONAL = ("deidentification",)
_BLOCKS = 4  # of heads that are kept unpacked
_LONGEST_BLOCK = 1 << 31


@dataclass(frozen=True)
class Archive:
    """What ``archive.json`` says.

    Attributes
    ----------
    folder : Path
        Where it is.
    facts : dict
        What it was made from, and how.
    contents : dict of str to dict
        SHA-256 and size of each of its files.
    """

    folder: Path
    facts: dict[str, Any]
    contents: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, folder: Path) -> Archive:
        """Return the archive in a folder.

        Raises
        ------
        SourceError
            If there is none, it is not complete, or its index is damaged.
        """
        path = folder / MANIFEST
        if not path.exists():
            begun = (folder / ".work").is_dir()
            raise SourceError(
                f"the archive {folder} is not complete; run the same 'medkit pack' again"
                if begun
                else f"{folder} is no archive of medkit: there is no {MANIFEST} in it"
            )
        try:
            found = read_json(path)
            contents = found["contents"]
            facts = {name: found[name] for name in _FACTS}
            facts |= {name: found[name] for name in _OPTIONAL if name in found}
            for about in contents.values():
                about["sha256"], about["size"] + 0
        except (MedkitError, KeyError, TypeError, AttributeError):
            raise SourceError(f"{path} is damaged") from None
        if facts["format"] != FORMAT:
            raise SourceError(f"{folder} is an archive of another format than {FORMAT}")
        archive = cls(folder, facts, contents)
        archive.check_index()
        return archive

    def check_index(self) -> None:
        """Raise if the index is not the one that was written."""
        path = self.folder / INDEX
        if not path.exists() or hash_file(path) != self.contents.get(INDEX, {}).get("sha256"):
            raise SourceError(
                f"{path} is damaged or missing; each shard has its own part of it in "
                ".medkit/index.parquet"
            )

    @cached_property
    def index(self) -> pa.Table:
        """A row a file, a folder, what was left out, or a block of heads."""
        return read_index(self.folder / INDEX)

    @property
    def shards(self) -> list[str]:
        """Names of the shards, in order."""
        return sorted(name for name in self.contents if name.startswith(f"{SHARDS}/"))

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return sum(about["size"] for about in self.contents.values())

    def select(self, where: str | None) -> pa.Table:
        """Return the rows of files and folders that a condition in SQL is true of.

        Parameters
        ----------
        where : str, optional
            On the columns of the index, such as ``"StudyInstanceUID = '1.2.3'"``; all without.

        Raises
        ------
        UsageError
            If it cannot be answered.
        """
        wanted = [kind != BLOCK for kind in self.index["kind"].to_pylist()]
        rows = self.index.filter(pa.array(wanted, pa.bool_()))
        if where is None:
            return rows
        with Database.open({"files": [self.folder / INDEX]}) as database:
            found = database.answer(f"SELECT path FROM files WHERE kind = '{FILE}' AND ({where}\n)")
        paths = set(found["path"].to_pylist())
        if not paths:
            raise UsageError(f"no file of {self.folder} fits {where!r}")
        return rows.filter(pa.array([path in paths for path in rows["path"].to_pylist()]))


@dataclass
class Shelf:
    """Reads members out of shards, which stay open.

    Parameters
    ----------
    archive : Archive
        Whose.
    """

    archive: Archive
    _shards: dict[str, Any] = field(default_factory=dict)
    _blocks: OrderedDict[int, bytes] = field(default_factory=OrderedDict)

    def read(self, row: Row) -> memoryview:
        """Return a member as it lies in its shard, compared with its hash.

        Raises
        ------
        SourceError
            If it is damaged, or its shard is cut or missing.
        """
        shard, start = row["shard"], row["offset"]
        end = (start or 0) + (row["packed_size"] or 0)
        whole = self._open(shard)
        if start is None or not 0 <= start <= end <= len(whole):
            raise SourceError(f"{shard} is cut short before it")
        content = memoryview(whole)[start:end]
        if hash_bytes(content) != row["packed_sha256"]:
            raise SourceError(f"its bytes in {shard} are damaged")
        return content

    def restore(self, row: Row) -> Any:
        """Yield the original bytes of a file, piece by piece; whoever takes them compares hashes.

        Raises
        ------
        SourceError
            If it is damaged.
        """
        content, form = self.read(row), row["form"]
        if form == STORED:
            yield content
        elif form == ZSTD:
            try:
                yield zstd.decompress(bytes(content), row["size"])
            except (ValueError, EOFError) as error:
                raise SourceError(str(error)) from None
        elif form in CODECS:
            yield from restore(content, read_packed(row, self._read_outside(row)), CODECS[form])
        else:
            raise SourceError(f"its form {form!r} is unknown to this version of medkit")

    def check(self, row: Row) -> None:
        """Raise a SourceError if a file's member, or what else it is restored from, is damaged."""
        self.read(row)
        if row["outside"] is not None:
            self._read_outside(row)

    def _read_outside(self, row: Row) -> bytes:
        block = self._read_block(row["heads"])
        start, size = row["heads_offset"] or 0, row["outside"] or 0
        if not 0 <= start <= start + size <= len(block):
            raise SourceError("the index places its header outside of what there is")
        return block[start : start + size]

    def _read_block(self, number: int) -> bytes:
        if number not in self._blocks:
            row = self._block_rows.get(number)
            if row is None or not 0 <= row["size"] <= _LONGEST_BLOCK:
                raise SourceError("its header is not in the archive")
            try:
                self._blocks[number] = zstd.decompress(bytes(self.read(row)), row["size"])
            except (SourceError, ValueError, EOFError) as error:
                raise SourceError(f"its header in {row['path']}: {error}") from None
            while len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        return self._blocks[number]

    @cached_property
    def _block_rows(self) -> dict[int, Row]:
        index = self.archive.index
        wanted = [kind == BLOCK for kind in index["kind"].to_pylist()]
        rows = index.filter(pa.array(wanted, pa.bool_())).to_pylist()
        return {row["heads"]: row for row in rows}

    def _open(self, shard: str) -> Any:
        if shard not in self._shards:
            name = f"{SHARDS}/{shard}"
            path = self.archive.folder / name
            if name not in self.archive.contents or not path.is_file():
                raise SourceError(f"the shard {shard} is missing")
            with path.open("rb") as stream:
                empty = path.stat().st_size == 0
                access = mmap.ACCESS_READ
                self._shards[shard] = b"" if empty else mmap.mmap(stream.fileno(), 0, access=access)
        return self._shards[shard]
