"""Images that are on this machine already: folders are read in place, archives unpacked."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from medkit.engine import Progress
from medkit.errors import SourceError
from medkit.sources.descriptor import Descriptor, SourceFile
from medkit.workspace import hash_file


def locate_folder(descriptor: Descriptor) -> Path:
    """Return the folder that a local source describes; nothing is imported to find it.

    Raises
    ------
    SourceError
        If the package is not installed, or there is no such folder.
    """
    folder = Path(descriptor.path)
    if descriptor.package:
        folder = _locate_package(descriptor.package, descriptor.distribution) / folder
    if not folder.is_dir():
        raise SourceError(
            f"{descriptor.name}: there is no folder {folder}; is its disk or share mounted?"
        )
    return folder.resolve()


def take_archive(file: SourceFile, folder: Path, progress: Progress) -> Path:
    """Return the path of an archive on this machine; its SHA-256 is compared where one is given.

    Raises
    ------
    SourceError
        If it is gone, or hashes to something else.
    """
    path = Path(url2pathname(urlsplit(file.url).path))
    if not path.is_file():
        raise SourceError(f"{path} is not there any more")
    if file.sha256 and (found := hash_file(path)) != file.sha256:
        raise SourceError(f"{path} has the SHA-256 {found}, not {file.sha256}")
    return path


def _locate_package(package: str, distribution: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(
            f"the package {package!r} is not installed; install it: pip install {distribution}"
        )
    return Path(spec.submodule_search_locations[0])
