"""A residual network in PyTorch, trained from scratch: a trainer for medkit.

This module is imported to show the options: PyTorch is imported by `fit` and `load`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from medkit.hookspecs import hookimpl
from medkit.images.windows import split_windows
from medkit.training.params import option

if TYPE_CHECKING:
    from pathlib import Path

    from medkit.training.contract import LabelledImages, RunContext

    from .model import Model


def _check_blocks(blocks: tuple[int, ...]) -> None:
    if not blocks:
        raise ValueError("give the blocks of one stage or more, such as 2,2,2,2")


@dataclass(frozen=True)
class Options:
    """The options of the trainer; the defaults train on two cores.

    ``-p size=224 -p stem=large -p width=64`` is ResNet-18, but for its norms.

    Raises
    ------
    ValueError
        If the stages reduce the images to nothing.
    """

    size: int = option(64, "Rows and columns the images are reduced to.", least=2)
    window: str = option(
        "header",
        "Grey window: header, full, a preset (lung, soft, bone, brain) or CENTRE/WIDTH; or "
        "several with commas, a channel each.",
        check=split_windows,
    )
    channels: Literal[1, 3] = option(1, "1 for grey, 3 for colour; several windows count instead.")
    blocks: tuple[int, ...] = option(
        (2, 2, 2, 2),
        "Residual blocks of each stage; each stage but the first halves the size.",
        least=1,
        check=_check_blocks,
    )
    width: int = option(
        16, "Filters of the first stage; each later one has twice as many.", least=1
    )
    stem: Literal["small", "large"] = option(
        "small",
        "What comes first: a 3 x 3 convolution, or for large images one of 7 x 7 and a pooling, "
        "which leave a quarter of the rows and columns.",
    )
    norm: Literal["group", "batch"] = option(
        "group", "Normalisation; batch needs many images a step, group does not."
    )
    dropout: float = option(0.2, "Share of maps dropped before the last layer.", least=0, below=1)
    epochs: int = option(40, "Epochs at most.", least=1)
    patience: int = option(
        8, "Epochs without a better validation log loss before stopping.", least=1
    )
    batch_size: int = option(32, "Images a step.", least=1)
    learning_rate: float = option(
        1e-3, "Of AdamW, at the start; falls to 0 by a cosine over the epochs.", above=0
    )
    weight_decay: float = option(1e-2, "Of AdamW.", least=0)
    class_weights: bool = option(
        False, "Weigh the classes equally; probabilities then assume equal prevalence."
    )
    shift: float = option(
        0.0, "Move each training image by up to this share of its side.", least=0, below=1
    )
    rotate: float = option(
        0.0, "Turn each training image by up to this many degrees.", least=0, most=180
    )
    zoom: float = option(
        0.0, "Enlarge or reduce each training image by up to this share.", least=0, below=1
    )
    intensity: float = option(
        0.0, "Change contrast by up to this share, and brightness by half of it.", least=0, below=1
    )
    mirror: bool = option(
        False,
        "Exchange left and right in half of the training images. Only where sides say nothing: "
        "heart, liver and the side markers on a film have a side.",
    )

    def __post_init__(self) -> None:
        if self.size < self.reduction:
            raise ValueError(
                f"size={self.size}: {len(self.blocks)} stages behind a {self.stem} stem need at "
                f"least {self.reduction}; give a larger size, or fewer stages"
            )

    @property
    def reduction(self) -> int:
        """Rows and columns of the image for one of the last maps."""
        return (1 << len(self.blocks) - 1) * (4 if self.stem == "large" else 1)

    @property
    def depth(self) -> int:
        """Channels of an image."""
        windows = len(split_windows(self.window))
        return windows if windows > 1 else self.channels

    @property
    def view(self) -> dict[str, Any]:
        """How the network sees images, but for the scale, which the training part gives."""
        return {"window": self.window, "channels": self.channels, "size": self.size}


class Trainer:
    """Trains the network and keeps the weights with the best validation log loss.

    Parameters
    ----------
    options : Options
        The network and how it is trained.
    """

    Params: ClassVar[type] = Options
    tasks: ClassVar[frozenset[str]] = frozenset({"multiclass"})

    def __init__(self, options: Options) -> None:
        self.options = options

    def fit(self, train: LabelledImages, validation: LabelledImages, run: RunContext) -> Model:
        """Train until ``validation`` gets no better, or go on where a kill ended it."""
        from .model import fit_model

        return fit_model(self.options, train, validation, run)

    def load(self, folder: Path) -> Model:
        """Build the network again and read its weights, which are plain arrays."""
        from .model import load_model

        return load_model(folder)


@hookimpl
def medkit_trainer() -> type[Trainer]:
    """Return the trainer of this plugin."""
    return Trainer
