"""A trained network: what it says of images, and how it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.errors import TrainingError
from medkit.training.params import restore_params
from medkit.workspace import read_json, write_json
from medkit_cnn import CnnParams
from medkit_cnn.network import build_network

if TYPE_CHECKING:
    import keras

    from medkit.images.reader import Images

_DESCRIPTION = "network.json"
_WEIGHTS = "network.weights.h5"  # Keras wants this ending
_BATCH = 64


class CnnModel:
    """A network and the view it was trained on.

    Parameters
    ----------
    params : CnnParams
        What the network was built from.
    network : keras.Model
        From `build_network`.
    """

    def __init__(self, params: CnnParams, network: keras.Model) -> None:
        self.params = params
        self.network = network

    def predict_proba(self, images: Images) -> npt.NDArray[np.float64]:
        """Return an array (n, classes) whose rows sum to 1."""
        return predict(self.network, images.with_view(**self.params.view))

    def save(self, folder: Path) -> None:
        """Write the description as JSON and the weights as HDF5."""
        description = {
            "format": 1,
            "params": asdict(self.params),
            "shape": self.network.input_shape[1:],
            "classes": self.network.output_shape[-1],
        }
        write_json(folder / _DESCRIPTION, description)
        self.network.save_weights(folder / _WEIGHTS)


def load_model(folder: Path) -> CnnModel:
    """Return the model that `CnnModel.save` wrote.

    Raises
    ------
    TrainingError
        If the weights are missing, or are not of the network that the description gives.
    WorkspaceError
        If the description is missing or damaged.
    """
    description = read_json(folder / _DESCRIPTION)
    params = restore_params(CnnParams, description["params"])
    network = build_network(params, tuple(description["shape"]), description["classes"])
    try:
        network.load_weights(folder / _WEIGHTS)
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(
            f"{folder / _WEIGHTS} does not hold the weights of the network beside it: {error}"
        ) from None
    return CnnModel(params, network)


def predict(
    network: keras.Model, pixels: Images | npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return the probabilities of each image, shape (n, classes)."""
    # Batches of one shape, the last one filled up: a row must not depend on its neighbours.
    found = [np.asarray(network.predict_on_batch(batch))[:count] for batch, count in _cut(pixels)]
    rows = np.concatenate([np.empty((0, network.output_shape[-1])), *found])
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))


def _cut(pixels: Any) -> Iterator[tuple[npt.NDArray[np.float32], int]]:
    for start in range(0, len(pixels), _BATCH):
        batch = pixels[start : start + _BATCH]
        filler = np.zeros((_BATCH - len(batch), *batch.shape[1:]), np.float32)
        yield np.concatenate([batch, filler]), len(batch)
