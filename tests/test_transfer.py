"""What is moved ends where it belongs: archives in parts, lists of sums, several files at once."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faultserver import FaultServer
from hostile import pack_zip, read_tree

from medkit.errors import SourceError
from medkit.sources import retries
from medkit.sources.descriptor import Descriptor
from medkit.sources.fetching import fetch, list_sources, read_files
from medkit.sources.ledger import Begun, Ledger
from medkit.sources.pace import Pace
from medkit.sources.plans import Item, Plan, Preflight, Unsteady
from medkit.sources.preflight import take_sample, warn
from medkit.sources.targets import plan_target
from medkit.workspace import Workspace

CONTENT = {"1-01.dcm": b"one" * 1000, "1-02.dcm": random.Random(1).randbytes(9000)}
SOURCE = Descriptor("set", "A set", "1", "CC0-1.0", "https")
PACE = Pace(workers=3, attempts=3, patience=0.5)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_backoff", lambda state: 0.0)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def plan_items(server: FaultServer, *items: Item) -> Plan:
    place = server.url.removeprefix("http://")
    return Plan(SOURCE, lambda: items, [item.path for item in items], asked=(place,))


def split(content: bytes, count: int) -> dict[str, bytes]:
    size = -(-len(content) // count)
    return {
        f"/train.zip.{number + 1:03}": content[number * size : (number + 1) * size]
        for number in range(count)
    }


# ---- Archives in parts ---------------------------------------------------------------------------


def plan_parts(server: FaultServer, parts: dict[str, bytes]) -> Plan:
    server.objects = parts
    items = [
        Item(f"{server.url}{path}", path[1:], len(part), unpack=True)
        for path, part in parts.items()
    ]
    return plan_items(server, *reversed(items))


def test_parts_are_brought_and_joined(server: FaultServer, workspace: Workspace) -> None:
    plan = plan_parts(server, split(pack_zip(CONTENT), 4))
    found = fetch(plan, workspace, pace=PACE)
    assert read_tree(found.source.folder) == {
        f"train/{name}": content for name, content in CONTENT.items()
    }
    assert (found.files, found.references) == (2, {"none": 4})
    requests = len(server.requests)
    assert fetch(plan, workspace).status == "already there"
    assert len(server.requests) == requests


def test_a_part_that_is_missing_is_named(server: FaultServer, workspace: Workspace) -> None:
    parts = split(pack_zip(CONTENT), 4)
    del parts["/train.zip.002"]
    with pytest.raises(SourceError, match=r"of train\.zip there are the parts 1, 3, 4; they must"):
        fetch(plan_parts(server, parts), workspace, pace=PACE)
    assert list_sources(workspace) == []


def test_a_part_that_is_damaged_is_found_and_asked_for_anew(
    server: FaultServer, workspace: Workspace
) -> None:
    right = split(pack_zip(CONTENT), 4)
    plan = plan_parts(server, dict(right))
    damaged = bytearray(right["/train.zip.003"])
    damaged[len(damaged) // 2] ^= 1
    server.objects["/train.zip.003"] = bytes(damaged)
    with pytest.raises(SourceError, match="checksum"):
        fetch(plan, workspace, pace=PACE)
    server.objects = right
    assert fetch(plan, workspace, pace=PACE).files == 2


def test_parts_on_this_machine_are_found_by_the_first(workspace: Workspace, tmp_path: Path) -> None:
    for path, part in split(pack_zip(CONTENT), 3).items():
        (tmp_path / path[1:]).write_bytes(part)
    plan = plan_target(str(tmp_path / "train.zip.001"))
    folder = fetch(plan, workspace).source.folder
    assert folder == workspace.raw / "train" / "files"
    assert read_tree(folder / "train") == CONTENT
    assert len(read_tree(tmp_path)) == 3 + len(read_tree(workspace.root))


# ---- NBIA's lists of sums ------------------------------------------------------------------------


def list_sums(members: dict[str, bytes]) -> bytes:
    lines = [f"{name},{hashlib.md5(content).hexdigest()}" for name, content in members.items()]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"md5hashes.csv": list_sums({**CONTENT, "1-02.dcm": b"x"})}, "1-02.dcm has the MD5"),
        ({"md5hashes.csv": list_sums({**CONTENT, "1-03.dcm": b"x"})}, "1 files of md5hashes.csv"),
    ],
)
def test_members_are_compared_with_the_list_among_them(
    change: dict[str, bytes], message: str, server: FaultServer, workspace: Workspace
) -> None:
    members = {**CONTENT, "LICENSE": b"CC", "md5hashes.csv": list_sums(CONTENT), **change}
    server.objects["/a"] = pack_zip(members)
    plan = plan_items(server, Item(f"{server.url}/a", "1.2.zip", unpack=True, sums="md5hashes.csv"))
    if message:
        with pytest.raises(SourceError, match=message):
            fetch(plan, workspace, pace=PACE)
        assert list_sources(workspace) == []
        return
    folder = fetch(plan, workspace, pace=PACE).source.folder
    assert read_tree(folder) == {f"1.2/{n}": c for n, c in (CONTENT | {"LICENSE": b"CC"}).items()}
    lines = {line["path"]: line.get("reference") for line in read_files(workspace.source("set"))}
    assert lines["1.2/1-01.dcm"] == "md5"
    assert lines["1.2/LICENSE"] is None


def test_an_archive_without_its_list_is_refused(server: FaultServer, workspace: Workspace) -> None:
    server.objects["/a"] = pack_zip(CONTENT)
    plan = plan_items(server, Item(f"{server.url}/a", "1.2.zip", unpack=True, sums="md5hashes.csv"))
    with pytest.raises(SourceError, match=r"1\.2\.zip has no md5hashes\.csv"):
        fetch(plan, workspace, pace=PACE)


# ---- Items that are several files ----------------------------------------------------------------


def test_a_filler_brings_several_files_and_is_asked_again(workspace: Workspace) -> None:
    calls: list[list[str]] = []

    def fill(item: Item, folder: Path, moved: Callable[[int], None]) -> None:
        calls.append([entry.name for entry in folder.iterdir()])
        for number, (name, content) in enumerate(CONTENT.items(), 1):
            (folder / name).write_bytes(content)
            moved(number)
            if len(calls) == 1:
                raise Unsteady("it hung up")

    items = (Item("dimse://A@host/1.2", "1.2"),)
    plan = Plan(SOURCE, lambda: items, 1, fillers={"dimse": fill})
    found = fetch(plan, workspace, pace=PACE)
    assert calls == [[], []]
    assert read_tree(found.source.folder) == {f"1.2/{n}": c for n, c in CONTENT.items()}
    assert found.references == {"none": 1}
    assert fetch(plan, workspace).status == "already there"
    assert len(calls) == 2


# ---- After a kill, and after the power went ------------------------------------------------------


def test_a_line_that_was_cut_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.begin("a", Begun(3, '"x"', {"md5": "0"}))
    ledger.place({"path": "b", "size": 1, "sha256": "1"})
    ledger.place_all([{"path": "c.zip", "size": 9}], [{"path": "c/d", "size": 2, "sha256": "2"}])
    ledger.close()
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        read = Ledger(path)
        read.close()
        lines = whole[:length].count(b"\n")
        assert set(read.begun) == ({"a"} if lines > 0 else set())
        assert set(read.files) == (
            {"b"} if lines in (2, 3) else {"b", "c/d"} if lines > 3 else set()
        )
        assert path.read_bytes() == whole[: whole[:length].rfind(b"\n") + 1]


def test_files_that_the_power_took_are_fetched_again(
    server: FaultServer, workspace: Workspace
) -> None:
    """A kill loses nothing; a loss of power may leave zeros where a line says that a file is."""
    archive = pack_zip(CONTENT)
    server.objects = {"/a": b"a" * 5000, "/b.zip": archive}
    items = [
        Item(f"{server.url}/a", "a"),
        Item(f"{server.url}/b.zip", "b.zip", unpack=True),
        Item(f"{server.url}/c", "c"),
    ]
    with pytest.raises(SourceError, match="404"):
        fetch(plan_items(server, *items), workspace, pace=PACE)
    files = workspace.raw / ".set.part" / "files"
    for name in ("a", "b/1-01.dcm"):
        (files / name).write_bytes(bytes((files / name).stat().st_size))
    server.objects["/c"] = b"c"
    folder = fetch(plan_items(server, *items), workspace, pace=PACE).source.folder
    assert (folder / "a").read_bytes() == b"a" * 5000
    assert read_tree(folder / "b") == CONTENT


def test_what_goes_on_asks_for_nothing_that_is_there(
    server: FaultServer, workspace: Workspace
) -> None:
    names = [f"{number}" for number in range(30)]
    server.objects = {f"/{name}": name.encode() * 50 for name in names[:-1]}
    items = [Item(f"{server.url}/{name}", name) for name in names]
    with pytest.raises(SourceError, match="404"):
        fetch(plan_items(server, *items), workspace, pace=PACE)
    server.objects["/29"] = b"x"
    before = len(server.requests)
    fetch(plan_items(server, *items), workspace, pace=PACE)
    assert server.requests[before:] == [("GET", "/29", "")]


# ---- What is told first, and a sample ------------------------------------------------------------


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        ({"CC BY 4.0": 3}, []),
        ({"CC BY-NC 4.0": 3}, ["its licence allows no commercial use (all of it)"]),
        (
            {"CC BY-NC 3.0": 2, "CC BY 4.0": 1000},
            ["its licence allows no commercial use (2 of its series)"],
        ),
        (
            {"for research and teaching alone": 1},
            ["its licence allows no commercial use (all of it)"],
        ),
        ({"INC. 2020, free for all": 1}, []),
    ],
)
def test_licences_without_commerce_are_said_so(
    licences: dict[str, int], expected: list[str]
) -> None:
    facts = Preflight(series=3, size=10, licences=licences)
    assert warn(Plan(SOURCE, tuple, 1, facts), free=100) == expected


def test_what_is_too_large_lossy_or_of_unknown_size_is_said_so() -> None:
    facts = Preflight(size=1000, lossy=0.25, warnings=("De-identification is unverified.",))
    assert warn(Plan(SOURCE, tuple, 1, facts), free=100) == [
        "De-identification is unverified.",
        "25.0% of it was compressed with loss by its makers",
        "it has 1,000 bytes, and 100 are free",
    ]
    assert "not stated" in warn(Plan(SOURCE, tuple, 1), free=100)[0]


def test_a_sample_fits_its_limit() -> None:
    items = [Item(f"https://x/{n}", str(n), size) for n, size in enumerate([4, 5, 9, 1])]
    plan = Plan(SOURCE, lambda: items, 1)
    assert [item.path for item in take_sample(plan, 10).items()] == ["0", "1"]
    assert [item.path for item in take_sample(plan, 100).items()] == ["0", "1", "2", "3"]
    with pytest.raises(SourceError, match="more than 3 bytes; allow more"):
        take_sample(plan, 3)
    unsized = replace(plan, items=lambda: [replace(item, size=None) for item in items])
    assert [item.path for item in take_sample(unsized, 10).items()] == ["0"]
