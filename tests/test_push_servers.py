"""Instances go to servers of images: real ones, and ones that refuse, alter and lose them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socketserver
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from servers import Orthanc, find_port, start_orthanc

from medkit.archive.archive import Archive
from medkit.archive.instances import list_archive, list_tree
from medkit.archive.likeness import compare, write_plain
from medkit.archive.pack import pack
from medkit.archive.sending import Sent, open_server, send
from medkit.errors import DiskFullError, SourceError, UsageError
from medkit.sources.associations import MuteError
from medkit.sources.deposits import Outgoing, Refusal, describe_status
from medkit.sources.matching import Series
from medkit.testing import write_dicom

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
# Of pydicom's, of eleven transfer syntaxes, and of no image too; all of different instances.
FILES = (
    "CT_small.dcm", "JPEG2000.dcm", "693_J2KI.dcm", "SC_rgb_small_odd_big_endian.dcm",
    "MR_small_RLE.dcm", "JPEG-lossy.dcm", "SC_rgb_jpeg_dcmtk.dcm", "rtplan.dcm", "test-SR.dcm",
    "rtdose_rle.dcm", "liver_1frame.dcm", "GDCMJ2K_TextGBR.dcm", "examples_palette.dcm",
    "image_dfl.dcm",
)  # fmt: skip


@pytest.fixture(scope="module")
def tree(pydicom_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "tree"
    folder.mkdir()
    for name in FILES:
        shutil.copy(pydicom_files / name, folder / name)
    for series in ("77654033/CR1", "98892003/MR1"):
        shutil.copytree(pydicom_files / "dicomdirtests" / series, folder / series)
    shutil.copy(pydicom_files / "CT_small.dcm", folder / "twin.dcm")
    shutil.copy(pydicom_files / "MR_small.dcm", folder / "other-of-the-same-uid.dcm")
    shutil.copy(pydicom_files / "JPEGLSNearLossless_08.dcm", folder / "no-study.dcm")
    (folder / "readme.txt").write_text("no image\n")
    return folder


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with start_orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


def address_of(orthanc: Orthanc, protocol: str) -> str:
    if protocol == "dicomweb":
        return f"dicomweb+http://127.0.0.1:{orthanc.http}/dicom-web"
    pytest.importorskip("pynetdicom")
    return f"dimse://ORTHANC@127.0.0.1:{orthanc.dicom}"


@pytest.mark.parametrize("protocol", ["dicomweb", "dimse"])
def test_a_tree_goes_to_orthanc_and_comes_back_with_the_same_pixels(
    protocol: str, tree: Path, tmp_path: Path
) -> None:
    with start_orthanc(tmp_path) as orthanc:
        address = address_of(orthanc, protocol)
        found = send(list_tree(tree), open_server(address), tmp_path / "work")
        # Orthanc takes no such dose; the rest it has, also a deflated image.
        assert found.states == {"verified": found.instances - 1, "refused": 1}
        assert found.sent == found.instances - 1 > 15
        assert found.left_out == {"not-dicom": 1, "twin": 1}
        assert {one.path for one in found.troubles} == {
            "other-of-the-same-uid.dcm", "no-study.dcm", "rtdose_rle.dcm",
        }  # fmt: skip
        again = send(list_tree(tree), open_server(address), tmp_path / "work")
        assert (again.states, again.sent) == (found.states, 0)
        # Another push knows nothing of the first: it asks, and sends nothing that is there.
        other = send(list_tree(tree), open_server(address), tmp_path / "other")
        assert (other.states, other.sent) == (found.states, 0)


@pytest.mark.parametrize("protocol", ["dicomweb", "dimse"])
@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_goes_to_orthanc(
    packed: bool, protocol: str, tree: Path, orthanc: Orthanc, tmp_path: Path
) -> None:
    pack(tree, tmp_path / "archive", workers=0)
    stock = list_archive(Archive.open(tmp_path / "archive"), "Modality = 'MR'", packed=packed)
    found = send(stock, open_server(address_of(orthanc, protocol)), tmp_path / "work")
    assert found.states == {"verified": found.instances}
    assert found.instances > 3


def test_another_object_under_a_uid_is_found_out_and_left_alone(
    tree: Path, orthanc: Orthanc, tmp_path: Path
) -> None:
    for number, name in enumerate(("one", "two")):
        pixels = np.full((9, 9), number, np.uint16)
        write_dicom(
            tmp_path / name / "a.dcm", pixels, SOPInstanceUID="2.25.77",
            StudyInstanceUID="2.25.78", SeriesInstanceUID="2.25.79",
        )  # fmt: skip
    server = open_server(address_of(orthanc, "dicomweb"))
    assert send(list_tree(tmp_path / "one"), server, tmp_path / "w").troubles == []
    found = send(list_tree(tmp_path / "two"), server, tmp_path / "w")
    assert (found.states, found.sent) == ({"differs": 1}, 0)
    assert [one.uid for one in found.troubles] == ["2.25.77"]


def test_the_command_line_says_what_became_of_each(
    tree: Path, orthanc: Orthanc, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    address, home = address_of(orthanc, "dicomweb"), ("-w", tmp_path)
    refused = run_cli("push", tree, address, *home)
    assert refused.exit_code == 2
    assert "--identified sends them all the same" in refused.stderr
    done = run_cli("push", tree, address, "--identified", *home)
    assert done.exit_code == 1
    assert "came back with the same pixels" in done.stdout
    assert "other-of-the-same-uid.dcm" in done.stdout
    again = run_cli("push", tree, address, "--identified", "--json", *home)
    assert json.loads(again.stdout)["sent"] == 0
    one = shutil.copytree(tree / "98892003", tmp_path / "one")
    assert run_cli("push", one, address, "--identified", *home).exit_code == 0
    assert run_cli("push", tree, address, "--as", "packed", *home).exit_code == 2
    assert "medkit fetch" in run_cli("pull", address, tmp_path / "x").stderr


# ---- archives that store, and do no more ---------------------------------------------------------


@contextmanager
def start_peer(
    syntaxes: Sequence[str], status: Callable[[Any], int] = lambda event: 0
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the address of an archive that takes CT and MR, and what it has."""
    pytest.importorskip("pynetdicom")
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import (  # type: ignore[attr-defined]
        CTImageStorage,
        MRImageStorage,
    )

    stored: dict[str, bytes] = {}

    def store(event: Any) -> int:
        code = status(event)
        if code == 0:
            stored[str(event.request.AffectedSOPInstanceUID)] = event.encoded_dataset()
        return code

    entity, port = AE("PEER"), find_port()
    for kind in (CTImageStorage, MRImageStorage):
        entity.add_supported_context(kind, list(syntaxes))
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    try:
        yield f"dimse://PEER@127.0.0.1:{port}", stored
    finally:
        server.shutdown()  # type: ignore[union-attr]


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_what_is_not_taken_compressed_is_decompressed_or_refused_by_name(
    syntax: str, pydicom_files: Path, tmp_path: Path
) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    for name in (
        "MR_small_jpeg_ls_lossless.dcm",
        "CT_small.dcm",
        "693_J2KI.dcm",
        "JPEG2000.dcm",
    ):
        shutil.copy(pydicom_files / name, source / name)
    shutil.copy(pydicom_files / "JPEG-lossy.dcm", source / "lossy.dcm")
    lossy = pydicom.dcmread(source / "lossy.dcm")
    lossy.SOPClassUID = lossy.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    lossy.save_as(source / "lossy.dcm")
    with start_peer([syntax]) as (address, stored):
        found = send(list_tree(source), open_server(address), tmp_path / "work")
        assert found.states == {"accepted": 2, "refused": 3}
        reasons = {one.path: one.reason for one in found.troubles}
        assert "not decompressed without a loss" in reasons["lossy.dcm"]
        assert "takes no 1.2.840.10008.5.1.4.1.1.7" in reasons["JPEG2000.dcm"]
        for name in ("MR_small_jpeg_ls_lossless.dcm", "CT_small.dcm"):
            uid = pydicom.dcmread(source / name, stop_before_pixels=True).SOPInstanceUID
            there = tmp_path / f"{uid}.dcm"
            there.write_bytes(stored[uid])
            assert pydicom.dcmread(there).file_meta.TransferSyntaxUID == syntax
            assert compare(source / name, there) == ""
        stored.clear()
        again = send(list_tree(source), open_server(address), tmp_path / "work")
        assert again.states == found.states
        assert not stored  # what it took once, and cannot be asked for, is not sent again


