"""What cannot be fetched ends in one clear line and the right exit code, never in a traceback."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import faultserver as faults
import pytest
from faultserver import FaultServer

from medkit.cli import main
from medkit.errors import DiskFullError
from medkit.sources import carrying, https, retries, targets
from medkit.sources.descriptor import Descriptor
from medkit.sources.fetching import fetch
from medkit.sources.plans import Item, Plan
from medkit.workspace import Workspace

RULES = "accept the rules at https://www.kaggle.com/competitions/some-set/rules, then try again"
ADVICE = {401: "get a key at https://www.kaggle.com/settings", 403: RULES}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_backoff", lambda state: 0.0)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer({"/set.zip": b"x" * 100_000}) as server:
        yield server


CASES: dict[str, tuple[faults.Answer, str]] = {
    "who-are-you": (
        faults.answer_with("401 Unauthorized"),
        "set.zip: the server answers 401 Unauthorized: it asks who you are; put a user and a "
        f"password for it into ~/.netrc; {ADVICE[401]}",
    ),
    "rules-to-accept": (
        faults.answer_with("403 Forbidden", b'{"message": "accept the rules"}'),
        f"the server answers 403 Forbidden: it does not let you have it; {RULES}",
    ),
    "withdrawn": (
        faults.answer_with("410 Gone"),
        "the server answers 410 Gone: it says that it was withdrawn",
    ),
    "not-there": (
        faults.answer_with("404 Not Found"),
        "the server answers 404 Not Found: it has no such thing",
    ),
    "busy": (
        faults.answer_with("429 Too Many Requests", Retry_After=7200),
        "it answers 429 Too Many Requests; it asks to wait 7,200 seconds",
    ),
    "broken": (faults.answer_with("500 Oops"), "cannot be fetched: it answers 500"),
    "elsewhere": (faults.redirect_to("http://10.0.0.1/x"), "which is not https"),
}


def run_main(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_says_why_and_what_to_do(
    case: str,
    server: FaultServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer, message = CASES[case]
    server.faults["/set.zip"] = answer
    url = f"{server.url}/set.zip?token=secret"

    def plan(*_: object, **__: object) -> Plan:
        source = Descriptor("set", "A set", "1", "CC0-1.0", "https")
        place = server.url.removeprefix("http://")
        items = (Item(url, "set.zip", unpack=True),)
        return Plan(source, lambda: items, 1, asked=(place,), refusals=ADVICE)

    monkeypatch.setattr(targets, "plan_target", plan)
    assert run_main("fetch", "set", "--yes", "-w", tmp_path) == 1
    told = capsys.readouterr()
    assert message in told.err
    assert "Traceback" not in told.err + told.out
    assert "secret" not in told.err + told.out
    assert len(told.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ftp://example.org/a.zip", "--no-hash"], "cannot be fetched; give an https:// address"),
        (["http://example.org/a.zip", "--no-hash"], "cannot be fetched; give an https:// address"),
        (["https://u:secret@example.org/a.zip", "--no-hash"], "password in it is not taken"),
        (["https://example.org/a.zip"], "needs the SHA-256"),
        (["no-such-source"], "is no known source, folder, archive"),
        ([], "name a source"),
        (["pydicom-data", "--limit-rate", "fast"], "--limit-rate is 'fast'; give bytes as 500k"),
        (["pydicom-data", "--max-size", "1MB"], "more than --max-size allows"),
    ],
)
def test_what_is_asked_wrongly_ends_with_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("fetch", *arguments, "-w", tmp_path) == 2
    told = capsys.readouterr()
    assert message in " ".join(told.err.split())
    assert "secret" not in told.err


def test_without_a_network_the_host_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = "https://medkit.invalid/a.zip?token=secret"
    assert run_main("fetch", address, "--no-hash", "--yes", "-w", tmp_path) == 1
    told = capsys.readouterr().err
    assert "the name medkit.invalid is not found; is there a network?" in told
    assert "secret" not in told


def test_a_server_that_nobody_listens_at_is_named(
    server: FaultServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with server:
        pass  # it is closed, and its port is free
    assert run_main("fetch", f"{server.url}/a.zip", "--no-hash", "--yes", "-w", tmp_path) == 1
    assert "Connection refused" in capsys.readouterr().err


# ---- The disk ------------------------------------------------------------------------------------


def plan_files(server: FaultServer, count: int, size: int) -> Plan:
    server.objects = {f"/{n}": bytes([n]) * size for n in range(count)}
    items = [Item(f"{server.url}/{n}", str(n)) for n in range(count)]
    source = Descriptor("set", "A set", "1", "CC0-1.0", "https")
    return Plan(source, lambda: items, 1, asked=(server.url.removeprefix("http://"),))


def test_a_full_disk_is_said_so_and_the_fetch_goes_on_after(
    server: FaultServer, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_files(server, 20, 100_000)
    left = [10]

    def write(handle: Any, part: bytes, path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise retries.DiskError(errno.ENOSPC, "No space left on device", str(path))
        handle.write(part)

    with monkeypatch.context() as patched:
        patched.setattr(carrying, "_write", write)
        with pytest.raises(DiskFullError, match=r"there is no room left for .*; make room on its"):
            fetch(plan, workspace)
    assert fetch(plan, workspace).files == 20


FULL = """
import sys
from pathlib import Path
from medkit.sources.descriptor import Descriptor
from medkit.sources.fetching import fetch
from medkit.sources.plans import Item, Plan
from medkit.workspace import Workspace

