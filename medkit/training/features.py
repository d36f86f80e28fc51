"""Features, computed once for all folds and kept by content.

    features/KEY.npy       a row for each distinct image, float32, ordered by the image's hash
    features/KEY.journal   while they are computed: a line a finished batch, with its hash
    features/KEY.json      once they are complete: shape, hash, and what they come from

Because row i depends on image i alone, sharing them between folds cannot leak. The key is a hash
of all they depend on: the pixels as the trainer sees them, what the trainer says of itself, its
version, and the environment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.errors import TrainingError, WorkspaceError
from medkit.workspace import hash_file, hash_json, read_json, write_json

if TYPE_CHECKING:
    from medkit.images.reader import Images

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

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
        Returns an array (n, d) for n images.
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
    hashes, first, rows = np.unique(images.hashes, return_index=True, return_inverse=True)
    key = hash_json({"origin": origin, "images": hashes.tolist()}, length=32)
    if not _is_complete(store, key):
        store.mkdir(parents=True, exist_ok=True)
        _compute(images.take(first), store / key, extract, progress)
        _complete(store / key, origin)
    return key, rows.astype(np.int64)


def open_features(store: Path, key: str) -> Floats:
    """Return complete features as a memory map, a row a distinct image."""
    mapped: Floats = np.load(store / f"{key}.npy", mmap_mode="r", allow_pickle=False)
    return mapped


def _is_complete(store: Path, key: str) -> bool:
    try:
        marker = read_json(store / f"{key}.json")
        return bool(marker["sha256"] == hash_file(store / f"{key}.npy"))
    except (WorkspaceError, OSError):
        return False


def _complete(base: Path, origin: Mapping[str, Any]) -> None:
    array = base.with_suffix(".npy")
    shape = np.load(array, mmap_mode="r").shape
    write_json(
        base.with_suffix(".json"),
        {"origin": origin, "shape": shape, "sha256": hash_file(array)},
    )
    base.with_suffix(".journal").unlink(missing_ok=True)


def _compute(
    images: Images,
    base: Path,
    extract: Callable[[Images], Any],
    progress: Callable[[int, int, str], None],
) -> None:
    """Fill ``KEY.npy`` batch by batch, but for those that a killed process has left whole."""
    array, whole = _reopen(base, len(images))
    for start in range(0, len(images), BATCH):
        stop = min(start + BATCH, len(images))
        if start not in whole:
            batch = images.take(np.arange(start, stop))
            values = _check(extract(batch), batch)
            if array is None:
                array = _start(base, (len(images), values.shape[1]))
            _store(array, start, values)
            with base.with_suffix(".journal").open("ab") as journal:
                journal.write(_spell_line(start, array[start:stop]))
        progress(stop, len(images), "images")


def _start(base: Path, shape: tuple[int, int]) -> Floats:
    base.with_suffix(".journal").unlink(missing_ok=True)
    return np.lib.format.open_memmap(base.with_suffix(".npy"), "w+", np.dtype("<f4"), shape)


def _store(array: Floats, start: int, values: Floats) -> None:
    if values.shape[1] != array.shape[1]:
        raise TrainingError(
            f"'features' gave {array.shape[1]} numbers an image, then {values.shape[1]}; "
            "every image has as many"
        )
    array[start : start + len(values)] = values
    array.flush()  # type: ignore[attr-defined] # a memory map


def _reopen(base: Path, count: int) -> tuple[Floats | None, set[int]]:
    """Return the array that a killed process left, and where its whole batches start."""
    try:
        lines = set(base.with_suffix(".journal").read_bytes().splitlines(keepends=True))
        array = np.lib.format.open_memmap(base.with_suffix(".npy"), "r+")
    except (OSError, ValueError):  # nothing there, or cut off before the first batch
        return None, set()
    starts = range(0, count, BATCH)
    # A line is believed if it is what the bytes of its batch say: pages can be lost with power.
    whole = {start for start in starts if _spell_line(start, array[start : start + BATCH]) in lines}
    return (array, whole) if whole and len(array) == count else (None, set())


def _spell_line(start: int, values: Floats) -> bytes:
    return f"{start} {hashlib.sha256(values.tobytes()).hexdigest()}\n".encode()


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
