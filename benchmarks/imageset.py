"""Promise: 1,500 images a second a core for training, in random order, in memory that stays.

Real images, those of the grey files that ship with pydicom and pydicom-data, at 299 x 299 in
uint16, over and over, as a set and as a folder of 16-bit PNGs. They are read in batches, in random
order, through a window, to float32: by medkit's reader, by zarr-python from the same files, and by
Pillow. Every count of cores is a process of its own, bound to them, in which all ways are taken in
turn. Also the codes alone, written and read; the peak of memory of a pass over a set and over one
four times its size; and reading every byte, as training does before it starts.

    python benchmarks/imageset.py [images] [rounds]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from compression import read_codes
from PIL import Image
from zarr.codecs import BloscCodec

from medkit.images import arrays
from medkit.images.arrays import Layout, create_array, open_array, write_rows
from medkit.images.reader import Images, StoredCodes, View
from medkit.workspace import hash_file

BATCH = 32
SIZE = (299, 299)
NAME = "uint16x1"
# The window, in real-world units of codes that are 16 times them, and what is done with it.
CENTRE, WIDTH = 1000.0, 1500.0
GAIN, OFFSET = 1 / 16 / WIDTH, 0.5 - CENTRE / WIDTH
MEGABYTE = 2**20


def draw_codes(count: int) -> np.ndarray:
    """Return the codes of real images, over and over."""
    found = read_codes()
    print(f"{len(found)} real images")
    return found[np.arange(count) % len(found)]


def write_by_medkit(folder: Path, codes: np.ndarray, times: int = 1) -> None:
    """Write a shard at a time, as `shards` does; several times over."""
    layout = Layout(NAME, len(codes) * times, SIZE)
    array = create_array(folder / NAME, layout)
    for start in range(0, layout.length, layout.shard_length):
        rows = np.arange(start, min(start + layout.shard_length, layout.length))
        write_rows(array, rows, codes[rows % len(codes)])


def write_by_zarr(folder: Path, codes: np.ndarray) -> None:
    """Write the same chunks, shards and codecs, a shard at a time."""
    length = Layout(NAME, len(codes), SIZE).shard_length
    options = {name: arrays.CODEC["configuration"][name] for name in ("cname", "clevel", "shuffle")}
    array = zarr.create_array(
        folder / NAME,
        shape=codes.shape,
        chunks=(1, *SIZE),
        shards=(length, *SIZE),
        dtype=codes.dtype,
        compressors=BloscCodec(typesize=2, **options),
    )
    for start in range(0, len(codes), length):
        array[start : start + length] = codes[start : start + length]


def write_by_pillow(folder: Path, codes: np.ndarray) -> None:
    """Write a folder of 16-bit PNGs."""
    folder.mkdir()
    for number, image in enumerate(codes):
        Image.fromarray(image).save(folder / f"{number}.png")


def read_by_medkit(folder: Path, batches: list[np.ndarray]) -> list[np.ndarray]:
    """Read batches of codes."""
    array = open_array(folder / NAME)
    return [array[rows].read().result() for rows in batches]


def read_by_zarr(folder: Path, batches: list[np.ndarray]) -> list[np.ndarray]:
    """Read the same codes."""
    array = zarr.open_array(folder / NAME, mode="r")
    return [array.oindex[rows] for rows in batches]


def open_images(folder: Path, count: int) -> Images:
    """Return the images of a folder that was written by `write_by_medkit`."""
    facts = {"slope": 1 / 16, "intercept": 0.0, "full_low": 0.0, "full_high": 4095.0}
    none = {"WindowCenter": np.nan, "WindowWidth": np.nan, "VOILUTFunction": None}
    numbers = np.arange(count)
    table = pd.DataFrame({"image": numbers, "array": NAME, "row": numbers, **facts, **none})
    view = View(window=f"{CENTRE}/{WIDTH}")
    return Images(StoredCodes(folder, str(folder), SIZE), table, view)


def show(codes: np.ndarray) -> np.ndarray:
    """Apply the window as most would."""
    return np.clip(codes.astype(np.float32) * np.float32(GAIN) + np.float32(OFFSET), 0, 1)


def train_by_medkit(place: Path, batches: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield batches of the reader."""
    count = sum(map(len, batches))
    yield from open_images(place / "medkit", count).batches(BATCH, np.concatenate(batches))


