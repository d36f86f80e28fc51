"""What values the images of a set have: every image is read once, and only numbers are kept.

Values are real-world ones: HU, counts, or what else the unit of an image is; of colour images the
luma of their three channels. What lies outside an image, and the padding inside of it, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.engine import Progress, silent
from medkit.images.arrays import split_name
from medkit.images.feeds import LUMA

if TYPE_CHECKING:
    from medkit.images.reader import Images

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Codes = npt.NDArray[Any]

_BINS = 1 << 16  # of a tally: half a megabyte
_DEEPEST = 50  # bits below the greatest value that a float64 tells apart
_FINEST = -1100  # an exponent below that of any float64: zeros alone ask for no more
_BLOCK_BYTES = 32 << 20
# Tukey, Exploratory Data Analysis (1977): beyond these many interquartile ranges is far out.
_FAR_OUT = 3.0
MOST_GROUPS = 24  # that have tallies: names of modalities are text from files, and may be many
_FEWEST = 8  # images of a group, or its quartiles mean nothing
_VISIBLE = 1e-3  # of the range of an image: a smaller difference is none that an eye could see

# Columns of a set's table that values are made by.
_NEEDED = (
    *("array", "slope", "intercept", "full_low", "full_high"),
    *("pad_box", "padding_share", "fill_value"),
)
MEASURES = ("mean", "low", "high", "least", "most", "levels", "pixels")


class Counted(NamedTuple):
    """Values in ascending order, and how often each occurs."""

    values: Floats
    counts: Integers

    def percentiles(self, shares: Sequence[float]) -> Floats:
        """Return the least values at or below which these shares (0 to 1) of all pixels lie."""
        reached = np.cumsum(self.counts)
        wanted = np.ceil(np.asarray(shares) * reached[-1])
        found: Floats = self.values[np.searchsorted(reached, np.maximum(wanted, 1))]
        return found

    @property
    def mean(self) -> float:
        """The mean of all pixels."""
        return float(self.values @ self.counts / self.counts.sum())


@dataclass
class Tally:
    """Counts of values in bins of one width, the least power of two with which 65,536 suffice.

    So a tally needs no look at the values before, takes any number of images in the same memory,
    and is the same whatever their order.

    Attributes
    ----------
    exponent : int
        Bins are ``2 ** exponent`` wide; the i-th starts at ``(first + i) * 2 ** exponent``.
    first : int
    counts : ndarray of int64
    """

    exponent: int = _FINEST
    first: int = 0
    counts: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    low: float = np.inf
    high: float = -np.inf

    @property
    def width(self) -> float:
        """How wide a bin is; where all values are zero, how wide it is drawn."""
        return math.ldexp(1, -_DEEPEST if self.exponent == _FINEST else self.exponent)

    def add(self, counted: Counted) -> None:
        """Count more values; they are finite."""
        self.low = min(self.low, float(counted.values[0]))
        self.high = max(self.high, float(counted.values[-1]))
        self.coarsen(_find_exponent(self.low, self.high))
        places = self._place(counted.values)
        self._widen(int(places[0]), int(places[-1]))
        np.add.at(self.counts, places - self.first, counted.counts)

    def _widen(self, first: int, last: int) -> None:
        """Have bins from one to another."""
        if len(self.counts):
            first = min(first, self.first)
            last = max(last, self.first + len(self.counts) - 1)
        if last - first + 1 > len(self.counts):
            widened = np.zeros(last - first + 1, np.int64)
            start = self.first - first if len(self.counts) else 0
            widened[start : start + len(self.counts)] = self.counts
            self.first, self.counts = first, widened

    def coarsen(self, exponent: int) -> None:
        """Merge bins until they are ``2 ** exponent`` wide."""
        steps = exponent - self.exponent
        if steps > 0 and len(self.counts):
            places = (self.first + np.arange(len(self.counts))) >> min(steps, 62)
            merged = np.zeros(places[-1] - places[0] + 1, np.int64)
            np.add.at(merged, places - places[0], self.counts)
            self.first, self.counts = int(places[0]), merged
        self.exponent = max(self.exponent, exponent)

    def merge(self, other: Tally) -> None:
        """Count what another tally has counted."""
        counted = other.counted()
        if len(counted.values):
            self.coarsen(other.exponent)
            self.add(counted)
            self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def counted(self) -> Counted:
        """Return the lower end of each bin that is not empty, and its count.

        Whole numbers, and whatever else the bins divide, come back as they are.
        """
        filled = np.flatnonzero(self.counts)
        values = np.ldexp((self.first + filled).astype(np.float64), self.exponent)
        return Counted(np.clip(values, self.low, self.high), self.counts[filled])

    def _place(self, values: Floats) -> Integers:
        places: Integers = np.floor(np.ldexp(values, -self.exponent)).astype(np.int64)
        return places


def _find_exponent(low: float, high: float) -> int:
    """Return the least exponent with which all values have a bin; it only grows with the range."""
    greatest = max(abs(low), abs(high))
    deepest = int(np.frexp(greatest)[1]) - _DEEPEST if greatest > 0 else _FINEST
    # With 18 bits below the range there are 131,072 bins or more.
    exponent = max(deepest, int(np.frexp(high - low)[1]) - 18) if high > low else deepest
    while np.floor(np.ldexp(high, -exponent)) - np.floor(np.ldexp(low, -exponent)) >= _BINS:
        exponent += 1
    return exponent


@dataclass(frozen=True)
class Group:
    """Images whose values mean the same: of one modality, in one unit, stored alike.

    Attributes
    ----------
    modality, units : str or None
        As in the set's table: text from files.
    array : str
        Type and channels of the codes, such as ``"uint16x1"``.
    rows : ndarray of int64
        Positions of its images in the table.
    """

    modality: str | None
    units: str | None
    array: str
    rows: Integers

    @property
    def colour(self) -> bool:
        """Whether its images are in colour."""
        return self.array.endswith("x3")


def group_images(table: pd.DataFrame) -> list[Group]:
    """Return the groups of a set's table, those with most images first."""
    keys = [table[name] for name in ("Modality", "units", "array")]
    numbers = table.groupby(keys, dropna=False, sort=True).ngroup().to_numpy()
    groups = []
    for number in range(numbers.max(initial=-1) + 1):
        rows = np.flatnonzero(numbers == number)
        modality, units, array = (_as_text(key.iloc[rows[0]]) for key in keys)
        groups.append(Group(modality, units, str(array), rows))
    return sorted(
        groups, key=lambda one: (-len(one.rows), one.modality or "", one.units or "", one.array)
    )


