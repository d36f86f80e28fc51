"""Variations of training images that a body or a scanner could have made."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medkit.catalog.compiled import compiled

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """How far training images may be moved, turned, stretched and brightened.

    Nothing is varied by default, and no image is ever mirrored unless that is asked for: the heart
    and the liver have a side, and so has a marker on the film. What lies beyond an edge is what
    the edge has.

    Parameters
    ----------
    shift : float
        Up to this share of its side, each way, below 1.
    rotate : float
        Up to this many degrees, each way.
    zoom : float
        Up to this share larger or smaller, below 1.
    intensity : float
        Contrast by up to this share, and brightness by up to half of it of the range of the
        view's scale, each way, below 1.
    mirror : bool
        Left and right exchanged in every other image.
    """

    shift: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    intensity: float = 0.0
    mirror: bool = False

    def __bool__(self) -> bool:
        return self != Augmentation()

    def apply(
        self, pixels: Floats, random: np.random.Generator, scale: tuple[float, float] = (-1.0, 1.0)
    ) -> Floats:
        """Return varied images, shape (n, H, W, C); the generator alone decides how.

        Parameters
        ----------
        pixels : ndarray of float32, shape (n, H, W, C)
            Not changed.
        random : Generator
            Seeded by run, epoch and batch.
        scale : tuple of float
            The range of the pixels, which brighter and darker ones are cut to.
        """
        if self.shift or self.rotate or self.zoom or self.mirror:
            varied = np.empty_like(pixels)
            _warp(pixels, self._draw_maps(pixels.shape, random), varied)
            pixels = varied
        if self.intensity:
            pixels = self._expose(pixels, random, scale)
        return pixels

    def _draw_maps(self, shape: tuple[int, ...], random: np.random.Generator) -> Floats:
        """Return for each image the affine map (2, 3) from where a pixel is to where it was.

        In pixels, (row, column, 1), from the upper left.
        """
        count, middle = shape[0], (np.array(shape[1:3]) - 1) / 2
        angle = np.radians(random.uniform(-self.rotate, self.rotate, count))
        reach = math.log1p(self.zoom)  # twice the size comes as often as half of it
        factor = np.exp(random.uniform(-reach, reach, count))
        moved = random.uniform(-self.shift, self.shift, (count, 2)) * shape[1:3]
        turned = np.where(random.random(count) < 0.5 * self.mirror, -1.0, 1.0)
        sine, cosine = factor * np.sin(angle), factor * np.cos(angle)
        rows, columns = [cosine, -sine * turned], [sine, cosine * turned]
        linear = np.stack([np.stack(rows, axis=1), np.stack(columns, axis=1)], axis=1)
        corner = middle + moved - linear @ middle
        return np.concatenate([linear, corner[..., np.newaxis]], axis=2).astype(np.float32)

    def _expose(
        self, pixels: Floats, random: np.random.Generator, scale: tuple[float, float]
    ) -> Floats:
        low, high = scale
        shape = len(pixels), 1, 1, 1
        contrast = 1 + random.uniform(-self.intensity, self.intensity, shape)
        light = random.uniform(-self.intensity, self.intensity, shape) / 2 * (high - low)
        middle = (low + high) / 2
        offset = (middle + light - middle * contrast).astype(np.float32)
        seen = pixels * contrast.astype(np.float32) + offset
        return np.asarray(np.clip(seen, np.float32(low), np.float32(high)))


@compiled
def _warp(pixels: Floats, maps: Floats, varied: Floats) -> None:
    """Write images as the maps say, bilinear between four pixels."""
    count, height, width, channels = pixels.shape
    for n in range(count):
        image, out = pixels[n], varied[n]
        (down, right, row), (down_too, right_too, column) = maps[n]
        for y in range(height):
            for x in range(width):
                top, below, low = _between(row + down * y + right * x, height)
                left, beside, far = _between(column + down_too * y + right_too * x, width)
                for c in range(channels):
                    upper = _mix(image[top, left, c], image[top, beside, c], far)
                    lower = _mix(image[below, left, c], image[below, beside, c], far)
                    out[y, x, c] = _mix(upper, lower, low)


@compiled
def _between(place: float, count: int) -> tuple[int, int, float]:
    """Return the two pixels of a line that a place is between, and how near it is to the second."""
    place = min(max(place, 0.0), count - 1.0)
    first = int(place)
    return first, min(first + 1, count - 1), place - first


@compiled
def _mix(one: float, other: float, share: float) -> float:
    return one + (other - one) * share
