"""Exporting a set: planned, written part by part, whole or not at all.

The folder appears in one step when everything is in it. Until then the work lies beside it, in
``.NAME.part``, where an export that was killed goes on: a part that is there is whole, and is left
alone. ``dataset.json`` says what an export was made from, so that the same one is known again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medkit import delivery, workspace
from medkit.catalog.exports import export as write_rows
from medkit.engine import Progress, silent
from medkit.errors import UsageError, WorkspaceError
from medkit.images.exports.contents import Content, iterate_pictures, name_kinds
from medkit.images.exports.documents import write_readme
from medkit.images.exports.forms import (
    Form,
    Part,
    check_kinds,
    find_form,
    name_files,
    plan_parts,
)
from medkit.images.exports.licences import Terms, write_licences
from medkit.images.exports.metadata import Chosen, choose_images, describe_images, describe_recipe

if TYPE_CHECKING:
    from medkit.cohort.folds import Folds
    from medkit.images.imageset import ImageSet

FORMAT = 1
DESCRIPTION = "dataset.json"

_ORDER = "order.json"
# What encodes; the same versions write the same bytes.
_LIBRARIES = ("numpy", "imagecodecs", "pyarrow")
# What may differ between two exports that are the same all the same.
_CIRCUMSTANCES = ("versions", "files", "bytes")


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Attributes
    ----------
    images, exported : int
        Of the set, and of these in the export; ``images == exported + sum(left_out.values())``.
    left_out : dict of str to int
        Counts by reason.
    persons, unknown_persons : int
        Split groups, and images of which nobody knows the person.
    burned_in : int
        Images whose header says that text is burned into their pixels.
    kinds : dict of str to int
        Images by type and channels of their values.
    sources : list of dict
        Of each: source, images, licence, citation, notice and what else is known.
    files, bytes : int
        Of all but ``dataset.json``.
    built : bool
        False if it was there already.
    """

    images: int
    exported: int
    left_out: Mapping[str, int]
    persons: int
    unknown_persons: int
    burned_in: int
    kinds: Mapping[str, int]
    sources: list[dict[str, Any]]
    files: int
    bytes: int
    built: bool


