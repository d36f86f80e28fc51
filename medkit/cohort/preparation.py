"""From a set and a label in a workspace to its folds: made once, audited, then used."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any, NamedTuple

from medkit.catalog.store import Catalog
from medkit.cohort.folds import Cohort, Folds, hash_task, join_labels, make_folds
from medkit.cohort.leaks import Leaks, find_leaks
from medkit.errors import UsageError
from medkit.images.imageset import ImageSet
from medkit.workspace import Workspace, write_json


class Prepared(NamedTuple):
    """What training and auditing start from."""

    image_set: ImageSet
    folds: Folds
    cohort: Cohort
    leaks: Leaks

    def describe(self) -> dict[str, Any]:
        """Return what was found, who is in which fold, and what was set aside, as JSON."""
        return {
            **self.leaks.to_json(),
            "folds": self.folds.describe(),
            "dropped": self.cohort.dropped,
            "small_classes": self.cohort.small_classes,
        }


def split_classes(text: str | None) -> list[str]:
    """Return names of classes from CSV, in which a name may hold a comma; none from None."""
    rows = csv.reader((text or "").splitlines(), skipinitialspace=True)
    return [name for row in rows for name in row]


def prepare_folds(
    workspace: Workspace,
    set_name: str,
    label: str,
    k: int,
    seed: int,
    min_persons: int | None = None,
    classes: Sequence[str] | None = None,
) -> Prepared:
    """Make the folds of a set and look for leaks, or take the folds that were made before.

    Writes ``folds/KEY.parquet`` and ``audits/KEY.json``; the caller holds the workspace's lock,
    and decides what a leak means (`medkit.cohort.leaks.check_leaks`).

    Parameters
    ----------
    workspace : Workspace
        Holds the set and the catalog with the label.
    set_name, label : str
        Their names.
    k, seed : int
        As for `make_folds`.
    min_persons, classes
        As for `join_labels`; no classes means all.

    Raises
    ------
    UsageError
        If the seed is negative: NumPy takes none.
    ImageSetError, CatalogError
        If the set or the label is missing or damaged.
    CohortError
        If no such folds can be made.
    """
    if seed < 0:
        raise UsageError(f"a seed is 0 or more, such as 0, not {seed}")
    image_set = ImageSet.open(workspace.set(set_name))
    labels = Catalog.open(workspace.catalog).labels(label)
    cohort = join_labels(image_set.table, labels, min_persons=min_persons, classes=classes or None)
    key = hash_task(cohort.table, image_set.id, label, k, seed)
    path = workspace.folds / f"{key}.parquet"
    if path.exists():
        folds = Folds.load(path)
    else:
        table = cohort.table.assign(fold=make_folds(cohort.table, k, seed))
        folds = Folds(table, set_name, image_set.id, label, k, seed)
        folds.save(workspace.folds)
    leaks = find_leaks(image_set.table, folds)
    write_json(workspace.audits / f"{key}.json", leaks.to_json())
    return Prepared(image_set, folds, cohort, leaks)
