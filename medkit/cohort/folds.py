"""Who is in which fold: by person, stratified by label, the same on every machine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from medkit.cohort.assignment import find_missing
from medkit.cohort.joining import check_persons, enumerate_names
from medkit.cohort.tally import STRATUM, Tally, check_counts, tally_groups
from medkit.errors import CohortError
from medkit.workspace import hash_json, write_beside

Ints = npt.NDArray[np.int64]

# The fold of images that no run is trained on, and what a table of given folds calls it.
HELD_OUT, HELD_OUT_NAME = -1, "held-out"
# A column that a table may have besides: the fold that somebody gave each image.
GIVEN = "given"

# Of the held-out part: no seed that folds can have, so that it is dealt unlike any of them.
_HELD_OUT_SEED = -1
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


def make_folds(table: pd.DataFrame, k: int, seed: int) -> Ints:
    """Return the fold of each image, 0 to k - 1.

    No person is in two folds, and every class is in every fold, hence also in every training
    part. Shares of the classes, then of strata, are as even as a bounded search makes them. The
    result depends on split_group, label, strata, k and seed alone: not on the order of the rows,
    nor the machine.

    Parameters
    ----------
    table : DataFrame
        Columns image, split_group, label, and ``stratum:NAME`` for whatever else is to be even,
        such as the site. A person may have several labels, and so may an image: a label is then
        a collection of names, which may be empty.
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
    check_persons(table)
    tally = tally_groups(table)
    check_counts(tally, k)
    bins = tally.assign([1 / k] * k, [1] * k, seed)
    missing = find_missing(tally.counts, bins, k)
    if missing.any():
        lacking = enumerate_names(tally.classes[missing.any(axis=1)])
        raise CohortError(
            f"no {k} folds were found that all hold every class: persons with several labels tie "
            f"{lacking} to other classes; use fewer folds, or another seed"
        )
    return bins[tally.rows]


def divide(table: pd.DataFrame, k: int, seed: int, hold_out: float = 0.0) -> Ints:
    """Return the fold of each image, `HELD_OUT` for those that are held out.

    Parameters
    ----------
    table : DataFrame
        As of `make_folds`. In a column ``given``, a name is the fold that somebody gave the
        image (`list_given`), ``"held-out"`` holds it out, and nothing leaves it to `make_folds`.
    k, seed : int
        As of `make_folds`.
    hold_out : float
        Share of each class to hold out, where nothing is given as held out.

    Raises
    ------
    CohortError
        As of `make_folds`, or if there are too few persons to hold some out.
    """
    fold = np.full(len(table), HELD_OUT, dtype=np.int64)
    held = _find_held_out(table, k, hold_out)
    rest = table[~held]
    try:
        given = list_given(rest)
        numbers = {name: number for number, name in enumerate(given)}
        fold[~held] = rest[GIVEN].map(numbers) if given else make_folds(rest, k, seed)
    except CohortError as error:
        if held.any():
            raise CohortError(f"of the persons who are not held out: {error}") from None
        raise
    return fold


def list_given(table: pd.DataFrame) -> list[str]:
    """Return the names of the folds that somebody gave, in their order: 2 comes before 10."""
    names = set(table[GIVEN]) - {"", HELD_OUT_NAME} if GIVEN in table else set()
    return sorted(names, key=lambda name: (_spell_in_order(name), name))


def _spell_in_order(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name, flags=re.ASCII)
    return [(int(part), "") if number % 2 else (0, part) for number, part in enumerate(parts)]


def _find_held_out(table: pd.DataFrame, k: int, share: float) -> npt.NDArray[np.bool_]:
    """Return which images to hold out: whole persons, of every class.

    Neither k nor a seed has a say in it, so that all runs of a cohort hold out the same.
    """
    if GIVEN in table and (given := (table[GIVEN] == HELD_OUT_NAME).to_numpy(bool)).any():
        return given
    if not share:
        return np.zeros(len(table), dtype=bool)
    tally = tally_groups(table)
    holders = (tally.counts > 0).sum(axis=0)
    if holders.min() <= k:
        raise CohortError(
            f"{k} folds and a held-out part need {k + 1} persons of every class, but "
            f"{str(tally.classes[holders.argmin()])!r} has {holders.min()}; use fewer --folds, or "
            f"--min-persons {k + 1} to set such classes aside"
        )
    chosen = _take_share(tally, share, _HELD_OUT_SEED)
    if find_missing(tally.counts, chosen.astype(np.int64), 2).any():
        raise CohortError(
            f"no held-out part of {share:.0%} was found that has every class and leaves every "
            "class: persons with several labels tie them; use a larger --hold-out"
        )
    return chosen[tally.rows]


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
    tally = tally_groups(
        pd.DataFrame({"split_group": np.asarray(groups), "label": np.asarray(labels)})
    )
    if not 0 < share < 1:
        raise CohortError(f"a validation share of {share} is not between 0 and 1; use 0.1 or so")
    if len(tally.names) < 2:
        raise CohortError(
            f"the training part has {len(tally.names)} person, and a validation part needs one of "
            "its own; add persons, or use fewer folds"
        )
    chosen = _take_share(tally, share, seed)
    if not chosen.any():
        chosen[tally.sizes.argmin()] = True
    return chosen[tally.rows]


