"""Images of different persons that are nearly the same picture.

Candidates are found by coarse signatures, in coordinates in which what all images of the set have
in common counts no more than what tells them apart (whitening): all chests look alike, and a copy
does not only look like a chest. Each candidate is then compared pixel by pixel of the fine
signatures, over all small shifts, where both show something.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.cohort.signatures import COARSE, SIDE, Signatures, unpack
from medkit.engine import Progress, count_workers, silent

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]

# From this correlation on two images are one picture: see docs/audit.md for how often different
# pictures reach it. Where the images of a set are much alike, as blood cells are, it is half way
# between what most candidates reach and 1, up to the second number.
THRESHOLD, STRICT = 0.85, 0.90
_MOST_OF_THEM = 0.9
# Candidates of an image: the most alike, if they are alike at all.
_MOST, _ALIKE = 5, 0.35
_RANK = 128
# What is not known yet of how the images of a small set vary counts as much as so many images.
_PRIOR = 256
_ROWS = 512
# Shifts that are tried: 3 of 64 pixels, so 14 of 299.
_REACH = 3
_PADDED = SIDE + 8  # so that nothing is compared with the other side of an image
# A pair must show the same in at least this share of what either shows.
_SHARED = 0.3
_PAIRS = 256
# Images with fewer rows or columns move more than a coarse pixel can bear by a shift of 2 pixels.
SMALL = 128


@dataclass(frozen=True)
class Turn:
    """How one picture was made from another.

    Attributes
    ----------
    transposed, upside_down, mirrored, negative : bool
        In this order.
    """

    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False
    negative: bool = False

    def apply(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return images, shape (n, side, side), turned; the sign is not changed."""
        if self.transposed:
            images = images.swapaxes(1, 2)
        return images[:, :: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]

    @property
    def how(self) -> str:
        """The same for a person to read."""
        shape = {
            (False, False, False): "",
            (False, False, True): "mirrored",
            (False, True, False): "upside down",
            (False, True, True): "turned by 180°",
            (True, False, False): "transposed",
            (True, False, True): "turned by 90°",
            (True, True, False): "turned by 270°",
            (True, True, True): "transposed and turned by 180°",
        }[self.transposed, self.upside_down, self.mirrored]
        parts = [shape, "negative" if self.negative else ""]
        return ", ".join(filter(None, parts)) or "as it is"


TURNS = [
    Turn(bool(number & 1), bool(number & 2), bool(number & 4), bool(number & 8))
    for number in range(16)
]

_NEGATIVES = 8  # from this one on
# What undoes each: another turn for quarter turns alone.
_BACK = np.array(
    [
        TURNS.index(Turn(one.transposed, one.mirrored, one.upside_down, one.negative))
        if one.transposed
        else number
        for number, one in enumerate(TURNS)
    ]
)


@dataclass(frozen=True)
class Pair:
    """Two images that are nearly the same picture.

    Attributes
    ----------
    first, second : int
        Positions, the smaller first.
    likeness : float
        Correlation of what both show, 0 to 1.
    how : str
        How the second one is turned.
    """

    first: int
    second: int
    likeness: float
    how: str


def find_near(
    signatures: Signatures,
    persons: npt.NDArray[Any],
    pictures: npt.NDArray[Any],
    small: Truths,
    progress: Progress = silent,
) -> tuple[float, list[Pair]]:
    """Return pairs of images of different persons that are nearly the same, the likest first.

    Parameters
    ----------
    signatures : Signatures
        Of n images.
    persons, pictures : ndarray, shape (n,)
        Images with an equal value in either are not compared: slices of one person may be alike,
        and equal pixels have been found already.
    small : ndarray of bool, shape (n,)
        Images of so few pixels that a shift by two of them moves them far.
    progress : callable
        Is told of images.

    Returns
    -------
    threshold : float
        What a pair must reach (`choose_threshold`).
    pairs : list of Pair
    """
    number = np.unique(persons, return_inverse=True)[1], np.unique(pictures, return_inverse=True)[1]
    found = _find_candidates(signatures, *number, small, progress)
    parts = [found[start : start + _PAIRS].T for start in range(0, len(found), _PAIRS)]
    likeness = np.concatenate([np.zeros(0), *(compare(signatures.fine, *one) for one in parts)])
    threshold = choose_threshold(likeness)
    pairs = [
        Pair(int(first), int(second), round(float(like), 4), TURNS[turn].how)
        for (first, second, turn), like in zip(found, likeness, strict=True)
        if like >= threshold
    ]
    return threshold, sorted(pairs, key=lambda pair: (-pair.likeness, pair.first, pair.second))


