"""Which volume each frame lies in, and where in it; and the table of volumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medkit.catalog.database import Database
from medkit.catalog.runs import cut_between, find_starts
from medkit.catalog.schema import PLACES, VOLUMES
from medkit.catalog.volumes import BY_ORDER, Frames, divide, find_flat, measure

Integers = npt.NDArray[np.integer[Any]]

_POSITION = [f"ImagePositionPatient[{part}]" for part in (1, 2, 3)]
_ORIENTATION = [f"ImageOrientationPatient[{part}]" for part in range(1, 7)]
_SPACING = [f"PixelSpacing[{part}]" for part in (1, 2)]
# What an enhanced multi-frame object says of each frame, and any other of all its frames.
_MOMENTS = ["EchoTime", "TemporalPositionIdentifier", "DiffusionBValue"]
_NUMBERS = [*_POSITION, *_ORIENTATION, *_SPACING]

_FRAMES = f"""
SELECT place, profiles.series, profiles.kind, profiles.Modality, profiles."Rows",
    profiles."Columns", own.AcquisitionNumber, own.TriggerTime, said.frame,
    {", ".join(f"said.{name}" for name in _MOMENTS)},
    {", ".join(f'said.{value} AS "{value}"' for value in _NUMBERS)}
FROM (SELECT row_number() OVER () - 1 AS place, * FROM frames) AS said
JOIN (
    SELECT file, InstanceNumber, AcquisitionNumber, TriggerTime, profile, rank
    FROM instances POSITIONAL JOIN standing WHERE counts
) AS own USING (file)
JOIN profiles USING (profile)
WHERE NOT scout AND NOT mosaic AND series IS NOT NULL
    AND len(said.ImagePositionPatient) = 3 AND len(said.ImageOrientationPatient) = 6
