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
from medkit.catalog.profiles import Standing
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
_LISTS = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
_OF_FRAMES = ", ".join([*_LISTS, *_MOMENTS])
_OF_INSTANCES = (
    'series, kind, rank, Modality, "Rows", "Columns", InstanceNumber, AcquisitionNumber, '
    "TriggerTime"
)

# What may stand in a volume, by profile.
_USABLE = """
SELECT CASE WHEN scout OR mosaic THEN NULL ELSE series END AS series, kind
FROM profiles ORDER BY profile
"""
_SINGLE = f"""
SELECT row_number() OVER () - 1 AS place, 0 AS frame, counts AND one_frame AS is_frame,
    {_OF_FRAMES}, {_OF_INSTANCES}
FROM instances POSITIONAL JOIN usable
"""
# Numbered on after the instances.
_SEVERAL = f"""
SELECT (SELECT count(*) FROM instances) + place, frame, true, {_OF_FRAMES}, {_OF_INSTANCES}
FROM (SELECT row_number() OVER () - 1 AS place, file, frame, {_OF_FRAMES} FROM frames)
JOIN (
    SELECT file, {_OF_INSTANCES} FROM instances POSITIONAL JOIN usable
    WHERE counts AND NOT one_frame
) USING (file)
"""
_FRAMES = f"""
SELECT place, series, kind, Modality, "Rows", "Columns", AcquisitionNumber, TriggerTime, frame,
    {", ".join(_MOMENTS)}, {", ".join(f'{value} AS "{value}"' for value in _NUMBERS)}
FROM ({{frames}})
WHERE is_frame AND series IS NOT NULL
    AND len(ImagePositionPatient) = 3 AND len(ImageOrientationPatient) = 6
ORDER BY series, InstanceNumber NULLS LAST, rank, frame
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
        For each row of the table ``instances``, and then of ``frames``, the number of its volume;
        -1 where it is in none.
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

    def tell(self, start: int, stop: int) -> tuple[pa.Array, pa.Array]:
        """Return the names of the volumes of some rows, and the positions there."""
        numbers, slices = self.volume[start:stop], self.slice[start:stop]
        nowhere = numbers < 0
        return self.names.take(pa.array(numbers, mask=nowhere)), pa.array(slices, mask=nowhere)


def find_places(database: Database, standing: Standing) -> Places:
    """Divide all frames into volumes.

    Parameters
    ----------
    database : Database
        With the raw tables, and those that `medkit.catalog.profiles.draw_profiles` makes.
    standing : Standing
        What that returned.
    """
    _register_usable(database, standing)
    several = database.arrow("SELECT count(*) FROM frames").column(0)[0].as_py()
    # To look for what is not there would take as long again.
    frames = _FRAMES.format(frames=f"{_SINGLE} UNION ALL {_SEVERAL}" if several else _SINGLE)
    total = len(standing.profile) + several
    volume, slices = np.full(total, -1, np.int32), np.full(total, -1, np.int32)
    guessed = np.zeros(total, bool)
    found: list[pa.Table] = []
    count = 0
    for table in cut_between(database.batches(frames, _ROWS), "series"):
        places, sizes, told, volumes = _divide(table)
        numbers = np.arange(count, count + len(sizes))
        volume[places] = np.repeat(numbers, sizes)
        slices[places] = np.arange(len(places)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        guessed[places] = np.repeat(told == BY_ORDER, sizes)
        found.append(volumes)
        count += len(sizes)
    volumes = pa.concat_tables([_UNNAMED.empty_table(), *found])
    return Places(volume, slices, guessed, volumes, _name_volumes(database, volumes))


def iterate_places(database: Database, places: Places, start: int) -> Iterator[pa.Table]:
    """Yield the rows of the table ``places``; those of the instances stand before ``start``."""
    for batch in database.batches("SELECT file, frame FROM frames"):
        stop = start + len(batch)
        yield pa.table([*batch.columns, *places.tell(start, stop)], names=PLACES.names)
        start = stop


def iterate_volumes(database: Database, places: Places) -> Iterator[pa.Table]:
    """Yield the rows of the table ``volumes``."""
    named = places.volumes.append_column("volume", places.names)
    for names, start, end in _list_series(database, places.series):
        rows = named.slice(start, end - start)
        own = np.searchsorted(names.column("series").to_numpy(), places.series[start:end])
        for name in _NAMES[1:]:
            rows = rows.append_column(name, names.column(name).take(pa.array(own)))
        yield rows.sort_by([("series", "ascending"), ("volume", "ascending")])


def _register_usable(database: Database, standing: Standing) -> None:
    """Make the table ``usable``, in the order of the instances."""
    own = database.arrow(_USABLE).take(pa.array(standing.profile))
    own = own.append_column("rank", pa.array(standing.rank))
    database.register("usable", own.append_column("counts", pa.array(standing.counts)))


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
