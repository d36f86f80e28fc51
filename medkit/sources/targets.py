"""What a user names, a source, a folder, an archive or an address, as a descriptor."""

from __future__ import annotations

import re
from pathlib import Path

from medkit.errors import UsageError
from medkit.sources.addresses import check_url, hide_query, name_of_url, stem_of
from medkit.sources.descriptor import (
    Descriptor,
    SourceFile,
    find_descriptor,
    list_descriptors,
)
from medkit.sources.unpacking import detect_format
from medkit.workspace import check_name

_UNSTATED = "not stated"


def describe_target(
    target: str,
    *,
    name: str = "",
    sha256: str = "",
    licence: str = "",
    unchecked: bool = False,
) -> Descriptor:
    """Return what is to be fetched, before a byte of it is moved.

    Parameters
    ----------
    target : str
        An https address; else the name of a descriptor; else the path of a folder or an archive.
    name : str
        What it is called in the workspace; by default what the target is called.
    sha256 : str
        What a download or an archive must hash to.
    licence : str
        Of images that no descriptor describes.
    unchecked : bool
        Take a download of which no SHA-256 is known.

    Raises
    ------
    UsageError
        If there is no such thing, or something is asked that does not fit it.
    """
    if sha256 and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"{sha256!r} is no SHA-256; it has 64 hexadecimal digits")
    sha256 = sha256.lower()
    if "://" in target:
        return _describe_url(target, name, sha256, licence or _UNSTATED, unchecked)
    if unchecked:
        raise UsageError("--no-hash is for https addresses; others need no hash")
    if descriptor := find_descriptor(target):
        if sha256 or licence or name:
            raise UsageError(f"{target} states its own name, licence and hashes; leave yours out")
        return descriptor
    path = Path(target)
    if path.is_dir():
        if sha256:
            raise UsageError(f"{target} is a folder; --sha256 is for archives and addresses")
        return _describe_folder(path.resolve(), name, licence or _UNSTATED)
    if path.is_file() and detect_format(path):
        return _describe_archive(path.resolve(), name, sha256, licence or _UNSTATED)
    known = ", ".join(source.name for source in list_descriptors().descriptors)
    raise UsageError(
        f"{target!r} is no known source, folder, archive (zip, tar, tar.gz) or https address; "
        f"known sources: {known}"
    )


def _describe_url(url: str, name: str, sha256: str, licence: str, unchecked: bool) -> Descriptor:
    check_url(url)
    if bool(sha256) == unchecked:
        raise UsageError(
            "a download needs the SHA-256 that its publisher states (--sha256), or --no-hash "
            "to take it unchecked: one of the two"
        )
    from medkit.sources import https  # requests is slow to import

    size = https.ask_size(url)
    return Descriptor(
        name=_choose_name(name, stem_of(name_of_url(url))),
        title=hide_query(url),
        version=_UNSTATED,
        licence=licence,
        protocol="https",
        size_bytes=size,
        files=(SourceFile(url, sha256, size),),
    )


def _describe_folder(path: Path, name: str, licence: str) -> Descriptor:
    return Descriptor(
        name=_choose_name(name, path.name),
        title=f"the folder {path}",
        version=_UNSTATED,
        licence=licence,
        protocol="local",
        path=str(path),
    )


def _describe_archive(path: Path, name: str, sha256: str, licence: str) -> Descriptor:
    size = path.stat().st_size
    return Descriptor(
        name=_choose_name(name, stem_of(path.name)),
        title=f"the archive {path}",
        version=_UNSTATED,
        licence=licence,
        protocol="local",
        size_bytes=size,
        files=(SourceFile(path.as_uri(), sha256, size),),
    )


def _choose_name(asked: str, found: str) -> str:
    try:
        return check_name(asked or found)
    except UsageError as error:
        raise UsageError(f"{error}; choose one with --name") from None
