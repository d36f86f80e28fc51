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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from medkit import workspace
from medkit.catalog.readers import list_distributions
from medkit.engine import Died, Progress, map_items, silent
from medkit.errors import ImageSetError, UsageError
from medkit.images.assembly import Standing, settle, stage_set, tabulate
from medkit.images.grids import PLANES
from medkit.images.growth import (
    compare_origins,
    describe_origins,
    read_standing,
)
from medkit.images.imageset import MANIFEST, PARTIAL, STAGED, read_manifest
from medkit.images.packing import Positions
from medkit.images.plans import Members, Plan, make_tasks, plan_frames
from medkit.images.resampling import FILTERS, GEOMETRIES
from medkit.images.selection import EXCLUSIONS, parse_slices, select_frames
from medkit.images.shards import Entry, ShardTask, build_shard, try_frame

if TYPE_CHECKING:
    from medkit.catalog.store import Catalog

# Raised when equal recipes and frames would give other bytes than before.
PIPELINE = 2

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
    slices : str
        Which slices of each volume: ``"all"``, ``"every:K"``, ``"middle"``, ``"middle:N"``, or
        ``"mip"``, the maximum-intensity projection of all of them; see `selection`.
    plane : str
        ``"stored"``: slices as they are. ``"axial"``, ``"coronal"``, ``"sagittal"``: volumes are
        resampled and cut along that plane.

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
    slices: str = "all"
    plane: str = "stored"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("geometry", {self.geometry}, GEOMETRIES),
            ("filter", {self.filter}, FILTERS),
            ("exclusion", set(self.include), EXCLUSIONS),
            ("plane", {self.plane}, PLANES),
        ):
            unknown = sorted(value - set(known))
            if unknown:
                raise UsageError(f"no {name} is named {unknown[0]!r}; use {', '.join(known)}")
        parse_slices(self.slices)
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
    selected : int
        Frames of the catalog; with ``left_out`` they are all it has.
    planned, landed : int
        Images that these were to become, and did: ``planned == landed + sum(refused.values())``.
        A frame is an image, but a mosaic is one a tile, and a projection is one of many frames.
    refused, left_out : dict of str to int
        Images by code, and frames by reason.
    added : int
        Images that landed now: all of them, or those that the set did not have before.
    built : bool
        False if the set was there already.
    """

    selected: int
    planned: int
    landed: int
    refused: Mapping[str, int]
    left_out: Mapping[str, int]
    added: int
    built: bool


@dataclass(frozen=True)
class _Source:
    """What a set is made from.

    Attributes
    ----------
    recipe : Recipe
        How.
    frames : Table
        Rows of the catalog, packed, one an image.
    members : mapping
        The volumes that some of them are made of, as `selection` gives them.
    facts : mapping
        What the manifest says of them.
    """

    recipe: Recipe
    frames: pa.Table
    members: Members
    facts: Mapping[str, Any]

    @cached_property
    def origins(self) -> pa.Table:
        """Which images they are, and the state of their files."""
        return describe_origins(self.frames, self.members)


def normalise(
    catalog: Catalog,
    folder: Path,
    recipe: Recipe,
    *,
    engine: str = "local",
    workers: int | None = None,
    progress: Progress = silent,
    replace: bool = False,
    append: bool = False,
) -> Summary:
    """Make a set, or finish one that was begun, or let one grow.

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
        Told of images that were tried.
    replace : bool
        Make it anew, whatever is in the folder.
    append : bool
        If it holds a set of the same recipe and of fewer frames, add the others. Its images keep
        their numbers and its shards their bytes; what the catalog says of them is taken anew.

    Raises
    ------
    UsageError
        If nothing is selected, or the folder holds another set.
    ImageSetError
        If shards cannot be written, or the set that is to grow is damaged.
    """
    if replace and append:
        raise UsageError("a set is made anew, or it grows: give --replace or --append, not both")
    settled = settle(folder)
    source = _select(catalog, recipe)
    found = _find_set(folder, source.facts, replace, settled)
    if found is not None and _origin_of(found) == _origin_of(source.facts):
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)  # a kill can leave it
        return _summarise(found, added=0, built=False)
    if found is None:
        standing, positions = Standing(), np.arange(len(source.frames))
        _begin(folder, source.facts)
    else:
        positions = _find_new(folder, found, source, append)
        standing = read_standing(folder, found, source.origins)
        _begin(folder, {**source.facts, "base": workspace.hash_file(folder / MANIFEST)})
    plan = plan_frames(source.frames, positions, source.members, recipe.size, standing.lengths)
    added, shards = _fill(plan, source, folder, engine, workers, progress)
    stage_set(folder, source.frames, source.origins, standing, plan, added, shards, source.facts)
    settle(folder)
    landed = added["code"].null_count
    return _summarise(read_manifest(folder), added=landed, built=True)


def _select(catalog: Catalog, recipe: Recipe) -> _Source:
    """Return what a recipe takes of a catalog.

    Raises
    ------
    UsageError
        If that is nothing.
    """
    selection = select_frames(catalog, recipe.where, recipe.include, recipe.slices, recipe.plane)
    if not len(selection.rows):
        counts = ", ".join(f"{count:,} {reason}" for reason, count in selection.left_out.items())
        raise UsageError(f"no frame is selected; left out, by reason: {counts or 'none'}")
    facts = {
        "recipe": recipe.to_json(),
        "recipe_key": recipe.key,
        "selection": selection.key,
        "catalog_snapshot": catalog.snapshot,
        "selected": selection.frames,
        "left_out": selection.left_out,
        "versions": workspace.describe_versions(*_LIBRARIES, *list_distributions(catalog.folder)),
    }
    return _Source(recipe, selection.rows, selection.members, facts)


def _origin_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells one set from another before it is made."""
    return {name: facts[name] for name in ("recipe", "selection", "base") if name in facts}


