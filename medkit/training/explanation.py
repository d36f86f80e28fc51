"""In the child process: which parts of an image a model decides by.

Three ways, the first that applies:

``cam``         where maps are averaged over the image and then weighed, the class activation map
                (Zhou et al., CVPR 2016, arXiv:1512.04150) is the decision itself, place by place:
                its mean is the logit, above the mean logit of all classes.
``model``       the model's own ``explain``.
``occlusion``   parts of the image are covered by its mean value, one after the other, and the
                log-odds of the class are taken again (Zeiler and Fergus, ECCV 2014).

Each is repeated with the learned weights in a random order: a map that stays as it was says
nothing of what was learned (Adebayo et al., NeurIPS 2018, arXiv:1810.03292).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medkit.errors import TrainingError
from medkit.images.reader import CachedCodes
from medkit.statistics.labelwise import LabelHeads
from medkit.statistics.linear import LinearHead
from medkit.training.head import LinearModel, read_spec
from medkit.workspace import read_json, write_json

if TYPE_CHECKING:
    from medkit.images.reader import Images

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

# What a worker is told beside its job.
ORDER = "order.json"
# Part of the key of what is kept: raise it when the same models would give other maps.
VERSION = 1
SHUFFLES = 3
# Cells along a side of an image that is covered; what covers it is two cells wide and high.
CELLS = 10
_COVER = 2
_LEAST = 1e-300  # of a probability, for its log-odds
_AGREES = 1e-3  # between the probabilities that maps give and those the model gives
_BATCH = 8


class Explained(NamedTuple):
    """What was found for some images.

    Attributes
    ----------
    method : str
        ``cam``, ``model`` or ``occlusion``.
    maps : ndarray of float32, shape (1 + s, n, h, w)
        Over the whole of each image: above 0 what speaks for its class, below 0 what speaks
        against. The first are the model's; s others, or none, are of shuffled weights.
    """

    method: str
    maps: Floats


@dataclass(frozen=True)
class Subject:
    """A model, and images that it has been asked about.

    Attributes
    ----------
    trainer : Trainer
        An instance with the run's options.
    load : callable
        Returns the model, anew each time.
    extract : callable or None
        Returns the trainer's features of images; None where it has none.
    images : Images
    targets : ndarray of int64, shape (n,)
        The class of each image that is to be explained.
    seed : int
        Of the shuffled weights.
    several : bool
        Whether an image has several labels; the target is then one of them.
    """

    trainer: Any
    load: Callable[[], Any]
    extract: Callable[[Images], Floats] | None
    images: Images
    targets: Ints
    seed: int
    several: bool = False

    @cached_property
    def opened(self) -> Images:
        """The images, as the model wants them."""
        return self.open(self.images)

    def open(self, images: Images) -> Images:
        """Return images with the features that the model wants."""
        return images if self.extract is None else images.with_features(self.extract(images))

    def shuffled(self) -> Iterator[Any]:
        """Yield the model with its learned weights in random orders; none where they are hidden."""
        for number in range(SHUFFLES):
            model = shuffle(self.load(), self.seed + number)
            if model is not None:
                yield model


def write_maps(folder: Path, number: int, subject: Subject) -> None:
    """Explain the images of one fold; ``subject`` has those of the order that are the fold's.

    Writes ``N-maps.npy``, ``N-probabilities.npy`` (n, classes) and ``N-method.json``.
    """
    subject = replace(subject, several=bool(read_json(folder / ORDER).get("several")))
    explained = explain(subject)
    probabilities = subject.load().predict_proba(subject.opened)
    np.save(folder / f"{number}-maps.npy", explained.maps.astype(np.float32))
    np.save(folder / f"{number}-probabilities.npy", np.asarray(probabilities, np.float64))
    write_json(folder / f"{number}-method.json", {"method": explained.method})


def read_order(folder: Path, number: int) -> tuple[Ints, Ints]:
    """Return the images of a fold, as places among the job's, and the class each is asked for."""
    order = read_json(folder / ORDER)
    mine = np.flatnonzero(np.asarray(order["folds"]) == number)
    return mine, np.asarray(order["targets"], dtype=np.int64)[mine]


def explain(subject: Subject) -> Explained:
    """Return the maps of a subject's images, by the first way that applies."""
    return _map_pooled(subject) or _ask_model(subject) or _occlude(subject)


