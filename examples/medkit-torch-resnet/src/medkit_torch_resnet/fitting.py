"""The epochs of a fit: drawn from the seed, judged, ended early, taken up where a kill ended them.

Nothing here knows the framework: a `Learner` does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from medkit.errors import TrainingError
from medkit.networks.augmentation import Augmentation
from medkit.networks.batches import Part, draw_batches, make_batches, open_part
from medkit.workspace import write_beside

if TYPE_CHECKING:
    from medkit.training.contract import LabelledImages, RunContext

Floats = npt.NDArray[np.float32]
Arrays = dict[str, Any]  # of NumPy, by name

# Images that are judged at a time.
BATCH = 128
# What an array of the weights is called, and not one of the optimiser.
WEIGHTS = "weights/"
_NUMBERS = ("epochs", "best_epoch", "best_loss")


class Learner(Protocol):
    """A network in training, in whichever framework."""

    def reseed(self, seed: int) -> None:
        """Let all that is random from here on follow from a seed of 32 bits."""

    def train(self, pixels: Floats, labels: npt.NDArray[np.int64], weights: Floats) -> Any:
        """Take one step and return the loss, which ``float`` reads."""

    def judge(self, pixels: Floats) -> Floats:
        """Return the logits of images (n, H, W, C), shape (n, classes)."""

    def read(self) -> Arrays:
        """Return copies of all that the next step depends on; weights are named ``weights/...``."""

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put everything where `read` found it."""


@dataclass(frozen=True)
class Plan:
    """How a network is trained.

    Attributes
    ----------
    epochs, patience : int
        Epochs at most, and epochs without a better validation log loss before the end.
    batch_size : int
        Images a step.
    augmentation : Augmentation
        How training images are varied; by default not at all.
    class_weights : bool
        Weigh the classes equally.
    """

    epochs: int
    patience: int
    batch_size: int
    augmentation: Augmentation = field(default_factory=Augmentation)
    class_weights: bool = False


@dataclass
class Standing:
    """How far a fit is, the best weights so far, and what the next epoch starts from."""

    epochs: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    best: Arrays = field(default_factory=dict)
    state: Arrays = field(default_factory=dict)

    def has_ended(self, plan: Plan) -> bool:
        """Tell whether all epochs are over, or too many were no better."""
        return self.epochs >= plan.epochs or self.epochs - self.best_epoch >= plan.patience

    def record(self, loss: float | None, state: Arrays) -> bool:
        """Count an epoch; return whether it is the best so far. Without a loss the last one is."""
        self.epochs, self.state = self.epochs + 1, state
        better = loss is None or loss < self.best_loss
        if better:
            self.best = {name: values for name, values in state.items() if name.startswith(WEIGHTS)}
            self.best_epoch = self.epochs
            self.best_loss = self.best_loss if loss is None else loss
        return better

    def save(self, path: Path) -> None:
        """Write everything as one file of plain arrays, which is whole or absent."""
        content: Arrays = {name: np.asarray(getattr(self, name)) for name in _NUMBERS}
        content |= {f"best/{name}": values for name, values in self.best.items()}
        content |= {f"state/{name}": values for name, values in self.state.items()}
        with write_beside(path) as beside, beside.open("wb") as handle:
            np.savez(handle, **content)


def read_standing(path: Path) -> Standing:
    """Return what `Standing.save` wrote; without a file the fit has not begun."""
    if not path.exists():
        return Standing()
    with np.load(path, allow_pickle=False) as content:
        standing = Standing(**{name: content[name].item() for name in _NUMBERS})
        for name in content.files:
            kind, _, rest = name.partition("/")
            if rest:
                getattr(standing, kind)[rest] = content[name]
    return standing


def fit(
    learner: Learner,
    plan: Plan,
    train: LabelledImages,
    validation: LabelledImages,
    run: RunContext,
) -> Arrays:
    """Return the weights of the best epoch.

    Without validation images there is nothing to choose by: all epochs run, the last one counts.
    An epoch follows from the run's seed and its number, so that a fit that was killed ends with the
    weights of an unbroken one.

    Parameters
    ----------
    learner : Learner
        With fresh weights.
    plan : Plan
        How it is trained.
    train, validation : LabelledImages
        In the network's view.
    run : RunContext
        Is told of every epoch, and has its checkpoint.

    Raises
    ------
    TrainingError
        If the loss stops being a number, or the user stops the run.
    """
    factors = _weigh_classes(train) if plan.class_weights else np.ones(len(train.classes))
    part, judge = open_part(train, factors), open_part(validation, factors)
    standing = read_standing(checkpoint := run.checkpoints / "epoch.npz")
    if standing.state:
        learner.restore(standing.state)
    while not standing.has_ended(plan):
        epoch = standing.epochs + 1
        run.status(epoch=epoch - 1, epochs=plan.epochs, batch_size=plan.batch_size)
        _train_epoch(learner, plan, part, run, epoch)
        loss = _measure_loss(learner, judge, epoch) if len(judge) else None
        chosen = standing.record(loss, learner.read())
        if loss is not None:
            run.look(epoch, -loss, chosen)
            run.status(validation_loss=loss)
            run.log(f"epoch {epoch}: validation log loss {loss:.4f}")
        standing.save(checkpoint)
        run.progress(epoch, plan.epochs, "epochs")
    return standing.best


def draw_seed(run: RunContext, epoch: int) -> int:
    """Return 32 bits that follow from the run's seed and an epoch; epoch 0 is the beginning."""
    return int(np.random.SeedSequence((run.seed, epoch)).generate_state(1)[0])


def softmax(logits: Floats) -> npt.NDArray[np.float64]:
    """Return probabilities, shape (n, classes), whose rows sum to 1."""
    wide = logits.astype(np.float64)
    odds = np.exp(wide - wide.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _train_epoch(learner: Learner, plan: Plan, part: Part, run: RunContext, epoch: int) -> None:
    learner.reseed(draw_seed(run, epoch))
    seeds, began = (run.seed, epoch), time.monotonic()
    rows = draw_batches(len(part), plan.batch_size, np.random.default_rng(seeds))
    losses = []
    with closing(make_batches(part, rows, plan.augmentation, seeds, run.threads)) as batches:
        for pixels, labels, weights in batches:
            if run.stopping():
                raise TrainingError(f"stopped in epoch {epoch}; run again to go on from its start")
            losses.append(learner.train(pixels, labels, weights))
    loss = _check(float(np.mean([float(loss) for loss in losses])), "training", epoch)
    run.status(loss=loss, images_per_second=len(part) / (time.monotonic() - began))


def _measure_loss(learner: Learner, judge: Part, epoch: int) -> float:
    starts = range(0, len(judge), BATCH)
    logits = np.concatenate([learner.judge(judge.pixels[each : each + BATCH]) for each in starts])
    right = softmax(logits)[np.arange(len(judge)), judge.labels]
    losses = -np.log(np.maximum(right, np.finfo(np.float32).tiny))
    return _check(float(np.average(losses, weights=judge.weights)), "validation", epoch)


def _check(loss: float, part: str, epoch: int) -> float:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the {part} loss of epoch {epoch} is not a number; a smaller -p learning_rate would "
            "work"
        )
    return loss


def _weigh_classes(train: LabelledImages) -> npt.NDArray[np.float64]:
    counts = np.bincount(train.labels, minlength=len(train.classes))
    return np.asarray(len(train) / (len(counts) * np.maximum(counts, 1)))
