"""What a source would bring, before a byte of it is moved: the one thing that `fetching` takes.

A module of a protocol turns a `descriptor.Descriptor` into a `Plan` and moves nothing but
listings; `fetching.fetch` brings what the plan says, whatever the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from medkit.sources.descriptor import Descriptor, SourceFile


@dataclass(frozen=True, slots=True)
class Item:
    """One object to bring.

    Attributes
    ----------
    url : str
        Where it is: ``https://`` (``http://`` on this machine), ``file://``, or an address with a
        scheme that the plan has a carrier or a filler for.
    path : str
        Where it goes below ``raw/NAME/files``, parts joined by ``/``; checked by the gate as the
        name of a member of an archive is. Of an archive that is unpacked it is the archive's own
        path: what was in ``a/set.zip`` lies in ``a/set/``.
    size : int or None
        Bytes, where the source says so. Another size is refused.
    hashes : mapping of str to str
        What its bytes must hash to, by algorithm, as far as the source says: ``"sha256"``,
        ``"sha512"``, ``"sha1"``, ``"md5"``, ``"crc32c"``, ``"crc32"`` in hexadecimal, and
        ``"s3-etag"``, the ETag of an object in S3 that is not encrypted by a key of its owner
        (``"abc..."`` or ``"abc...-12"``; quotes are taken off). The strongest is compared, and
        recorded as its reference; without any, what the server's headers state is taken.
    unpack : bool
        Whether it is unpacked if it is an archive. The parts of a split archive,
        ``set.zip.001`` and so on, are joined.
    sums : str
        Of an archive: the name of a member that lists the MD5 of the others, as NBIA's
        ``md5hashes.csv`` does. All members are compared with it, and it is not kept.
    headers : mapping of str to str
        Sent with the request; nothing secret, that is what `Plan.credentials` is for.
    """

    url: str
    path: str
    size: int | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    unpack: bool = False
    sums: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delivery:
    """The bytes of an item, on their way.

    Attributes
    ----------
    chunks : iterator of bytes
        From ``offset`` on.
    offset : int
        0, or up to the one that was asked for, if the object is still the one of the part.
    size : int or None
        Of the whole object.
    validator : str
        Tells this state of the object from others: a strong ETag, or a time and size. A part of
        an object without one is not taken up again.
    hashes : mapping of str to str
        What the server states of the whole object, as in `Item`.
    ends : bool
        Whether a cut would be noticed: the size is known, or the protocol marks the end.
    coding : str
        What it is packed by on its way, against our wish: ``""``, ``"gzip"`` or ``"deflate"``.
    kind : str
        Its media type, if the server states one.
    """

    chunks: Iterator[bytes]
    offset: int = 0
    size: int | None = None
    validator: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)
    ends: bool = True
    coding: str = ""
    kind: str = ""


class Carrier(Protocol):
    """Opens an item of one scheme.

    Raises `errors.SourceError` where to try again would be in vain, and `Unsteady` or an OSError
    where it would not. It is called in several threads at once.
    """

    def __call__(
        self, item: Item, offset: int, validator: str, /
    ) -> AbstractContextManager[Delivery]:
        """Return its bytes from an offset on, if the object is still in the state of then."""


class Filler(Protocol):
    """Brings items that are several files each, such as a series of a PACS.

    It writes plain files into an empty folder, tells how many bytes it has written so far, and
    returns when all are there. Errors are as of a `Carrier`.
    """

    def __call__(self, item: Item, folder: Path, moved: Callable[[int], None], /) -> Sequence[str]:
        """Fill a folder; return a line for each file that the source lists and does not give."""


@dataclass(frozen=True)
class Preflight:
    """What is shown before anything is moved.

    Attributes
    ----------
    series, files, size : int or None
        Numbers of series and of files, and bytes; None where the source does not say.
    licences : mapping of str to int
        How many series (else files) come under which licence, where a selection has several.
    citations : tuple of str
        How to cite it, a DOI or a sentence each.
    lossy : float or None
        Share of the series (else files) whose pixels were compressed with loss.
    warnings : tuple of str
        What a user must know before saying yes. That a licence forbids commercial use is found
        in its words by itself (`warn_of_licences`).
    """

    series: int | None = None
    files: int | None = None
    size: int | None = None
    licences: Mapping[str, int] = field(default_factory=dict)
    citations: tuple[str, ...] = ()
    lossy: float | None = None
    warnings: tuple[str, ...] = ()


def _no_credentials(url: str) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Plan:
    """What is to be brought, from where, and under which manners.

    Attributes
    ----------
    source : Descriptor
        Name, title, version, licence and so on, as they go into ``provenance.json``.
    items : callable
        Returns the items, each time the same in the same order; a generator where listing them
        takes requests. Items with one path are an error.
    request : JSON value
        What makes it this request and no other: the protocol, a selection, a version. Two plans
        with equal requests are the same fetch, one of which may go on where the other was killed.
        Nothing secret.
    preflight : Preflight
        What is shown first.
    location : str or None
        A folder that is read in place; then there are no items.
    hosts : tuple of str or None
        The hosts that items and redirects may name besides those of ``asked``:
        ``"zenodo.org"``, ``"*.amazonaws.com"``. None lets all public hosts be named (a download
        whose address the user typed).
    asked : tuple of str
        Hosts that the user typed, as `addresses.place_of` writes an address's, with its port:
        they may be on a private network or this machine.
    plain : bool
        Whether ``http://`` may be used with a host of ``asked`` that is not this machine.
    credentials : callable
        Takes an address and returns the headers, such as Authorization, that its host is owed;
        asked again at each redirect, so that none goes to another host. What ``~/.netrc`` has is
        sent without it.
    refusals : mapping of int to str
        What to do about an HTTP status, with the exact address to open: ``{403: "accept the rules
        at https://..."}``.
    carriers : mapping of str to Carrier
        By scheme, for items that are neither HTTP nor files of this machine.
    fillers : mapping of str to Filler
        By scheme, for items that are several files each.
    """

    source: Descriptor
    items: Callable[[], Iterable[Item]]
    request: Any
    preflight: Preflight = Preflight()
    location: str | None = None
    hosts: tuple[str, ...] | None = ()
    asked: tuple[str, ...] = ()
    plain: bool = False
    credentials: Callable[[str], Mapping[str, str]] = _no_credentials
    refusals: Mapping[int, str] = field(default_factory=dict)
    carriers: Mapping[str, Carrier] = field(default_factory=dict)
    fillers: Mapping[str, Filler] = field(default_factory=dict)


def read_hashes(file: SourceFile) -> dict[str, str]:
    """Return the hashes that a descriptor states of a file, as an `Item` has them."""
    stated = {"sha256": file.sha256, "md5": file.md5}
    return {algorithm: value for algorithm, value in stated.items() if value}


class Unsteady(Exception):  # noqa: N818 - not yet an error
    """Something that may go better when it is tried again.

    Parameters
    ----------
    reason : str
        For a person; nothing secret.
    after : float or None
        Seconds that the server asks to wait.
    fresh : bool
        Whether it must begin at its start again.
    """

    def __init__(self, reason: str, after: float | None = None, *, fresh: bool = False) -> None:
        super().__init__(reason)
        self.after = after
        self.fresh = fresh
