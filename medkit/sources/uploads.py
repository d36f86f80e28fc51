"""Uploads to S3 by parts, which go on where they broke off.

S3 keeps the parts of an upload that was begun, and lists them with the MD5 of each: those that
are right are not sent again. An object is there when all of it is, under an ETag that follows from
its parts; an upload that nobody ends costs money, so those that are given up are ended.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_PART = 1 << 23
_MOST = 9000  # parts; S3 takes 10,000


def upload(system: Any, place: str, source: Path, told: Callable[[int], None]) -> None:
    """Put a file, and take over what parts of it are there.

    Parameters
    ----------
    system : S3FileSystem
        Of s3fs.
    place : str
        Bucket and key.
    source : Path
        The file.
    told : callable
        Gets the bytes of each part that is there.
    """
    size = source.stat().st_size
    bucket, key, _ = system.split_path(place)
    asked = {"Bucket": bucket, "Key": key}
    if size <= _PART:
        content = source.read_bytes()
        system.call_s3("put_object", **asked, Body=content, ContentMD5=_encode(content))
        told(size)
        return
    asked["UploadId"], there = _resume(system, bucket, key)
    parts = []
    for number, part in enumerate(_read(source, size), 1):
        etag = there.get(number, ("", 0))[0]
        if there.get(number) != (hashlib.md5(part, usedforsecurity=False).hexdigest(), len(part)):
            checked = {"Body": part, "ContentMD5": _encode(part)}
            etag = system.call_s3("upload_part", **asked, PartNumber=number, **checked)["ETag"]
        parts.append({"PartNumber": number, "ETag": etag})
        told(len(part))
    system.call_s3("complete_multipart_upload", **asked, MultipartUpload={"Parts": parts})


def is_there(system: Any, place: str, source: Path) -> bool:
    """Say whether an object has the ETag that follows from the parts of a file.

    Not so where a key of the owner encrypts objects: then an ETag is the hash of nothing.
    """
    from medkit.sources.drivers import describe_object

    size = source.stat().st_size
    if size <= _PART:
        expected = hashlib.md5(source.read_bytes(), usedforsecurity=False).hexdigest()
    else:
        sums = [hashlib.md5(part, usedforsecurity=False).digest() for part in _read(source, size)]
        expected = hashlib.md5(b"".join(sums), usedforsecurity=False).hexdigest()
        expected += f"-{len(sums)}"
    found, _, hashes = describe_object(system, place)
    return found == size and hashes.get("s3-etag") == expected


def abandon(system: Any, place: str) -> None:
    """End all uploads that were begun below a place, and free what they hold."""
    bucket, prefix, _ = system.split_path(place)
    for one in _list_uploads(system, bucket, f"{prefix}/"):
        asked = {"Bucket": bucket, "Key": one["Key"], "UploadId": one["UploadId"]}
        with suppress(FileNotFoundError):  # somebody was faster
            system.call_s3("abort_multipart_upload", **asked)


def _resume(system: Any, bucket: str, key: str) -> tuple[str, dict[int, tuple[str, int]]]:
    """Return the youngest upload of a key, and MD5 and size of its parts; or begin one."""
    begun = [one for one in _list_uploads(system, bucket, key) if one["Key"] == key]
    for one in sorted(begun, key=lambda one: one["Initiated"], reverse=True):
        with suppress(FileNotFoundError):  # ended meanwhile
            return one["UploadId"], dict(_list_parts(system, bucket, key, one["UploadId"]))
    made = system.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
    return str(made["UploadId"]), {}


def _list_uploads(system: Any, bucket: str, prefix: str) -> list[dict[str, Any]]:
    """Return uploads that were begun; none where we may not ask."""
    found: list[dict[str, Any]] = []
    more: dict[str, str] = {}
    with suppress(PermissionError, NotImplementedError):
        while True:
            page = system.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **more)
            found += page.get("Uploads", [])
            if not page.get("IsTruncated"):
                break
            more = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }
    return found


def _list_parts(
    system: Any, bucket: str, key: str, upload_id: str
) -> Iterator[tuple[int, tuple[str, int]]]:
    asked: dict[str, Any] = {"Bucket": bucket, "Key": key, "UploadId": upload_id}
    while True:
        page = system.call_s3("list_parts", **asked)
        for part in page.get("Parts", []):
            yield part["PartNumber"], (part["ETag"].strip('"'), part["Size"])
        if not page.get("IsTruncated"):
            return
        asked["PartNumberMarker"] = page["NextPartNumberMarker"]


def _read(source: Path, size: int) -> Iterator[bytes]:
    """Yield the parts of a file; as large as it takes that they are not too many."""
    step = _PART * max(1, -(-size // (_PART * _MOST)))
    with source.open("rb") as stream:
        while part := stream.read(step):
            yield part


def _encode(content: bytes) -> str:
    return b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
