"""Dealing persons out: into folds, a held-out part, inner folds and a validation part."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.cohort.assignment import find_missing
from medkit.cohort.joining import check_persons, enumerate_names
from medkit.cohort.tally import Tally, check_counts, tally_groups
from medkit.errors import CohortError
from medkit.statistics.truth import list_findings, split_findings

Ints = npt.NDArray[np.int64]

# The fold of images that no run is trained on, and what a table of given folds calls it.
HELD_OUT, HELD_OUT_NAME = -1, "held-out"
# A column that a table may have besides: the fold that somebody gave each image.
GIVEN = "given"

# Of the held-out part: no seed that folds can have, so that it is dealt unlike any of them.
_HELD_OUT_SEED = -1


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


def divide(
    table: pd.DataFrame, k: int, seed: int, hold_out: float = 0.0, several: bool = False
) -> Ints:
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
    several : bool
        Whether a label is a text of several (`medkit.statistics.truth`).

    Raises
    ------
    CohortError
        As of `make_folds`, or if there are too few persons to hold some out.
    """
    if several:
        findings = [split_findings(text)[0] for text in table["label"]]
        table = table.assign(label=pd.Series(findings, index=table.index, dtype=object))
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

    Labels are as of `cut_validation`.

    Returns
    -------
    ndarray of int64, shape (n,), or None
        None where some class has a single person, or no two folds hold every class.
    """
    table = pd.DataFrame({"split_group": np.asarray(groups), "label": list_findings(labels)})
    rarest = int((tally_groups(table).counts > 0).sum(axis=0).min(initial=most))
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
        Person and label of each image; their order does not matter. Of several labels an image,
        shape (n, c), 1 where it has one.
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
        pd.DataFrame({"split_group": np.asarray(groups), "label": list_findings(labels)})
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
