"""Putting a set together once every frame was tried: its tables, its arrays and its manifest.

All of it is made in the work folder. When the manifest stands there, the set, or what is added to
it, is decided, and `settle` moves it into place; a kill on the way leaves moves to be done.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medkit import workspace
from medkit.catalog.store import to_frame
from medkit.images import arrays, imageset
from medkit.images.arrays import Layout
from medkit.images.imageset import (
    IMAGES_SCHEMA,
    MANIFEST,
    ORIGINS,
    ORIGINS_SCHEMA,
    PARTIAL,
    PIXEL_FIELDS,
    PIXELS,
    REFUSED,
    REFUSED_SCHEMA,
    STAGED,
    TABLE,
)
from medkit.images.packing import Positions, pack_batches, unpack
from medkit.images.plans import Plan
from medkit.images.shards import Entry
from medkit.images.sharing import find_sharing

# What is known of each image once it was tried, by the position of its row of the catalog.
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

# Of an image's row, what is known without the others.
_OWN_SCHEMA = pa.schema(
    [field for field in IMAGES_SCHEMA if field.name not in ("image", "split_group")]
)
_SHARING_SCHEMA = pa.schema(
    [IMAGES_SCHEMA.field(name) for name in ("person", "source_sha256", "constant")]
)
_BATCH = 16384  # rows that are written out at a time

# A table of what became of images, and the order that they have in the set.
Part = tuple[pa.Table, Positions]


@dataclass(frozen=True)
class Standing:
    """What a set has already.

    Attributes
    ----------
    results : Table
        Of the schema `RESULTS`: its images in their order, then what was refused.
    files : mapping of str to mapping
        What the manifest says of its files.
    lengths : mapping of str to int
        Rows of each array.
    parts : list of mapping
        What was added to it, and when, the first build included.
    """

    results: pa.Table = field(default_factory=RESULTS.empty_table)
    files: Mapping[str, Any] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    parts: list[Mapping[str, Any]] = field(default_factory=list)


def tabulate(records: Iterable[tuple[int, str | None, Entry]]) -> pa.Table:
    """Return what became of frames as a table with the columns of `RESULTS`, packed.

    Parameters
    ----------
    records : iterable of tuple
        (position, array, entry) of each; some thousands are held at a time.
    """
    return pack_batches(_batch(records), RESULTS)


def _batch(records: Iterable[tuple[int, str | None, Entry]]) -> Iterator[pa.RecordBatch]:
    rows = ({"position": place, "array": array, **entry} for place, array, entry in records)
    while some := list(islice(rows, _BATCH)):
        yield pa.RecordBatch.from_pylist(some, schema=RESULTS)


def stage_set(
    folder: Path,
    frames: pa.Table,
    origins: pa.Table,
    standing: Standing,
    plan: Plan,
    added: pa.Table,
    shards: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write all of a set but its shards into the work folder, the manifest last.

    Parameters
    ----------
    folder : Path
        Of the set; the new shards are staged in its work folder.
    frames, origins : Table
        All rows of the catalog that it is of, packed, and what they come from.
    standing : Standing
        What it has already.
    plan : Plan
        What is added to it.
    added : Table
        What became of that, in any order; see `tabulate`.
    shards : mapping of str to mapping
        What the manifest is to say of the new shards, by path.
    facts : mapping
        What it is to say of where the set comes from; ``selected`` and ``versions`` among them.
    """
    staged = folder / PARTIAL / STAGED
    for path in sorted(
        {staged / path for path in shards} | {(staged / path).parent for path in shards}
    ):
        workspace.sync(path)
    # Who was there keeps the number, the row and the pixels; who is new comes behind.
    parts = [
        (standing.results, np.arange(len(standing.results))),
        (added, np.argsort(added["position"].to_numpy())),
    ]
    persons = pa.concat_tables(
        [_SHARING_SCHEMA.empty_table(), *_describe(frames, parts, _SHARING_SCHEMA, landed=True)]
    )
    sharing = find_sharing(to_frame(persons).assign(image=range(len(persons))))
    images = _describe(frames, parts, _OWN_SCHEMA, landed=True)
    refused = _describe(frames, parts, REFUSED_SCHEMA, landed=False)
    imageset.write_table(staged / TABLE, _number(images, sharing.split_group), IMAGES_SCHEMA)
    imageset.write_table(staged / REFUSED, refused, REFUSED_SCHEMA)
    imageset.write_table(staged / ORIGINS, [origins], ORIGINS_SCHEMA)
    files = {path: imageset.describe_file(staged / path) for path in (TABLE, REFUSED, ORIGINS)}
    lengths = {block.layout.name: block.layout.length for block in plan.blocks}
    metadata = _write_metadata(folder / PARTIAL, [block.layout for block in plan.blocks])
    content = {
        **{name: fact for name, fact in facts.items() if name not in ("selected", "versions")},
        "counts": {"selected": facts["selected"], **_count(standing.results, added)},
        "arrays": {**standing.lengths, **lengths},
        "parts": [*standing.parts, _describe_part(plan, added, facts)],
        "persons": pc.count_distinct(persons["person"]).as_py(),
        "split_groups": len(set(sharing.split_group) - {None}),
        "shared_pixels": sharing.listed,
        "files": {**standing.files, **shards, **metadata, **files},
    }
    imageset.write_manifest(staged / MANIFEST, content)