def test_a_status_is_listed_with_its_meaning_and_tried_again(
    pydicom_files: Path, tmp_path: Path
) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm"):
        shutil.copy(pydicom_files / name, source / name)
    codes = [0xA702, 0xB000]
    with start_peer([EXPLICIT], lambda event: codes.pop() if codes else 0) as (address, stored):
        found = send(list_tree(source), open_server(address), tmp_path / "work")
        assert found.states == {"accepted": 1, "refused": 1}
        assert found.troubles[0].reason == "0xA702: the server is out of resources"
        again = send(list_tree(source), open_server(address), tmp_path / "work")
        assert again.states == {"accepted": 2}
        assert len(stored) == 1  # the other one was taken with a warning


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0xA7FF, "out of resources"),
        (0xA901, "does not match its SOP class"),
        (0xC0DE, "0xC0DE: the server does not understand it"),
        (0xC001, "does not understand"),
        (0x0122, "SOP class is not supported"),
        (0xC122, "transfer syntax is not supported"),
        (0x1234, "0x1234: refused"),
    ],
)
def test_statuses_are_said_in_words(code: int, said: str) -> None:
    assert said in describe_status(code).text
    assert describe_status(code).syntax == (code == 0xC122)


# ---- servers of DICOMweb with other answers ------------------------------------------------------


