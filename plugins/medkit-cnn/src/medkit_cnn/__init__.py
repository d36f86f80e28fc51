"""A convolutional network built from blocks and trained from scratch, on any Keras backend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from medkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from medkit.training.contract import LabelledImages, RunContext
    from medkit_cnn.model import CnnModel


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class CnnParams:
    """The options of the trainer; the defaults train in minutes on two cores.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    size: int = _option(64, "Rows and columns the images are reduced to.")
    window: str = _option(
        "header", "Grey window: header, full, a preset (lung, soft ...) or CENTRE/WIDTH."
    )
    channels: int = _option(1, "1 for grey, 3 for colour.")
    blocks: tuple[int, ...] = _option((16, 32, 64, 128), "Filters of each block, with commas.")
    activation: Literal["relu", "noisy-relu", "tanh", "sigmoid"] = _option(
        "relu", "After each convolution; noisy-relu is of Gulcehre et al. 2016."
    )
    norm: Literal["batch", "layer", "none"] = _option("batch", "Normalisation in each block.")
    pool: Literal["max", "avg"] = _option("max", "Pooling at the end of each block.")
    flatten: bool = _option(False, "Flatten the last maps instead of averaging each of them.")
    dense: int = _option(128, "Units of the hidden dense layer; 0 for none.")
    dropout: float = _option(0.25, "Share of units dropped before the last layer.")
    epochs: int = _option(40, "Epochs at most.")
    patience: int = _option(8, "Epochs without a better validation log loss before stopping.")
    batch_size: int = _option(32, "Images a step.")
    learning_rate: float = _option(3e-4, "Of Adam.")
    class_weights: bool = _option(
        False, "Weigh the classes equally; probabilities then assume equal prevalence."
    )
    shift: float = _option(0.0, "Move each training image by up to this share of its side.")
    mirror: bool = _option(False, "Mirror half of the training images left to right.")

    def __post_init__(self) -> None:
        limits = {
            "size": self.size >= 2 ** len(self.blocks),
            "channels": self.channels in (1, 3),
            "blocks": bool(self.blocks) and min(self.blocks) > 0,
            "dense": self.dense >= 0,
            "dropout": 0 <= self.dropout < 1,
            "epochs": self.epochs > 0,
            "patience": self.patience > 0,
            "batch_size": self.batch_size > 0,
            "learning_rate": self.learning_rate > 0,
            "shift": 0 <= self.shift < 1,
        }
        refused = [f"{name}={getattr(self, name)}" for name, kept in limits.items() if not kept]
        if refused:
            raise ValueError(
                f"out of range: {', '.join(refused)}; every block halves the size, channels is "
                "1 or 3, dropout and shift are below 1, and the others are positive"
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
    tasks: ClassVar[frozenset[str]] = frozenset({"multiclass"})

    def __init__(self, params: CnnParams) -> None:
        self.params = params

    def fit(self, train: LabelledImages, validation: LabelledImages, run: RunContext) -> CnnModel:
        """Train on ``train`` until ``validation`` gets no better, or go on where a kill ended it.

        Raises
        ------
        TrainingError
            If the loss stops being a number.
        """
        from medkit_cnn.fitting import fit_network

        return fit_network(self.params, train, validation, run)

    def load(self, folder: Path) -> CnnModel:
        """Rebuild the network from its description, and read its weights and nothing else."""
        from medkit_cnn.model import load_model

        return load_model(folder)


@hookimpl
def medkit_trainer() -> type[CnnTrainer]:
    """Return the trainer of this plugin."""
    return CnnTrainer
