"""One file of a tree: packed, proven, and restored."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from medkit.archive.anatomy import (
    PHOTOMETRIC,
    PIXELS,
    PLANAR,
    Anatomy,
    Samples,
    dissect,
    replace_values,
)
from medkit.archive.codecs import NARROW, Codec, Frame
from medkit.archive.elements import OddFileError, write_element
from medkit.errors import SourceError
from medkit.sources import zstd

STORED, ZSTD = "stored", "zstd"
_LEVEL = 3
_WHOLE = 1 << 30  # what is compressed in memory
_WORTH = 0.95  # of its size, at most, or compressing is left alone
_HEAD = 12  # of the element of the pixel data, in explicit little-endian
_ITEM = struct.Struct("<HHI")
_ITEM_TAG, _END_TAG = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF
_LONGEST_FRAGMENT = 0xFFFFFFFE


@dataclass(frozen=True)
class Packed:
    """A file as it is archived.

    Attributes
    ----------
    form : str
        ``stored``, ``zstd``, or the name of the codec.
    content : bytes or buffer
        The member: the file as it is, as `zstd` streams, or a DICOM file of another syntax.
    reason : str
        Why it was not given to the codec; empty where it was.
    outside : bytes
        All of the original but its samples, and what the member shares with it.
    head : int
        How many of these come before the samples.
    shared : int
        How many bytes before the element of the pixel data are those of the member.
    pixels : int
        Where in the member the value of the pixel data begins.
    samples : Samples or None
        Of the original.
    identity : dict of str to object
        What the index says of the object, where it is one.
    """

    form: str
    content: Any
    reason: str = ""
    outside: bytes = b""
    head: int = 0
    shared: int = 0
    pixels: int = 0
    samples: Samples | None = None
    identity: dict[str, Any] = field(default_factory=dict)


def pack_file(data: Any, codec: Codec, effort: str) -> Packed:
    """Pack a file, and restore it, before anybody relies on it.

    Parameters
    ----------
    data : bytes or mmap
        The whole file.
    codec, effort
        As of `codecs`.
    """
    anatomy = dissect(data)
    if anatomy.samples is None:
        return store_file(data, anatomy.reason, anatomy)
    try:
        packed = _recompress(data, anatomy, anatomy.samples, codec, effort)
        if not _is_same(data, restore(packed.content, packed, codec)):
            return store_file(data, "not-restored", anatomy)
    except OddFileError as odd:
        return store_file(data, odd.code, anatomy)
    except (SourceError, ValueError, RuntimeError, IndexError):
        return store_file(data, "not-restored", anatomy)
    if len(packed.content) + len(packed.outside) // 4 > len(data):
        return store_file(data, "not-smaller", anatomy)
    return packed


def store_file(data: Any, reason: str, anatomy: Anatomy | None = None) -> Packed:
    """Keep a file as it is, compressed where that helps and is undone rightly."""
    identity = _identify(anatomy) if anatomy else {}
    if not 0 < len(data) <= _WHOLE:
        return Packed(STORED, data, reason, identity=identity)
    packed = zstd.compress(memoryview(data), _LEVEL)
    if len(packed) > _WORTH * len(data) or not _is_same(
        data, iter([zstd.decompress(packed, len(data))])
    ):
        return Packed(STORED, data, reason, identity=identity)
    return Packed(ZSTD, packed, reason, identity=identity)


def _identify(anatomy: Anatomy) -> dict[str, Any]:
    told = {"identified": anatomy.identified, "burned_in": anatomy.burned_in}
    return {**anatomy.identity, **(told if anatomy.reason != "not-dicom" else {})}


def _is_same(data: Any, parts: Iterator[Any]) -> bool:
    place, whole = 0, np.frombuffer(data, np.uint8)
    for part in parts:
        piece = np.frombuffer(part, np.uint8)
        if not np.array_equal(whole[place : place + len(piece)], piece):
            return False
        place += len(piece)
    return place == len(whole)


def _recompress(data: Any, anatomy: Anatomy, samples: Samples, codec: Codec, effort: str) -> Packed:
    rgb = samples.photometric == "RGB"
    frames = [
        codec.encode(_take_frame(data, samples, number, codec), samples.stored, effort, rgb)
        for number in range(samples.frames)
    ]
    changes = {PLANAR: b"\0\0"} if samples.samples > 1 else {}
    if rgb and codec.transform:
        changes[PHOTOMETRIC] = codec.transform.encode().ljust(8)
    start = b"".join(
        [
            _write_meta(anatomy.meta, codec.syntax),
            *replace_values(anatomy.before, changes),
            struct.pack("<HH2sHI", PIXELS >> 16, PIXELS & 0xFFFF, b"OB", 0, _UNDEFINED),
        ]
    )
    rest = [element for _, element in anatomy.after]
    end = samples.start + samples.size
    head = bytes(data[: samples.start])
    shared = _count_shared(head, start)
    return Packed(
        codec.name,
        b"".join([start, *_encapsulate(frames), *rest]),
        outside=head[: len(head) - _HEAD - shared] + head[len(head) - _HEAD :] + data[end:],
        head=samples.start - shared,
        shared=shared,
        pixels=len(start),
        samples=samples,
        identity=_identify(anatomy),
    )


def _count_shared(head: bytes, start: bytes) -> int:
    """Return how many bytes before the element of the pixel data are the same in both.

    In explicit little-endian that is all of the data set, which need not be kept twice.
    """
    one, other = (np.frombuffer(part[:-_HEAD], np.uint8)[::-1] for part in (head, start))
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if differ.size else length


def _take_frame(data: Any, samples: Samples, number: int, codec: Codec) -> Frame:
    """Return a frame as codecs take it: in this machine's byte order, colours side by side."""
    count = samples.frame_size // np.dtype(samples.words).itemsize
    words = np.frombuffer(data, samples.words, count, samples.start + number * samples.frame_size)
    native = words.astype(words.dtype.newbyteorder("="), copy=False)
    _check_high_bits(native, samples.stored)
    native = native if codec.signed else native.view(f"u{native.itemsize}")
    if codec.masked and _needs_sign(samples):
        native = native & np.array((1 << samples.stored) - 1, native.dtype)
    if samples.planar:
        planes = native.reshape(samples.samples, samples.rows, samples.columns)
        return np.ascontiguousarray(np.moveaxis(planes, 0, -1))
    return native.reshape(samples.shape)


