"""Which images of a set are studied: those with a label, a person, and a class that is wanted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import pandas as pd

from medkit.cohort.questions import choose_findings
from medkit.errors import CohortError
from medkit.statistics.truth import list_classes, split_findings


@dataclass(frozen=True)
class Cohort:
    """The labelled images of a set, and what was set aside.

    Attributes
    ----------
    table : DataFrame
        Columns image, split_group, label; in the order of the set.
    dropped : dict of str to int
        Images that were set aside, by reason. With the rows of ``table`` they add up to the
        images of the set.
    small_classes : dict of str to int
        Persons of each class that was set aside for having too few.
    """

    table: pd.DataFrame
    dropped: dict[str, int]
    small_classes: dict[str, int]


def join_labels(
    images: pd.DataFrame,
    labels: pd.DataFrame,
    *,
    min_persons: int | None = None,
    classes: Sequence[str] | None = None,
    several: bool = False,
) -> Cohort:
    """Give each image the label of its file, and set aside what cannot be used.

    Parameters
    ----------
    images : DataFrame
        Columns image, file, split_group.
    labels : DataFrame
        Columns file, value; a file at most once.
    min_persons : int, optional
        Set aside classes with fewer persons.
    classes : sequence of str, optional
        Set aside all other classes.
    several : bool
        Whether an image has several labels (`medkit.statistics.truth`). A class is then a label:
        where it is set aside, its images stay, as they tell of the others.

    Raises
    ------
    CohortError
        If a file has two labels, no image has a label, a labelled image has no person, or a
        class that was asked for does not occur.
    """
    _check_labels(labels)
    values = labels.dropna(subset=["value"]).set_index("file")["value"].astype(str)
    table = images[["image", "split_group"]].assign(label=images["file"].map(values))
    dropped: dict[str, int] = {}
    table = set_aside(table, table["label"].isna(), "unlabelled", dropped)
    if table.empty:
        raise CohortError(
            f"none of the {len(images)} images has a label: {len(values)} files are labelled, "
            "none of them in this set; normalise the labelled files, or use another label"
        )
    if several:
        return _choose_labels(table, dropped, min_persons or 0, classes)
    if classes is not None:
        _check_wanted(classes, table["label"].unique())
        table = set_aside(table, ~table["label"].isin(list(classes)), "class not chosen", dropped)
    check_persons(table)
    persons = table.groupby("label")["split_group"].nunique()
    small = {str(name): int(count) for name, count in persons.items() if count < (min_persons or 0)}
    table = set_aside(table, table["label"].isin(list(small)), "class with few persons", dropped)
    if small and len(persons) - len(small) < 2:
        largest = " and ".join(map(str, sorted(persons, reverse=True)[:2]))
        raise CohortError(
            f"of {len(persons)} classes {len(persons) - len(small)} have {min_persons} persons or "
            f"more, and a classifier needs two; the largest have {largest}"
        )
    return Cohort(table.reset_index(drop=True), dropped, small)


def _choose_labels(
    table: pd.DataFrame, dropped: dict[str, int], least: int, classes: Sequence[str] | None
) -> Cohort:
    """Keep of several labels an image those that are wanted, and that persons enough have."""
    present = list_classes(table["label"].unique(), several=True)
    if classes is not None:
        _check_wanted(classes, present)
    check_persons(table)
    wanted = present if classes is None else sorted({*classes})
    holders = _count_holders(table)
    small = {name: holders[name] for name in wanted if holders[name] < least}
    kept = [name for name in wanted if name not in small]
    if len(kept) < 2:
        raise CohortError(
            f"of several labels two or more are asked for, and there are {len(kept)}: "
            f"{enumerate_names(kept)}; for one label leave --separator out, or use fewer "
            "--min-persons"
        )
    table = table.assign(label=choose_findings(table["label"], kept))
    table = set_aside(table, table["label"].isna(), "no label is known", dropped)
    everywhere = set.intersection(*({*split_findings(one)[0]} for one in table["label"].unique()))
    if everywhere:
        raise CohortError(
            f"every image has {enumerate_names(sorted(everywhere))}, so there is nothing to tell "
            "it from; leave it out with --classes"
        )
    return Cohort(table.reset_index(drop=True), dropped, small)


def _count_holders(table: pd.DataFrame) -> dict[str, int]:
    """Return how many persons have each of several labels."""
    kinds = table.groupby("label")["split_group"].unique()
    return {
        name: len(
            {one for text in kinds.index if name in split_findings(text)[0] for one in kinds[text]}
        )
        for name in list_classes(kinds.index, several=True)
    }


def set_aside(
    table: pd.DataFrame, rows: pd.Series[bool], reason: str, dropped: dict[str, int]
) -> pd.DataFrame:
    """Return the other rows, and count these under the reason."""
    if rows.any():
        dropped[reason] = int(rows.sum())
    return table[~rows]


def check_persons(table: pd.DataFrame) -> None:
    """Refuse labelled images of nobody.

    Raises
    ------
    CohortError
        If ``split_group`` of one is empty.
    """
    unknown = int((table["split_group"].isna() | (table["split_group"] == "")).sum())
    if unknown:
        raise CohortError(
            f"{unknown} of {len(table)} labelled images have no person, so nothing keeps a person "
            "on one side of a split; catalog again with --person-regex, or give a CSV with a "
            "PatientID column"
        )


def _check_labels(labels: pd.DataFrame) -> None:
    twice = labels["file"][labels["file"].duplicated()].unique()
    if len(twice):
        raise CohortError(f"{len(twice)} files have two labels, such as {twice[0]}; keep one each")


def _check_wanted(classes: Sequence[str], occurring: Iterable[str]) -> None:
    present = sorted(occurring)
    unknown = sorted(set(classes) - set(present))
    if unknown:
        raise CohortError(
            f"no image is labelled {enumerate_names(unknown)}; the classes are "
            f"{enumerate_names(present)}"
        )


def enumerate_names(names: Sequence[str] | npt.NDArray[Any]) -> str:
    """Return names as a sentence has them."""
    return ", ".join(repr(str(name)) for name in names)
