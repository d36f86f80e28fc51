"""What stands on both sides of a split: persons, studies, pictures, pixels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from medkit.cohort.folds import Folds
from medkit.errors import CohortError
from medkit.images.sharing import MOST_PERSONS

_EXAMPLES = 10
# Columns by which two images are of one origin, and what a person calls it.
_ORIGINS = {
    "split_group": "the same person",
    "StudyInstanceUID": "the same study",
    "source_sha256": "the same picture",
    "pixels_sha256": "the same pixels after normalisation",
}
_COLUMNS = ("image", "path", "StudyInstanceUID", "source_sha256", "pixels_sha256", "constant")


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found.

    Attributes
    ----------
    kind : str
        Exact: ``split_group``, ``StudyInstanceUID``, ``source_sha256``, ``pixels_sha256``.
        Listed: ``constant``, ``shared-picture``, ``disputed-label``.
    meaning : str
        The same for a person to read.
    count : int
        How many: persons, studies or pictures.
    images : int
        How many images they have.
    examples : tuple of dict
        At most ten, each with value (a UID, a hash or an opaque person), images, folds, and at
        most ten persons, labels and paths.
    """

    kind: str
    meaning: str
    count: int
    images: int
    examples: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Leaks:
    """What was found between the folds.

    Attributes
    ----------
    key : str
        Of the folds.
    images : int
        How many were looked at.
    exact : list of Finding
        What stands in two folds and may not: training refuses.
    listed : list of Finding
        What a person should see: constant images, pictures of more than three persons, the same
        pixels under two labels.
    near : dict, optional
        Pictures of two persons that are nearly the same (`medkit.cohort.twins.describe_near`);
        None where nobody looked. A person judges them; they stop no training.
    shortcuts : dict, optional
        What the label can be told by without looking (`medkit.cohort.shortcuts`); None where
        nobody asked.
    """

    key: str
    images: int
    exact: list[Finding]
    listed: list[Finding]
    near: dict[str, Any] | None = None
    shortcuts: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """True if there is no exact leak."""
        return not self.exact

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``audits/KEY.json``."""
        return {"ok": self.ok, **asdict(self)}


def find_leaks(images: pd.DataFrame, folds: Folds) -> Leaks:
    """Return what two folds share.

    Parameters
    ----------
    images : DataFrame
        The whole table of the ImageSet: image, path, person, StudyInstanceUID, source_sha256,
        pixels_sha256, constant. Who shares a picture is counted over all of it, labelled or not.
    folds : Folds
        Persons are those of the folds' own table.

    Raises
    ------
    CohortError
        If the folds have images that the set has not.
    """
    known = images[list(_COLUMNS)].assign(shared=_is_shared(images))
    # What is held out is one more side that nobody may be on besides another.
    everybody = folds.everybody
    table = everybody.merge(known, on="image", validate="1:1")
    if len(table) < len(everybody):
        raise CohortError(
            f"{len(everybody) - len(table)} images of the folds {folds.key} are not in the set; "
            "these folds are of another set"
        )
    constant = table["constant"].astype(bool)
    shared = table["shared"] & ~constant
    pictures = table[~constant & ~shared]
    where = {
        "split_group": table,
        "StudyInstanceUID": table,
        "source_sha256": pictures,
        # Of equal sources it has been said above.
        "pixels_sha256": pictures[_differs(pictures, "pixels_sha256", "source_sha256")],
    }
    exact = [
        _describe(origin, _ORIGINS[origin], origin, rows[_differs(rows, origin, "fold")])
        for origin, rows in where.items()
    ]
    disputed = pictures[_differs(pictures, "pixels_sha256", "label")]
    listed = [
        _describe("constant", "images of one value", "pixels_sha256", table[constant]),
        _describe("shared-picture", "pictures of many persons", "pixels_sha256", table[shared]),
        _describe("disputed-label", "pictures under two labels", "pixels_sha256", disputed),
    ]
    return Leaks(
        folds.key,
        len(table),
        [finding for finding in exact if finding.count],
        [finding for finding in listed if finding.count],
    )


def check_leaks(leaks: Leaks, allow: bool = False) -> None:
    """Refuse folds with an exact leak.

    Raises
    ------
    CohortError
        If there is one and ``allow`` is false.
    """
    if leaks.ok or allow:
        return
    found = "; ".join(
        f"{finding.meaning}: {finding.count} ({finding.images} images), "
        f"such as {finding.examples[0]['paths'][0]}"
        for finding in leaks.exact
    )
    raise CohortError(
        f"the folds {leaks.key} leak, so a result on them would not hold for new persons. Found "
        f"on both sides: {found}. Give these images one person (a CSV with PatientID, or "
        "--person-regex) or remove copies"
    )


def _is_shared(images: pd.DataFrame) -> pd.Series[bool]:
    """Tell which images are pictures of many persons."""
    by_source, by_pixels = (
        images.groupby(origin)["person"].transform("nunique") > MOST_PERSONS
        for origin in ("source_sha256", "pixels_sha256")
    )
    return by_source | by_pixels


def _differs(table: pd.DataFrame, origin: str, column: str) -> pd.Series[bool]:
    """Tell which images have an origin in common with one that differs in a column."""
    return table.groupby(origin)[column].transform("nunique") > 1


def _describe(kind: str, meaning: str, origin: str, rows: pd.DataFrame) -> Finding:
    values = sorted(rows[origin].unique())
    examples = tuple(
        {
            "value": value,
            "images": len(found),
            "persons": sorted(found["split_group"].unique())[:_EXAMPLES],
            "folds": sorted(found["fold"].unique().tolist()),
            "labels": sorted(found["label"].unique())[:_EXAMPLES],
            "paths": sorted(found["path"])[:_EXAMPLES],
        }
        for value in values[:_EXAMPLES]
        for found in [rows[rows[origin] == value]]
    )
    return Finding(kind, meaning, len(values), len(rows), examples)