def _find_set(
    folder: Path, facts: Mapping[str, Any], replace: bool, settled: bool
) -> dict[str, Any] | None:
    """Return the manifest of the set that is there; None, and room for one, without.

    Raises
    ------
    UsageError
        If the folder holds something else, and it is not to be replaced.
    """
    if not (folder / MANIFEST).exists():
        _make_room(folder, facts, replace)
        return None
    if not replace:
        return read_manifest(folder)
    if settled and _origin_of(found := read_manifest(folder)) == _origin_of(facts):
        return found  # which is what a replacement that was killed has left to do
    workspace.remove_folder(folder)
    return None


def _make_room(folder: Path, facts: Mapping[str, Any], replace: bool) -> None:
    """Leave what was begun of the same set in a folder, and no more.

    Raises
    ------
    UsageError
        If it has something else, and that is not to be replaced.
    """
    plan = folder / PARTIAL / _PLAN
    begun = workspace.read_json(plan) if plan.exists() else None
    if begun == _origin_of(facts):
        return
    foreign = folder.exists() and any(entry.name != PARTIAL for entry in folder.iterdir())
    if not replace and begun is not None:
        raise _refuse_other(folder, _explain_recipe(begun, facts) or "was begun from other frames")
    if not replace and foreign:
        raise _refuse_other(folder, "is a folder of something else")
    workspace.remove_folder(folder)


def _begin(folder: Path, facts: Mapping[str, Any]) -> None:
    """Make the work folder, or go on with that of the same work."""
    plan, origin = folder / PARTIAL / _PLAN, _origin_of(facts)
    if not plan.exists() or workspace.read_json(plan) != origin:
        # Of an addition that came to nothing, since the catalog has changed again.
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        workspace.write_json(plan, origin)


