"""Gradient boosting on outlines and brightness: a trainer that uses no Keras.

This module is imported to show the options: scikit-learn is imported by `fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from medkit.hookspecs import hookimpl
from medkit.images.windows import split_windows
from medkit.training.params import option

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from medkit.images.reader import Images
    from medkit.training.contract import LabelledImages, RunContext

    from .boosting import Model


@dataclass(frozen=True)
class Options:
    """The options of the trainer, as ``-p`` takes them."""

    size: int = option(48, "Rows and columns the images are reduced to.", least=12)
    window: str = option(
        "header",
        "Grey window: header, full, a preset (lung, soft, bone, brain) or CENTRE/WIDTH.",
        check=split_windows,
    )
    channels: Literal[1, 3] = option(1, "1 for grey, 3 for colour.")
    trees: int = option(
        200, "Trees a class at most; the validation part chooses how many.", least=1
    )
    depth: int = option(3, "Depth of the trees.", least=1)
    learning_rate: float = option(0.1, "How much of each tree is added.", above=0, most=1)
    subsample: float = option(0.5, "Share of the images that a tree sees.", above=0, most=1)

    @property
    def view(self) -> dict[str, Any]:
        """How the features see images."""
        return {"window": self.window, "channels": self.channels, "size": self.size}


class Trainer:
    """Describes each image once, and adds up trees on the descriptions.

    Parameters
    ----------
    options : Options
        The trees and what they see.
    """

    Params: ClassVar[type] = Options
    tasks: ClassVar[frozenset[str]] = frozenset({"multiclass"})

    def __init__(self, options: Options) -> None:
        self.options = options

    def feature_spec(self) -> dict[str, Any]:
        """Return what the features depend on besides the pixels: the host keeps them by it."""
        # Raise the number when the same pixels would give other features.
        return {"features": "boosting/1", "view": self.options.view}

    def features(self, images: Images, run: RunContext) -> npt.NDArray[np.float32]:
        """Return a row an image, which depends on that image alone; computed once for all folds."""
        from .features import describe_images

        return describe_images(images.with_view(**self.options.view))

    def fit(self, train: LabelledImages, validation: LabelledImages, run: RunContext) -> Model:
        """Train on ``train`` and choose the number of trees by ``validation``."""
        from .boosting import fit_model

        return fit_model(self.options, train, validation, run)

    def load(self, folder: Path) -> Model:
        """Return the trees that were saved in a folder."""
        from .boosting import load_model

        return load_model(folder)


@hookimpl
def medkit_trainer() -> type[Trainer]:
    """Return the trainer of this plugin."""
    return Trainer
