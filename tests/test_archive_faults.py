"""Archives under kills, damage, full disks, hostile hands and names of all kinds."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from archivetrees import describe_tree, write_odd_tree
from hypothesis import given
from hypothesis import strategies as st

from medkit.archive import pack as packing
from medkit.archive import plan
from medkit.archive import verify as verifying
from medkit.archive.archive import INDEX, MANIFEST, Archive
from medkit.archive.index import read_index, write_index
from medkit.archive.names import PortableNames, read_names
from medkit.archive.pack import pack
from medkit.archive.shards import ShardWriter
from medkit.archive.unpack import unpack
from medkit.archive.verify import verify
from medkit.errors import DiskFullError, SourceError, UsageError
from medkit.sources.gate import Names
from medkit.sources.unpacking import iterate_members
from medkit.testing import write_dicom
from medkit.workspace import hash_file, read_json, write_json

KILLS = int(os.environ.get("MEDKIT_KILLS", "3"))
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX names or signals")


def hash_files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An odd tree, and a series that is long enough to be killed over."""
    folder = write_odd_tree(tmp_path_factory.mktemp("tree") / "tree")
    values = np.random.default_rng(0)
    for number in range(150):
        pixels = (values.normal(500, 30, (192, 192)) + number).astype(np.uint16)
        write_dicom(folder / "long" / f"{number}.dcm", pixels, SeriesInstanceUID="2.25.9")
    return folder


@pytest.fixture(scope="module")
def whole(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "archive"
    pack(tree, folder, workers=0, shard_size=1 << 20)
    return folder


@pytest.fixture
def archive(whole: Path, tmp_path: Path) -> Path:
    """An archive to be damaged."""
    return shutil.copytree(whole, tmp_path / "archive")


def find_row(folder: Path, path: str) -> dict[str, Any]:
    return next(row for row in Archive.open(folder).index.to_pylist() if row["path"] == path)


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 0x10]))


# --- kills ---------------------------------------------------------------------------------------


