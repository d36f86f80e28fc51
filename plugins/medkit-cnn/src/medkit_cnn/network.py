"""The network: blocks of convolution, normalisation, activation and pooling, then dense layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from medkit.networks.hardware import load_keras
from medkit.networks.outputs import make_output

if TYPE_CHECKING:
    import keras
    from keras import layers, ops

    from medkit_cnn import CnnParams
else:
    keras = load_keras()
    layers, ops = keras.layers, keras.ops


class NoisyReLU(layers.Layer):  # type: ignore[misc]
    """A rectifier with noise where it saturates.

    Algorithm 1 of Gulcehre, Moczulski, Denil and Bengio, "Noisy Activation Functions" (ICML
    2016), with h(x) = max(x, 0), its linearisation u(x) = x and half-normal noise::

        phi(x) = alpha h + (1 - alpha) u + d sigma |e|,   e ~ N(0, 1)
        sigma  = c (sigmoid(p (h - u)) - 1/2)^2,          d = -sgn(x) sgn(1 - alpha)

    so that phi(x) = x for x > 0, and (1 - alpha) x + sigma |e| below. The noise grows with the
    saturation; p, one a channel, is learned. At inference |e| is its mean, sqrt(2 / pi).

    Parameters
    ----------
    alpha : float
        Below 1, so that d = 1 where the noise acts. The paper's 1.15, meant for functions that
        saturate on both sides, would fold the negative half of a rectifier upwards.
    c : float
        Scale of the noise.
    """

    def __init__(self, alpha: float = 0.9, c: float = 0.5, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.alpha = alpha
        self.c = c
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make p, 1 for each channel."""
        self.p = self.add_weight(name="p", shape=(shape[-1],), initializer="ones")

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return phi of the inputs, with noise in training only."""
        saturation = ops.relu(-inputs)  # h - u
        sigma = self.c * ops.square(ops.sigmoid(self.p * saturation) - 0.5)
        noise: Any = math.sqrt(2 / math.pi)
        if training:
            noise = ops.abs(
                keras.random.normal(ops.shape(inputs), dtype=inputs.dtype, seed=self.seed_generator)
            )
        return ops.relu(inputs) - (1 - self.alpha) * saturation + sigma * noise


_ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "relu": layers.ReLU,
    "noisy-relu": NoisyReLU,
    "tanh": partial(layers.Activation, "tanh"),
    "sigmoid": partial(layers.Activation, "sigmoid"),
}
_NORMS: dict[str, Callable[..., Any]] = {
    # The moving averages must settle within an epoch of a hundred steps: validation uses them.
    "batch": partial(layers.BatchNormalization, momentum=0.9),
    "layer": partial(layers.GroupNormalization, groups=1),  # over a whole image
    "none": layers.Identity,
}
_POOLS: dict[str, Callable[..., Any]] = {
    "max": layers.MaxPooling2D,
    "avg": layers.AveragePooling2D,
}


def build_network(
    params: CnnParams, shape: tuple[int, int, int], classes: int, several: bool
) -> keras.Model:
    """Return the network with fresh weights.

    Every layer has a name of its own: Keras would number them by all that was built before in
    this process, and the numbers end up in the file of the weights.

    Parameters
    ----------
    params : CnnParams
        What it is made of.
    shape : tuple of int
        (H, W, C) of an image.
    classes : int
        How many probabilities it gives.
    several : bool
        Whether an image has several labels; else the probabilities sum to 1.
    """
    images = values = layers.Input(shape, name="images")
    for number, filters in enumerate(params.blocks, 1):
        values = _add_block(params, f"block{number}", filters, values)
    gather = layers.Flatten if params.flatten else layers.GlobalAveragePooling2D
    values = gather(name="gather")(values)
    if params.dense:
        dense = layers.Dense(params.dense, kernel_initializer=_initializer(params), name="dense")
        values = _ACTIVATIONS[params.activation](name="dense_activation")(dense(values))
    values = layers.Dropout(params.dropout, name="dropout")(values)
    return keras.Model(images, make_output(classes, several)(values), name="cnn")


def _add_block(params: CnnParams, name: str, filters: int, values: Any) -> Any:
    values = layers.Conv2D(
        filters,
        3,
        padding="same",
        use_bias=params.norm == "none",
        kernel_initializer=_initializer(params),
        name=f"{name}_convolution",
    )(values)
    values = _NORMS[params.norm](name=f"{name}_norm")(values)
    values = _ACTIVATIONS[params.activation](name=f"{name}_activation")(values)
    return _POOLS[params.pool](2, name=f"{name}_pool")(values)


def _initializer(params: CnnParams) -> str:
    return "he_normal" if params.activation.endswith("relu") else "glorot_uniform"
