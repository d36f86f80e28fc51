"""Compressed frames: what a codestream says of itself, and decoding it.

imagecodecs decodes: libjpeg-turbo for JPEG with and without loss, CharLS for JPEG-LS, OpenJPEG for
JPEG 2000, also in its High-Throughput form (its OpenJPH lets errors pass, and returns what it has).
libjpeg fills what is missing of a cut stream with grey and says nothing, and any codec reserves
the memory that a stream claims to need; so size and end are checked here first, and the codec must
write into an array that fits the DICOM header.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from medkit.errors import PixelError

Samples = npt.NDArray[Any]

_SOS = 0xDA
# Start-of-frame markers that the decoders read (ISO 10918-1 B.1.1.3; F7 is that of JPEG-LS).
_FRAME_HEADERS = (0xC0, 0xC1, 0xC2, 0xC3, 0xF7)
_LOSSLESS, _JPEG_LS = _FRAME_HEADERS[3:]
_APP0, _APP14 = 0xE0, 0xEE
_J2K_START = b"\xff\x4f\xff\x51"  # SOC, SIZ (ISO 15444-1 A.4.1, A.5.1)
_SIZ, _COD, _SOT = 0x51, 0x52, 0x90
_JXL_START = b"\xff\x0a"
_JXL_BOXES = b"\0\0\0\x0cJXL \r\n\x87\n"
_END = b"\xff\xd9"  # EOI of the JPEG and JPEG-LS standards, EOC of JPEG 2000


@dataclass(frozen=True)
class Codestream:
    """What the header of a codestream says.

    Attributes
    ----------
    rows, columns, samples : int
        Its size.
    precision : int
        Bits of a sample.
    signed : bool
        Whether samples are decoded to signed values; JPEG and JPEG-LS have unsigned ones only.
    colours : str or None
        ``"RGB"`` or ``"YBR_FULL"``: what decoded samples are in, where the codestream says so.
    planar : bool
        Whether colour is decoded plane by plane.
    lossy : bool or None
        None where the header does not tell.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool = False
    colours: str | None = None
    planar: bool = False
    lossy: bool | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the decoded array."""
        size = (self.rows, self.columns)
        return size if self.samples == 1 else (*size, self.samples)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the decoded array."""
        width = next((w for w in (8, 16, 32) if self.precision <= w), 64)
        return np.dtype(f"{'int' if self.signed else 'uint'}{width}")


def read_jpeg(data: bytes) -> Codestream:
    """Read the header of a JPEG or JPEG-LS codestream.

    Raises
    ------
    PixelError
        ``codestream``: there is none; ``pixel-length``: the stream has no end.
    """
    try:
        segments = _read_segments(data, _SOS)
        marker = next(marker for marker in _FRAME_HEADERS if marker in segments)
        precision, rows, columns, samples = struct.unpack_from(">BHHB", segments[marker])
        # Ns and what follows of it, then three parameters, whose meaning is the process's
        # (ISO 10918-1 B.2.3, ISO 14495-1 C.2.3).
        scan = segments[_SOS]
        near, interleave, point = scan[1 + 2 * scan[0] : 4 + 2 * scan[0]]
    except (IndexError, KeyError, StopIteration, ValueError, struct.error):
        raise PixelError("codestream", "there is no JPEG frame header in it") from None
    _check_end(data, b"\xff\xda")
    losses = {_LOSSLESS: point & 15, _JPEG_LS: near}
    return Codestream(
        rows,
        columns,
        samples,
        precision,
        colours=_tell_colours(segments, marker) if samples == 3 else None,
        planar=marker == _JPEG_LS and samples > 1 and not interleave,
        lossy=losses.get(marker, 1) > 0,
    )


def _tell_colours(segments: dict[int, bytes], marker: int) -> str | None:
    """Return the colours that a JPEG says it is in.

    An Adobe marker says so best, then components named R, G and B, then the JFIF marker, which is
    of YCbCr alone.
    """
    adobe, names = segments.get(_APP14, b""), segments[marker][6::3]
    if adobe.startswith(b"Adobe") and len(adobe) > 11:
        return "YBR_FULL" if adobe[11] == 1 else "RGB"
    if names in (b"RGB", b"rgb"):
        return "RGB"
    jfif = segments.get(_APP0, b"").startswith(b"JFIF")
    return "YBR_FULL" if jfif and marker not in (_LOSSLESS, _JPEG_LS) else None


