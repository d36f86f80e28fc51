"""What is known of images without looking at what they show: header, file, date, and border."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.cohort.signatures import SIDE, shrink_images
from medkit.engine import Progress, silent

if TYPE_CHECKING:
    from medkit.images.reader import Images

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# What a field tells of, as a sentence goes on after "may be teaching".
SCANNER, PLACE, FORM, TIME, PERSON, BORDER = (
    "the scanner",
    "where images come from",
    "how files were made",
    "when images were taken",
    "who was examined",
    "the border of the image",
)
_TEXTS = {
    "Manufacturer": SCANNER,
    "ManufacturerModelName": SCANNER,
    "Modality": SCANNER,
    "SOPClassUID": SCANNER,
    "units": SCANNER,
    "source": PLACE,
    "TransferSyntaxUID": FORM,
    "PhotometricInterpretation": FORM,
    "array": FORM,
    "lossy": FORM,
    "polarity": FORM,
    "VOILUTFunction": FORM,
    "BurnedInAnnotation": FORM,
    "PatientSex": PERSON,
}
_NUMBERS = {
    "Rows": FORM,
    "Columns": FORM,
    "BitsStored": FORM,
    "full_low": FORM,
    "full_high": FORM,
    "WindowCenter": FORM,
    "WindowWidth": FORM,
    "padding_share": FORM,
}
_DAYS_OF_AGE = {"Y": 365.25, "M": 30.44, "W": 7.0, "D": 1.0}

# A number with more values than this is cut into so many parts of equal size.
_PARTS = 8
# Values of a text that are told apart, the commonest; and persons that make one.
_VALUES, _PERSONS = 40, 3
MISSING, RARE = "not given", "another value"

_EDGE = 4  # pixels of SIDE that a border is wide
_BRIGHT = 0.95  # of the range of an image: markers and text are so bright
VIEWS = {"border": 16, "small": 8}  # pixels that are left along each side


@dataclass(frozen=True, eq=False)
class Field:
    """One thing that is known of every image.

    Attributes
    ----------
    name : str
    tells : str
        Of what, for a sentence.
    values : tuple of str
        Text from files.
    codes : ndarray of int64, shape (n,)
        Which of the values each image has.
    """

    name: str
    tells: str
    values: tuple[str, ...]
    codes: Ints


@dataclass(frozen=True, eq=False)
class Glance:
    """What is left of images after a glance.

    Attributes
    ----------
    border : DataFrame
        Numbers of the border of each image: its mean and deviation, and its bright share.
    views : dict of str to ndarray of float32, shape (n, d)
        Pixels of the ``"border"``, and of the whole image, ``"small"``.
    """

    border: pd.DataFrame
    views: dict[str, Floats]


def list_fields(table: pd.DataFrame, border: pd.DataFrame | None = None) -> list[Field]:
    """Return the fields of images that differ between them.

    Parameters
    ----------
    table : DataFrame
        Rows of a set's table; columns that it lacks are passed over. Values are cut into parts by
        the images alone, whatever their labels.
    border : DataFrame, optional
        Numbers of the same images (`Glance`).
    """
    persons = table["split_group"].astype(str).to_numpy()
    fields = [
        _name(column, tells, table[column], persons)
        for column, tells in _TEXTS.items()
        if column in table
    ]
    numbers = [(name, tells, _read(table, name)) for name, tells in _NUMBERS.items()]
    numbers += [(name, tells, read(table)) for name, (tells, read) in _DERIVED.items()]
    if border is not None:
        numbers += [(str(name), BORDER, border[name]) for name in border]
    fields += [_cut(name, tells, values, persons) for name, tells, values in numbers]
    return [field for field in fields if len(field.values) > 1]


def glance(images: Images, progress: Progress = silent) -> Glance:
    """Read images once, and keep what a glance at them would."""
    count = len(images)
    facts = np.empty((count, 3))
    views = {name: np.empty((count, _count(name)), np.float32) for name in VIEWS}
    slopes, intercepts = (images.table[name].to_numpy(float) for name in ("slope", "intercept"))
    edge = _ring(SIDE, _EDGE)

    def keep(places: Ints, grey: Floats) -> None:
        real = grey * slopes[places][:, None, None] + intercepts[places][:, None, None]
        low, high = real.min(axis=(1, 2)), real.max(axis=(1, 2))
        around = real[:, edge]
        bright = around > (low + _BRIGHT * (high - low))[:, None]
        facts[places] = np.stack([around.mean(1), around.std(1), bright.mean(1)], axis=1)
        for name, side in VIEWS.items():
            step = SIDE // side
            pooled = real.reshape(len(real), side, step, side, step).mean(axis=(2, 4))
            shown = _ring(side, 2) if name == "border" else np.ones((side, side), bool)
            views[name][places] = pooled[:, shown]

    shrink_images(images, keep, progress)
    names = ["border mean", "border deviation", "border bright share"]
    return Glance(pd.DataFrame(facts, columns=names), views)


def _count(view: str) -> int:
    side = VIEWS[view]
    return int(_ring(side, 2).sum()) if view == "border" else side * side


def _ring(side: int, width: int) -> npt.NDArray[np.bool_]:
    ring = np.ones((side, side), bool)
    ring[width:-width, width:-width] = False
    return ring


def _read(table: pd.DataFrame, name: str) -> pd.Series[Any]:
    if name not in table:
        return pd.Series(np.nan, index=table.index)
    return pd.to_numeric(table[name], errors="coerce")


def _read_spacing(table: pd.DataFrame) -> pd.Series[Any]:
    known = table.get("PixelSpacing", pd.Series(None, index=table.index, dtype=object))
    first = [float(one[0]) if np.ndim(one) and len(one) else np.nan for one in known]
    return pd.Series(first, index=table.index)


def _read_date(table: pd.DataFrame) -> pd.Series[Any]:
    known = table.get("StudyDate", pd.Series(None, index=table.index, dtype=object))
    return pd.to_numeric(known.astype("string").str.replace("-", ""), errors="coerce")


def _read_age(table: pd.DataFrame) -> pd.Series[Any]:
    """Return ages in days (PS3.5 6.2, AS)."""
    known = table.get("PatientAge", pd.Series(None, index=table.index, dtype=object))
    parts = known.astype("string").str.extract(r"^(\d{3})([DWMY])$")
    return pd.to_numeric(parts[0], errors="coerce").astype(float) * parts[1].map(_DAYS_OF_AGE)


_DERIVED: dict[str, tuple[str, Callable[[pd.DataFrame], pd.Series[Any]]]] = {
    "PixelSpacing": (SCANNER, _read_spacing),
    "StudyDate": (TIME, _read_date),
    "PatientAge": (PERSON, _read_age),
}


def _cut(name: str, tells: str, numbers: pd.Series[Any], persons: npt.NDArray[Any]) -> Field:
    """Cut numbers into parts of about equal size; a few distinct ones stay as they are."""
    known = numbers.astype(float)
    if known.nunique() <= _PARTS:
        texts = known.map("{:g}".format, na_action="ignore")
        return _name(name, tells, texts, persons)
    values = known.to_numpy(np.float64)
    edges = np.unique(np.nanquantile(values, np.linspace(0, 1, _PARTS + 1)))
    parts = np.clip(np.searchsorted(edges, values, "right") - 1, 0, len(edges) - 2)
    spelled = np.array([f"{low:g} to {high:g}" for low, high in pairwise(edges)])
    texts = pd.Series(spelled[parts], index=numbers.index).where(known.notna())
    return _name(name, tells, texts, persons)


def _name(name: str, tells: str, texts: pd.Series[Any], persons: npt.NDArray[Any]) -> Field:
    """Tell the commonest values apart; what few persons have is one value together."""
    values = texts.astype("string").fillna(MISSING).to_numpy(dtype=str)
    table = pd.DataFrame({"value": values, "person": persons})
    holders = table.groupby("value")["person"].nunique()
    common = holders[holders >= _PERSONS].sort_values(ascending=False, kind="stable")
    kept = set(common.index[:_VALUES]) | ({MISSING} & set(values))
    shown = np.where(np.isin(values, sorted(kept)), values, RARE)
    names, codes = np.unique(shown, return_inverse=True)
    return Field(name, tells, tuple(map(str, names)), codes.astype(np.int64))
