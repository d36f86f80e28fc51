"""Promise: sets are written no slower than zarr-python does it, and read at random 5 times as fast.

The same images of 299 x 299 in uint16 go to disk and come back through medkit's arrays and through
zarr-python, with the same chunks, shards and codecs, in turn. Prints images a second and ratios.

    python benchmarks/imageset.py [images] [rounds]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from medkit.images.arrays import Layout, create_array, open_array, write_rows

BATCH = 32


def draw_codes(count: int) -> np.ndarray:
    """Return 12-bit pictures with four bits of fraction: smooth shapes under noise."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:299, :299] / 299
    phases = random.uniform(0, 6, (count, 1, 1))
    shapes = 1500 + 1000 * np.sin(9 * rows + phases) * np.cos(7 * columns - phases)
    noisy = shapes + random.normal(0, 12, (count, 299, 299))
    return (np.clip(noisy, 0, 4095) * 16).astype(np.uint16)


def write_by_medkit(folder: Path, codes: np.ndarray) -> None:
    """Write a shard at a time, as `shards` does."""
    layout = Layout("uint16x1", len(codes), (299, 299))
    array = create_array(folder, layout)
    for start in range(0, len(codes), layout.shard_length):
        rows = np.arange(start, min(start + layout.shard_length, len(codes)))
        write_rows(array, rows, codes[rows])


def write_by_zarr(folder: Path, codes: np.ndarray) -> None:
    """Write the same chunks, shards and codecs, a shard at a time."""
    length = Layout("uint16x1", len(codes), (299, 299)).shard_length
    array = zarr.create_array(
        folder,
        shape=codes.shape,
        chunks=(1, 299, 299),
        shards=(length, 299, 299),
        dtype=codes.dtype,
        compressors=BloscCodec(cname="zstd", clevel=2, shuffle="shuffle", typesize=2),
    )
    for start in range(0, len(codes), length):
        array[start : start + length] = codes[start : start + length]


def read_by_medkit(folder: Path, batches: list[np.ndarray]) -> list[np.ndarray]:
    """Read batches of rows."""
    array = open_array(folder)
    return [array[rows].read().result() for rows in batches]


def read_by_zarr(folder: Path, batches: list[np.ndarray]) -> list[np.ndarray]:
    """Read the same rows."""
    array = zarr.open_array(folder, mode="r")
    return [array.oindex[rows] for rows in batches]


WAYS = {"medkit": (write_by_medkit, read_by_medkit), "zarr-python": (write_by_zarr, read_by_zarr)}


def clock(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Return the seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - began, result


def compare(name: str, count: int, seconds: dict[str, list[float]]) -> None:
    """Print the rates of both and the ratio, round by round."""
    ratios = [other / own for own, other in zip(*seconds.values(), strict=True)]
    rates = [f"{way} {count / statistics.median(times):,.0f}" for way, times in seconds.items()]
    print(f"{name}, images/s: {', '.join(rates)}; ratio {statistics.median(ratios):.1f}")


def main(count: int = 512, rounds: int = 5) -> None:
    """Compare writing, and reading batches of rows in random order."""
    codes = draw_codes(count)
    order = np.random.default_rng(1).permutation(count)
    batches = [order[start : start + BATCH] for start in range(0, count, BATCH)]
    written: dict[str, list[float]] = {way: [] for way in WAYS}
    read: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            for way, (write, fetch) in WAYS.items():
                written[way].append(clock(write, Path(place) / way, codes)[0])
                seconds, found = clock(fetch, Path(place) / way, batches)
                assert np.array_equal(np.concatenate(found), codes[order])
                read[way].append(seconds)
    compare("written", count, written)
    compare("read in random order", count, read)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
