"""Pretrained weights on this machine: a store outside any workspace, addressed by content.

    weights/HASH.h5, HASH.weights.h5   a file, under its SHA-256; the ending tells Keras its layout
    weights/HASH.json                  what is known of it; without it the file is not there

The folder is what the environment variable ``MEDKIT_WEIGHTS`` names, or ``weights`` among the
user's application data. Where there is no network, a file is brought on a disk and added once.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from medkit.errors import TrainingError, UsageError, WorkspaceError
from medkit.networks.weightfile import look_into
from medkit.workspace import (
    Workspace,
    hash_file,
    hash_json,
    move_into_place,
    read_json,
    write_json,
)

FOLDER = "MEDKIT_WEIGHTS"
DIGITS = re.compile(r"[0-9a-fA-F]{8,64}")


@dataclass(frozen=True)
class Published:
    """A file of weights that somebody publishes.

    Attributes
    ----------
    name, file, url : str
        What it is called here and there, and where it is.
    md5 : str
        By which it is known there.
    """

    name: str
    file: str
    url: str
    md5: str


# What keras.applications downloads for InceptionV3 without its top layer, and its MD5 there.
INCEPTION_IMAGENET = Published(
    name="imagenet",
    file="inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    url="https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/"
    "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    md5="bcbd6486424b2319ff4ef7d526e38f63",
)
_PUBLISHED = {INCEPTION_IMAGENET.md5: INCEPTION_IMAGENET}
_RESERVED = ("imagenet", "none")
# By a hash of the sorted shapes of all arrays, which no layout and no renaming changes.
_NETWORKS = {"16534e5a9f53746b": "InceptionV3 without its top layer"}


@dataclass(frozen=True)
class Stored:
    """A file of the store.

    Attributes
    ----------
    sha256 : str
        Of the content when it was added.
    name : str
        Given when it was added; ``"imagenet"`` only if it is the file that is published.
    size : int
        Bytes.
    network : str or None
        Whose weights they are, where the shapes of the arrays tell.
    legacy : bool
        True for the layout by topology, which Keras reads from ``.h5``; False for
        ``.weights.h5``.
    """

    sha256: str
    name: str
    size: int
    network: str | None
    legacy: bool

    @property
    def path(self) -> Path:
        """Where the file is."""
        return store_folder() / (self.sha256 + (".h5" if self.legacy else ".weights.h5"))

    def is_sound(self) -> bool:
        """Read the file and tell whether it is what was added."""
        return self.path.is_file() and hash_file(self.path) == self.sha256


def store_folder() -> Path:
    """Return the folder of the store, which may not exist yet."""
    if named := os.environ.get(FOLDER):
        return Path(named).expanduser()
    import platformdirs

    return platformdirs.user_data_path("medkit", appauthor=False) / "weights"


def list_weights() -> list[Stored]:
    """Return what is in the store, by name.

    Raises
    ------
    WorkspaceError
        If a description is damaged.
    """
    found = [_read(path) for path in store_folder().glob("*.json")]
    return sorted(found, key=lambda one: (one.name, one.sha256))


def find_stored(digits: str) -> Stored:
    """Return the file whose SHA-256 begins with these digits, 8 or more.

    Raises
    ------
    UsageError
        If there is none, or more than one.
    """
    if not DIGITS.fullmatch(digits):
        raise UsageError(f"{digits!r} is no hash: give 8 to 64 hexadecimal digits of one")
    every = list_weights()
    found = [one for one in every if one.sha256.startswith(digits.lower())]
    if len(found) == 1:
        return found[0]
    what = "more than one file of weights has" if found else "no weights have"
    known = ", ".join(f"{one.sha256} ({one.name})" for one in found or every)
    raise UsageError(
        f"{what} a hash that begins with {digits} in {store_folder()}; "
        f"there {'are ' + known if known else 'is nothing yet: medkit weights add PATH'}"
    )


def find_published(published: Published) -> Stored | None:
    """Return a published file if it is in the store."""
    return next((one for one in list_weights() if one.name == published.name), None)


def add_weights(path: Path, name: str | None = None) -> Stored:
    """Copy a file of weights into the store.

    A file that is there already is written again, which repairs it, and has the new name.

    Parameters
    ----------
    path : Path
        HDF5, as Keras writes weights: ``.weights.h5`` or the older ``.h5``.
    name : str, optional
        What it is called in lists and reports; by default as the file. A published file, known by
        its MD5, has the name that it is known by.

    Raises
    ------
    UsageError
        If there is no such file, or the name is kept for a published one.
    TrainingError
        If it holds no weights, or more than weights.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    folder = store_folder()
    with Workspace(folder).lock():
        beside = folder / ".adding.h5"  # one at a time: what a kill left is written over
        try:
            # It is the copy that is looked at: the original may change meanwhile.
            shutil.copyfile(path, beside)
            stored = _describe(beside, name or path.name)
            move_into_place(beside, stored.path)
        finally:
            beside.unlink(missing_ok=True)
        facts = asdict(stored)
        write_json(folder / f"{facts.pop('sha256')}.json", facts)
    return stored


def _describe(path: Path, name: str) -> Stored:
    try:
        legacy, shapes = look_into(path)
    except ImportError as error:
        raise TrainingError(
            f"weights cannot be looked at: {error}; install a trainer with Keras, such as "
            "medkit-inception[tensorflow]"
        ) from error
    known = _PUBLISHED.get(_hash_md5(path))
    if name in _RESERVED and not known:
        raise UsageError(f"{name!r} is kept for what is published so; give another name by --name")
    return Stored(
        sha256=hash_file(path),
        name=known.name if known else name,
        size=path.stat().st_size,
        network=_NETWORKS.get(hash_json(sorted(shapes))),
        legacy=legacy,
    )


def _hash_md5(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _read(path: Path) -> Stored:
    try:
        return Stored(sha256=path.stem, **read_json(path))
    except TypeError as error:
        raise WorkspaceError(f"{path} is damaged: {error}; add the file again") from None
