"""Images that are on this machine already: folders are read in place, archives unpacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from medkit.errors import SourceError
from medkit.sources.descriptor import Descriptor
from medkit.sources.plans import Delivery, Item, Plan, Preflight, read_hashes
from medkit.sources.verification import Sums

_CHUNK = 1 << 20


def plan(descriptor: Descriptor) -> Plan:
    """Plan a folder that is read in place, or archives of this machine that are unpacked."""
    if not descriptor.files:
        folder = str(locate_folder(descriptor))
        # Where a package is installed may change; which folder of it is meant does not.
        request: list[Any] = ["local", descriptor.package, descriptor.path]
        return Plan(descriptor, tuple, request, Preflight(size=descriptor.size_bytes), folder)
    items = tuple(
        Item(
            file.url,
            locate(file.url).name,
            file.size,
            read_hashes(file),
            file.unpack,
        )
        for file in descriptor.files
    )
    request = ["local", [[one.hashes or one.url, one.size] for one in items]]
    return Plan(descriptor, lambda: items, request, Preflight(size=descriptor.size_bytes))


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


def locate(url: str) -> Path:
    """Return the path of a ``file:`` address."""
    return Path(url2pathname(urlsplit(url).path))


def describe(item: Item, path: Path) -> dict[str, Any]:
    """Return what the record says of a file of this machine that is read where it lies.

    Raises
    ------
    SourceError
        If it is gone, or its sum is another than the one stated.
    """
    if not path.is_file():
        raise SourceError(f"{path} is not there any more")
    sums = Sums(item.hashes, item.size)
    with path.open("rb") as handle:
        while part := handle.read(_CHUNK):
            sums.update(part)
    if fault := sums.find_fault():
        raise SourceError(f"{path} is not what was meant: {fault}")
    return {
        "path": item.path,
        "size": path.stat().st_size,
        "sha256": sums.sha256,
        "url": item.url,
        "reference": sums.reference,
    }


@contextmanager
def carry(item: Item, offset: int, validator: str) -> Iterator[Delivery]:
    """Yield the bytes of a file of this machine: the `plans.Carrier` of ``file:``."""
    path = locate(item.url)
    try:
        state = path.stat()
        handle = path.open("rb", buffering=0)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    found = f"{state.st_mtime_ns}-{state.st_size}"
    start = offset if found == validator else 0
    with handle:
        handle.seek(start)
        yield Delivery(iter(lambda: handle.read(_CHUNK), b""), start, state.st_size, found)


def _locate_package(package: str, distribution: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(
            f"the package {package!r} is not installed; install it: pip install {distribution}"
        )
    return Path(spec.submodule_search_locations[0])
