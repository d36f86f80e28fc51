"""Trees that add up: fitted by scikit-learn, predicting by NumPy alone.

Stochastic gradient boosting of the log loss: Friedman, "Greedy Function Approximation" (2001) and
"Stochastic Gradient Boosting" (2002).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from medkit.errors import TrainingError

from .trees import Trees, collect_trees

if TYPE_CHECKING:
    from medkit.images.reader import Images
    from medkit.training.contract import LabelledImages, RunContext

    from . import Options

_FILE = "boosting.npz"
# Trees a class between two looks at the validation part.
_PACE = 10


@dataclass(frozen=True)
class Model:
    """What each class starts with, and the trees that are added.

    Attributes
    ----------
    start : ndarray of float64, shape (classes,)
        Logits without a tree; minus infinity of a class that no training image has.
    trees : Trees
        At each leaf, what it adds to the logits.
    """

    start: npt.NDArray[np.float64]
    trees: Trees

    def predict_proba(self, images: Images) -> npt.NDArray[np.float64]:
        """Return an array (n, classes) whose rows sum to 1."""
        return self.predict(images.features)

    def predict(self, rows: Any) -> npt.NDArray[np.float64]:
        """Return the same of features, shape (n, d)."""
        logits = self.start + self.trees.add_up(rows)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    def save(self, folder: Path) -> None:
        """Write everything as plain arrays."""
        np.savez(folder / _FILE, start=self.start, **self.trees.to_arrays())


def load_model(folder: Path) -> Model:
    """Return what `Model.save` wrote; nothing is unpickled."""
    with np.load(folder / _FILE, allow_pickle=False) as arrays:
        return Model(arrays["start"], Trees.from_arrays(arrays))


def fit_model(
    options: Options, train: LabelledImages, validation: LabelledImages, run: RunContext
) -> Model:
    """Add up trees, and keep as many as do best on ``validation``.

    Without validation images all are kept.

    Raises
    ------
    TrainingError
        If the user stops the run.
    """
    from sklearn.ensemble import GradientBoostingClassifier

    classes, seen = len(train.classes), np.unique(train.labels)
    if len(seen) < 2:  # there is nothing to tell apart, and scikit-learn refuses it
        start = np.where(np.arange(classes) == seen[0], 0.0, -np.inf)
        return Model(start, collect_trees([], [], classes))

    def follow(number: int, *_: Any) -> bool:
        run.progress(number + 1, options.trees, "trees")
        return run.stopping()

    booster = GradientBoostingClassifier(
        n_estimators=options.trees,
        max_depth=options.depth,
        learning_rate=options.learning_rate,
        subsample=options.subsample,
        max_features="sqrt",
        random_state=run.seed,
    )
    rows = np.asarray(train.features)
    booster.fit(rows, train.labels, sample_weight=train.weights, monitor=follow)
    if run.stopping():
        raise TrainingError("stopped while trees were added; run again to begin anew")
    return collect_model(booster, classes, _choose_stages(booster, validation, run))


def collect_model(booster: Any, classes: int, stages: int) -> Model:
    """Return the first stages of a ``GradientBoostingClassifier``.

    Parameters
    ----------
    booster : GradientBoostingClassifier
        Fitted to labels 0 to ``classes`` - 1, two or more of which occurred. Of two it has a tree a
        stage, for the second; of more, a tree each.
    classes : int
        Columns of the predictions.
    stages : int
        How many of them.
    """
    start = np.full(classes, -np.inf)
    start[booster.classes_] = np.log(booster.init_.class_prior_)
    columns = booster.classes_ if len(booster.classes_) > 2 else booster.classes_[1:]
    trees, values = [], []
    for stage in booster.estimators_[:stages]:
        for column, estimator in zip(columns, stage, strict=True):
            trees.append(estimator.tree_)
            values.append(np.zeros((estimator.tree_.node_count, classes)))
            values[-1][:, column] = booster.learning_rate * estimator.tree_.value[:, 0, 0]
    return Model(start, collect_trees(trees, values, classes))


def _choose_stages(booster: Any, validation: LabelledImages, run: RunContext) -> int:
    best, least = len(booster.estimators_), math.inf
    if not len(validation):
        return best
    known = {int(label): column for column, label in enumerate(booster.classes_)}
    columns = np.array([known.get(int(label), -1) for label in validation.labels])
    stages = enumerate(booster.staged_predict_proba(np.asarray(validation.features)), 1)
    for number, shares in stages:
        if number % _PACE and number != len(booster.estimators_):
            continue
        right = np.where(columns < 0, 0.0, shares[np.arange(len(columns)), columns])
        # A class without training images has no probability: the resolution bounds what it costs.
        losses = -np.log(np.maximum(right, np.finfo(np.float32).eps))
        loss = float(np.average(losses, weights=validation.weights))
        run.look(number, -loss, chosen=loss < least)
        best, least = (number, loss) if loss < least else (best, least)
    run.log(f"{best} of {len(booster.estimators_)} trees a class: validation log loss {least:.4f}")
    return best
