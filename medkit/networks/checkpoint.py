"""Where a fit stands after an epoch, kept so that a killed fit ends as an unbroken one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.networks.hardware import load_keras
from medkit.workspace import write_beside

if TYPE_CHECKING:
    import keras

    from medkit.networks.fitting import Stage

Arrays = list[npt.NDArray[Any]]


@dataclass
class Standing:
    """How far a fit is, and the best it has seen.

    Attributes
    ----------
    batch_size : int
        Images a step, halved when memory was full.
    trained_batch : int
        What the last epochs were trained with.
    stage : int
        The stage it is in, from 0.
    start : int
        Epochs that were finished when this stage began.
    epochs : int
        Finished so far.
    best_epoch : int
        Counted from 1; 0 before the first look.
    best_loss : float
        The validation log loss after it.
    best : list of ndarray
        The network's weights after it.
    weights, optimiser : list of ndarray
        What the next epoch starts from, where the fit was taken up again amid a stage.
    """

    batch_size: int
    trained_batch: int = 0
    stage: int = 0
    start: int = 0
    epochs: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    best: Arrays = field(default_factory=list)
    weights: Arrays = field(default_factory=list)
    optimiser: Arrays = field(default_factory=list)

    def has_ended(self, stage: Stage) -> bool:
        """Tell whether its stage has had all its epochs, or too many that were no better."""
        done = self.epochs - self.start
        waited = self.epochs - max(self.best_epoch, self.start)
        return done >= stage.epochs or waited >= stage.patience

    def enter(self, stages: Sequence[Stage]) -> bool:
        """Go on to the stage that has not ended, from the best weights; False if all have."""
        while self.stage < len(stages) and self.has_ended(stages[self.stage]):
            self.stage += 1
            self.start = self.epochs
            self.weights, self.optimiser = [], []
        return self.stage < len(stages)

    def record(self, loss: float | None, network: keras.Model) -> bool:
        """Count an epoch and tell whether it is the best so far; without a loss the last one is."""
        self.epochs += 1
        self.trained_batch = self.batch_size
        better = loss is None or loss < self.best_loss
        if better:
            # PyTorch's arrays are views of its tensors: without a copy, the best would train on.
            self.best = [np.array(weights) for weights in network.get_weights()]
            self.best_epoch = self.epochs
            self.best_loss = self.best_loss if loss is None else loss
        return better

    def save(self, path: Path, network: keras.Model) -> None:
        """Write this and all that the next epoch depends on, as one file that is whole or absent.

        Random states are not among it: every epoch starts from its own seeds.
        """
        content: dict[str, Any] = {
            **{name: getattr(self, name) for name in _NUMBERS},
            **_number("best", self.best),
            **_number("weights", network.get_weights()),
            **_number("optimiser", _read(network.optimizer)),
        }
        with write_beside(path) as beside, beside.open("wb") as handle:
            np.savez(handle, **content)

    def restore(self, network: keras.Model) -> None:
        """Put a network, whose optimiser is built, where the next epoch starts."""
        if self.weights:
            network.set_weights(self.weights)
            for variable, value in zip(network.optimizer.variables, self.optimiser, strict=True):
                variable.assign(value)
        elif self.best:
            network.set_weights(self.best)


_NUMBERS = tuple(each.name for each in fields(Standing) if each.type in ("int", "float"))


def read_standing(path: Path, batch_size: int) -> Standing:
    """Return what `Standing.save` wrote; without a file the fit has not begun."""
    if not path.exists():
        return Standing(batch_size)
    with np.load(path) as content:
        known: dict[str, Any] = {name: content[name].item() for name in _NUMBERS}
        known |= {name: _collect(name, content) for name in ("best", "weights", "optimiser")}
    return Standing(**known)


def _read(optimiser: Any) -> Arrays:
    convert = load_keras().ops.convert_to_numpy
    return [convert(variable) for variable in optimiser.variables]


def _number(name: str, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    return {f"{name}/{number}": array for number, array in enumerate(arrays)}


def _collect(name: str, content: Any) -> Arrays:
    count = sum(key.startswith(f"{name}/") for key in content.files)
    return [content[f"{name}/{number}"] for number in range(count)]
