"""Who is in which fold: by person, stratified by label, the same on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from medkit.cohort.assignment import assign_groups, find_missing
from medkit.errors import CohortError
from medkit.workspace import hash_json, write_beside

Ints = npt.NDArray[np.int64]

_FORMAT = 1
_METADATA = b"medkit.folds"
_SCHEMA = pa.schema(
    [
        ("image", pa.int64()),
        ("split_group", pa.string()),
        ("label", pa.string()),
        ("fold", pa.int64()),
    ]
)


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
    table = _drop(table, table["label"].isna(), "unlabelled", dropped)
    if table.empty:
        raise CohortError(
            f"none of the {len(images)} images has a label: {len(values)} files are labelled, "
            "none of them in this set; normalise the labelled files, or use another label"
        )
    if classes is not None:
        _check_wanted(classes, table)
        table = _drop(table, ~table["label"].isin(list(classes)), "class not chosen", dropped)
    _check_persons(table)
    persons = table.groupby("label")["split_group"].nunique()
    small = {str(name): int(count) for name, count in persons.items() if count < (min_persons or 0)}
    table = _drop(table, table["label"].isin(list(small)), "class with few persons", dropped)
    if small and len(persons) - len(small) < 2:
        largest = " and ".join(map(str, sorted(persons, reverse=True)[:2]))
        raise CohortError(
            f"of {len(persons)} classes {len(persons) - len(small)} have {min_persons} persons or "
            f"more, and a classifier needs two; the largest have {largest}"
        )
    return Cohort(table.reset_index(drop=True), dropped, small)


def make_folds(table: pd.DataFrame, k: int, seed: int) -> Ints:
    """Return the fold of each image, 0 to k - 1.

    No person is in two folds, and every class is in every fold, hence also in every training
    part. Shares of the classes are as even as a bounded search makes them. The result depends
    on split_group, label, k and seed alone: not on the order of the rows, nor the machine.

    Parameters
    ----------
    table : DataFrame
        Columns image, split_group, label. A person may have several labels.
    k : int
        Folds, 2 or more.
    seed : int
        Another seed, other folds.

    Raises
    ------
    CohortError
        If there are no such folds: the message names what is too few and what would work.
    """
    if table.empty or table["label"].isna().any():
        unlabelled = int(table["label"].isna().sum())
        raise CohortError(f"{unlabelled} of {len(table)} images have no label; folds need them all")
    _check_persons(table)
    names, groups, counts = _count(table["split_group"], table["label"])
    classes = np.unique(table["label"].astype(str))
    _check_counts(counts, classes, k)
    bins = assign_groups(counts, names, [1 / k] * k, [1] * k, seed)
    missing = find_missing(counts, bins, k)
    if missing.any():
        lacking = ", ".join(repr(str(name)) for name in classes[missing.any(axis=1)])
        raise CohortError(
            f"no {k} folds were found that all hold every class: persons with several labels tie "
            f"{lacking} to other classes; use fewer folds, or another seed"
        )
    return bins[groups]


def make_inner_folds(
    groups: npt.ArrayLike, labels: npt.ArrayLike, seed: int, *, most: int = 5
) -> Ints | None:
    """Return folds of a training part, as many as its rarest class allows, up to ``most``.

    Returns
    -------
    ndarray of int64, shape (n,), or None
        None where some class has a single person, or no two folds hold every class.
    """
    table = pd.DataFrame({"split_group": np.asarray(groups), "label": np.asarray(labels)})
    rarest = int(table.groupby("label")["split_group"].nunique().min())
    for k in range(min(most, rarest), 1, -1):
        try:
            return make_folds(table, k, seed)
        except CohortError:  # persons with several labels can need fewer folds still
            continue
    return None


def cut_validation(
    groups: npt.ArrayLike, labels: npt.ArrayLike, share: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Return which images of a training part to keep for validation.

    Whole persons are taken, about ``share`` of each class's images. The validation part is never
    empty, and as far as a search finds it holds every class of two persons or more. The last
    person of a class stays in training, unless every person is the last one of some class.

    Parameters
    ----------
    groups, labels : array_like, shape (n,)
        Person and label of each image; their order does not matter.
    share : float
        Between 0 and 1, exclusive.
    seed : int
        Another seed, another part.

    Raises
    ------
    CohortError
        If there are fewer than two persons, or the share is out of range.
    """
    names, rows, counts = _count(pd.Series(groups), pd.Series(labels))
    if not 0 < share < 1:
        raise CohortError(f"a validation share of {share} is not between 0 and 1; use 0.1 or so")
    if len(names) < 2:
        raise CohortError(
            f"the training part has {len(names)} person, and a validation part needs one of its "
            "own; add persons, or use fewer folds"
        )
    # A class lost from training is worse than all classes missing from validation.
    needs = [1, counts.shape[1] + 1]
    chosen = assign_groups(counts, names, [share, 1 - share], needs, seed) == 0
    if not chosen.any():
        chosen[counts.sum(axis=1).argmin()] = True
    taken: npt.NDArray[np.bool_] = chosen[rows]
    return taken