def choose_threshold(likeness: npt.NDArray[np.floating[Any]]) -> float:
    """Return from where on candidates are one picture, by how alike all of them are."""
    usual = float(np.quantile(likeness, _MOST_OF_THEM)) if len(likeness) else 0.0
    return round(min(max((1 + usual) / 2, THRESHOLD), STRICT), 4)


def compare(fine: Any, first: Positions, second: Positions, turns: Positions) -> Floats:
    """Return how alike pairs of images are, over all small shifts.

    Parameters
    ----------
    fine : ndarray of int8, shape (n, SIDE, SIDE)
    first, second, turns : ndarray of int64, shape (p,)
        Positions of the two, and which of `TURNS` makes the second one like the first.

    Returns
    -------
    ndarray of float32, shape (p,)
        The correlation where both show something, at the best shift, between pixels too; 1 for
        the same picture. Negative numbers are 0.
    """
    from scipy import fft

    left, left_shown = unpack(fine[first])
    turned = [TURNS[turn].apply(fine[None, at])[0] for at, turn in zip(second, turns, strict=True)]
    right, right_shown = unpack(np.stack(turned))
    right *= np.where(turns >= _NEGATIVES, -1, 1).astype(np.float32)[:, None, None]
    images = (left, left * left, left_shown), (right, right * right, right_shown)
    workers = count_workers(None)
    of_left, of_right = (
        [fft.rfft2(part, (_PADDED, _PADDED), workers=workers) for part in parts] for parts in images
    )
    pairs = zip(of_left, (of_right[0], of_right[2], of_right[1]), strict=True)
    products, left_seen, right_seen = (
        _centre(fft.irfft2(a * b.conj(), (_PADDED, _PADDED), workers=workers)) for a, b in pairs
    )
    for seen, energy in ((left_seen, images[0][1]), (right_seen, images[1][1])):
        np.maximum(seen, _SHARED * energy.sum(axis=(1, 2))[:, None, None], out=seen)
    return _find_peak(products / np.sqrt(left_seen * right_seen + 1e-6))


def _centre(circular: Floats) -> Floats:
    """Return the shifts within reach, and one around them for what lies between pixels."""
    wide = _REACH + 1
    rows = np.concatenate([circular[:, -wide:], circular[:, : wide + 1]], axis=1)
    return np.concatenate([rows[:, :, -wide:], rows[:, :, : wide + 1]], axis=2)


def _find_peak(scores: Floats) -> Floats:
    """Return the top of a parabola through the greatest score and its neighbours, 1 at most."""
    inner = scores[:, 1:-1, 1:-1]
    row, column = np.divmod(inner.reshape(len(inner), -1).argmax(axis=1), inner.shape[2])
    pair, row, column = np.arange(len(scores)), row + 1, column + 1
    top = scores[pair, row, column]
    peak = top.copy()
    for down, right in ((1, 0), (0, 1)):
        before = scores[pair, row - down, column - right]
        after = scores[pair, row + down, column + right]
        bend = 2 * top - before - after
        inside = (bend > 0) & (before <= top) & (after <= top)
        peak += np.where(inside, (before - after) ** 2 / (8 * np.maximum(bend, 1e-6)), 0)
    return np.clip(peak, 0, 1)


