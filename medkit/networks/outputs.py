"""What a network says last: which class an image is of, or which of several labels it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.networks.hardware import load_keras

if TYPE_CHECKING:
    import keras

    from medkit.training.contract import LabelledImages

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

NAME = "probabilities"
_LEAST = 1e-7  # a softmax or a sigmoid of float32 can be exactly 0


def make_output(classes: int, several: bool, **keywords: Any) -> Any:
    """Return the last layer of a network: dense, of float32, named ``"probabilities"``.

    Parameters
    ----------
    classes : int
        How many probabilities it gives.
    several : bool
        Whether an image has several labels: each probability is then one of its own, by a sigmoid,
        else they sum to 1, by a softmax.
    **keywords
        Of ``keras.layers.Dense``.
    """
    return load_keras().layers.Dense(
        classes,
        activation="sigmoid" if several else "softmax",
        dtype="float32",
        name=NAME,
        **keywords,
    )


def gives_labels(network: keras.Model) -> bool:
    """Tell whether each probability of a network is one of its own, by its last layer."""
    activation = getattr(network.layers[-1], "activation", None)
    return activation is load_keras().activations.sigmoid


def choose_loss(several: bool) -> Any:
    """Return the log loss that Keras trains by; of several labels it is one an image and label.

    What is not known is masked by a weight of 0; see `weigh_classes`.
    """
    return _cross_entropy if several else "sparse_categorical_crossentropy"


def _cross_entropy(labels: Any, probabilities: Any) -> Any:
    ops = load_keras().ops
    return ops.binary_crossentropy(ops.maximum(labels, 0), probabilities)


def weigh_classes(train: LabelledImages, equally: bool) -> npt.NDArray[np.float64]:
    """Return how much an image counts by its class.

    Parameters
    ----------
    train : LabelledImages
        The training part.
    equally : bool
        Weigh the classes equally; of several labels, those that have one and those that have not.

    Returns
    -------
    ndarray of float64, shape (classes,) or (classes, 2)
        Of each class; of several labels, of an image without each and of one with it. Every label
        then counts as much as another, of however few images it is known: the mean loss over a
        part is the mean over its labels, each of the images of which it is known.
    """
    if train.labels.ndim == 1:
        counts = np.bincount(train.labels, minlength=len(train.classes))
    else:
        counts = np.stack([(train.labels == value).sum(axis=0) for value in (0, 1)], axis=1)
    if equally:
        return np.asarray(len(train) / (counts.shape[-1] * np.maximum(counts, 1)))
    if train.labels.ndim == 1:
        return np.ones(len(train.classes))
    known = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.repeat(len(train) / known, 2, axis=1)


def weigh_labels(labels: Ints, factors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what `weigh_classes` says of labels, in their shape; 0 where one is not known."""
    if labels.ndim == 1:
        return np.asarray(factors[labels])
    chosen = factors[np.arange(labels.shape[1]), np.maximum(labels, 0)]
    return np.where(labels < 0, 0.0, chosen)


def measure_log_loss(probabilities: Floats, labels: Ints, weights: Floats) -> float | None:
    """Return the mean log loss; of several labels the mean over those that are known of an image.

    Parameters
    ----------
    probabilities : ndarray, shape (n, classes)
    labels : ndarray of int64, shape (n,) or (n, classes)
        As of `medkit.training.contract.LabelledImages`.
    weights : ndarray, in the shape of ``labels``
        How much each counts; 0 of what is not known.

    Returns
    -------
    float or None
        In nats; None where nothing counts.
    """
    if labels.ndim == 1:
        stated = probabilities[np.arange(len(labels)), labels]
    else:
        stated = np.where(labels == 1, probabilities, 1 - probabilities)
    losses = -np.log(np.maximum(stated, _LEAST))
    by_label, counted = (values.reshape(len(labels), -1).T for values in (losses, weights))
    means = [
        np.average(loss, weights=weight)
        for loss, weight in zip(by_label, counted, strict=True)
        if weight.any()
    ]
    return float(np.mean(means)) if means else None
