"""Whether bytes are those that were meant: the references there are, and the strongest of them.

A reference comes from the source (a descriptor, a manifest, a listing) or from what the server
states in its headers. The strongest one is compared and recorded; ``none`` is recorded where
there is none.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from queue import Queue
from typing import Protocol

_MIB = 1 << 20
_WAITING = 32  # parts of an object that may be moved before they are hashed
# By strength. What stands for a hash in each is hexadecimal, but for the ETag of S3.
STRENGTH = ("sha512", "sha256", "sha1", "md5", "s3-etag", "crc32c", "crc32")
# What S3 clients make the parts of a multipart upload of, in MiB: the AWS tools begin at 8 or 16,
# rclone and s5cmd at 5 and 50, the console at 16; sizes double where there are many parts.
_PARTS = (
    *(5, 6, 7, 8, 10, 15, 16, 20, 25, 30, 32, 50),
    *(60, 64, 100, 128, 200, 250, 256, 500, 512, 1024),
)
_MULTIPART = re.compile(r"([0-9a-f]{32})-([0-9]{1,5})")


class Hash(Protocol):
    """What a sum over bytes is made with, as of hashlib."""

    def update(self, part: bytes, /) -> None:
        """Take some bytes in."""

    def hexdigest(self) -> str:
        """Return the sum so far."""


class Sums:
    """Makes the sums that an object is compared by, in one pass over its bytes.

    The SHA-256 is always made: it goes into the record.

    Parameters
    ----------
    hashes : mapping of str to str
        The references, as in `plans.Item`; those of an unknown algorithm are left out. And
        ``"s3-part"``: the bytes of a part of what an ``"s3-etag"`` is of, if they are known.
    size : int or None
        Of the object: it tells which parts a multipart ETag may be of.
    """

    def __init__(self, hashes: Mapping[str, str], size: int | None) -> None:
        self.reference, self._expected = _choose(hashes)
        self._sha256 = hashlib.sha256()
        self._others: list[Hash] = []
        if self.reference not in ("none", "sha256"):
            part = int(hashes.get("s3-part", 0))
            self._others = _make(self.reference, self._expected, size, part)
        if self.reference == "s3-etag" and not self._others:
            self.reference = "none"
        self._updates: list[Callable[[bytes], None]] = [
            self._sha256.update,
            *(one.update for one in self._others),
        ]

    def update(self, part: bytes) -> None:
        """Take some bytes in."""
        for update in self._updates:
            update(part)

    @contextmanager
    def apart(self) -> Iterator[Callable[[bytes], None]]:
        """Yield an `update` that another thread does: a large object is hashed while it is moved.

        All is taken in when the context ends.
        """
        waiting: Queue[bytes | None] = Queue(_WAITING)
        worker = threading.Thread(target=self._take_all, args=(waiting,), daemon=True)
        worker.start()
        try:
            yield waiting.put
        finally:
            waiting.put(None)
            worker.join()

    def _take_all(self, waiting: Queue[bytes | None]) -> None:
        while (part := waiting.get()) is not None:
            self.update(part)

    @property
    def sha256(self) -> str:
        """Of all bytes so far."""
        return self._sha256.hexdigest()

    def find_fault(self) -> str:
        """Return what is wrong with the bytes, in words; nothing if they are those meant."""
        if self.reference == "none":
            return ""
        sums = [self.sha256] if self.reference == "sha256" else self._sum_others()
        if self._expected in sums:
            return ""
        return f"its {self.reference} is {sums[0]}, not the {self._expected} stated for it"

    def _sum_others(self) -> list[str]:
        return [one.hexdigest() for one in self._others]


def read_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes that a server states of a whole object.

    Google's X-Goog-Hash; S3's x-amz-checksum-*; Repr-Digest (RFC 9530) and the older Digest
    (RFC 3230); Content-MD5 (RFC 1864). The ETag is one only where S3 says who it is.
    """
    stated = [(algorithm, headers.get(header, "")) for header, algorithm in _CHECKSUMS.items()]
    for name in ("x-goog-hash", "digest", "repr-digest"):
        for entry in headers.get(name, "").split(","):
            algorithm, _, value = entry.strip().partition("=")
            stated.append((_SPELT.get(algorithm.lower(), ""), value.strip(":")))
    found = {algorithm: _unpack(value) for algorithm, value in stated if algorithm and value}
    if "x-amz-request-id" in headers and not _is_encrypted(headers):
        found["s3-etag"] = headers.get("etag", "").strip('"')
    return {algorithm: value for algorithm, value in found.items() if value}


