"""From a set and a label in a workspace to its folds: made once, audited, then used."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from medkit.catalog.store import Catalog
from medkit.cohort.division import divide, list_given
from medkit.cohort.folds import Folds, hash_task
from medkit.cohort.joining import Cohort, join_labels
from medkit.cohort.leaks import Leaks, find_leaks
from medkit.cohort.questions import Question, read_answers
from medkit.cohort.shortcuts import audit_shortcuts, read_shortcuts
from medkit.cohort.split import Split, arrange
from medkit.cohort.traits import glance
from medkit.cohort.twins import describe_near, search_set
from medkit.engine import Progress, silent
from medkit.errors import ImageSetError, UsageError
from medkit.images.imageset import ImageSet
from medkit.images.soundness import check_set
from medkit.workspace import Workspace, write_json

MADE = Split()  # folds are made, and nothing is held out


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
            "held_out": self.folds.describe_held_out(),
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
    split: Split = MADE,
    progress: Progress = silent,
    separator: str | None = None,
) -> Prepared:
    """Make the folds of a set and look for leaks, or take the folds that were made before.

    Writes ``folds/KEY.parquet`` and ``audits/KEY.json``; the caller holds the workspace's lock,
    and decides what a leak means (`medkit.cohort.leaks.check_leaks`).

    Parameters
    ----------
    workspace : Workspace
        Holds the set and the catalog with the label.
    set_name, label : str
        Their names. Several labels, with commas between, are asked for together.
    k, seed : int
        As for `make_folds`.
    min_persons, classes
        As for `join_labels`; no classes means all.
    split : Split
        What is held out, what else is even, and folds that were given: these have a k of their
        own.
    progress : callable
        Is told of images, while pictures that are nearly the same are looked for: once a set.
    separator : str, optional
        Of a label whose values hold several names: see `medkit.cohort.questions.Question`.

    Raises
    ------
    UsageError
        If the seed is negative: NumPy takes none. Also as for `arrange`.
    ImageSetError, CatalogError
        If the set or the label is missing or damaged.
    CohortError
        If no such folds can be made.
    """
    if seed < 0:
        raise UsageError(f"a seed is 0 or more, such as 0, not {seed}")
    image_set = ImageSet.open(workspace.set(set_name))
    catalog = Catalog.open(workspace.catalog)
    question = Question(label, separator)
    cohort = join_labels(
        image_set.table,
        read_answers(catalog, question, classes or ()),
        min_persons=min_persons,
        classes=classes or None,
        several=question.several,
    )
    cohort = arrange(cohort, split, image_set.table, catalog, question.several)
    k = len(list_given(cohort.table)) or k
    about = (image_set.id, label, k, seed, split.hold_out, question.several)
    key = hash_task(cohort.table, *about)
    path = workspace.folds / f"{key}.parquet"
    if path.exists():
        folds = Folds.load(path)
    else:
        fold = divide(cohort.table, k, seed, split.hold_out, question.several)
        table = cohort.table.assign(fold=fold)
        folds = Folds.part(table, set_name, *about)
        folds.save(workspace.folds)
    twins = _search(image_set, workspace, progress)
    near = describe_near(twins, image_set.table, folds)
    audit = workspace.audits / f"{key}.json"
    leaks = replace(find_leaks(image_set.table, folds), near=near, shortcuts=read_shortcuts(audit))
    write_json(audit, leaks.to_json())
    return Prepared(image_set, folds, cohort, leaks)


def _search(image_set: ImageSet, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    try:
        return search_set(image_set, workspace.audits, progress)
    except ImageSetError:
        check_set(image_set, progress)  # which says what of the set is damaged
        raise


def find_shortcuts(
    workspace: Workspace, prepared: Prepared, progress: Progress = silent
) -> Prepared:
    """Return the same with what its label can be told by without looking; kept in its audit.

    Parameters
    ----------
    workspace : Workspace
        Locked by the caller.
    prepared : Prepared
        As of `prepare_folds`. The images in its folds are read once.
    progress : callable
        Is told of images.
    """
    # Images are counted from 0 in the order of the set.
    images = prepared.image_set.images().take(prepared.folds.table["image"].to_numpy())
    found = audit_shortcuts(prepared.folds, images.table, glance(images, progress))
    leaks = replace(prepared.leaks, shortcuts=found)
    write_json(workspace.audits / f"{prepared.folds.key}.json", leaks.to_json())
    return prepared._replace(leaks=leaks)
