"""The catalog on disk: snapshots, and questions to them.

``CURRENT`` names the snapshot that holds. ``snapshots/`` has for each what follows from all files
together, and ``snapshot.json``: the hashes of these tables, and of the `segments` that were read
from the files. A snapshot is written beside and moved into place whole, and is named by its
content; so a reader never blocks a writer, and equal content is equal bytes. The one before
stays, for who is still reading it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medkit.catalog.database import Database
from medkit.catalog.schema import DERIVED_TABLES, PROBLEMS, READ_TABLES, RESOLVED, TABLES
from medkit.catalog.segments import is_same_file, table_path
from medkit.engine import count_workers
from medkit.errors import CatalogError, UsageError, WorkspaceError
from medkit.workspace import dump_json, hash_json, read_json

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "snapshot.json"
_FORMAT = 3
_MEMORY, _THREADS = "1GB", 4  # of a question

# A picture is a non-DICOM image, and has frames; a volume such as NIfTI has none, and so no row.
_IMAGES = f"""
CREATE VIEW images AS
SELECT frames.*, instances.* EXCLUDE (file, {", ".join(RESOLVED)}),
    files.root, files.path, files.container, files.kind, files.size, files.mtime_ns
FROM frames
JOIN instances USING (file)
JOIN files USING (file)
WHERE files.kind IN ('image', 'non-dicom') AND NOT files.vanished
    AND instances.duplicate IS DISTINCT FROM 'alias'
"""
_ORDER = "source, StudyInstanceUID, SeriesInstanceUID, InstanceNumber, path, frame"


@dataclass(frozen=True)
class Manifest:
    """What a snapshot is made of.

    Attributes
    ----------
    segments : list of dict
        ``name``, and ``tables`` as in `medkit.catalog.segments.Segment`, in the order of rows.
    tables : dict of str to dict
        The same of each of `schema.DERIVED_TABLES`.
    made_from : str
        A hash of what these were derived from; no part of the snapshot's name.
    warnings : list of str
        What deriving them said.
    """

    segments: list[dict[str, Any]]
    tables: dict[str, dict[str, Any]]
    made_from: str
    warnings: list[str]

    @property
    def name(self) -> str:
        """The snapshot's name."""
        return hash_json([_FORMAT, self.segments, self.tables])

    def dump(self) -> bytes:
        """Return the content of ``snapshot.json``."""
        content = {**asdict(self), "format": _FORMAT}
        return dump_json({**content, "checksum": hash_json(content)})

    @classmethod
    def read(cls, folder: Path, snapshot: str) -> Manifest:
        """Return the manifest of a snapshot.

        Raises
        ------
        CatalogError
            If it is missing or damaged.
        """
        path = folder / "snapshots" / snapshot / MANIFEST
        try:
            content = read_json(path)
            if content.pop("checksum") != hash_json(content):
                raise CatalogError(f"{path} is damaged")
            if content.pop("format") == _FORMAT:
                return cls(**content)
        except WorkspaceError as error:
            raise CatalogError(str(error)) from None
        except (TypeError, AttributeError, KeyError):
            pass
        raise CatalogError(f"{path} is not of this version of medkit")

    def paths(self, folder: Path, table: str) -> list[Path]:
        """Return the files of a table, in the order of its rows."""
        if table in DERIVED_TABLES:
            return [folder / "snapshots" / self.name / f"{table}.parquet"]
        return [
            table_path(folder, segment["name"], table)
            for segment in self.segments
            if table in segment["tables"]
        ]

    def check(self, folder: Path) -> None:
        """Compare every file with its hash.

        Raises
        ------
        CatalogError
            If one is not what was written; the message names it.
        """
        own = zip(DERIVED_TABLES, (self.tables[name] for name in DERIVED_TABLES), strict=True)
        derived = ((self.paths(folder, name)[0], about) for name, about in own)
        read = (
            (table_path(folder, segment["name"], name), about)
            for segment in self.segments
            for name, about in segment["tables"].items()
        )
        for path, about in chain(derived, read):
            if not is_same_file(path, about):
                raise CatalogError(f"{path} is {'damaged' if path.exists() else 'missing'}")


