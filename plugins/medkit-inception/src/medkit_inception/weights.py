"""Whose weights the network has: ImageNet's, a file's, or random ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medkit.errors import TrainingError
from medkit.workspace import hash_file
from medkit_inception.backend import load_keras

# What keras.applications downloads for InceptionV3 without its top layer, and its MD5 there.
IMAGENET_FILE = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
_IMAGENET_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/" + IMAGENET_FILE
)
_IMAGENET_MD5 = "bcbd6486424b2319ff4ef7d526e38f63"

# Random weights are the same in every fold and run, because features are shared between folds.
RANDOM_SEED = 299


@dataclass(frozen=True)
class Weights:
    """Weights that were asked for.

    Attributes
    ----------
    name : str
        ``"imagenet"``, ``"none"``, or the name of a file.
    path : Path or None
        Where they lie; None for random ones.
    sha256 : str or None
        Of that file.
    """

    name: str
    path: Path | None = None
    sha256: str | None = None

    @property
    def identity(self) -> str:
        """What they are, for the key of the features."""
        return self.sha256 or f"none, seed {RANDOM_SEED}"

    def describe(self) -> dict[str, Any]:
        """Return what a report has to say of them."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "pretrained": self.path is not None,
        }


def find_weights(asked: str) -> Weights:
    """Return the weights that ``-p weights=`` asks for; ImageNet's are downloaded if need be.

    Raises
    ------
    TrainingError
        If there is no such file, or it cannot be downloaded.
    """
    if asked == "none":
        return Weights("none")
    path = _fetch_imagenet() if asked == "imagenet" else Path(asked).expanduser()
    if path.suffix != ".h5":
        raise TrainingError(f"weights={asked}: a weights file ends in .h5; {_ADVICE}")
    if not path.is_file():
        raise TrainingError(f"weights={asked}: there is no such file; {_ADVICE}")
    return Weights("imagenet" if asked == "imagenet" else path.name, path, hash_file(path))


def _fetch_imagenet() -> Path:
    keras = load_keras()
    try:
        return Path(
            keras.utils.get_file(
                IMAGENET_FILE, _IMAGENET_URL, cache_subdir="models", file_hash=_IMAGENET_MD5
            )
        )
    except Exception as error:  # Keras raises a bare Exception where there is no network
        raise TrainingError(
            f"ImageNet's weights are not in Keras's cache and cannot be downloaded ({error}); "
            f"{_ADVICE}"
        ) from error


_ADVICE = (
    f"give -p weights=PATH of a file such as {IMAGENET_FILE}, fetched on a machine with a "
    "network, or -p weights=none for a random network as a control"
)
