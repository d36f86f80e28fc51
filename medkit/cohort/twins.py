"""Pictures of two persons that are nearly one: searched once a set, then told of any folds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medkit.cohort.nearness import SMALL, find_near
from medkit.cohort.signatures import sign_images
from medkit.engine import Progress, silent
from medkit.errors import WorkspaceError
from medkit.workspace import read_json, write_json

if TYPE_CHECKING:
    from medkit.cohort.folds import Folds
    from medkit.images.imageset import ImageSet

# Of the search: another number where another search would find other pairs.
VERSION = 1
# Pairs that are told, and of the same two persons: slices of a volume that was copied are many.
_TOLD, _OF_TWO = 100, 3


def search_set(image_set: ImageSet, folder: Path, progress: Progress = silent) -> dict[str, Any]:
    """Return all nearly equal pictures of different persons in a set, as JSON.

    Found once, and kept as ``ID.near.json`` in a folder, by the content of the set.

    Parameters
    ----------
    image_set : ImageSet
    folder : Path
        Where results are kept; the caller holds the workspace's lock.
    progress : callable
        Is told of images.

    Returns
    -------
    dict
        made_from, images (that were compared), plain (that show too little), threshold, and
        pairs: each image, image, likeness, how.
    """
    path = folder / f"{image_set.id}.near.json"
    made_from = {"set": image_set.id, "version": VERSION}
    known = _read(path)
    if known.get("made_from") == made_from:
        return known
    images = image_set.images()
    table = images.table.reset_index(drop=True)
    signatures = sign_images(images, progress)
    signatures.plain[table["constant"].to_numpy(bool)] = True
    # Whoever has no person is in no fold, and is nobody's twin.
    signatures.plain[table["split_group"].isna().to_numpy()] = True
    threshold, pairs = find_near(
        signatures,
        table["split_group"].fillna("").to_numpy(dtype=str),
        table["source_sha256"].to_numpy(dtype=str),
        table[["Rows", "Columns"]].min(axis=1).lt(SMALL).to_numpy(dtype=bool),
        progress,
    )
    number = table["image"].tolist()
    content = {
        "made_from": made_from,
        "images": int((~signatures.plain).sum()),
        "plain": int(signatures.plain.sum()),
        "threshold": threshold,
        "pairs": [[number[one.first], number[one.second], one.likeness, one.how] for one in pairs],
    }
    write_json(path, content)
    return content


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path)) if path.exists() else {}
    except (WorkspaceError, TypeError, ValueError):  # it is found again
        return {}


def describe_near(found: dict[str, Any], images: pd.DataFrame, folds: Folds) -> dict[str, Any]:
    """Return what of a search stands in two folds, or under two labels.

    Parameters
    ----------
    found : dict
        As of `search_set`.
    images : DataFrame
        The set's table: image, path, pixels_sha256.
    folds : Folds
        What is held out counts as one more fold.

    Returns
    -------
    dict
        images, plain, threshold; count (of pairs); persons (that have one); and pairs, the likest
        first: 100 at most and 3 of the same two persons, each with images, folds, persons, labels,
        paths, distance (1 - likeness) and how.
    """
    facts = folds.everybody.merge(images[["image", "path", "pixels_sha256"]], on="image")
    facts = facts[["image", "split_group", "label", "fold", "path", "pixels_sha256"]]
    table = pd.DataFrame(found["pairs"], columns=["first", "second", "likeness", "how"])
    table = table.astype({"first": np.int64, "second": np.int64})
    table = table.merge(facts, left_on="first", right_on="image")
    table = table.merge(facts, left_on="second", right_on="image", suffixes=("", "_2"))
    apart = (table["fold"] != table["fold_2"]) | (table["label"] != table["label_2"])
    # The same person has joined since, or equal pixels: these are said to be exact.
    other = table["split_group"] != table["split_group_2"]
    unequal = table["pixels_sha256"] != table["pixels_sha256_2"]
    table = table[apart & other & unequal]
    table = table.sort_values(["likeness", "first", "second"], ascending=[False, True, True])
    told = table.groupby(["split_group", "split_group_2"]).head(_OF_TWO).head(_TOLD)
    persons = np.unique(table[["split_group", "split_group_2"]].to_numpy(dtype=str))
    return {
        **{name: found[name] for name in ("images", "plain", "threshold")},
        "count": len(table),
        "persons": len(persons),
        "pairs": [_describe(row) for row in told.to_dict("records")],
    }


def _describe(row: dict[Any, Any]) -> dict[str, Any]:
    both = {"persons": "split_group", "labels": "label", "folds": "fold", "paths": "path"}
    return {
        "images": [int(row["first"]), int(row["second"])],
        **{name: [row[column], row[f"{column}_2"]] for name, column in both.items()},
        "distance": round(1 - row["likeness"], 4),
        "how": row["how"],
    }
