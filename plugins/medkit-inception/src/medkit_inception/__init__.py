"""Transfer learning: features of a frozen InceptionV3 for the host's head, or fine-tuning."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from medkit.errors import TrainingError
from medkit.hookspecs import hookimpl
from medkit.images.windows import split_windows
from medkit.training.params import option

if TYPE_CHECKING:
    from pathlib import Path

    import keras
    import numpy as np
    import numpy.typing as npt

    from medkit.images.reader import Images
    from medkit.training.contract import LabelledImages, RunContext
    from medkit_inception.tuning import InceptionModel
    from medkit_inception.weights import Weights

# Part of the features' key: raise it when the same pixels would give other features.
_EXTRACTOR = "inceptionv3/1"
_WEIGHTS = re.compile(r"imagenet|none|.+\.h5|[0-9a-fA-F]{8,64}")
# Options that a frozen network has no use for.
_TUNING = (
    *("head_epochs", "epochs", "patience", "head_learning_rate", "learning_rate", "dropout"),
    *("class_weights", "shift", "rotate", "zoom", "intensity", "mirror"),
)


def _check_weights(text: str) -> None:
    if not _WEIGHTS.fullmatch(text):
        raise ValueError(
            "give imagenet, none, the path of a file that ends in .h5, or 8 digits or more of a "
            "hash that 'medkit weights list' shows"
        )


def _check_window(text: str) -> None:
    if len(split_windows(text)) > 1:
        raise ValueError("give one window; three become channels by -p windows=ONE,TWO,THREE")


def _check_windows(texts: tuple[str, ...] | None) -> None:
    for text in texts or ():
        split_windows(text)


@dataclass(frozen=True)
class InceptionParams:
    """The options of the trainer.

    Raises
    ------
    ValueError
        If two options do not go together.
    """

    weights: str = option(
        "imagenet",
        "imagenet (from 'medkit weights', or downloaded by Keras once), the path of a weights file "
        "(.h5, without the top layer), the hash of one that 'medkit weights list' shows, or none "
        "for random ones: a control, not transfer learning.",
        check=_check_weights,
    )
    layer: Literal[
        "mixed0",
        "mixed1",
        "mixed2",
        "mixed3",
        "mixed4",
        "mixed5",
        "mixed6",
        "mixed7",
        "mixed8",
        "mixed9",
        "mixed10",
    ] = option(
        "mixed10",
        "Where the features are taken; mixed10 is the last. Of images unlike photographs, middle "
        "layers such as mixed7 often carry more than the top.",
    )
    window: str = option(
        "header",
        "Grey window for all three channels: header, full, a preset (lung, soft, bone, brain) or "
        "CENTRE/WIDTH.",
        check=_check_window,
    )
    windows: tuple[str, str, str] | None = option(
        None, "Three windows instead, one a channel, such as lung,soft,bone.", check=_check_windows
    )
    size: int = option(299, "Rows and columns the network sees.", least=75)
    batch_size: int = option(32, "Images a step; memory grows with it.", least=1)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto",
        "Of what the network computes with. auto: float32 for frozen features, which are then the "
        "same on every device; for fine-tuning what the GPU is fastest with.",
    )
    finetune: int = option(
        0,
        "0: nothing is trained but a linear head. N: a head first, then with it the top N mixed "
        "blocks, counted down from layer.",
        least=0,
        most=11,
    )
    head_epochs: int = option(10, "finetune: epochs of the head alone, at most.", least=1)
    epochs: int = option(20, "finetune: epochs with the blocks, at most.", least=1)
    patience: int = option(
        5, "finetune: epochs without a better validation log loss before stopping.", least=1
    )
    head_learning_rate: float = option(1e-3, "finetune: of Adam, of the head alone.", above=0)
    learning_rate: float = option(
        1e-4, "finetune: of Adam with the blocks, at the start; falls to 0 by a cosine.", above=0
    )
    dropout: float = option(
        0.2, "finetune: share of features dropped before the head.", least=0, below=1
    )
    class_weights: bool = option(
        False,
        "finetune: weigh the classes equally, or the images with and without each of several "
        "labels; probabilities then assume equal prevalence.",
    )
    shift: float = option(
        0.05, "finetune: move training images by up to this share of a side.", least=0, below=1
    )
    rotate: float = option(10.0, "finetune: turn them by up to so many degrees.", least=0, most=180)
    zoom: float = option(
        0.1, "finetune: stretch or shrink them by up to this share.", least=0, below=1
    )
    intensity: float = option(
        0.1, "finetune: vary contrast and brightness by up to this share.", least=0, below=1
    )
    mirror: bool = option(
        False,
        "finetune: mirror half of them left to right; not where a side means something, as of "
        "heart and liver.",
    )

    def __post_init__(self) -> None:
        if self.windows and self.window != "header":
            raise ValueError(
                f"windows={','.join(self.windows)}: give it without -p window={self.window}; "
                "window is one for all channels, windows are one for each"
            )
        blocks = int(self.layer.removeprefix("mixed")) + 1
        if self.finetune > blocks:
            raise ValueError(
                f"finetune={self.finetune}: give {blocks} or less; up to layer={self.layer} there "
                f"are {blocks} mixed blocks"
            )
        for one in fields(self):
            given = getattr(self, one.name)
            if not self.finetune and one.name in _TUNING and given != one.default:
                raise ValueError(
                    f"{one.name}={given}: give it together with -p finetune=BLOCKS; nothing of a "
                    "frozen network is trained"
                )

    @property
    def view(self) -> dict[str, Any]:
        """How the network sees the images; the scale is a constant, never an image's own."""
        return {
            "window": ",".join(self.windows or (self.window,)),
            "channels": 3,
            "size": self.size,
            "scale": (-1.0, 1.0),
        }


