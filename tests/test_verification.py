"""References: the strongest is compared, and what they are read from is read rightly."""

from __future__ import annotations

import base64
import hashlib
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.sources.verification import (
    STRENGTH,
    Sums,
    find_part_sizes,
    read_headers,
    read_sums,
)

BODY = random.Random(0).randbytes(300_000)
MIB = 1 << 20


def sum_parts(body: bytes, part: int) -> str:
    """Return the ETag that S3 gives to a multipart upload."""
    sums = [hashlib.md5(body[at : at + part]).digest() for at in range(0, len(body), part)]
    return f"{hashlib.md5(b''.join(sums)).hexdigest()}-{len(sums)}"


HASHES = {
    "sha512": hashlib.sha512(BODY).hexdigest(),
    "sha256": hashlib.sha256(BODY).hexdigest(),
    "sha1": hashlib.sha1(BODY).hexdigest(),
    "md5": hashlib.md5(BODY).hexdigest(),
    "s3-etag": hashlib.md5(BODY).hexdigest(),
    "crc32": f"{zlib.crc32(BODY):08x}",
}


def feed(sums: Sums, body: bytes, step: int = 7777) -> Sums:
    for start in range(0, len(body), step):
        sums.update(body[start : start + step])
    return sums


@pytest.mark.parametrize("algorithm", HASHES)
def test_right_bytes_pass_and_others_do_not(algorithm: str) -> None:
    hashes = {algorithm: HASHES[algorithm].upper()}
    right = feed(Sums(hashes, len(BODY)), BODY)
    assert (right.reference, right.find_fault()) == (algorithm, "")
    assert right.sha256 == HASHES["sha256"]
    wrong = feed(Sums(hashes, len(BODY)), BODY[:-1] + b"\0")
    assert f"its {algorithm} is" in wrong.find_fault()


def test_crc32c_is_castagnoli_s() -> None:
    """The check value of RFC 3720, appendix B.4, and that of nine digits."""
    for body, value in ((bytes(32), "8a9136aa"), (b"123456789", "e3069283")):
        assert feed(Sums({"crc32c": value}, None), body, 5).find_fault() == ""


def test_the_strongest_reference_is_compared() -> None:
    known = {**HASHES, "crc32c": "0" * 8}
    for algorithm in STRENGTH:
        assert Sums(known, len(BODY)).reference == algorithm
        known.pop(algorithm)
    assert Sums(known, None).reference == "none"
    assert feed(Sums({}, None), BODY).find_fault() == ""


@pytest.mark.parametrize("part", [5 * MIB, 8 * MIB, 16 * MIB])
@pytest.mark.parametrize("size", [5 * MIB, 16 * MIB, 17 * MIB + 1])
def test_an_etag_of_parts_is_compared_whatever_usual_parts_it_has(size: int, part: int) -> None:
    body = random.Random(size).randbytes(1024) * (size // 1024) + bytes(size % 1024)
    etag = {"s3-etag": f'"{sum_parts(body, part)}"'}
    right = feed(Sums(etag, size), body, MIB - 1)
    assert (right.reference, right.find_fault()) == ("s3-etag", "")
    wrong = feed(Sums(etag, size), b"\1" + body[1:], MIB)
    assert wrong.find_fault() != ""


@given(st.integers(1, 1 << 42), st.integers(1, 10_000))
def test_part_sizes_give_the_number_of_parts(size: int, parts: int) -> None:
    assert all(-(-size // part) == parts for part in find_part_sizes(size, parts))
    assert find_part_sizes(size, 1) == [size]


def test_an_etag_that_is_no_sum_is_no_reference() -> None:
    assert Sums({"s3-etag": "W/abc"}, 10).reference == "none"
    assert Sums({"s3-etag": "0" * 32 + "-3"}, None).reference == "none"


def encode(algorithm: str) -> str:
    return base64.b64encode(bytes.fromhex(HASHES[algorithm])).decode()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-goog-hash": f"crc32c=4waSgw==, md5={encode('md5')}"}, {"crc32c", "md5"}),
        ({"content-md5": encode("md5")}, {"md5"}),
        ({"repr-digest": f"sha-256=:{encode('sha256')}:"}, {"sha256"}),
        ({"digest": f"SHA-256={encode('sha256')},sha={encode('sha1')}"}, {"sha256", "sha1"}),
        ({"x-amz-checksum-sha256": encode("sha256")}, {"sha256"}),
        ({"x-amz-checksum-crc32": encode("crc32")}, {"crc32"}),
        ({"x-amz-checksum-sha256": f"{encode('sha256')}-4"}, set()),
        ({"etag": f'"{HASHES["md5"]}"'}, set()),
        ({"etag": f'"{HASHES["md5"]}"', "x-amz-request-id": "1"}, {"s3-etag"}),
        (
            {
                "etag": f'"{HASHES["md5"]}"',
                "x-amz-request-id": "1",
                "x-amz-server-side-encryption": "aws:kms",
            },
            set(),
        ),
        ({"digest": "unixsum=30637"}, set()),
    ],
)
def test_what_a_server_states_is_read(headers: dict[str, str], expected: set[str]) -> None:
    found = read_headers(headers)
    assert set(found) == expected
    assert {found[one].strip('"') for one in expected - {"crc32c"}} <= set(HASHES.values())


@pytest.mark.parametrize(
    "text",
    [
        "1-01.dcm,0cc175b9c0f1b6a831c399e269772661\n1-02.dcm,92EB5FFEE6AE2FEC3AD71C777531578F\n",
        "\ufeffFile Name,MD5\r\n1-01.dcm, 0cc175b9c0f1b6a831c399e269772661\r\n"
        '"1-02.dcm","92eb5ffee6ae2fec3ad71c777531578f"\r\n',
        "0cc175b9c0f1b6a831c399e269772661  1-01.dcm\n92eb5ffee6ae2fec3ad71c777531578f  1-02.dcm",
    ],
)
def test_lists_of_sums_are_read(text: str) -> None:
    assert read_sums(text.splitlines()) == {
        "1-01.dcm": "0cc175b9c0f1b6a831c399e269772661",
        "1-02.dcm": "92eb5ffee6ae2fec3ad71c777531578f",
    }