class Catalog:
    """What is on disk, as one snapshot saw it.

    Examples
    --------
    >>> catalog = Catalog.open(workspace.catalog)
    >>> catalog.select("Modality = 'CT' AND Rows >= 512")
    >>> catalog.query("SELECT Modality, count(*) FROM images GROUP BY ALL")
    """

    def __init__(self, folder: Path, snapshot: str) -> None:
        self.folder = folder
        self.snapshot = snapshot

    @classmethod
    def open(cls, folder: Path) -> Catalog:
        """Return the current snapshot of a catalog's folder; each of its files is checked.

        Raises
        ------
        CatalogError
            If there is none yet, or a file of it is damaged; the message names that file, and
            the last snapshot that is sound.
        """
        snapshot = read_current(folder)
        if snapshot is None:
            raise CatalogError(f"there is no catalog in {folder}; run 'medkit catalog' first")
        catalog = cls(folder, snapshot)
        try:
            catalog.manifest.check(folder)
        except CatalogError as error:
            if read_current(folder) != snapshot:  # it was replaced while it was looked at
                return cls.open(folder)
            raise CatalogError(
                f"{error}; {_name_sound(folder, snapshot)}; run 'medkit catalog' to make it anew"
            ) from None
        return catalog

    @cached_property
    def manifest(self) -> Manifest:
        """What the snapshot is made of."""
        return Manifest.read(self.folder, self.snapshot)

    @property
    def segments(self) -> list[str]:
        """The names of the segments that it is made of, in order."""
        return [segment["name"] for segment in self.manifest.segments]

    def table(self, name: str) -> pd.DataFrame:
        """Return one table, whole.

        Raises
        ------
        UsageError
            If there is no such table.
        CatalogError
            If a file of it is damaged.
        """
        return to_frame(self.arrow_table(name))

    def arrow_table(self, name: str) -> pa.Table:
        """Return one table as Arrow has it; see `table`."""
        if name not in TABLES:
            raise UsageError(f"there is no table {name!r}; there are {', '.join(TABLES)}, images")
        if name == "instances":
            return _paste(self._read(name), self._read("marks"), TABLES[name])
        if name == "frames":
            return self._read_frames()
        if name == "problems":
            return pa.concat_tables([self._read(name), self._read("findings")])
        return self._read(name)

    def query(self, sql: str) -> pd.DataFrame:
        """Return the answer to one SELECT over the tables and the view ``images``.

        Raises
        ------
        UsageError
            If it is not one SELECT, or DuckDB cannot answer it; the message has DuckDB's words.
        """
        return to_frame(self.database.answer(sql))

    def stream(self, sql: str, *, prelude: Sequence[str] = ()) -> pa.RecordBatchReader:
        """Return the answer to one SELECT, some rows at a time.

        Parameters
        ----------
        sql : str
            As of `query`.
        prelude : sequence of str
            Statements to follow first, in a database of this answer's own.

        Raises
        ------
        UsageError
            As of `query`.
        """
        database = self._open_database()
        for statement in prelude:
            database.execute(statement)
        return database.stream(sql)

    def select(self, where: str | None = None) -> pd.DataFrame:
        """Return the rows of ``images`` that fulfil an SQL condition, all of them by default.

        They are ordered by source, study, series, InstanceNumber, path and frame.

        Raises
        ------
        UsageError
            If the condition is none; the message has DuckDB's words.
        """
        return self.query(_select_images(where))

    def stream_images(self, where: str | None = None) -> pa.RecordBatchReader:
        """Yield what `select` returns, a batch at a time, with the errors of `stream`."""
        return self.stream(_select_images(where))

    def label_names(self) -> list[str]:
        """Return the names of the labels, sorted."""
        return sorted(pc.unique(self.arrow_table("labels")["name"]).to_pylist())

    def labels(self, name: str) -> pd.DataFrame:
        """Return ``file`` and ``value`` of every file that has this label.

        Raises
        ------
        UsageError
            If there is no label of that name.
        """
        names = self.label_names()
        if name not in names:
            known = ", ".join(names) or "none; see 'medkit label'"
            raise UsageError(f"there is no label {name!r}; there are: {known}")
        labels = self.arrow_table("labels")
        return to_frame(labels.filter(pc.equal(labels["name"], name)).select(["file", "value"]))

    @cached_property
    def database(self) -> Database:
        """The tables as views, in memory; a query reaches their files and nothing else."""
        return self._open_database()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if "database" in self.__dict__:
            self.database.close()

    def _open_database(self) -> Database:
        tables = {name: self.manifest.paths(self.folder, name) for name in DERIVED_TABLES}
        for name in READ_TABLES:
            raw = name if name == "files" else f"raw_{name}"
            tables[raw] = self.manifest.paths(self.folder, name)
        threads = min(_THREADS, count_workers(None))  # each wants memory of its own
        database = Database.open(tables, memory=_MEMORY, threads=threads, private=True)
        for statement in _VIEWS:
            database.execute(statement)
        return database

    def _read_frames(self) -> pa.Table:
        """Return the table ``frames``: most of its rows are told by their instances."""
        schema = TABLES["frames"]
        instances = self._read(
            "instances", ["file", *RESOLVED, "ImagePositionPatient", "one_frame"]
        )
        numbered = instances.append_column("frame", pa.repeat(0, len(instances)))
        single = _paste(numbered, self._read("marks"), schema).filter(instances["one_frame"])
        frames = pa.concat_tables(
            [single, _paste(self._read("frames"), self._read("places"), schema)]
        )
        ranks = pc.index_in(frames["file"], instances["file"].combine_chunks())
        return frames.take(np.argsort(ranks.to_numpy(), kind="stable"))

    def _read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Return a table as it is stored, or some columns of it."""
        schema = READ_TABLES[name] if name in READ_TABLES else DERIVED_TABLES[name][0]
        pieces = [schema.empty_table().select(columns or schema.names)]
        for path in self.manifest.paths(self.folder, name):
            try:
                pieces.append(pq.ParquetFile(path).read(columns))
            except (OSError, pa.ArrowException) as error:
                raise CatalogError(f"{path} is damaged: {error}") from None
        return pa.concat_tables(pieces)


def read_current(folder: Path) -> str | None:
    """Return the name of the snapshot that holds, or None where there is none yet."""
    try:
        return (folder / "CURRENT").read_text(errors="replace").strip()
    except FileNotFoundError:
        return None


def list_snapshots(folder: Path) -> list[str]:
    """Return the names of what stands under ``snapshots``, sorted."""
    place = folder / "snapshots"
    return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


def _select_images(where: str | None) -> str:
    # The line ends keep a comment in the condition from hiding what follows it.
    condition = f"WHERE (\n{where}\n)" if where else ""
    return f"SELECT * FROM images {condition} ORDER BY {_ORDER}"


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Return a table as pandas has it: nullable Int64 and string, float64, bool, lists."""
    frame: pd.DataFrame = table.to_pandas(types_mapper=_pandas_type)
    return frame