root, place, count = sys.argv[1:]
items = [Item(f"http://{place}/{n}", str(n)) for n in range(int(count))]
plan = Plan(Descriptor("set", "A set", "1", "CC0-1.0", "https"), lambda: items, 1, asked=(place,))
try:
    fetch(plan, Workspace(Path(root)))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_disk_that_is_really_full_is_said_so(server: FaultServer, tmp_path: Path) -> None:
    plan_files(server, 20, 1_000_000)
    place = server.url.removeprefix("http://")
    (tmp_path / "full.py").write_text(FULL)
    disk = tmp_path / "disk"
    disk.mkdir()
    run = (
        f"mount -t tmpfs -o size=8m none {disk} && "
        f"{sys.executable} {tmp_path}/full.py {disk}/w {place} 20"
    )
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", run], capture_output=True, text=True)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout.startswith(("DiskFullError there is no room", "SourceError")), done.stderr
    assert "make room" in done.stdout


# ---- Secrets -------------------------------------------------------------------------------------


def test_addresses_are_not_logged_with_their_secrets(
    server: FaultServer, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    server.objects["/a"] = b"x"
    item = Item(f"{server.url}/a?sig=s3cret", "a")
    source = Descriptor("set", "A set", "1", "CC0-1.0", "https")
    plan = Plan(source, lambda: [item], 1, asked=(server.url.removeprefix("http://"),))
    fetch(plan, workspace)
    assert "s3cret" not in caplog.text
    assert all(
        b"s3cret" not in path.read_bytes() for path in workspace.root.rglob("*") if path.is_file()
    )


def test_credentials_reach_their_host_and_no_record(
    server: FaultServer, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those of ~/.netrc, by host; and those of a plan, not over a redirect to another place."""
    seen: list[tuple[str, str]] = []

    def answer(request: faults.Request, body: bytes) -> None:
        seen.append((request.headers["host"], request.headers.get("authorization", "")))
        faults.serve_well(request, body)

    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    https.read_netrc.cache_clear()
    with FaultServer({"/b": b"right"}, {"/b": answer}) as other:
        server.faults["/a"] = faults.redirect_to(f"{other.url}/b")
        server.faults["/c"] = answer
        server.objects["/c"] = b"right"
        here, there = (each.url.removeprefix("http://") for each in (server, other))
        source = Descriptor("set", "A set", "1", "CC0-1.0", "https")
        items = [Item(f"{server.url}/a", "a"), Item(f"{server.url}/c", "c")]
        plan = Plan(source, lambda: items, 1, asked=(here, there))
        fetch(
            replace(
                plan,
                credentials=lambda url: {"Authorization": "Bearer t0ken"} if here in url else {},
            ),
            workspace,
        )
    assert set(seen) == {(here, "bearer t0ken"), (there, "basic bwu6ahvudgvymg==")}
    for path in workspace.root.rglob("*"):
        if path.is_file():
            assert b"t0ken" not in path.read_bytes()
            assert b"hunter2" not in path.read_bytes()
