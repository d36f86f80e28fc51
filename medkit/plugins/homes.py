"""Environments of isolated plugins: where they are, and what their metadata say.

The folder is what the environment variable ``MEDKIT_PLUGINS`` names, or ``plugins`` among the
user's data of medkit. In it each isolated distribution has a virtual environment, with a file
``medkit-plugin.json`` that is written last: an environment without it was never finished, and is
as good as none.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

FOLDER = "MEDKIT_PLUGINS"
MARKER = "medkit-plugin.json"


@dataclass(frozen=True)
class Home:
    """An isolated environment.

    Attributes
    ----------
    folder : str
        Of the virtual environment.
    distribution : str
        That it was made for.
    requirement : str
        As it was asked for, for upgrades.
    editable : bool
        Whether its code is read from where it is written.
    light : bool
        Whether the libraries of the host's environment lie beneath its own.
    medkit : str
        The version of medkit that is in it.
    paths : tuple of str
        Where its distributions are, as on its ``sys.path``.
    created : str
        When, in UTC.
    """

    folder: str
    distribution: str
    requirement: str
    editable: bool
    light: bool
    medkit: str
    paths: tuple[str, ...]
    created: str

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(find_python(Path(self.folder)))

    def version(self, name: str) -> str:
        """Return the version of a distribution in it, or ``"not installed"``."""
        found = self.find(name)
        return "not installed" if found is None else found.version

    def find(self, name: str) -> metadata.Distribution | None:
        """Return a distribution of it; what is installed above hides what lies beneath."""
        return next(iter(metadata.distributions(name=name, path=list(self.paths))), None)

    def has(self, module: str) -> bool:
        """Tell whether a package of that name can be imported there."""
        return any((Path(path) / module).is_dir() for path in self.paths)


def find_python(folder: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def root_folder() -> Path:
    """Return the folder that holds isolated environments; it need not exist."""
    if named := os.environ.get(FOLDER):
        return Path(named).absolute()
    import platformdirs

    return platformdirs.user_data_path("medkit", appauthor=False) / "plugins"


def list_homes() -> list[Home]:
    """Return the finished environments, by distribution; of one that was made anew the newest.

    An isolated environment itself has none: what runs in it finds its own plugins.
    """
    if (Path(sys.prefix) / MARKER).exists():
        return []
    newest: dict[str, Home] = {}
    for home in sorted(_read_all(root_folder()), key=lambda home: home.created):
        newest[canonical(home.distribution)] = home
    return [newest[name] for name in sorted(newest)]


def list_remains() -> list[Path]:
    """Return the folders of environments that were never finished, or have been made anew."""
    kept = {home.folder for home in list_homes()}
    root = root_folder()
    folders = [one for one in root.iterdir() if one.is_dir()] if root.is_dir() else []
    return [folder for folder in folders if str(folder) not in kept]


def describe_home(home: Home) -> dict[str, Any]:
    """Return what its marker says, without where it lies."""
    return {name: value for name, value in asdict(home).items() if name != "folder"}


def canonical(name: str) -> str:
    """Return a distribution's name as PEP 503 compares it."""
    import re

    return re.sub(r"[-_.]+", "-", name).lower()


def _read_all(root: Path) -> Sequence[Home]:
    return [home for marker in root.glob(f"*/{MARKER}") if (home := _read(marker)) is not None]


def _read(marker: Path) -> Home | None:
    try:
        said = json.loads(marker.read_bytes())
        return Home(str(marker.parent), **{**said, "paths": tuple(said["paths"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None  # of another version, or damaged: as one that was never finished
