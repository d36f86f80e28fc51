"""The frozen network: InceptionV3 up to a layer, whose maps are averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medkit.errors import TrainingError
from medkit_inception.backend import load_keras
from medkit_inception.weights import IMAGENET_FILE, RANDOM_SEED

if TYPE_CHECKING:
    import keras

    from medkit_inception.weights import Weights


def build_network(weights: Weights, layer: str, size: int) -> keras.Model:
    """Return the network, from images (n, size, size, 3) to averaged maps (n, maps).

    Raises
    ------
    TrainingError
        If the weights are of another network.
    """
    keras = load_keras()
    keras.config.set_image_data_format("channels_last")  # whatever the user's keras.json says
    whole = keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(size, size, 3)
    )
    if weights.path is None:
        _randomise(whole)
    else:
        _load(whole, weights)
    maps = whole.get_layer(layer).output
    network = keras.Model(whole.input, keras.layers.GlobalAveragePooling2D()(maps))
    # JAX is not usable without; on a CPU, TensorFlow gains nothing by XLA.
    network.jit_compile = keras.backend.backend() == "jax"
    return network


def _randomise(network: keras.Model) -> None:
    """Draw the kernels as He et al. (2015, arXiv:1502.01852), with NumPy: alike in all backends.

    Every layer keeps the size of its inputs, so that the last maps still differ; Keras's own
    choice shrinks them at each of 48 layers.
    """
    random = np.random.default_rng(RANDOM_SEED)
    for kernel in network.trainable_variables:
        if len(kernel.shape) == 4:  # the others are offsets of normalisation, which stay 0
            spread = np.sqrt(2 / np.prod(kernel.shape[:3]))
            kernel.assign(spread * random.standard_normal(kernel.shape, np.float32))


def _load(network: keras.Model, weights: Weights) -> None:
    # Keras may leave a layer as it is and only warn: what stays NaN was not in the file.
    network.set_weights([np.full_like(fresh, np.nan) for fresh in network.get_weights()])
    try:
        network.load_weights(weights.path)
        if any(np.isnan(value).any() for value in network.get_weights()):
            raise ValueError("weights of some layers are missing")
    except Exception as error:  # Keras and h5py raise many kinds for files of another structure
        raise TrainingError(
            f"{weights.name} does not hold weights of InceptionV3 without its top layer, such as "
            f"{IMAGENET_FILE}: {error}"
        ) from error
