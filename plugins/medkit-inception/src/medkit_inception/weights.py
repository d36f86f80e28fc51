"""Whose weights the network has: ImageNet's, a file's, or random ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medkit.errors import TrainingError, UsageError
from medkit.networks.hardware import load_keras
from medkit.training.weights import (
    DIGITS,
    INCEPTION_IMAGENET,
    Stored,
    find_published,
    find_stored,
)
from medkit.workspace import hash_file

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

    Parameters
    ----------
    asked : str
        ``"none"``, ``"imagenet"``, the path of a file, or the first digits of the hash of one in
        the store of `medkit.training.weights`.

    Raises
    ------
    TrainingError
        If there is no such file, it has changed in the store, or it cannot be downloaded.
    """
    if asked == "none":
        return Weights("none")
    if asked == "imagenet":
        stored = find_published(INCEPTION_IMAGENET)
        return _take(stored) if stored else _read("imagenet", _download_imagenet())
    path = Path(asked).expanduser()
    if path.suffix == ".h5" or not DIGITS.fullmatch(asked):
        return _read(path.name, path)
    try:
        return _take(find_stored(asked))
    except UsageError as error:
        raise TrainingError(f"weights={asked}: {error}") from error


def _read(name: str, path: Path) -> Weights:
    if not path.is_file():
        raise TrainingError(f"weights={path}: there is no such file; {_ADVICE}")
    return Weights(name, path, hash_file(path))


def _take(stored: Stored) -> Weights:
    if not stored.is_sound():
        raise TrainingError(
            f"{stored.path} is missing or not what was added as {stored.name!r}; bring it back by "
            "'medkit weights add PATH'"
        )
    return Weights(stored.name, stored.path, stored.sha256)


def _download_imagenet() -> Path:
    keras = load_keras()
    file, url, md5 = INCEPTION_IMAGENET.file, INCEPTION_IMAGENET.url, INCEPTION_IMAGENET.md5
    try:
        return Path(keras.utils.get_file(file, url, cache_subdir="models", file_hash=md5))
    except Exception as error:  # Keras raises a bare Exception where there is no network
        raise TrainingError(
            "ImageNet's weights are neither in the store of 'medkit weights' nor in Keras's cache, "
            f"and cannot be downloaded ({error}); {_ADVICE}"
        ) from error


_ADVICE = (
    f"on a machine with a network, fetch {INCEPTION_IMAGENET.file} from the weights that Keras "
    f"publishes ({INCEPTION_IMAGENET.url}), bring it here and give 'medkit weights add PATH'; or "
    "use -p weights=none for a random network as a control"
)
