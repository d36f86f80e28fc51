"""TCIA: manifests of every make, and series from IDC first and NBIA second."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
from fakeindex import install_index, write_index
from hypothesis import given
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer

from medkit.errors import SourceError, UsageError
from medkit.sources import tcia
from medkit.sources.fetching import fetch
from medkit.sources.targets import plan_target
from medkit.workspace import Workspace

HEAD = [
    "downloadServerUrl=https://nbia.cancerimagingarchive.net/nbia-download/servlet/DownloadServlet",
    "includeAnnotation=true",
    "noOfrRetry=4",
    "databasketId=manifest-1724796815128.tcia",
    "manifestVersion=3.0",
]
UIDS = ["1.3.6.1.4.1.14519.5.2.1.1", "1.3.6.1.4.1.14519.5.2.1.2", "1.3.6.1.4.1.14519.5.2.1.3"]


def write(path: Path, lines: list[str], end: str = "\n", mark: bytes = b"") -> Path:
    path.write_bytes(mark + end.join(lines).encode())
    return path


@given(
    head=st.lists(st.sampled_from(HEAD), max_size=8),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    blanks=st.integers(0, 3),
    inline=st.booleans(),
)
def test_no_series_of_a_manifest_is_lost(
    head: list[str], end: str, mark: bytes, blanks: int, inline: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """Whatever the length of its head, its line ends, its mark, and where the list begins."""
    begin = ["ListOfSeriesToDownload=" + (UIDS[0] if inline else "")]
    lines = [*head, *begin, *[""] * blanks, *UIDS[inline:], *[""] * blanks]
    path = write(tmp_path_factory.mktemp("m") / "a.tcia", lines, end, mark)
    assert tcia.read_manifest(path) == tcia.Manifest(tuple(UIDS))


def test_lines_that_are_no_series_are_counted(tmp_path: Path) -> None:
    lines = ["ListOfSeriesToDownload=", UIDS[0], UIDS[0], "1.2.3; rm -rf /", "\x1b[31m", UIDS[1]]
    found = tcia.read_manifest(write(tmp_path / "a.tcia", lines))
    assert found == tcia.Manifest((UIDS[0], UIDS[1]), 1, 2, "1.2.3; rm -rf /")


@pytest.mark.parametrize(
    ("lines", "said"),
    [(HEAD, "no line 'ListOfSeriesToDownload='"), ([*HEAD, "ListOfSeriesToDownload="], "lists no")],
)
def test_what_is_no_manifest_is_refused(lines: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        plan_target(str(write(tmp_path / "a.tcia", lines)))


def pack_series(content: bytes, sums: str | None = None) -> bytes:
    """A zip as NBIA makes it: the files, a licence, and the MD5 of each."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("1-1.dcm", content)
        archive.writestr("LICENSE", "CC BY\n")
        digest = sums or hashlib.md5(content).hexdigest()
        licence = hashlib.md5(b"CC BY\n").hexdigest()
        lines = f"SOPInstanceUID,MD5Hash\n1-1.dcm,{digest}\nLICENSE,{licence}\n"
        archive.writestr("md5hashes.csv", lines)
    return buffer.getvalue()


@pytest.fixture
def nbia(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> HTTPServer:
    monkeypatch.setenv(tcia.ENDPOINT, httpserver.url_for("/v4"))
    monkeypatch.setitem(__import__("sys").modules, "idc_index_data", None)
    monkeypatch.setattr(tcia.idc, "is_installed", lambda: False)
    return httpserver


def serve(nbia: HTTPServer, uid: str, body: bytes, status: int = 200) -> None:
    asked = {"SeriesInstanceUID": uid}
    answer = nbia.expect_request("/v4/getImageWithMD5Hash", query_string=asked)
    answer.respond_with_data(body, status=status)


def test_a_collection_comes_from_nbia(
    nbia: HTTPServer, workspace: Workspace, pydicom_files: Path
) -> None:
    content = (pydicom_files / "CT_small.dcm").read_bytes()
    asked = {"Collection": "A-B"}
    listed = [{"SeriesInstanceUID": uid} for uid in UIDS[:2]]
    nbia.expect_request("/v4/getSeries", query_string=asked).respond_with_json(listed)
    for uid in UIDS[:2]:
        serve(nbia, uid, pack_series(content + uid.encode()))
    planned = plan_target("tcia:A-B")
    assert planned.preflight.series == 2
    done = fetch(planned, workspace)
    brought = {path.relative_to(done.source.folder).as_posix(): path.read_bytes()
               for path in done.source.folder.rglob("*.dcm")}  # fmt: skip
    assert brought == {f"{uid}/1-1.dcm": content + uid.encode() for uid in UIDS[:2]}
    assert fetch(plan_target("tcia:A-B"), workspace).status == "already there"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (pack_series(b"x" * 300, "0" * 32), 200, "1-1.dcm"),
        (b"", 404, "does not have this series"),
        (b"", 403, "https://github.com/TCIA/data-retriever"),
        (b"<html>error</html>", 200, "no archive"),
    ],
)
def test_a_series_that_is_not_right_is_refused(
    body: bytes, status: int, said: str, nbia: HTTPServer, workspace: Workspace, tmp_path: Path
) -> None:
    path = write(tmp_path / "cart.tcia", [*HEAD, "ListOfSeriesToDownload=", UIDS[0]])
    serve(nbia, UIDS[0], body, status)
    with pytest.raises(SourceError, match=said):
        fetch(plan_target(str(path)), workspace)
    assert workspace.names("raw") == []


def test_a_collection_that_nbia_does_not_know_is_said_so(nbia: HTTPServer) -> None:
    nbia.expect_request("/v4/getSeries").respond_with_data(b"")
    with pytest.raises(SourceError, match="names no series of a collection 'nothing'"):
        plan_target("tcia:nothing")
    with pytest.raises(UsageError, match="--where is asked of the index"):
        plan_target("tcia:nothing", where="Modality = 'CT'")


def test_what_idc_has_comes_from_there_and_the_rest_from_nbia(
    tmp_path: Path,
    pydicom_files: Path,
    httpserver: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_index(tmp_path, [pydicom_files / "CT_small.dcm"], collection="the_toy")
    install_index(tmp_path, monkeypatch)
    known = "1.3.6.1.4.1.5962.1.3.1.1.20040119072730.12322"
    path = write(tmp_path / "a.tcia", ["ListOfSeriesToDownload=", UIDS[0], known])
    facts = plan_target(str(path)).preflight
    assert (facts.series, facts.size) == (2, None)
    assert "1 of 2 series come from NBIA" in facts.warnings[-1]
    whole = plan_target(str(write(tmp_path / "b.tcia", ["ListOfSeriesToDownload=", known])))
    assert whole.preflight.size == (pydicom_files / "CT_small.dcm").stat().st_size
    named = plan_target("tcia:The-Toy")
    assert "brought from the Imaging Data Commons" in named.preflight.warnings[-1]
    assert named.source.licence == "CC BY-NC 4.0"