def read_jpeg2000(data: bytes) -> Codestream:
    """Read the header of a JPEG 2000 codestream, with or without a JP2 file around it.

    Raises
    ------
    PixelError
        As `read_jpeg`.
    """
    start = data.find(_J2K_START)
    try:
        segments = _read_segments(data[max(start, 0) :], _SOT)
        size, coding = segments[_SIZ], segments[_COD]
        right, bottom, left, top = struct.unpack_from(">4I", size, 2)
        components = {size[at : at + 3] for at in range(36, len(size), 3)}
        depth, *sampling = components.pop()
        transformed, reversible = coding[4], coding[9]
    except (IndexError, KeyError, ValueError, struct.error):
        start = -1
    if start < 0:
        raise PixelError("codestream", "there is no JPEG 2000 codestream in it")
    if components or sampling != [1, 1]:
        raise PixelError("codestream", "its components differ in depth, sign or size")
    _check_end(data, b"\xff\x93")
    return Codestream(
        bottom - top,
        right - left,
        (len(size) - 36) // 3,
        (depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        colours="RGB" if transformed else None,
        lossy=None if reversible else True,
    )


class _Bits:
    """Reads numbers of some bits, the lowest first (ISO 18181-1, 9.2)."""

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        """Return the next bits as a number."""
        found = self._left & (1 << count) - 1
        self._left >>= count
        return found

    def choose(self, *forms: tuple[int, int]) -> int:
        """Return a number whose form, an offset and a count of bits, two bits choose."""
        offset, count = forms[self.take(2)]
        return offset + self.take(count)


# Columns are rows times one of these, or are written out (ISO 18181-1, A.3).
_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SIDE = ((1, 9), (1, 13), (1, 18), (1, 30))


def open_jpegxl(data: bytes) -> bytes:
    """Return the codestream in a JPEG XL file: what is in its box, or all of it (ISO 18181-2)."""
    if not data.startswith(_JXL_BOXES):
        return data
    place = 0
    while len(data) >= place + 8:
        size, kind = struct.unpack_from(">I4s", data, place)
        end = place + size if size else len(data)  # the last box may say nothing of its length
        if kind == b"jxlc":
            return data[place + 8 : end]
        place = max(end, place + 8)
    return b""


def read_jpegxl(data: bytes) -> Codestream:
    """Read the header of a JPEG XL codestream (ISO 18181-1, A).

    Raises
    ------
    PixelError
        ``codestream``: there is none, or it is not an image as medkit and DICOM know them: with
        alpha, turned, animated, or of floats.
    """
    data = open_jpegxl(data)
    if not data.startswith(_JXL_START):
        raise PixelError("codestream", "there is no JPEG XL codestream in it")
    bits = _Bits(data[2:64])
    small = bits.take(1)
    rows = 8 * (bits.take(5) + 1) if small else bits.choose(*_SIDE)
    over, under = _RATIOS[bits.take(3)]
    if over:
        columns = rows * over // under
    else:
        columns = 8 * (bits.take(5) + 1) if small else bits.choose(*_SIDE)
    if bits.take(1):  # all of the rest is as by default
        return Codestream(rows, columns, 3, 8, lossy=True)
    others = bits.take(1) and bits.take(6)  # orientation, size, preview, animation
    if others or bits.take(1):  # or floats
        raise PixelError("codestream", "a JPEG XL codestream that is turned, animated or of floats")
    precision = bits.choose((8, 0), (10, 0), (12, 0), (1, 6))
    bits.take(1)
    if bits.choose((0, 0), (1, 0), (2, 4), (1, 12)):
        raise PixelError("codestream", "a JPEG XL codestream with more than colours")
    transformed = bits.take(1)  # by a transform that rounds
    default = bits.take(1)
    grey = not default and not bits.take(1) and bits.choose((0, 0), (1, 0), (2, 4), (18, 6)) == 1
    return Codestream(
        rows, columns, 1 if grey else 3, precision, lossy=True if transformed else None
    )


def iterate_segments(data: bytes, last: int = _SOS) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, content) of each segment of a codestream's header, which ``last`` ends."""
    position = 2
    while position < len(data):
        if data[position] != 0xFF:
            return
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        yield marker, data[position + 4 : position + 2 + length]
        if marker == last:
            return
        position += 2 + max(length, 2)


def _read_segments(data: bytes, last: int) -> dict[int, bytes]:
    """Return what follows each marker of a codestream's header, the first of each."""
    return dict(reversed(list(iterate_segments(data, last))))


