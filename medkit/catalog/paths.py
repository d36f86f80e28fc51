"""Finding the files that the paths of somebody else's table mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from medkit.catalog.database import Database

_SUFFIX = r"(\.nii)?\.[A-Za-z0-9]+$"
# The parts of a path of any system; a member follows its archive.
_PLACES = r"""
CREATE OR REPLACE TEMP TABLE reachable AS
SELECT source, path, array_to_string(parts, '/') AS clean, len(parts) AS depth
FROM (
    SELECT source, path, list_filter(
        string_split(replace(replace(path, '\', '/'), '!', '/'), '/'),
        lambda part: part <> '' AND part <> '.'
    ) AS parts
    FROM (SELECT DISTINCT source, path FROM labellable)
)
"""
# Files are counted by what they are joined on, so that no table of pairs is ever made; also under
# no source, for a path that is looked for in all of them.
_JOIN = """
SELECT number, files, place
FROM asked JOIN (
    SELECT source, {theirs} AS key, count(*) AS files,
        min({{'source': source, 'path': path}}) AS place
    FROM reachable WHERE reachable.depth {depths} GROUP BY GROUPING SETS ((source, key), (key))
) AS known ON known.key = {ours} AND known.source IS NOT DISTINCT FROM asked.source
WHERE asked.depth {own_depths}
"""
_FOUND = """
CREATE OR REPLACE TEMP TABLE {name} AS
SELECT number, sum(files)::BIGINT AS files, min(place) AS place FROM ({joins}) GROUP BY number
"""
_CHOICE = """
SELECT coalesce(files, 0) AS files, place.source, place.path
FROM (
    SELECT number, unnest(CASE
        WHEN whole.files IS NOT NULL THEN whole
        WHEN asked.depth > 1 AND named.files > 1 AND ended.files IS NOT NULL THEN ended
        WHEN named.files IS NOT NULL THEN named ELSE bare END)
    FROM asked LEFT JOIN whole USING (number) LEFT JOIN named USING (number)
    LEFT JOIN ended USING (number) LEFT JOIN bare USING (number)
)
ORDER BY number
"""


def find_paths(database: Database, paths: Sequence[str], sources: Iterable[str | None]) -> pa.Table:
    """Return how many ``files`` each path may mean, and ``source`` and ``path`` of the first.

    It means the whole relative path of a file, or else the end of one, or ends in one (a table
    may be made on another machine), or else has a file name that is there once, with its suffix
    or without.

    Parameters
    ----------
    database : Database
        With ``labellable``: ``source`` and ``path`` of the files that may be meant.
    paths : sequence of str
        Of any system.
    sources : iterable of str or None
        Where each is to be found; None looks everywhere.
    """
    parts = [_split(path) for path in paths]
    columns = {
        "number": pa.array(range(len(parts)), pa.int64()),
        "source": pa.array(sources, pa.string()),
        "clean": pa.array(["/".join(own) for own in parts], pa.string()),
        "depth": pa.array([len(own) for own in parts], pa.int64()),
    }
    database.register("asked", pa.table(columns))
    database.execute(_PLACES)
    _find(database, "whole", [_join("reachable.clean", "asked.clean")])
    _find(database, "named", [_join(_cut("reachable.clean", 1), _cut("asked.clean", 1))])
    _find(database, "ended", _join_ends(database))
    name = f"regexp_replace({_cut('reachable.clean', 1)}, '{_SUFFIX}', '')"
    _find(database, "bare", [_join(name, _cut("asked.clean", 1))])
    return database.arrow(_CHOICE)


def _join_ends(database: Database) -> Iterator[str]:
    """Yield SQL for the files that end as a path does, and for those that a path ends in."""
    depths = "SELECT DISTINCT depth FROM {} WHERE depth > 0 ORDER BY depth"
    for depth in database.arrow(depths.format("asked")).column(0).to_pylist():
        yield _join(_cut("reachable.clean", depth), "asked.clean", f"> {depth}", f"= {depth}")
    for depth in database.arrow(depths.format("reachable")).column(0).to_pylist():
        yield _join("reachable.clean", _cut("asked.clean", depth), f"= {depth}", f"> {depth}")


def _join(theirs: str, ours: str, depths: str = "> 0", own_depths: str = "> 0") -> str:
    return _JOIN.format(theirs=theirs, ours=ours, depths=depths, own_depths=own_depths)


def _cut(path: str, depth: int) -> str:
    return f"array_to_string(string_split({path}, '/')[-{depth}:], '/')"


def _find(database: Database, name: str, joins: Iterable[str]) -> None:
    pieces = " UNION ALL ".join(joins) or f"{_join('clean', 'asked.clean')} AND false"
    database.execute(_FOUND.format(name=name, joins=pieces))


def _split(path: str) -> list[str]:
    return [part for part in re.split(r"[\\!/]", path) if part not in ("", ".")]
