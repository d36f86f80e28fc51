"""Contact sheets: which images stand for a set, how they are made visible, and the PNG of them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.evaluation.survey import count_values, find_step, read_codes
from medkit.images.resampling import resize
from medkit.images.windows import plan_transfer
from medkit.text import reveal

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

    from medkit.images.reader import Images

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

THUMB = 160  # pixels that a thumbnail is wide and high at most
_ACROSS = 8  # thumbnails side by side
_GAP, _MARGIN, _LINE = 16, 28, 18
_TITLE, _HEADING, _SMALL = 20, 16, 13  # sizes of type
_PAPER, _TILE, _INK, _SOFT, _ACCENT = "#14171c", "#1c2027", "#e8eaee", "#a2aab8", "#7db3f5"
_LONGEST = 200  # characters of a text that are looked at: the rest would not fit anyway
_EYE = (0.005, 0.995)
_EYE_BITS = 8  # up to these, an eye sees the whole range

HIDDEN = "text is burned in"


@dataclass(frozen=True)
class Thumbnail:
    """One image, made visible.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (h, w) or (h, w, 3), or None
        None where the header says that text is burned in (PS3.3 C.7.6.1.1).
    stretched : bool
        Whether its own percentiles were its window, for want of one that it has.
    """

    pixels: Bytes | None
    stretched: bool


@dataclass(frozen=True)
class Label:
    """What stands under a thumbnail; text from files, as it is.

    Attributes
    ----------
    number : int
        Of the image in its set.
    modality : str or None
    value : str or None
        Its class, None where nobody asked for one.
    person : str
        A short hash.
    remark : str
        What must be known of it, in this program's own words; may be empty.
    """

    number: int
    modality: str | None
    value: str | None
    person: str
    remark: str = ""

    @property
    def title(self) -> str:
        """Its first line."""
        return " · ".join(filter(None, (str(self.number), self.modality, self.remark)))


@dataclass(frozen=True)
class Section:
    """Thumbnails under one heading."""

    heading: str
    cells: list[tuple[Label, Thumbnail]]


def choose_images(classes: Sequence[str], persons: Sequence[str], count: int) -> Integers:
    """Return positions of images that stand for all: spread over classes, then over persons.

    Every class gets the same number as long as it has images, every person of a class likewise;
    of a person come images at even distances. Keys of persons are hashes, so that those taken are
    no particular ones; nothing is drawn at random.

    Parameters
    ----------
    classes, persons : sequence of str
        Of each image.
    count : int
        How many at most.
    """
    table = pd.DataFrame({"group": list(classes), "person": list(persons)})
    parts = [part for _, part in table.groupby("group", sort=True)]
    quotas = _share_out([len(part) for part in parts], count)
    chosen = [_spread(part, quota) for part, quota in zip(parts, quotas, strict=True) if quota]
    return np.sort(np.concatenate([*chosen, np.zeros(0, np.int64)]))


def _spread(part: pd.DataFrame, quota: int) -> Integers:
    persons = [rows.index.to_numpy() for _, rows in part.groupby("person", sort=True)]
    quotas = _share_out([len(rows) for rows in persons], quota)
    picked = [
        rows[(np.arange(some) * 2 + 1) * len(rows) // (2 * some)]
        for rows, some in zip(persons, quotas, strict=True)
        if some
    ]
    return np.concatenate(picked).astype(np.int64)


def _share_out(sizes: Sequence[int], count: int) -> list[int]:
    """Return how many each gets, as evenly as the sizes allow; the first get what is left over."""
    shares = [0] * len(sizes)
    left = min(count, sum(sizes))
    while left:
        unfilled = [place for place, size in enumerate(sizes) if shares[place] < size]
        each = max(left // len(unfilled), 1)
        for place in unfilled:
            given = min(each, sizes[place] - shares[place], left)
            shares[place] += given
            left -= given
    return shares


def draw_thumbnails(images: Images, chosen: Integers, window: str) -> dict[int, Thumbnail]:
    """Make images visible.

    Parameters
    ----------
    images : Images
    chosen : ndarray of int64
        Positions.
    window : str
        One window, as of `medkit.images.reader.View`. ``"header"`` where an image has none, and
        any where it has no fixed range, is stretched between its 0.5th and 99.5th percentile;
        images of 8 bits and colour have their full range.

    Returns
    -------
    dict
        From position to Thumbnail.
    """
    shown: dict[int, Thumbnail] = {}
    for position, codes in read_codes(images, chosen):
        row = images.table.iloc[[position]]
        if (row["BurnedInAnnotation"] == "YES").all():
            shown[position] = Thumbnail(None, False)
        else:
            shown[position] = _draw(codes, row, window)
    return shown


def _draw(codes: npt.NDArray[Any], row: pd.DataFrame, window: str) -> Thumbnail:
    eye, stretched = _plan_for_eye(codes, row, window)
    transfer = plan_transfer(eye, window)
    values = transfer.apply(codes[np.newaxis], np.zeros(1, np.int64))[0]
    if stretched and window == "header":
        full = plan_transfer(eye, "full")
        stretched = bool(full.gain[0] == transfer.gain[0] and full.offset[0] == transfer.offset[0])
    fitted = _fit(np.nan_to_num(values))
    return Thumbnail(np.rint(np.clip(fitted, 0, 1) * 255).astype(np.uint8), stretched)


def _plan_for_eye(
    codes: npt.NDArray[Any], row: pd.DataFrame, window: str
) -> tuple[pd.DataFrame, bool]:
    """Return a row of the table whose range, where that is for no eye, is its percentiles'."""
    only = row.iloc[0].to_dict()
    endless = pd.isna(only["full_low"]) or pd.isna(only["full_high"])
    grey = codes.ndim == 2
    deep = grey and not endless and _count_levels(only) > 1 << _EYE_BITS
    if not (endless or (deep and window == "header")):
        return row, False
    counted, _ = count_values(codes, only)
    low, high = counted.percentiles(_EYE)
    named = window not in ("header", "full")
    return row.assign(full_low=low, full_high=high), not named


