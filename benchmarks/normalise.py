"""Promise: sets are made at ten times the speed of the usual script, and near that of the codecs.

Real CT slices of 512 x 512 (each file rolled by some pixels, so that no two are equal) and a real
radiograph mirrored to 3328 x 2560 are written as DICOM files, catalogued, and normalised to 299 x
299, in turn with

- the usual script, on native files: pydicom, rescale, Pillow's BILINEAR, a 16-bit PNG a slice
- the decoder alone, on compressed ones, with the codestreams in memory

on one core, and medkit also on two. The start of the interpreter and imports are not counted; the
start of worker processes is, on two cores. Prints images a second, medians of rounds, ratios, and
where medkit's time goes.

    python benchmarks/normalise.py [--files 2000] [--rounds 9]
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when NumPy is imported

import argparse
import importlib.util
import shutil
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate

from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog
from medkit.images import normalisation, pixels, resampling, rows, shards
from medkit.images.normalisation import Recipe
from medkit.testing import make_uid

EXPLICIT, LOSSLESS, J2K = (f"1.2.840.10008.1.2{end}" for end in (".1", ".4.70", ".4.90"))
SIZE = (299, 299)
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def find_file(name: str) -> Path:
    """Return a file that ships with pydicom or pydicom-data."""
    folders = [Path(pydicom.__file__).parent / "data" / "test_files"]
    if found := importlib.util.find_spec("data_store"):
        folders.append(Path(found.submodule_search_locations[0]) / "data")
    return next(folder / name for folder in folders if (folder / name).exists())


def read_slices() -> list[pydicom.Dataset]:
    """Return real CT slices of 512 x 512, decoded."""
    slices = [pydicom.dcmread(find_file(name)) for name in ("693_UNCR.dcm", "explicit_VR-UN.dcm")]
    for one in slices:
        if one.file_meta.TransferSyntaxUID.is_compressed:
            one.decompress()
    return slices


def read_radiograph() -> list[pydicom.Dataset]:
    """Return a real radiograph, mirrored to 3328 x 2560, in 12 bits."""
    image = pydicom.dcmread(find_file("RG1_UNCR.dcm"))
    stored = image.pixel_array >> 3
    edges = [(0, side - have) for side, have in zip((3328, 2560), stored.shape, strict=True)]
    image.PixelData = np.pad(stored, edges, mode="reflect").astype("<u2").tobytes()
    image.Rows, image.Columns, image.BitsStored, image.HighBit = 3328, 2560, 12, 11
    return [image]


def encode(stored: np.ndarray, syntax: str) -> bytes:
    """Return stored values as those of PixelData in a transfer syntax."""
    if syntax == EXPLICIT:
        return stored.tobytes()
    if syntax == J2K:
        return encapsulate([imagecodecs.jpeg2k_encode(stored, level=0, codecformat="j2k")])
    samples, options = stored.view(np.uint16), {"lossless": True, "predictor": 1}
    return encapsulate([imagecodecs.jpeg8_encode(samples, bitspersample=16, **options)])


def write_tree(folder: Path, heads: list[pydicom.Dataset], syntax: str, count: int) -> None:
    """Write files of one transfer syntax, each with UIDs and pixels of its own."""
    folder.mkdir(parents=True)
    decoded = [head.pixel_array for head in heads]  # before a copy, which shares its file meta
    for number in range(count):
        image = heads[number % len(heads)].copy()
        # Slices of one series, so that nothing is left out as a copy.
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = make_uid(
            f"{syntax} {number}"
        )
        image.InstanceNumber = number
        stored = decoded[number % len(heads)]
        rolled = np.roll(stored, (number % 64, number // 64), axis=(0, 1))
        image.PixelData = encode(np.ascontiguousarray(rolled), syntax)
        image["PixelData"].VR = "OW" if syntax == EXPLICIT else "OB"
        image["PixelData"].is_undefined_length = syntax != EXPLICIT
        image.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        image.save_as(folder / f"{number:05}.dcm")


def run_usual(tree: Path, out: Path, most: int) -> int:
    """Normalise some files as notebooks do: to a 16-bit PNG a slice; return how many."""
    out.mkdir()
    files = sorted(tree.iterdir())[:most]
    for file in files:
        image = pydicom.dcmread(file)
        values = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
        picture = Image.fromarray(values.astype(np.float32)).resize(SIZE, Image.Resampling.BILINEAR)
        depth = (np.clip(np.asarray(picture), -1024, 64511) + 1024).astype(np.uint16)
        Image.fromarray(depth).save(out / f"{file.stem}.png")
    return len(files)


def read_codestreams(tree: Path) -> list[bytes]:
    """Return the codestream of each file."""
    return [
        next(pydicom.encaps.generate_frames(pydicom.dcmread(file).PixelData, number_of_frames=1))
        for file in sorted(tree.iterdir())
    ]


def run_decoder(streams: list[bytes], decode: Callable[[bytes], Any]) -> int:
    """Decode codestreams, and nothing else."""
    for stream in streams:
        decode(stream)
    return len(streams)


def run_medkit(catalog: Catalog, out: Path, workers: int) -> int:
    """Normalise a catalog; return how many images landed."""
    summary = normalisation.normalise(catalog, out, Recipe(), workers=workers)
    assert not summary.refused, summary.refused
    return summary.landed


def clock(work: Callable[[], int], out: Path, cores: int) -> float:
    """Return images a second, on some cores; what was written is removed."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, CORES[:cores])
    began = time.perf_counter()
    done = work()
    seconds = time.perf_counter() - began
    shutil.rmtree(out, ignore_errors=True)
    return done / seconds