_SPELT = {"sha-512": "sha512", "sha-256": "sha256", "sha": "sha1"} | {
    name: name for name in ("md5", "crc32c")
}
_CHECKSUMS = {"content-md5": "md5"} | {
    f"x-amz-checksum-{name}": name for name in ("sha256", "sha1", "crc32c", "crc32")
}


def _is_encrypted(headers: Mapping[str, str]) -> bool:
    """Tell whether S3 encrypted an object by a key of somebody's own: its ETag is no MD5 then."""
    kept = headers.get("x-amz-server-side-encryption", "")
    return kept.startswith("aws:") or "x-amz-server-side-encryption-customer-algorithm" in headers


def _unpack(value: str) -> str:
    """Return base64 as hexadecimal; nothing of what is none, such as a sum of sums, ``...-3``."""
    try:
        return base64.b64decode(value, validate=True).hex()
    except ValueError:
        return ""


def _choose(hashes: Mapping[str, str]) -> tuple[str, str]:
    for algorithm in STRENGTH:
        if value := hashes.get(algorithm, "").strip('"').lower():
            return algorithm, value
    return "none", ""


def _make(algorithm: str, expected: str, size: int | None, part: int) -> list[Hash]:
    """Return what may come to the expected sum; several for an ETag of unknown parts."""
    if algorithm == "s3-etag":
        return _make_etags(expected, size, part)
    return [_MAKERS[algorithm]()]


def _make_etags(expected: str, size: int | None, part: int) -> list[Hash]:
    if re.fullmatch("[0-9a-f]{32}", expected):
        return [hashlib.md5(usedforsecurity=False)]
    found = _MULTIPART.fullmatch(expected)
    if not found or not size:
        return []
    return [
        _Parted(likely) for likely in ([part] if part else find_part_sizes(size, int(found[2])))
    ]


def find_part_sizes(size: int, parts: int) -> list[int]:
    """Return the sizes that the parts of a multipart upload may have had, in bytes.

    Parameters
    ----------
    size : int
        Of the object.
    parts : int
        How many there were, as its ETag says after the dash.
    """
    if parts == 1:
        return [size]
    even = -(-size // parts)
    likely = {*(count * _MIB for count in _PARTS), even, -(-even // _MIB) * _MIB}
    return sorted(part for part in likely if -(-size // part) == parts)


class _Parted:
    """The ETag of a multipart upload: the MD5 of the MD5s of its parts, and their number."""

    def __init__(self, part: int) -> None:
        self._part = part
        self._left = part
        self._sums: list[bytes] = []
        self._current = hashlib.md5(usedforsecurity=False)

    def update(self, part: bytes, /) -> None:
        view = memoryview(part)
        while len(view):
            if not self._left:
                self._close()
            taken = view[: self._left]
            self._current.update(taken)
            self._left -= len(taken)
            view = view[len(taken) :]

    def hexdigest(self) -> str:
        sums = [*self._sums, self._current.digest()]
        whole = hashlib.md5(b"".join(sums), usedforsecurity=False)
        return f"{whole.hexdigest()}-{len(sums)}"

    def _close(self) -> None:
        self._sums.append(self._current.digest())
        self._current = hashlib.md5(usedforsecurity=False)
        self._left = self._part


class _Crc32:
    def __init__(self) -> None:
        self._sum = 0

    def update(self, part: bytes, /) -> None:
        self._sum = zlib.crc32(part, self._sum)

    def hexdigest(self) -> str:
        return f"{self._sum:08x}"


class _Crc32c:
    def __init__(self) -> None:
        import google_crc32c

        self._extend: Callable[[int, bytes], int] = google_crc32c.extend
        self._sum = 0

    def update(self, part: bytes, /) -> None:
        self._sum = self._extend(self._sum, part)

    def hexdigest(self) -> str:
        return f"{self._sum:08x}"


_MAKERS: dict[str, Callable[[], Hash]] = {
    "sha512": hashlib.sha512,
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "crc32c": _Crc32c,
    "crc32": _Crc32,
}


def read_sums(lines: Iterable[str]) -> dict[str, str]:
    """Return the MD5s of a list of sums, by the name of the file: NBIA's ``md5hashes.csv``.

    Lines without an MD5, such as a heading, are passed over; name and sum may stand in either
    order, between commas or blanks.
    """
    found = {}
    for line in lines:
        words = [word.strip(' "*\ufeff') for word in re.split(r"[,;\t]|\s{2,}", line.strip())]
        sums = [word.lower() for word in words if re.fullmatch("[0-9a-fA-F]{32}", word)]
        names = [word for word in words if word and word.lower() not in sums]
        if len(sums) == 1 and names:
            found[names[0]] = sums[0]
    return found
