"""Could this number be luck: a permutation test that keeps the images of a person together.

Under the null hypothesis what a person is labelled has nothing to do with their images. Then the
labels of the persons of a fold could as well be dealt out among them in any other way, and each way
gives a value that chance would give. Whole persons' labels are dealt, since images of one person
resemble one another: to deal those of images would take that resemblance for skill.

A person whose images are all of one class gives and takes one label. Persons whose images are of
several classes exchange theirs, in order, with such persons of as many images.

Models are not trained again. Within a fold that is exact: its model knows none of its labels. But
the models of two folds are trained on each other's persons, so that what one fold gains by chance
the other tends to gain too; where models learn from pairs of persons alike, as linear ones do, the
variance of the mean over folds is twice that of dealing labels. So the values of chance are
spread by √2 about their mean before the real one is set beside them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.statistics.metrics import Floats, Ints
from medkit.statistics.outcomes import Outcomes, gather_rows
from medkit.statistics.ranking import divide, measure_area, rank

SPREAD = math.sqrt(2)
_CELLS = 2_000_000  # of dealt labels in memory at a time

METHOD = (
    "labels dealt among the persons of each fold, models not trained again, values of chance "
    "spread by the square root of 2 as folds share training persons"
)


def permute(
    outcomes: Outcomes,
    folds: npt.NDArray[Any],
    permutations: int,
    seed: int,
    headline: str,
    *,
    spread: float = SPREAD,
) -> dict[str, Any]:
    """Return the part ``permutation`` of ``metrics.json``.

    Parameters
    ----------
    outcomes : Outcomes
        Out-of-fold predictions. Several labels of an image stay together.
    folds : ndarray, shape (n,)
        Of each image.
    permutations : int
        How many ways to deal the labels.
    seed : int
        Of the dealing. The result depends on it and not on the order of the rows.
    headline : str
        Of ``"balanced_accuracy"`` and ``"auc"``, the one that stands for both.
    spread : float
        By how much values of chance are spread; 1 for a single model on a test set of its own.
    """
    random = np.random.default_rng(seed)
    total = len(outcomes.labels)
    real: dict[str, float] = {}
    chance: dict[str, Floats] = {}
    for fold in np.unique(folds):
        part = outcomes.take(np.flatnonzero(folds == fold))
        # Of several labels it is which ones an image has that is dealt: they stay together.
        kinds, held = np.unique(part.labels, axis=0, return_inverse=True)
        held = np.asarray(held.reshape(-1), dtype=np.int64)
        rows = [held[np.newaxis], *_deal(held, part.persons, permutations, random)]
        values = [score(part, kinds, labels) for labels in rows]
        for name in values[0]:
            every = np.concatenate([one[name] for one in values]) * len(part.labels) / total
            real[name] = real.get(name, 0.0) + float(every[0])
            chance[name] = chance.get(name, 0.0) + every[1:]
    found = {name: _compare(real[name], chance[name], spread) for name in real}
    shown = {"metric": headline, **found[headline]}
    return {**shown, "permutations": permutations, "method": METHOD, "metrics": found}


def score(part: Outcomes, kinds: Ints, dealt: Ints) -> dict[str, Floats]:
    """Return balanced accuracy and AUC of the same predictions for rows of labels.

    Parameters
    ----------
    part : Outcomes
        Whose own labels do not count.
    kinds : ndarray of int, shape (t,) or (t, c)
        Labels that images can have.
    dealt : ndarray of int, shape (r, n)
        Which of them each has.

    Returns
    -------
    dict of str to ndarray, shape (r,)
        Classes without an image in a row are left out of its means; AUC is that of the positive
        class of two, else the mean over classes, or over several labels.
    """
    if not part.multilabel:
        return _score_classes(part, kinds[dealt])
    recalls, areas = [], []
    decided = part.decide()
    for column in range(len(part.classes)):
        held, lacks = ((kinds[:, column] == one)[dealt].astype(np.float64) for one in (1, 0))
        scores = part.probabilities[:, column]
        both = rank(
            np.repeat([True, False], len(scores)),
            np.tile(scores, 2),
            np.concatenate([held, lacks], axis=1),
        )
        shares = [
            divide(side @ right, side.sum(axis=1))
            for side, right in ((held, decided[:, column]), (lacks, 1 - decided[:, column]))
        ]
        recalls.append(np.mean(shares, axis=0))
        areas.append(measure_area(both))
    return {"balanced_accuracy": _average(recalls), "auc": _average(areas)}


def _score_classes(part: Outcomes, labels: Ints) -> dict[str, Floats]:
    from scipy.stats import rankdata

    decided, count = part.decide(), labels.shape[1]
    recalls, areas = [], []
    for column in range(len(part.classes)):
        held = (labels == column).astype(np.float64)
        images = held.sum(axis=1)
        ranks = held @ rankdata(part.probabilities[:, column]) - images * (images + 1) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            recalls.append(held @ (decided == column) / images)
            areas.append(ranks / (images * (count - images)))
    if len(areas) == 2:
        areas = [areas[part.positive]]
    return {"balanced_accuracy": _average(recalls), "auc": _average(areas)}


def _average(values: list[Floats]) -> Floats:
    """Return the mean over what is finite; 0.5 where nothing is: such a fold says nothing."""
    table = np.stack(values)
    known = np.isfinite(table)
    sums = np.where(known, table, 0).sum(axis=0)
    counts = known.sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), 0.5)


def _deal(
    labels: Ints, persons: npt.NDArray[Any], permutations: int, random: np.random.Generator
) -> Iterator[Ints]:
    """Yield labels that persons of one fold could as well have, shape (some, n)."""
    rows_of = list(gather_rows(persons).values())
    held = [labels[rows] for rows in rows_of]
    alike = defaultdict(list)
    for number, own in enumerate(held):
        alike[0 if (own == own[0]).all() else len(own)].append(number)
    at_once = max(1, _CELLS // len(labels))
    for start in range(0, permutations, at_once):
        dealt = np.tile(labels, (min(at_once, permutations - start), 1))
        for size, group in alike.items():
            pool = np.stack([held[giver][: size or 1] for giver in group])
            givers = random.permuted(np.tile(np.arange(len(group)), (len(dealt), 1)), axis=1)
            for taker, giver in zip(group, givers.T, strict=True):
                dealt[:, rows_of[taker]] = pool[giver]
        yield dealt


def _compare(real: float, chance: Floats, spread: float) -> dict[str, Any]:
    mean = float(chance.mean())
    values = mean + spread * (chance - mean)
    # What differs from the real value by rounding alone equals it.
    reached = int((values >= real - 1e-12).sum())
    return {
        "value": real,
        "p": (1 + reached) / (1 + len(chance)),
        "null": {"mean": mean, "high": float(np.quantile(values, 0.95))},
    }
