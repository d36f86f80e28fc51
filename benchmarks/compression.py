"""The choice of a codec: size, and speed of writing and reading, of those every Zarr reader has.

The grey single-frame grey files of more than 8 bits that ship with pydicom and pydicom-data are
normalised to 299 x 299 and go to disk and back through medkit's arrays, in each codec in turn, on
one core; prints a line a codec, medians of rounds, by processor time, which what else runs on the
machine and the disk change little. Bold is the one that sets are written in.

    python benchmarks/compression.py [rounds]
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when NumPy is imported

import importlib.util
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from medkit.catalog.headers import read_header
from medkit.errors import MedkitError
from medkit.images import arrays
from medkit.images.normalisation import Recipe
from medkit.images.rows import is_grey
from medkit.images.shards import normalise_frame

LAYOUT = "uint16x1"
REPEATS = 4  # of the images, so that a shard is full


def find_rows() -> Iterator[dict[str, Any]]:
    """Yield the rows of those files, as the catalog has them."""
    folders = [Path(pydicom.__file__).parent / "data" / "test_files"]
    if found := importlib.util.find_spec("data_store"):
        folders.append(Path(found.submodule_search_locations[0]) / "data")
    for path in sorted(path for folder in folders for path in folder.glob("*.dcm")):
        try:
            with path.open("rb") as stream:
                finding = read_header(stream, path.stat().st_size)
        except MedkitError:
            continue
        row = finding.values or {}
        alone = finding.frames and not row.get("NumberOfFrames")
        if alone and (row.get("BitsStored") or 0) > 8 and is_grey(row):
            yield {**row, **finding.frames[0], "root": path.parent, "path": path.name}


def read_codes() -> np.ndarray:
    """Return the codes of real images."""
    made = (normalise_frame(row, Recipe())[1] for row in find_rows())
    return np.stack([codes for codes in made if codes is not None and codes.dtype == np.uint16])


def describe(name: str, **options: Any) -> dict[str, Any]:
    """Return a codec as Zarr spells it."""
    return {"name": name, "configuration": options}


def blosc(cname: str, level: int, shuffle: str) -> dict[str, Any]:
    """Return a codec of the Blosc family."""
    return describe("blosc", cname=cname, clevel=level, shuffle=shuffle, blocksize=0)


CODECS = {
    "zstd 1": describe("zstd", level=1, checksum=False),
    "gzip 1": describe("gzip", level=1),
    **{
        f"blosc {cname} {level}, {shuffle}": blosc(cname, level, shuffle)
        for cname, level, shuffle in (
            ("zstd", 1, "shuffle"),
            ("zstd", 2, "shuffle"),
            ("zstd", 3, "shuffle"),
            ("lz4", 1, "shuffle"),
            ("lz4", 5, "shuffle"),
            ("lz4", 9, "shuffle"),
            ("lz4", 5, "bitshuffle"),
            ("blosclz", 5, "shuffle"),
        )
    },
}


def measure(codes: np.ndarray, folder: Path) -> tuple[float, float, float]:
    """Return seconds to write, seconds to read in random order, and bytes on disk."""
    layout = arrays.Layout(LAYOUT, len(codes), codes.shape[1:])
    began = time.process_time()
    array = arrays.create_array(folder, layout)
    for first in range(0, len(codes), layout.shard_length):
        rows = np.arange(first, min(first + layout.shard_length, len(codes)))
        arrays.write_rows(array, rows, codes[rows])
    written = time.process_time() - began
    order = np.random.default_rng(0).permutation(len(codes))
    array = arrays.open_array(folder)
    began = time.process_time()
    for first in range(0, len(codes), 32):
        array[order[first : first + 32]].read().result()
    read = time.process_time() - began
    return written, read, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(rounds: int = 5) -> None:
    """Print a line for each codec."""
    warnings.simplefilter("ignore")
    codes = np.concatenate([read_codes()] * REPEATS)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    chosen, results = arrays.CODEC, {name: [] for name in CODECS}
    for _ in range(rounds):
        for name, codec in CODECS.items():
            arrays.CODEC = codec
            with tempfile.TemporaryDirectory() as folder:
                results[name].append(measure(codes, Path(folder)))
    print(f"{len(codes) // REPEATS} images\n")
    print("| codec | ratio | written, images/s | read, images/s |")
    print("|---|---|---|---|")
    for name, found in results.items():
        written, read, size = (statistics.median(column) for column in zip(*found, strict=True))
        shown = f"**{name}**" if CODECS[name] == chosen else name
        rates = f"{len(codes) / written:,.0f} | {len(codes) / read:,.0f}"
        print(f"| {shown} | {codes.nbytes / size:.2f} | {rates} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
