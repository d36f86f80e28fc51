"""InceptionV3 up to a layer: frozen, with averaged maps, or with a head to train."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from medkit.errors import TrainingError
from medkit.networks.hardware import choose_policy, load_keras
from medkit.networks.outputs import make_output
from medkit.networks.weightfile import read_weights
from medkit.training.weights import INCEPTION_IMAGENET
from medkit_inception.weights import RANDOM_SEED

if TYPE_CHECKING:
    import keras

    from medkit_inception.weights import Weights

GATHER = "gather"


def build_extractor(weights: Weights, layer: str, size: int, precision: str) -> keras.Model:
    """Return the frozen network, from images (n, size, size, 3) to averaged maps (n, maps).

    Raises
    ------
    TrainingError
        If the weights are of another network.
    """
    keras = load_keras()
    base, policy = _build_base((size, size, 3), layer, weights), choose_policy(precision, None)
    if base.layers[1].dtype_policy.name != policy:  # the first one that computes
        base = _copy(base, policy)
    average = keras.layers.GlobalAveragePooling2D(dtype="float32", name=GATHER)
    network = keras.Model(base.input, average(base.output), name="inception")
    # JAX is not usable without; on a CPU, TensorFlow gains nothing by XLA.
    network.jit_compile = keras.backend.backend() == "jax"
    return network


def build_classifier(
    shape: tuple[int, int, int],
    classes: int,
    several: bool,
    layer: str,
    dropout: float,
    weights: Weights | None = None,
) -> keras.Model:
    """Return a network with a head on the averaged maps, in one graph, as Grad-CAM needs it.

    Parameters
    ----------
    shape : tuple of int
        (H, W, C) of an image.
    classes : int
        How many probabilities it gives.
    several : bool
        Whether an image has several labels; else the probabilities sum to 1.
    layer : str
        Whose maps the head sees.
    dropout : float
        Share of the averaged maps dropped in training.
    weights : Weights, optional
        Of all but the head; left to be loaded by default.

    Raises
    ------
    TrainingError
        If the weights are of another network.
    """
    keras = load_keras()
    base = _copy(_build_base(shape, layer, weights), keras.config.dtype_policy().name)
    values = keras.layers.GlobalAveragePooling2D(name=GATHER)(base.output)
    values = keras.layers.Dropout(dropout, name="dropout")(values)
    # Zeros, not drawn: what Keras draws depends on what was drawn before in this process.
    head = make_output(classes, several, kernel_initializer="zeros")
    return keras.Model(base.input, head(values), name="inception")


def train_blocks(network: keras.Model, layer: str, blocks: int) -> None:
    """Have the head trained, and so many mixed blocks, counted down from a layer.

    Normalisation is never trained: Keras then applies its stored statistics also in training, and
    leaves them as they are. Those of small batches would undo what the kernels were trained with.
    """
    keras = load_keras()
    last_frozen = _find_last_frozen(network, layer, blocks)
    for place, one in enumerate(network.layers):
        fixed = isinstance(one, keras.layers.BatchNormalization)
        one.trainable = place > last_frozen and not fixed


def _find_last_frozen(network: keras.Model, layer: str, blocks: int) -> int:
    """Return the place of the last layer below the blocks; layers are in the order of the graph."""
    names = [one.name for one in network.layers]
    below = int(layer.removeprefix("mixed")) - blocks
    if below >= 0:
        return names.index(f"mixed{below}")
    kinds = [type(one).__name__ for one in network.layers[: names.index("mixed0")]]
    return len(kinds) - 1 - kinds[::-1].index("MaxPooling2D")  # the stem ends with one


@lru_cache(maxsize=1)  # every fold and stage of fine-tuning starts from a copy of it
def _build_base(
    shape: tuple[int, int, int], layer: str, weights: Weights | None = None
) -> keras.Model:
    keras = load_keras()
    # The whole of it, also for a lower layer: files of weights are of the whole.
    whole = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=shape)
    if weights is not None:
        _fill(whole, weights)
    return keras.Model(whole.input, whole.get_layer(layer).output)


def _copy(network: keras.Model, policy: str) -> keras.Model:
    """Return the same network computing by a dtype policy, its layers named by kind and place.

    Keras would number them by all that was built before in this process, and the numbers end up
    in the file of the weights.
    """
    keras = load_keras()
    names = {
        one.name: one.name if one.name.startswith("mixed") else f"{type(one).__name__}_{place}"
        for place, one in enumerate(network.layers)
    }

    def copy(one: Any) -> Any:
        config = {**one.get_config(), "name": names[one.name].lower(), "dtype": policy}
        return type(one).from_config(config)

    images = keras.Input(network.input_shape[1:], name="images")
    copied = keras.models.clone_model(network, input_tensors=images, clone_function=copy)
    copied.set_weights(network.get_weights())
    return copied


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


def _fill(network: keras.Model, weights: Weights) -> None:
    if weights.path is None:
        return _randomise(network)
    try:
        read_weights(weights.path, network)
    except TrainingError as error:
        raise TrainingError(
            f"weights={weights.name}: give weights of InceptionV3 without its top layer, such as "
            f"{INCEPTION_IMAGENET.file}: {error}"
        ) from error
