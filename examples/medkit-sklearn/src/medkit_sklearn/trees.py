"""Decision trees as arrays: fitted by scikit-learn, kept without pickle, followed by NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]


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
        The feature that a node looks at; 0 at a leaf.
    threshold : ndarray of float64, shape (nodes,)
        An image goes left if its feature is not above.
    value : ndarray of float64, shape (nodes, classes)
        What an image gets at a node.
    """

    roots: Ints
    left: Ints
    right: Ints
    feature: Ints
    threshold: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]

    def add_up(self, rows: Floats) -> npt.NDArray[np.float64]:
        """Return the sum of what images get from each tree, shape (n, classes).

        Parameters
        ----------
        rows : ndarray, shape (n, d)
            The features of each image. scikit-learn sees them as float32.
        """
        seen, numbers = np.asarray(rows, np.float32), np.arange(len(rows))
        total = np.zeros((len(rows), self.value.shape[1]))
        for root in self.roots:
            node = np.full(len(rows), root)
            while (inner := self.left[node] >= 0).any():
                below = seen[numbers, self.feature[node]] <= self.threshold[node]
                node = np.where(inner, np.where(below, self.left[node], self.right[node]), node)
            total += self.value[node]
        return total

    def to_arrays(self) -> dict[str, Any]:
        """Return all there is to keep, by name."""
        return asdict(self)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Trees:
        """Return the trees that `to_arrays` gave."""
        return cls(**{one.name: arrays[one.name] for one in fields(cls)})


def collect_trees(trees: Sequence[Any], values: Sequence[Floats], classes: int) -> Trees:
    """Return fitted trees as arrays.

    Parameters
    ----------
    trees : sequence of sklearn.tree._tree.Tree
        What an estimator has as ``tree_``.
    values : sequence of ndarray, shape (nodes, classes)
        What an image gets at each node of each of them.
    classes : int
        Columns of the values, also where there are no trees.
    """
    roots = np.cumsum([0, *(tree.node_count for tree in trees)])[:-1].astype(np.int64)
    pairs = list(zip(trees, roots, strict=True))
    return Trees(
        roots=roots,
        left=_join([_number(tree.children_left, root) for tree, root in pairs]),
        right=_join([_number(tree.children_right, root) for tree, root in pairs]),
        feature=_join([np.maximum(tree.feature, 0) for tree in trees]),
        threshold=_join([tree.threshold for tree in trees]).astype(np.float64),
        value=np.concatenate([np.empty((0, classes)), *values]),
    )


def _join(parts: list[Any]) -> Any:
    return np.concatenate([np.empty(0, np.int64), *parts])


def _number(children: Ints, root: int) -> Ints:
    """Number the nodes of all trees one after the other; -1 stays -1."""
    return np.where(children < 0, -1, children + root)
