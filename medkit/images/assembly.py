"""Putting a set together once every frame was tried: its tables, its arrays and its manifest."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from medkit import workspace
from medkit.images import arrays, imageset
from medkit.images.arrays import Layout
from medkit.images.imageset import (
    CATALOG_FIELDS,
    IMAGES_SCHEMA,
    PARTIAL,
    PIXEL_FIELDS,
    PIXELS,
    REFUSED,
    REFUSED_SCHEMA,
    TABLE,
)
from medkit.images.shards import Entry
from medkit.images.sharing import find_sharing

# What is known of each selected frame once it was tried, by its position among them.
RESULTS = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("array", pa.string()),
        pa.field("row", pa.int64()),
        *PIXEL_FIELDS,
        pa.field("code", pa.string()),
        pa.field("detail", pa.string()),
    ]
)

_IMAGE_COLUMNS = [field.name for field in CATALOG_FIELDS]


def tabulate(entries: Iterable[Entry], positions: Iterable[int], array: str | None) -> pa.Table:
    """Return what became of some frames as a table of the schema `RESULTS`."""
    return pa.Table.from_pylist(
        [
            {"position": position, "array": array, **entry}
            for position, entry in zip(positions, entries, strict=True)
        ],
        schema=RESULTS,
    )


def complete_set(
    folder: Path,
    layouts: list[Layout],
    frames: pd.DataFrame,
    results: pa.Table,
    facts: Mapping[str, Any],
) -> None:
    """Write all of a set but its shards, the manifest last, and remove the work folder.

    Parameters
    ----------
    folder : Path
        Of the set; the shards are in place.
    layouts : list of Layout
        Its arrays.
    frames : DataFrame
        Rows of the catalog, in order.
    results : Table
        What became of each, of the schema `RESULTS`, in any order.
    facts : mapping
        What the manifest says of where the set comes from.
    """
    ordered = results.sort_by("position")
    landed = pc.is_null(ordered["code"])
    images = _take(frames, _IMAGE_COLUMNS, ordered.filter(landed))
    images = images.assign(image=images.index)
    sharing = find_sharing(images)
    images["split_group"] = sharing.split_group
    refusals = _take(frames, ["file", "frame", "path"], ordered.filter(pc.invert(landed)))
    work = folder / PARTIAL
    imageset.write_table(work / TABLE, images, IMAGES_SCHEMA)
    imageset.write_table(work / REFUSED, refusals, REFUSED_SCHEMA)
    files = [TABLE, REFUSED, *_write_metadata(work, layouts)]
    for path in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        workspace.move_into_place(work / path, folder / path)
    content = {
        **facts,
        "counts": {
            "selected": len(frames),
            "landed": len(images),
            "refused": dict(sorted(Counter(refusals["code"]).items())),
        },
        "persons": int(images["person"].nunique()),
        "split_groups": len(set(sharing.split_group) - {None}),
        "shared_pixels": sharing.listed,
    }
    imageset.write_manifest(folder, [*files, *_list_shards(layouts, images)], content)
    shutil.rmtree(work)


def _take(frames: pd.DataFrame, columns: list[str], results: pa.Table) -> pd.DataFrame:
    """Return columns of the catalog's rows that some results are of, and the results."""
    rows: pd.DataFrame = frames.iloc[results["position"].to_numpy()][columns]
    return rows.reset_index(drop=True).join(results.to_pandas())


def _write_metadata(work: Path, layouts: Iterable[Layout]) -> Iterator[str]:
    """Write what describes the arrays into the work folder, and yield the files."""
    yield f"{PIXELS}/zarr.json"
    workspace.write_json(work / PIXELS / "zarr.json", arrays.GROUP)
    for layout in layouts:
        arrays.create_array(work / PIXELS / layout.name, layout)
        yield f"{PIXELS}/{layout.name}/zarr.json"


def _list_shards(layouts: Iterable[Layout], images: pd.DataFrame) -> Iterator[str]:
    """Yield the files of the shards that hold an image."""
    for layout in layouts:
        rows = images.loc[images["array"] == layout.name, "row"]
        for shard in sorted(set(rows // layout.shard_length)):
            yield f"{PIXELS}/{layout.name}/{layout.shard_path(shard)}"
