"""Promise: every real file is normalised, or refused with a reason. And what do others make of it?

Takes every DICOM image that ships with pydicom and pydicom-data, and those in a folder of more,
each once, and prints the tables of docs/pixels.md. The first, middle and last frame are compared.

Contenders, each with no options beyond what its guides show:

- medkit: `read_frame`, in real-world values.
- pydicom and Pillow, the script that people write: ``pixel_array``, ``apply_modality_lut``, the
  image's own minimum and maximum to 0 and 255, ``Image.resize``; every frame of a multi-frame file.
- SimpleITK: ``ReadImage`` and ``GetArrayFromImage``, then ``Resample``.

What is right is decided by a fourth reading, `find_truth`, that shares no code with any of them
beyond the codecs: stored values from pydicom's decoder, or from GDCM's where pydicom has none;
then PS3.3 written out here: rescale of the frame, Modality LUT, palette, YBR, padding, polarity.
A reader is judged by the values that it has before it reduces them to 8 bits:

- raised: it refused the file, or broke.
- slices lost: it has fewer images than the file has slices: all of a mosaic in one picture.
- wrong shape or colour: indices of a palette in place of colours, YBR in place of RGB, grey where
  a part of the range is meant to be colour (PS3.3 C.8.16.2.1.1.1), or the like.
- wrong values: they differ from the truth by more than a millionth of its range; in lossy JPEG by
  more than 2 steps, in colour with shared chroma by more than 8.
- wrong polarity: they are right but for being upside down. A radiograph (CR, DX, IO, MG, PX, RF,
  RG, XA) in MONOCHROME1, or with a PresentationLUTShape of INVERSE, is there to be shown bright for
  low values; in CT, MR and PET the same would falsify what was measured.
- padding is tissue: pixels that the header calls padding have values like any other, and would be
  blended into their neighbours.
- levels lost: all of that is right, but the result has fewer distinct values than the source. A
  palette of 16 bits may be delivered in 8, where that loses none.
- right.

A file counts once, in the first row that applies. Not counted against anybody: windows, and that
the script stretches each image by its own extremes, which it does to all.

    pip install SimpleITK pillow pydicom-data python-gdcm pyjpegls pylibjpeg-openjpeg
    python benchmarks/census.py [FOLDER] [--names]
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

from medkit.catalog.headers import read_header
from medkit.errors import MedkitError
from medkit.images.mosaics import count_tiles as count_slices
from medkit.images.mosaics import is_mosaic
from medkit.images.pixels import read_frame

SIZE = (299, 299)
DISPLAYED = ("CR", "DX", "IO", "MG", "PX", "RF", "RG", "XA")
BASELINE, EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
RAISED, LOST, SHAPE, VALUES, POLARITY, PADDING, LEVELS, RIGHT = OUTCOMES = (
    "raised",
    "slices lost",
    "wrong shape or colour",
    "wrong values",
    "wrong polarity",
    "padding is tissue",
    "levels lost",
    "right",
)


@dataclass(frozen=True)
class Truth:
    """What a frame is.

    Attributes
    ----------
    real : ndarray
        Real-world values, or colours.
    padding : ndarray of bool
        Where there is padding.
    turned : ndarray or None
        Real-world values as they are displayed, of an image that is shown upside down.
    tolerance : float
        What the codec may differ by.
    """

    real: np.ndarray
    padding: np.ndarray
    turned: np.ndarray | None
    tolerance: float


@dataclass
class Delivered:
    """What a contender makes of a file: its frames in full precision, and afterwards.

    Attributes
    ----------
    frames : dict
        By number.
    count : int
        Frames that it has.
    masked : dict
        Where it knows padding, by frame.
    kept : dict
        Distinct values at the end, by frame; those of the frame where it is not there.
    """

    frames: dict[int, np.ndarray]
    count: int
    masked: dict[int, np.ndarray] = field(default_factory=dict)
    kept: dict[int, int] = field(default_factory=dict)


# The fourth reading


def find_truth(path: Path, header: pydicom.Dataset, number: int) -> Truth:
    """Return what a frame is, by the standard; raise if nobody can decode it."""
    tiles = count_tiles(header)
    stored = decode(path, header, 0 if tiles else number)
    if tiles:
        stored = cut_tile(stored, number, tiles)
        number = 0
    photometric = header.PhotometricInterpretation
    lossy = header.file_meta.get("TransferSyntaxUID") in (BASELINE, EXTENDED)
    nothing = np.zeros(stored.shape[:2], bool)
    if photometric == "PALETTE COLOR":
        return Truth(find_palette(header)(stored), nothing, None, 0)
    if header.get("PixelPresentation") in ("COLOR", "MIXED") and stored.ndim == 2:
        return Truth(np.stack([stored] * 3, axis=-1), nothing, None, 0)  # its shape suffices
    if stored.ndim == 3:
        return Truth(find_colours(path, header, number, stored), nothing, None, 8 if lossy else 1)
    slope, intercept = find_rescale(header, number)
    bits, signed = header.BitsStored, header.PixelRepresentation
    pivot = -1 if signed else 2**bits - 1
    real, turned = stored * slope + intercept, (pivot - stored) * slope + intercept
    if "ModalityLUTSequence" in header:
        real, top = look_up(stored, header), 2 ** header.ModalityLUTSequence[0].LUTDescriptor[2] - 1
        turned = top - real
    inverse = photometric == "MONOCHROME1" or header.get("PresentationLUTShape") == "INVERSE"
    shown = inverse and header.get("Modality") in DISPLAYED
    padding = find_padding(header, stored)
    return Truth(real, padding, turned if shown else None, 2 * abs(slope) if lossy else 0)


def decode(path: Path, header: pydicom.Dataset, number: int) -> np.ndarray:
    """Return stored values (int64) by pydicom's decoders, or else GDCM's."""
    try:
        values = pixel_array(header, raw=True, index=number)
    except Exception:  # whatever it is, there is another
        values = decode_with_gdcm(path, number)
    return values if values.dtype.kind == "f" else values.astype(np.int64)


def decode_with_gdcm(path: Path, number: int) -> np.ndarray:
    """Return stored values by GDCM."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise ValueError("GDCM cannot read it")
    image = reader.GetImage()
    form = image.GetPixelFormat()
    kind = f"{'i' if form.GetPixelRepresentation() else 'u'}{form.GetBitsAllocated() // 8}"
    data = np.frombuffer(image.GetBuffer().encode("utf-8", errors="surrogateescape"), kind)
    columns, rows = image.GetDimension(0), image.GetDimension(1)
    samples = form.GetSamplesPerPixel()
    shape = (-1, rows, columns, samples) if samples > 1 else (-1, rows, columns)
    return data.reshape(shape)[number]


