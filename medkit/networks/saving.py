"""How a network is kept: a description in JSON, weights in HDF5, and the hash of these.

Nothing of a network is code: the plugin that wrote it builds it again and reads its weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medkit.errors import TrainingError
from medkit.networks.outputs import gives_labels
from medkit.networks.weightfile import read_weights
from medkit.workspace import hash_file, move_into_place, read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    import keras

_FORMAT = 2
_DESCRIPTION = "network.json"
_WEIGHTS = "network.weights.h5"  # Keras wants this ending


def save_network(folder: Path, description: Mapping[str, Any], network: keras.Model) -> None:
    """Write a network into a folder; the description is written last.

    Parameters
    ----------
    folder : Path
        Existing. Gets ``network.json`` and ``network.weights.h5``.
    description : mapping
        What the plugin needs to build the network again, as JSON can say it. The shape of an
        image, the number of classes, and whether an image has several labels are added as
        ``shape``, ``classes`` and ``several``.
    network : keras.Model
        Its optimiser is not kept.
    """
    beside = folder / f".part.{_WEIGHTS}"
    network.save_weights(beside, overwrite=True)
    move_into_place(beside, folder / _WEIGHTS)
    write_json(
        folder / _DESCRIPTION,
        {
            **description,
            "format": _FORMAT,
            "shape": network.input_shape[1:],
            "classes": network.output_shape[-1],
            "several": gives_labels(network),
            "files": {_WEIGHTS: hash_file(folder / _WEIGHTS)},
        },
    )


def read_description(folder: Path) -> dict[str, Any]:
    """Return what `save_network` wrote: the description, ``shape``, ``classes`` and ``several``.

    Raises
    ------
    WorkspaceError
        If it is missing or damaged.
    TrainingError
        If it is of another format.
    """
    path = folder / _DESCRIPTION
    description = read_json(path)
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        raise TrainingError(
            f"{path} is not of format {_FORMAT}, which this version of medkit reads; train again, "
            "or use the version that wrote it"
        )
    # Those of before do not say it: they are all of one label an image.
    return {"several": False, **description}


def load_weights(folder: Path, network: keras.Model) -> None:
    """Give a network that was built again the weights that lie beside its description.

    Raises
    ------
    TrainingError
        If they are missing, are not those that were saved, are more than plain numbers, or are
        of another network.
    """
    path = folder / _WEIGHTS
    expected = read_description(folder).get("files", {}).get(_WEIGHTS)
    if path.is_file() and hash_file(path) != expected:
        raise TrainingError(
            f"{path} does not hold the weights that were saved: its hash is not the one in "
            f"{_DESCRIPTION}; restore the folder from a copy, or train again"
        )
    read_weights(path, network)