@contextmanager
def start_web(answer: Callable[[list[bytes]], tuple[int, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the address of a server that lists nothing, and the requests that it got."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            boundary = self.headers["Content-Type"].partition("boundary=")[2].encode()
            parts = body.split(b"--" + boundary)[1:-1]
            got.append((dict(self.headers), len(parts)))
            self._reply(*answer(parts))

        def do_GET(self) -> None:
            self._reply(200, [])

        def _reply(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server: socketserver.BaseServer = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"dicomweb+http://127.0.0.1:{server.server_address[1]}/dw", got  # type: ignore[str-bytes-safe]
    finally:
        server.shutdown()
        server.server_close()


def write_three(folder: Path) -> Path:
    for number in range(3):
        pixels = np.full((9, 9), number, np.uint16)
        write_dicom(
            folder / f"{number}.dcm", pixels, SOPInstanceUID=f"2.25.{number + 1}",
            StudyInstanceUID="2.25.8", SeriesInstanceUID="2.25.9",
        )  # fmt: skip
    return folder


def fail(*found: tuple[str, int]) -> dict[str, Any]:
    items = [
        {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [code]}}
        for uid, code in found
    ]
    return {"00081198": {"vr": "SQ", "Value": items}}


def test_a_failed_instance_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medkit.archive.sending._WAITS", ())
    tree = write_three(tmp_path / "tree")
    with start_web(lambda parts: (202, fail(("2.25.2", 0x0110)))) as (address, got):
        found = send(list_tree(tree), open_server(address), tmp_path / "work")
    assert found.states == {"refused": 1, "missing": 2}  # this server lists nothing
    reasons = {one.uid: one.reason for one in found.troubles}
    assert reasons["2.25.2"] == "0x0110: the server failed over it"
    assert [parts for _, parts in got] == [3]
    assert got[0][0]["Content-Type"].startswith('multipart/related; type="application/dicom"')


def test_a_batch_that_is_refused_as_a_whole_goes_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medkit.archive.sending._WAITS", ())
    tree = write_three(tmp_path / "tree")

    def answer(parts: list[bytes]) -> tuple[int, Any]:
        if len(parts) > 1:
            return 413, "too much"
        return (400, "bad") if b"2.25.3" in parts[0] else (200, {})

    with start_web(answer) as (address, got):
        found = send(list_tree(tree), open_server(address), tmp_path / "work")
    assert [parts for _, parts in got] == [3, 1, 1, 1]
    assert found.states == {"refused": 1, "missing": 2}
    assert "HTTP 400" in next(one.reason for one in found.troubles if one.state == "refused")


def test_a_password_is_sent_to_the_server_and_stands_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]
) -> None:
    from medkit.sources import connections

    monkeypatch.setattr("medkit.archive.sending._WAITS", ())
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    connections.read_netrc.cache_clear()
    tree = write_three(tmp_path / "tree")
    with start_web(lambda parts: (401, "")) as (address, got):
        done = run_cli("push", tree, address, "--identified", "-w", tmp_path / "w")
    connections.read_netrc.cache_clear()
    assert done.exit_code == 1
    assert "401" in done.stderr
    assert got[0][0]["authorization"].startswith("Basic ")
    said = done.stderr + done.stdout + "".join(
        path.read_text() for path in (tmp_path / "w").rglob("*") if path.is_file()
    )  # fmt: skip
    assert "hunter2" not in said
    with pytest.raises(UsageError, match="password"):
        open_server("dicomweb+https://me:hunter2@example.org/dw")
    with pytest.raises(UsageError, match="https"):
        open_server("dicomweb+http://example.org/dw")


# ---- a server in a folder, which alters, loses and breaks off ------------------------------------


class FolderServer:
    """Keeps instances in a folder; what goes wrong is chosen."""

    name, streams = "folder", 2

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lost: set[str] = set()
        self.stored: list[str] = []
        self.brought: list[str] = []
        self.fails_after = 10**9
        self.mute = False
        folder.mkdir(exist_ok=True)

    def list_instances(self, series: Series) -> set[str]:
        return {path.stem for path in self.folder.iterdir()} - self.lost

    def store(self, batch: Sequence[Outgoing]) -> dict[str, Refusal]:
        for one in batch:
            if len(self.stored) == self.fails_after:
                raise SourceError("the network broke off")
            shutil.copy(one.path, self.folder / f"{one.uid}.dcm")
            self.stored.append(one.uid)
        return {}

    def bring(
        self, series: Series, uids: Collection[str], folder: Path, complete: bool
    ) -> Mapping[str, Path]:
        if self.mute:
            raise MuteError("nothing comes back")
        self.brought += uids
        return {uid: self.folder / f"{uid}.dcm" for uid in uids}


@pytest.fixture
def server(tmp_path: Path) -> FolderServer:
    return FolderServer(tmp_path / "server")


def check_counts(found: Sent) -> None:
    assert sum(found.states.values()) == found.instances


def test_what_is_altered_or_lost_is_found_out(server: FolderServer, tmp_path: Path) -> None:
    tree = write_three(tmp_path / "tree")
    pixels = np.full((9, 9), 5, np.uint16)
    write_dicom(server.folder / "2.25.1.dcm", pixels, SOPInstanceUID="2.25.1")
    server.lost = {"2.25.2"}
    found = send(list_tree(tree), server, tmp_path / "work")
    check_counts(found)
    assert found.states == {"differs": 1, "missing": 1, "verified": 1}
    assert server.stored == ["2.25.2", "2.25.3"]  # the other one is not overwritten
    server.lost = set()
    again = send(list_tree(tree), server, tmp_path / "work")
    assert again.states == {"differs": 1, "verified": 2}
    assert "2.25.3" in server.brought
    assert server.brought.count("2.25.3") == 1
    # An instance that vanished over there is sent again, whatever the ledger says.
    (server.folder / "2.25.3.dcm").unlink()
    assert send(list_tree(tree), server, tmp_path / "work").sent == 1


def test_a_push_that_broke_off_goes_on(server: FolderServer, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number in range(12):
        pixels = np.full((9, 9), number, np.uint16)
        write_dicom(tree / f"{number}.dcm", pixels, SeriesInstanceUID=f"2.25.{number // 3 + 1}")
    server.fails_after = 7
    with pytest.raises(SourceError, match="broke off"):
        send(list_tree(tree), server, tmp_path / "work", streams=1)
    ledger = tmp_path / "work" / "ledger.jsonl"
    with ledger.open("ab") as stream:
        stream.write(b'{"uid": "cut')
    server.fails_after = 10**9
    found = send(list_tree(tree), server, tmp_path / "work", streams=1)
    assert found.states == {"verified": 12}
    assert sorted(server.stored) == sorted(set(server.stored))
    assert len(server.brought) == len(set(server.brought)) == 12
    assert not (tmp_path / "work" / "return").exists()


def test_a_server_that_gives_nothing_back_is_believed_as_far_as_it_lists(
    server: FolderServer, tmp_path: Path
) -> None:
    tree = write_three(tmp_path / "tree")
    server.mute = True
    assert send(list_tree(tree), server, tmp_path / "work").states == {"listed": 3}
    server.mute = False
    found = send(list_tree(tree), server, tmp_path / "work", check="listed")
    assert found.states == {"listed": 3}
    assert not server.brought
    assert send(list_tree(tree), server, tmp_path / "work").states == {"verified": 3}
    with pytest.raises(UsageError, match="pixels and listed"):
        send(list_tree(tree), server, tmp_path / "work", check="none")


def test_a_full_disk_is_a_clear_error_and_the_same_call_goes_on(
    server: FolderServer, tmp_path: Path
) -> None:
    tree = write_three(tmp_path / "tree")
    stock = list_tree(tree)

    def fill(*_: object) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stock.open = fill
    with pytest.raises(DiskFullError, match="no room left"):
        send(stock, server, tmp_path / "work")
    assert send(list_tree(tree), server, tmp_path / "work").states == {"verified": 3}


# ---- plainer files -------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm",
        "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_rle_16bit_2frame.dcm", "image_dfl.dcm",
        "liver_expb_1frame.dcm", "GDCMJ2K_TextGBR.dcm", "rtplan.dcm",
    ],
)  # fmt: skip
def test_a_plainer_file_has_the_same_pixels(
    name: str, syntax: str, pydicom_files: Path, tmp_path: Path
) -> None:
    write_plain(pydicom_files / name, tmp_path / "plain.dcm", syntax)
    made, source = pydicom.dcmread(tmp_path / "plain.dcm"), pydicom.dcmread(pydicom_files / name)
    assert made.file_meta.TransferSyntaxUID == syntax
    assert made.get("SOPInstanceUID") == source.get("SOPInstanceUID")
    if "PixelData" in source:
        assert np.array_equal(made.pixel_array, source.pixel_array)


