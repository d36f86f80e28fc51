"""The pixel pipeline: from a row of the catalog to values that may be resized.

Each step is a function, in this order:

1. `decode`: the stored values of one frame, exactly; `hash_values` names them for ever.
2. `padding`: what is not image, before anything else is done with it.
3. Lookup tables: a palette becomes RGB with the depth of its entries; a Modality LUT is applied.
   A linear rescale is not: it commutes with resizing, so values stay as stored and slope and
   intercept go with them, in float64.
4. `convert_ybr`: YBR becomes RGB.
5. `turn_polarity`: display images in which low is bright are turned, about a fixed pivot.

No windowing, no clipping, no stretch by an image's own minimum and maximum: slices of one series
have one map. A Siemens mosaic is cut into its tiles, each an image.

A frame that cannot be done rightly raises PixelError with one of these codes:

==================== ============================================================================
bits                 bits allocated, stored and high, signs or codestream contradict one another
codestream           a compressed frame or picture cannot be decoded
codestream-size      it has another size than the header says
all-padding          nothing but padding is in it
file-changed         since it was catalogued
file-unreadable      the file, or the archive it is in, is gone or damaged
format-not-supported neither DICOM nor a picture nor a volume, nor of a plugin that is there
fragments            the frame is not among the encapsulated fragments
lookup-table         its palette or Modality LUT cannot be read
mosaic               a mosaic of unknown tiles, see `mosaics`
no-frame             the object has fewer frames
no-pixels            the object has no pixel data
no-size              rows or columns are missing
no-spacing           the geometry needs millimetres, the header has none
padding              the padding value of floating point cannot be read
photometric          an interpretation that is not supported, or does not suit the samples
pixel-length         more or fewer bytes than the header needs, or a stream that was cut
reader-failed        the plugin that reads this format failed, or gave something else
rescale              the slope is zero, or slope or intercept is not finite
supplemental-palette part of the grey range is meant to be colour (PS3.3 C.8.16.2.1.1.1)
too-large            above the limits of `decoding`
transfer-syntax      not supported, or not that of the pixel data
==================== ============================================================================
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medkit.catalog.compiled import compiled
from medkit.errors import PixelError
from medkit.images import decoding, mosaics, pictures, plugged, stacks
from medkit.images.decoding import Decoded
from medkit.images.lookups import Lookup, read_modality_lut, read_palette
from medkit.images.padding import find_padding, read_padding
from medkit.images.resampling import Spacing
from medkit.images.rows import Row, is_grey, is_picture, open_file, read_column
from medkit.images.scales import (
    Scale,
    choose_fill,
    is_turned,
    read_scale,
    read_window,
    turn_polarity,
    turn_window,
)

Values = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

# What gives a pixel's size, the best first (PS3.3 10.7.1.3).
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
# Beyond these a writer erred, and geometry would overflow; a ratio may be of large numbers.
_SPACING_LIMITS = (1e-9, 1e9)
# Syntaxes that may or may not have lost something: the header decides.
_MAYBE_LOSSY = {
    "1.2.840.10008.1.2.4.81",  # JPEG-LS, near-lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.203",  # High-Throughput JPEG 2000
}
_EXACT_FLOAT32 = 24  # bits of an integer
# Codes have up to this many bits below a stored value, so that resizing keeps its fractions.
_FRACTION_BITS = 4


@dataclass(frozen=True)
class Frame:
    """One frame, through the pipeline.

    Attributes
    ----------
    values : ndarray, shape (H, W) or (H, W, 3)
        Stored values, or what a lookup table, YBR or polarity made of them.
    mask : ndarray of bool, shape (H, W), or None
        False at padding; None where there is none.
    slope, intercept : float
        Real-world value = ``values * slope + intercept``. Of a turned image this is true of the
        turned values: its real-world value is how bright it is displayed.
    units : str or None
        Of real-world values, such as ``"HU"``; None where the header does not say.
    full_low, full_high : float
        The real-world range that the header can represent; nan in floating point.
    array : str
        Type and channels of the codes, such as ``"uint16x1"``: `name_array` of the row.
    base, k : float
        ``code = round((value - base) * k)``, see `encode`.
    fill : float
        Real-world value of what lies outside the image, one that a stored value can have: air in
        CT, black in display images and colour, else zero or what is nearest to it.
    WindowCenter, WindowWidth : float or None
        Of the header, real-world; of a turned image, those that display it as before.
    VOILUTFunction : str or None
        Of the header.
    polarity : str
        ``"kept"`` or ``"turned"``.
    source_sha256 : str
        Of the decoded stored values with their type and shape.
    lossy : bool
        Whether compression lost something.
    constant : bool
        Whether all pixels of the image are equal.
    spacing : Spacing
        Of the pixels.
    """

    values: Values
    mask: Mask | None
    slope: float
    intercept: float
    units: str | None
    full_low: float
    full_high: float
    array: str
    base: float
    k: float
    fill: float
    WindowCenter: float | None
    WindowWidth: float | None
    VOILUTFunction: str | None
    polarity: str
    source_sha256: str
    lossy: bool
    constant: bool
    spacing: Spacing

    @property
    def code_slope(self) -> float:
        """Real-world value = code * ``code_slope`` + ``code_intercept``."""
        return self.slope / self.k

    @property
    def code_intercept(self) -> float:
        """See `code_slope`."""
        return self.base * self.slope + self.intercept

    @property
    def stored_fill(self) -> float:
        """The fill, as one of ``values``."""
        return (self.fill - self.intercept) / self.slope


def read_frame(row: Row) -> Frame:
    """Decode one frame and take it through the pipeline.

    Parameters
    ----------
    row : mapping
        A row of the catalog's view ``images``.

    Raises
    ------
    PixelError
        See the codes of this module.
    """
    array = name_array(row)
    decoded, lookup, padding = _decode_row(row)
    mask = find_padding(decoded, row, padding)
    if mask is not None and not mask.any():
        raise PixelError("all-padding", "every pixel is padding")
    scale = read_scale(row, decoded, lookup)
    values = lookup.apply(decoded.values) if lookup is not None else convert_ybr(decoded, scale)
    window, turned = read_window(row), is_turned(row)
    if turned:
        values, window = turn_polarity(values, scale), turn_window(window, scale)
    base, k = choose_code(array, scale)
    full_low, full_high = scale.full_range
    return Frame(
        values=values,
        mask=mask,
        slope=scale.slope,
        intercept=scale.intercept,
        units=scale.units,
        full_low=full_low,
        full_high=full_high,
        array=array,
        base=base,
        k=k,
        fill=choose_fill(row, scale, values.ndim == 3),
        WindowCenter=window.center,
        WindowWidth=window.width,
        VOILUTFunction=window.function,
        polarity="turned" if turned else "kept",
        source_sha256=hash_values(decoded.values),
        lossy=is_lossy(row, decoded),
        constant=is_constant(values, mask),
        spacing=read_spacing(row),
    )


def _decode_row(row: Row) -> tuple[Decoded, Lookup | None, tuple[float, float] | None]:
    if plugged.is_plugged(row):
        return plugged.decode_image(row), None, None
    with open_file(row) as stream:
        return decode(stream, row), read_lookup(stream, row), read_padding(stream, row)


def name_array(row: Row) -> str:
    """Return the array that a frame's codes belong to, by its header alone.

    Grey up to 16 bits is ``uint16x1``; wider integers and floating point are ``float32x1`` where
    that is exact, else ``float64x1``; colour is ``uint8x3``, or ``uint16x3`` where it has more
    bits or comes of a DICOM palette.

    Raises
    ------
    PixelError
        If the header says that the frame cannot be normalised.
    """
    form = read_column(row, "format")
    if is_picture(row):
        return _name_picture_array(row)
    if form != "dicom" and form not in stacks.FORMATS and not plugged.is_plugged(row):
        raise PixelError("format-not-supported", f"pixels of {form} are not read")
    # PS3.3 C.8.16.2.1.1.1: a grey image whose upper values index a palette.
    if read_column(row, "PixelPresentation") in ("COLOR", "MIXED") and is_grey(row):
        raise PixelError("supplemental-palette", "part of the grey range is meant to be colour")
    module = decoding.read_module(row)
    mosaics.check_cut(row)
    if module.samples == 3:
        return _name_colour_array(row)
    if module.photometric == "PALETTE COLOR":
        return "uint16x3"
    if module.dtype.kind == "f":
        return f"{module.dtype.name}x1"
    if module.allocated <= 16 or read_column(row, "has_modality_lut"):
        return "uint16x1"
    return "float32x1" if module.stored <= _EXACT_FLOAT32 else "float64x1"


def _name_picture_array(row: Row) -> str:
    pictures.check_colours(row)
    if is_grey(row):
        return "uint16x1" if read_column(row, "BitsAllocated", 8) <= 16 else "float64x1"
    if read_column(row, "PhotometricInterpretation") == "PALETTE COLOR":
        return "uint8x3"
    return _name_colour_array(row)


def _name_colour_array(row: Row) -> str:
    bits = read_column(row, "BitsAllocated", 8)
    if bits > 16 or read_column(row, "PixelRepresentation") == 1:
        raise PixelError("bits", f"colour of {bits} bits a sample, or signed, is not supported")
    return "uint8x3" if bits <= 8 else "uint16x3"


def decode(stream: BinaryIO, row: Row) -> Decoded:
    """Return the stored values of a frame, of a DICOM object, a picture or a volume.

    Of a mosaic they are those of the row's tile.

    Raises
    ------
    PixelError
        As `decoding.decode_frame`, `pictures.decode_picture` or `stacks.decode_slice`.
    """
    if is_picture(row):
        return pictures.decode_picture(stream, row)
    if row["format"] in stacks.FORMATS:
        return stacks.decode_slice(stream, row)
    decoded = decoding.decode_frame(stream, decoding.read_module(row), int(row["frame"]))
    tile = read_column(row, "tile")
    if tile is None:
        return decoded
    cut = partial(mosaics.cut_tile, tile=int(tile), tiles=int(row["tiles"]))
    raw = None if decoded.raw is None else cut(decoded.raw)
    return dataclasses.replace(decoded, values=cut(decoded.values), raw=raw)


def hash_values(values: Values) -> str:
    """Return the SHA-256 of an array: its type, its shape, and its values in little-endian."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{little.dtype.name} {little.shape} ".encode())
    digest.update(little.data)
    return digest.hexdigest()


