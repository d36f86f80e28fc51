"""A random forest on small images: a trainer that uses no Keras.

This module is light: it is imported to show the options. What is heavy is imported inside `fit`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import medkit

if TYPE_CHECKING:
    from pathlib import Path

    from medkit_sklearn.forest import ForestModel


@dataclass(frozen=True)
class ForestParams:
    """The options of the trainer.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    size: int = field(default=16, metadata={"help": "Rows and columns the images are reduced to."})
    window: str = field(
        default="header",
        metadata={"help": "Grey window: header, full, a preset (lung, soft ...) or CENTRE/WIDTH."},
    )
    trees: int = field(default=200, metadata={"help": "Trees of a forest."})
    depths: tuple[int, ...] = field(
        default=(4, 8, 16),
        metadata={"help": "Depths of the trees, with commas; the validation part chooses."},
    )

    def __post_init__(self) -> None:
        if min((self.size, self.trees, *self.depths), default=0) < 1 or not self.depths:
            raise ValueError("size, trees and every depth must be 1 or more")

    @property
    def view(self) -> dict[str, Any]:
        """How the trees see the images."""
        return {"window": self.window, "channels": 1, "size": self.size}


class ForestTrainer:
    """Trains a forest for each depth and keeps the one with the best validation log loss.

    Parameters
    ----------
    params : ForestParams
        The forest and what it sees.
    """

    Params: ClassVar[type] = ForestParams
    tasks: ClassVar[frozenset[str]] = frozenset({"multiclass"})

    def __init__(self, params: ForestParams) -> None:
        self.params = params

    def fit(
        self,
        train: medkit.LabelledImages,
        validation: medkit.LabelledImages,
        run: medkit.RunContext,
    ) -> ForestModel:
        """Train on ``train`` and choose the depth by ``validation``."""
        from medkit_sklearn.forest import fit_forest

        return fit_forest(self.params, train, validation, run)

    def load(self, folder: Path) -> ForestModel:
        """Return the forest that was saved in a folder."""
        from medkit_sklearn.forest import ForestModel

        return ForestModel.load(folder)


@medkit.hookimpl
def medkit_trainer() -> type[ForestTrainer]:
    """Return the trainer of this plugin."""
    return ForestTrainer
