"""What the pixel pipeline is held against: files made here, and other decoders for them."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import jpeg_ls
import numpy as np
import pydicom
from openjpeg.utils import decode as decode_openjpeg
from openjpeg.utils import encode_array as encode_openjpeg
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels import get_encoder, pixel_array

from medkit.catalog.headers import read_header
from medkit.testing import make_uid

IMPLICIT, EXPLICIT, BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2"))
UNCOMPRESSED, DEFLATED = (f"1.2.840.10008.1.2.1.{end}" for end in ("98", "99"))
DEFLATED_FRAMES, RLE = (f"1.2.840.10008.1.2.{end}" for end in ("8.1", "5"))
BASELINE, EXTENDED, LOSSLESS, FIRST_ORDER = (
    f"1.2.840.10008.1.2.4.{end}" for end in ("50", "51", "57", "70")
)
JPEGLS, NEAR, JPEG2000, LOSSY2000, HTJ2K = (
    f"1.2.840.10008.1.2.4.{end}" for end in ("80", "81", "90", "91", "201")
)
NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)


def write_object(
    path: Path,
    values: np.ndarray,
    data: bytes | Sequence[bytes],
    *,
    syntax: str = EXPLICIT,
    fragments: int = 1,
    offsets: str = "basic",
    vrs: dict[str, str] | None = None,
    **keywords: Any,
) -> Path:
    """Write a DICOM image.

    Parameters
    ----------
    values : ndarray, shape (frames, rows, columns[, 3])
        What the elements that describe pixels default to.
    data : bytes, or list of bytes
        Native pixel data, or a codestream for each frame.
    fragments : int
        For each frame.
    offsets : str
        ``"basic"``, ``"extended"`` or ``"none"``: the table of offsets.
    vrs : dict
        VRs that elements shall have, whatever the dictionary says.
    **keywords
        Elements; None leaves one out.
    """
    header = pydicom.Dataset()
    for keyword, value in (describe(path, values) | keywords).items():
        if keyword in (vrs or {}):
            header.add_new(pydicom.datadict.tag_for_keyword(keyword), vrs[keyword], value)
        elif value is not None:
            setattr(header, keyword, value)
    vr = "OW" if header.BitsAllocated > 8 else "OB"
    if isinstance(data, bytes):
        padded = data + b"\0" * (len(data) % 2)
        header.add_new(0x7FE00010, (vrs or {}).get("PixelData", vr), padded)
    else:
        if offsets == "extended":
            wrapped, table, lengths = encapsulate_extended(list(data))
            header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths = table, lengths
        else:
            wrapped = encapsulate(
                list(data), fragments_per_frame=fragments, has_bot=offsets == "basic"
            )
        header.add_new(0x7FE00010, "OB", wrapped)
        header["PixelData"].is_undefined_length = True
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    header.preamble = b"\0" * 128
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # syntaxes that pydicom does not know
        pydicom.dcmwrite(
            path,
            header,
            implicit_vr=syntax == IMPLICIT,
            little_endian=syntax != BIG_ENDIAN,
            force_encoding=True,
        )
    return path


def describe(path: Path, values: np.ndarray) -> dict[str, Any]:
    """Return the elements that values call for."""
    colour, bits = values.ndim == 4, 8 * values.itemsize
    return {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7",
        "SOPInstanceUID": make_uid(f"instance {path.name}"),
        "SeriesInstanceUID": make_uid(f"series {path.parent.name}"),
        "StudyInstanceUID": make_uid(f"study {path.parent.name}"),
        "PatientID": "P000",
        "Modality": "MR",
        "Rows": values.shape[1],
        "Columns": values.shape[2],
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "PlanarConfiguration": 0 if colour else None,
        "NumberOfFrames": len(values) if len(values) > 1 else None,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(values.dtype.kind == "i"),
    }


def catalogue(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file's frames, as the catalog's reader has them."""
    with path.open("rb") as stream:
        finding = read_header(stream, path.stat().st_size)
    assert finding.kind == "image", (finding.reason, finding.detail)
    place = {"root": str(path.parent), "path": path.name}
    return [{**finding.values, **frame, **place} for frame in finding.frames]


def encode_lossless(values: np.ndarray, bits: int, predictor: int = 1) -> bytes:
    unsigned = values.view(f"u{values.itemsize}") & (2**bits - 1)
    return bytes(
        imagecodecs.jpeg8_encode(
            unsigned.astype(f"u{1 if bits <= 8 else 2}"),
            lossless=True,
            predictor=predictor,
            bitspersample=bits,
        )
    )