def _as_text(value: Any) -> str | None:
    return None if pd.isna(value) else str(value)


@dataclass(frozen=True)
class Survey:
    """What was measured.

    Attributes
    ----------
    measures : DataFrame
        A row an image of the table, in its order; NaN where it was not measured. ``mean``,
        ``low`` and ``high`` (1st and 99th percentile), ``least`` and ``most`` are real-world
        values; ``levels`` counts the values of the source that occur, NaN in floating point;
        ``pixels`` the pixels that were measured.
    tallies : dict
        By (number of the group, class), a Tally.
    """

    measures: pd.DataFrame
    tallies: dict[tuple[int, str], Tally]


def survey_images(
    images: Images,
    groups: Sequence[Group],
    classes: Sequence[str],
    chosen: Integers,
    progress: Progress = silent,
) -> Survey:
    """Read images once, and measure them.

    Parameters
    ----------
    images : Images
        Of the set; the view does not matter.
    groups : sequence of Group
        Of their table. The first 24 have tallies.
    classes : sequence of str
        The class of each image; a tally is kept of each, so they are few.
    chosen : ndarray of int64
        Positions of the images to measure.
    """
    group_of = np.zeros(len(images), np.int64)
    for number, group in enumerate(groups):
        group_of[group.rows] = number
    numbers = np.full((len(images), len(MEASURES)), np.nan)
    tallies: dict[tuple[int, str], Tally] = {}
    # Not a dictionary an image: a table of a million would not fit the memory.
    columns = {name: images.table[name].to_numpy() for name in _NEEDED}
    for done, (position, codes) in enumerate(read_codes(images, chosen), 1):
        row = {name: values[position] for name, values in columns.items()}
        counted, levels = count_values(codes, row)
        numbers[position] = _measure(counted, levels)
        if group_of[position] < MOST_GROUPS:
            key = int(group_of[position]), classes[position]
            tallies.setdefault(key, Tally()).add(counted)
        progress(done, len(chosen), "images")
    return Survey(pd.DataFrame(numbers, columns=list(MEASURES)), tallies)


def read_codes(images: Images, chosen: Integers) -> Iterator[tuple[int, Codes]]:
    """Yield position and stored codes of images, array by array in the order that they lie in.

    While some are looked at, the next are being read.
    """
    names = images.table["array"].to_numpy(dtype=str)
    stored = images.table["row"].to_numpy(dtype=np.int64)
    waiting: list[tuple[Integers, Callable[[], Codes]]] = []
    for name in np.unique(names[chosen]):
        places = chosen[names[chosen] == name]
        places = places[np.argsort(stored[places])]
        for start in range(0, len(places), _block_length(str(name), images.source.size)):
            block = places[start : start + _block_length(str(name), images.source.size)]
            waiting.append((block, images.source.request(str(name), stored[block])))
            if len(waiting) > 1:
                yield from _fetch(*waiting.pop(0))
    for block, fetch in waiting:
        yield from _fetch(block, fetch)


def _fetch(block: Integers, fetch: Callable[[], Codes]) -> Iterator[tuple[int, Codes]]:
    for position, codes in zip(block, fetch(), strict=True):
        yield int(position), codes


