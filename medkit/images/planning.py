"""Planning a set: the array, row and shard of each frame, before a pixel is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.errors import PixelError
from medkit.images import pixels
from medkit.images.arrays import Layout
from medkit.images.imageset import PARTIAL, PIXELS
from medkit.images.selection import iterate_records
from medkit.images.shards import Entry, ShardTask, refuse

if TYPE_CHECKING:
    from medkit.images.normalisation import Recipe


@dataclass(frozen=True)
class Plan:
    """Where the frames of a selection go.

    Attributes
    ----------
    layouts : list of Layout
        The arrays, sorted by name.
    positions : dict of str to ndarray of int64
        For each array, which of the frames are its rows, in order.
    refused : dict of int to Entry
        By position, frames that no array can hold, and why.
    """

    layouts: list[Layout]
    positions: dict[str, npt.NDArray[np.int64]]
    refused: dict[int, Entry]


def plan_frames(frames: pd.DataFrame, size: tuple[int, int]) -> Plan:
    """Give each frame its array, by its header alone, and the next row of it.

    Parameters
    ----------
    frames : DataFrame
        Rows of the catalog's view ``images``, in the order they are to have.
    size : tuple of int
        (rows, columns) of every image.
    """
    names: dict[str, list[int]] = {}
    refused = {}
    for position, frame in enumerate(iterate_records(frames)):
        try:
            names.setdefault(pixels.name_array(frame), []).append(position)
        except PixelError as error:
            refused[position] = refuse(error.code, error.detail)
    positions = {name: np.array(names[name], dtype=np.int64) for name in sorted(names)}
    layouts = [Layout(name, len(rows), size) for name, rows in positions.items()]
    return Plan(layouts, positions, refused)


def make_tasks(
    plan: Plan, frames: pd.DataFrame, folder: Path, recipe: Recipe
) -> Iterator[ShardTask]:
    """Yield a task for each shard of a set, each with the rows of the catalog it needs."""
    for layout in plan.layouts:
        positions = plan.positions[layout.name]
        for first in range(0, layout.length, layout.shard_length):
            inside = positions[first : first + layout.shard_length]
            yield ShardTask(
                pixels=folder / PIXELS,
                work=folder / PARTIAL,
                layout=layout,
                shard=first // layout.shard_length,
                frames=dict(enumerate(iterate_records(frames.iloc[inside]), start=first)),
                recipe=recipe,
            )
