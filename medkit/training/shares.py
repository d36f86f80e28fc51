"""Features that several children compute at once, each a share of the batches.

    runs/NAME/features/share-K-of-N/    a store like that of the workspace, of one share

A share is batches as one child would have made them, so that each row is the same, bit for bit.
Once all are there, one child takes their rows over into the store of the workspace, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medkit.training.features import BATCH, compute_features, find_missing, name_key
from medkit.training.rowfiles import RowFile, open_rows
from medkit.workspace import remove_folder

if TYPE_CHECKING:
    from medkit.images.reader import Images

Extract = Callable[["Images"], Any]


def share_folder(run: Path, number: int, total: int) -> Path:
    """Return the folder of the K-th of N shares."""
    return run / "features" / f"share-{number}-of-{total}"


def remove_shares(run: Path, but: int = 0) -> None:
    """Remove the shares of a run, but those that are of so many."""
    for share in run.glob("features/share-*"):
        if not share.name.endswith(f"-of-{but}"):
            remove_folder(share)


def compute_share(
    images: Images,
    store: Path,
    run: Path,
    part: tuple[int, int],
    origin: Mapping[str, Any],
    extract: Extract,
    progress: Callable[[int, int, str], None],
) -> None:
    """Compute the K-th of N shares of the features that a store has not.

    Parameters
    ----------
    images, store, origin, extract, progress
        As `compute_features` takes them; the store stays as it is.
    run : Path
        The run's folder.
    part : tuple of int
        K, from 0, and N.
    """
    number, total = part
    left = find_missing(images, store, origin)
    batches = -(-len(left) // BATCH)
    first, last = (batches * one // total * BATCH for one in (number, number + 1))
    if mine := left[first:last].tolist():
        share = share_folder(run, number, total)
        compute_features(images.take(np.array(mine)), share, origin, extract, progress)


def take_shares(run: Path, origin: Mapping[str, Any], extract: Extract) -> Extract:
    """Return a function that takes the features of a batch from its share, where there is one."""
    key = name_key(origin)
    bases = [share / key for share in sorted(run.glob("features/share-*"))]
    files = [(base, RowFile(base)) for base in bases if base.with_suffix(".npy").exists()]

    def take(images: Images) -> Any:
        names = images.hashes.tolist()
        for base, file in files:
            places = file.find(names)
            if len(places) == len(names):
                return open_rows(base)[[places[name] for name in names]]
        return extract(images)

    return take