def shuffle(model: Any, seed: int) -> Any:
    """Return a model whose learned weights are in a random order; None where they are hidden.

    Of a linear head it is the features that are taken for one another, so that the classes keep
    their relation.
    """
    from medkit.networks.maps import shuffle_weights

    if isinstance(model, LinearModel):
        return LinearModel(_shuffle_head(model.head, seed))
    if not hasattr(model, "network"):
        return None
    shuffle_weights(model.network, seed)
    return model


def _shuffle_head(head: LinearHead | LabelHeads, seed: int) -> LinearHead | LabelHeads:
    if isinstance(head, LabelHeads):
        heads = [_shuffle_head(one, seed) for one in head.heads]
        return LabelHeads(tuple(one for one in heads if isinstance(one, LinearHead)))
    return replace(head, weights=np.random.default_rng(seed).permutation(head.weights, axis=1))


def _map_pooled(subject: Subject) -> Explained | None:
    """Return class activation maps, if the model is one that has them and they agree with it."""
    model = subject.load()
    weigh = _weigh_heads if isinstance(model, LinearModel) else _weigh_networks
    logits = weigh(subject, model)
    own = next(logits, None)
    if own is None:
        return None
    stated = np.asarray(model.predict_proba(subject.opened))
    squash = _sigmoid if subject.several else _softmax
    if np.abs(squash(own.mean(axis=(1, 2))) - stated).max(initial=0) > _AGREES:
        return None
    maps = [_choose(one, subject.targets, subject.several) for one in (own, *logits)]
    return Explained("cam", np.stack(maps))


def _weigh_heads(subject: Subject, model: LinearModel) -> Iterator[Floats]:
    """Yield logits by place, shape (n, h, w, c), whose means are those of a linear head.

    Those of the model come first, then those of its shuffled weights; none if it has no maps.
    """
    from medkit.networks.maps import open_pooled

    view = (read_spec(subject.trainer) or {}).get("view", {})
    seen, width = subject.images.with_view(**view), model.head.weights.shape[1]
    # Where the features are the pixels themselves, nothing is averaged: do not load a backend.
    if width == np.prod(seen.shape[1:]) or not hasattr(subject.trainer, "feature_network"):
        return
    pooled = open_pooled(subject.trainer.feature_network())
    if pooled is not None and pooled.dense is None:
        maps = _apply(pooled.maps, seen)
        for one in (model, *subject.shuffled()):
            yield maps @ one.head.weights.T + one.head.bias


def _weigh_networks(subject: Subject, model: Any) -> Iterator[Floats]:
    """Yield the same of a network that ends in a dense layer on averaged maps."""
    from medkit.networks.maps import open_pooled

    if not (hasattr(model, "network") and hasattr(model, "view")):
        return
    seen = subject.images.with_view(**model.view)
    for one in chain([model], subject.shuffled()):
        pooled = open_pooled(one.network)
        if pooled is None or pooled.dense is None:
            return
        yield pooled.weigh(_apply(pooled.maps, seen))


def _apply(network: Any, seen: Images) -> Floats:
    from medkit.networks.prediction import apply_network

    found: Floats = apply_network(network, seen, _BATCH).astype(np.float64)
    return found


def _choose(logits: Floats, targets: Ints, several: bool) -> Floats:
    """Return by how much the logit of each image's class is above the mean of all classes.

    Of several labels it is the label's own, which is above 0 where it is more probable than not.
    """
    known = np.isfinite(logits).all(axis=(0, 1, 2))  # a class without training images has none
    above = logits if several else logits - logits[..., known].mean(axis=-1, keepdims=True)
    chosen: Floats = np.take_along_axis(above, targets[:, None, None, None], axis=-1)[..., 0]
    return chosen


def _sigmoid(logits: Floats) -> Floats:
    shares: Floats = 0.5 * (1 + np.tanh(logits / 2))
    return shares


def _softmax(logits: Floats) -> Floats:
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Floats = odds / odds.sum(axis=-1, keepdims=True)
    return shares


def _ask_model(subject: Subject) -> Explained | None:
    if not hasattr(subject.load(), "explain"):
        return None
    models = [subject.load(), *subject.shuffled()]
    maps = [_check(model.explain(subject.opened), subject.images) for model in models]
    return Explained("model", np.stack(maps))


