"""The images a run was surest of, wrong and right, with pictures and with what decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medkit.errors import ImageSetError
from medkit.evaluation.pictures import draw_picture, encode, lay_over, name_place
from medkit.evaluation.saliency import Saliency
from medkit.statistics.truth import read_truth

if TYPE_CHECKING:
    from medkit.images.reader import Images

_MOST = 12
_MOST_RIGHT = 4
_MOST_OF_A_PERSON = 2
_BURNED_IN = "its header says that text is burned into it"


@dataclass(frozen=True)
class Example:
    """One image and what became of it; its texts come from files: escape them.

    Attributes
    ----------
    true, predicted : str
        Names of classes; of several labels such as ``Mass`` and ``no Mass``.
    asked : str
        The class that the picture is coloured for: the predicted one, or the label.
    confidence, confidence_in_truth : float
        Probabilities given to the predicted and to the true class.
    fold : int
    person : str
        Opaque.
    path, frame, uid
        Where the image is from; ``uid`` is its SOPInstanceUID where it has one.
    picture : str or None
        ``data:`` URI.
    no_picture : str
        Why there is none.
    overlay : str or None
        The same picture, coloured by what speaks for the predicted class and against it.
    place : str
        Where it is that most speaks for it, in words; may be empty.
    """

    true: str
    predicted: str
    asked: str
    confidence: float
    confidence_in_truth: float
    fold: int
    person: str
    path: str
    frame: int
    uid: str | None
    picture: str | None
    no_picture: str
    overlay: str | None
    place: str


@dataclass(frozen=True)
class Examples:
    """Images a report shows: the wrong ones it was surest of, and some right ones beside them."""

    wrong: list[Example]
    right: list[Example]
    saliency: Saliency


def find_examples(
    predictions: pd.DataFrame,
    images: Images | None,
    why: str,
    explain: Callable[[pd.DataFrame], Saliency],
) -> Examples:
    """Return up to 12 mistakes and 4 right answers with the highest probability, two a person.

    Parameters
    ----------
    predictions : DataFrame
        ``predictions.parquet`` of a run.
    images : Images or None
        All images of the set, for the pictures.
    why : str
        Why ``images`` is None.
    explain : callable
        Takes the rows that will be shown with a picture.
    """
    wrong, right = choose_examples(predictions)
    shown = pd.concat([wrong, right])
    if images is None:
        saliency = Saliency(note=why)
    else:
        burned_in = images.table["BurnedInAnnotation"].iloc[shown["image"]] == "YES"
        saliency = explain(shown[~burned_in.to_numpy(bool)])
    wrongs, rights = (
        [_describe(row, images, why, saliency) for row in _rows(part)] for part in (wrong, right)
    )
    return Examples(wrongs, rights, saliency)


def unroll(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return a row for each of several labels of each image, where it is known.

    ``label`` and ``predicted`` are then such as ``Mass`` and ``no Mass``, ``asked`` is the label
    that the row is about, and ``confidence`` the probability of what is predicted.
    """
    truth = read_truth(predictions["label"], classes, several=True)
    given = read_truth(predictions["predicted"], classes, several=True)
    parts = []
    for column, name in enumerate(classes):
        words = np.array([f"no {name}", name], dtype=object)
        known = truth[:, column] >= 0
        stated = predictions[f"p:{name}"].to_numpy(np.float64)
        decided = given[:, column]
        part = predictions.assign(
            label=words[truth[:, column]],
            predicted=words[decided],
            asked=name,
            confidence=np.where(decided == 1, stated, 1 - stated),
        )
        parts.append(part[known])
    return pd.concat(parts, ignore_index=True)


def choose_examples(predictions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of the mistakes, and of the right answers, that were the surest."""
    table = predictions
    if "confidence" not in table:
        confidence = np.zeros(len(predictions))
        for name in predictions["predicted"].unique():
            named = (predictions["predicted"] == name).to_numpy()
            confidence[named] = predictions.loc[named, f"p:{name}"]
        table = predictions.assign(confidence=confidence, asked=predictions["predicted"])
    is_right = table["predicted"] == table["label"]
    right = [_pick(part, 1) for _, part in table[is_right].groupby("label", sort=True)]
    # The surest of each class, then the second surest of each.
    nth = [part.assign(nth=range(len(part))) for part in right]
    rights = pd.concat(nth).sort_values(["nth", "label"]).drop(columns="nth") if nth else table[:0]
    wrong = _pick(table[~is_right], _MOST_OF_A_PERSON)
    rights = rights[~rights["image"].isin(wrong["image"])].drop_duplicates("image")
    return wrong, rights.head(_MOST_RIGHT)


def _pick(table: pd.DataFrame, of_a_person: int) -> pd.DataFrame:
    table = table.sort_values(["confidence", "image"], ascending=[False, True])
    # Of several labels an image is shown by the one that it is surest of.
    table = table.drop_duplicates("image")
    return table[table.groupby("person").cumcount() < of_a_person].head(_MOST)


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _describe(row: dict[str, Any], images: Images | None, why: str, saliency: Saliency) -> Example:
    source = {} if images is None else images.table.iloc[row["image"]].to_dict()
    picture = overlay = None
    place = ""
    if images is not None:
        picture, overlay, place, why = _draw(images, int(row["image"]), source, saliency)
    return Example(
        true=row["label"],
        predicted=row["predicted"],
        asked=row["asked"],
        confidence=row["confidence"],
        confidence_in_truth=_trust(row),
        fold=int(row["fold"]),
        person=row["person"],
        path=row["path"],
        frame=int(row["frame"]),
        uid=uid if isinstance(uid := source.get("SOPInstanceUID"), str) else None,
        picture=picture,
        no_picture=why,
        overlay=overlay,
        place=place,
    )


def _trust(row: dict[str, Any]) -> float:
    """Return the probability of the truth; of one of several labels there are two answers."""
    if row["label"] == row["predicted"]:
        return float(row["confidence"])
    if row["asked"] != row["predicted"] or f"p:{row['label']}" not in row:
        return 1 - float(row["confidence"])
    return float(row[f"p:{row['label']}"])


def _draw(
    images: Images, image: int, source: dict[Any, Any], saliency: Saliency
) -> tuple[str | None, str | None, str, str]:
    """Return a picture, its overlay, where that is greatest, and why there is no picture."""
    # PS3.3 C.7.6.1.1: YES means that the pixels identify the patient.
    if source["BurnedInAnnotation"] == "YES":
        return None, None, "", _BURNED_IN
    try:
        codes = images.codes(image)
    except ImageSetError as error:
        return None, None, "", str(error)
    picture = draw_picture(codes, source)
    strengths, overlay, place = saliency.maps.get(image), None, ""
    if strengths is not None:
        size, box = codes.shape[:2], source["pad_box"]
        overlay = encode(lay_over(picture, strengths, size, box), exact=False)
        place = name_place(strengths, size, box)
    return encode(picture), overlay, place, ""
