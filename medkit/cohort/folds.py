"""Who is in which fold: by person, stratified by label, the same on every machine."""

from __future__ import annotations

import hashlib
import json
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

from medkit.cohort.division import GIVEN, HELD_OUT, list_given, make_inner_folds
from medkit.cohort.tally import STRATUM
from medkit.errors import CohortError
from medkit.statistics.truth import find_class, list_classes, read_truth
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
    several : bool
        Whether an image has several labels; ``label`` is then a text of them
        (`medkit.statistics.truth`).
    """

    table: pd.DataFrame
    set_name: str
    set_id: str
    label: str
    k: int
    seed: int
    hold_out: float = 0.0
    held_out: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=_SCHEMA.names))
    several: bool = False

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
        several: bool = False,
    ) -> Folds:
        """Return folds from a table of everybody, held out or not.

        Parameters
        ----------
        table : DataFrame
            As the attribute, and beside it the held-out persons, whose fold is -1.
        set_name, set_id, label, k, seed, hold_out, several
            As the attributes.
        """
        held = table["fold"] == HELD_OUT
        kept, aside = (table[rows].reset_index(drop=True) for rows in (~held, held))
        return cls(kept, set_name, set_id, label, k, seed, hold_out, aside, several)

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
        """The values of the label, or the several labels, sorted."""
        return list_classes(self.table["label"].unique(), self.several)

    @property
    def truth(self) -> Ints:
        """The labels of ``table`` as arrays (`medkit.statistics.truth.read_truth`)."""
        return read_truth(self.table["label"], self.classes, self.several)

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that name these folds (`hash_task`)."""
        about = (self.set_id, self.label, self.k, self.seed, self.hold_out, self.several)
        return hash_task(self.everybody, *about)

    @cached_property
    def held_out_id(self) -> str:
        """16 hexadecimal digits that name what is held out; equal ones for other k and seeds."""
        rows = self.held_out.sort_values("image")
        content = [rows[name].tolist() for name in ("image", "split_group", "label")]
        return hash_json({"set": self.set_id, "label": self.label, "held out": content})

    def nest(self, fold: int, seed: int, *, most: int = 5) -> Ints | None:
        """Return inner folds of the training part of a fold, by person (`make_inner_folds`).

        Parameters
        ----------
        fold : int
            The one that is tested, and is no part of them.
        seed : int
            Inner folds follow from it and from the persons alone.
        most : int
            So many inner folds, or fewer where a class has not as many persons.

        Returns
        -------
        ndarray of int64, shape (n,), or None
            Of each row of ``table``; -1 for those that the fold tests.
        """
        rest = (self.table["fold"] != fold).to_numpy()
        groups = self.table["split_group"][rest]
        found = make_inner_folds(groups, self.truth[rest], seed, most=most)
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
            "classes": {
                name: int(find_class(rows["label"], name, self.several).sum())
                for name in self.classes
            },
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
            **({"several": True} if self.several else {}),
        }
        rows = self.everybody.sort_values("image")
        schema = _extend_schema(rows.columns)
        table = pa.Table.from_pandas(rows, schema=schema, preserve_index=False)
        return table.replace_schema_metadata({_METADATA: json.dumps(about, sort_keys=True)})


def hash_task(
    table: pd.DataFrame,
    set_id: str,
    label: str,
    k: int,
    seed: int,
    hold_out: float = 0.0,
    several: bool = False,
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
    asked = {"columns": more, "hold_out": hold_out, "several": several}
    return hash_json({**task, **{name: value for name, value in asked.items() if value}})


def _list_more(columns: Collection[str]) -> list[str]:
    """Return the columns that say more of how folds are to be made."""
    return sorted(name for name in columns if name == GIVEN or name.startswith(STRATUM))


def _extend_schema(columns: Collection[str]) -> pa.Schema:
    return pa.schema([*_SCHEMA, *(pa.field(name, pa.string()) for name in _list_more(columns))])