def _take_share(tally: Tally, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return which groups make up a share of every class."""
    # A class lost from the rest is worse than all classes missing from the share.
    needs = [1, len(tally.classes) + 1]
    taken: npt.NDArray[np.bool_] = tally.assign([share, 1 - share], needs, seed) == 0
    return taken


@dataclass(frozen=True, eq=False)
class Folds:
    """Who is in which fold, for one label of one set. Written once, never changed.

    Attributes
    ----------
    table : DataFrame
        Columns image, split_group, label, fold, and those of `divide` that there were: what can
        be trained on. Nothing of what is held out is in it.
    set_name, set_id : str
        The ImageSet, by name and by content.
    label : str
        Name of the label.
    k, seed : int
        What the folds were made with.
    hold_out : float
        The share that was to be held out.
    held_out : DataFrame
        What is held out: as ``table``, the fold is `HELD_OUT`.
    """

    table: pd.DataFrame
    set_name: str
    set_id: str
    label: str
    k: int
    seed: int
    hold_out: float = 0.0
    held_out: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=_SCHEMA.names))

    @classmethod
    def part(
        cls,
        table: pd.DataFrame,
        set_name: str,
        set_id: str,
        label: str,
        k: int,
        seed: int,
        hold_out: float = 0.0,
    ) -> Folds:
        """Return folds from a table of everybody, held out or not."""
        held = table["fold"] == HELD_OUT
        kept, aside = (table[rows].reset_index(drop=True) for rows in (~held, held))
        return cls(kept, set_name, set_id, label, k, seed, hold_out, aside)

    @property
    def everybody(self) -> pd.DataFrame:
        """What can be trained on, and behind it what is held out."""
        if self.held_out.empty:
            return self.table
        return pd.concat([self.table, self.held_out], ignore_index=True)

    @property
    def names(self) -> list[str]:
        """Of the folds: those that somebody gave them, or their numbers."""
        return list_given(self.table) or [str(fold) for fold in range(self.k)]

    @property
    def classes(self) -> tuple[str, ...]:
        """The values of the label, sorted."""
        return tuple(sorted(self.table["label"].unique()))

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that name these folds (`hash_task`)."""
        about = (self.set_id, self.label, self.k, self.seed, self.hold_out)
        return hash_task(self.everybody, *about)

    @cached_property
    def held_out_id(self) -> str:
        """16 hexadecimal digits that name what is held out; equal ones for other k and seeds."""
        rows = self.held_out.sort_values("image")
        content = [rows[name].tolist() for name in ("image", "split_group", "label")]
        return hash_json({"set": self.set_id, "label": self.label, "held out": content})

    def nest(self, fold: int, seed: int, *, most: int = 5) -> Ints | None:
        """Return inner folds of the training part of a fold, by person (`make_inner_folds`).

        Returns
        -------
        ndarray of int64, shape (n,), or None
            Of each row of ``table``; -1 for those that the fold tests.
        """
        rest = (self.table["fold"] != fold).to_numpy()
        part = self.table[rest]
        found = make_inner_folds(part["split_group"], part["label"], seed, most=most)
        if found is None:
            return None
        inner = np.full(len(rest), -1, dtype=np.int64)
        inner[rest] = found
        return inner

    def describe(self) -> list[dict[str, Any]]:
        """Return for each fold its number, name, persons, images, and images of each class."""
        parts = (self.table[self.table["fold"] == fold] for fold in range(self.k))
        return [
            {"fold": fold, "name": name, **self._describe(rows)}
            for fold, (name, rows) in enumerate(zip(self.names, parts, strict=True))
        ]

    def describe_held_out(self) -> dict[str, Any] | None:
        """Return the name of what is held out, and its counts as of `describe`; None of nothing."""
        if self.held_out.empty:
            return None
        return {"id": self.held_out_id, "share": self.hold_out, **self._describe(self.held_out)}

    def _describe(self, rows: pd.DataFrame) -> dict[str, Any]:
        return {
            "persons": int(rows["split_group"].nunique()),
            "images": len(rows),
            "classes": {name: int((rows["label"] == name).sum()) for name in self.classes},
        }

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
            schema = _extend_schema(table.schema.names)
            folds = cls.part(table.select(schema.names).cast(schema).to_pandas(), **about)
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
            **({"hold_out": self.hold_out} if self.hold_out else {}),
        }
        rows = self.everybody.sort_values("image")
        schema = _extend_schema(rows.columns)
        table = pa.Table.from_pandas(rows, schema=schema, preserve_index=False)
        return table.replace_schema_metadata({_METADATA: json.dumps(about, sort_keys=True)})


def hash_task(
    table: pd.DataFrame, set_id: str, label: str, k: int, seed: int, hold_out: float = 0.0
) -> str:
    """Return the key of the folds of a labelled table, before they are made.

    Parameters
    ----------
    table : DataFrame
        As of `divide`; the order of rows does not matter.
    """
    rows = table.sort_values("image")
    more = _list_more(table.columns)
    columns = [rows[name].tolist() for name in ("image", "split_group", "label", *more)]
    content = hashlib.sha256(json.dumps(columns).encode()).hexdigest()
    task = {"set": set_id, "label": label, "k": k, "seed": seed, "table": content}
    # What is not asked for is left out, so that keys are those of earlier versions.
    asked = {"columns": more, "hold_out": hold_out}
    return hash_json({**task, **{name: value for name, value in asked.items() if value}})


def _list_more(columns: Collection[str]) -> list[str]:
    """Return the columns that say more of how folds are to be made."""
    return sorted(name for name in columns if name == GIVEN or name.startswith(STRATUM))


def _extend_schema(columns: Collection[str]) -> pa.Schema:
    return pa.schema([*_SCHEMA, *(pa.field(name, pa.string()) for name in _list_more(columns))])