class InceptionTrainer:
    """Gives the averaged maps of one layer as features, or fine-tunes the blocks below it.

    Parameters
    ----------
    params : InceptionParams
        The network's weights, what it sees, and how much of it is trained.
    """

    Params: ClassVar[type] = InceptionParams
    tasks: ClassVar[frozenset[str]] = frozenset({"multiclass", "multilabel"})

    def __init__(self, params: InceptionParams) -> None:
        self.params = params

    @property
    def head(self) -> str:
        """``"linear"`` where the network is frozen: the host solves it."""
        return "" if self.params.finetune else "linear"

    @property
    def weights_used(self) -> dict[str, Any]:
        """Whose weights these are: ``name``, ``sha256`` (None if random) and ``pretrained``."""
        return self._weights.describe()

    def feature_spec(self) -> dict[str, Any] | None:
        """Return what the features depend on besides the pixels; None for fine-tuning.

        Raises
        ------
        TrainingError
            If the weights cannot be had.
        """
        if self.params.finetune:
            return None
        return {
            "extractor": _EXTRACTOR,
            "view": self.params.view,
            "layer": self.params.layer,
            "batch": self.params.batch_size,
            "precision": self._precision,
            "weights": self._weights.identity,
        }

    def features(self, images: Images, run: RunContext) -> npt.NDArray[np.float32]:
        """Return the averaged maps of each image, shape (n, maps).

        Raises
        ------
        TrainingError
            If the weights cannot be had or are not of this network, or the user stops the run.
        """
        from medkit.networks.prediction import apply_network

        if run.stopping():
            raise TrainingError("stopped while features were computed; run again to go on")
        seen = images.with_view(**self.params.view)
        return apply_network(self.feature_network(), seen, self.params.batch_size)

    def feature_network(self) -> keras.Model:
        """Return the network from pixels of the view to features (n, maps)."""
        return self._network

    def fit(
        self, train: LabelledImages, validation: LabelledImages, run: RunContext
    ) -> InceptionModel:
        """Train a head, then the top blocks with it, or go on where a kill ended it.

        Raises
        ------
        TrainingError
            If the weights cannot be had, the loss stops being a number, or the user stops the run.
        """
        from medkit_inception.tuning import fit_model

        return fit_model(self.params, self._weights, train, validation, run)

    def load(self, folder: Path) -> InceptionModel:
        """Rebuild the network from its description, and read its weights and nothing else."""
        from medkit_inception.tuning import load_model

        return load_model(folder)

    @property
    def _precision(self) -> str:
        return "float32" if self.params.precision == "auto" else self.params.precision

    @cached_property
    def _weights(self) -> Weights:
        from medkit_inception.weights import find_weights

        return find_weights(self.params.weights)

    @cached_property
    def _network(self) -> keras.Model:
        from medkit_inception.network import build_extractor

        return build_extractor(self._weights, self.params.layer, self.params.size, self._precision)


@hookimpl
def medkit_trainer() -> type[InceptionTrainer]:
    """Return the trainer of this plugin."""
    return InceptionTrainer
