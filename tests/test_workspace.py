"""Paths, the lock and atomic writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medkit.errors import UsageError, WorkspaceError
from medkit.workspace import (
    Workspace,
    check_name,
    dump_json,
    hash_json,
    read_json,
    remove_folder,
    write_beside,
    write_json,
)


@pytest.mark.parametrize("name", ["lung", "a", "A-1_b.c", "2019", "x" * 100])
def test_a_plain_name_is_kept(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "..", ".hidden", "a/b", "a\\b", "con", "NUL.txt", "x" * 101, "a b", "end.", "-w", "é"],
)
def test_a_name_that_is_unsafe_somewhere_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a name"):
        check_name(name)


def test_nothing_is_made_before_something_is_written(workspace: Workspace) -> None:
    workspace.set("s"), workspace.run("r"), workspace.names("sets")
    assert not workspace.root.exists()


def test_names_are_listed_in_order(workspace: Workspace) -> None:
    for name in ("b", "a"):
        workspace.set(name).mkdir(parents=True)
    assert workspace.names("sets") == ["a", "b"]


def test_a_second_process_is_told_who_holds_the_lock(workspace: Workspace) -> None:
    script = (
        "import sys, pathlib\n"
        "from medkit.workspace import Workspace\n"
        "with Workspace(pathlib.Path(sys.argv[1])).lock(): pass\n"
    )
    command = [sys.executable, "-c", script, str(workspace.root)]
    with workspace.lock():
        refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "WorkspaceError" in refused.stderr
    assert "in use by process" in refused.stderr
    assert subprocess.run(command).returncode == 0


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), write_beside(path) as beside:
        beside.write_text("half of")
        raise RuntimeError
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_equal_content_is_equal_bytes() -> None:
    assert dump_json({"b": 1, "a": [1.5, "é"]}) == dump_json({"a": [1.5, "é"], "b": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})


def test_not_a_number_never_reaches_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(WorkspaceError, match=r"x\.json is damaged"):
        read_json(path)


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"x\.json is missing"):
        read_json(tmp_path / "x.json")


def test_a_removed_folder_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "deep").mkdir(parents=True)
    remove_folder(folder)
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []
