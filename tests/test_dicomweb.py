"""DICOMweb from a server with faults: complete or refused, and nothing in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from medkit.errors import SourceError
from medkit.sources import retries
from medkit.sources.fetching import fetch
from medkit.sources.targets import plan_target
from medkit.workspace import Workspace

STUDY, SERIES = "1.2.3", "1.2.3.4"
PLACE = f"/web/studies/{STUDY}/series/{SERIES}"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_backoff", lambda state: 0)


def make_file(pydicom_files: Path, instance: str, series: str = SERIES) -> bytes:
    import io

    import pydicom

    dataset = pydicom.dcmread(pydicom_files / "SC_rgb_small_odd.dcm")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, series
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = instance
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def pack(files: list[bytes]) -> bytes:
    parts = (b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files)
    return b"".join(parts) + b"--b--\r\n"


def answer(files: list[bytes], **changes: Any) -> Response:
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    return Response(**{"response": pack(files), "content_type": kind, **changes})


@pytest.fixture
def files(pydicom_files: Path) -> dict[str, bytes]:
    return {uid: make_file(pydicom_files, uid) for uid in ("1.1", "1.2", "1.3")}


@pytest.fixture
def serve(httpserver: HTTPServer, files: dict[str, bytes]) -> Callable[..., str]:
    """Start a server that answers for the series, and for each instance, as it is told."""

    def start(
        series: Callable[[Request], Response], instance: Callable[[str], Response] | None = None
    ) -> str:
        row = {
            "0020000D": {"vr": "UI", "Value": [STUDY]},
            "0020000E": {"vr": "UI", "Value": [SERIES]},
            "00080060": {"vr": "CS", "Value": ["OT"]},
            "00201209": {"vr": "IS", "Value": [len(files)]},
        }
        listed = [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in files]
        # It knows no pages: whatever the offset, it gives all.
        httpserver.expect_request("/web/series").respond_with_json([row])
        httpserver.expect_request(f"{PLACE}/instances").respond_with_json(listed)
        httpserver.expect_request(PLACE).respond_with_handler(series)
        for uid in files:
            one = httpserver.expect_request(f"{PLACE}/instances/{uid}")
            one.respond_with_handler(
                lambda request, uid=uid: instance(uid) if instance else Response(status=404)
            )
        return f"dicomweb+{httpserver.url_for('/web')}"

    return start


def read(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in folder.rglob("*.dcm")}


def test_a_series_comes_as_it_is_stored(
    serve: Callable[..., str], files: dict[str, bytes], workspace: Workspace, httpserver: HTTPServer
) -> None:
    planned = plan_target(serve(lambda request: answer([*files.values()])))
    assert (planned.preflight.series, planned.preflight.files) == (1, 3)
    done = fetch(planned, workspace)
    assert read(done.source.folder) == files
    (asked,) = [request for request, _ in httpserver.log if request.path == PLACE]
    assert "transfer-syntax=*" in asked.headers["Accept"]


def test_a_cut_answer_is_asked_for_again(
    serve: Callable[..., str], files: dict[str, bytes], workspace: Workspace
) -> None:
    """Once within a part, and once between two."""
    whole = pack([*files.values()])
    bodies = [whole[:900], whole[: whole.rindex(b"--b--")], whole]

    def series(request: Request) -> Response:
        return answer([], response=bodies.pop(0))

    assert read(fetch(plan_target(serve(series)), workspace).source.folder) == files
    assert bodies == []


def test_what_the_series_lacks_comes_one_by_one(
    serve: Callable[..., str], files: dict[str, bytes], workspace: Workspace
) -> None:
    def instance(uid: str) -> Response:  # not packed, as some servers do for one
        return Response(files[uid], content_type="application/dicom")

    target = serve(lambda request: answer([files["1.1"]]), instance)
    assert read(fetch(plan_target(target), workspace).source.folder) == files


def test_what_never_comes_is_named_or_left_out(
    serve: Callable[..., str], files: dict[str, bytes], workspace: Workspace
) -> None:
    target = serve(lambda request: answer([files["1.1"], files["1.3"]]))
    with pytest.raises(SourceError, match=r"1 of 3 instances .* the first 1\.2: .* 404"):
        fetch(plan_target(target), workspace)
    assert workspace.names("raw") == []
    done = fetch(plan_target(target, leave_out=True), workspace)
    assert set(read(done.source.folder)) == {"1.1", "1.3"}
    assert {path.suffix for path in done.source.folder.rglob("*") if path.is_file()} == {".dcm"}
    assert done.refused == 1
    lines = (done.source.folder.parent / "files.jsonl").read_text().splitlines()
    assert [line["refused"][0][:4] for line in map(json.loads, lines) if "refused" in line] == [
        "1.2:"
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda files, make: answer([*files.values(), make("1.9")]), "does not list, the first"),
        (lambda files, make: answer([make("1.1", "9.9")]), "where 1.2.3.4 was asked for"),
        (lambda files, make: answer([b"no dicom at all" * 20]), "what came has no SOPInstanceUID"),
        (lambda files, make: Response("<html>", content_type="text/html"), "come, the first 1.1"),
        (lambda files, make: Response("no", status=403), "come, the first 1.1"),
        (lambda files, make: Response("no", status=406), "come, the first 1.1"),
    ],
)
def test_nothing_else_is_taken(
    body: Callable[..., Response],
    said: str,
    serve: Callable[..., str],
    files: dict[str, bytes],
    pydicom_files: Path,
    workspace: Workspace,
) -> None:
    def make(uid: str, series: str = SERIES) -> bytes:
        return make_file(pydicom_files, uid, series)

    target = serve(lambda request: body(files, make))
    with pytest.raises(SourceError, match=said):
        fetch(plan_target(target), workspace)
    assert workspace.names("raw") == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("[1]", "no DICOM JSON"),
        ("<html>", "no DICOM JSON"),
        ("[{}]", "without UIDs"),
        ("", "has no"),
    ],
)
def test_an_answer_to_a_query_that_is_none_is_refused(
    body: str, said: str, httpserver: HTTPServer
) -> None:
    httpserver.expect_request("/web/series").respond_with_data(body)
    with pytest.raises(SourceError, match=said):
        plan_target(f"dicomweb+{httpserver.url_for('/web')}")