def _check_end(data: bytes, begin: bytes) -> None:
    """Refuse a stream in which no end follows the last begin of data.

    Neither marker can occur within compressed data, and what follows the end is padding.
    """
    if data.find(begin, max(0, data.rfind(_END))) >= 0:
        raise PixelError("pixel-length", f"the codestream of {len(data)} bytes has no end")


def decode_codestream(
    data: bytes, syntax: str, shape: tuple[int, ...]
) -> tuple[Samples, Codestream]:
    """Decode a compressed frame.

    Parameters
    ----------
    data : bytes
        The frame's codestream.
    syntax : str
        A transfer syntax of `CODECS`.
    shape : tuple of int
        What the DICOM header says: (rows, columns), or (rows, columns, samples).

    Returns
    -------
    samples : ndarray
        In the type that the codestream has. Colours are as in the stream, but for JPEG 2000,
        whose own transform is undone.
    header : Codestream

    Raises
    ------
    PixelError
        ``codestream``: it cannot be read or decoded; ``codestream-size``: it has another shape;
        ``pixel-length``: it has no end.
    """
    read, decode = CODECS[syntax]
    header = read(data)
    if header.shape != shape:
        raise PixelError(
            "codestream-size", f"the codestream has shape {header.shape}, the header {shape}"
        )
    return run_codec(decode, data, header=header), header


def run_codec(codec: Callable[..., Any], data: bytes, **options: Any) -> Samples:
    """Call a decoder of imagecodecs, whose errors share no class of their own."""
    try:
        return np.asarray(codec(data, **options))
    except (RuntimeError, ValueError, IndexError, MemoryError) as error:
        raise PixelError("codestream", f"{type(error).__name__}: {error}"[:300]) from None


def _decode_jpeg(data: bytes, header: Codestream) -> Samples:
    # One colour space for input and output keeps libjpeg from converting between them.
    space = "RGB" if header.samples == 3 else "GRAYSCALE"
    out = np.empty(header.shape, header.dtype)
    return np.asarray(
        imagecodecs.jpeg8_decode(data, colorspace=space, outcolorspace=space, out=out)
    )


def _decode_jpegls(data: bytes, header: Codestream) -> Samples:
    size = (header.rows, header.columns)
    shape = (header.samples, *size) if header.planar else header.shape
    samples = np.empty(shape, header.dtype)
    imagecodecs.jpegls_decode(data, out=samples)
    return np.moveaxis(samples, 0, -1) if header.planar else samples


def _decode_jpeg2000(data: bytes, header: Codestream) -> Samples:
    # What a JP2 file around it says of colours has no meaning in DICOM (PS3.5 A.4.4), and OpenJPEG
    # would obey it.
    stream = data[data.find(_J2K_START) :]
    return np.asarray(imagecodecs.jpeg2k_decode(stream, out=np.empty(header.shape, header.dtype)))


_JPEG = (read_jpeg, _decode_jpeg)
_JPEGLS = (read_jpeg, _decode_jpegls)
JPEG2000 = (read_jpeg2000, _decode_jpeg2000)


def _decode_jpegxl(data: bytes, header: Codestream) -> Samples:
    out = np.empty(header.shape, header.dtype)
    return np.asarray(imagecodecs.jpegxl_decode(data, out=out, numthreads=1))


# Transfer syntaxes (PS3.6 A-1): how to read the header of their codestreams, and decode them.
CODECS: dict[str, tuple[Callable[[bytes], Codestream], Callable[..., Any]]] = {
    "1.2.840.10008.1.2.4.50": _JPEG,  # baseline
    "1.2.840.10008.1.2.4.51": _JPEG,  # extended, 8 or 12 bits
    "1.2.840.10008.1.2.4.57": _JPEG,  # lossless
    "1.2.840.10008.1.2.4.70": _JPEG,  # lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": _JPEGLS,  # lossless
    "1.2.840.10008.1.2.4.81": _JPEGLS,  # near-lossless
    "1.2.840.10008.1.2.4.90": JPEG2000,  # lossless
    "1.2.840.10008.1.2.4.91": JPEG2000,
    "1.2.840.10008.1.2.4.110": (read_jpegxl, _decode_jpegxl),  # JPEG XL, lossless
    "1.2.840.10008.1.2.4.201": JPEG2000,  # High-Throughput, lossless
    "1.2.840.10008.1.2.4.202": JPEG2000,  # High-Throughput, lossless, by resolution
    "1.2.840.10008.1.2.4.203": JPEG2000,  # High-Throughput
}