def _needs_sign(samples: Samples) -> bool:
    """Say whether bits above the stored ones repeat the sign."""
    kind = np.dtype(samples.words)
    return kind.kind == "i" and kind.itemsize == 2 and samples.stored in NARROW


def _check_high_bits(words: Frame, stored: int) -> None:
    """Raise where bits beyond the stored ones mean something of their own.

    Old overlays lie there. They would survive, but readers of native data and of codestreams
    disagree on what the value of such a word is.
    """
    if stored == 8 * words.itemsize:
        return
    signed = words.dtype.kind == "i"
    low, high = (-(1 << stored - 1), 1 << stored - 1) if signed else (0, 1 << stored)
    if int(words.min()) < low or int(words.max()) >= high:
        raise OddFileError("high-bits", "there is something in the bits that are not stored")


def _write_meta(elements: list[bytes], syntax: str) -> bytes:
    """Return preamble and file meta information; elements ascend by their tag."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    known = [*elements, write_element(0x00020010, b"UI", uid)]
    content = b"".join(sorted(known, key=lambda element: struct.unpack_from("<HH", element)))
    length = write_element(0x00020000, b"UL", struct.pack("<I", len(content)))
    return b"\0" * 128 + b"DICM" + length + content


def _encapsulate(frames: list[bytes]) -> Iterator[bytes]:
    """Yield the items of encapsulated pixel data, a fragment a frame (PS3.5 A.4)."""
    padded = [frame + b"\0" * (len(frame) % 2) for frame in frames]
    offsets = [0, *accumulate(len(frame) + _ITEM.size for frame in padded)][:-1]
    # An offset table has words of four bytes; a longer one is left empty, as the standard allows.
    fits = offsets[-1] <= _LONGEST_FRAGMENT
    table = struct.pack(f"<{len(offsets)}I", *offsets) if fits else b""
    yield _ITEM.pack(*_ITEM_TAG, len(table)) + table
    for frame in padded:
        yield _ITEM.pack(*_ITEM_TAG, len(frame))
        yield frame
    yield _ITEM.pack(*_END_TAG, 0)


def restore(content: Any, packed: Packed, codec: Codec) -> Iterator[Any]:
    """Yield the original of a recompressed file, piece by piece.

    Parameters
    ----------
    content : buffer
        The member.
    packed : Packed
        All but its content.
    codec : Codec
        That it was packed with.

    Raises
    ------
    SourceError
        If the member is not what the rest says.
    """
    samples = packed.samples
    if samples is None:
        raise SourceError("it has no samples to restore")
    place, shared = packed.pixels - _HEAD, packed.shared
    if not 0 <= shared <= place <= len(content) or not packed.head >= _HEAD:
        raise SourceError("its header is not where the index says")
    yield packed.outside[: packed.head - _HEAD]
    yield content[place - shared : place]
    yield packed.outside[packed.head - _HEAD : packed.head]
    kind = np.dtype(samples.words)
    held = kind if codec.signed else np.dtype(f"u{kind.itemsize}")
    for fragment in _iterate_frames(content, packed.pixels, samples.frames):
        out = np.empty(samples.shape, held.newbyteorder("="))
        try:
            frame = codec.decode(fragment, out)
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            raise SourceError(f"a frame cannot be decoded: {error}") from None
        if frame.shape != out.shape or frame.dtype != out.dtype:
            raise SourceError("a frame has another shape than the index says")
        if codec.masked and _needs_sign(samples):
            left = 8 * held.itemsize - samples.stored
            frame = (frame.view(f"i{held.itemsize}") << left >> left).view(frame.dtype)
        if samples.planar:
            frame = np.moveaxis(frame, -1, 0)
        order = f"{samples.words[0]}{held.kind}{held.itemsize}"
        yield np.ascontiguousarray(frame, order).reshape(-1).view(np.uint8).data
    yield packed.outside[packed.head :]


def _iterate_frames(content: Any, place: int, frames: int) -> Iterator[bytes]:
    place = _read_item(content, place)[1]  # the offset table
    for _ in range(frames):
        start, end = _read_item(content, place)
        yield bytes(content[start:end])
        place = end


def _read_item(content: Any, place: int) -> tuple[int, int]:
    """Return where the content of an item begins and ends."""
    if not 0 <= place <= len(content) - _ITEM.size:
        raise SourceError("its pixel data break off")
    group, element, length = _ITEM.unpack_from(content, place)
    end = place + _ITEM.size + length
    if (group, element) != _ITEM_TAG or end > len(content):
        raise SourceError("its pixel data are not fragments")
    return place + _ITEM.size, end


def hash_bytes(content: Any) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