def _describe_part(plan: Plan, added: pa.Table, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the manifest says of what is added to a set."""
    return {
        **{name: facts[name] for name in ("selection", "catalog_snapshot", "versions")},
        "counts": _count(added),
        "rows": {block.layout.name: [block.first, block.layout.length] for block in plan.blocks},
    }


def settle(folder: Path) -> bool:
    """Move what was staged, all of it, into its place; say whether that was a whole set.

    It is not where nothing was staged, or what is added to a set. This is the last step of making
    one, and the first of going on with one: killed anywhere, it ends the same when called again.
    """
    staged = folder / PARTIAL / STAGED
    if not (staged / MANIFEST).exists():
        return False
    parts = workspace.read_json(staged / MANIFEST)["parts"]
    for entry in sorted(staged.iterdir()):
        if entry.name != MANIFEST:
            _move(entry, folder / entry.name)
    workspace.move_into_place(staged / MANIFEST, folder / MANIFEST)
    shutil.rmtree(folder / PARTIAL)
    return len(parts) == 1


def _move(source: Path, target: Path) -> None:
    """Move a file, or a folder whole; where that folder is there already, what is in it."""
    if source.is_dir() and target.is_dir():
        for entry in sorted(source.iterdir()):
            _move(entry, target / entry.name)
    else:
        workspace.move_into_place(source, target)


def _describe(
    frames: pa.Table, parts: Iterable[Part], schema: pa.Schema, *, landed: bool
) -> Iterator[pa.Table]:
    """Yield, some at a time, what is known of the images that landed, or of those that did not."""
    tried = [name for name in schema.names if name in RESULTS.names]
    headers = frames.select([name for name in schema.names if name not in tried])
    for results, order in parts:
        wanted = order[results["code"].is_null().to_numpy()[order] == landed]
        for first in range(0, len(wanted), _BATCH):
            some = results.take(wanted[first : first + _BATCH])
            known = unpack(headers.take(some["position"]))
            columns = _columns(known) | _columns(unpack(some.select(tried)))
            yield pa.table({name: columns[name] for name in schema.names}).cast(schema)


def _number(images: Iterable[pa.Table], groups: Sequence[str | None]) -> Iterator[pa.Table]:
    """Yield images with their numbers and their split groups."""
    first = 0
    for some in images:
        end = first + len(some)
        numbers = pa.array(np.arange(first, end))
        yield some.append_column("image", numbers).append_column(
            "split_group", pa.array(groups[first:end], type=pa.string())
        )
        first = end


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.schema.names, table.columns, strict=True))


def _count(*parts: pa.Table) -> dict[str, Any]:
    """Count images: planned is landed and refused."""
    refused: Counter[str] = Counter()
    for results in parts:
        refused.update(results["code"].drop_null().to_pylist())
    planned = sum(map(len, parts))
    return {
        "planned": planned,
        "landed": planned - refused.total(),
        "refused": dict(sorted(refused.items())),
    }


def _write_metadata(work: Path, layouts: Iterable[Layout]) -> dict[str, Any]:
    """Stage what describes the arrays, and return what the manifest says of these files."""
    staged = work / STAGED
    group = f"{PIXELS}/zarr.json"
    workspace.write_json(staged / group, arrays.GROUP)
    files = {group: imageset.describe_file(staged / group)}
    for layout in layouts:
        path = f"{PIXELS}/{layout.name}/zarr.json"
        # Making an array empties its folder, and the staged one has shards.
        beside = work / "metadata"
        arrays.create_array(beside, layout)
        (staged / path).parent.mkdir(parents=True, exist_ok=True)
        workspace.move_into_place(beside / "zarr.json", staged / path)
        files[path] = imageset.describe_file(staged / path)
    return files
