"""Multinomial logistic regression on the pixels: solved to its optimum, or in mini-batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from medkit.hookspecs import hookimpl
from medkit.images.windows import split_windows
from medkit.training.params import option, refuse_idle

if TYPE_CHECKING:
    from pathlib import Path

    import keras
    import numpy as np
    import numpy.typing as npt

    from medkit.images.reader import Images
    from medkit.training.contract import LabelledImages, RunContext
    from medkit_softmax.minibatch import SoftmaxModel

# Part of the features' key: raise it when the same pixels would give other features.
_VERSION = 1
_BATCH = 256
# Options that the exact solver has no use for.
_MINIBATCH = ("strength", "epochs", "patience", "batch_size", "learning_rate")


@dataclass(frozen=True)
class SoftmaxParams:
    """The options of the trainer.

    Raises
    ------
    ValueError
        If an option of the mini-batch solver is given to the exact one.
    """

    size: int = option(32, "Rows and columns the images are reduced to.", least=1)
    window: str = option(
        "header",
        "Grey window: header, full, a preset (lung, soft, bone, brain) or CENTRE/WIDTH.",
        check=split_windows,
    )
    channels: Literal[1, 3] = option(1, "1 for grey, 3 for colour.")
    solver: Literal["exact", "minibatch"] = option(
        "exact",
        "exact: the optimum, its strength chosen by inner folds, with all pixels in memory; "
        "minibatch: near it, by Adam in Keras, with pixels that are read from the set.",
    )
    strength: float = option(0.01, "minibatch: of the L2 penalty, as in the exact one.", least=0)
    epochs: int = option(30, "minibatch: epochs at most.", least=1)
    patience: int = option(
        5, "minibatch: epochs without a better validation log loss before stopping.", least=1
    )
    batch_size: int = option(256, "minibatch: images a step.", least=1)
    learning_rate: float = option(
        0.01, "minibatch: of Adam at the start; falls to 0 by a cosine.", above=0
    )

    def __post_init__(self) -> None:
        if self.solver == "exact":
            advice = "give it with -p solver=minibatch; the exact solver has no such option"
            refuse_idle(self, _MINIBATCH, advice)


class SoftmaxTrainer:
    """Gives the pixels as features, of which the host solves the head; or fits it in mini-batches.

    Parameters
    ----------
    params : SoftmaxParams
        What to see of the images, and which solver.
    """

    Params: ClassVar[type] = SoftmaxParams
    tasks: ClassVar[frozenset[str]] = frozenset({"multiclass", "multilabel"})

    def __init__(self, params: SoftmaxParams) -> None:
        self.params = params
        self.view = {
            "window": params.window,
            "channels": params.channels,
            "size": params.size,
            "scale": (0.0, 1.0),
        }

    @property
    def head(self) -> str:
        """``"linear"`` where the host solves it."""
        return "linear" if self.params.solver == "exact" else ""

    def feature_spec(self) -> dict[str, Any] | None:
        """Return what the features depend on besides the pixels; None for the mini-batch solver."""
        if self.params.solver != "exact":
            return None
        return {"trainer": "softmax", "version": _VERSION, "view": self.view}

    def features(self, images: Images, run: RunContext) -> npt.NDArray[np.float32]:
        """Return the pixels of each image as a row, shape (n, size * size * channels)."""
        import numpy as np

        seen = images.with_view(**self.view)
        rows = np.empty((len(seen), math.prod(seen.shape[1:])), np.float32)
        done = 0
        for batch in seen.batches(_BATCH):
            rows[done : done + len(batch)] = batch.reshape(len(batch), -1)
            done += len(batch)
        return rows

    def feature_network(self) -> keras.Model:
        """Return the network that gives the features of pixels of the view."""
        from medkit_softmax.minibatch import build_flatten

        return build_flatten(self.view)

    def fit(
        self, train: LabelledImages, validation: LabelledImages, run: RunContext
    ) -> SoftmaxModel:
        """Fit in mini-batches, or go on where a kill ended it.

        Raises
        ------
        TrainingError
            If the loss stops being a number, or the user stops the run.
        """
        from medkit_softmax.minibatch import fit_model

        return fit_model(self.params, self.view, train, validation, run)

    def load(self, folder: Path) -> SoftmaxModel:
        """Rebuild the network from its description, and read its weights and nothing else."""
        from medkit_softmax.minibatch import load_model

        return load_model(folder)


@hookimpl
def medkit_trainer() -> type[SoftmaxTrainer]:
    """Return the trainer of this plugin."""
    return SoftmaxTrainer
