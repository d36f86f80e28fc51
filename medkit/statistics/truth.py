"""What is true of images, as tables have it and as arrays.

A label has one value an image, or several: findings that may stand beside one another. A table then
has their names in one text, in order, with `SEPARATOR` between: ``Edema|Mass``, and nothing where
there is none. A name behind `UNKNOWN` is one of which it is not known: ``Edema|?Mass``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

SEPARATOR, UNKNOWN = "|", "?"
MULTICLASS, MULTILABEL = "multiclass", "multilabel"


def spell_findings(present: Iterable[str], unknown: Iterable[str] = ()) -> str:
    """Return the text of some findings."""
    return SEPARATOR.join([*sorted({*present}), *(UNKNOWN + name for name in sorted({*unknown}))])


def split_findings(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return which findings a text tells, and of which it says that they are not known."""
    names = [name for name in text.split(SEPARATOR) if name]
    unknown = {name[len(UNKNOWN) :] for name in names if name.startswith(UNKNOWN)}
    return frozenset(names) - {UNKNOWN + name for name in unknown}, frozenset(unknown)


def read_truth(texts: Iterable[Any], classes: Sequence[str], several: bool) -> Ints:
    """Return labels as arrays.

    Parameters
    ----------
    texts : iterable of str
        Of a table's column ``label``.
    classes : sequence of str
        Sorted.
    several : bool
        Whether an image has several labels.

    Returns
    -------
    ndarray of int64, shape (n,) or (n, c)
        Indexes into ``classes``. Of several labels 1 where an image has one, 0 where it has not,
        -1 where that is not known; names that are no class are passed over.
    """
    told = np.asarray(list(texts), dtype=str)
    if not several:
        return np.searchsorted(classes, told).astype(np.int64)
    kinds, places = np.unique(told, return_inverse=True)
    rows = np.zeros((len(kinds), len(classes)), dtype=np.int64)
    for row, text in zip(rows, kinds.tolist(), strict=True):
        present, unknown = split_findings(text)
        row[[name in present for name in classes]] = 1
        row[[name in unknown for name in classes]] = -1
    return rows[places]


def spell_truth(
    decided: npt.NDArray[np.integer[Any]], classes: Sequence[str]
) -> npt.NDArray[np.object_]:
    """Return the names of columns, shape (n,), or the texts of several labels, (n, c)."""
    names: npt.NDArray[np.object_] = np.asarray(classes, dtype=object)
    texts: npt.NDArray[np.object_] = np.empty(len(decided), dtype=object)
    if decided.ndim == 1:
        texts[:] = names[decided]
        return texts
    texts[:] = [spell_findings(names[row == 1], names[row == -1]) for row in decided]
    return texts


def list_findings(labels: npt.ArrayLike) -> list[Any]:
    """Return labels as what folds are stratified by: of several, the columns that an image has."""
    columns = np.asarray(labels)
    if columns.ndim == 1:
        return list(columns.tolist())
    return [tuple(np.flatnonzero(row == 1).tolist()) for row in columns]


def asks_several(record: Mapping[str, Any]) -> bool:
    """Tell whether a record, ``run.json`` or ``metrics.json``, is of several labels an image."""
    return bool(record.get("task", MULTICLASS) == MULTILABEL)


def find_class(texts: Iterable[Any], name: str, several: bool) -> npt.NDArray[np.bool_]:
    """Return which of some texts tell a class."""
    if not several:
        return np.asarray([text == name for text in texts], dtype=bool)
    return np.asarray(read_truth(texts, [name], True)[:, 0] == 1)


def list_classes(texts: Collection[str], several: bool) -> tuple[str, ...]:
    """Return the names that some texts tell, sorted."""
    if not several:
        return tuple(sorted({*texts}))
    return tuple(sorted(set().union(*(split_findings(text)[0] for text in {*texts}))))