def _check(given: Any, images: Images) -> Floats:
    maps: Floats = np.asarray(given, dtype=np.float64)
    if maps.ndim != 3 or len(maps) != len(images) or not np.isfinite(maps).all():
        raise TrainingError(
            f"the model's 'explain' gave shape {maps.shape} for {len(images)} images; it must give "
            "a map of finite numbers an image, shape (n, H, W)"
        )
    return maps


def _occlude(subject: Subject) -> Explained:
    """Cover parts of each image in turn, and measure what the class loses by it."""
    model = subject.load()
    # A network sees each image a hundred times; of a head the features are there already.
    shuffles = SHUFFLES if isinstance(model, LinearModel) else 1
    models = [model, *islice(subject.shuffled(), shuffles)]
    maps = [
        _cover(subject, models, position, int(target))
        for position, target in enumerate(subject.targets)
    ]
    return Explained("occlusion", np.stack(maps, axis=1))


def _cover(subject: Subject, models: Sequence[Any], position: int, target: int) -> Floats:
    """Return what each model says of one image, shape (models, CELLS, CELLS)."""
    image = subject.images.take([position])
    covers = _place_covers(image.source.size, image.table["pad_box"].iloc[0])
    opened = subject.open(_cover_codes(image, covers))
    losses = []
    for model in models:
        stated = np.maximum(np.asarray(model.predict_proba(opened), np.float64), _LEAST)
        # The others are summed, as 1 - p has no digits left where p is near 1.
        others = np.delete(stated, target, axis=1).sum(axis=1)
        if subject.several:
            others = np.maximum(1 - stated[:, target], _LEAST)
        odds = np.log(stated[:, target]) - np.log(others)
        losses.append(odds[0] - odds[1:])
    return np.stack([_spread(loss, covers) for loss in losses])


@dataclass(frozen=True)
class _Cover:
    """A part of an image to cover: the cells it lies over, and its rows and columns of pixels."""

    cells: tuple[slice, slice]
    pixels: tuple[slice, slice]


def _place_covers(size: tuple[int, int], box: Sequence[int]) -> list[_Cover]:
    """Return covers over the whole image, but for those that lie in its padding."""
    left, top, right, bottom = (int(edge) for edge in box)
    rows, columns = (np.linspace(0, side, CELLS + 1).round().astype(int) for side in size)
    covers = []
    for row in range(CELLS - _COVER + 1):
        for column in range(CELLS - _COVER + 1):
            down = slice(max(rows[row], top), min(rows[row + _COVER], bottom))
            across = slice(max(columns[column], left), min(columns[column + _COVER], right))
            if down.start < down.stop and across.start < across.stop:
                cells = slice(row, row + _COVER), slice(column, column + _COVER)
                covers.append(_Cover(cells, (down, across)))
    return covers


def _cover_codes(image: Images, covers: Sequence[_Cover]) -> Images:
    """Return one image as it is, and once for each cover; the whole is covered by its mean."""
    codes, row = image.codes(0), image.table.iloc[0]
    left, top, right, bottom = row["pad_box"]
    mean = codes[top:bottom, left:right].mean(axis=(0, 1), dtype=np.float64)
    filler = mean.round() if codes.dtype.kind in "iu" else mean
    copies = np.repeat(codes[np.newaxis], 1 + len(covers), axis=0)
    for copy, cover in zip(copies[1:], covers, strict=True):
        copy[cover.pixels] = filler
    numbers = np.arange(len(copies))
    table = image.table.iloc[np.zeros(len(copies), dtype=np.int64)].assign(row=numbers)
    source = CachedCodes({row["array"]: (numbers, copies)}, image.source.size)
    return replace(image, source=source, table=table.reset_index(drop=True), features=None)


def _spread(losses: Floats, covers: Sequence[_Cover]) -> Floats:
    """Return for each cell the mean over the covers that lie over it."""
    sums, counts = np.zeros((CELLS, CELLS)), np.zeros((CELLS, CELLS))
    for loss, cover in zip(losses, covers, strict=True):
        sums[cover.cells] += loss
        counts[cover.cells] += 1
    means: Floats = sums / np.maximum(counts, 1)
    return means
