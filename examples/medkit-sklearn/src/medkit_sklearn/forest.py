"""The forest: fitted by scikit-learn, kept as arrays, predicting by NumPy alone."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.errors import TrainingError

if TYPE_CHECKING:
    from pathlib import Path

    from medkit.images.reader import Images
    from medkit.training.contract import LabelledImages, RunContext
    from medkit_sklearn import ForestParams

Floats = npt.NDArray[np.floating[Any]]

# Images whose pixels are in memory at a time when predicting.
_BATCH = 256


@dataclass(frozen=True)
class Trees:
    """All nodes of all trees, one after the other.

    Attributes
    ----------
    roots : ndarray of int64, shape (trees,)
        The first node of each tree.
    left, right : ndarray of int64, shape (nodes,)
        Where an image goes from a node; -1 at a leaf.
    feature : ndarray of int64, shape (nodes,)
        The pixel that a node looks at; 0 at a leaf.
    threshold : ndarray of float64, shape (nodes,)
        An image goes left if its pixel is not above.
    value : ndarray of float64, shape (nodes, classes)
        Shares of the classes among the training images that came to a node.
    """

    roots: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    feature: npt.NDArray[np.int64]
    threshold: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]

    def predict_proba(self, pixels: Floats) -> npt.NDArray[np.float64]:
        """Return the mean over the trees, shape (n, classes), of pixels (n, size * size)."""
        rows = np.arange(len(pixels))
        total = np.zeros((len(pixels), self.value.shape[1]))
        for root in self.roots:
            node = np.full(len(pixels), root)
            while (inner := self.left[node] >= 0).any():
                below = pixels[rows, self.feature[node]] <= self.threshold[node]
                node = np.where(inner, np.where(below, self.left[node], self.right[node]), node)
            total += self.value[node]
        return total / len(self.roots)


@dataclass(frozen=True)
class ForestModel:
    """Trees, and the view of the images that they were trained on."""

    view: dict[str, Any]
    trees: Trees

    def predict_proba(self, images: Images) -> npt.NDArray[np.float64]:
        """Return an array (n, classes) whose rows sum to 1."""
        batches = images.with_view(**self.view).batches(_BATCH)
        parts = [self.trees.predict_proba(_flatten(batch)) for batch in batches]
        return np.concatenate([np.empty((0, self.trees.value.shape[1])), *parts])

    def save(self, folder: Path) -> None:
        """Write the view as JSON and the trees as arrays."""
        (folder / "view.json").write_text(json.dumps(self.view, sort_keys=True), encoding="utf-8")
        for name, array in asdict(self.trees).items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> ForestModel:
        """Return what `save` wrote; nothing is unpickled."""
        names = Trees.__dataclass_fields__
        arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in names}
        return cls(json.loads((folder / "view.json").read_text(encoding="utf-8")), Trees(**arrays))


def fit_forest(
    params: ForestParams, train: LabelledImages, validation: LabelledImages, run: RunContext
) -> ForestModel:
    """Fit a forest for each depth and return the one that does best on ``validation``.

    Without validation images the first depth is used.

    Raises
    ------
    TrainingError
        If the user stops the run.
    """
    seen, judged = (_flatten(part.view(**params.view).images[:]) for part in (train, validation))
    forests: list[Trees] = []
    losses: list[float] = []
    for number, depth in enumerate(params.depths):
        if run.stopping():
            raise TrainingError(f"stopped before depth {depth}")
        forests.append(_fit_trees(params, depth, seen, train, run))
        loss = _log_loss(forests[-1].predict_proba(judged), validation.labels)
        if len(judged):
            run.look(number, -loss, chosen=loss < min(losses, default=math.inf))
        losses.append(loss)
        run.log(f"depth {depth}: validation log loss {loss:.4f}")
        run.progress(number + 1, len(params.depths), "forests")
    return ForestModel(params.view, forests[int(np.argmin(losses))])


def _fit_trees(
    params: ForestParams, depth: int, pixels: Floats, train: LabelledImages, run: RunContext
) -> Trees:
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(
        params.trees, max_depth=depth, random_state=run.seed, n_jobs=run.threads
    )
    forest.fit(pixels, train.labels, sample_weight=train.weights)
    return collect_trees(forest, len(train.classes))


def collect_trees(forest: Any, classes: int) -> Trees:
    """Return the arrays of a fitted ``RandomForestClassifier``.

    Parameters
    ----------
    forest : RandomForestClassifier
        Fitted to labels 0 to ``classes`` - 1, not all of which need to occur.
    classes : int
        Columns of the predictions.
    """
    trees = [estimator.tree_ for estimator in forest.estimators_]
    roots = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])
    shares = np.concatenate([tree.value[:, 0, :] for tree in trees])
    value = np.zeros((len(shares), classes))
    value[:, forest.classes_] = shares / shares.sum(axis=1, keepdims=True)
    return Trees(
        roots=roots,
        left=_shift([tree.children_left for tree in trees], roots),
        right=_shift([tree.children_right for tree in trees], roots),
        feature=np.concatenate([np.maximum(tree.feature, 0) for tree in trees]),
        threshold=np.concatenate([tree.threshold for tree in trees]),
        value=value,
    )


def _shift(
    children: list[npt.NDArray[np.int64]], roots: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Number the nodes of all trees one after the other; -1 stays -1."""
    return np.concatenate(
        [np.where(child < 0, -1, child + root) for child, root in zip(children, roots, strict=True)]
    )


def _flatten(pixels: Floats) -> Floats:
    return pixels.reshape(len(pixels), -1)


def _log_loss(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    if not len(labels):
        return math.inf
    # A forest can be sure, and be wrong: float32's resolution bounds what that costs.
    right = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(right, np.finfo(np.float32).eps)).mean())
