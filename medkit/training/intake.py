"""New images: files and folders that somebody points at, made into a set by a run's own recipe.

evaluations/NAME/intake/given/      the single files among them, as links or copies
evaluations/NAME/intake/catalog/    what they are; the workspace's catalog is not touched
evaluations/NAME/intake/set/        their pixels
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from medkit.catalog.journal import find_roots, read_journal
from medkit.catalog.readers import find_readers
from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog
from medkit.engine import Progress, silent
from medkit.errors import ImageSetError, UsageError
from medkit.images.imageset import ImageSet
from medkit.images.normalisation import PIPELINE, Recipe, normalise
from medkit.sources.trees import is_folder, is_remote, normalise_root
from medkit.workspace import Workspace

REFUSED = ["path", "frame", "code", "detail"]

# Files that no image comes of, apart from archives whose members are rows of their own.
_IGNORED = """
SELECT CASE kind WHEN 'ignored' THEN reason ELSE kind || ': ' || reason END AS reason,
    count(*) AS files
FROM files
WHERE NOT vanished AND (kind = 'ignored' OR kind = 'archive' AND reason <> '')
GROUP BY ALL ORDER BY ALL
"""
_PROBLEMS = """
SELECT file, reason AS code, coalesce(detail, '') AS detail
FROM files WHERE NOT vanished AND kind = 'problem'
"""


class Intake(NamedTuple):
    """Images that were taken in.

    Attributes
    ----------
    image_set : ImageSet
        Those that can be predicted; in its table, ``path`` is where the file lies.
    catalog : Catalog
        That they are from.
    refused : DataFrame
        Columns of `REFUSED`: what cannot be read or normalised.
    set_aside : dict of str to int
        By reason, what the recipe leaves out, and what is no image.
    notes : list of str
        What should be known besides.
    """

    image_set: ImageSet
    catalog: Catalog
    refused: pd.DataFrame
    set_aside: dict[str, int]
    notes: list[str]


def find_places(paths: Sequence[str | Path], workspace: Workspace) -> list[str]:
    """Return where images are, absolute and sorted; what lies in another of the places is left out.

    Parameters
    ----------
    paths : sequence of str or Path
        Files, folders, or URLs of folders.
    workspace : Workspace
        Which none of them may hold.

    Raises
    ------
    UsageError
        If one is not there, or holds the workspace.
    """
    places = sorted({normalise_root(path) for path in paths})
    for place in places:
        if not is_folder(place) and (is_remote(place) or not Path(place).is_file()):
            raise UsageError(f"there is no file or folder {place}")
        if not is_remote(place) and workspace.root.resolve().is_relative_to(place):
            raise UsageError(
                f"{place} holds the workspace, with all that medkit made; give the folder of the "
                "images themselves"
            )
    return [place for place in places if not any(_lies_in(place, other) for other in places)]


def take_in(
    folder: Path,
    places: Sequence[str],
    recipe: Mapping[str, Any],
    workspace: Workspace,
    *,
    outside: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> Intake:
    """Read new images, and normalise them as those of a run were.

    Given again, only what changed is read again.

    Parameters
    ----------
    folder : Path
        For what is made of them.
    places : sequence of str
        From `find_places`.
    recipe : mapping
        As of ``run.json``.
    workspace : Workspace
        Whose catalog says, of places that it knows, whose images they are.
    outside : bool
        Leave out the recipe's SQL condition: it says which images are trained on.
    workers, progress
        As of `medkit.catalog.scan.scan`.

    Raises
    ------
    UsageError
        If none of them can be predicted; it says why.
    """
    singles = [place for place in places if not is_folder(place)]
    roots = [_make_root(place, workspace) for place in places if place not in singles]
    if singles:
        _stage(folder / "given", singles)
        roots.append(Root("given", folder / "given"))
    readers = find_readers(read_journal(workspace.catalog))
    scan(folder / "catalog", roots, workers=workers, progress=progress, readers=readers)
    catalog = Catalog.open(folder / "catalog")
    located = _locate_files(catalog, normalise_root(folder / "given"), singles)
    problems = _place(catalog.query(_PROBLEMS), located)
    chosen = restore_recipe(recipe, outside)
    try:
        _normalise(catalog, folder / "set", chosen, workers, progress)
    except UsageError as error:
        raise UsageError(f"nothing can be predicted: {error}{_name_first(problems)}") from None
    image_set = ImageSet.open(folder / "set")
    table = image_set.table.assign(path=image_set.table["file"].map(located))
    refused = pd.concat([problems, _place(image_set.refused, located)], ignore_index=True)
    ignored = catalog.query(_IGNORED)
    return Intake(
        ImageSet(image_set.folder, image_set.manifest, table, image_set.refused),
        catalog,
        refused.sort_values(["path", "frame"], ignore_index=True),
        {
            **image_set.manifest["left_out"],
            **dict(zip(ignored["reason"], map(int, ignored["files"]), strict=True)),
        },
        _doubt_pipeline(recipe),
    )


def restore_recipe(recipe: Mapping[str, Any], outside: bool = False) -> Recipe:
    """Return the recipe that stands in ``run.json``, with or without its condition."""
    known = {field.name for field in fields(Recipe)}
    values = {name: value for name, value in recipe.items() if name in known}
    values |= {name: tuple(values[name]) for name in ("size", "include")}
    return Recipe(**values | ({"where": None} if outside else {}))


def spell_places(table: pd.DataFrame) -> pd.Series[str]:
    """Return where the files of a set's images lie, from the columns root and path."""
    return table["root"].str.rstrip("/") + "/" + table["path"]


