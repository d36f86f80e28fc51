"""How persons are to be split: what is held out, what else is even, and folds that were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medkit.catalog.labels import TableRule, match_table
from medkit.catalog.schema import HEADER
from medkit.catalog.store import Catalog
from medkit.cohort.division import GIVEN, HELD_OUT_NAME, list_given
from medkit.cohort.joining import Cohort, enumerate_names, set_aside
from medkit.cohort.tally import STRATUM
from medkit.errors import CohortError, UsageError
from medkit.statistics.truth import find_class, list_classes

# With more values, a column is no stratum: it would be even nowhere.
_MOST_LEVELS = 50
_SHOWN = 3
# Columns that a table of given folds may have, and names that say more than which fold it is.
_COLUMNS = ("fold", "split")
_TESTED = {"test", "testing", "held-out", "held_out", "heldout", "holdout", "hold-out"}
_TRAINED = {"train", "training", "val", "valid", "validation", "dev", "development"}


@dataclass(frozen=True)
class Split:
    """How persons are split, besides the number of folds and the seed.

    A column is one of the set's table, or else a label of the catalog, or else one of its
    ``instances``.

    Attributes
    ----------
    hold_out : float
        Share of the persons to hold out, 0 to 0.5.
    stratify : tuple of str
        Columns that are even between folds, as far as classes leave room.
    by : str or None
        A column of which every value is a fold: leave one site out.
    given : str or None
        A column, or a CSV or Parquet file with a column ``fold`` or ``split``, that tells the
        fold of each image. What it calls ``test`` or ``held-out`` is held out; where it knows
        only ``train`` and ``validation`` besides, folds are made of these.

    Raises
    ------
    UsageError
        If they contradict one another, or a share is none.
    """

    hold_out: float = 0.0
    stratify: tuple[str, ...] = ()
    by: str | None = None
    given: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stratify", tuple(self.stratify))  # JSON has it as a list
        if not 0 <= self.hold_out <= 0.5:
            raise UsageError(f"a share to hold out is 0 to 0.5, such as 0.2, not {self.hold_out}")
        if self.by is not None and self.given is not None:
            raise UsageError("--folds-by makes folds and --folds-from takes them; give one of both")
        if self.by is not None and self.stratify:
            raise UsageError(
                f"each fold is a value of {self.by!r}, so nothing is left to --stratify"
            )

    def describe(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**asdict(self), "stratify": list(self.stratify)}


def arrange(
    cohort: Cohort,
    split: Split,
    images: pd.DataFrame,
    catalog: Catalog,
    several: bool = False,
) -> Cohort:
    """Add to a cohort the columns that say how it is to be divided (`folds.divide`).

    Parameters
    ----------
    cohort : Cohort
        Images that have no value of the column that folds are given by are set aside.
    split : Split
    images : DataFrame
        The table of the set.
    catalog : Catalog
        That the set was made from.
    several : bool
        Whether an image has several labels.

    Raises
    ------
    UsageError
        If there is no such column or table, or its values make no folds.
    CohortError
        If persons are in several of the given folds, or a class is in one of them alone.
    """
    own = cohort.table[["image"]].merge(images, on="image", validate="1:1")
    table = cohort.table
    for name in split.stratify:
        table = table.assign(**{STRATUM + name: _read_stratum(name, own, catalog)})
    origin = split.by or split.given
    if origin is None:
        return Cohort(table, cohort.dropped, cohort.small_classes)
    if split.by is not None:
        values = read_column(origin, own, catalog)
    else:
        values = _name_parts(_read_given(origin, own, catalog), split.hold_out)
    dropped = dict(cohort.dropped)
    table = table.assign(**{GIVEN: values, "path": own["path"]})
    table = set_aside(table, table[GIVEN].isna(), f"no value of {Path(origin).name}", dropped)
    _check_given(table, origin, several)
    return Cohort(table.drop(columns="path").reset_index(drop=True), dropped, cohort.small_classes)


def read_column(name: str, images: pd.DataFrame, catalog: Catalog) -> pd.Series[Any]:
    """Return the value of a column for each image, as text; None where there is none.

    Parameters
    ----------
    name : str
        Of a column of the set, else of a label of the catalog, else of its ``instances``.
    images : DataFrame
        Rows of the table of a set.
    catalog : Catalog

    Raises
    ------
    UsageError
        If there is no such column.
    """
    if name in images.columns:
        values = images[name]
    elif name in catalog.label_names():
        values = images["file"].map(catalog.labels(name).set_index("file")["value"])
    elif name in HEADER.names:
        told = catalog.query(f'SELECT file, "{name}" AS value FROM instances')
        values = images["file"].map(told.set_index("file")["value"])
    else:
        labels = enumerate_names(catalog.label_names()) or "none"
        raise UsageError(
            f"there is no column {name!r}: it can be one of the set ({', '.join(images.columns)}), "
            f"a label of the catalog ({labels}), or a tag that the catalog keeps; 'medkit label "
            f"{name} --csv FILE' adds what is not in the images"
        )
    text = values.astype(object).where(values.notna(), None)
    return text.map(lambda value: str(value).strip() or None, na_action="ignore")


def _read_stratum(name: str, images: pd.DataFrame, catalog: Catalog) -> pd.Series[Any]:
    values = read_column(name, images, catalog).fillna("").astype(object)
    if values.nunique() > _MOST_LEVELS:
        raise UsageError(
            f"{name!r} has {values.nunique()} values, and at most {_MOST_LEVELS} can be even "
            "between folds; label ranges of it with 'medkit label', and stratify by these"
        )
    return values


def _read_given(origin: str, images: pd.DataFrame, catalog: Catalog) -> pd.Series[Any]:
    path = Path(origin)
    if not path.is_file() and path.suffix.lower() not in (".csv", ".tsv", ".parquet"):
        return read_column(origin, images, catalog)
    rules = [TableRule(path, column) for column in _COLUMNS]
    told = match_table(catalog.folder, rules)
    return images["file"].map(told.set_index("file")["value"])


def _name_parts(values: pd.Series[Any], hold_out: float) -> pd.Series[Any]:
    """Return given folds with one name for what is held out, and none for what is to be divided.

    Raises
    ------
    UsageError
        If some are told to train and others to be a fold, or two things are to be held out.
    """
    small = values.str.lower()
    tested, trained = small.isin(_TESTED), small.isin(_TRAINED)
    folds = values[values.notna() & ~tested & ~trained]
    if trained.any() and len(folds):
        raise UsageError(
            f"the given folds are called {enumerate_names(sorted(values[trained].unique()))} and "
            f"{enumerate_names(list_given(folds.to_frame(GIVEN))[:_SHOWN])}: what is trained on "
            "is either divided into folds, or has a fold each"
        )
    if tested.any() and hold_out:
        raise UsageError("the given folds say what is held out; leave --hold-out away")
    return values.mask(tested, HELD_OUT_NAME).mask(trained, "")


def _check_given(table: pd.DataFrame, origin: str, several: bool) -> None:
    """Refuse folds that part a person, and those that no model could be tested on."""
    if table.empty:
        raise UsageError(f"no labelled image has a value of {origin!r}, so it gives no folds")
    parts = table.groupby("split_group")[GIVEN].transform("nunique")
    straddling = table[parts > 1]
    if persons := straddling["split_group"].nunique():
        raise CohortError(
            f"{persons} person{' is' if persons == 1 else 's are'} in several folds of {origin!r} "
            f"({len(straddling)} images), and whoever is trained on cannot be tested on: "
            f"{_show_straddling(straddling)}; give each person one fold"
        )
    names = list_given(table)
    if not names and not (table[GIVEN] == "").any():
        raise UsageError(f"{origin!r} holds every image out, and leaves none to train on")
    if len(names) == 1:
        raise UsageError(
            f"every image has the same value of {origin!r}, {names[0]!r}; folds need two"
        )
    if names:
        _check_classes(table[table[GIVEN] != HELD_OUT_NAME], origin, several)


def _show_straddling(table: pd.DataFrame) -> str:
    """Return a file of each part of one person, as an example."""
    person = table[table["split_group"] == table["split_group"].min()]
    firsts = person.sort_values("path").drop_duplicates(GIVEN)[[GIVEN, "path"]].head(_SHOWN)
    return " and ".join(
        f"{path} in {name or 'training'!r}" for name, path in firsts.itertuples(index=False)
    )


def _check_classes(table: pd.DataFrame, origin: str, several: bool) -> None:
    for name in list_classes(table["label"].unique(), several):
        folds = table.loc[find_class(table["label"], name, several), GIVEN].unique()
        if len(folds) > 1:
            continue
        raise CohortError(
            f"the class {name!r} is in the fold {folds[0]!r} of {origin!r} "
            "alone, so that the model tested there would never have seen it; leave the class out "
            "with --classes, or give other folds"
        )


def list_lacking(folds: pd.DataFrame, names: Sequence[str], several: bool = False) -> list[str]:
    """Return a sentence for each fold that lacks a class: only given ones can.

    Parameters
    ----------
    folds : DataFrame
        Columns label and fold.
    names : sequence of str
        Of the folds.
    several : bool
        Whether an image has several labels.
    """
    classes = {*list_classes(folds["label"].unique(), several)}
    held = [
        {*list_classes(folds.loc[folds["fold"] == fold, "label"].unique(), several)}
        for fold in range(len(names))
    ]
    return [
        f"the fold {name!r} has no image of {enumerate_names(sorted(classes - own))}, "
        "so that its own metrics do not speak of them"
        for name, own in zip(names, held, strict=True)
        if classes - own
    ]