def run_verb(command: list[str], kill_after: float | None = None) -> float | None:
    """Run a verb and return the seconds it took; None if it was killed."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "medkit", *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _, errors = process.communicate(timeout=kill_after or 300)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    assert process.returncode == 0, errors.decode()
    return time.monotonic() - began


@POSIX
@pytest.mark.parametrize("verb", ["pack", "unpack", "push"])
def test_a_killed_verb_goes_on_to_the_same_bytes(
    verb: str, tree: Path, whole: Path, tmp_path: Path
) -> None:
    source, options = (tree, ["--shard-size", "1"]) if verb == "pack" else (whole, [])
    before = describe_tree(source)
    describe = describe_tree if verb == "unpack" else hash_files
    expected = describe(tree if verb == "unpack" else whole)
    out, moments, killed = tmp_path / "out", random.Random(verb), 0
    if verb != "push":
        options = ["--workers", "0", *options]
    command = [verb, str(source), str(out), *options]
    seconds = run_verb(command)
    assert describe(out) == expected
    while killed < KILLS:
        shutil.rmtree(out)
        seconds = run_verb(command, moments.uniform(0.2, 1) * (seconds or 1)) or seconds
        if not (out / MANIFEST).exists() and not (out / "notes").exists():
            killed += 1
        if out.exists() and (out / MANIFEST).exists():
            assert describe(out) == expected
        if verb != "unpack" or not out.exists():
            run_verb(command)
        assert describe(out) == expected
    assert describe_tree(source) == before


@pytest.mark.parametrize("name", [INDEX, MANIFEST])
def test_a_kill_in_the_last_writes_leaves_nothing_foreign(
    name: str, tree: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "archive"
    out.mkdir()
    (out / f".{name}.part").write_bytes(b"half")
    pack(tree, out, workers=0, shard_size=1 << 20)
    assert hash_files(out) == hash_files(whole)


def test_what_a_kill_left_is_used_and_not_made_again(
    tree: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_PIECE_FILES", 16)
    done: list[int] = []
    right = packing.pack_batch

    def stop_at_five(batch: Any) -> int:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(batch.number)
        return right(batch)

    monkeypatch.setattr(packing, "pack_batch", stop_at_five)
    out = tmp_path / "archive"
    with pytest.raises(KeyboardInterrupt):
        pack(tree, out, workers=0, shard_size=1 << 20)
    with pytest.raises(SourceError, match="not complete"):
        Archive.open(out)
    again: list[int] = []
    monkeypatch.setattr(packing, "pack_batch", lambda one: again.append(one.number) or right(one))
    pack(tree, out, workers=0, shard_size=1 << 20)
    assert not {*again} & {*done}
    pack(tree, tmp_path / "unbroken", workers=0, shard_size=1 << 20)
    assert hash_files(out) == hash_files(tmp_path / "unbroken")


def test_a_full_disk_is_a_clear_error_and_the_same_call_goes_on(
    tree: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "archive"
    with monkeypatch.context() as patch:

        def fill(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(ShardWriter, "append", fill)
        with pytest.raises(DiskFullError, match="no room left"):
            pack(tree, out, workers=0, shard_size=1 << 20)
    pack(tree, out, workers=0, shard_size=1 << 20)
    assert hash_files(out) == hash_files(whole)


def test_a_file_that_changes_meanwhile_is_an_error_and_no_archive(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(tree, tmp_path / "tree")
    right = packing.pack_batch

    def change(batch: Any) -> int:
        (copy / "notes" / "noise.bin").write_bytes(b"other")
        return right(batch)

    monkeypatch.setattr(packing, "pack_batch", change)
    with pytest.raises(SourceError, match=r"changed while they were packed.*noise\.bin"):
        pack(copy, tmp_path / "archive", workers=0)
    monkeypatch.setattr(packing, "pack_batch", right)
    assert pack(copy, tmp_path / "archive", workers=0).made
    assert verify(tmp_path / "archive", workers=0, restore=True) == []


# --- damage --------------------------------------------------------------------------------------


def test_a_flipped_byte_is_named(archive: Path, tmp_path: Path, tree: Path) -> None:
    row = find_row(archive, "long/7.dcm")
    flip(archive / "shards" / row["shard"], row["offset"] + row["packed_size"] // 2)
    faults = verify(archive, workers=0)
    assert [(fault.shard, fault.path) for fault in faults] == [
        (f"shards/{row['shard']}", "long/7.dcm")
    ]
    with pytest.raises(SourceError, match=r"1 files .*long/7\.dcm"):
        unpack(archive, tmp_path / "back", workers=0)
    assert not (tmp_path / "back").exists()
    found = unpack(archive, tmp_path / "back", workers=0, partial=True)
    assert [path for path, _ in found.faults] == ["long/7.dcm"]
    expected = describe_tree(tree)
    expected.pop(b"long/7.dcm")
    assert describe_tree(tmp_path / "back") == expected


@pytest.mark.parametrize("seed", range(6))
def test_every_flipped_byte_of_a_shard_is_found(seed: int, archive: Path) -> None:
    chosen = random.Random(seed)
    shard = chosen.choice(sorted((archive / "shards").iterdir()))
    flip(shard, chosen.randrange(shard.stat().st_size))
    faults = verify(archive, workers=0)
    assert {fault.shard for fault in faults} == {f"shards/{shard.name}"}


def test_a_flipped_byte_of_heads_names_all_that_need_it(archive: Path) -> None:
    index = Archive.open(archive).index.to_pylist()
    block = next(row for row in index if row["kind"] == "heads")
    flip(archive / "shards" / block["shard"], block["offset"] + 40)
    expected = {
        row["path"] for row in index if row["heads"] == block["heads"] and row["kind"] == "file"
    }
    assert {fault.path for fault in verify(archive, workers=0)} == expected
    assert len(expected) > 5


def test_a_shard_that_is_cut_or_gone_is_named(archive: Path) -> None:
    index = Archive.open(archive).index.to_pylist()
    first, last = (archive / "shards" / name for name in ("00001.zip", "00002.zip"))
    cut = first.stat().st_size // 2
    os.truncate(first, cut)
    last.unlink()
    faults = verify(archive, workers=0)
    lost = {fault.path for fault in faults if "cut short" in fault.detail}
    expected = {
        row["path"]
        for row in index
        if row["shard"] == first.name
        and row["kind"] == "file"
        and row["offset"] + row["packed_size"] > cut
    }
    assert expected
    assert expected <= lost
    gone = {row["path"] for row in index if row["shard"] == last.name and row["kind"] == "file"}
    assert {fault.path for fault in faults if "missing" in fault.detail} == gone


@pytest.mark.parametrize("name", [INDEX, MANIFEST])
def test_a_damaged_index_or_manifest_is_named(name: str, archive: Path) -> None:
    content = (archive / name).read_bytes()
    (archive / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match=name.replace(".", r"\.")):
        verify(archive, workers=0)


def test_verify_goes_on_where_it_was(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, looked = verifying._check_shard, list[str]()

    def stop_at_one(check: Any) -> Any:
        if looked:
            raise KeyboardInterrupt
        looked.append(check.name)
        return right(check)

    monkeypatch.setattr(verifying, "_check_shard", stop_at_one)
    with pytest.raises(KeyboardInterrupt):
        verify(archive, workers=0)
    rest: list[str] = []
    monkeypatch.setattr(
        verifying, "_check_shard", lambda check: rest.append(check.name) or right(check)
    )
    assert verify(archive, workers=0) == []
    assert sorted(looked + rest) == Archive.open(archive).shards
    assert not (archive / ".verify.jsonl").exists()


# --- hostile archives ----------------------------------------------------------------------------


def change_index(archive: Path, which: str, **changes: object) -> None:
    """Rewrite a row of an index, and the manifest so that all hashes fit."""
    rows = read_index(archive / INDEX).to_pylist()
    for row in rows:
        if row["path"] == which:
            row.update(changes)
    write_index(archive / INDEX, rows)
    manifest = read_json(archive / MANIFEST)
    about = {"sha256": hash_file(archive / INDEX), "size": (archive / INDEX).stat().st_size}
    manifest["contents"][INDEX] = about
    write_json(archive / MANIFEST, manifest)


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "../out.dcm"},
        {"path": "/tmp/out.dcm"},
        {"path": "a/../../out.dcm"},
        {"path": "long/8.dcm"},
        {"path": "LONG/8.dcm"},
        {"original": b"../out.dcm"},
        {"original": b"/tmp/out.dcm"},
        {"original": b"a//b"},
        {"original": b"long/8.dcm"},
        {"original": b"nul\0byte"},
        {"size": 1 << 40},
        {"size": -1},
    ],
    ids=str,
)
def test_a_hostile_index_is_refused(
    changes: dict[str, object], archive: Path, tmp_path: Path
) -> None:
    change_index(archive, "long/7.dcm", **changes)
    before = {*tmp_path.iterdir()}
    with pytest.raises(SourceError, match=r"refused|unpacks to"):
        unpack(archive, tmp_path / "back", workers=0)
    assert {*tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": 1 << 20},
        {"rows": 255},
        {"words": "<f8"},
        {"head": 1 << 40},
        {"outside": 1 << 40},
        {"heads": 99},
        {"heads_offset": -5},
        {"pixels": 3},
        {"shard": "../../archive.json"},
        {"offset": 1 << 50},
        {"form": "gif"},
        {"form": "htj2k"},
        {"form": "zstd"},
        {"sha256": "0" * 64},
    ],
    ids=str,
)
def test_a_lying_index_names_the_file(
    changes: dict[str, object], archive: Path, tmp_path: Path
) -> None:
    change_index(archive, "long/7.dcm", **changes)
    with pytest.raises(SourceError, match=r"long/7\.dcm"):
        unpack(archive, tmp_path / "back", workers=0, where="SeriesInstanceUID = '2.25.9'")
    assert not (tmp_path / "back").exists()


# --- names ---------------------------------------------------------------------------------------

ODD_NAMES = [
    b"con.dcm", b"aux", b"a:b.dcm", b"what?.dcm", b'say "x".dcm', b"back\\slash.dcm",
    b"ends with dot.", b"ends with space ", b"A/x.dcm", b"a/x.dcm", b"a/X.dcm",
    "caf\u00e9.dcm".encode(), "cafe\u0301.dcm".encode(), b"latin-\xe9.dcm", b"new\nline.dcm",
    b"x.zst", b"x", b".medkit/heads-000000.zst", b"%41.dcm", b"n" * 250 + b".dcm",
    ("\u30c6" * 80 + ".dcm").encode(), b"/".join([b"deep" * 25] * 12) + b"/x.dcm", b"-rf", b" x",
]  # fmt: skip


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A tree of names that some system does not take."""
    folder = tmp_path / "named"
    for number, name in enumerate(ODD_NAMES):
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"text %d " % number * 40)
    return folder