def _find_candidates(
    signatures: Signatures,
    persons: Positions,
    pictures: Positions,
    small: Truths,
    progress: Progress,
) -> Positions:
    """Return (first, second, turn) of pairs to compare, shape (p, 3), each pair once."""
    known = np.flatnonzero(~signatures.plain)
    if len(known) < 2:
        return np.zeros((0, 3), np.int64)
    coarse = signatures.coarse[known]
    basis = _learn(coarse)
    base = _whiten(coarse, basis)
    apart = persons[known], pictures[known]
    found = []
    for start in range(0, len(known), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(known)))
        same = np.logical_or(*(of[rows][:, None] == of for of in apart))
        hits = np.concatenate(list(_search(coarse, base, rows, same, small[known[rows]], basis)))
        found.append(_keep(hits))
        progress(int(rows[-1]) + 1, len(known), "images compared")
    turned, other, turn, like = np.concatenate(found).T
    both = known[np.stack([turned, other]).astype(np.int64)]
    ordered = np.sort(both, axis=0)
    # The second one is turned to meet the first.
    turn = np.where(both[0] == ordered[1], turn, _BACK[turn.astype(np.int64)]).astype(np.int64)
    order = np.lexsort((-like, ordered[1], ordered[0]))
    table = np.stack([*ordered, turn], axis=1)[order]
    new = np.ones(len(table), bool)
    new[1:] = (table[1:, :2] != table[:-1, :2]).any(axis=1)
    return table[new]


def _learn(coarse: Floats) -> Floats:
    """Return what brings coarse signatures to whitened coordinates, shape (pixels, rank).

    What all have in common is one direction among others: taken off, it would leave nothing of
    a set that holds one picture many times.
    """
    flat = coarse.reshape(len(coarse), -1).astype(np.float64)
    spread = flat.T @ flat
    typical = np.trace(spread) / len(spread) / len(flat)
    spread = (spread + _PRIOR * typical * np.eye(len(spread))) / (len(flat) + _PRIOR)
    values, vectors = np.linalg.eigh(spread)
    basis = vectors[:, -_RANK:] / np.sqrt(values[-_RANK:] + 1e-3 * values[-1] + 1e-12)
    return np.asarray(basis, dtype=np.float32)


@cache
def _list_moves() -> list[tuple[Floats, Floats]]:
    """Return pairs of matrices that move a coarse signature down and right, the first by nothing.

    Each moves it by half a pixel at most, which lies between pixels.
    """
    from scipy import ndimage

    whole = np.eye(COARSE, dtype=np.float32)
    halves = [ndimage.shift(whole, (step, 0), order=3, mode="nearest") for step in (0, 0.5, -0.5)]
    return [*product(halves, halves)]


def _whiten(coarse: Floats, basis: Floats) -> Floats:
    """Return unit vectors."""
    white: Floats = np.asarray(coarse.reshape(len(coarse), -1) @ basis)
    white /= np.sqrt((white * white).sum(axis=1, keepdims=True)) + 1e-12
    return white


def _search(
    coarse: Floats, base: Floats, rows: Positions, same: Truths, small: Truths, basis: Floats
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield (row, other, turn, cosine) of images that are alike under some turn."""
    for number, turn in enumerate(TURNS[:_NEGATIVES]):
        turned = turn.apply(coarse[rows])
        for move, (down, right) in enumerate(_list_moves()):
            chosen = np.flatnonzero(small) if move else np.arange(len(rows))
            if not len(chosen):
                continue
            moved = down @ turned[chosen] @ right.T if move else turned
            likeness = _whiten(moved, basis) @ base.T
            at, other = np.nonzero(np.abs(likeness) > _ALIKE)
            apart = ~same[chosen[at], other]
            at, other = at[apart], other[apart]
            like = likeness[at, other]
            turns = np.where(like < 0, number + _NEGATIVES, number)
            yield np.stack([rows[chosen[at]], other, turns, np.abs(like)], axis=1)


def _keep(hits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the best hits of each row, no pair twice."""
    hits = hits[np.lexsort((-hits[:, 3], hits[:, 1], hits[:, 0]))]
    new = np.ones(len(hits), bool)
    new[1:] = (hits[1:, :2] != hits[:-1, :2]).any(axis=1)
    hits = hits[new]
    hits = hits[np.lexsort((-hits[:, 3], hits[:, 0]))]
    begins = np.searchsorted(hits[:, 0], hits[:, 0])
    return hits[np.arange(len(hits)) - begins < _MOST]