class Split:
    """Seconds of medkit's time, by what they are spent on."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def time(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, with its time counted."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return timed

    @contextmanager
    def open_file(self, row: Any) -> Iterator[Any]:
        """Yield the bytes of a file, with the time of reading them counted."""
        with rows.open_file(row) as stream:
            timed = mock.Mock(wraps=stream)
            timed.read = self.time("read", stream.read)
            yield timed

    def run(self, work: Callable[[], int]) -> str:
        """Do the work, and return the shares in words."""
        parts = {
            "decode": (pixels, "decode"),
            "hash": (pixels, "hash_values"),
            "resize": (resampling, "resample"),
            "encode": (pixels, "encode"),
            "write": (shards, "_store"),
        }
        with ExitStack() as stack:
            for name, (module, attribute) in parts.items():
                timed = self.time(name, getattr(module, attribute))
                stack.enter_context(mock.patch.object(module, attribute, timed))
            stack.enter_context(mock.patch.object(pixels, "open_file", self.open_file))
            whole = Split()
            whole.time("all", work)()
        self.seconds["decode"] -= self.seconds["read"]
        total = whole.seconds["all"]
        self.seconds["rest"] = total - self.seconds.total()
        return ", ".join(
            f"{name} {seconds / total:.0%}" for name, seconds in self.seconds.most_common()
        )


# For each tree: its heads, its syntax, the share of files, and the decoder it is measured by.
TREES: dict[str, tuple[Callable[[], list[pydicom.Dataset]], str, float, Any]] = {
    "CT 512 x 512, native": (read_slices, EXPLICIT, 1, None),
    "CT 512 x 512, JPEG Lossless": (read_slices, LOSSLESS, 1, imagecodecs.jpeg8_decode),
    "3328 x 2560, JPEG 2000": (read_radiograph, J2K, 0.005, imagecodecs.jpeg2k_decode),
}


def measure(name: str, folder: Path, files: int, rounds: int) -> Iterator[str]:
    """Yield the lines of one tree."""
    heads, syntax, share, decode = TREES[name]
    tree, out = folder / "tree", folder / "out"
    write_tree(tree, heads(), syntax, max(4, int(files * share)))
    scan(folder / "catalog", [Root("local", tree)])
    if hasattr(os, "sync"):
        os.sync()  # or the system writes the tree while it is being read
    catalog = Catalog.open(folder / "catalog")
    if decode is None:
        rival, peer = "the usual script", lambda: run_usual(tree, out, files // 16)
    else:
        streams = read_codestreams(tree)
        rival, peer = "its decoder alone", lambda: run_decoder(streams, decode)
    contenders = {
        rival: (peer, 1),
        "medkit, one core": (lambda: run_medkit(catalog, out, 0), 1),
        "medkit, two cores": (lambda: run_medkit(catalog, out, 2), 2),
    }
    rates: dict[str, list[float]] = {contender: [] for contender in contenders}
    for _ in range(rounds):
        for contender, (work, cores) in contenders.items():
            rates[contender].append(clock(work, out, cores))
    split = Split().run(lambda: run_medkit(catalog, out, 0))
    for contender, found in rates.items():
        ratios = [own / other for own, other in zip(found, rates[rival], strict=True)]
        yield (
            f"{name:30} {contender:20} {statistics.median(found):8.1f} images/s   "
            f"{statistics.median(ratios):6.2f} x {rival}"
        )
    yield f"{name:30} {split}"


def main() -> None:
    """Print the lines of each tree."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="trees whose name holds this")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in (name for name in TREES if options.only in name):
        with tempfile.TemporaryDirectory() as folder:
            for line in measure(name, Path(folder), options.files, options.rounds):
                print(line, flush=True)


if __name__ == "__main__":
    main()
