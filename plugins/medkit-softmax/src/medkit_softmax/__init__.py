"""Multinomial logistic regression on the pixels, solved to its optimum by the host."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from medkit.hookspecs import hookimpl

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from medkit.images.reader import Images
    from medkit.training.contract import RunContext

# Part of the features' key: raise it when the same pixels would give other features.
_VERSION = 1
_BATCH = 256


@dataclass(frozen=True)
class SoftmaxParams:
    """The options of the trainer.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    size: int = field(default=32, metadata={"help": "Rows and columns the images are reduced to."})
    window: str = field(
        default="header",
        metadata={"help": "Grey window: header, full, a preset (lung, soft ...) or CENTRE/WIDTH."},
    )
    channels: int = field(default=1, metadata={"help": "1 for grey, 3 for colour."})

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size}: give at least 1")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: give 1 or 3")


class SoftmaxTrainer:
    """Gives the pixels as features; the host solves the head and keeps it.

    Parameters
    ----------
    params : SoftmaxParams
        What to see of the images.
    """

    Params: ClassVar[type] = SoftmaxParams
    tasks: ClassVar[frozenset[str]] = frozenset({"multiclass"})
    head: ClassVar[str] = "linear"

    def __init__(self, params: SoftmaxParams) -> None:
        self._view = {
            "window": params.window,
            "channels": params.channels,
            "size": params.size,
            "scale": (0.0, 1.0),
        }

    def feature_spec(self) -> dict[str, Any]:
        """Return what the features depend on besides the pixels."""
        return {"trainer": "softmax", "version": _VERSION, "view": self._view}

    def features(self, images: Images, run: RunContext) -> npt.NDArray[np.float32]:
        """Return the pixels of each image as a row, shape (n, size * size * channels)."""
        import numpy as np

        seen = images.with_view(**self._view)
        rows = np.empty((len(seen), math.prod(seen.shape[1:])), np.float32)
        done = 0
        for batch in seen.batches(_BATCH):
            rows[done : done + len(batch)] = batch.reshape(len(batch), -1)
            done += len(batch)
        return rows


@hookimpl
def medkit_trainer() -> type[SoftmaxTrainer]:
    """Return the trainer of this plugin."""
    return SoftmaxTrainer
