"""From the bytes of a DICOM object to the stored values of one frame.

Only the bytes of that frame are read. What the header says is checked before anything is reserved
or decoded, and bits that hold no stored value (old overlays, mostly) are cleared. Nothing is
interpreted here: colours, padding and lookup tables are the work of `pixels`.
"""

from __future__ import annotations

import io
import itertools
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.encaps import get_frame, parse_basic_offsets, parse_fragments
from pydicom.filereader import read_dataset

from medkit.errors import PixelError
from medkit.images.codestreams import (
    CODECS,
    JPEG2000,
    Codestream,
    decode_codestream,
    run_codec,
)
from medkit.images.rows import Row, read_column

Stored = npt.NDArray[Any]

# Samples of one frame: about ten times the largest mammogram's, and 1 GiB as float64.
SAMPLES_LIMIT = 2**27
# Twice what Rows and Columns of DICOM can say. What a resize needs grows with the sides.
_SIDE_LIMIT = 2**17
# Of a deflated data set, as the catalog's.
INFLATED_LIMIT = 2**30

_IMPLICIT = "1.2.840.10008.1.2"
_EXPLICIT = "1.2.840.10008.1.2.1"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_RLE = "1.2.840.10008.1.2.5"
# Frames as in native pixel data, each in fragments of its own (PS3.5 A.4.11, A.4.13).
_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
_DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
_WRAPPED = (_UNCOMPRESSED, _DEFLATED_FRAMES)
_NATIVE = (_IMPLICIT, _EXPLICIT, _DEFLATED, _BIG_ENDIAN)

# Bits allocated that each attribute may have (PS3.3 C.7.6.3, C.7.6.24, C.7.6.25).
_ALLOCATED = {
    "PixelData": (1, 8, 16, 32),
    "FloatPixelData": (32,),
    "DoubleFloatPixelData": (64,),
}
SAMPLES = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
}


@dataclass(frozen=True)
class PixelModule:
    """What the header says of the pixels (PS3.3 C.7.6.3), found consistent.

    Attributes
    ----------
    rows, columns, samples, frames : int
        Size; ``samples`` is 1 or 3.
    allocated, stored, high : int
        Bits allocated, bits stored and high bit.
    signed, planar : bool
        Whether values are signed, and samples stored plane by plane.
    photometric, syntax, keyword : str
        Photometric interpretation, transfer syntax, and attribute of the pixel data.
    encapsulated : bool
        Whether the value is a sequence of fragments.
    offset, length : int
        Where the value lies.
    """

    rows: int
    columns: int
    samples: int
    frames: int
    allocated: int
    stored: int
    high: int
    signed: bool
    planar: bool
    photometric: str
    syntax: str
    keyword: str
    encapsulated: bool
    offset: int
    length: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a decoded frame."""
        size = (self.rows, self.columns)
        return size if self.samples == 1 else (*size, self.samples)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a stored value, in the byte order of this machine."""
        if self.keyword != "PixelData":
            return np.dtype(f"float{self.allocated}")
        return np.dtype(f"{'int' if self.signed else 'uint'}{max(8, self.allocated)}")

    @property
    def is_halved(self) -> bool:
        """Whether two pixels share their chroma in native data (PS3.3 C.7.6.3.1.2)."""
        native = not self.encapsulated or self.syntax in _WRAPPED
        return self.photometric == "YBR_FULL_422" and native


@dataclass(frozen=True)
class Decoded:
    """The stored values of one frame.

    Attributes
    ----------
    values : ndarray, shape (rows, columns) or (rows, columns, 3)
        Of the type that bits allocated and pixel representation say.
    photometric : str
        How to read them, as in `SAMPLES`.
    lossy : bool or None
        Whether the codestream lost something; None where it does not tell.
    raw : ndarray or None
        The values before bits beyond the stored ones were cleared; None where that cannot matter.
    """

    values: Stored
    photometric: str
    lossy: bool | None = None
    raw: Stored | None = None