def _count_levels(row: dict[Any, Any]) -> float:
    codes = (row["full_high"] - row["full_low"]) / abs(row["slope"])
    return float(codes) / find_step(row) + 1


def _fit(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[Any]:
    """Return an image that fits a cell, in its aspect; a small one is enlarged by whole factors."""
    rows, columns = values.shape[:2]
    factor = THUMB / max(rows, columns)
    if factor >= 1:
        return values.repeat(math.floor(factor), axis=0).repeat(math.floor(factor), axis=1)
    return resize(values, (max(1, round(rows * factor)), max(1, round(columns * factor))))


def draw_sheet(path: Path, title: str, notes: Sequence[str], sections: Sequence[Section]) -> None:
    """Write a contact sheet as PNG; equal input is equal bytes.

    Parameters
    ----------
    path : Path
    title : str
    notes : sequence of str
        Lines under the title.
    sections : sequence of Section
        Text in them may be of files: what acts unseen is shown, what is too long is cut.
    """
    from PIL import Image, ImageDraw

    across = min(_ACROSS, max([4, *(len(section.cells) for section in sections)]))
    width = 2 * _MARGIN + across * THUMB + (across - 1) * _GAP
    lines = max([2, *(_count_lines(section) for section in sections)])
    step = THUMB + lines * _LINE + _GAP
    head = _MARGIN + _TITLE + 22 + len(notes) * _LINE
    heights = [_HEADING + 20 + -(-len(section.cells) // across) * step for section in sections]
    picture = Image.new("RGB", (width, head + sum(heights) + _MARGIN), _PAPER)
    pen = _Pen(ImageDraw.Draw(picture), width - 2 * _MARGIN)
    pen.write(_MARGIN, _MARGIN, title, _TITLE, _INK)
    for number, note in enumerate(notes):
        pen.write(_MARGIN, _MARGIN + _TITLE + 10 + number * _LINE, note, _SMALL, _SOFT)
    down = head
    for section, height in zip(sections, heights, strict=True):
        pen.write(_MARGIN, down + 8, section.heading, _HEADING, _INK)
        for place, (label, thumbnail) in enumerate(section.cells):
            left = _MARGIN + place % across * (THUMB + _GAP)
            top = down + _HEADING + 20 + place // across * step
            if thumbnail.pixels is not None:
                picture.paste(*_place(thumbnail.pixels, left, top))
            _write_cell(pen, left, top, label, thumbnail)
        down += height
    picture.save(path, format="PNG", compress_level=6)


def _count_lines(section: Section) -> int:
    return 3 if any(label.value is not None for label, _ in section.cells) else 2


def _place(pixels: Bytes, left: int, top: int) -> tuple[Any, tuple[int, int]]:
    """Return a picture, and where its corner comes so that it lies in the middle of its cell."""
    from PIL import Image

    rows, columns = pixels.shape[:2]
    return Image.fromarray(pixels), (left + (THUMB - columns) // 2, top + (THUMB - rows) // 2)


def _write_cell(pen: _Pen, left: int, top: int, label: Label, thumbnail: Thumbnail) -> None:
    if thumbnail.pixels is None:
        pen.draw.rectangle((left, top, left + THUMB - 1, top + THUMB - 1), fill=_TILE)
        pen.write(left + 12, top + THUMB // 2 - 20, "not shown:", _SMALL, _SOFT, THUMB - 24)
        pen.write(left + 12, top + THUMB // 2, HIDDEN, _SMALL, _SOFT, THUMB - 24)
    lines = [(f"{label.title}{' ~' if thumbnail.stretched else ''}", _INK)]
    lines += [] if label.value is None else [(label.value, _ACCENT)]
    lines += [(label.person, _SOFT)]
    for number, (text, colour) in enumerate(lines):
        pen.write(left, top + THUMB + 3 + number * _LINE, text, _SMALL, colour, THUMB)


@dataclass(frozen=True)
class _Pen:
    """Writes text that is cut where it would be wider than its place."""

    draw: ImageDraw
    width: int

    def write(
        self, left: int, top: int, text: str, size: int, colour: str, width: int | None = None
    ) -> None:
        font = _load_font(size)
        most = self.width if width is None else width
        whole = reveal(text[:_LONGEST])
        shown = whole[:_LONGEST]
        while font.getlength(shown if shown == whole else f"{shown}…") > most:
            shown = shown[:-1]
        self.draw.text((left, top), shown if shown == whole else f"{shown}…", colour, font)


@lru_cache
def _load_font(size: int) -> FreeTypeFont:
    """Return the font that Matplotlib ships: the same on every machine, with letters of Europe."""
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    # The plain layout: what is installed beside must not change the picture.
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def encode_thumbnail(pixels: Bytes) -> str:
    """Return a thumbnail as a ``data:`` URI of a PNG."""
    from PIL import Image

    with io.BytesIO() as stream:
        Image.fromarray(pixels).save(stream, format="PNG", compress_level=6)
        return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
