"""Which group goes into which bin: every class in every bin, then shares as even as can be.

Groups are dealt one by one, then moved and swapped until nothing helps, then shaken and moved
again. Whatever is random follows from a hash of seed and name, so that the result depends on
names, counts and seed alone. Sums over classes are taken one class after the other, never by
BLAS or along a contiguous axis: there the order of summation, and so the last bit that breaks a
tie, differs between machines.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

# An uneven number of images counts less than an uneven class: where both cannot be had, folds
# of unlike sizes harm less than folds of unlike prevalence.
_SIZE_WEIGHT = 0.15
# Nor does an uneven second stratum, such as the site: it is evened out where classes leave room.
_STRATUM_WEIGHT = 0.5
# Steps after which a search is ended; on real cohorts it settles far sooner.
_STEPS = 2000
# Cohorts are shaken this often at most; fewer times if large, and no more once they are so even
# that nobody would see the rest: many small groups even out any deal.
_SHAKES = 40
_SHAKEN_LOADS = 1_000_000
_EVEN = 1e-7
# Pairs that are tried for a swap grow with the square of this.
_SWAPPED = 400
_NOTHING = 1e-12


@dataclass(frozen=True)
class _Task:
    """Groups in the order in which they are dealt, and the bins.

    Attributes
    ----------
    loads : ndarray, shape (classes + strata + 1, groups)
        Share of the images of each class, of each stratum, and in the last row of all images,
        that a group holds; each with its weight.
    holds : ndarray of 0 and 1, shape (classes, groups)
        Whether a group has images of a class.
    weight : float
        Of all rows of ``loads``: the sum of the squares of their weights.
    shares : ndarray, shape (bins,)
        Of all images that a bin should get.
    price : ndarray, shape (bins,)
        Of a squared load: one over the share.
    needs : ndarray of int, shape (bins,)
        How bad it is that a class is missing from a bin.
    """

    loads: Floats
    holds: Ints
    weight: float
    shares: Floats
    price: Floats
    needs: Ints


def assign_groups(
    counts: Ints,
    names: Sequence[str],
    shares: Sequence[float],
    needs: Sequence[int],
    seed: int,
    strata: Ints | None = None,
    sizes: Ints | None = None,
) -> Ints:
    """Return the bin of each group.

    Parameters
    ----------
    counts : ndarray of int, shape (groups, classes)
        Images of each class that a group holds; no class and no group is empty.
    names : sequence of str, length groups
        Distinct. With the seed they decide between equal choices; their order does not matter.
    shares : sequence of float, length bins
        Of each class's images and of all images, wanted in each bin; they sum to 1.
    needs : sequence of int, length bins
        How bad it is that a class is missing from a bin. This comes before any balance; what is
        missing all the same is for the caller to find (`find_missing`).
    seed : int
        Another seed, another assignment.
    strata : ndarray of int, shape (groups, strata), optional
        Images of each stratum that a group holds. They are evened out, but may be missing from a
        bin.
    sizes : ndarray of int, shape (groups,), optional
        Images of each group, where an image may be of several classes or of none.

    Returns
    -------
    ndarray of int64, shape (groups,)
        That minimises, as far as a bounded search goes, the squared deviation from the wanted
        shares, summed over bins and over classes and, with less weight, strata and all images.
    """
    strata = np.empty((len(counts), 0), dtype=np.int64) if strata is None else strata
    sizes = counts.sum(axis=1) if sizes is None else sizes
    words = _draw(names, seed)
    order = _order_groups(np.hstack([counts, strata]), words[:, 0])
    task = _make_task(counts[order], strata[order], sizes[order], shares, needs)
    best = _improve(task, _deal(task))
    score = _score(task, best)
    enough = _SHAKEN_LOADS // task.loads.size
    for turn in range(1, _SHAKES):
        if score[0] == 0 and (turn > enough or score[1] < task.weight + _EVEN):
            break
        found = _improve(task, _shake(task, best, words[order, turn], turn))
        if _score(task, found) < score:
            best, score = found, _score(task, found)
    bins = np.empty_like(best)
    bins[order] = best
    return bins


def find_missing(counts: Ints, bins: Ints, bins_count: int) -> npt.NDArray[np.bool_]:
    """Return whether a class is missing from a bin, shape (classes, bins)."""
    missing: npt.NDArray[np.bool_] = _sum_by_bin(counts.T, bins, bins_count) == 0
    return missing


def _draw(names: Sequence[str], seed: int) -> Words:
    """Return random words for each group, shape (groups, shakes), that follow from its name."""
    drawn = (hashlib.shake_256(f"{seed}:{name}".encode()).digest(8 * _SHAKES) for name in names)
    return np.frombuffer(b"".join(drawn), dtype="<u8").reshape(len(names), _SHAKES)


def _order_groups(counts: Ints, words: Words) -> Ints:
    """Order groups by size within a factor of two, largest first, then by their random words.

    A group that holds much of a rare class counts as large. Coarse sizes leave the seed a say
    where all sizes differ.
    """
    size = np.frexp((counts / counts.sum(axis=0)).max(axis=1))[1]
    return np.lexsort((words, -size))


def _make_task(
    counts: Ints, strata: Ints, sizes: Ints, shares: Sequence[float], needs: Sequence[int]
) -> _Task:
    classes = counts / counts.sum(axis=0)
    others = _STRATUM_WEIGHT * (strata / strata.sum(axis=0))
    of_all = _SIZE_WEIGHT * sizes / sizes.sum()
    return _Task(
        loads=np.vstack([classes.T, others.T, of_all]),
        holds=(counts.T > 0).astype(np.int64),
        # The score of exact shares: 1 for each class, less for each stratum and all images.
        weight=counts.shape[1] + strata.shape[1] * _STRATUM_WEIGHT**2 + _SIZE_WEIGHT**2,
        shares=np.asarray(shares, dtype=np.float64),
        price=1 / np.asarray(shares, dtype=np.float64),
        needs=np.asarray(needs, dtype=np.int64),
    )


def _deal(task: _Task) -> Ints:
    """Give each group in turn to the bin that it makes least uneven."""
    loads = np.zeros((len(task.loads), len(task.price)))
    bins = np.empty(task.loads.shape[1], dtype=np.int64)
    for group, load in enumerate(np.ascontiguousarray(task.loads.T)[:, :, None]):
        chosen = (task.price * ((2 * loads + load) * load).sum(axis=0)).argmin()
        bins[group] = chosen
        loads[:, chosen] += load[:, 0]
    return bins


def _shake(task: _Task, bins: Ints, words: Words, turn: int) -> Ints:
    """Throw half of one class's groups into random bins, so that a search leaves a dead end.

    A bin is hit by its share: what is thrown evenly into uneven bins takes long to carry back.
    """
    thrown = ((words >> np.uint64(32)) % np.uint64(len(task.price))).astype(np.int64)
    hit = (words % np.uint64(2**32)) / 2.0**32 < (task.shares / task.shares.max())[thrown]
    half = words % np.uint64(2) == 0
    chosen = hit & half & (task.holds[turn % len(task.holds)] > 0)
    return np.where(chosen, thrown, bins)


def _improve(task: _Task, bins: Ints) -> Ints:
    """Move one group, or else swap two, while that helps."""
    bins = bins.copy()
    for _ in range(_STEPS):
        move = _find_move(task, bins)
        if move is not None:
            bins[move[0]] = move[1]
            continue
        swap = _find_swap(task, bins)
        if swap is None:
            break
        bins[[swap[0], swap[1]]] = bins[[swap[1], swap[0]]]
    return bins


def _find_move(task: _Task, bins: Ints) -> tuple[int, int] | None:
    """Return the (group, bin) that helps most, or None."""
    shared = _dot(task.loads, _loads(task, bins))
    square = (task.loads**2).sum(axis=0)[:, None]
    leaving = task.price[bins][:, None] * (square - 2 * _own(shared, bins))
    change = task.price * (2 * shared + square) + leaving
    lost, gained = _weigh_presence(task, bins)
    return _pick(lost[:, None] - gained, change)


def _find_swap(task: _Task, bins: Ints) -> tuple[int, int] | None:
    """Return the two groups of different bins whose exchange helps most, or None."""
    groups = _choose_swapped(task, bins)
    own, loads, holds = bins[groups], task.loads[:, groups], task.holds[:, groups]
    shared = _dot(loads, _loads(task, bins))
    square = (loads**2).sum(axis=0)
    distance = square[:, None] + square - 2 * _dot(loads, loads)
    # Half of an exchange: what it changes in the bin of the second of the pair.
    change = task.price[own] * (2 * (shared[:, own] - _own(shared, own)[:, 0]) + distance)
    lost, gained = (part[groups] for part in _weigh_presence(task, bins))
    # What the first group takes from its bin is not lost there if the second brings it too.
    sole = holds * (_holders(task, bins) == 1)[:, own] * task.needs[own]
    missing = lost[:, None] - _dot(sole, holds) - gained[:, own].T
    apart = own[:, None] != own
    pair = _pick((missing + missing.T) * apart, np.where(apart, change + change.T, np.inf))
    return None if pair is None else (int(groups[pair[0]]), int(groups[pair[1]]))


def _choose_swapped(task: _Task, bins: Ints) -> Ints:
    """Return one of each kind of group in each bin: the smaller ones, if those are too many."""
    kinds = np.vstack([bins, task.loads]).T
    first = np.sort(np.unique(kinds, axis=0, return_index=True)[1])
    return first[-_SWAPPED:]


def _pick(missing: Ints, change: Floats) -> tuple[int, int] | None:
    """Return the position that mends most of what is missing, then evens most; None if none."""
    least = min(int(missing.min()), 0)
    change = np.where(missing == least, change, np.inf)
    best = int(change.argmin())
    if least == 0 and change.flat[best] >= -_NOTHING:
        return None
    row, column = divmod(best, change.shape[1])
    return int(row), int(column)


def _weigh_presence(task: _Task, bins: Ints) -> tuple[Ints, Ints]:
    """Return what goes missing where a group leaves, and what it brings to each bin.

    Returns
    -------
    lost : ndarray of int, shape (groups,)
    gained : ndarray of int, shape (groups, bins)
    """
    holders = _holders(task, bins)
    lost = (task.holds * (holders == 1)[:, bins]).sum(axis=0) * task.needs[bins]
    return lost, _dot(task.holds, (holders == 0) * task.needs)


def _score(task: _Task, bins: Ints) -> tuple[int, float]:
    missing = ((_holders(task, bins) == 0) * task.needs).sum()
    # Not sum: it rounds otherwise from Python 3.12 on, and folds are the same on every one.
    return int(missing), math.fsum((task.price * _loads(task, bins) ** 2).sum(axis=0).tolist())


def _loads(task: _Task, bins: Ints) -> Floats:
    return _sum_by_bin(task.loads, bins, len(task.price))


def _holders(task: _Task, bins: Ints) -> Floats:
    return _sum_by_bin(task.holds, bins, len(task.price))


def _sum_by_bin(values: npt.NDArray[Any], bins: Ints, bins_count: int) -> Floats:
    """Sum over the groups of each bin: (rows, groups) to (rows, bins)."""
    return np.array([np.bincount(bins, row, bins_count) for row in values])


def _dot(left: Iterable[npt.NDArray[Any]], right: Iterable[npt.NDArray[Any]]) -> Any:
    """Return left.T @ right, summed in the order of the rows."""
    return sum(np.multiply.outer(a, b) for a, b in zip(left, right, strict=True))


def _own(shared: Floats, bins: Ints) -> Floats:
    """Return what each group shares with its own bin, shape (groups, 1)."""
    return np.take_along_axis(shared, bins[:, None], axis=1)
