"""Drivers of file systems far away, through fsspec: what all of them are made to do alike."""

from __future__ import annotations

import errno
import os
from base64 import b64decode
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from medkit.errors import UsageError

Listed = tuple[str, int, int]

_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "sftp": "sshfs",
    "ssh": "sshfs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}
_AT_ONCE = 64  # requests under way
_CHANNELS = 8  # what common SSH servers let one client open
# By driver, what its defaults are not fit for; fsspec's configuration of the scheme goes first.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3fs": {"config_kwargs": {"max_pool_connections": _AT_ONCE}},
    # Its own default is to trust any server; () is the user's list of known ones.
    "sshfs": {"known_hosts": ()},
}
_TIMES = ("mtime", "LastModified", "updated", "last_modified", "created")
_SUMS = {
    "ChecksumSHA256": "sha256",
    "ChecksumSHA1": "sha1",
    "ChecksumCRC32C": "crc32c",
    "md5Hash": "md5",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def connect(root: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the place in it, without a slash at its end.

    fsspec keeps file systems, one for each process and thread; what it keeps is not ours to keep.
    """
    scheme = root.partition("://")[0]
    try:
        import fsspec

        driver = fsspec.get_filesystem_class(scheme).__module__.partition(".")[0]
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        what = f"install it: pip install {package}" if package else str(error)
        raise UsageError(f"the driver for {scheme}:// is not installed; {what}") from None
    except ValueError:
        known = ", ".join(f"{name}://" for name in _PACKAGES)
        raise UsageError(f"{scheme}:// is not known; such are: {known}") from None
    options = _OPTIONS.get(driver, {}) | fsspec.config.conf.get(scheme, {})
    with explain():
        system, base = fsspec.url_to_fs(root, **options)
    return system, base.rstrip("/")


def list_files(system: Any, base: str) -> Iterator[Listed]:
    """Yield what lies below a place, as `trees.list_remote` does."""
    with explain():
        bucket = hasattr(system, "call_s3")
        yield from (_list_bucket if bucket else _list_folders)(system, base)


def _list_bucket(system: Any, base: str) -> Iterator[Listed]:
    """List by pages, which S3 sorts by the bytes of the whole key, and so by code points."""
    bucket, prefix, _ = system.split_path(base)
    prefix = f"{prefix}/" if prefix else ""
    last = ""
    token: dict[str, str] = {}
    while True:
        page = system.call_s3(
            "list_objects_v2", Bucket=bucket, Prefix=prefix, **token, **system.req_kw
        )
        for item in page.get("Contents", ()):
            path = item["Key"][len(prefix) :]
            if path < last:  # "directory buckets" do not sort
                raise OSError("its listing is not sorted; copy the objects to another bucket")
            last = path
            if path and not path.endswith("/"):  # such an object stands for a folder
                yield path, item["Size"], read_time(item)
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def _list_folders(system: Any, base: str) -> Iterator[Listed]:
    """List folder by folder; a stack, for they may be nested deeper than calls."""
    stack = [iter(_list_folder(system, base, ""))]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
        elif item[0].endswith("/") and item[1] >= 0:
            stack.append(iter(_list_folder(system, base, item[0])))
        else:
            yield item


def _list_folder(system: Any, base: str, folder: str) -> list[Listed]:
    """Return what lies in a folder in the order of whole paths, for which a folder ends in /."""
    # The listings that a driver keeps would fill memory, and are of another time.
    system.invalidate_cache()
    try:
        with explain():
            found = system.ls(f"{base}/{folder}".rstrip("/") or "/", detail=True)
    except OSError:
        if not folder:
            raise
        return [(folder, -1, 0)]
    return sorted(_describe(folder, info) for info in found)


def _describe(folder: str, info: dict[str, Any]) -> Listed:
    path = folder + info["name"].rstrip("/").rpartition("/")[2]
    if info["type"] == "directory":
        return f"{path}/", 0, 0
    plain = info["type"] == "file" and info.get("size") is not None
    return path, int(info["size"]) if plain else -1, read_time(info)


def read_time(info: dict[str, Any]) -> int:
    """Return nanoseconds since 1970 of what drivers call so differently; 0 for none.

    Whole seconds: asked for one file, servers of S3 say no more than that, but some do in listings.
    """
    time = next((info[name] for name in _TIMES if info.get(name) is not None), 0)
    if isinstance(time, datetime):
        aware = time if time.tzinfo else time.replace(tzinfo=UTC)
        return (aware - _EPOCH) // timedelta(seconds=1) * 10**9
    return int(time) * 10**9 if isinstance(time, int | float) else 0


def describe_object(system: Any, place: str) -> tuple[int, int, dict[str, str]]:
    """Return the size, the time and the hashes that a driver tells of a file."""
    if hasattr(system, "call_s3"):
        bucket, key, _ = system.split_path(place)
        asked = {"Bucket": bucket, "Key": key, "ChecksumMode": "ENABLED"}
        found = system.call_s3("head_object", **asked, **system.req_kw)
        # The ETag of what a key of the owner encrypts is the hash of nothing that we see.
        open_etag = found.get("ServerSideEncryption") in (None, "AES256")
        hashes = {"s3-etag": found["ETag"].strip('"')} if open_etag else {}
        return int(found["ContentLength"]), read_time(found), hashes | _read_sums(found)
    system.invalidate_cache()
    found = system.info(place)
    return int(found["size"]), read_time(found), _read_sums(found)


def _read_sums(info: dict[str, Any]) -> dict[str, str]:
    """Return sums in hexadecimal of what S3 and Google state in base64; those of parts are none."""
    stated = {name: info.get(key) for key, name in _SUMS.items()}
    return {
        name: b64decode(value).hex()
        for name, value in stated.items()
        if isinstance(value, str) and "-" not in value
    }


class Ranges:
    """A remote file, read by ranges; a `streams.SeekableSource`."""

    def __init__(self, system: Any, place: str, size: int) -> None:
        self._system, self._place, self._size = system, place, size
        self._offset = 0
        # A file that is kept open costs one request a read, where one by name costs three.
        self._file = system.open(place, "rb") if _ignores_ranges(system) else None

    def read(self, size: int, /) -> bytes:
        """Return up to that many bytes; none at the end alone."""
        end = min(self._offset + size, self._size)
        if end <= self._offset:
            return b""
        if self._file is None:
            part = self._system.cat_file(self._place, start=self._offset, end=end)
        else:
            self._file.seek(self._offset)
            part = self._file.read(end - self._offset)
        if not part:
            raise OSError(f"ends at byte {self._offset} of {self._size}: it was changed")
        part = bytes(part[: end - self._offset])
        self._offset += len(part)
        return part

    def seek(self, offset: int, /) -> None:
        """Go to that byte."""
        self._offset = offset

    def close(self) -> None:
        """Let go of the connection."""
        if self._file is not None:
            self._file.close()


def read_many(
    system: Any, places: list[str], offsets: Sequence[int], widths: Sequence[int]
) -> list[Any]:
    """Return the bytes of parts of files, or the exceptions that came instead."""
    read = _read_apart if _ignores_ranges(system) else _read_together
    return read(system, places, offsets, widths)


def _ignores_ranges(system: Any) -> bool:
    """Say whether a driver fetches all of a file where a range is asked for, as sshfs does."""
    return type(system).__module__.startswith("sshfs")


def _read_together(
    system: Any, places: list[str], offsets: Sequence[int], widths: Sequence[int]
) -> list[Any]:
    ends = [offset + width for offset, width in zip(offsets, widths, strict=True)]
    found = system.cat_ranges(places, [*offsets], ends, on_error="return", batch_size=_AT_ONCE)
    return list(found)


def _read_apart(
    system: Any, places: list[str], offsets: Sequence[int], widths: Sequence[int]
) -> list[Any]:
    def read(place: str, offset: int, width: int) -> bytes | Exception:
        try:
            with system.open(place, "rb") as stream:
                stream.seek(offset)
                return bytes(stream.read(width))
        except Exception as error:  # a driver's errors share no class
            return error

    with ThreadPoolExecutor(_CHANNELS) as pool:
        return list(pool.map(read, places, offsets, widths))


@contextmanager
def explain() -> Iterator[None]:
    """Turn whatever a driver raises into an OSError."""
    try:
        yield
    except Exception as error:  # botocore, aiohttp and asyncssh each have their own
        if isinstance(error, OSError) and error.strerror:
            raise
        raise to_os_error(error) from error


def to_os_error(error: Exception) -> OSError:
    """Return an error of a driver as an OSError that has a ``strerror``."""
    if isinstance(error, OSError) and error.strerror:
        return error
    number = getattr(error, "errno", None)
    if isinstance(error, FileNotFoundError):
        number = errno.ENOENT
    text = str(error).strip() or os.strerror(number or errno.EIO)
    return OSError(number or errno.EIO, text[:300])