@dataclass(frozen=True, eq=False)
class Folds:
    """Who is in which fold, for one label of one set. Written once, never changed.

    Attributes
    ----------
    table : DataFrame
        Columns image, split_group, label, fold.
    set_name, set_id : str
        The ImageSet, by name and by content.
    label : str
        Name of the label.
    k, seed : int
        What the folds were made with.
    """

    table: pd.DataFrame
    set_name: str
    set_id: str
    label: str
    k: int
    seed: int

    @property
    def classes(self) -> tuple[str, ...]:
        """The values of the label, sorted."""
        return tuple(sorted(self.table["label"].unique()))

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that name these folds (`hash_task`)."""
        return hash_task(self.table, self.set_id, self.label, self.k, self.seed)

    def describe(self) -> list[dict[str, Any]]:
        """Return for each fold its number, persons, images, and images of each class."""
        parts = (self.table[self.table["fold"] == fold] for fold in range(self.k))
        return [
            {
                "fold": fold,
                "persons": int(rows["split_group"].nunique()),
                "images": len(rows),
                "classes": {name: int((rows["label"] == name).sum()) for name in self.classes},
            }
            for fold, rows in enumerate(parts)
        ]

    def save(self, folder: Path) -> Path:
        """Write ``KEY.parquet``; equal folds are equal bytes.

        Raises
        ------
        CohortError
            If the file exists and holds other folds.
        """
        path = folder / f"{self.key}.parquet"
        table = self._to_arrow()
        if path.exists():
            if not Folds.load(path)._to_arrow().equals(table):
                raise CohortError(
                    f"{path} holds other folds for the same images, labels and seed; folds are "
                    "never changed: use another seed, or another workspace"
                )
            return path
        with write_beside(path) as beside:
            pq.write_table(table, beside)
        return path

    @classmethod
    def load(cls, path: Path) -> Folds:
        """Read what `save` wrote.

        Raises
        ------
        CohortError
            If the file is missing, damaged, or not named by its content.
        """
        try:
            table = pq.read_table(path)
            about = json.loads((table.schema.metadata or {})[_METADATA])
            if about.pop("format") != _FORMAT:
                raise CohortError(f"{path} is of another version of medkit; make the folds again")
            folds = cls(table.select(_SCHEMA.names).cast(_SCHEMA).to_pandas(), **about)
        except FileNotFoundError:
            raise CohortError(f"{path} is missing; 'medkit audit leaks' makes folds") from None
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise CohortError(f"{path} is no file of folds: {error}") from None
        if folds.key != path.stem or not folds.table["fold"].between(0, folds.k - 1).all():
            raise CohortError(f"{path} was changed after it was written; make the folds again")
        return folds

    def _to_arrow(self) -> pa.Table:
        about = {
            "format": _FORMAT,
            "set_name": self.set_name,
            "set_id": self.set_id,
            "label": self.label,
            "k": self.k,
            "seed": self.seed,
        }
        table = pa.Table.from_pandas(
            self.table.sort_values("image"), schema=_SCHEMA, preserve_index=False
        )
        return table.replace_schema_metadata({_METADATA: json.dumps(about, sort_keys=True)})


def hash_task(table: pd.DataFrame, set_id: str, label: str, k: int, seed: int) -> str:
    """Return the key of the folds of a labelled table, before they are made.

    Parameters
    ----------
    table : DataFrame
        Columns image, split_group, label; the order of rows does not matter.
    """
    rows = table.sort_values("image")
    columns = [rows[name].tolist() for name in ("image", "split_group", "label")]
    content = hashlib.sha256(json.dumps(columns).encode()).hexdigest()
    return hash_json({"set": set_id, "label": label, "k": k, "seed": seed, "table": content})


def _count(groups: pd.Series[Any], labels: pd.Series[Any]) -> tuple[list[str], Ints, Ints]:
    """Return the names of the groups, the group of each image, and images by group and class."""
    names, rows = np.unique(groups.astype(str).to_numpy(), return_inverse=True)
    classes, columns = np.unique(labels.astype(str).to_numpy(), return_inverse=True)
    cells = np.bincount(rows * len(classes) + columns, minlength=len(names) * len(classes))
    return names.tolist(), rows, cells.reshape(len(names), len(classes))


def _drop(
    table: pd.DataFrame, rows: pd.Series[bool], reason: str, dropped: dict[str, int]
) -> pd.DataFrame:
    """Return the other rows, and count these under the reason."""
    if rows.any():
        dropped[reason] = int(rows.sum())
    return table[~rows]


def _check_labels(labels: pd.DataFrame) -> None:
    twice = labels["file"][labels["file"].duplicated()].unique()
    if len(twice):
        raise CohortError(f"{len(twice)} files have two labels, such as {twice[0]}; keep one each")


def _check_wanted(classes: Sequence[str], table: pd.DataFrame) -> None:
    present = sorted(table["label"].unique())
    unknown = sorted(set(classes) - set(present))
    if unknown:
        raise CohortError(
            f"no image is labelled {_list(unknown)}; the classes are {_list(present)}"
        )


def _check_persons(table: pd.DataFrame) -> None:
    unknown = int((table["split_group"].isna() | (table["split_group"] == "")).sum())
    if unknown:
        raise CohortError(
            f"{unknown} of {len(table)} labelled images have no person, so nothing keeps a person "
            "on one side of a split; catalog again with --person-regex, or give a CSV with a "
            "PatientID column"
        )


def _check_counts(counts: Ints, classes: npt.NDArray[Any], k: int) -> None:
    """Refuse a cohort of which no k folds can hold every class."""
    persons, images = len(counts), int(counts.sum())
    holders = (counts > 0).sum(axis=0)
    if k < 2:
        raise CohortError(f"{k} folds cannot be tested on one another; use 2 or more, such as 5")
    if persons == 1:
        raise CohortError(f"all {images} images are of one person; folds need a person each")
    if len(classes) < 2:
        raise CohortError(
            f"every one of the {images} images has the same label ({_list(classes)}); "
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


def _list(names: Sequence[str] | npt.NDArray[Any]) -> str:
    return ", ".join(repr(str(name)) for name in names)
