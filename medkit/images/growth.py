"""Sets that grow with their catalog: what is there already, and what is new.

An image is known again by its file and its place in it, and may stay if its file, and all files
that it is made of, have the size and the time that they had.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from medkit.catalog.store import to_frame
from medkit.errors import ImageSetError
from medkit.images import arrays
from medkit.images.arrays import Layout
from medkit.images.assembly import RESULTS, Standing
from medkit.images.imageset import (
    IDENTITY,
    ORIGINS,
    ORIGINS_SCHEMA,
    PARTIAL,
    PIXELS,
    REFUSED,
    TABLE,
    check_sizes,
    read_table,
)
from medkit.images.packing import Positions, unpack
from medkit.images.plans import Members

_STATE = ("size", "mtime_ns", "members")


@dataclass(frozen=True)
class Growth:
    """How what a catalog selects differs from what a set has.

    Attributes
    ----------
    new : ndarray of int64
        Positions of the images that it has not.
    gone, changed : int
        How many of its images are no longer selected, or are made of other files than then.
    """

    new: Positions
    gone: int
    changed: int

    def __str__(self) -> str:
        counts = {
            "new": len(self.new),
            "no longer selected": self.gone,
            "of files or volumes that changed": self.changed,
        }
        found = [f"{count:,} {what}" for what, count in counts.items() if count]
        return ", ".join(found) or "none is new, but what the catalog says of them has changed"


def describe_origins(frames: pa.Table, members: Members) -> pa.Table:
    """Return which images packed rows of the catalog stand for, and the state of their files.

    Parameters
    ----------
    frames, members
        As of `plans.plan_frames`.
    """
    origins = frames.select(ORIGINS_SCHEMA.names)
    keys = origins["members"].to_pylist()
    states = {key: _hash_members(members, key) for key in dict.fromkeys(keys) if key}
    hashes = pa.array([states.get(key) for key in keys], type=pa.string())
    place = ORIGINS_SCHEMA.get_field_index("members")
    return unpack(origins.set_column(place, "members", hashes)).cast(ORIGINS_SCHEMA)


def _hash_members(members: Members, key: str) -> str:
    state = [[row[name] for name in ("file", "frame", "size", "mtime_ns")] for row in members[key]]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def compare_origins(folder: Path, manifest: Mapping[str, Any], now: pa.Table) -> Growth:
    """Return how origins, as of `describe_origins`, differ from those of a complete set.

    Raises
    ------
    ImageSetError
        If its own are damaged.
    """
    before = read_table(folder, manifest, ORIGINS)
    places = _find(now, before)
    known = places >= 0
    then = before.select(_STATE).take(places[known])
    same = now.select(_STATE).filter(pa.array(known))
    changed = to_frame(then).compare(to_frame(same))
    return Growth(np.flatnonzero(~known), len(before) - int(known.sum()), len(changed))


def _find(wanted: pa.Table, table: pa.Table) -> Positions:
    """Return where in a table the same images are; -1 where one is not."""
    keys = list(IDENTITY)
    places = to_frame(table.select(keys)).assign(place=range(len(table)))
    found = to_frame(wanted.select(keys)).merge(places, how="left", on=keys, validate="1:1")
    return found["place"].fillna(-1).to_numpy(dtype=np.int64)


def read_standing(folder: Path, manifest: Mapping[str, Any], origins: pa.Table) -> Standing:
    """Return what a complete set has, by the places of its images among those it is to have.

    Parameters
    ----------
    folder : Path
        Of the set.
    manifest : mapping
        What its ``set.json`` says.
    origins : Table
        Of all images that it is to have, as of `describe_origins`.

    Raises
    ------
    ImageSetError
        If it is damaged, or its arrays were laid out by another version of medkit.
    """
    check_sizes(folder, manifest)
    size = tuple(manifest["recipe"]["size"])
    for name, length in manifest["arrays"].items():
        _check_layout(folder, Layout(name, length, size))
    parts = [_place(read_table(folder, manifest, path), origins) for path in (TABLE, REFUSED)]
    return Standing(
        pa.concat_tables(parts), manifest["files"], manifest["arrays"], manifest["parts"]
    )


def _check_layout(folder: Path, layout: Layout) -> None:
    path = f"{PIXELS}/{layout.name}/zarr.json"
    beside = folder / PARTIAL / "metadata"
    arrays.create_array(beside, layout)
    same = (beside / "zarr.json").read_bytes() == (folder / path).read_bytes()
    shutil.rmtree(beside)
    if not same:
        raise ImageSetError(
            f"the set {folder.name!r} cannot grow: this medkit does not lay out {path} as it is; "
            "see 'medkit verify', and make it anew with --replace"
        )


def _place(table: pa.Table, origins: pa.Table) -> pa.Table:
    """Return rows of a set's table as results, by the positions of their frames now."""
    columns = {name: table[name] for name in RESULTS.names if name in table.schema.names}
    columns["position"] = pa.array(_find(table, origins))
    missing = [field for field in RESULTS if field.name not in columns]
    columns |= {field.name: pa.nulls(len(table), field.type) for field in missing}
    return pa.table({name: columns[name] for name in RESULTS.names}).cast(RESULTS)
