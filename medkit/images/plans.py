"""Where the images of a set go: planned from rows of the catalog before a pixel is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from medkit.errors import PixelError
from medkit.images import pixels, planes
from medkit.images.arrays import Layout
from medkit.images.imageset import PIXELS, STAGED
from medkit.images.packing import Positions, unpack_rows
from medkit.images.rows import Row
from medkit.images.shards import Entry, ShardTask, refuse

if TYPE_CHECKING:
    from medkit.images.normalisation import Recipe

Members = Mapping[str, Sequence[Row]]


@dataclass(frozen=True)
class Block:
    """Rows of one array, for some of the frames.

    Attributes
    ----------
    layout : Layout
        Of the array, which ends with these rows.
    first : int
        The first of them; a shard begins with it.
    positions : ndarray of int64
        Which of the frames each row is for.
    """

    layout: Layout
    first: int
    positions: Positions


@dataclass(frozen=True)
class Plan:
    """Where frames go.

    Attributes
    ----------
    blocks : list of Block
        Sorted by the names of their arrays.
    refused : dict of int to Entry
        By position, frames that no array can hold, and why.
    """

    blocks: list[Block]
    refused: dict[int, Entry]


def plan_frames(
    frames: pa.Table,
    positions: Positions,
    members: Members,
    size: tuple[int, int],
    lengths: Mapping[str, int],
) -> Plan:
    """Give frames their arrays, by their headers alone, and the next rows of these.

    Parameters
    ----------
    frames : Table
        Packed rows of the catalog.
    positions : ndarray of int64
        Which of them.
    members : mapping
        As of `selection.Selection`.
    size : tuple of int
        (rows, columns) of an image.
    lengths : mapping of str to int
        Rows that arrays have already. New ones begin with a shard of their own, so that what is
        there stays as it is.
    """
    names: dict[str, list[int]] = {}
    refused = {}
    for position, row in zip(positions.tolist(), unpack_rows(frames, positions), strict=True):
        try:
            names.setdefault(_name_array(row, members), []).append(position)
        except PixelError as error:
            refused[position] = refuse(error.code, error.detail)
    blocks = []
    for name in sorted(names):
        shard_length = Layout(name, 0, size).shard_length
        first = -(-lengths.get(name, 0) // shard_length) * shard_length
        layout = Layout(name, first + len(names[name]), size)
        blocks.append(Block(layout, first, np.array(names[name], dtype=np.int64)))
    return Plan(blocks, refused)


def _name_array(row: Row, members: Members) -> str:
    volume = row.get("members")
    return pixels.name_array(row) if volume is None else planes.name_array(row, members[volume])


def make_tasks(
    plan: Plan, frames: pa.Table, members: Members, work: Path, recipe: Recipe
) -> Iterator[ShardTask]:
    """Yield a task for each shard of a plan, each with the rows of the catalog it needs."""
    for block in plan.blocks:
        layout = block.layout
        rows = unpack_rows(frames, block.positions)
        for first in range(block.first, layout.length, layout.shard_length):
            inside = dict(enumerate(islice(rows, layout.shard_length), start=first))
            yield ShardTask(
                pixels=work / STAGED / PIXELS,
                work=work,
                layout=layout,
                shard=first // layout.shard_length,
                frames=inside,
                recipe=recipe,
                members=_select_members(inside.values(), members),
            )


def _select_members(rows: Iterable[Row], members: Members) -> Members:
    """Return the volumes that some rows are made of."""
    volumes = {row.get("members") for row in rows} - {None}
    return {str(volume): members[str(volume)] for volume in volumes}