def _block_length(name: str, size: tuple[int, int]) -> int:
    kind, channels = split_name(name)
    return max(1, _BLOCK_BYTES // (kind.itemsize * channels * size[0] * size[1]))


def count_values(codes: Codes, row: Mapping[Any, Any]) -> tuple[Counted, float]:
    """Count the real-world values of one image, padding left out.

    Parameters
    ----------
    codes : ndarray, shape (H, W) or (H, W, 3)
    row : mapping
        Its row of the set's table.

    Returns
    -------
    counted : Counted
    levels : float
        How many values of the source occur; NaN in floating point.
    """
    left, top, right, bottom = row["pad_box"]
    inside = codes[top:bottom, left:right]
    present, counts = _count(inside)
    present, counts = _drop_padding(present, counts, row, inside.shape[:2], codes.shape[:2])
    levels = np.nan
    if inside.dtype.kind == "u":
        levels = float(1 + np.count_nonzero(np.diff(present // find_step(row))))
    slope, intercept = float(row["slope"]), float(row["intercept"])
    values = present * slope + intercept
    if slope < 0:
        values, counts = values[::-1], counts[::-1]
    return Counted(values, counts), levels


def find_step(row: Mapping[Any, Any]) -> int:
    """Return how many codes one step of the source is: 1, 2, 4, 8 or 16.

    A source of n bits has ``(2 ** n - 1) * 2 ** min(4, 16 - n)`` codes above its lowest one.
    """
    if not str(row["array"]).startswith("uint16x1"):
        return 1
    codes = round((row["full_high"] - row["full_low"]) / abs(row["slope"]))
    found = (2 ** min(4, 16 - bits) for bits in range(1, 17))
    steps = {(2**bits - 1) * step: step for bits, step in zip(range(1, 17), found, strict=True)}
    return int(steps.get(codes, 1))


def _count(codes: Codes) -> tuple[Integers | Floats, Integers]:
    if codes.ndim == 3:
        codes = np.rint(codes @ np.array(LUMA)).astype(np.uint16)
    if codes.dtype.kind == "f":
        present, counts = np.unique(codes.astype(np.float64), return_counts=True)
        return present, counts.astype(np.int64)
    of_each = np.bincount(codes.ravel())
    occurring = np.flatnonzero(of_each)
    return occurring, of_each[occurring]


def _drop_padding(
    codes: Any, counts: Integers, row: Mapping[Any, Any], box: Any, size: Any
) -> tuple[Any, Integers]:
    """Leave out what has the fill's value, in an image with padding inside of its box.

    Which pixels those were is not stored, so a pixel of the image with that very value goes too.
    """
    outside = 1 - box[0] * box[1] / (size[0] * size[1])
    if row["padding_share"] <= outside + 1e-9:
        return codes, counts
    fill = (row["fill_value"] - row["intercept"]) / row["slope"]
    image = ~np.isclose(codes, fill, rtol=1e-6, atol=0.5 if codes.dtype.kind == "i" else 0)
    return (codes[image], counts[image]) if image.any() else (codes, counts)


def _measure(counted: Counted, levels: float) -> tuple[float, ...]:
    low, high = counted.percentiles((0.01, 0.99))
    least, most = counted.values[0], counted.values[-1]
    return counted.mean, low, high, least, most, levels, int(counted.counts.sum())


@dataclass(frozen=True)
class Outlier:
    """An image that is unlike those of its group.

    Attributes
    ----------
    position : int
        In the table.
    group : int
        Number of its group.
    what : str
        ``"mean"``, or ``"range"``: from the 1st to the 99th percentile.
    value, median : float
        Its own, and the group's.
    distance : float
        From the group's nearest quartile, in interquartile ranges.
    """

    position: int
    group: int
    what: str
    value: float
    median: float
    distance: float


def find_outliers(groups: Sequence[Group], measures: pd.DataFrame) -> list[Outlier]:
    """Return images whose mean or range lies far out in their group, the farthest first.

    Far out is beyond the quartiles by three interquartile ranges (Tukey, 1977). Groups of fewer
    than eight images have none. An image is named once, by what is stranger.
    """
    worst: dict[int, Outlier] = {}
    for number, group in enumerate(groups):
        part = measures.iloc[group.rows]
        across = part["high"] - part["low"]
        least = _VISIBLE * float(across.median())
        for what, values in (("mean", part["mean"]), ("range", across)):
            for found in _find_far(number, group.rows, what, values.to_numpy(), least):
                known = worst.get(found.position)
                if known is None or found.distance > known.distance:
                    worst[found.position] = found
    return sorted(worst.values(), key=lambda one: (-one.distance, one.position))


def _find_far(
    number: int, rows: Integers, what: str, values: Floats, least: float
) -> Iterator[Outlier]:
    known = np.isfinite(values)
    if known.sum() < _FEWEST or not np.ptp(values[known]):
        return
    lower, median, upper = np.percentile(values[known], (25, 50, 75))
    # Where most images are alike, any difference would be many times the range of nothing.
    spread = max(upper - lower, least, 1e-9 * float(np.ptp(values[known])))
    distances = np.maximum(lower - values, values - upper) / spread
    for place in np.flatnonzero(known & (distances > _FAR_OUT)):
        value, distance = float(values[place]), float(distances[place])
        yield Outlier(int(rows[place]), number, what, value, float(median), distance)
