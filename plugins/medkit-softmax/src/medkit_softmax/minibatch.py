"""The regression as a network of one layer, fitted in mini-batches that are read from the set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.networks.fitting import Plan, Stage, fit_network
from medkit.networks.hardware import load_keras
from medkit.networks.outputs import make_output
from medkit.networks.prediction import predict
from medkit.networks.saving import load_weights, read_description, save_network

if TYPE_CHECKING:
    from pathlib import Path

    import keras

    from medkit.images.reader import Images
    from medkit.training.contract import LabelledImages, RunContext
    from medkit_softmax import SoftmaxParams

Floats = npt.NDArray[np.float64]

_BATCH = 256


@dataclass(frozen=True)
class SoftmaxModel:
    """A fitted network and the view of the images that it takes.

    Attributes
    ----------
    view : mapping
        Keywords of ``images.with_view``.
    network : keras.Model
        From pixels (n, H, W, C) to probabilities (n, classes).
    """

    view: Mapping[str, Any]
    network: keras.Model

    def predict_proba(self, images: Images) -> Floats:
        """Return an array (n, classes) whose rows sum to 1 unless an image has several labels."""
        return predict(self.network, images.with_view(**self.view))

    def save(self, folder: Path) -> None:
        """Write the description as JSON and the weights as HDF5."""
        save_network(folder, {"view": self.view}, self.network)


def load_model(folder: Path) -> SoftmaxModel:
    """Return the model that `SoftmaxModel.save` wrote.

    Raises
    ------
    TrainingError
        If the weights are missing, or are not of the network that the description gives.
    """
    description = read_description(folder)
    shape, several = tuple(description["shape"]), description["several"]
    network = build_network(shape, description["classes"], several)
    load_weights(folder, network)
    return SoftmaxModel(description["view"], network)


def fit_model(
    params: SoftmaxParams,
    view: Mapping[str, Any],
    train: LabelledImages,
    validation: LabelledImages,
    run: RunContext,
) -> SoftmaxModel:
    """Standardise by the training part, and fit; on a float32 network on any device."""
    mean, scale = measure_pixels(train.view(**view).images)
    plan = Plan(
        build=partial(build_network, mean=mean, scale=scale, strength=params.strength),
        view=view,
        stages=(Stage(params.epochs, params.patience, params.learning_rate, "cosine"),),
        batch_size=params.batch_size,
        precision="float32",  # one layer: nothing is gained by less
    )
    return SoftmaxModel(view, fit_network(plan, train, validation, run))


def measure_pixels(images: Images) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of each pixel over images, in one pass over them.

    Batches are joined as Chan, Golub and LeVeque do (The American Statistician 37, 1983). A pixel
    that does not vary has the deviation 1.

    Returns
    -------
    mean, scale : ndarray of float64, shape (H * W * C,)
    """
    count, mean = 0, np.zeros(math.prod(images.shape[1:]))
    square = np.zeros_like(mean)
    for batch in images.batches(_BATCH):
        rows = batch.reshape(len(batch), -1).astype(np.float64)
        fresh = rows.mean(axis=0)
        share = len(rows) / (count + len(rows))
        square += ((rows - fresh) ** 2).sum(axis=0) + count * share * (fresh - mean) ** 2
        mean += share * (fresh - mean)
        count += len(rows)
    scale = np.sqrt(square / max(count, 1))
    # What is left of a constant in float32 is rounding, which must not be blown up to 1.
    return mean, np.where(scale <= np.abs(mean) * np.finfo(np.float32).eps, 1.0, scale)


def build_network(
    shape: tuple[int, int, int],
    classes: int,
    several: bool,
    mean: npt.ArrayLike = 0.0,
    scale: npt.ArrayLike = 1.0,
    strength: float = 0.0,
) -> keras.Model:
    """Return the network: pixels, standardised, and a softmax or sigmoids of their weighted sums.

    Parameters
    ----------
    shape : tuple of int
        (H, W, C) of an image.
    classes : int
        How many probabilities it gives.
    several : bool
        Whether an image has several labels; else the probabilities sum to 1.
    mean, scale : array_like, shape (H * W * C,)
        Of each pixel, in the training part.
    strength : float
        Of the penalty; it means the same as `medkit.statistics.linear`'s, which has one row of
        weights for two classes: their difference, whose square is twice the sum of two rows'. Of
        several labels each has such a row, and the loss is the mean over them.
    """
    keras = load_keras()
    layers = keras.layers
    images = layers.Input(shape, name="images")
    # A normalisation that never learns: constants that are kept and exported with the weights.
    standardise = layers.BatchNormalization(
        center=False, scale=False, epsilon=0.0, trainable=False, name="standardise"
    )
    values = standardise(layers.Flatten(name="flatten")(images))
    for variable, constant in (
        (standardise.moving_mean, mean),
        (standardise.moving_variance, np.square(scale)),
    ):
        variable.assign(np.broadcast_to(constant, variable.shape).astype(np.float32))
    penalty = strength / 2
    if several:
        penalty /= classes
    elif classes == 2:
        penalty *= 2
    regularizer = keras.regularizers.L2(penalty)
    dense = make_output(
        classes, several, kernel_initializer="zeros", kernel_regularizer=regularizer
    )
    return keras.Model(images, dense(values), name="softmax")


def build_flatten(view: Mapping[str, Any]) -> keras.Model:
    """Return the network from pixels of a view to the features of the exact solver."""
    from medkit.images.reader import View

    keras = load_keras()
    seen = View(**view)
    images = keras.layers.Input((seen.size, seen.size, seen.depth), name="images")
    return keras.Model(images, keras.layers.Flatten(name="features")(images), name="softmax")