@POSIX
def test_odd_names_come_back(named: Path, tmp_path: Path) -> None:
    pack(named, tmp_path / "archive", workers=0)
    unpack(tmp_path / "archive", tmp_path / "back", workers=0)
    assert describe_tree(tmp_path / "back") == describe_tree(named)
    for shard in (tmp_path / "archive" / "shards").iterdir():
        assert len([*iterate_members(shard)]) == len(ODD_NAMES) + 1


@POSIX
def test_names_go_to_another_system_and_back(named: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    pack(named, first, workers=0)
    there = tmp_path / "there"
    found = unpack(first, there, names="portable", workers=0)
    claimed = Names()
    for path in there.rglob("*"):
        if path.is_file():
            name = path.relative_to(there).as_posix()
            assert claimed.claim(name) == name
    listed = tmp_path / "there.names.json"
    assert found.renamed == len(json.loads(listed.read_text())["names"]) > 12
    pack(there, second, workers=0, originals=read_names(listed))
    unpack(second, tmp_path / "back", workers=0)
    assert describe_tree(tmp_path / "back") == describe_tree(named)
    with pytest.raises(UsageError, match="no list of names"):
        read_names(first / MANIFEST)


PARTS = st.lists(
    st.text(st.sampled_from("aAbB.é~%: e\u0301"), min_size=1, max_size=6)
    .filter(lambda part: part not in (".", ".."))
    .map(str.encode)
    | st.binary(min_size=1, max_size=4).filter(
        lambda part: not {b"/"[0], 0} & {*part} and part not in (b".", b"..")
    ),
    min_size=1,
    max_size=3,
)


@given(st.sets(PARTS.map(b"/".join), max_size=12))
def test_names_are_safe_and_of_one_file_each(paths: set[bytes]) -> None:
    files = sorted(
        path for path in paths if not any(other.startswith(path + b"/") for other in paths)
    )
    given_names = PortableNames()
    names = [given_names.give(path) for path in files]
    claimed = Names()
    for name in names:
        assert claimed.claim(name) == name
    plain = [path for path in files if path.decode("ascii", "replace").isalnum()]
    if len({path.lower() for path in files}) == len(files) == len(plain):
        assert names == [path.decode() for path in files]


# --- the command line ----------------------------------------------------------------------------


def test_the_command_line_packs_verifies_and_unpacks(
    tree: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    home = ("-w", tmp_path / "workspace")
    assert run_cli("catalog", tree, *home).exit_code == 0
    where = ("--where", "SeriesInstanceUID = '2.25.9'", *home)
    packed = run_cli("pack", tree, out, *where, "--json", "--workers", 0)
    assert packed.exit_code == 0, packed.stderr
    assert json.loads(packed.stdout)["files"] == 150
    assert "sound" in run_cli("verify", out, "--workers", 0).stdout
    done = run_cli("unpack", out, back, "--json", "--workers", 0)
    assert json.loads(done.stdout)["files"] == 150
    assert hash_files(back / "long") == hash_files(tree / "long")
    shard = out / "shards" / "00001.zip"
    flip(shard, shard.stat().st_size // 2)
    broken = run_cli("verify", out, "--workers", 0)
    assert broken.exit_code == 1
    assert "long/" in broken.stdout
    assert run_cli("unpack", out, tmp_path / "more", "--workers", 0).exit_code == 1
    assert run_cli("unpack", out, tmp_path / "more", "--as", "x").exit_code == 2
    assert run_cli("pack", tmp_path / "none", tmp_path / "x").exit_code == 2


def test_an_archive_of_nothing_is_one(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    assert pack(tmp_path / "tree", tmp_path / "out", workers=0).files == 0
    assert verify(tmp_path / "out", workers=0) == []
    assert unpack(tmp_path / "out", tmp_path / "back", workers=0).files == 0
    assert isinstance(Archive.open(tmp_path / "out").index, pa.Table)
