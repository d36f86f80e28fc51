"""The worst mistakes of a run: those it was surest of, with pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medkit.errors import ImageSetError
from medkit.evaluation.figures import draw_thumbnail

if TYPE_CHECKING:
    from medkit.images.reader import Images

_MOST = 12
_MOST_OF_A_PERSON = 2


@dataclass(frozen=True)
class Mistake:
    """One image in a wrong class; its texts come from files: escape them.

    Attributes
    ----------
    true, predicted : str
        Names of classes.
    confidence, confidence_in_truth : float
        Probabilities given to the predicted and to the true class.
    fold : int
    person : str
        Opaque.
    path, frame, uid
        Where the image is from; ``uid`` is its SOPInstanceUID where it has one.
    picture : str or None
        ``data:`` URI of a PNG.
    no_picture : str
        Why there is none.
    """

    true: str
    predicted: str
    confidence: float
    confidence_in_truth: float
    fold: int
    person: str
    path: str
    frame: int
    uid: str | None
    picture: str | None
    no_picture: str


def find_mistakes(predictions: pd.DataFrame, images: Images | None, why: str) -> list[Mistake]:
    """Return up to 12 images whose wrong class got the highest probability, two a person at most.

    Parameters
    ----------
    predictions : DataFrame
        ``predictions.parquet`` of a run.
    images : Images or None
        All images of the set, for the pictures.
    why : str
        Why ``images`` is None.
    """
    wrong = predictions[predictions["predicted"] != predictions["label"]]
    wrong = wrong.assign(confidence=[_probability(row, row["predicted"]) for row in _rows(wrong)])
    wrong = wrong.sort_values(["confidence", "image"], ascending=[False, True])
    wrong = wrong[wrong.groupby("person").cumcount() < _MOST_OF_A_PERSON].head(_MOST)
    return [_describe(row, images, why) for row in _rows(wrong)]


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _probability(row: dict[str, Any], name: str) -> float:
    return float(row[f"p:{name}"])


def _describe(row: dict[str, Any], images: Images | None, why: str) -> Mistake:
    source = {} if images is None else images.table.iloc[row["image"]].to_dict()
    picture = None
    if images is not None:
        picture, why = _draw(images, int(row["image"]), source)
    return Mistake(
        true=row["label"],
        predicted=row["predicted"],
        confidence=row["confidence"],
        confidence_in_truth=_probability(row, row["label"]),
        fold=int(row["fold"]),
        person=row["person"],
        path=row["path"],
        frame=int(row["frame"]),
        uid=source.get("SOPInstanceUID"),
        picture=picture,
        no_picture=why,
    )


def _draw(images: Images, image: int, source: dict[Any, Any]) -> tuple[str | None, str]:
    # PS3.3 C.7.6.1.1: YES means that the pixels identify the patient.
    if source["BurnedInAnnotation"] == "YES":
        return None, "its header says that text is burned into it"
    try:
        codes = images.codes(image)
    except ImageSetError as error:
        return None, str(error)
    bright = codes if source["slope"] >= 0 else -codes.astype(np.float64)
    return draw_thumbnail(bright, source["pad_box"]), ""