def read_module(row: Row) -> PixelModule:
    """Return what a row says of the pixels.

    Raises
    ------
    PixelError
        ``no-pixels``, ``no-size``, ``photometric``, ``bits``, ``too-large`` or
        ``transfer-syntax``: it is incomplete, contradicts itself, or is not supported.
    """
    keyword = read_column(row, "pixel_keyword")
    if keyword not in _ALLOCATED:
        raise PixelError("no-pixels", "the object has no pixel data")
    photometric = str(read_column(row, "PhotometricInterpretation", ""))
    samples = SAMPLES.get(photometric)
    if samples is None or samples != read_column(row, "SamplesPerPixel", 1):
        raise PixelError(
            "photometric",
            f"{photometric!r} with {row.get('SamplesPerPixel')} samples a pixel is not supported",
        )
    allocated = read_column(row, "BitsAllocated", 0)
    stored = read_column(row, "BitsStored", allocated)
    module = PixelModule(
        rows=int(read_column(row, "Rows", 0)),
        columns=int(read_column(row, "Columns", 0)),
        samples=samples,
        frames=int(read_column(row, "NumberOfFrames", 1)) or 1,
        allocated=int(allocated),
        stored=int(stored),
        high=int(read_column(row, "HighBit", stored - 1)),
        signed=bool(read_column(row, "PixelRepresentation", 0)),
        planar=bool(read_column(row, "PlanarConfiguration", 0)) and samples > 1,
        photometric=photometric,
        syntax=str(read_column(row, "TransferSyntaxUID", "")),
        keyword=keyword,
        encapsulated=bool(row["encapsulated"]),
        offset=int(row["pixel_offset"]),
        length=int(row["pixel_length"]),
    )
    _check_module(module)
    return module


def check_size(rows: int, columns: int, samples: int) -> None:
    """Refuse a frame without a size, above `SAMPLES_LIMIT`, or endlessly long and thin."""
    if min(rows, columns) <= 0:
        raise PixelError("no-size", f"{rows} rows and {columns} columns are no image")
    if rows * columns * samples > SAMPLES_LIMIT or max(rows, columns) > _SIDE_LIMIT:
        raise PixelError(
            "too-large",
            f"{rows} x {columns} x {samples} is above {SAMPLES_LIMIT:,} samples, or a side above "
            f"{_SIDE_LIMIT:,}",
        )


def _check_module(module: PixelModule) -> None:
    check_size(module.rows, module.columns, module.samples)
    if (
        module.allocated not in _ALLOCATED[module.keyword]
        or not 1 <= module.stored <= module.high + 1 <= module.allocated
        or (module.allocated == 1 and (module.samples > 1 or module.encapsulated or module.signed))
    ):
        raise PixelError(
            "bits",
            f"{module.allocated} bits allocated, {module.stored} stored, high bit {module.high}, "
            f"{module.samples} samples: not a combination that can be decoded",
        )
    if module.is_halved and module.planar:
        raise PixelError("photometric", "YBR_FULL_422 plane by plane")
    native = module.syntax in _NATIVE
    if not native and module.syntax not in (_RLE, *_WRAPPED) and module.syntax not in CODECS:
        raise PixelError("transfer-syntax", f"{module.syntax!r} is not supported")
    if native == module.encapsulated or (module.encapsulated and module.keyword != "PixelData"):
        raise PixelError("transfer-syntax", f"{module.syntax} does not suit {module.keyword}")


def decode_frame(stream: BinaryIO, module: PixelModule, frame: int) -> Decoded:
    """Return the stored values of one frame.

    Parameters
    ----------
    stream : binary file
        The whole DICOM object, seekable.
    module : PixelModule
        As `read_module` returns it.
    frame : int
        From 0.

    Raises
    ------
    PixelError
        ``no-frame``, ``pixel-length`` (more or fewer bytes than the header needs, or a stream
        that was cut), ``fragments``, ``codestream``, ``codestream-size``, ``bits`` or
        ``too-large``.
    """
    if not 0 <= frame < module.frames:
        raise PixelError("no-frame", f"frame {frame} of {module.frames}")
    if module.syntax in _NATIVE:
        raw = _read_native(stream, module, frame)
        return Decoded(_clear_bits(raw, module), module.photometric, raw=raw)
    data = _read_codestream(stream, module, frame)
    if module.syntax not in CODECS:
        raw = _decode_rle(data, module) if module.syntax == _RLE else _unwrap(data, module)
        return Decoded(_clear_bits(raw, module), module.photometric, raw=raw)
    samples, header = decode_codestream(data, module.syntax, module.shape)
    return Decoded(
        _fit_header(samples, header, module), _tell_colours(module, header), header.lossy
    )


