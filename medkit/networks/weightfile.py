"""Files of weights from elsewhere: nothing reaches Keras that is not plain numbers in one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medkit.errors import TrainingError

if TYPE_CHECKING:
    import h5py
    import keras

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ARCHIVE = b"PK"
# InceptionV3 has some 800 groups and datasets.
_MOST_OBJECTS = 100_000


def read_weights(path: Path, network: keras.Model) -> None:
    """Give a network the weights of a file, all of them, after the file was looked at.

    Parameters
    ----------
    path : Path
        HDF5, as ``save_weights`` writes it, or by topology, as Keras publishes its weights.
    network : keras.Model
        Of the structure whose weights these are; it is not to be used if this fails.

    Raises
    ------
    TrainingError
        If the file is missing, is refused by `check_file`, or holds no weights of this network.
    """
    check_file(path)
    # Keras may leave a layer as it is and only warn: what stays NaN was not in the file.
    network.set_weights([np.full_like(fresh, np.nan) for fresh in network.get_weights()])
    try:
        network.load_weights(path)
        if any(np.isnan(value).any() for value in network.get_weights()):
            raise ValueError("weights of some layers are missing or no numbers")
    except Exception as error:  # Keras and h5py raise many kinds for files of another structure
        raise TrainingError(f"{path} does not hold the weights of this network: {error}") from error


def check_file(path: Path) -> None:
    """Refuse a file of weights that is more, or less, than plain numbers in HDF5.

    A model in an archive (``.keras``) can hold code: Lambda layers, functions, a TensorFlow graph.
    HDF5 can point to other files, which would be read in the user's name, by external and soft
    links, virtual datasets and external storage; and a small file can declare a huge array.

    Raises
    ------
    TrainingError
        If it is, naming what was found.
    """
    if not path.is_file():
        raise TrainingError(f"{path} does not hold the weights of a network: there is no such file")
    with path.open("rb") as handle:
        head = handle.read(len(_SIGNATURE))
    if head.startswith(_ARCHIVE):
        raise TrainingError(
            f"{path} is refused: it is an archive, as .keras models are, which can hold code; "
            "give weights alone, as network.save_weights('NAME.weights.h5') writes them"
        )
    if head != _SIGNATURE:
        raise TrainingError(
            f"{path} does not hold the weights of a network: it is no HDF5 file, or a damaged one"
        )
    try:
        _check_content(path)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is refused: it cannot be read as HDF5: {error}") from error


def look_into(path: Path) -> tuple[bool, list[tuple[int, ...]]]:
    """Return whether the arrays lie by topology, and their shapes; a hostile file is refused.

    Keras reads the layout by topology from ``.h5``, and its own from ``.weights.h5``.
    """
    check_file(path)
    import h5py

    with h5py.File(path, "r") as file:
        shapes = [item.shape for _, item in _walk(file) if isinstance(item, h5py.Dataset)]
        return "layer_names" in file.attrs, shapes


def _check_content(path: Path) -> None:
    import h5py

    size, declared = path.stat().st_size, 0
    with h5py.File(path, "r") as file:
        for number, (name, item) in enumerate(_walk(file)):
            if number >= _MOST_OBJECTS:
                raise TrainingError(f"{path} is refused: it has over {_MOST_OBJECTS:,} objects")
            if isinstance(item, h5py.Dataset):
                declared += _measure(path, name, item)
            if declared > size:
                raise TrainingError(
                    f"{path} is refused: its arrays declare {declared:,} bytes or more, and the "
                    f"file has {size:,}; weights are stored as they are, not compressed"
                )


def _walk(file: h5py.File) -> Iterator[tuple[str, Any]]:
    """Yield the names of all objects, and each object once, whatever links lead to it."""
    import h5py

    seen, waiting = {h5py.h5o.get_info(file.id).addr}, [("", file)]
    while waiting:
        prefix, group = waiting.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                kind = type(link).__name__
                raise TrainingError(
                    f"{file.filename} is refused: {f'{prefix}/{name}'!a} is no object but "
                    f"points elsewhere ({kind})"
                )
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address not in seen:
                seen.add(address)
                yield f"{prefix}/{name}", item
                if isinstance(item, h5py.Group):
                    waiting.append((f"{prefix}/{name}", item))


def _measure(path: Path, name: str, dataset: h5py.Dataset) -> int:
    """Return the bytes that a dataset declares, if these are numbers in this file."""
    found = {
        "is put together from other datasets (virtual)": dataset.is_virtual,
        "is stored in other files (external)": bool(dataset.external),
        f"is of {dataset.dtype}, not numbers": dataset.dtype.kind not in "fiub",
        "is empty": dataset.shape is None,
    }
    for reason, present in found.items():
        if present:
            raise TrainingError(f"{path} is refused: {name!a} {reason}")
    return int(dataset.dtype.itemsize) * int(np.prod(dataset.shape, dtype=object))
