"""Addresses of files: which may be fetched, and how one is shown and named."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from medkit.errors import UsageError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PORTS = {"https": 443, "http": 80}


def check_url(url: str, *, plain: bool = False) -> str:
    """Return an address that may be fetched: https, or plain http on this machine itself.

    Parameters
    ----------
    url : str
        The address, as a user typed it.
    plain : bool
        Whether http will do anywhere.

    Raises
    ------
    UsageError
        If it is anything else, or holds a password.
    """
    if not is_safe(url, loopback=True, plain=plain):
        raise UsageError(f"{hide_query(url)!r} cannot be fetched; give an https:// address")
    if _split(url).username is not None:
        raise UsageError(
            "an address with a password in it is not taken; keep the password in ~/.netrc"
        )
    return url


def is_safe(url: str, *, loopback: bool = False, plain: bool = False) -> bool:
    """Tell whether an address is https, or, where that is allowed, http.

    Parameters
    ----------
    url : str
        The address.
    loopback : bool
        Whether http on this machine will do.
    plain : bool
        Whether http anywhere will do.
    """
    parts = _split(url)
    host = parts.hostname or ""
    allowed = plain or (loopback and is_loopback(host))
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and allowed))


def is_loopback(host: str) -> bool:
    """Tell whether a host is called as this machine itself is."""
    return host in _LOOPBACK


def place_of(url: str) -> str:
    """Return host and port of an address, such as ``example.org:443``; nothing if it has none."""
    parts = _split(url)
    try:
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:  # of a port that is no number
        return ""
    return f"{parts.hostname}:{port}" if parts.hostname else ""


def hide_query(url: str) -> str:
    """Return an address without the parts that can hold a secret: user, query, fragment."""
    parts = _split(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def follow(url: str, location: str) -> str:
    """Return where a redirect leads; nothing where it is no address."""
    try:
        return urljoin(url, location)
    except ValueError:
        return ""


def name_of_url(url: str) -> str:
    """Return the last part of an address's path as the safe name of a file."""
    last = PurePosixPath(_split(url).path).name
    return re.sub(r"[^A-Za-z0-9._-]", "_", last).strip("._-") or "download"


def stem_of(name: str) -> str:
    """Return a file's name without the suffixes of an archive."""
    return re.sub(r"(\.tar\.gz|\.tgz|\.tar|\.zip)$", "", name, flags=re.IGNORECASE) or name


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # such as half a bracket in the host
        return SplitResult("", "", "", "", "")