def _read_native(stream: BinaryIO, module: PixelModule, frame: int) -> Stored:
    samples = module.rows * module.columns * (2 if module.is_halved else module.samples)
    bits = samples * module.allocated
    needed = -(-bits * module.frames // 8)
    if module.length not in (needed, needed + needed % 2):
        raise PixelError("pixel-length", f"there are {module.length} bytes, {needed} are needed")
    if module.syntax == _DEFLATED:
        stream = _inflate(stream, module)
    first, skipped = divmod(frame * bits, 8)
    data = _read_bytes(stream, module, first, -(-(skipped + bits) // 8))
    if module.allocated == 1:
        data = np.unpackbits(data, bitorder="little")[skipped : skipped + bits]
    kind = module.dtype.newbyteorder(">" if module.syntax == _BIG_ENDIAN else "<")
    values = data.view(kind).astype(module.dtype, copy=False)
    return _arrange(values, module)


def _read_bytes(
    stream: BinaryIO, module: PixelModule, first: int, count: int
) -> npt.NDArray[np.uint8]:
    """Return some bytes of the value, in the order of little-endian OB."""
    swapped = module.syntax == _BIG_ENDIAN and module.allocated < 16 and _is_word(stream, module)
    start = first - first % 2 if swapped else first
    length = (first + count - start) + (first + count - start) % 2 * swapped
    stream.seek(module.offset + start)
    read = np.empty(length, dtype=np.uint8)
    if (found := _fill(stream, read)) < length:
        raise PixelError("pixel-length", f"the file ends {length - found} bytes too early")
    if swapped:
        read = read.view(np.uint16).byteswap().view(np.uint8)
    return read[first - start : first - start + count]


def _fill(stream: Any, buffer: npt.NDArray[np.uint8]) -> int:
    """Read bytes into a buffer until it is full or the stream ends; return how many came."""
    filled = 0
    while filled < len(buffer) and (count := stream.readinto(buffer[filled:])):
        filled += count
    return filled


def _is_word(stream: BinaryIO, module: PixelModule) -> bool:
    """Say whether the value is OW: then big-endian swaps also bytes in pairs (PS3.5 8.1.2)."""
    stream.seek(module.offset - 8)  # tag, VR, two reserved bytes, length of four (PS3.5 7.1.2)
    return stream.read(2) == b"OW"


def _inflate(stream: BinaryIO, module: PixelModule) -> BinaryIO:
    """Return the data set as far as the pixels (PS3.5 A.5), to which ``offset`` refers."""
    end = module.offset + module.length
    if end > INFLATED_LIMIT:
        raise PixelError("too-large", f"the data set inflates to more than {INFLATED_LIMIT:,}")
    stream.seek(0)
    stream.seek(132 if stream.read(132)[128:] == b"DICM" else 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values that stray from the standard
        read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    try:
        return io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(), end))
    except zlib.error as error:
        raise PixelError("codestream", f"the data set does not inflate: {error}") from None


def _share_chroma(values: Stored, module: PixelModule) -> Stored:
    """Give each of two pixels the chroma they share: Y1 Y2 Cb Cr (PS3.3 C.7.6.3.1.2)."""
    if module.columns % 2:
        raise PixelError("photometric", "YBR_FULL_422 with an odd number of columns")
    pairs = values.reshape(-1, 4)
    chroma = np.repeat(pairs[:, 2:], 2, axis=0)
    return np.column_stack([pairs[:, :2].reshape(-1), chroma]).reshape(module.shape)


def _read_codestream(stream: BinaryIO, module: PixelModule, frame: int) -> bytes:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a missing end, which is looked for later
            _check_fragments(stream, module)
            stream.seek(module.offset)
            return get_frame(stream, frame, number_of_frames=module.frames)
    except (ValueError, EOFError, struct.error) as error:
        raise PixelError(
            "fragments", f"frame {frame} is not in the fragments: {error}"[:300]
        ) from None


def _check_fragments(stream: BinaryIO, module: PixelModule) -> None:
    """Raise if fragments do not tell where a frame of several begins and ends.

    pydicom takes offsets as they are, and looks for the end marker of a JPEG in what has none.
    """
    if module.frames == 1:
        return
    stream.seek(module.offset)
    offsets = parse_basic_offsets(stream)
    if any(late <= early for early, late in itertools.pairwise(offsets)) or any(offsets[:1]):
        raise ValueError("the Basic Offset Table does not ascend from zero")
    if not offsets and module.syntax not in CODECS:
        count, _ = parse_fragments(stream)
        if count != module.frames:
            raise ValueError(f"{count} fragments of {module.frames} frames, and no offsets")


def _unwrap(data: bytes, module: PixelModule) -> Stored:
    """Return the values of a frame that is not compressed, or deflated alone."""
    samples = module.rows * module.columns * (2 if module.is_halved else module.samples)
    length = samples * module.dtype.itemsize
    if module.syntax == _DEFLATED_FRAMES:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, length + 2)
        except zlib.error as error:
            raise PixelError("codestream", f"the frame does not inflate: {error}") from None
    if len(data) not in (length, length + length % 2):
        raise PixelError("pixel-length", f"there are {len(data)} bytes, {length} are needed")
    kind = module.dtype.newbyteorder("<")
    return _arrange(np.frombuffer(data, kind, samples).astype(module.dtype), module)


def _arrange(values: Stored, module: PixelModule) -> Stored:
    """Return samples, in the order of native pixel data, as a frame."""
    if module.is_halved:
        return _share_chroma(values, module)
    if module.planar:
        return np.moveaxis(values.reshape(3, module.rows, module.columns), 0, -1)
    return values.reshape(module.shape)


def _decode_rle(data: bytes, module: PixelModule) -> Stored:
    """Decode PackBits segments, one per byte of a sample and sample (PS3.5 G)."""
    kind = np.dtype(f"<u{module.dtype.itemsize}")
    length = module.rows * module.columns * module.samples * kind.itemsize

    def unpack(data: bytes) -> Stored:
        return np.frombuffer(imagecodecs.dicomrle_decode(data, dtype=kind, out=length), kind)

    samples = run_codec(unpack, data)
    if samples.nbytes != length:
        raise PixelError("pixel-length", f"RLE gives {samples.nbytes} bytes, {length} are needed")
    planes = samples.astype(module.dtype).reshape(module.samples, module.rows, module.columns)
    return planes[0] if module.samples == 1 else np.moveaxis(planes, 0, -1)


def _clear_bits(values: Stored, module: PixelModule) -> Stored:
    """Keep the stored bits alone, and extend their sign (PS3.5 8.1.1)."""
    if module.keyword != "PixelData" or module.allocated == 1:
        return values
    return _keep_bits(values, 8 * values.itemsize - 1 - module.high, module.stored)


def _keep_bits(values: Stored, left: int, stored: int) -> Stored:
    """Return the values of some bits, above which others are."""
    if stored == 8 * values.itemsize:
        return values
    shifted = np.left_shift(values, left)
    # Shifted back, signed types repeat the sign and unsigned ones fill with zeros.
    return np.right_shift(shifted, 8 * values.itemsize - stored, out=shifted)


def _fit_header(samples: Stored, header: Codestream, module: PixelModule) -> Stored:
    """Read a codestream's samples as the DICOM header says.

    Of precision and sign, the header's win. It is refused where they leave no doubt that values
    are lost, or no way to tell what they are.
    """
    width, stored = 8 * module.dtype.itemsize, module.stored
    if header.precision > width:
        raise PixelError("bits", f"the codestream has {header.precision} bits, the header {width}")
    container = np.dtype(f"{samples.dtype.kind}{module.dtype.itemsize}")
    wide = samples.astype(container, copy=False).view(module.dtype)
    values = _keep_bits(wide, width - stored, stored)
    if header.precision > stored and not np.array_equal(values, wide):
        # Bits above the stored ones may be zero or repeat the sign; in a codestream others are no
        # overlay, but values that the header has no room for.
        beyond = wide.view(f"u{wide.itemsize}") >= 2**stored
        if np.any(beyond & (values != wide)):
            raise PixelError("bits", f"the codestream has values of more than {stored} bits")
    # Either a negative value that lost its sign on the way, or a large positive one.
    doubtful = module.signed != header.signed and header.precision < stored
    if doubtful and int(values.max()) >> (header.precision - 1):
        raise PixelError("bits", "codestream and header differ in sign, and values depend on it")
    return values


def _tell_colours(module: PixelModule, header: Codestream) -> str:
    """Return the colours that a codestream's samples are in.

    It knows better than the DICOM header, which writers leave as it was before compression;
    where it says nothing the header is believed.
    """
    if module.samples == 1:
        return module.photometric
    undone = CODECS[module.syntax] == JPEG2000 and header.colours is not None
    if undone and module.photometric in ("YBR_FULL", "YBR_FULL_422"):
        # It was applied to YBR, or to RGB whose header was forgotten: nobody can tell.
        raise PixelError("photometric", f"{module.photometric} under a transform of JPEG 2000")
    return header.colours or module.photometric
