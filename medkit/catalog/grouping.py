"""From files to series, volumes, studies and persons: the tables that follow from what was read.

What holds a row for each file is streamed, or stays in DuckDB, which spills what is over its limit
of memory; in this process are a few numbers for each file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medkit.catalog import schema
from medkit.catalog.database import Database, write_table
from medkit.catalog.duplicates import Copies, find_copies
from medkit.catalog.journal import Record, find_roots
from medkit.catalog.matching import match_labels, tell_pictures
from medkit.catalog.persons import Persons, iterate_persons, resolve_persons
from medkit.catalog.places import Places, find_places, iterate_places, iterate_volumes
from medkit.catalog.profiles import Standing, draw_profiles, read_column, register_standing
from medkit.catalog.runs import cut_between, gather
from medkit.engine import prefetch

DUPLICATE_CODE = "duplicate-uid"  # in the table ``problems``, as the two below
CONFLICT_CODE = "label-conflict"
MOSAIC_CODE = "mosaic"
GUESS_CODE = "repeated-position"

_GROUPS = 2**17  # series or studies, of which so much is held at a time
_COUNTS = (("instances", "instances", "sum"), ("images", "images", "sum"))
# Of several values, the one of the first file that has one.
_SERIES = (
    ("Modality", "Modality", "first"),
    ("SeriesNumber", "SeriesNumber", "first"),
    ("SeriesDescription", "SeriesDescription", "first"),
    ("BodyPartExamined", "BodyPartExamined", "first"),
    ("person", "owner", "min"),
    *_COUNTS,
)
_STUDIES = (
    ("StudyDate", "StudyDate", "first"),
    ("StudyDescription", "StudyDescription", "first"),
    ("person", "owner", "min"),
    ("modalities", "Modality", "values"),
    ("series", "series", "count_distinct"),
    *_COUNTS,
)
# DICOM objects that are there; all of one study are of one person.
_PRESENT = """
CREATE TEMP VIEW present AS
SELECT * FROM profiles JOIN owners USING (profile) JOIN tallies USING (profile)
WHERE series IS NOT NULL AND NOT vanished
"""
_LABELLABLE = """
CREATE TEMP VIEW labellable AS
SELECT instances.* REPLACE (coalesce(PatientID, told.patient) AS PatientID), files.path
FROM instances JOIN files USING (file) LEFT JOIN told USING (file)
WHERE files.kind IN ('image', 'non-dicom')
"""
_LABELS = "SELECT * FROM said ANTI JOIN contradicted USING (name, file) ORDER BY name, file"
_FINDINGS = f"""
SELECT * FROM (
    SELECT file, '{DUPLICATE_CODE}' AS code,
        'another image has its SOPInstanceUID, and other pixels' AS detail
    FROM conflicts
    UNION ALL
    SELECT file, '{CONFLICT_CODE}', name || ': ' || value || ' (' || origin || ')'
    FROM said SEMI JOIN contradicted USING (name, file)
    UNION ALL
    SELECT file, '{MOSAIC_CODE}', 'each frame shows the slices of a volume side by side'
    FROM mosaics
    UNION ALL
    SELECT DISTINCT file, '{GUESS_CODE}',
        'its place is seen more than once, and only the order of the images tells volumes apart'
    FROM guesses
)
ORDER BY file, code, detail
"""


def derive(
    database: Database,
    records: list[Record],
    folder: Path,
    *,
    engine: str = "local",
    workers: int | None = None,
) -> list[str]:
    """Write the tables of `schema.DERIVED_TABLES`, and return what the user should know.

    Parameters
    ----------
    database : Database
        With the raw tables, and ``hashed``: ``file``, ``size``, ``mtime_ns``, ``inode`` and
        ``pixels_sha256`` of files that were hashed before.
    records : list of dict
        The journal's.
    folder : Path
        Where to write.
    engine, workers
        For hashing pixels where SOPInstanceUIDs collide.
    """
    roots = find_roots(records)
    rules = {name: root["person_regex"] for name, root in roots.items() if root["person_regex"]}
    tell_pictures(database, records, rules)
    standing = draw_profiles(database)
    copies = find_copies(database, engine=engine, workers=workers)
    standing.counts[copies.rows[copies.aliases]] = False
    register_standing(database, standing)
    persons = _resolve_persons(database, standing, copies, rules)
    places = find_places(database, standing)
    _register_findings(database, standing, copies, places)
    _tally(database, standing)
    database.execute(_LABELLABLE)
    match_labels(database, records)
    made = {
        "marks": _iterate_marks(database, standing, copies, persons, places),
        "places": iterate_places(database, places, len(standing.profile)),
        "findings": database.batches(_FINDINGS),
        "series": _iterate_series(database, persons, places),
        "volumes": iterate_volumes(database, places),
        "studies": _iterate_studies(database, persons),
        "persons": iterate_persons(database, persons.keys),
        "labels": database.batches(_LABELS),
    }
    for name, batches in made.items():
        # Asking takes one processor, and writing another.
        with closing(prefetch(batches, 1)) as rows:
            write_table(rows, folder / f"{name}.parquet", schema.DERIVED_TABLES[name][0])
    return [*persons.warnings, *_warn_of_duplicates(copies), *_warn_of_labels(database)]


def _resolve_persons(
    database: Database, standing: Standing, copies: Copies, rules: dict[str, str]
) -> Persons:
    count = int(standing.profile.max(initial=-1)) + 1
    profile, aliases = standing.profile[copies.rows], copies.aliases
    tied = profile[aliases], profile[copies.originals[aliases]]
    images = np.bincount(standing.profile[standing.counts], minlength=count)
    return resolve_persons(database, rules, images, tied)


def _register_findings(
    database: Database, standing: Standing, copies: Copies, places: Places
) -> None:
    """Give what was found to the database."""
    mosaic = read_column(database, "SELECT mosaic FROM profiles ORDER BY profile", bool)
    mosaics = mosaic[standing.profile] & standing.counts
    instances, frames = np.split(places.guessed, [len(mosaics)])
    aliases = pa.array(copies.aliases)
    originals = pa.array(copies.originals[copies.aliases])
    given = {
        "aliases": {
            "file": copies.files.take(aliases),
            "alias_of": copies.files.take(originals),
        },
        "conflicts": {"file": copies.files.filter(pa.array(copies.conflicts))},
        "mosaics": {"file": _name(database, "instances", mosaics)},
        "guesses": {
            "file": pa.concat_arrays(
                [_name(database, "instances", instances), _name(database, "frames", frames)]
            )
        },
    }
    for name, columns in given.items():
        database.register(name, pa.table(columns))


def _name(database: Database, table: str, chosen: npt.NDArray[np.bool_]) -> pa.Array:
    """Return the files of some rows; mostly there are none."""
    files = [pa.array([], pa.string())]
    if chosen.any():
        start = 0
        for batch in database.batches(f"SELECT file FROM {table}"):
            files.append(batch.column(0).filter(pa.array(chosen[start : start + len(batch)])))
            start += len(batch)
    return pa.concat_arrays(files)


def _tally(database: Database, standing: Standing) -> None:
    """Count the files of each profile, and make the view of those that are there."""
    profile, count = standing.profile, int(standing.profile.max(initial=-1)) + 1
    rank = np.full(count, len(profile))
    np.minimum.at(rank, profile, standing.rank)
    columns = {
        "profile": np.arange(count),
        "instances": np.bincount(profile, minlength=count),
        "rank": rank,  # of the first
    }
    database.register("tallies", pa.table(columns))
    database.execute(_PRESENT)


def _iterate_marks(
    database: Database,
    standing: Standing,
    copies: Copies,
    persons: Persons,
    places: Places,
) -> Iterator[pa.Table]:
    """Yield the rows of the table ``marks``."""
    patients = database.arrow("SELECT told_patient FROM profiles ORDER BY profile").column(0)
    slots = np.full(len(standing.profile), -1, np.int32)  # of the instances among the copies
    slots[copies.rows] = np.arange(len(copies.rows))
    duplicate = np.full(len(copies.rows), None, object)
    duplicate[copies.aliases], duplicate[copies.conflicts] = "alias", "conflict"
    originals = np.full(len(copies.rows), -1)
    originals[copies.aliases] = copies.originals[copies.aliases]
    start = 0
    for batch in database.batches("SELECT file FROM instances"):
        rows = slice(start, start + len(batch))
        start = rows.stop
        profile, slot = standing.profile[rows], slots[rows]
        volume, number = places.tell(rows.start, rows.stop)
        columns = {
            "file": batch.column(0),
            "person": _take(persons.keys, persons.owner[profile]),
            "patient": patients.take(pa.array(profile)),
            "pixels_sha256": _take(copies.hashes, slot),
            "duplicate": _take(pa.array(duplicate, pa.string()), slot),
            "alias_of": _take(copies.files, np.append(originals, -1)[slot]),
            "volume": volume,
            "slice": number,
        }
        yield pa.table(columns)


def _iterate_series(database: Database, persons: Persons, places: Places) -> Iterator[pa.Table]:
    """Yield the rows of the table ``series``."""
    names = "SELECT series, source, StudyInstanceUID, SeriesInstanceUID FROM series_ids"
    with_volumes, volumes = np.unique(places.series, return_counts=True)
    for table in _iterate_groups(database, "series", _SERIES, names):
        numbers = table.column("series").to_numpy()
        known = np.append(with_volumes, -1)[slot := np.searchsorted(with_volumes, numbers)]
        count = np.where(known == numbers, np.append(volumes, 0)[slot], 0)
        yield _name_persons(table, persons).append_column("volumes", pa.array(count))


def _iterate_studies(database: Database, persons: Persons) -> Iterator[pa.Table]:
    """Yield the rows of the table ``studies``."""
    names = "SELECT DISTINCT study, source, StudyInstanceUID FROM series_ids"
    for table in _iterate_groups(database, "study", _STUDIES, names):
        yield _name_persons(table, persons)


def _iterate_groups(
    database: Database, key: str, wanted: Sequence[tuple[str, str, str]], names: str
) -> Iterator[pa.Table]:
    """Yield what is known of the series or studies that are there, with their names beside."""
    columns = ", ".join(dict.fromkeys(column for _, column, _ in wanted))
    total = database.arrow(f"SELECT coalesce(max({key}) + 1, 0) FROM series_ids").column(0)[0]
    for start in range(0, total.as_py(), _GROUPS):
        part = f"WHERE {key} >= {start} AND {key} < {start + _GROUPS} ORDER BY {key}"
        batches = database.batches(f"SELECT {key}, {columns} FROM present {part}, rank")
        pieces = [gather(table, key, wanted) for table in cut_between(batches, key)]
        if not pieces:  # all of these have vanished
            continue
        made, named = pa.concat_tables(pieces), database.arrow(f"{names} {part}")
        own = np.searchsorted(named.column(key).to_numpy(), made.column(key).to_numpy())
        beside = named.drop_columns(key).take(pa.array(own))
        yield pa.table(
            {name: table[name] for table in (beside, made) for name in table.column_names}
        )


def _name_persons(table: pa.Table, persons: Persons) -> pa.Table:
    place = table.schema.get_field_index("person")
    numbers = table.column(place).to_numpy()
    return table.set_column(place, "person", _take(persons.keys, numbers))


def _take(values: pa.Array, positions: npt.NDArray[np.integer[Any]]) -> pa.Array:
    """Return the values at some positions; null where that is -1."""
    return values.take(pa.array(positions, mask=positions < 0))


def _warn_of_duplicates(copies: Copies) -> list[str]:
    count = int(copies.conflicts.sum())
    if not count:
        return []
    return [
        f"{count} images share a SOPInstanceUID with another one, and not its pixel data; all are "
        f"kept: see the problems of code {DUPLICATE_CODE!r}"
    ]


def _warn_of_labels(database: Database) -> list[str]:
    count = database.arrow("SELECT count(DISTINCT file) FROM contradicted").column(0)[0].as_py()
    if not count:
        return []
    return [
        f"{count} files would have two labels of one name, and have none; see the problems of "
        f"code {CONFLICT_CODE!r}"
    ]
