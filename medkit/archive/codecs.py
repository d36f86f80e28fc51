"""The codecs that samples are packed with: a table, one row each.

All give back what they were given, or it is found out: nothing is kept before it was unpacked and
compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import jpeg_ls
import numpy as np
import numpy.typing as npt

from medkit.errors import UsageError
from medkit.images.codestreams import open_jpegxl

Frame = npt.NDArray[Any]

NARROW = range(9, 16)  # stored bits of a word of 16 that codestreams can be of
EFFORTS = ("fast", "normal", "max")


@dataclass(frozen=True)
class Codec:
    """How frames are packed.

    Attributes
    ----------
    name : str
        What the user calls it, and the index.
    syntax : str
        Transfer syntax of what it makes (PS3.6 A).
    encode : callable
        (frame, bits that are stored, effort, whether it is RGB) to a codestream.
    decode : callable
        A codestream and an array of the right shape and type, which it fills, or whose like it
        returns.
    signed : bool
        Whether it takes signed words; others get them as unsigned.
    masked : bool
        Whether it gets the stored bits alone, of negative values too, where these are `NARROW`.
    transform : str
        What RGB becomes within it, as Photometric Interpretation says; empty for nothing.
    standard : bool
        Whether others than medkit can be expected to read it.
    """

    name: str
    syntax: str
    encode: Callable[[Frame, int, str, bool], bytes]
    decode: Callable[[bytes, Frame], Frame]
    signed: bool = False
    masked: bool = False
    transform: str = ""
    standard: bool = True


def find_codec(name: str) -> Codec:
    """Return a codec by its name.

    Raises
    ------
    UsageError
        If there is none.
    """
    if name not in CODECS:
        raise UsageError(f"unknown codec {name!r}; use {', '.join(CODECS)}")
    return CODECS[name]


def check_effort(effort: str) -> str:
    """Return an effort that there is.

    Raises
    ------
    UsageError
        If there is none.
    """
    if effort not in EFFORTS:
        raise UsageError(f"unknown effort {effort!r}; use {', '.join(EFFORTS)}")
    return effort


def _encode_jpegls(frame: Frame, bits: int, effort: str, rgb: bool) -> bytes:
    # imagecodecs, which is faster, knows words of 8 and 16 bits alone; to say that there are 12
    # makes some 4 % fewer bytes.
    if frame.itemsize == 1 or bits not in NARROW:
        return bytes(imagecodecs.jpegls_encode(frame))
    rows, columns, samples = (*frame.shape, 1)[:3]
    data = frame.astype("<u2", copy=False).tobytes()
    return bytes(jpeg_ls.encode_buffer(data, rows, columns, samples, bits, interleave_mode=2))


def _decode_jpegls(data: bytes, out: Frame) -> Frame:
    return np.asarray(imagecodecs.jpegls_decode(data, out=out))


def _encode_htj2k(frame: Frame, bits: int, effort: str, rgb: bool) -> bytes:
    return bytes(imagecodecs.htj2k_encode(frame, reversible=True, rgb=rgb))


def _decode_htj2k(data: bytes, out: Frame) -> Frame:
    return np.asarray(imagecodecs.htj2k_decode(data))


def _encode_jpeg2000(frame: Frame, bits: int, effort: str, rgb: bool) -> bytes:
    packed = imagecodecs.jpeg2k_encode(
        frame, level=0, reversible=True, codecformat="J2K", mct=rgb, numthreads=1
    )
    return bytes(packed)


def _decode_jpeg2000(data: bytes, out: Frame) -> Frame:
    return np.asarray(imagecodecs.jpeg2k_decode(data, out=out, numthreads=1))


# libjxl's own scale.
_JXL_EFFORTS = {"fast": 1, "normal": 3, "max": 9}


def _encode_jpegxl(frame: Frame, bits: int, effort: str, rgb: bool) -> bytes:
    packed = imagecodecs.jpegxl_encode(
        frame, lossless=True, effort=_JXL_EFFORTS[effort], usecontainer=False, numthreads=1
    )
    return open_jpegxl(bytes(packed))


def _decode_jpegxl(data: bytes, out: Frame) -> Frame:
    return np.asarray(imagecodecs.jpegxl_decode(data, out=out, numthreads=1))


CODECS = {
    codec.name: codec
    for codec in (
        Codec("jpeg-ls", "1.2.840.10008.1.2.4.80", _encode_jpegls, _decode_jpegls, masked=True),
        Codec(
            "htj2k",
            "1.2.840.10008.1.2.4.201",
            _encode_htj2k,
            _decode_htj2k,
            signed=True,
            transform="YBR_RCT",
        ),
        Codec(
            "jpeg2000",
            "1.2.840.10008.1.2.4.90",
            _encode_jpeg2000,
            _decode_jpeg2000,
            signed=True,
            transform="YBR_RCT",
        ),
        Codec("jpegxl", "1.2.840.10008.1.2.4.110", _encode_jpegxl, _decode_jpegxl, standard=False),
    )
}
