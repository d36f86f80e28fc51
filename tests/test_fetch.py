"""Fetching: whole or not at all, verified, found again, and goes on after a kill."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from medkit.errors import SourceError, UsageError, WorkspaceError
from medkit.sources import https, retries
from medkit.sources.addresses import check_url, hide_query, name_of_url
from medkit.sources.descriptor import Descriptor, SourceFile, find_descriptor
from medkit.sources.fetching import fetch, list_sources, read_files
from medkit.sources.plans import Plan
from medkit.sources.targets import describe_target, plan_source, plan_target
from medkit.workspace import Workspace

CONTENT = {"a.dcm": b"one" * 100, "folder/b.dcm": b"two" * 5000}


def pack(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


ARCHIVE = pack(CONTENT)


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def describe(*files: SourceFile) -> Plan:
    """Return the plan of files on this machine's own server."""
    descriptor = Descriptor("set", "A set", "1", "CC0-1.0", "https", size_bytes=1, files=files)
    return https.plan(descriptor, asked=files[0].url)


def read_result(folder: Path) -> dict[str, Any]:
    """Return a tree without the time in its provenance."""
    tree: dict[str, Any] = {**read_tree(folder)}
    for name in tree:
        if name.endswith("provenance.json"):
            tree[name] = json.loads(tree[name]) | {"fetched": ""}
    return tree


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts are some seconds apart."""
    monkeypatch.setattr(retries, "_backoff", lambda state: 0.0)


@pytest.fixture(scope="session")
def httpserver_listen_address() -> tuple[str, int]:
    return ("127.0.0.1", 0)


# ---- Folders and archives on this machine --------------------------------------------------------


def test_a_folder_is_registered_and_not_copied(workspace: Workspace, tmp_path: Path) -> None:
    images = tmp_path / "My-Export"
    images.mkdir()
    (images / "a.dcm").write_bytes(b"x")
    plan = plan_target(str(images), licence="ours")
    assert fetch(plan, workspace).status == "registered"
    assert fetch(plan, workspace).status == "already there"
    assert list(read_tree(workspace.raw)) == ["My-Export/provenance.json"]
    (source,) = list_sources(workspace)
    assert (source.name, source.folder, source.licence) == ("My-Export", images, "ours")
    assert source.person_regex is None


def test_a_package_that_moved_is_registered_anew(workspace: Workspace, tmp_path: Path) -> None:
    descriptor = find_descriptor("pydicom-test-files")
    assert descriptor is not None
    fetch(plan_source(descriptor), workspace)
    provenance = workspace.raw / "pydicom-test-files" / "provenance.json"
    known = json.loads(provenance.read_text())
    provenance.write_text(json.dumps(known | {"location": str(tmp_path)}))
    assert fetch(plan_source(descriptor), workspace).status == "registered"
    assert json.loads(provenance.read_text()) == known


def test_a_name_is_not_taken_twice(workspace: Workspace, tmp_path: Path) -> None:
    for parent in ("one", "two"):
        (tmp_path / parent / "images").mkdir(parents=True)
    fetch(plan_target(str(tmp_path / "one" / "images")), workspace)
    with pytest.raises(UsageError, match=r"'images' is taken by the folder .*one.*--name"):
        fetch(plan_target(str(tmp_path / "two" / "images")), workspace)
    fetch(plan_target(str(tmp_path / "two" / "images"), name="two"), workspace)
    assert [source.name for source in list_sources(workspace)] == ["images", "two"]


def test_a_folder_that_holds_the_workspace_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    workspace.source("x").mkdir(parents=True)
    for folder in (tmp_path, workspace.root, workspace.source("x")):
        with pytest.raises(UsageError, match=r"lie in one another; .*-w"):
            fetch(plan_target(str(folder), name="y"), workspace)


def test_an_archive_is_unpacked_and_verified(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "Export.zip"
    path.write_bytes(ARCHIVE)
    plan = plan_target(str(path), sha256=hash_of(ARCHIVE).upper())
    found = fetch(plan, workspace)
    assert (found.status, found.files, found.size) == ("fetched", 2, 300 + 15000)
    folder = found.source.folder
    assert read_tree(folder) == {f"Export/{name}": content for name, content in CONTENT.items()}
    assert path.read_bytes() == ARCHIVE
    assert fetch(plan, workspace).status == "already there"
    (folder / "Export" / "a.dcm").write_bytes(b"changed")
    with pytest.raises(SourceError, match=r"1 of 2 files .* the first 'Export/a\.dcm'; remove"):
        fetch(plan, workspace)


def test_an_archive_of_another_hash_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "export.zip"
    path.write_bytes(ARCHIVE)
    with pytest.raises(
        SourceError, match=f"its sha256 is {hash_of(ARCHIVE)}, not the {'0' * 64} stated"
    ):
        fetch(plan_target(str(path), sha256="0" * 64), workspace)
    assert list_sources(workspace) == []


def test_a_refused_archive_leaves_no_source(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "export.zip"
    path.write_bytes(pack({"good": b"x", "../bad": b"x"}))
    with pytest.raises(SourceError, match=r"export\.zip is refused: its member '\.\./bad'"):
        fetch(plan_target(str(path)), workspace)
    assert list_sources(workspace) == []
    assert not (tmp_path / "bad").exists()


def test_a_folder_put_into_raw_by_hand_is_a_source(workspace: Workspace, tmp_path: Path) -> None:
    workspace.source("mine").mkdir(parents=True)
    (source,) = list_sources(workspace)
    assert (source.name, source.folder) == ("mine", workspace.raw / "mine")
    with pytest.raises(UsageError, match=r"was not fetched by medkit; .*--name"):
        fetch(plan_target(str(tmp_path), name="mine"), workspace)


def test_a_damaged_provenance_is_said_so(workspace: Workspace) -> None:
    workspace.source("set").mkdir(parents=True)
    (workspace.source("set") / "provenance.json").write_text("[]")
    with pytest.raises(WorkspaceError, match=r"provenance\.json is not the provenance"):
        list_sources(workspace)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("nothing", {}, "'nothing' is no known source, folder, archive .*pydicom-test-files"),
        ("{file}", {}, "is no known source"),
        ("pydicom-data", {"licence": "mine"}, "states its own licence and hashes"),
        ("{folder}", {"sha256": "0" * 64}, "is a folder; --sha256 is for"),
        ("{folder}", {"sha256": "12"}, "'12' is no SHA-256"),
        ("{folder}", {"unchecked": True}, "--no-hash is for https addresses"),
        ("{folder}", {"name": "a b"}, "'a b' cannot be a name.*--name"),
        ("https://example.org/a", {}, "needs the SHA-256 .* or --no-hash"),
        ("https://example.org/a", {"sha256": "0" * 64, "unchecked": True}, "one of the two"),
        ("http://example.org/a", {}, "'http://example.org/a' cannot be fetched"),
        ("ftp://example.org/a", {}, "cannot be fetched; give an https:// address"),
        ("https://[/a", {}, "cannot be fetched"),
        ("https://user:secret@example.org/a", {}, "keep the password in ~/.netrc"),
    ],
)
def test_what_does_not_fit_is_refused(
    target: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "file.txt").write_text("x")
    target = target.format(file=tmp_path / "file.txt", folder=tmp_path)
    with pytest.raises(UsageError, match=message) as caught:
        describe_target(target, **options)
    assert "secret" not in str(caught.value)


def test_addresses_are_shown_without_secrets_and_named_safely() -> None:
    assert hide_query("https://u:p@host:1/a/b.zip?sig=s#f") == "https://host:1/a/b.zip"
    assert check_url("https://host/a?sig=s") == "https://host/a?sig=s"
    names = {"https://h/a/b.zip?x=1": "b.zip", "https://h/": "download", "https://h/..%2f": "2f"}
    assert {url: name_of_url(url) for url in names} == names


# ---- Downloads -----------------------------------------------------------------------------------


def test_a_download_with_the_right_hash_is_unpacked(
    httpserver: HTTPServer, workspace: Workspace
) -> None:
    httpserver.expect_request("/set.zip").respond_with_data(ARCHIVE)
    httpserver.expect_request("/labels.csv").respond_with_data(b"path,label\n")
    plan = describe(
        SourceFile(httpserver.url_for("/set.zip"), hash_of(ARCHIVE), len(ARCHIVE)),
        SourceFile(httpserver.url_for("/labels.csv?key=secret"), hash_of(b"path,label\n")),
    )
    told: list[tuple[int, int | None, str]] = []
    found = fetch(plan, workspace, progress=lambda *news: told.append(news))
    assert (found.status, found.files) == ("fetched", 3)
    assert set(read_tree(found.source.folder)) == {"labels.csv", *(f"set/{n}" for n in CONTENT)}
    assert [entry.name for entry in workspace.raw.iterdir()] == ["set"]
    assert "secret" not in (workspace.raw / "set" / "provenance.json").read_text()
    assert {unit for _, _, unit in told} == {"bytes"}
    assert found.references == {"sha256": 2}
    requests = len(httpserver.log)
    assert fetch(plan, workspace).status == "already there"
    assert len(httpserver.log) == requests


def test_an_archive_can_stay_packed(httpserver: HTTPServer, workspace: Workspace) -> None:
    httpserver.expect_request("/set.zip").respond_with_data(ARCHIVE)
    file = SourceFile(httpserver.url_for("/set.zip"), hash_of(ARCHIVE), unpack=False)
    found = fetch(describe(file), workspace)
    assert read_tree(found.source.folder) == {"set.zip": ARCHIVE}


def test_a_file_larger_than_the_free_disk_is_not_asked_for(
    httpserver: HTTPServer, workspace: Workspace
) -> None:
    plan = describe(SourceFile(httpserver.url_for("/a"), hash_of(b"x")))
    plan = replace(plan, preflight=replace(plan.preflight, size=1 << 60))
    with pytest.raises(SourceError, match=r"set has 1,152,.* bytes, and .* are free in"):
        fetch(plan, workspace)
    assert httpserver.log == []


def test_a_size_is_not_asked_over_a_redirect_elsewhere(httpserver: HTTPServer) -> None:
    moved = Response(status=302, headers={"Location": "http://example.org/a"})
    httpserver.expect_request("/a").respond_with_response(moved)
    with pytest.raises(SourceError, match="which is not https"):
        plan_target(httpserver.url_for("/a"), unchecked=True)


def test_a_redirect_that_stays_is_followed(httpserver: HTTPServer, workspace: Workspace) -> None:
    moved = Response(status=302, headers={"Location": "/b"})
    httpserver.expect_request("/a").respond_with_response(moved)
    httpserver.expect_request("/b").respond_with_data(b"right")
    plan = plan_target(httpserver.url_for("/a"), sha256=hash_of(b"right"))
    assert plan.preflight.size == 5
    assert read_tree(fetch(plan, workspace).source.folder) == {"a": b"right"}


def test_a_download_without_a_reference_is_recorded_so(
    httpserver: HTTPServer, workspace: Workspace
) -> None:
    httpserver.expect_request("/set.zip").respond_with_data(ARCHIVE)
    plan = plan_target(httpserver.url_for("/set.zip?key=secret"), unchecked=True)
    assert (plan.source.name, plan.preflight.size) == ("set", len(ARCHIVE))
    assert "secret" not in plan.source.title
    assert fetch(plan, workspace).references == {"none": 1}
    origin, *members = read_files(workspace.source("set"))
    assert origin == {
        "path": "set.zip",
        "url": httpserver.url_for("/set.zip"),
        "sha256": hash_of(ARCHIVE),
        "size": len(ARCHIVE),
        "reference": "none",
        "unpacked": True,
    }
    assert [(member["path"], member["sha256"]) for member in members] == [
        (f"set/{name}", hash_of(content)) for name, content in CONTENT.items()
    ]
    assert fetch(plan, workspace).status == "already there"
    with pytest.raises(UsageError, match="'set' is taken"):
        fetch(replace(plan, request="another"), workspace)


# ---- Kills ---------------------------------------------------------------------------------------

KILLER = """
import os, sys
from pathlib import Path
from medkit.sources.descriptor import Descriptor, SourceFile
from medkit.sources.fetching import fetch
from medkit.workspace import Workspace
from medkit.sources.targets import plan_source
from medkit.sources import https
import medkit.sources.transfer