def encode_jpegls(
    values: np.ndarray, bits: int, near: int = 0, interleave: int | None = None
) -> bytes:
    """Encode with CharLS; ``interleave`` is 0 by plane, 1 by line, 2 by pixel."""
    colour = values.ndim == 3
    mode = interleave if interleave is not None else 2 * colour
    unsigned = (values.view(f"u{values.itemsize}") & (2**bits - 1)).astype(
        f"u{1 if bits <= 8 else 2}"
    )
    data = np.moveaxis(unsigned, -1, 0) if colour and mode == 0 else unsigned
    shape = (*values.shape[:2], 3 if colour else 1)
    return bytes(jpeg_ls.encode_buffer(data.tobytes(), *shape, bits, near, mode))


def _encode_rle(values: np.ndarray, bits: int) -> bytes:
    colour = values.ndim == 3
    return get_encoder(RLE).encode(
        values,
        rows=values.shape[0],
        columns=values.shape[1],
        samples_per_pixel=3 if colour else 1,
        number_of_frames=1,
        bits_allocated=8 * values.itemsize,
        bits_stored=8 * values.itemsize,
        pixel_representation=int(values.dtype.kind == "i"),
        photometric_interpretation="RGB" if colour else "MONOCHROME2",
        planar_configuration=0,
        encoding_plugin="pydicom",
    )


def _encode_jpeg2000(values: np.ndarray, bits: int) -> bytes:
    narrow = values.astype(f"{values.dtype.kind}{1 if bits <= 8 else 2}")
    photometric = 1 if values.ndim == 3 else 2
    return encode_openjpeg(narrow, bits_stored=bits, photometric_interpretation=photometric)


def _encode_htj2k(values: np.ndarray, bits: int) -> bytes:
    return bytes(imagecodecs.htj2k_encode(values, reversible=True))


def _deflate(values: np.ndarray, bits: int) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(values.tobytes()) + deflater.flush()


# Encoders of one frame, whose stored values have so many bits.
ENCODERS: dict[str, Callable[[np.ndarray, int], bytes]] = {
    UNCOMPRESSED: lambda values, bits: values.tobytes(),
    DEFLATED_FRAMES: _deflate,
    RLE: _encode_rle,
    LOSSLESS: lambda values, bits: encode_lossless(values, bits, predictor=6),
    FIRST_ORDER: encode_lossless,
    JPEGLS: encode_jpegls,
    JPEG2000: _encode_jpeg2000,
    HTJ2K: _encode_htj2k,
}


def _decode_jpegls(data: bytes) -> np.ndarray:
    decoded, described = jpeg_ls.decode_pixel_data(data)
    kind = "u1" if described["bits_per_sample"] <= 8 else "<u2"
    values = np.frombuffer(bytes(decoded), kind)
    height, width, planes = (described[name] for name in ("height", "width", "components"))
    if planes > 1 and described["interleave_mode"] == 0:
        return np.moveaxis(values.reshape(planes, height, width), 0, -1)
    return values.reshape(height, width, *([planes] if planes > 1 else []))


# Decoders of one frame which are not those of medkit.
SECOND: dict[str, tuple[Callable[[bytes], np.ndarray], ...]] = {
    UNCOMPRESSED: (),
    DEFLATED_FRAMES: (),
    RLE: (),
    LOSSLESS: (imagecodecs.ljpeg_decode, imagecodecs.jpegsof3_decode),
    FIRST_ORDER: (imagecodecs.ljpeg_decode, imagecodecs.jpegsof3_decode),
    JPEGLS: (_decode_jpegls,),
    NEAR: (_decode_jpegls,),
    JPEG2000: (decode_openjpeg,),
    LOSSY2000: (decode_openjpeg,),
    HTJ2K: (imagecodecs.htj2k_decode, decode_openjpeg),
}


def decode_with_pydicom(path: Path, frame: int) -> np.ndarray:
    """Return stored values as pydicom has them, by its own code where it has some."""
    own = {"decoding_plugin": "pydicom"} if read_syntax(path) == RLE else {}
    return pixel_array(pydicom.dcmread(path), raw=True, index=frame, **own)


def read_syntax(path: Path) -> str:
    return str(pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID)


def show_with_pillow(data: bytes) -> np.ndarray:
    """Return a JPEG in RGB or grey, as Pillow shows it."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)))
