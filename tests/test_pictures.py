"""PNG, JPEG, TIFF and BMP pictures: what Pillow sees."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from medkit.catalog.pictures import read_picture
from medkit.catalog.triage import HEAD, recognise
from medkit.errors import PixelError
from medkit.images.decoding import Decoded
from medkit.images.pictures import decode_picture
from medkit.images.pixels import name_array, read_frame

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (9, 14)).astype(np.uint8)
DEEP = RANDOM.integers(0, 65536, (9, 14)).astype(np.uint16)
COLOUR = RANDOM.integers(0, 256, (9, 14, 3)).astype(np.uint8)
SMOOTH = np.stack(np.meshgrid(np.arange(64), np.arange(48)), axis=-1)[..., [0, 1, 0]].astype(
    np.uint8
)

PICTURES = {
    "png": Image.fromarray(GREY),
    "png 1 bit": Image.fromarray(GREY > 127),
    "png 16 bit": Image.fromarray(DEEP),
    "png colour": Image.fromarray(COLOUR),
    "png alpha": Image.fromarray(COLOUR).convert("RGBA"),
    "png grey alpha": Image.fromarray(GREY).convert("LA"),
    "png palette": Image.fromarray(COLOUR).quantize(7),
    "bmp": Image.fromarray(COLOUR),
    "bmp palette": Image.fromarray(COLOUR).quantize(7),
    "tiff": Image.fromarray(GREY),
    "tiff 1 bit": Image.fromarray(GREY > 127),
    "tiff 16 bit": Image.fromarray(DEEP),
    "tiff float": Image.fromarray(DEEP.astype(np.float32) / 7),
    "tiff colour": Image.fromarray(COLOUR),
    "tiff alpha": Image.fromarray(COLOUR).convert("RGBA"),
    "tiff palette": Image.fromarray(COLOUR).quantize(7),
    "jpeg": Image.fromarray(SMOOTH[..., 0]),
    "jpeg colour": Image.fromarray(SMOOTH),
}
BITS = {"1": 1, "I;16": 16, "F": 32}
COLOURS = {"P": "PALETTE COLOR", "RGB": "RGB", "RGBA": "RGB"}


def make(picture: Image.Image, form: str, **options: Any) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of a picture, and its row as the catalog has it."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    bits = BITS.get(picture.mode, 8)
    row = {
        "format": form,
        "frame": 0,
        "Rows": picture.height,
        "Columns": picture.width,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "SamplesPerPixel": 1 if picture.mode == "P" else len(picture.getbands()),
        "PhotometricInterpretation": COLOURS.get(picture.mode, "MONOCHROME2"),
        "LossyImageCompression": "01" if form == "jpeg" else "00",
    }
    return buffer.getvalue(), row


def decode(data: bytes, row: dict[str, Any]) -> Decoded:
    return decode_picture(io.BytesIO(data), row)


def expect(picture: Image.Image) -> np.ndarray:
    mode = {"P": "RGB", "RGBA": "RGB", "LA": "L"}.get(picture.mode, picture.mode)
    return np.asarray(picture if mode == picture.mode else picture.convert(mode))


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_pixels_are_pillows(name: str, tmp_path: Path) -> None:
    picture, form = PICTURES[name], name.split()[0]
    data, row = make(picture, form)
    decoded = decode(data, row)
    expected = expect(picture if form != "jpeg" else Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decoded.values, expected)
    # The catalog alone says which array it goes to, and the frame must fit there.
    (tmp_path / "x").write_bytes(data)
    frame = read_frame(row | {"root": str(tmp_path), "path": "x"})
    kind, channels = name_array(row).split("x")
    assert frame.values.ndim == (3 if channels == "3" else 2)
    assert np.can_cast(frame.values.dtype, kind)
    assert frame.lossy == (form == "jpeg")


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_the_catalog_knows_depth_and_colours(name: str) -> None:
    picture, form = PICTURES[name], name.split()[0]
    data, row = make(picture, form)
    assert recognise(data[:HEAD], len(data)) == form
    values = read_picture(io.BytesIO(data), form).values
    assert values is not None
    assert picture.mode == "P" or values["BitsStored"] == row["BitsStored"]  # few colours, few bits
    for key in ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"):
        assert values[key] == row[key], key


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["jpeg", "tiff"])
def test_pictures_are_upright(form: str, orientation: int) -> None:
    picture = Image.fromarray(SMOOTH)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif} if form == "jpeg" else {"tiffinfo": {0x0112: orientation}}
    data, row = make(picture, form, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode(data, row).values, np.asarray(upright))


def test_pages_of_a_tiff_are_frames() -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY[::-1])]
    data, row = make(pages[0], "tiff", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(decode(data, row | {"frame": 1}).values, GREY[::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_big_tiffs_are_upright(orientation: int) -> None:
    options = {"tiffinfo": {0x0112: orientation}, "big_tiff": True}
    data, row = make(Image.fromarray(GREY), "tiff", **options)
    assert data[2] == 43
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode(data, row).values, np.asarray(upright))


def test_a_page_unlike_the_first_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few bytes may claim gigabytes."""
    pages = [Image.fromarray(GREY), Image.fromarray(GREY.T.copy())]
    data, row = make(pages[0], "tiff", save_all=True, append_images=pages[1:])
    monkeypatch.setattr("imagecodecs.tiff_decode", lambda *_, **__: pytest.fail("decoded"))
    for frame in (1, 2):
        with pytest.raises(PixelError, match="codestream-size"):
            decode(data, row | {"frame": frame})


