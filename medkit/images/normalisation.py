"""Normalising: from frames of a catalog to a set, by a recipe.

What lands where is planned from the catalog before a pixel is decoded: the frames in their order,
the array of each by its header, its row in that array, and so its shard. So shards are made in any
order, by any number of processes, after any kill, and the set is the same byte for byte.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from medkit import workspace
from medkit.engine import Died, Progress, map_items, silent
from medkit.errors import ImageSetError, PixelError, UsageError
from medkit.images import pixels
from medkit.images.arrays import Layout
from medkit.images.assembly import complete_set, tabulate
from medkit.images.imageset import MANIFEST, PARTIAL, PIXELS, read_manifest
from medkit.images.resampling import FILTERS, GEOMETRIES
from medkit.images.selection import EXCLUSIONS, iterate_records, select_frames
from medkit.images.shards import Entry, ShardTask, build_shard, read_entries, refuse, try_frame

if TYPE_CHECKING:
    from medkit.catalog.store import Catalog

# Raised when equal recipes and frames would give other bytes than before.
PIPELINE = 1

_PLAN = "plan.json"
# What decodes, computes and writes the pixels.
_LIBRARIES = (
    "numpy",
    "pydicom",
    "imagecodecs",
    "pyjpegls",
    "pylibjpeg-openjpeg",
    "tensorstore",
    "pandas",
    "pyarrow",
)


@dataclass(frozen=True)
class Recipe:
    """How pixels become an image of a set. It is stored with its output.

    Parameters
    ----------
    size : tuple of int
        (rows, columns) of every image.
    geometry : str
        ``"letterbox"``: all of the image, in its physical aspect, padded. ``"stretch"``: all of
        it, in the set's aspect. ``"crop"``: its middle, filling the set's size. ``"mm"``: its
        middle at a fixed resolution.
    filter : str
        ``"bilinear"``: half-pixel centres, antialiased when it reduces. ``"two-tap"``: without
        antialiasing. ``"nearest"``: for label maps and phantoms.
    mm : float, optional
        Millimetres a pixel, for the geometry ``"mm"`` alone.
    where : str, optional
        SQL condition on the catalog's view ``images``; it narrows, and lifts no exclusion.
    include : tuple of str
        Exclusions to lift: ``localizer``, ``secondary-capture``, ``slide``.

    Raises
    ------
    UsageError
        If one of them is not as said.
    """

    size: tuple[int, int] = (299, 299)
    geometry: str = "letterbox"
    filter: str = "bilinear"
    mm: float | None = None
    where: str | None = None
    include: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, known in (
            ("geometry", {self.geometry}, GEOMETRIES),
            ("filter", {self.filter}, FILTERS),
            ("exclusion", set(self.include), EXCLUSIONS),
        ):
            unknown = sorted(value - set(known))
            if unknown:
                raise UsageError(f"no {name} is named {unknown[0]!r}; use {', '.join(known)}")
        if min(self.size) < 1:
            raise UsageError(f"a size is two numbers of pixels above 0, not {self.size!r}")
        mm = 1.0 if self.mm is None else self.mm
        if (self.geometry == "mm") != (self.mm is not None) or not 0 < mm < math.inf:
            raise UsageError(
                "millimetres a pixel, such as 0.5, go with the geometry 'mm' and no other; "
                f"the geometry is {self.geometry!r}, the millimetres are {self.mm!r}"
            )
        object.__setattr__(self, "include", tuple(sorted(set(self.include))))

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as ``set.json`` has it, with the version of the pixel pipeline."""
        lists = {"size": list(self.size), "include": list(self.include)}
        return asdict(self) | lists | {"pipeline": PIPELINE}

    @property
    def key(self) -> str:
        """16 hexadecimal digits that are equal for equal recipes."""
        return workspace.hash_json(self.to_json())


@dataclass(frozen=True)
class Summary:
    """What became of a catalog's frames.

    Attributes
    ----------
    selected, landed : int
        Frames; ``selected == landed + sum(refused.values())``.
    refused, left_out : dict of str to int
        Counts by code, and by reason.
    built : bool
        False if the set was there already.
    """

    selected: int
    landed: int
    refused: Mapping[str, int]
    left_out: Mapping[str, int]
    built: bool


def normalise(
    catalog: Catalog,
    folder: Path,
    recipe: Recipe,
    *,
    engine: str = "local",
    workers: int | None = None,
    progress: Progress = silent,
    replace: bool = False,
) -> Summary:
    """Make a set, or finish one that was begun.

    Parameters
    ----------
    catalog : Catalog
        Where the frames are.
    folder : Path
        Of the set. If it holds the same set already, complete, nothing is done.
    recipe : Recipe
        What to select, and how to normalise it.
    engine, workers
        As in `engine.map_items`. The set does not depend on them.
    progress : callable
        Told of frames that were tried.
    replace : bool
        Make it anew, whatever is in the folder.

    Raises
    ------
    UsageError
        If nothing is selected, or the folder holds another set.
    ImageSetError
        If shards cannot be written.
    """
    selection = select_frames(catalog, recipe.where, recipe.include)
    frames = selection.rows
    if frames.empty:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in selection.left_out.items())
        raise UsageError(f"no frame is selected; left out, by reason: {counts or 'none'}")
    made_from = {"recipe": recipe.to_json(), "selection": selection.key}
    if _is_standing(folder, made_from, replace):
        return _summarise(read_manifest(folder), built=False)
    workspace.write_json(folder / PARTIAL / _PLAN, made_from)
    plan = _plan_frames(frames, recipe.size)
    parts = [tabulate(plan.refused.values(), plan.refused, None)]
    progress(done := len(plan.refused), len(frames), "frames")
    for task in _build(_make_tasks(plan, frames, folder, recipe), engine, workers):
        entries = read_entries(task)
        positions = plan.positions[task.layout.name][[entry["row"] for entry in entries]]
        parts.append(tabulate(entries, positions.tolist(), task.layout.name))
        progress(done := done + len(entries), len(frames), "frames")
    facts = {
        **made_from,
        "recipe_key": recipe.key,
        "catalog_snapshot": catalog.snapshot,
        "left_out": selection.left_out,
        "versions": workspace.describe_versions(*_LIBRARIES),
    }
    complete_set(folder, plan.layouts, frames, pa.concat_tables(parts), facts)
    return _summarise(read_manifest(folder), built=True)