def read_lookup(stream: BinaryIO, row: Row) -> Lookup | None:
    """Return the palette, or the Modality LUT, that applies to a frame; None if none does.

    A palette comes first, since its entries are colours.

    Raises
    ------
    PixelError
        ``lookup-table``: it cannot be read.
    """
    if row["format"] != "dicom":
        return None
    if read_column(row, "PhotometricInterpretation") == "PALETTE COLOR":
        return read_palette(stream)
    # PS3.4 N.2: the transformation of Modality LUTs is that of grey images.
    wanted = read_column(row, "has_modality_lut") and is_grey(row)
    return read_modality_lut(stream) if wanted else None


def convert_ybr(decoded: Decoded, scale: Scale) -> Values:
    """Return values as they are, but YBR as RGB (PS3.3 C.7.6.3.1.2), rounded and in range.

    Raises
    ------
    PixelError
        ``photometric``: they are in colours of which there is no way to RGB.
    """
    if decoded.photometric in ("RGB", "MONOCHROME1", "MONOCHROME2"):
        return decoded.values
    if decoded.photometric not in ("YBR_FULL", "YBR_FULL_422"):
        raise PixelError("photometric", f"{decoded.photometric} that no codec has undone")
    middle = (scale.high + 1) / 2
    y, cb, cr = np.moveaxis(decoded.values.astype(np.float32), -1, 0)
    cb -= middle
    cr -= middle
    rgb = np.stack(
        [y + 1.402 * cr, y - (0.114 * 1.772 * cb + 0.299 * 1.402 * cr) / 0.587, y + 1.772 * cb],
        axis=-1,
    )
    return np.asarray(np.clip(np.rint(rgb), 0, scale.high), dtype=decoded.values.dtype)


