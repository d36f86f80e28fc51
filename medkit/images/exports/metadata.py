"""What goes out beside the pixels: a row an image, without what names a person or a disk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from medkit.errors import UsageError
from medkit.images.imageset import IMAGES_SCHEMA, ImageSet

if TYPE_CHECKING:
    from medkit.cohort.folds import Folds

# Columns of a set's table that lead to a person or to the machine the images lie on. Dates of an
# examination and unique numbers are identifiers by 45 CFR 164.514(b)(2)(i); UIDs and IDs are
# replaced or removed by the basic profile of PS3.15 Annex E.
IDENTIFIERS = (
    "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "StudyDate",
)  # fmt: skip
# Where the set and its files lie: of no use elsewhere, and paths tell of persons.
PLACES = ("array", "row", "file", "root", "path")
HIDDEN = "left out: it names more than the columns that are exported"

_ADDED = (
    pa.field("file_name", pa.string()),  # of the file that holds it, as ImageFolder calls it
    pa.field("label", pa.string()),
    pa.field("fold", pa.int64()),
    pa.field("spacing", pa.list_(pa.float64())),  # mm from row to row and from column to column
)


@dataclass(frozen=True)
class Chosen:
    """The images that are exported, and those that are not.

    Attributes
    ----------
    table : DataFrame
        Rows of the set's table, in its order, with ``label`` and ``fold`` where there are some.
    left_out : dict of str to int
        Images by reason; with the rows of ``table`` they add up to the images of the set.
    label : str or None
        Its name.
    folds : str or None
        The key of the folds.
    """

    table: pd.DataFrame
    left_out: dict[str, int]
    label: str | None = None
    folds: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The values of the label, sorted: a class's number is its place among them."""
        return tuple(sorted(self.table["label"].unique())) if self.label else ()


def choose_images(
    image_set: ImageSet, label: str | None, labels: pd.DataFrame | None, folds: Folds | None
) -> Chosen:
    """Return all images of a set, or those that have a label, or stand in folds.

    Raises
    ------
    UsageError
        If a file has two labels, no image has one, or the folds are of another set or label.
    """
    if folds is not None:
        return _choose_by_folds(image_set, label, folds)
    if label is None and labels is None:
        return Chosen(image_set.table, {})
    if label is None or labels is None:
        raise UsageError("the name of a label goes with its values, and these with its name")
    known = labels.dropna(subset=["value"])
    twice = known["file"][known["file"].duplicated()]
    if len(twice):
        raise UsageError(f"{len(twice)} files have two labels, such as {twice.iloc[0]}")
    values = known.set_index("file")["value"].astype(str)
    table = image_set.table.assign(label=image_set.table["file"].map(values))
    return _keep(table, table["label"].notna(), "unlabelled", label)


def describe_images(chosen: Chosen, file_names: list[str], *, identifiers: bool) -> pa.Table:
    """Return the metadata of an export, with every column that may go out.

    Parameters
    ----------
    chosen : Chosen
        The images.
    file_names : list of str
        Where each of them lies in the export.
    identifiers : bool
        Keep `IDENTIFIERS`.
    """
    hidden = {*PLACES, *(() if identifiers else IDENTIFIERS)}
    kept = [f for f in IMAGES_SCHEMA if f.name not in hidden and f.name in chosen.table]
    added = [field for field in _ADDED if _is_there(field.name, chosen)]
    spacing = pd.Series(_find_spacing(chosen.table), dtype=object)
    table = chosen.table.assign(file_name=file_names, spacing=spacing)
    if not identifiers:
        table["PatientAge"] = table["PatientAge"].map(_cap_age, na_action="ignore")
    first, *rest = kept
    schema = pa.schema([first, *added, *rest])
    content = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
    return content.replace_schema_metadata()


def describe_recipe(recipe: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Return a set's recipe; its condition only if it names nothing but exported columns.

    ``PatientID = 'X'``, a path or a comment would tell what the columns are left out to hide.
    """
    bare = re.sub(r"'(?:[^']|'')*'", "", recipe["where"] or "")
    named = {word for word in re.findall(r"\w+", bare) if not word.isdigit()}
    told = {*map(str.casefold, columns), "and", "or", "not", "in", "is", "null", "like", "between"}
    if {word.casefold() for word in named} <= told and not re.search(r"--|/\*", bare):
        return dict(recipe)
    return {**recipe, "where": HIDDEN}


def _choose_by_folds(image_set: ImageSet, label: str | None, folds: Folds) -> Chosen:
    if folds.set_id != image_set.id:
        raise UsageError(
            f"the folds {folds.key} are of the set {folds.set_name!r} as it was with the id "
            f"{folds.set_id}, and {image_set.name!r} has the id {image_set.id}"
        )
    if label not in (None, folds.label):
        raise UsageError(f"the folds {folds.key} are of the label {folds.label!r}, not {label!r}")
    known = folds.table[["image", "label", "fold"]]
    table = image_set.table.merge(known, on="image", how="left")
    table["fold"] = table["fold"].astype("Int64")
    return _keep(table, table["fold"].notna(), "in no fold", folds.label, folds.key)


def _keep(
    table: pd.DataFrame, kept: pd.Series[bool], reason: str, label: str, folds: str | None = None
) -> Chosen:
    if not kept.any():
        raise UsageError(
            f"none of the {len(table)} images of the set has a value of {label!r}; label their "
            "files, or leave the label out"
        )
    left_out = {reason: int((~kept).sum())} if not kept.all() else {}
    return Chosen(table[kept].reset_index(drop=True), left_out, label, folds)


def _is_there(name: str, chosen: Chosen) -> bool:
    return {"label": chosen.label, "fold": chosen.folds}.get(name, "always") is not None


def _find_spacing(table: pd.DataFrame) -> list[list[float] | None]:
    """Return (row, column) mm from pixel to pixel of the exported images, where they are known.

    The affine leads from output to source pixels, so its diagonal is how many of these an output
    pixel spans. On a plane cut through a volume, the header's spacing is not that of its axes.
    """
    turned = table["plane"].notna() if "plane" in table else pd.Series(False, table.index)
    columns = zip(table["PixelSpacing"], table["affine"], turned, strict=True)
    return [None if cut else _scale_spacing(spacing, affine) for spacing, affine, cut in columns]


def _scale_spacing(spacing: Any, affine: Any) -> list[float] | None:
    if spacing is None or np.size(spacing) != 2 or not np.all(np.greater(spacing, 0)):
        return None
    return [float(spacing[0] * abs(affine[4])), float(spacing[1] * abs(affine[0]))]


def _cap_age(age: str) -> str | None:
    """Return an age, above 89 years as 90 (45 CFR 164.514(b)(2)(i)(C)).

    What is none (PS3.5 6.2, Age String) is left out: nobody knows what else it tells.
    """
    found = re.fullmatch(r"\s*(\d{3})([DWMY])\s*", age)
    if found is None:
        return None
    return "090Y" if found[2] == "Y" and int(found[1]) > 89 else age