def train_by_zarr(place: Path, batches: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield batches out of the same files."""
    array = zarr.open_array(place / "medkit" / NAME, mode="r")
    yield from (show(array.oindex[rows])[..., np.newaxis] for rows in batches)


def train_by_pillow(place: Path, batches: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield batches out of the folder of PNGs, with a thread a core."""

    def load(number: int) -> np.ndarray:
        with Image.open(place / "png" / f"{number}.png") as picture:
            return np.asarray(picture)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for rows in batches:
            yield show(np.stack(list(threads.map(load, rows))))[..., np.newaxis]


TRAINING = {
    "medkit": train_by_medkit,
    "zarr-python": train_by_zarr,
    "Pillow, 16-bit PNG": train_by_pillow,
}


def draw_batches(count: int) -> list[np.ndarray]:
    """Return batches of rows in random order."""
    order = np.random.default_rng(1).permutation(count)
    return [order[start : start + BATCH] for start in range(0, count, BATCH)]


def clock(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return the seconds that a call takes, those of the processor, and what it returns."""
    began, spent = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - began, time.process_time() - spent, result


def time_training(place: Path, count: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return seconds of wall and processor for each way, round by round."""
    batches = draw_batches(count)
    firsts = {way: next(read(place, batches)) for way, read in TRAINING.items()}
    for first in firsts.values():
        np.testing.assert_allclose(first, firsts["medkit"], atol=1e-5)
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in TRAINING}
    for _ in range(rounds):
        for way, read in TRAINING.items():
            seconds[way].append(clock(lambda read=read: sum(map(len, read(place, batches))))[:2])
    return seconds


def measure_peak(folder: Path, count: int, rounds: int) -> float:
    """Return the most memory, in MB, that this process held after a pass in random order."""
    order = np.random.default_rng(1).permutation(count)
    for _ in range(rounds):
        for _ in open_images(folder, count).batches(BATCH, order):
            pass
    # Not getrusage: a process inherits the peak of the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / MEGABYTE


CHILDREN: dict[str, Callable[[Path, int, int], Any]] = {
    "training": time_training,
    "peak": measure_peak,
}


def ask(cores: int, what: str, *arguments: Any) -> Any:
    """Return what a function of CHILDREN returns in a process that is bound to some cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        command = [sys.executable, __file__, what, *map(str, arguments)]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    finally:
        os.sched_setaffinity(0, allowed)
    return json.loads(found)


def compare(name: str, count: int, seconds: dict[str, list[float]]) -> None:
    """Print the rates of all ways, and how many times as fast medkit was, median of rounds."""
    own = seconds["medkit"]
    rates = [f"{way} {count / statistics.median(times):,.0f}" for way, times in seconds.items()]
    ratios = [
        f"{statistics.median(a / b for a, b in zip(times, own, strict=True)):.1f}"
        for way, times in seconds.items()
        if way != "medkit"
    ]
    print(f"{name}, images/s: {', '.join(rates)}; {' and '.join(ratios)} times as fast")


def compare_codes(codes: np.ndarray, rounds: int) -> None:
    """Compare writing and reading codes alone."""
    ways = {
        "medkit": (write_by_medkit, read_by_medkit),
        "zarr-python": (write_by_zarr, read_by_zarr),
    }
    written: dict[str, list[float]] = {way: [] for way in ways}
    read: dict[str, list[float]] = {way: [] for way in ways}
    batches = draw_batches(len(codes))
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            for way, (write, fetch) in ways.items():
                folder = Path(place) / way
                folder.mkdir()
                written[way].append(clock(partial(write, folder, codes))[0])
                wall, _, found = clock(partial(fetch, folder, batches))
                assert np.array_equal(np.concatenate(found), codes[np.concatenate(batches)])
                read[way].append(wall)
    compare("codes written", len(codes), written)
    compare("codes read in random order", len(codes), read)


def compare_training(place: Path, count: int, rounds: int) -> None:
    """Compare reading for training, on one core and on two."""
    for cores in (1, 2):
        found = ask(cores, "training", place, count, rounds)
        for kind, clocked in ("", 0), (", by processor time", 1):
            seconds = {way: [pair[clocked] for pair in pairs] for way, pairs in found.items()}
            compare(f"read for training, cores: {cores}{kind}", count, seconds)


def time_check(folder: Path, count: int) -> None:
    """Print how fast every byte of a set is read and hashed."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    with ThreadPoolExecutor() as threads:
        seconds = clock(lambda: list(threads.map(hash_file, files)))[0]
    size = sum(path.stat().st_size for path in files) / MEGABYTE
    print(
        f"every byte read and hashed, in threads: {size / seconds:,.0f} MB/s, "
        f"{count / seconds:,.0f} images/s; {size / count * 1024:.0f} KB an image"
    )


def main(count: int = 512, rounds: int = 5) -> None:
    """Compare, and print."""
    warnings.simplefilter("ignore")
    codes = draw_codes(count)
    compare_codes(codes, rounds)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_by_medkit(place / "medkit", codes)
        write_by_medkit(place / "large", codes, times=4)
        write_by_pillow(place / "png", codes)
        compare_training(place, count, rounds)
        time_check(place / "large", 4 * count)
        # As many images are read of both, since what is allocated settles slowly.
        small = ask(2, "peak", place / "medkit", count, 16)
        large = ask(2, "peak", place / "large", 4 * count, 4)
    print(
        f"peak of memory, reading {16 * count} images in random order: {small:.0f} MB out of a "
        f"set of {count}, {large:.0f} MB out of one of {4 * count}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in CHILDREN:
        folder, count, rounds = sys.argv[2:5]
        print(json.dumps(CHILDREN[sys.argv[1]](Path(folder), int(count), int(rounds))))
    else:
        main(*map(int, sys.argv[1:3]))