def _doubt_pipeline(recipe: Mapping[str, Any]) -> list[str]:
    if recipe.get("pipeline") == PIPELINE:
        return []
    return [
        f"the run's images were made by version {recipe.get('pipeline')} of the pixel pipeline, "
        f"and these by version {PIPELINE}, which can give other pixels"
    ]


def _normalise(
    catalog: Catalog, folder: Path, recipe: Recipe, workers: int | None, progress: Progress
) -> None:
    """Make the set, let it grow, or make it anew where files of it changed or went."""
    try:
        normalise(catalog, folder, recipe, workers=workers, progress=progress, append=True)
    except (UsageError, ImageSetError):
        normalise(catalog, folder, recipe, workers=workers, progress=progress, replace=True)


def _lies_in(place: str, other: str) -> bool:
    return place.startswith((f"{other.rstrip('/')}/", f"{other}{os.sep}"))


def _make_root(place: str, workspace: Workspace) -> Root:
    """Return a folder as a root, with whose images they are where the workspace knows it."""
    known = find_roots(read_journal(workspace.catalog))
    folder = place if is_remote(place) else Path(place)
    for root, record in known.items():
        if place == root or _lies_in(place, root):
            return Root(record["source"], folder, record.get("person_regex"))
    return Root("given", folder)


def _stage(folder: Path, files: Sequence[str]) -> None:
    """Put single files where a scan finds them and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    for number, file in enumerate(files):
        staged = folder / str(number) / Path(file).name
        staged.parent.mkdir(parents=True)
        try:
            os.link(file, staged)
        except OSError:  # another disk, or a system without such links
            shutil.copy2(file, staged)


def _locate_files(catalog: Catalog, given: str, singles: Sequence[str]) -> dict[str, str]:
    """Return where each file of the catalog lies, as the user knows it."""
    files = catalog.query("SELECT file, root, path FROM files WHERE NOT vanished")
    located = dict(zip(files["file"], spell_places(files), strict=True))
    for file, path in files.loc[files["root"] == given, ["file", "path"]].itertuples(index=False):
        number, _, rest = path.partition("/")
        single = singles[int(number)]
        located[file] = single + rest.removeprefix(Path(single).name)  # also a member of it
    return located


def _place(table: pd.DataFrame, located: Mapping[str, str]) -> pd.DataFrame:
    """Return what is refused, with where it lies."""
    placed = table.assign(path=table["file"].map(located), frame=table.get("frame"))
    return placed[REFUSED].astype({"frame": "Int64"})


def _name_first(problems: pd.DataFrame) -> str:
    if problems.empty:
        return ""
    path, _, code, detail = problems.iloc[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"; refused: {path}: {code} {detail}{more}"
