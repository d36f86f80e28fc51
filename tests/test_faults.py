"""Servers that fail in every way: no bad file is accepted, and each end is said in a clear line."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import faultserver as faults
import pytest
from faultserver import FaultServer

from medkit.errors import SourceError
from medkit.sources import carrying, retries
from medkit.sources.descriptor import Descriptor
from medkit.sources.fetching import fetch, list_sources, read_files
from medkit.sources.pace import Pace
from medkit.sources.plans import Item, Plan, Preflight
from medkit.workspace import Workspace

PACE = Pace(workers=2, attempts=3, patience=0.4, slowest=4000)
BODY = random.Random(1).randbytes(400_000)
BUFFERS = 1 << 24
BEFORE = random.Random(2).randbytes(400_000)


def pack_members(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


MD5 = hashlib.md5(BODY).hexdigest()
ZIP = pack_members({"a.dcm": BODY})


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_backoff", lambda state: 0.0)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def plan_items(server: FaultServer, *items: Item, size: int | None = None) -> Plan:
    source = Descriptor("set", "A set", "1", "CC0-1.0", "https")
    place = server.url.removeprefix("http://")
    return Plan(
        source, lambda: items, [item.path for item in items], Preflight(size=size), asked=(place,)
    )


# ---- One object, by what is known of it ----------------------------------------------------------

# What a source can know of an object: the hashes of its item.
REFERENCES = {
    "sha256": {"sha256": hashlib.sha256(BODY).hexdigest()},
    "md5": {"md5": hashlib.md5(BODY).hexdigest()},
    "s3-etag": {"s3-etag": f'"{hashlib.md5(BODY).hexdigest()}"'},
    "none": {},
}
# Faults that pass, or that are got round: the right bytes arrive.
PASSING = {
    "cut": faults.once(faults.cut),
    "cut-in-chunks": faults.once(faults.cut_in_chunks),
    "stalled": faults.once(faults.stall),
    "drip": faults.once(faults.drip),
    "429": faults.once(faults.answer_with("429 Too Many Requests", Retry_After=0)),
    "503": faults.once(faults.answer_with("503 Service Unavailable")),
    "500": faults.once(faults.answer_with("500 Internal Server Error", faults.PAGE)),
    "changed-in-the-middle": faults.change_in_the_middle(BEFORE),
    "if-range-ignored": faults.ignore_if_range(BEFORE),
    "wrong-content-range": faults.lie_about_the_range,
    "part-from-elsewhere": faults.begin_elsewhere,
    "416": faults.refuse_the_range,
    "packed-on-the-way": faults.pack_on_the_way,
}
# Those that only a hash finds; the second time, the right bytes come.
FOUND_BY_HASH = {
    "cut-without-length": faults.once(faults.cut_without_length),
    "flipped": faults.once(faults.flip),
    "page-as-zip": faults.once(faults.send_page),
    "another-length": faults.once(faults.send_more),
}
FINAL = {
    "always-cut": (faults.cut_without_length, "is not what was meant: its {} is"),
    "always-flipped": (faults.flip, "is not what was meant: its {} is"),
    "endless": (faults.never_end, "sends more than the 400,000 bytes"),
    "always-503": (
        faults.answer_with("503 Service Unavailable"),
        "cannot be fetched: it answers 503",
    ),
    "always-stalled": (faults.stall, "cannot be fetched: Read timed out"),
    "wait-for-an-hour": (
        faults.answer_with("429 Too Many Requests", Retry_After=3600),
        "429 Too Many Requests; it asks to wait 3,600 seconds",
    ),
    "404": (faults.answer_with("404 Not Found"), "answers 404 Not Found: it has no such thing"),
    "to-another-port": (
        faults.redirect_to("http://127.0.0.1:9/a"),
        "redirects to 'http://127.0.0.1:9/a', which is not https",
    ),
    "to-this-machine": (
        faults.redirect_to("https://127.0.0.1/a"),
        "redirects to 'https://127.0.0.1/a', on this machine or a private network",
    ),
    "to-the-cloud's-secrets": (
        faults.redirect_to("https://169.254.169.254/latest/meta-data"),
        "on this machine or a private network",
    ),
    "to-secrets-in-disguise": (
        faults.redirect_to("https://[::ffff:169.254.169.254]/latest"),
        "on this machine or a private network",
    ),
    "to-a-file": (faults.redirect_to("file:///etc/passwd"), "which is not https"),
    "to-nowhere": (faults.redirect_to("https://["), "which is not https"),
    "to-another-host": (faults.redirect_to("https://example.org/a"), "no host of this source"),
    "in-a-circle": (faults.redirect_to("/a"), "redirects more than 10 times"),
}


def fetch_one(server: FaultServer, home: Workspace, reference: str, known: int | None) -> bytes:
    item = Item(f"{server.url}/a?sig=secret", "a", known, REFERENCES[reference])
    folder = fetch(plan_items(server, item), home, pace=PACE).source.folder
    return (folder / "a").read_bytes()


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_costs_one_object_at_most(
    fault: str, reference: str, server: FaultServer, workspace: Workspace
) -> None:
    server.objects["/a"] = BODY
    server.faults["/a"] = PASSING[fault]
    assert fetch_one(server, workspace, reference, None) == BODY
    assert server.sent["/a"] <= 2 * len(BODY) + faults.CHUNK
    assert read_files(workspace.source("set"))[0]["reference"] == reference


@pytest.mark.parametrize("fault", FOUND_BY_HASH)
def test_a_fault_that_only_a_hash_finds_costs_one_object_at_most(
    fault: str, server: FaultServer, workspace: Workspace
) -> None:
    server.objects["/a"] = BODY
    server.faults["/a"] = FOUND_BY_HASH[fault]
    assert fetch_one(server, workspace, "sha256", None) == BODY
    assert server.sent["/a"] <= 2 * len(BODY) + faults.CHUNK


@pytest.mark.parametrize("reference", ["sha256", "md5"])
@pytest.mark.parametrize("fault", FINAL)
def test_a_fault_that_stays_is_said_and_nothing_is_accepted(
    fault: str, reference: str, server: FaultServer, workspace: Workspace
) -> None:
    answer, message = FINAL[fault]
    server.objects["/a"] = BODY
    server.faults["/a"] = answer
    with pytest.raises(SourceError) as caught:
        fetch_one(server, workspace, reference, len(BODY))
    assert message.format(reference) in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list_sources(workspace) == []
    assert [*workspace.raw.glob(".set.part/files/*")] == []
    # Of the endless one, what fits the buffers of the system counts as sent.
    assert server.sent["/a"] <= 2 * len(BODY) + (BUFFERS if fault == "endless" else faults.CHUNK)


def test_what_is_cut_goes_on_where_it_ended(server: FaultServer, workspace: Workspace) -> None:
    server.objects["/a"] = BODY
    server.faults["/a"] = faults.once(faults.cut)
    assert fetch_one(server, workspace, "none", None) == BODY
    assert server.sent["/a"] == len(BODY)
    assert [ranged for _, _, ranged in server.requests] == ["", f"bytes={len(BODY) // 2}-"]


def test_a_body_without_length_and_hash_is_not_taken(
    server: FaultServer, workspace: Workspace
) -> None:
    server.objects["/a"] = BODY
    server.faults["/a"] = faults.cut_without_length
    with pytest.raises(SourceError, match="nobody can tell whether it was cut; give the hash"):
        fetch_one(server, workspace, "none", None)
    assert list_sources(workspace) == []


def test_a_page_where_a_file_was_expected_is_not_taken(
    server: FaultServer, workspace: Workspace
) -> None:
    server.faults["/a"] = faults.send_login
    with pytest.raises(SourceError, match="sends a web page where a file was expected"):
        fetch_one(server, workspace, "none", None)


def test_a_gz_that_the_server_calls_packed_stays_as_it_is(
    server: FaultServer, workspace: Workspace
) -> None:
    server.objects["/a.nii.gz"] = BODY
    server.faults["/a.nii.gz"] = faults.call_packed
    item = Item(f"{server.url}/a.nii.gz", "a.nii.gz")
    hashed = Item(f"{server.url}/a.nii.gz", "b", hashes=REFERENCES["sha256"])
    found = fetch(plan_items(server, item, hashed), workspace, pace=PACE)
    assert (found.source.folder / "a.nii.gz").read_bytes() == BODY
    assert (found.source.folder / "b").read_bytes() == BODY


@pytest.mark.parametrize("known", [None, 10])
def test_a_packed_body_unpacks_to_what_it_may_and_no_further(
    known: int | None, server: FaultServer, workspace: Workspace
) -> None:
    server.objects["/a"] = bytes(1 << 24)
    server.faults["/a"] = faults.pack_on_the_way
    item = Item(f"{server.url}/a", "a", known)
    with pytest.raises(SourceError, match="unpacks to more than"):
        fetch(plan_items(server, item), workspace, pace=PACE)
    assert list_sources(workspace) == []


# ---- Archives without a hash: their own sums are there -------------------------------------------


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (faults.flip, "checksum is another one"),
        (faults.cut_without_length, "nobody can tell whether it was cut"),
        (faults.send_page, "is no archive: it begins with b'<!DOCTYPE html>"),
    ],
)
def test_an_archive_that_came_wrong_is_refused_and_asked_for_anew(
    fault: faults.Answer, message: str, server: FaultServer, workspace: Workspace
) -> None:
    server.objects["/a.zip"] = ZIP
    server.faults["/a.zip"] = fault
    plan = plan_items(server, Item(f"{server.url}/a.zip", "a.zip", unpack=True))
    with pytest.raises(SourceError, match=message):
        fetch(plan, workspace, pace=PACE)
    assert list_sources(workspace) == []
    del server.faults["/a.zip"]
    folder = fetch(plan, workspace, pace=PACE).source.folder
    assert (folder / "a" / "a.dcm").read_bytes() == BODY


def test_a_zip_without_a_length_is_taken_if_it_has_its_end(
    server: FaultServer, workspace: Workspace
) -> None:
    def serve(request: faults.Request, body: bytes) -> None:
        request.send("200 OK", {"Connection": "close"}, body)
        request.hang_up()

    server.objects["/a.zip"] = ZIP
    server.faults["/a.zip"] = serve
    plan = plan_items(server, Item(f"{server.url}/a.zip", "a.zip", unpack=True))
    folder = fetch(plan, workspace, pace=PACE).source.folder
    assert (folder / "a" / "a.dcm").read_bytes() == BODY


NBIA = pack_members({"a.dcm": BODY, "md5hashes.csv": f"a.dcm,{MD5}".encode()})
EVERY = {**PASSING, **FOUND_BY_HASH, **{fault: answer for fault, (answer, _) in FINAL.items()}}
# An item of each source that speaks HTTP, and the object that it is of.
SHAPES: dict[str, tuple[Item, bytes]] = {
    "a descriptor's": (Item("/x", "a.dcm", None, REFERENCES["sha256"]), BODY),
    "MedMNIST's": (Item("/x", "a.dcm", len(BODY), REFERENCES["md5"]), BODY),
    "IDC's": (Item("/x", "a.dcm", len(BODY), REFERENCES["s3-etag"]), BODY),
    "NBIA's": (Item("/x", "a.zip", unpack=True, sums="md5hashes.csv"), NBIA),
    "Kaggle's": (Item("/x", "a.zip", len(ZIP), unpack=True), ZIP),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fault", EVERY)
def test_no_source_takes_a_bad_file(
    fault: str, shape: str, server: FaultServer, workspace: Workspace
) -> None:
    """It fails in a clear line, or brings the right bytes; and those in the end, in any case."""
    item, server.objects["/x"] = SHAPES[shape]
    server.faults["/x"] = EVERY[fault]
    plan = plan_items(server, replace(item, url=f"{server.url}/x"))
    pace = replace(PACE, largest=1 << 20)
    for _ in range(2):
        try:
            fetch(plan, workspace, pace=pace)
        except SourceError as error:
            assert "\n" not in str(error)
            assert list_sources(workspace) == []
        else:
            break
        server.faults.clear()
    (found,) = workspace.source("set").glob("files/**/*.dcm")
    assert found.read_bytes() == BODY
    assert server.sent["/x"] <= 3 * len(server.objects["/x"]) + BUFFERS


def test_an_object_without_a_size_may_not_fill_the_disk(
    server: FaultServer, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults["/a"] = faults.never_end
    monkeypatch.setattr(carrying, "_ROOM_EVERY", 1 << 16)
    monkeypatch.setattr(carrying, "_RESERVE", 1 << 60)
    with pytest.raises(SourceError, match="has stated no size, and fills the disk"):
        fetch_one(server, workspace, "sha256", None)
    assert [*workspace.raw.glob(".set.part/parts/*")] == []


# ---- What servers say of themselves --------------------------------------------------------------


def state_sums(request: faults.Request, body: bytes, right: bytes, **more: object) -> None:
    md5 = base64.b64encode(hashlib.md5(right).digest()).decode()
    headers = {"X-Goog-Hash": f"crc32c=AAAAAA==,md5={md5}", "Content-Length": len(body)}
    request.send("200 OK", headers | more, body)


def test_the_hash_that_a_server_states_is_compared(
    server: FaultServer, workspace: Workspace
) -> None:
    server.objects["/a"] = BODY
    server.faults["/a"] = partial(state_sums, right=BEFORE)
    with pytest.raises(SourceError, match="is not what was meant: its md5 is"):
        fetch_one(server, workspace, "none", None)
    server.faults["/a"] = partial(state_sums, right=BODY)
    assert fetch_one(server, workspace, "none", None) == BODY
    assert read_files(workspace.source("set"))[0]["reference"] == "md5"


@pytest.mark.parametrize("part", [70_001, 131_072])
@pytest.mark.parametrize("known", [True, False])
def test_s3_is_asked_how_large_the_parts_of_an_etag_are(
    part: int, known: bool, server: FaultServer, workspace: Workspace
) -> None:
    """Sizes that nobody would guess."""
    pieces = [BODY[start : start + part] for start in range(0, len(BODY), part)]
    sums = b"".join(hashlib.md5(piece).digest() for piece in pieces)
    etag = f'"{hashlib.md5(sums).hexdigest()}-{len(pieces)}"'

    def serve(request: faults.Request, body: bytes) -> None:
        headers: dict[str, object] = {"ETag": etag, "x-amz-request-id": "1"}
        if request.method == "HEAD":
            request.send("206 Partial Content", headers | {"Content-Length": part})
        else:
            request.send("200 OK", headers | {"Content-Length": len(body)}, body)

    server.objects["/a"] = b"\0" + BODY[1:]
    server.faults["/a"] = serve
    item = Item(f"{server.url}/a", "a", hashes={"s3-etag": etag} if known else {})
    with pytest.raises(SourceError, match="is not what was meant: its s3-etag is"):
        fetch(plan_items(server, item), workspace, pace=PACE)
    server.objects["/a"] = BODY
    assert fetch(plan_items(server, item), workspace, pace=PACE).references == {"s3-etag": 1}


# ---- Many objects --------------------------------------------------------------------------------


def test_one_that_is_missing_holds_up_no_other_and_the_rest_is_kept(
    server: FaultServer, workspace: Workspace
) -> None:
    names = [f"{number}.dcm" for number in range(20)]
    server.objects = {f"/{name}": name.encode() * 100 for name in names}
    items = [Item(f"{server.url}/{name}", name) for name in names]
    lost = server.objects.pop("/7.dcm")
    with pytest.raises(SourceError, match=r"1 of 20 objects .* kept.* first: .*/7\.dcm: .*404"):
        fetch(plan_items(server, *items), workspace, pace=PACE)
    server.objects["/7.dcm"] = lost
    before = len(server.requests)
    assert fetch(plan_items(server, *items), workspace, pace=PACE).files == 20
    assert server.requests[before:] == [("GET", "/7.dcm", "")]


def test_a_server_that_is_gone_is_not_asked_for_everything(
    server: FaultServer, workspace: Workspace
) -> None:
    items = [Item(f"{server.url}/{number}", str(number)) for number in range(1000)]
    with pytest.raises(SourceError, match=r"of .* objects cannot be brought"):
        fetch(plan_items(server, *items), workspace, pace=PACE)
    assert len(server.requests) < 20


@pytest.mark.parametrize(
    "names", [("a", "A"), ("a", "a/b"), ("../a", "b"), ("/a", "b"), ("a\0", "b")]
)
def test_names_that_are_not_safe_are_refused(
    names: tuple[str, str], server: FaultServer, workspace: Workspace, tmp_path: Path
) -> None:
    items = [Item(f"{server.url}/{number}", name) for number, name in enumerate(names)]
    server.objects = {"/0": b"x", "/1": b"y"}
    with pytest.raises(SourceError, match=r"of set, (takes the place|has )"):
        fetch(plan_items(server, *items), workspace, pace=PACE)
    assert not (tmp_path / "a").exists()


def test_a_rate_is_kept_to(server: FaultServer, workspace: Workspace) -> None:
    """What the meter makes all workers wait adds up to what the rate asks for."""
    from medkit.sources.pace import Meter

    waited: list[float] = []
    meter = Meter(1000, None, lambda *_: None)
    meter.stop.wait = lambda seconds: waited.append(seconds) or False  # type: ignore[method-assign,func-returns-value,assignment]
    for _ in range(10):
        meter.move(500)
    assert waited[-1] == pytest.approx(5, abs=0.5)
