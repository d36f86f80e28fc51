"""Where in an image a network finds what it decides by: its last maps, before they are averaged."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medkit.networks.hardware import load_keras

if TYPE_CHECKING:
    import keras

Floats = npt.NDArray[np.floating[Any]]


class Pooled(NamedTuple):
    """A network that averages maps over the image, and then weighs the averages.

    Attributes
    ----------
    maps : keras.Model
        From pixels (n, H, W, C) to the maps (n, h, w, d) that are averaged.
    dense : keras.layers.Dense or None
        The layer that follows; None where the network ends with the averages.
    """

    maps: keras.Model
    dense: Any

    def weigh(self, maps: Floats) -> Floats:
        """Return logits by place, shape (n, h, w, c), of maps (n, h, w, d)."""
        weights, *bias = (np.asarray(values, np.float64) for values in self.dense.get_weights())
        return np.asarray(maps @ weights + (bias[0] if bias else 0.0))


@lru_cache(maxsize=1)  # a network is traced anew for each model that is made of it
def open_pooled(network: keras.Model) -> Pooled | None:
    """Return the parts of a network of that kind; None if it is of another.

    Its last layer is a global average, or one dense layer on top of one, with a softmax or, of
    several labels, a sigmoid; dropout, which does nothing outside training, may lie between.
    """
    layers = load_keras().layers
    rest = list(network.layers)
    dense = rest.pop() if isinstance(rest[-1], layers.Dense) else None
    while dense is not None and rest and isinstance(rest[-1], layers.Dropout):
        rest.pop()
    last = rest[-1] if rest else None
    if not isinstance(last, layers.GlobalAveragePooling2D) or last.data_format != "channels_last":
        return None
    return Pooled(load_keras().Model(network.input, last.input), dense)


def shuffle_weights(network: keras.Model, seed: int) -> None:
    """Put the numbers inside each array of weights into a random order.

    The network keeps its build and the scale of every layer, and loses what it has learned.
    """
    random = np.random.default_rng(seed)
    shuffled = [
        random.permuted(np.asarray(values).ravel()).reshape(np.shape(values))
        for values in network.get_weights()
    ]
    network.set_weights(shuffled)