def find_rescale(header: pydicom.Dataset, number: int) -> tuple[float, float]:
    """Return slope and intercept: of the frame, of all frames, or of the object."""
    groups = [
        item[number if len(item) > number else 0]
        for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
        if (item := header.get(name))
    ]
    for group in groups:
        if found := group.get("PixelValueTransformationSequence"):
            return float(found[0].RescaleSlope), float(found[0].RescaleIntercept)
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    return float(1 if slope is None else slope), float(intercept or 0)


def look_up(stored: np.ndarray, header: pydicom.Dataset) -> np.ndarray:
    """Apply the Modality LUT (PS3.3 C.11.1.1.1)."""
    item = header.ModalityLUTSequence[0]
    count, first, _ = item.LUTDescriptor
    table = item.LUTData
    entries = np.frombuffer(table, "<u2") if isinstance(table, bytes) else np.asarray(table)
    return entries[np.clip(stored - first, 0, (count or 2**16) - 1)].astype(float)


def find_palette(header: pydicom.Dataset) -> Callable[[np.ndarray], np.ndarray]:
    """Return what maps stored values to colours (PS3.3 C.7.6.3.1.5)."""
    if "SegmentedRedPaletteColorLookupTableData" in header:
        return lambda stored: apply_color_lut(stored, header)
    count, first, _ = header.RedPaletteColorLookupTableDescriptor
    kind = "<u2" if header.original_encoding[1] else ">u2"
    names = [f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")]
    words = [np.frombuffer(header[name].value, kind).astype("<u2") for name in names]
    if len(words[0]) < (count or 2**16):  # two entries of 8 bits in a word
        words = [table.view(np.uint8) for table in words]
    table = np.stack(words, axis=-1)[: count or 2**16]
    return lambda stored: table[np.clip(stored - first, 0, len(table) - 1)]


def count_tiles(header: pydicom.Dataset) -> int:
    """Return how many slices a Siemens mosaic has, by nibabel; 0 of another image."""
    if "MOSAIC" not in header.get("ImageType", ()):
        return 0
    from nibabel.nicom import csareader

    return int(csareader.get_n_mosaic(csareader.get_csa_header(header)))


def cut_tile(stored: np.ndarray, number: int, tiles: int) -> np.ndarray:
    """Return one slice of a mosaic, which is a square of them, line by line."""
    side = int(np.ceil(np.sqrt(tiles)))
    if any(length % side for length in stored.shape):
        raise ValueError("its tiles do not fit")
    row, column = divmod(number, side)
    height, width = stored.shape[0] // side, stored.shape[1] // side
    return stored[row * height :, column * width :][:height, :width]


def find_padding(header: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    """Say where padding is (PS3.3 C.7.5.1.1.2), whichever sign its value was written with."""
    if "PixelPaddingValue" not in header:
        return np.zeros(stored.shape, bool)
    value = int(header.PixelPaddingValue)
    limit = int(header.get("PixelPaddingRangeLimit", value))
    ends = sorted((wrap(header, value), wrap(header, limit)))
    return (stored >= ends[0]) & (stored <= ends[1])


def wrap(header: pydicom.Dataset, value: int) -> int:
    """Return a value of 16 bits with the sign of the image's."""
    low = -(2**15) if header.PixelRepresentation else 0
    return (value - low) % 2**16 + low


def find_colours(
    path: Path, header: pydicom.Dataset, number: int, stored: np.ndarray
) -> np.ndarray:
    """Return RGB: of a JPEG as libjpeg has it, else by PS3.3 C.7.6.3.1.2."""
    if header.file_meta.TransferSyntaxUID == BASELINE and "JFIF" in str(
        data := get_frame(header.PixelData, number, number_of_frames=count_frames(header))
    ):
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)
    if header.PhotometricInterpretation not in ("YBR_FULL", "YBR_FULL_422"):
        return stored.astype(float)
    middle = 2 ** (header.BitsStored - 1)
    y, cb, cr = np.moveaxis(stored.astype(float) - np.array([0, middle, middle]), -1, 0)
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.clip(np.rint(rgb), 0, 2 * middle - 1)


# Contenders


def run_medkit(path: Path, numbers: list[int]) -> Delivered:
    """Read frames as `normalise` does."""
    with path.open("rb") as stream:
        finding = read_header(stream, path.stat().st_size)
        stream.seek(0)
        tiles = count_slices(stream) if is_mosaic(finding.values) else None
    place = {"root": str(path.parent), "path": path.name}
    made = Delivered({}, tiles or len(finding.frames))
    for number in numbers:
        tile = {"tile": number, "tiles": tiles} if tiles else {}
        row = {**finding.values, **finding.frames[0 if tiles else number], **place, **tile}
        frame = read_frame(row)
        made.frames[number] = frame.values * frame.slope + frame.intercept
        if frame.mask is not None:
            made.masked[number] = ~frame.mask
    return made


def run_script(path: Path, numbers: list[int]) -> Delivered:
    """Do what the usual script does, in its order."""
    header = pydicom.dcmread(path)
    array = apply_modality_lut(header.pixel_array, header)
    several = int(header.get("NumberOfFrames") or 1) > 1
    frames = list(array) if several else [array]
    made = Delivered({}, len(frames))
    for number in (number for number in numbers if number < len(frames)):
        image = frames[number].astype(float)
        made.frames[number] = image
        scaled = (image - image.min()) / (image.max() - image.min()) * 255
        picture = np.nan_to_num(scaled).astype(np.uint8)  # of a constant image
        made.kept[number] = len(np.unique(picture))
        Image.fromarray(picture).resize(SIZE[::-1], Image.Resampling.BILINEAR)
    return made


def run_simpleitk(path: Path, numbers: list[int]) -> Delivered:
    """Read with SimpleITK, and resample the frames to the size of a set."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    single = array.ndim == (2 if image.GetNumberOfComponentsPerPixel() == 1 else 3)
    frames = array[np.newaxis] if single else array
    made = Delivered({}, len(frames))
    for number in numbers:
        if number < len(frames):
            made.frames[number] = frames[number]
    flat = image if single else image[:, :, 0]
    scale = [flat.GetSize()[axis] / SIZE[axis] * flat.GetSpacing()[axis] for axis in range(2)]
    sitk.Resample(
        flat, SIZE, sitk.Transform(), sitk.sitkLinear, flat.GetOrigin(), scale, flat.GetDirection()
    )
    return made


CONTENDERS: dict[str, Callable[[Path, list[int]], Delivered]] = {
    "medkit": run_medkit,
    "pydicom and Pillow": run_script,
    "SimpleITK": run_simpleitk,
}


# Judging


def judge(truths: dict[int, Truth], made: Delivered, count: int) -> str:
    """Return the first outcome that applies, the worst first."""
    if made.count < count:
        return LOST
    verdicts = [
        judge_frame(truth, made.frames[number], made.masked.get(number), made.kept.get(number))
        for number, truth in truths.items()
    ]
    return min(verdicts, key=OUTCOMES.index)


def judge_frame(
    truth: Truth, found: np.ndarray, masked: np.ndarray | None, kept: int | None
) -> str:
    """Return the outcome of one frame."""
    if found.shape != truth.real.shape:
        return SHAPE
    wanted = truth.real if truth.turned is None else truth.turned
    there = ~truth.padding
    if not is_near(found, wanted, there, truth.tolerance):
        if truth.real.ndim == 3 and is_near(found * 256.0, wanted, there, 256):
            return RIGHT if count_colours(found) == count_colours(wanted) else LEVELS
        colour = SHAPE if truth.real.ndim == 3 else VALUES
        upside_down = truth.turned is not None and is_near(
            found, truth.real, there, truth.tolerance
        )
        return POLARITY if upside_down else colour
    if truth.padding.any() and (masked is None or (masked != truth.padding).any()):
        return PADDING
    fewer = kept is not None and kept < len(np.unique(found))
    return LEVELS if fewer else RIGHT


def count_colours(picture: np.ndarray) -> int:
    """Return the number of distinct colours."""
    return len(np.unique(picture.reshape(-1, 3), axis=0))


def is_near(found: np.ndarray, wanted: np.ndarray, there: np.ndarray, tolerance: float) -> bool:
    """Say whether values agree where the image is."""
    if not there.any():
        return True
    wanted = wanted.astype(float)[there]
    largest = np.abs(found.astype(float)[there] - wanted).max()
    return bool(largest <= tolerance + 1e-6 * max(np.ptp(wanted), 1))


# Files


def find_files(folders: list[Path]) -> Iterator[Path]:
    """Yield DICOM images, each content once."""
    seen = set()
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()
        if content[128:132] != b"DICM" or digest in seen:
            continue
        seen.add(digest)
        try:
            finding = read_header(io.BytesIO(content), len(content))
        except MedkitError:
            continue
        if finding.kind == "image":
            yield path


def list_folders(more: str | None) -> list[Path]:
    """Return the folders of pydicom's files, of pydicom-data's, and one more."""
    folders = [Path(pydicom.__file__).parent / "data" / "test_files"]
    if found := importlib.util.find_spec("data_store"):
        folders.append(Path(found.submodule_search_locations[0]) / "data")
    return folders + ([Path(more)] if more else [])


def count_frames(header: pydicom.Dataset) -> int:
    """Return the number of frames, or slices of a mosaic, that a header declares."""
    return count_tiles(header) or int(header.get("NumberOfFrames") or 1)


def choose_frames(count: int) -> list[int]:
    """Return the first, middle and last number."""
    return sorted({0, count // 2, count - 1})


def examine(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the outcome of each contender, and why it crashed; raise if there is no truth."""
    header = pydicom.dcmread(path)
    count = count_frames(header)
    numbers = choose_frames(count)
    truths = {number: find_truth(path, header, number) for number in numbers}
    outcomes, reasons = {}, {}
    for name, run in CONTENDERS.items():
        try:
            outcomes[name] = judge(truths, run(path, numbers), count)
        except Exception as error:  # of whatever library
            outcomes[name] = RAISED
            reasons[name] = getattr(error, "code", type(error).__name__)
    return outcomes, reasons


def main(arguments: list[str]) -> None:
    """Print what was found."""
    warnings.simplefilter("ignore")
    names = "--names" in arguments
    folders = [argument for argument in arguments if argument != "--names"]
    tables: dict[str, Counter[str]] = defaultdict(Counter)
    refused: dict[str, Counter[str]] = defaultdict(Counter)
    lines, files, nobody = [], 0, Counter[str]()
    for path in find_files(list_folders(folders[0] if folders else None)):
        files += 1
        try:
            outcomes, reasons = examine(path)
        except Exception:  # neither pydicom nor GDCM can say what it is
            nobody[try_medkit(path)] += 1
            lines.append(f"{path.name}: no truth; medkit: {try_medkit(path)}")
            continue
        for name, outcome in outcomes.items():
            tables[name][outcome] += 1
        for name, reason in reasons.items():
            refused[name][reason] += 1
        if any(outcome != RIGHT for outcome in outcomes.values()):
            lines.append(f"{path.name}: {outcomes} {reasons}")
    print_tables(files, nobody, tables, refused)
    if names:
        print(*lines, sep="\n")


def try_medkit(path: Path) -> str:
    """Return what medkit does with a file."""
    try:
        run_medkit(path, choose_frames(count_frames(pydicom.dcmread(path))))
    except MedkitError as error:
        return f"refused: {getattr(error, 'code', error)}"
    return "normalised"


def print_tables(
    files: int,
    nobody: Counter[str],
    tables: dict[str, Counter[str]],
    refused: dict[str, Counter[str]],
) -> None:
    """Print counts, as Markdown."""
    judged = files - nobody.total()
    print(f"{files} images, {judged} of which pydicom or GDCM can decode.")
    print(f"The others: {dict(nobody) or 'none'}\n")
    print(f"| of {judged} files | {' | '.join(CONTENDERS)} |")
    print("|---|" + "---|" * len(CONTENDERS))
    for outcome in reversed(OUTCOMES):
        cells = [str(tables[name][outcome]) for name in CONTENDERS]
        print(f"| {outcome} | {' | '.join(cells)} |")
    for name in CONTENDERS:
        print(f"\n{name} raised: {dict(refused[name].most_common()) or 'nothing'}")


if __name__ == "__main__":
    main(sys.argv[1:])
