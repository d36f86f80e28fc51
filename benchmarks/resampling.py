"""Promise: resizing to 299 x 299 is, all in all, no slower than Pillow's, at more precision.

Resizes the same 16-bit arrays with medkit and with Pillow (mode F, which must convert first), in
turn, on one thread, and prints medians and ratios.

    python benchmarks/resampling.py [rounds]
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when NumPy is imported; Pillow has one thread

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from medkit.images.resampling import resize

SHAPES = ((64, 64), (256, 256), (512, 512), (1024, 1024), (2048, 2048), (3328, 2560))
SIZE = (299, 299)


def resize_by_pillow(values: np.ndarray) -> np.ndarray:
    """Return what medkit must equal within 1e-5 of the range."""
    picture = Image.fromarray(values.astype(np.float32))
    return np.asarray(picture.resize(SIZE[::-1], Image.Resampling.BILINEAR))


def clock(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main(rounds: int = 31) -> None:
    """Print a line for each shape, and the geometric mean of the ratios."""
    ratios = []
    for shape in SHAPES:
        values = np.random.default_rng(0).integers(0, 4096, shape).astype(np.uint16)
        error = np.abs(resize(values, SIZE) - resize_by_pillow(values)).max() / 4095
        pairs = [
            (clock(lambda v=values: resize(v, SIZE)), clock(lambda v=values: resize_by_pillow(v)))
            for _ in range(rounds)
        ]
        own, other = (statistics.median(times) * 1000 for times in zip(*pairs, strict=True))
        ratios.append(statistics.median(other / own for own, other in pairs))
        print(
            f"{shape[0]:>5} x {shape[1]:<5} medkit {own:6.2f} ms   Pillow {other:6.2f} ms   "
            f"{ratios[-1]:5.2f} times as fast   largest difference {error:.0e} of the range"
        )
    print(f"geometric mean: {statistics.geometric_mean(ratios):.2f} times as fast as Pillow")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