def export_images(
    image_set: ImageSet,
    folder: Path,
    form: str,
    *,
    terms: Mapping[str, Terms],
    window: str | None = None,
    label: str | None = None,
    labels: pd.DataFrame | None = None,
    folds: Folds | None = None,
    keep_identifiers: bool = False,
    replace: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> Exported:
    """Write a set in another form, or finish an export that was begun.

    Parameters
    ----------
    image_set : ImageSet
        What to export.
    folder : Path
        Where to; it must not hold anything else. If it holds the same export, nothing is done.
    form : str
        One of `forms.FORMS`.
    terms : mapping of str to Terms
        What is known of each source of the images; of one that is missing, nothing is.
    window : str, optional
        As `reader.View` has it. Without one, stored codes go out at full depth.
    label : str, optional
        Name of a label; images without a value are left out.
    labels : DataFrame, optional
        Its values: columns file, value.
    folds : Folds, optional
        Of this set; they bring their label, and images in no fold are left out.
    keep_identifiers : bool
        Keep `metadata.IDENTIFIERS`.
    replace : bool
        Make it anew, in place of another export.
    workers : int, optional
        Threads that encode; the export does not depend on them.
    progress : callable
        Told of images.

    Raises
    ------
    UsageError
        If the form cannot hold the images, an image cannot be seen through the window, or the
        folder holds something else or lies among the sets.
    ImageSetError
        If an image is damaged.
    """
    if folder.resolve().is_relative_to(image_set.folder.parent.resolve()):
        raise UsageError(f"{folder} lies among the sets, which hold nothing else; choose another")
    shape = find_form(form)
    chosen = choose_images(image_set, label, labels, folds)
    content, parts = _plan(image_set, shape, chosen, window, keep_identifiers, workers)
    facts = {
        "format": FORMAT,
        "form": form,
        "set": {"name": image_set.name, "id": image_set.id},
        "recipe": describe_recipe(image_set.manifest["recipe"], content.metadata.column_names),
        "catalog_snapshot": image_set.manifest["catalog_snapshot"],
        "window": window,
        "identifiers": keep_identifiers,
        "label": chosen.label,
        "folds": chosen.folds,
        "classes": list(chosen.classes),
        "labels": _hash_labels(chosen),
        **_count(image_set, chosen, content, terms),
        "versions": _describe_versions(form),
    }
    standing = delivery.find_standing(folder, DESCRIPTION, facts, _CIRCUMSTANCES, replace)
    if standing is not None:
        return _summarise(standing, built=False)
    work = _open_work(folder, facts)
    _write_parts(work / delivery.CONTENT, shape, parts, content, progress)
    whole = _write_documents(work / delivery.CONTENT, facts, content, parts, terms)
    delivery.put_in_place(work, folder)
    return _summarise(whole, built=True)


def _plan(
    image_set: ImageSet,
    form: Form,
    chosen: Chosen,
    window: str | None,
    identifiers: bool,
    workers: int | None,
) -> tuple[Content, list[Part]]:
    """Decide what goes where: nothing is read yet."""
    if chosen.table.empty:
        raise UsageError(f"the set {image_set.name!r} has no image to export")
    images = image_set.images().take(chosen.table["image"].to_numpy(dtype=np.int64))
    kinds = name_kinds(images, window, tensors=form.tensors)
    check_kinds(form, kinds)
    numbers = images.table["image"].to_numpy(dtype=np.int64)
    parts = plan_parts(form, kinds, numbers, image_set.size)
    names = name_files(form, parts, numbers)
    metadata = describe_images(chosen, names, identifiers=identifiers)
    classes = chosen.classes
    return Content(images, metadata, kinds, classes, window, form.tensors, workers), parts


def _count(
    image_set: ImageSet, chosen: Chosen, content: Content, terms: Mapping[str, Terms]
) -> dict[str, Any]:
    table = chosen.table
    sources = Counter(table["source"])
    kinds, counts = np.unique(content.kinds, return_counts=True)
    return {
        "images": len(image_set.table),
        "exported": len(table),
        "left_out": chosen.left_out,
        "persons": int(table["split_group"].nunique()),
        "unknown_persons": int(table["split_group"].isna().sum()),
        "burned_in": int((table["BurnedInAnnotation"] == "YES").sum()),
        "kinds": dict(zip(kinds.tolist(), counts.tolist(), strict=True)),
        "sources": [
            terms.get(source, Terms(source)).to_json(sources[source]) for source in sorted(sources)
        ],
    }


def _hash_labels(chosen: Chosen) -> str | None:
    names = [name for name in ("image", "label", "fold") if name in chosen.table]
    columns = [chosen.table[name].tolist() for name in names]
    return workspace.hash_json(columns, 64) if chosen.label else None


def _describe_versions(form: str) -> dict[str, str]:
    extra = ("tensorflow",) if form == "tfrecord" else ()
    versions = workspace.describe_versions(*_LIBRARIES, *extra)
    # The kernel's version is in it, and moves under an export that goes on.
    del versions["platform"]
    return versions


def _open_work(folder: Path, facts: Mapping[str, Any]) -> Path:
    """Return the work folder: that of a killed process, if it made the same with the same."""
    work = delivery.name_work(folder)
    order = workspace.hash_json(facts, 64)
    try:
        same = workspace.read_json(work / _ORDER) == order
    except WorkspaceError:
        same = False
    if not same:
        workspace.remove_folder(work)
        workspace.write_json(work / _ORDER, order)
    return work


def _write_parts(
    folder: Path, form: Form, parts: list[Part], content: Content, progress: Progress
) -> None:
    done, total = 0, len(content.images)
    for path, rows in parts:
        if not (folder / path).exists():
            with delivery.write_part(folder / path) as beside:
                pictures = _report(iterate_pictures(content, rows), done, total, progress)
                form.write(beside, pictures, content)
        progress(done := done + len(rows), total, "images")


def _report(pictures: Iterator[Any], done: int, total: int, progress: Progress) -> Iterator[Any]:
    for number, picture in enumerate(pictures, done):
        progress(number, total, "images")
        yield picture


def _write_documents(
    folder: Path,
    facts: Mapping[str, Any],
    content: Content,
    parts: list[Part],
    terms: Mapping[str, Terms],
) -> dict[str, Any]:
    """Write all that stands beside the pixels, and last what says that it is whole."""
    # Of one name with two suffixes, ImageFolder would refuse both.
    for form, name in (("csv", "metadata.csv"), ("parquet", "images.parquet")):
        with delivery.write_part(folder / name) as beside, beside.open("wb") as sink:
            write_rows(content.metadata.to_reader(), form, sink)
    known = [terms.get(source["source"], Terms(source["source"])) for source in facts["sources"]]
    texts = {
        "LICENCES.txt": write_licences(facts["sources"]),
        "README.md": write_readme(facts, content.metadata.column_names, parts[0].path, known),
    }
    for name, text in texts.items():
        with delivery.write_part(folder / name) as beside:
            beside.write_bytes(text.encode())
    sizes = delivery.write_sums(folder, DESCRIPTION)
    whole = {**facts, "files": len(sizes), "bytes": sum(sizes)}
    workspace.write_json(folder / DESCRIPTION, whole)
    return whole


def _summarise(facts: Mapping[str, Any], *, built: bool) -> Exported:
    told = {field.name: facts[field.name] for field in fields(Exported) if field.name != "built"}
    return Exported(**told, built=built)
