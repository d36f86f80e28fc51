"""Where a fit stands after an epoch, kept so that a killed fit ends as an unbroken one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.workspace import write_beside

if TYPE_CHECKING:
    import keras

Arrays = list[npt.NDArray[Any]]


@dataclass
class Standing:
    """How far a fit is, and the best it has seen.

    Attributes
    ----------
    epochs : int
        Finished so far.
    best_epoch : int
        Counted from 1; 0 before the first look.
    best_loss : float
        The validation log loss after it.
    best : list of ndarray
        The network's weights after it.
    """

    epochs: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    best: Arrays = field(default_factory=list)

    @property
    def waited(self) -> int:
        """Epochs since the best one."""
        return self.epochs - self.best_epoch

    def record(self, loss: float | None, network: keras.Model) -> bool:
        """Count an epoch and tell whether it is the best so far; without a loss the last one is."""
        self.epochs += 1
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
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "best_loss": self.best_loss,
            **_number("best", self.best),
            **_number("weights", network.get_weights()),
            **_number("optimiser", _read(network.optimizer)),
        }
        with write_beside(path) as beside, beside.open("wb") as handle:
            np.savez(handle, **content)


def restore(path: Path, network: keras.Model) -> Standing:
    """Return what `Standing.save` wrote, and put network and optimiser back to it.

    Without a file the fit has not begun.
    """
    if not path.exists():
        return Standing()
    network.optimizer.build(network.trainable_variables)
    with np.load(path) as content:
        network.set_weights(_collect("weights", content))
        for variable, value in zip(
            network.optimizer.variables, _collect("optimiser", content), strict=True
        ):
            variable.assign(value)
        return Standing(
            int(content["epochs"]),
            int(content["best_epoch"]),
            float(content["best_loss"]),
            _collect("best", content),
        )


def _read(optimiser: Any) -> Arrays:
    import keras

    return [keras.ops.convert_to_numpy(variable) for variable in optimiser.variables]


def _number(name: str, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    return {f"{name}/{number}": array for number, array in enumerate(arrays)}


def _collect(name: str, content: Any) -> Arrays:
    count = sum(key.startswith(f"{name}/") for key in content.files)
    return [content[f"{name}/{number}"] for number in range(count)]
