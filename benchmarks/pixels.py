"""Measure: reading frames and resizing them to 299 x 299, against pydicom with Pillow.

Takes every single-frame grey file that ships with pydicom and pydicom-data and that both read,
in turn, on one thread, and prints the median ratio for each transfer syntax. pydicom parses the
header each time, which medkit's catalog did once; so it is timed with and without that.

    python benchmarks/pixels.py [rounds]
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when NumPy is imported; Pillow has one thread

import importlib.util
import statistics
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image

from medkit.catalog.headers import read_header
from medkit.errors import MedkitError
from medkit.images.pixels import read_frame
from medkit.images.resampling import plan_geometry, resample
from medkit.images.rows import is_grey

SIZE = (299, 299)


def find_rows() -> Iterator[dict[str, Any]]:
    """Yield the rows of the files that medkit reads, as the catalog has them."""
    folders = [Path(pydicom.__file__).parent / "data" / "test_files"]
    if found := importlib.util.find_spec("data_store"):
        folders.append(Path(found.submodule_search_locations[0]) / "data")
    for path in sorted(path for folder in folders for path in folder.glob("*.dcm")):
        try:
            with path.open("rb") as stream:
                finding = read_header(stream, path.stat().st_size)
            if finding.kind != "image":
                continue
            row = {**finding.values, **finding.frames[0], "root": path.parent, "path": path.name}
            if is_grey(row) and not row.get("NumberOfFrames"):
                read_frame(row)
                yield row
        except MedkitError:
            continue


def run_medkit(row: dict[str, Any]) -> None:
    """Read and resize with medkit."""
    frame = read_frame(row)
    geometry = plan_geometry(*frame.values.shape[:2], frame.spacing, SIZE, "stretch")
    resample(frame.values, frame.mask, geometry)


def run_pydicom(header: pydicom.Dataset) -> None:
    """Decode and resize with pydicom and Pillow; padding, polarity and hashes are left out."""
    picture = Image.fromarray(header.pixel_array.astype(np.float32))
    picture.resize(SIZE[::-1], Image.Resampling.BILINEAR)


def clock(work: Callable[[Any], None], item: Any) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    work(item)
    return time.perf_counter() - began


def main(rounds: int = 7) -> None:
    """Print a line for each transfer syntax."""
    warnings.simplefilter("ignore")
    ratios: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in find_rows():
        path = Path(row["root"], row["path"])
        measured = []
        for _ in range(rounds):
            try:
                parse = clock(pydicom.dcmread, path)
                other = clock(run_pydicom, pydicom.dcmread(path))
            except (RuntimeError, AttributeError, ValueError):
                break  # it has no decoder for this
            own = clock(run_medkit, row)
            measured.append(((parse + other) / own, other / own))
        if measured:
            name = pydicom.uid.UID(row["TransferSyntaxUID"]).name
            ratios[name].append(tuple(map(statistics.median, zip(*measured, strict=True))))
    for name in sorted(ratios):
        whole, bare = (statistics.median(column) for column in zip(*ratios[name], strict=True))
        print(
            f"{name:50.50} {len(ratios[name]):3} files   {whole:5.2f} times as fast as pydicom "
            f"and Pillow, {bare:5.2f} without parsing"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
