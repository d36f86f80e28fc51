"""Pictures of two persons that are nearly the same, side by side, for a person to judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medkit.evaluation.pages import render
from medkit.evaluation.sheets import HIDDEN, Thumbnail, draw_thumbnails, encode_thumbnail
from medkit.workspace import write_beside

if TYPE_CHECKING:
    from medkit.cohort.preparation import Prepared


def write_pairs(prepared: Prepared, path: Path) -> Path | None:
    """Write a page of what `medkit.cohort.twins` told, or remove one that stood there.

    Parameters
    ----------
    prepared : Prepared
        The set, its folds, and what was found.
    path : Path
        ``audits/KEY.html``.

    Returns
    -------
    Path or None
        None where there is nothing to show.
    """
    near = prepared.leaks.near or {"pairs": []}
    if not near["pairs"]:
        path.unlink(missing_ok=True)
        return None
    seen = np.unique([pair["images"] for pair in near["pairs"]]).astype(np.int64)
    thumbnails = draw_thumbnails(prepared.image_set.images(), seen, "header")
    pairs = [_describe(pair, thumbnails) for pair in near["pairs"]]
    html = render(
        "pairs.html.j2",
        name=prepared.image_set.name,
        key=prepared.folds.key,
        label=prepared.folds.label,
        near=near,
        pairs=pairs,
        hidden=HIDDEN,
    )
    with write_beside(path) as beside:
        beside.write_text(html, encoding="utf-8", newline="\n")
    return path


def _describe(pair: dict[str, Any], thumbnails: dict[int, Thumbnail]) -> dict[str, Any]:
    sides = [
        {
            "image": image,
            "picture": None if thumbnails[image].pixels is None else _encode(thumbnails[image]),
            "person": pair["persons"][side][:8],
            "label": pair["labels"][side],
            # As `Folds.describe` counts: what is held out is in none.
            "fold": "held out" if pair["folds"][side] < 0 else f"fold {pair['folds'][side]}",
            "path": pair["paths"][side],
        }
        for side, image in enumerate(pair["images"])
    ]
    return {"sides": sides, "likeness": 1 - pair["distance"], "how": pair["how"]}


def _encode(thumbnail: Thumbnail) -> str:
    assert thumbnail.pixels is not None
    return encode_thumbnail(thumbnail.pixels)
