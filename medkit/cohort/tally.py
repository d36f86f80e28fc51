"""What there is to deal out: groups of images, and how many of each class they hold."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.cohort.assignment import assign_groups
from medkit.cohort.joining import enumerate_names
from medkit.errors import CohortError

Ints = npt.NDArray[np.int64]

# How columns are called that say what else is to be even between folds.
STRATUM = "stratum:"


class Tally(NamedTuple):
    """What there is to deal out.

    Attributes
    ----------
    names : list of str
        Of the groups, who are never separated.
    rows : ndarray of int, shape (images,)
        The group of each image.
    classes : ndarray of str
    counts, strata : ndarray of int, shape (groups, classes) and (groups, strata)
        Images that a group holds.
    sizes : ndarray of int, shape (groups,)
        All of its images.
    """

    names: list[str]
    rows: Ints
    classes: npt.NDArray[Any]
    counts: Ints
    strata: Ints
    sizes: Ints

    def assign(self, shares: list[float], needs: list[int], seed: int) -> Ints:
        """Return the bin of each group (`assign_groups`)."""
        return assign_groups(self.counts, self.names, shares, needs, seed, self.strata, self.sizes)


def tally_groups(table: pd.DataFrame) -> Tally:
    """Count the images of each group.

    Parameters
    ----------
    table : DataFrame
        Columns split_group, label, and ``stratum:NAME``. A label is a name, or a collection of
        names, which may be empty; images without one are a stratum, too.
    """
    names, rows = np.unique(table["split_group"].astype(str).to_numpy(), return_inverse=True)
    groups = len(names)
    images, labels = _spread_labels(table["label"])
    classes, counts = _count(rows[images], labels, groups)
    strata = [
        _count(rows, table[name], groups)[1] for name in map(str, table) if name.startswith(STRATUM)
    ]
    bare = np.setdiff1d(np.arange(len(table)), images)
    if len(bare):
        strata.append(np.bincount(rows[bare], minlength=groups)[:, None])
    none = np.empty((groups, 0), dtype=np.int64)
    sizes = np.bincount(rows, minlength=groups)
    return Tally(names.tolist(), rows, classes, counts, np.hstack([none, *strata]), sizes)


def _spread_labels(labels: pd.Series[Any]) -> tuple[Ints, pd.Series[Any]]:
    """Return positions of images and a label of each, as often as an image has labels."""
    kinds = (list, tuple, set, frozenset)
    if labels.dtype != object or not any(isinstance(label, kinds) for label in labels):
        return np.arange(len(labels)), labels
    own = [sorted({*label}) if isinstance(label, kinds) else [label] for label in labels]
    images = np.repeat(np.arange(len(labels)), [len(each) for each in own])
    return images, pd.Series([name for each in own for name in each], dtype=object)


def _count(rows: Ints, values: pd.Series[Any], groups: int) -> tuple[npt.NDArray[Any], Ints]:
    """Return the values there are, sorted, and images by group and value."""
    levels, columns = np.unique(values.astype(str).to_numpy(), return_inverse=True)
    cells = np.bincount(rows * len(levels) + columns, minlength=groups * len(levels))
    return levels, cells.reshape(groups, len(levels))


def check_counts(tally: Tally, k: int) -> None:
    """Refuse a cohort of which no k folds can hold every class.

    Raises
    ------
    CohortError
        The message says what is too few, and what would work.
    """
    persons, images, classes = len(tally.names), int(tally.sizes.sum()), tally.classes
    holders = (tally.counts > 0).sum(axis=0)
    if k < 2:
        raise CohortError(f"{k} folds cannot be tested on one another; use 2 or more, such as 5")
    if persons == 1:
        raise CohortError(f"all {images} images are of one person; folds need a person each")
    if len(classes) < 2:
        raise CohortError(
            f"every one of the {images} images has the same label ({enumerate_names(classes)}); "
            "a classifier needs two classes or more"
        )
    if persons < k:
        most = max(2, holders.min())
        raise CohortError(f"{k} folds are more than the {persons} persons; use {most} or fewer")
    small = holders < k
    if small.any():
        found = ", ".join(
            f"{str(name)!r} has {count}"
            for name, count in zip(classes[small], holders[small], strict=True)
        )
        fewer = f"--folds {holders.min()}, or " if holders.min() > 1 else ""
        raise CohortError(
            f"each of the {k} folds needs a person of every class, but {found}; use {fewer}"
            f"--min-persons {k} to set such classes aside"
        )
