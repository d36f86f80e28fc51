"""A convolutional network built from blocks and trained from scratch, on any Keras backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from medkit.hookspecs import hookimpl
from medkit.images.windows import split_windows
from medkit.training.params import option

if TYPE_CHECKING:
    from pathlib import Path

    from medkit.training.contract import LabelledImages, RunContext
    from medkit_cnn.model import CnnModel


def _check_blocks(blocks: tuple[int, ...]) -> None:
    if not blocks:
        raise ValueError("give the filters of one block or more, such as 16,32,64")


@dataclass(frozen=True)
class CnnParams:
    """The options of the trainer; the defaults train in minutes on two cores.

    Raises
    ------
    ValueError
        If the blocks reduce the images to nothing.
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
        (16, 32, 64, 128),
        "Filters of each block; each block halves the size.",
        least=1,
        check=_check_blocks,
    )
    activation: Literal["relu", "noisy-relu", "tanh", "sigmoid"] = option(
        "relu", "After each convolution; noisy-relu is of Gulcehre et al. 2016."
    )
    norm: Literal["batch", "layer", "none"] = option("batch", "Normalisation in each block.")
    pool: Literal["max", "avg"] = option("max", "Pooling at the end of each block.")
    flatten: bool = option(False, "Flatten the last maps instead of averaging each of them.")
    dense: int = option(128, "Units of the hidden dense layer; 0 for none.", least=0)
    dropout: float = option(0.25, "Share of units dropped before the last layer.", least=0, below=1)
    epochs: int = option(40, "Epochs at most.", least=1)
    patience: int = option(
        8, "Epochs without a better validation log loss before stopping.", least=1
    )
    batch_size: int = option(32, "Images a step; halved when memory is full.", least=1)
    learning_rate: float = option(3e-4, "Of Adam, at the start.", above=0)
    schedule: Literal["constant", "cosine"] = option(
        "constant", "Of the learning rate; cosine lets it fall to 0 over the epochs."
    )
    class_weights: bool = option(
        False,
        "Weigh the classes equally, or the images with and without each of several labels; "
        "probabilities then assume equal prevalence.",
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
    precision: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto",
        "What the network computes in; auto is bfloat16 on a GPU that has it, float16 on "
        "another, float32 on a CPU. Weights and probabilities are float32.",
    )

    def __post_init__(self) -> None:
        least = 2 ** len(self.blocks)
        if self.size < least:
            raise ValueError(
                f"size={self.size}: {len(self.blocks)} blocks, of which each halves the size, "
                f"need at least {least}; give a larger size, or fewer blocks"
            )

    @property
    def view(self) -> dict[str, Any]:
        """How the network sees the images; the scale is a constant, never an image's own."""
        return {
            "window": self.window,
            "channels": self.channels,
            "size": self.size,
            "scale": (-1.0, 1.0),
        }


class CnnTrainer:
    """Trains the network and keeps the weights with the best validation log loss.

    Parameters
    ----------
    params : CnnParams
        The network and how it is trained.
    """

    Params: ClassVar[type] = CnnParams
    tasks: ClassVar[frozenset[str]] = frozenset({"multiclass", "multilabel"})

    def __init__(self, params: CnnParams) -> None:
        self.params = params

    def fit(self, train: LabelledImages, validation: LabelledImages, run: RunContext) -> CnnModel:
        """Train on ``train`` until ``validation`` gets no better, or go on where a kill ended it.

        Raises
        ------
        TrainingError
            If the loss stops being a number, or not even one image fits in memory.
        """
        from medkit_cnn.model import fit_model

        return fit_model(self.params, train, validation, run)

    def load(self, folder: Path) -> CnnModel:
        """Rebuild the network from its description, and read its weights and nothing else."""
        from medkit_cnn.model import load_model

        return load_model(folder)


@hookimpl
def medkit_trainer() -> type[CnnTrainer]:
    """Return the trainer of this plugin."""
    return CnnTrainer