root, protocol, url, sha256, steps = sys.argv[1:]
left = int(steps)

def count(event, arguments):
    global left
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
        left -= 1
        if left == 0:
            os._exit(9)

file = SourceFile(url, sha256)
sys.addaudithook(count)
source = Descriptor("set", "A set", "1", "CC0-1.0", protocol, size_bytes=1, files=(file,))
plan = plan_source(source) if protocol == "local" else https.plan(source, asked=url)
fetch(plan, Workspace(Path(root)))
"""


@pytest.mark.parametrize(
    ("protocol", "checked", "stride"), [("local", False, 2), ("https", True, 3)]
)
def test_a_killed_fetch_goes_on_to_the_same_result(
    protocol: str, checked: bool, stride: int, httpserver: HTTPServer, tmp_path: Path
) -> None:
    """Killed before every second or third of its changes to the disk, one after the other."""
    httpserver.expect_request("/set.zip").respond_with_data(ARCHIVE)
    (tmp_path / "set.zip").write_bytes(ARCHIVE)
    urls = {"local": (tmp_path / "set.zip").as_uri(), "https": httpserver.url_for("/set.zip")}
    sha256 = hash_of(ARCHIVE) if checked else ""

    def run(workspace: Path, steps: int) -> int:
        return subprocess.run(
            [sys.executable, "-c", KILLER, workspace, protocol, urls[protocol], sha256, str(steps)]
        ).returncode

    assert run(tmp_path / "whole", 0) == 0
    whole = read_result(tmp_path / "whole")
    broken = Workspace(tmp_path / "broken")
    steps = 1
    while run(broken.root, steps) == 9:
        assert list_sources(broken) == [] or read_result(broken.root) == whole
        steps += stride
    assert steps > 12
    assert read_result(broken.root) == whole
    assert [entry.name for entry in broken.raw.iterdir()] == ["set"]


def test_the_work_of_another_fetch_is_not_taken_over(
    workspace: Workspace, tmp_path: Path, httpserver: HTTPServer
) -> None:
    left = workspace.raw / ".set.part" / "files" / "set"
    left.mkdir(parents=True)
    (left / "other.dcm").write_bytes(b"x")
    (tmp_path / "set.zip").write_bytes(ARCHIVE)
    found = fetch(plan_target(str(tmp_path / "set.zip")), workspace)
    assert set(read_tree(found.source.folder)) == {f"set/{name}" for name in CONTENT}


# ---- The command ---------------------------------------------------------------------------------


def test_the_command_registers_lists_and_says_the_licence(
    run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    done = run_cli("fetch", "pydicom-test-files", "-w", tmp_path)
    assert done.exit_code == 0, done.stderr
    assert "licence: MIT" in done.stdout
    listed = json.loads(run_cli("fetch", "--list", "--json", "-w", tmp_path).stdout)
    assert [source["name"] for source in listed["fetched"]] == ["pydicom-test-files"]
    assert listed["problems"] == []
    table = run_cli("fetch", "--list", "-w", tmp_path, COLUMNS="200").stdout
    assert "pydicom-data" in table
    assert "58.0 MB" in table


def test_the_command_asks_before_a_download(
    run_cli: Callable[..., Any], httpserver: HTTPServer, tmp_path: Path
) -> None:
    httpserver.expect_request("/set.zip").respond_with_data(ARCHIVE)
    url = httpserver.url_for("/set.zip?key=secret")
    ask = ["fetch", url, "--sha256", hash_of(ARCHIVE), "--licence", "CC0-1.0", "-w", tmp_path]
    done = run_cli(*ask)
    assert done.exit_code == 2
    assert "licence CC0-1.0, 0.0 MB; accept them with --yes" in done.stderr
    shown = run_cli(*ask, "--dry-run", "--json")
    assert json.loads(shown.stdout)["licence"] == "CC0-1.0"
    assert [request.method for request, _ in httpserver.log] == ["HEAD", "HEAD"]
    brought = run_cli(*ask, "--yes", "--json")
    assert json.loads(brought.stdout)["files"] == 2
    again = run_cli(*ask)
    assert "set: already there; nothing was moved; 2 files, 15,300 bytes" in again.stdout
    assert all("secret" not in run.stdout + run.stderr for run in (done, shown, brought, again))


@pytest.mark.parametrize(("answer", "expected"), [("y\n", "fetched"), ("n\n", "")])
@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_the_command_takes_yes_or_no_on_a_terminal(
    answer: str, expected: str, httpserver: HTTPServer, tmp_path: Path
) -> None:
    import pty

    httpserver.expect_request("/set.zip").respond_with_data(ARCHIVE)
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    command = ["fetch", httpserver.url_for("/set.zip"), "--no-hash", "-w", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "medkit", *command], stdin=theirs, capture_output=True, text=True
    )
    os.close(ours)
    os.close(theirs)
    assert "Licence: not stated. Size: 0.0 MB. Fetch?" in done.stderr
    assert (expected in done.stdout, done.returncode) == (True, 0 if expected else 1)
    if expected:
        assert "no reference hash for 1 of 1 objects" in done.stdout