def choose_code(array: str, scale: Scale) -> tuple[float, float]:
    """Return ``base`` and ``k`` of `encode`, so that codes use the array's type and no more.

    Raises
    ------
    PixelError
        ``bits``: integers were expected of the header, and floating point was found.
    """
    if array != "uint16x1":
        return 0.0, 1.0
    if math.isnan(scale.low):
        raise PixelError("bits", "floating point of 16 bits is not supported")
    return float(scale.low), float(2 ** min(_FRACTION_BITS, 16 - scale.bits))


def is_lossy(row: Row, decoded: Decoded) -> bool:
    """Say whether compression lost something, by codestream and header."""
    flag = read_column(row, "LossyImageCompression")
    if decoded.lossy is not None or flag == "01":
        return bool(decoded.lossy) or flag == "01"
    return read_column(row, "TransferSyntaxUID") in _MAYBE_LOSSY and flag != "00"


def is_constant(values: Values, mask: Mask | None) -> bool:
    """Say whether all pixels of the image are equal."""
    middle = slice(len(values) // 2, len(values) // 2 + 1)
    # Most images tell within one line.
    for part in (middle, slice(None)):
        line = values[part]
        inside = line.reshape(-1, *line.shape[2:]) if mask is None else line[mask[part]]
        if not (inside == inside[:1]).all():
            return False
    return True


def read_spacing(row: Row) -> Spacing:
    """Return the size of a pixel, by the first attribute that gives one; else square ones."""
    least, most = _SPACING_LIMITS
    for name in _SPACINGS:
        numbers = [float(number) for number in read_column(row, name, ())]
        if len(numbers) == 2 and all(least <= number <= most for number in numbers):
            return Spacing(numbers[0], numbers[1], name)
    return Spacing()


def encode(
    values: Values, mask: Mask, fill: float, base: float, k: float, dtype: npt.DTypeLike
) -> Values:
    """Return resized values as codes of a type, and a fill where the mask is False.

    Codes are ``round((value - base) * k)``, but floating point is as it is. Values are of shape
    (h, w) or (h, w, 3), the mask of shape (h, w).
    """
    kind = np.dtype(dtype)
    inside = mask if values.ndim == 2 else np.repeat(mask[..., np.newaxis], 3, axis=2)
    stored = values.dtype.type(fill)
    if kind.kind == "f":
        return np.where(inside, values, stored).astype(kind)
    codes = np.empty(values.shape, kind)
    highest = float(np.iinfo(kind).max)
    _encode(values.ravel(), inside.ravel(), stored, base, k, highest, codes.reshape(-1))
    return codes


@compiled
def _encode(
    values: Any, inside: Any, fill: float, base: float, k: float, highest: float, codes: Any
) -> None:
    for i in range(len(values)):
        value = np.float64(values[i] if inside[i] else fill)
        # A filter's sums may stray past the range by their last bit.
        codes[i] = min(max(np.rint((value - base) * k), 0.0), highest)
