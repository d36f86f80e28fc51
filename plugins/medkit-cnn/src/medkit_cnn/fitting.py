"""Training: epochs that follow from their seeds, early stopping, a checkpoint after each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medkit.errors import TrainingError
from medkit_cnn.checkpoint import restore
from medkit_cnn.model import CnnModel, predict
from medkit_cnn.network import build_network, compile_network

if TYPE_CHECKING:
    import keras

    from medkit.images.reader import Images
    from medkit.training.contract import LabelledImages, RunContext
    from medkit_cnn import CnnParams

Floats = npt.NDArray[np.float32]

# Pixels of both parts are held in memory up to this; above it, each batch is read from the set.
MEMORY_BYTES = 2 << 30


@dataclass(frozen=True)
class _Part:
    """Images to train on or to choose by, ready for the network."""

    pixels: Images | Floats
    labels: npt.NDArray[np.int64]
    weights: Floats


def fit_network(
    params: CnnParams, train: LabelledImages, validation: LabelledImages, run: RunContext
) -> CnnModel:
    """Train a network and return it with the weights of the best epoch.

    Without validation images there is nothing to choose by: all epochs run, the last one counts.

    Raises
    ------
    TrainingError
        If the loss stops being a number, or the user stops the run.
    """
    import keras

    keras.utils.set_random_seed(run.seed)
    part, judge = _prepare(params, train, validation)
    height, width, channels = part.pixels.shape[1:]
    plan = params, (height, width, channels), len(train.classes)
    network = build_network(*plan)
    compile_network(network, params.learning_rate)
    path = run.checkpoints / "epoch.npz"
    standing = restore(path, network)
    while standing.epochs < params.epochs and standing.waited < params.patience:
        epoch = standing.epochs + 1
        _train_epoch(network, params, part, run, epoch)
        loss = _log_loss(network, judge) if len(judge.labels) else None
        chosen = standing.record(loss, network)
        if loss is not None:
            _report(run, f"validation log loss of epoch {epoch}", loss)
            run.look(epoch, -loss, chosen)
        standing.save(path, network)
        run.progress(epoch, params.epochs, "epochs")
    # A network that was never compiled is saved without the optimiser.
    trained = build_network(*plan)
    trained.set_weights(standing.best)
    return CnnModel(params, trained)


def _prepare(
    params: CnnParams, train: LabelledImages, validation: LabelledImages
) -> tuple[_Part, _Part]:
    seen = [part.view(**params.view) for part in (train, validation)]
    size = sum(4 * math.prod(part.images.shape) for part in seen)
    factors = _weigh_classes(train) if params.class_weights else np.ones(len(train.classes))
    first, second = (
        _Part(
            part.images[:] if size <= MEMORY_BYTES else part.images,
            part.labels,
            (part.weights * factors[part.labels]).astype(np.float32),
        )
        for part in seen
    )
    return first, second


def _weigh_classes(train: LabelledImages) -> npt.NDArray[np.float64]:
    counts = np.bincount(train.labels, minlength=len(train.classes))
    return np.asarray(len(train) / (len(counts) * np.maximum(counts, 1)))


def _train_epoch(
    network: keras.Model, params: CnnParams, part: _Part, run: RunContext, epoch: int
) -> None:
    """Train for an epoch; what is drawn follows from run seed and epoch alone."""
    _reseed(network, run.seed, epoch)
    network.reset_metrics()
    random = np.random.default_rng((run.seed, epoch))
    loss = math.nan
    for rows in _draw_batches(len(part.labels), params.batch_size, random):
        if run.stopping():
            raise TrainingError(f"stopped in epoch {epoch}; run again to go on from its start")
        pixels = _distort(params, part.pixels[rows], random)
        loss = network.train_on_batch(pixels, part.labels[rows], sample_weight=part.weights[rows])
    _report(run, f"training loss of epoch {epoch}", float(loss))


def _reseed(network: keras.Model, seed: int, epoch: int) -> None:
    for number, layer in enumerate(network.layers):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            # 31 bits: the state is signed in one backend and unsigned in another.
            drawn = np.random.SeedSequence((seed, epoch, number)).generate_state(1) >> 1
            generator.state.assign([int(drawn[0]), 0])


def _draw_batches(
    count: int, size: int, random: np.random.Generator
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the rows of each batch; sizes differ by one at most, so none is too small for norms."""
    yield from np.array_split(random.permutation(count), -(-count // size))


def _distort(params: CnnParams, pixels: Floats, random: np.random.Generator) -> Floats:
    count, height, width, _ = pixels.shape
    if params.mirror:
        turned = random.random(count) < 0.5
        pixels[turned] = pixels[turned, :, ::-1]
    reach = round(params.shift * height)
    if reach:
        margins = ((0, 0), (reach, reach), (reach, reach), (0, 0))
        wide = np.pad(pixels, margins, mode="edge")
        corners = random.integers(0, 2 * reach + 1, (count, 2))
        moved = zip(wide, corners, strict=True)
        pixels = np.stack([image[y : y + height, x : x + width] for image, (y, x) in moved])
    return pixels


def _log_loss(network: keras.Model, judge: _Part) -> float:
    probabilities = predict(network, judge.pixels)[np.arange(len(judge.labels)), judge.labels]
    # A float32 softmax can be exactly 0.
    losses = -np.log(np.maximum(probabilities, 1e-7))
    return float(np.average(losses, weights=judge.weights))


def _report(run: RunContext, name: str, loss: float) -> None:
    run.log(f"{name}: {loss:.4f}")
    if not math.isfinite(loss):
        raise TrainingError(f"the {name} is not a number; a smaller -p learning_rate would work")
