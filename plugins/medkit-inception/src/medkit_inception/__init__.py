"""Transfer learning: features of a frozen InceptionV3, and a linear head that the host solves."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from medkit.errors import TrainingError
from medkit.hookspecs import hookimpl

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from medkit.images.reader import Images
    from medkit.training.contract import RunContext
    from medkit_inception.weights import Weights

# Part of the features' key: raise it when the same pixels would give other features.
_VERSION = 1


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class InceptionParams:
    """The options of the trainer.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    weights: str = _option(
        "imagenet",
        "imagenet (downloaded by Keras once), the path of a weights file (.h5, without the top "
        "layer), or none for random ones: a control, not transfer learning.",
    )
    layer: str = _option("mixed10", "Where the features are taken: mixed0 to mixed10, the last.")
    window: str = _option(
        "header",
        "Grey window: header, full, a preset or CENTRE/WIDTH; or three, such as lung,soft,bone.",
    )
    size: int = _option(299, "Rows and columns the network sees; at least 75.")
    batch_size: int = _option(32, "Images a step; memory grows with it.")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"mixed(\d|10)", self.layer):
            raise ValueError(f"layer={self.layer!r}: give one of mixed0 to mixed10")
        if self.window.count(",") not in (0, 2):
            raise ValueError(f"window={self.window!r}: give one window, or three for the channels")
        if self.size < 75:
            raise ValueError(f"size={self.size}: the network needs at least 75")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: give at least 1")


class InceptionTrainer:
    """Gives the averaged maps of one layer as features; nothing of the network is trained.

    Parameters
    ----------
    params : InceptionParams
        The network's weights, and what it sees.
    """

    Params: ClassVar[type] = InceptionParams
    tasks: ClassVar[frozenset[str]] = frozenset({"multiclass"})
    head: ClassVar[str] = "linear"

    def __init__(self, params: InceptionParams) -> None:
        self._params = params
        self._view = {
            "window": params.window,
            "channels": 3,
            "size": params.size,
            "scale": (-1.0, 1.0),
        }

    @property
    def weights_used(self) -> dict[str, Any]:
        """Whose weights these are: ``name``, ``sha256`` (None if random) and ``pretrained``."""
        return self._weights.describe()

    def feature_spec(self) -> dict[str, Any]:
        """Return what the features depend on besides the pixels.

        Raises
        ------
        TrainingError
            If the weights cannot be had.
        """
        return {
            "trainer": "inception",
            "version": _VERSION,
            "view": self._view,
            "layer": self._params.layer,
            "batch": self._params.batch_size,
            "weights": self._weights.identity,
        }

    def features(self, images: Images, run: RunContext) -> npt.NDArray[np.float32]:
        """Return the averaged maps of each image, shape (n, maps).

        Raises
        ------
        TrainingError
            If the weights cannot be had or are not of this network, or the user stops the run.
        """
        import numpy as np

        size = self._params.batch_size
        rows = np.empty((len(images), self._network.output_shape[-1]), np.float32)
        done = 0
        for batch in images.with_view(**self._view).batches(size):
            if run.stopping():
                raise TrainingError("stopped while features were computed; run again to go on")
            # Always the same shape, the last one filled up: a row must not depend on the others.
            filler = np.zeros((size - len(batch), *batch.shape[1:]), np.float32)
            found = self._network.predict_on_batch(np.concatenate([batch, filler]))
            rows[done : done + len(batch)] = found[: len(batch)]
            done += len(batch)
        return rows

    @cached_property
    def _weights(self) -> Weights:
        from medkit_inception.weights import find_weights

        return find_weights(self._params.weights)

    @cached_property
    def _network(self) -> Any:
        from medkit_inception.network import build_network

        return build_network(self._weights, self._params.layer, self._params.size)


@hookimpl
def medkit_trainer() -> type[InceptionTrainer]:
    """Return the trainer of this plugin."""
    return InceptionTrainer