def _find_new(folder: Path, found: Mapping[str, Any], source: _Source, append: bool) -> Positions:
    """Return the positions of images that a set has not, if it is to grow by them.

    Raises
    ------
    UsageError
        If it is not, or cannot.
    """
    if difference := _explain_recipe(found, source.facts):
        raise _refuse_other(folder, difference, "give the options that it was made with, " * append)
    growth = compare_origins(folder, found, source.origins)
    possible = not growth.gone and not growth.changed
    if append and possible:
        return growth.new
    raise _refuse_other(
        folder, f"was made from other frames ({growth})", "add them with --append, " * possible
    )


def _refuse_other(folder: Path, reason: str, also: str = "") -> UsageError:
    return UsageError(
        f"the set {folder.name!r} {reason}; {also}make it anew with --replace, or give another name"
    )


def _explain_recipe(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say in what the recipe of a set is another; nothing if it is the same."""
    there, here = found["recipe"], wanted["recipe"]
    other = [
        f"{name} is {there.get(name)!r} there and {value!r} here"
        for name, value in here.items()
        if there.get(name) != value
    ]
    return f"was made by another recipe ({'; '.join(other)})" if other else ""


def _fill(
    plan: Plan,
    source: _Source,
    folder: Path,
    engine: str,
    workers: int | None,
    progress: Progress,
) -> tuple[pa.Table, dict[str, Any]]:
    """Make the shards of a plan; return what became of its frames, and of the shards' files."""
    files: dict[str, Any] = {}
    tasks = make_tasks(plan, source.frames, source.members, folder / PARTIAL, source.recipe)
    built = _sync_early(_build(tasks, engine, workers))
    return tabulate(_read_sidecars(plan, built, folder / PARTIAL, files, progress)), files


def _read_sidecars(
    plan: Plan,
    built: Iterator[ShardTask],
    work: Path,
    files: dict[str, Any],
    progress: Progress,
) -> Iterator[tuple[int, str | None, Entry]]:
    """Yield position, array and entry of each frame of a plan; tell ``files`` of the shards'."""
    blocks = {block.layout.name: block for block in plan.blocks}
    total = len(plan.refused) + sum(len(block.positions) for block in plan.blocks)
    yield from ((position, None, entry) for position, entry in plan.refused.items())
    progress(done := len(plan.refused), total, "images")
    for task in built:
        made = workspace.read_json(task.sidecar)
        block = blocks[task.layout.name]
        for entry in made["frames"]:
            yield int(block.positions[entry["row"] - block.first]), task.layout.name, entry
        if made["sha256"] is not None:
            path = task.target.relative_to(work / STAGED).as_posix()
            files[path] = {"bytes": task.target.stat().st_size, "sha256": made["sha256"]}
        progress(done := done + len(made["frames"]), total, "images")


def _build(tasks: Iterator[ShardTask], engine: str, workers: int | None) -> Iterator[ShardTask]:
    """Make the shards, and yield their tasks as they are done."""
    for outcome in map_items(build_shard, tasks, engine=engine, workers=workers):
        if isinstance(outcome.result, Died):
            _build_without_guilty(outcome.item, engine, workers)
        yield outcome.item


def _sync_early(built: Iterator[ShardTask]) -> Iterator[ShardTask]:
    """Yield tasks as they are done; the disk takes their shards while others are made.

    Nobody waits for it here: to sync them once more, when the set is staged, then takes no time.
    """
    with ThreadPoolExecutor(1) as disk:
        for task in built:
            if task.target.exists():  # it has an image
                disk.submit(workspace.sync, task.target)
            yield task


def _build_without_guilty(task: ShardTask, engine: str, workers: int | None) -> None:
    """Make a shard whose process was ended: find the frames that do it, and refuse them."""
    tries = [(row, frame, task.recipe, task.members) for row, frame in task.frames.items()]
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


def _summarise(manifest: Mapping[str, Any], *, added: int, built: bool) -> Summary:
    return Summary(**manifest["counts"], left_out=manifest["left_out"], added=added, built=built)