def test_a_tile_far_larger_than_its_picture_is_refused() -> None:
    wide, long = (b"\x42\x01\x03\0\1\0\0\0", b"\x43\x01\x03\0\1\0\0\0")
    data = bytes(imagecodecs.tiff_encode(GREY, tile=(16, 16)))
    _, row = make(PICTURES["tiff"], "tiff")
    np.testing.assert_array_equal(decode(data, row).values, GREY)
    for entry in (wide, long):
        assert data.count(entry + b"\x10\0") == 1
        data = data.replace(entry + b"\x10\0", entry + b"\xf0\xff")
    with pytest.raises(PixelError, match="too-large"):
        decode(data, row)


def test_integers_of_64_bits_are_refused() -> None:
    data = bytes(imagecodecs.tiff_encode(GREY.astype(np.int64)))
    _, row = make(PICTURES["tiff"], "tiff")
    with pytest.raises(PixelError, match="bits"):
        decode(data, row)


@pytest.mark.parametrize("name", ["png", "jpeg colour", "tiff", "bmp"])
def test_a_cut_picture_is_refused(name: str) -> None:
    data, row = make(PICTURES[name], name.split()[0])
    with pytest.raises(PixelError):
        decode(data[: len(data) // 2], row)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("photometric", {"PhotometricInterpretation": "CMYK"}),
        ("photometric", {"PhotometricInterpretation": None}),
        ("codestream-size", {"PhotometricInterpretation": "RGB"}),
        ("codestream-size", {"Rows": 10}),
        ("too-large", {"Rows": 2**20, "Columns": 2**20}),
        ("too-large", {"Rows": 1, "Columns": 2**20}),
        ("no-size", {"Rows": None}),
    ],
)
def test_a_picture_that_is_not_as_catalogued_is_refused(code: str, change: dict[str, Any]) -> None:
    data, row = make(PICTURES["png"], "png")
    with pytest.raises(PixelError) as caught:
        decode(data, row | change)
    assert caught.value.code == code


def test_a_jpeg_in_cmyk_is_refused() -> None:
    data, row = make(Image.fromarray(SMOOTH).convert("CMYK"), "jpeg")
    with pytest.raises(PixelError, match="photometric"):
        decode(data, row | {"PhotometricInterpretation": "RGB"})


def test_a_turned_palette_of_a_tiff_is_refused() -> None:
    data, row = make(PICTURES["tiff palette"], "tiff", tiffinfo={0x0112: 6})
    with pytest.raises(PixelError, match="photometric"):
        decode(data, row)