def _is_standing(folder: Path, made_from: Mapping[str, Any], replace: bool) -> bool:
    """Say whether the set is there, complete; else leave room for it.

    Raises
    ------
    UsageError
        If the folder holds something else, and it is not to be replaced.
    """
    complete = (folder / MANIFEST).exists()
    found = None if replace and complete else _read_origin(folder)
    if found == made_from:
        if complete:
            shutil.rmtree(folder / PARTIAL, ignore_errors=True)  # a kill can leave it
        return complete
    foreign = folder.exists() and any(entry.name != PARTIAL for entry in folder.iterdir())
    if replace or (found is None and not foreign):
        workspace.remove_folder(folder)
        return False
    raise UsageError(
        f"the set {folder.name!r} {_explain(found, made_from)}; make it anew with --replace, or "
        "give another name"
    )


def _read_origin(folder: Path) -> dict[str, Any] | None:
    """Return the recipe and the selection of a set, complete or begun; None without one."""
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        return {name: manifest[name] for name in ("recipe", "selection")}
    plan = folder / PARTIAL / _PLAN
    return workspace.read_json(plan) if plan.exists() else None


def _explain(found: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> str:
    if found is None:
        return "is a folder of something else"
    there, here = found["recipe"], wanted["recipe"]
    other = [
        f"{name} is {there.get(name)!r} there and {value!r} here"
        for name, value in here.items()
        if there.get(name) != value
    ]
    if other:
        return f"was made by another recipe ({'; '.join(other)})"
    return "was made from other frames: what the catalog selects, or its files, have changed"


@dataclass(frozen=True)
class _Plan:
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


def _plan_frames(frames: pd.DataFrame, size: tuple[int, int]) -> _Plan:
    """Give each frame its array, by its header alone, and the next row of it."""
    names: dict[str, list[int]] = {}
    refused = {}
    for position, frame in enumerate(iterate_records(frames)):
        try:
            names.setdefault(pixels.name_array(frame), []).append(position)
        except PixelError as error:
            refused[position] = refuse(error.code, error.detail)
    positions = {name: np.array(names[name], dtype=np.int64) for name in sorted(names)}
    layouts = [Layout(name, len(rows), size) for name, rows in positions.items()]
    return _Plan(layouts, positions, refused)


def _make_tasks(
    plan: _Plan, frames: pd.DataFrame, folder: Path, recipe: Recipe
) -> Iterator[ShardTask]:
    """Yield a task for each shard of a set, each with the rows of the catalog it needs."""
    for layout in plan.layouts:
        # One walk an array: to turn the few rows of each shard by themselves takes seven times as
        # long.
        records = iterate_records(frames.iloc[plan.positions[layout.name]])
        for first in range(0, layout.length, layout.shard_length):
            inside = islice(records, layout.shard_length)
            yield ShardTask(
                pixels=folder / PIXELS,
                work=folder / PARTIAL,
                layout=layout,
                shard=first // layout.shard_length,
                frames=dict(enumerate(inside, start=first)),
                recipe=recipe,
            )


def _build(tasks: Iterator[ShardTask], engine: str, workers: int | None) -> Iterator[ShardTask]:
    """Make the shards, and yield their tasks as they are done."""
    for outcome in map_items(build_shard, tasks, engine=engine, workers=workers):
        if isinstance(outcome.result, Died):
            _build_without_guilty(outcome.item, engine, workers)
        yield outcome.item


def _build_without_guilty(task: ShardTask, engine: str, workers: int | None) -> None:
    """Make a shard whose process was ended: find the frames that do it, and refuse them."""
    tries = [(row, frame, task.recipe) for row, frame in task.frames.items()]
    condemned = frozenset(
        outcome.item[0]
        for outcome in map_items(try_frame, tries, engine=engine, workers=workers)
        if isinstance(outcome.result, Died)
    )
    again = dataclasses.replace(task, condemned=condemned)
    for outcome in map_items(build_shard, [again], engine=engine, workers=workers):
        if isinstance(outcome.result, Died):
            raise ImageSetError(
                f"the process that makes {task.target} is ended though each frame alone is "
                f"decoded ({outcome.result.detail}); give it more memory, or fewer --workers"
            )


def _summarise(manifest: Mapping[str, Any], *, built: bool) -> Summary:
    return Summary(**manifest["counts"], left_out=manifest["left_out"], built=built)