def test_files_that_differ_are_told_apart(tmp_path: Path, pydicom_files: Path) -> None:
    pixels = np.arange(81, dtype=np.uint16).reshape(9, 9)
    one = write_dicom(tmp_path / "one.dcm", pixels)
    assert compare(one, write_dicom(tmp_path / "two.dcm", pixels, PatientName="X")) == ""
    other = write_dicom(tmp_path / "three.dcm", pixels + np.uint16(1))
    assert "frame 1" in compare(one, other)
    frames = write_dicom(tmp_path / "four.dcm", np.stack([pixels, pixels]))
    assert compare(one, frames) == "it has 2 frames, and had 1"
    assert compare(one, pydicom_files / "rtplan.dcm") == "its pixels are gone"
    plan = pydicom.dcmread(pydicom_files / "rtplan.dcm")
    plan.RTPlanLabel = "another"
    plan.save_as(tmp_path / "plan.dcm")
    assert compare(pydicom_files / "rtplan.dcm", tmp_path / "plan.dcm")
    assert compare(pydicom_files / "rtplan.dcm", pydicom_files / "rtplan.dcm") == ""


def test_what_cannot_be_made_plainer_exactly_is_refused(
    pydicom_files: Path, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="without a loss"):
        write_plain(pydicom_files / "JPEG-lossy.dcm", tmp_path / "a.dcm", EXPLICIT)
    with pytest.raises(SourceError, match="another object"):  # words of 32 bits in big-endian
        write_plain(pydicom_files / "rtdose_expb.dcm", tmp_path / "b.dcm", EXPLICIT)
