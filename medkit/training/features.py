"""Features, computed once an image and kept by content.

    features/KEY.json      what they are of; its time of change tells when they were last used
    features/KEY.npy, KEY.journal     a row an image, by `medkit.training.rowfiles`

KEY is a hash of all that a row depends on besides the pixels: extractor, layer, weights, view and
environment. A row is found by the hash of its image, as `Images.hashes` gives it: of the pixels,
the window and the view. Folds, labels, cohorts, runs and trainers share them; because row i depends
on image i alone, sharing cannot leak. The workspace's lock lets one process compute at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.errors import TrainingError
from medkit.training.rowfiles import RowFile, open_rows
from medkit.workspace import hash_json, write_json

if TYPE_CHECKING:
    from medkit.images.reader import Images

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

FORMAT = 2
# Images of a batch. Fixed, because an image's last bits can depend on its neighbours in a batch.
BATCH = 128


def compute_features(
    images: Images,
    store: Path,
    origin: Mapping[str, Any],
    extract: Callable[[Images], Any],
    progress: Callable[[int, int, str], None],
) -> tuple[str, Rows]:
    """Make sure that the features of some images are in the store.

    Parameters
    ----------
    images : Images
        As the trainer sees them.
    store : Path
        The folder of features.
    origin : mapping
        JSON-able: all that the features depend on besides the pixels.
    extract : callable
        Returns an array (n, d) for n images. It is asked for those alone that the store has not.
    progress : callable
        Takes (done, total, unit).

    Returns
    -------
    key : str
        Under which `open_features` finds them.
    rows : ndarray of int64, shape (n,)
        The row of each image; equal images share one.

    Raises
    ------
    TrainingError
        If what ``extract`` returns is not finite numbers, a row an image.
    """
    if not len(images):
        raise TrainingError("there are no images to compute features of")
    hashes, first, inverse = np.unique(images.hashes, return_index=True, return_inverse=True)
    key = name_key(origin)
    write_json(store / f"{key}.json", {"format": FORMAT, "origin": origin})
    file = RowFile(store / key)
    places = file.find(hashes.tolist())
    left = [number for number, name in enumerate(hashes) if name not in places]
    progress(len(places), len(hashes), "images")
    for start in range(0, len(left), BATCH):
        batch = left[start : start + BATCH]
        chosen = images.take(first[batch])
        places |= file.append(hashes[batch].tolist(), _check(extract(chosen), chosen))
        progress(len(places), len(hashes), "images")
    return key, np.array([places[name] for name in hashes], dtype=np.int64)[inverse]


def name_key(origin: Mapping[str, Any]) -> str:
    """Return the name of the features that come from this."""
    return hash_json({"format": FORMAT, "origin": origin}, length=32)


def find_missing(images: Images, store: Path, origin: Mapping[str, Any]) -> Rows:
    """Return one position of each distinct image whose features are not in the store.

    They stand in the order in which `compute_features` asks for them.
    """
    hashes, first = np.unique(images.hashes, return_index=True)
    places = RowFile(store / name_key(origin)).find(hashes.tolist())
    return first[[name not in places for name in hashes]].astype(np.int64)


def open_features(store: Path, key: str) -> Floats:
    """Return features as a memory map, a row a distinct image.

    The rows that `compute_features` returned are whole; others may not be.
    """
    return open_rows(store / key)


def _check(values: Any, images: Images) -> Floats:
    values = np.asarray(values)
    if values.ndim != 2 or len(values) != len(images) or values.dtype.kind not in "fiu":
        raise TrainingError(
            f"'features' gave shape {values.shape} of {values.dtype} for {len(images)} images; "
            "it must give numbers, a row an image"
        )
    # Numbers that float32 cannot hold become infinite here, and are refused below.
    with np.errstate(over="ignore"):
        stored: Floats = values.astype("<f4")
    wrong = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if len(wrong):
        named = ", ".join(map(str, images.table["image"].iloc[wrong[:5]]))
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise TrainingError(
            f"'features' gave NaN or infinity for image {named}{more}; "
            "'medkit show' tells what they are"
        )
    return stored
