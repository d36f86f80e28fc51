"""Trees of files far away (``s3://``, ``gs://``, ``sftp://`` and what else fsspec reaches), copied.

They are listed and read by `trees`; ``medkit catalog`` can read them where they lie, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from medkit.errors import SourceError
from medkit.sources import trees
from medkit.sources.descriptor import Descriptor
from medkit.sources.plans import Delivery, Item, Plan, Preflight

_CHUNK = 1 << 20


def describe(address: str, where: str = "") -> Descriptor:
    """Return what is known of a place that a user named.

    Raises
    ------
    UsageError
        If it names no place, or has credentials in it.
    """
    root = trees.normalise_root(address)
    return Descriptor(
        name=PurePosixPath(root.partition("://")[2]).name,
        title=f"the files at {root}",
        version="not stated",
        licence="not stated",
        protocol="remote",
        selection=root,
        where=where,
    )


def plan(descriptor: Descriptor) -> Plan:
    """Plan the files of a place; it is listed, once, so that their size is known.

    ``where`` is a pattern such as ``*.dcm``, of paths below the place; ``*`` takes ``/`` too.

    Raises
    ------
    UsageError
        If the driver of its scheme is not installed.
    SourceError
        If it cannot be listed, or has nothing that fits.
    """
    root = trees.normalise_root(descriptor.selection)
    try:
        listed = sorted(_list(root, descriptor.where))
    except OSError as error:
        raise SourceError(f"{root} cannot be listed: {error.strerror or error}") from None
    if not listed:
        pattern = f" that fits {descriptor.where!r}" if descriptor.where else ""
        raise SourceError(f"{root} has no file{pattern}")
    scheme = root.partition("://")[0]
    states = {path: (size, time) for path, size, time in listed}
    summed = hashlib.sha256(repr(listed).encode()).hexdigest()

    @contextmanager
    def carry(item: Item, offset: int, validator: str) -> Iterator[Delivery]:
        path = item.url.removeprefix(f"{root}/") if item.url != root else ""
        size, time, hashes = trees.describe_file(root, path)
        state = f"{size}-{time}"
        if (size, time) != states[path]:
            raise SourceError(f"{item.url} was changed since it was listed; run it again")
        start = offset if validator == state else 0
        with trees.open_file(root, path, size) as stream:
            stream.seek(start)
            chunks = iter(lambda: stream.read(_CHUNK), b"")
            yield Delivery(chunks, start, size, state, hashes)

    return Plan(
        source=replace(descriptor, file_count=len(listed)),
        items=lambda: [_make_item(root, path, size) for path, size, _ in listed],
        request=["remote", root, descriptor.where, summed],
        preflight=Preflight(files=len(listed), size=sum(size for _, size, _ in listed)),
        carriers={scheme: carry},
    )


def _make_item(root: str, path: str, size: int) -> Item:
    if not path:  # the place is a file, such as an archive
        return Item(root, PurePosixPath(root).name, size, unpack=True)
    return Item(f"{root}/{path}", path, size)


def _list(root: str, pattern: str) -> Iterator[tuple[str, int, int]]:
    """Yield path, size and time of each file; no path where the place is a file itself."""
    if not trees.is_folder(root):
        yield "", *trees.stat_file(root, "")
        return
    for path, size, time in trees.list_remote(root):
        if fnmatchcase(path, pattern or "*"):
            if size < 0:
                raise SourceError(f"{root}/{path} is no plain file, or a folder that is closed")
            yield path, size, time