ORDER BY series, own.InstanceNumber NULLS LAST, own.rank, said.frame
"""
_ROWS = 16384  # frames at a time; many short series would be slow
_BATCH = 8192  # series
_NAMES = ("volume", "source", "StudyInstanceUID", "SeriesInstanceUID")
_UNNAMED = pa.schema(
    [("series", pa.int64()), *(field for field in VOLUMES if field.name not in _NAMES)]
)


@dataclass(frozen=True)
class Places:
    """Where the frames lie.

    Attributes
    ----------
    volume : (n,) int32 array
        For each row of the table ``frames``, the number of its volume; -1 where it is in none.
    slice : (n,) int32 array
        Its position there.
    guessed : (n,) bool array
        Whether its position is seen more than once, and only the order tells the volumes apart.
    volumes : pyarrow.Table
        Columns of the table ``volumes``, without names, and ``series``; by series.
    names : pyarrow.Array
        Of the volumes.
    """

    volume: npt.NDArray[np.int32]
    slice: npt.NDArray[np.int32]
    guessed: npt.NDArray[np.bool_]
    volumes: pa.Table
    names: pa.Array

    @property
    def series(self) -> Integers:
        """(v,) integers: the series of each volume, ascending."""
        return np.asarray(self.volumes.column("series").to_numpy())


def find_places(database: Database) -> Places:
    """Divide all frames into volumes.

    Parameters
    ----------
    database : Database
        With the raw tables, and those that `medkit.catalog.profiles.draw_profiles` makes.
    """
    total = database.arrow("SELECT count(*) FROM frames").column(0)[0].as_py()
    volume, slices = np.full(total, -1, np.int32), np.full(total, -1, np.int32)
    guessed = np.zeros(total, bool)
    found: list[pa.Table] = []
    count = 0
    for table in cut_between(database.batches(_FRAMES, _ROWS), "series"):
        places, sizes, told, volumes = _divide(table)
        numbers = np.arange(count, count + len(sizes))
        volume[places] = np.repeat(numbers, sizes)
        slices[places] = np.arange(len(places)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        guessed[places] = np.repeat(told == BY_ORDER, sizes)
        found.append(volumes)
        count += len(sizes)
    volumes = pa.concat_tables([_UNNAMED.empty_table(), *found])
    return Places(volume, slices, guessed, volumes, _name_volumes(database, volumes))


def iterate_places(database: Database, places: Places) -> Iterator[pa.Table]:
    """Yield the rows of the table ``places``."""
    start = 0
    for batch in database.batches("SELECT file, frame FROM frames"):
        rows = slice(start, start + len(batch))
        start = rows.stop
        numbers = places.volume[rows]
        columns = [
            *batch.columns,
            places.names.take(pa.array(numbers, mask=numbers < 0)),
            pa.array(places.slice[rows], mask=numbers < 0),
        ]
        yield pa.table(columns, names=PLACES.names)


def iterate_volumes(database: Database, places: Places) -> Iterator[pa.Table]:
    """Yield the rows of the table ``volumes``."""
    named = places.volumes.append_column("volume", places.names)
    for names, start, end in _list_series(database, places.series):
        rows = named.slice(start, end - start)
        own = np.searchsorted(names.column("series").to_numpy(), places.series[start:end])
        for name in _NAMES[1:]:
            rows = rows.append_column(name, names.column(name).take(pa.array(own)))
        yield rows.sort_by([("series", "ascending"), ("volume", "ascending")])


def _divide(table: pa.Table) -> tuple[Integers, Integers, Integers, pa.Table]:
    """Return the frames by volume; of the volumes the sizes, what told them, and the columns."""
    frames = _read_frames(table)
    flat = np.flatnonzero(find_flat(frames))
    frames = frames.take(flat)
    stacks = divide(frames)
    measures = measure(frames, stacks)
    lead = stacks.rows[stacks.starts]
    volumes = table.select(["series", "Modality", "Rows", "Columns"]).take(pa.array(flat[lead]))
    for name, values in measures.items():
        volumes = volumes.append_column(name, _to_array(name, values))
    places = table.column("place").to_numpy()[flat[stacks.rows]]
    return places, stacks.sizes, stacks.told, volumes.select(_UNNAMED.names).cast(_UNNAMED)


def _read_frames(table: pa.Table) -> Frames:
    def read(name: str) -> npt.NDArray[np.float64]:
        return np.asarray(table.column(name).to_numpy(), np.float64)

    def stack(names: list[str]) -> npt.NDArray[np.float64]:
        return np.stack([read(name) for name in names], axis=1)

    return Frames(
        table.column("series").to_numpy(),
        _read_kinds(table),
        [read("AcquisitionNumber"), read("TriggerTime")],
        stack(_POSITION),
        stack(_ORIENTATION),
        stack(_SPACING),
    )


def _read_kinds(table: pa.Table) -> Integers:
    """Return the kinds of the frames; those of multi-frame objects go by their moments as well."""
    kinds = table.column("kind").to_numpy()
    if not table.column("frame").to_numpy().any():
        return np.asarray(kinds)
    moments = [table.column(name).to_numpy().astype(np.float64) for name in _MOMENTS]
    # Sorting knows no order of NaN.
    said = np.stack([kinds, *(np.nan_to_num(values, nan=-1.0e300) for values in moments)], axis=1)
    return np.unique(said, axis=0, return_inverse=True)[1].reshape(-1)


def _to_array(name: str, values: npt.NDArray[Any]) -> pa.Array:
    """Return a column of ``volumes``; what is not known is null."""
    kind = VOLUMES.field(name).type
    if not pa.types.is_list(kind):
        return pa.array(values, kind, from_pandas=True)
    rows, width = values.shape
    unknown = np.isnan(values).any(axis=1)
    return pa.ListArray.from_arrays(
        pa.array(np.arange(0, rows * width + 1, width), pa.int32()),
        pa.array(values.ravel()),
        mask=pa.array(unknown),
    )


def _list_series(database: Database, series: Integers) -> Iterator[tuple[pa.Table, int, int]]:
    """Yield some of the series that have volumes, with their names, and where their volumes are."""
    database.register("wanted", pa.table({"series": np.unique(series)}))
    columns = ", ".join(("series", *_NAMES[1:]))
    names = f"SELECT {columns} FROM series_ids SEMI JOIN wanted USING (series) ORDER BY series"
    for batch in database.batches(names, _BATCH):
        numbers = batch.column("series")
        start = int(np.searchsorted(series, numbers[0].as_py()))
        end = int(np.searchsorted(series, numbers[-1].as_py(), side="right"))
        yield pa.Table.from_batches([batch]), start, end


def _name_volumes(database: Database, volumes: pa.Table) -> pa.Array:
    """Return a name for each volume; it follows from its series, and its place in the series."""
    numbers = volumes.column("series").to_numpy()
    starts = find_starts(numbers)
    ordinals = np.arange(len(numbers)) - np.repeat(starts, np.diff(starts, append=len(numbers)))
    names: list[pa.Array] = []
    for table, start, end in _list_series(database, numbers):
        texts = {row.pop("series"): [*row.values()] for row in table.to_pylist()}
        keys = zip(numbers[start:end].tolist(), ordinals[start:end].tolist(), strict=True)
        names.append(pa.array(_make_name([*texts[one], ordinal]) for one, ordinal in keys))
    return pa.concat_arrays(names) if names else pa.array([], pa.string())


def _make_name(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