def _paste(read: pa.Table, beside: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with what follows from all files beside; both have the same rows."""
    if not read["file"].equals(beside["file"]):
        raise CatalogError("the snapshot has rows that do not belong together; scan again")
    columns = {name: beside[name] for name in beside.schema.names} | {
        name: read[name] for name in read.schema.names
    }
    if "PatientID" in schema.names:  # of a picture, which has no PatientID of its own
        columns["PatientID"] = pc.coalesce(columns["PatientID"], columns["patient"])
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _show(table: str, read: str, beside: str, **others: str) -> str:
    """Return a SELECT for the rows of a table, out of what is stored in two.

    Columns that are to be spelled otherwise are in ``others``.
    """
    own = set(READ_TABLES[read].names)
    columns = [
        f"{others[name]} AS {name}"
        if name in others
        else f"{'raw' if name in own else 'beside'}.{name}"
        for name in TABLES[table].names
    ]
    keys = "file" if read == "instances" else "file, frame"
    return (
        f"SELECT {', '.join(columns)} FROM raw_{read} AS raw JOIN {beside} AS beside USING ({keys})"
    )


_INSTANCES = _show(
    "instances", "instances", "marks", PatientID="coalesce(raw.PatientID, beside.patient)"
)
_SINGLE = _show("frames", "instances", "marks", frame="0::BIGINT")
_VIEWS = (
    f"CREATE VIEW instances AS {_INSTANCES}",
    f"CREATE VIEW frames AS {_SINGLE} WHERE one_frame "
    f"UNION ALL {_show('frames', 'frames', 'places')}",
    f"CREATE VIEW problems AS SELECT {', '.join(PROBLEMS.names)} FROM raw_problems "
    f"UNION ALL SELECT {', '.join(PROBLEMS.names)} FROM findings",
    _IMAGES,
)


def _name_sound(folder: Path, damaged: str) -> str:
    """Return a sentence about the snapshots that can still be read."""
    sound = []
    for snapshot in list_snapshots(folder):
        if snapshot != damaged:
            try:
                Manifest.read(folder, snapshot).check(folder)
            except CatalogError:
                continue
            sound.append(snapshot)
    return f"the one before, {sound[-1]}, is sound" if sound else "no other snapshot is sound"


def _pandas_type(kind: pa.DataType) -> pd.api.extensions.ExtensionDtype | None:
    import pandas as pd

    if pa.types.is_integer(kind):
        return pd.Int64Dtype()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pd.StringDtype()
    return None
