"""What lies in a folder: compiled calls say what Python's do."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from medkit.catalog import folders

linux = pytest.mark.skipif(sys.platform != "linux", reason="the calls are Linux's")


def fill(folder: Path, count: int) -> None:
    for number in range(count):
        (folder / f"image {number:05}.dcm").write_bytes(b"x" * (number % 7))
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("nowhere")
    (folder / "..two dots").touch()
    (folder / "größe").touch()
    os.utime(folder / "größe", ns=(-1, -1_500_000_000))  # before 1970
    if sys.platform == "linux":
        os.mkfifo(folder / "pipe")
        Path(os.fsdecode(os.fsencode(folder) + b"/not \xff text")).touch()


@linux
@pytest.mark.parametrize("count", [0, 3, 9000])
def test_compiled_calls_say_what_pythons_do(tmp_path: Path, count: int) -> None:
    fill(tmp_path, count)
    expected, found = folders._list(str(tmp_path)), folders._list_compiled(str(tmp_path))
    assert len(found.names) == count + 6
    said = [dict(zip(one.names, one.states.tolist(), strict=True)) for one in (expected, found)]
    assert said[0] == said[1]


@pytest.mark.parametrize("name", ["missing", "file"])
def test_what_is_no_folder_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"No such|Not a directory"):
        folders.list_folder(str(tmp_path / name))


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    listing = folders.list_folder(str(tmp_path))
    assert (listing.names, listing.states.shape) == ([], (0, 4))
