"""Archives give back every byte, and hold what others can read."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from archivetrees import describe_tree, real_folders, write_odd_tree

from medkit.archive import elements, members, plan
from medkit.archive.archive import Archive
from medkit.archive.codecs import CODECS
from medkit.archive.members import pack_file
from medkit.archive.pack import pack
from medkit.archive.unpack import unpack
from medkit.archive.verify import verify
from medkit.catalog.roots import Root
from medkit.catalog.scan import scan
from medkit.catalog.store import Catalog
from medkit.errors import UsageError
from medkit.images.imageset import ImageSet
from medkit.images.normalisation import Recipe, normalise
from medkit.workspace import Workspace

STANDARD = [codec.name for codec in CODECS.values() if codec.standard]


def hash_files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def odd_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_odd_tree(tmp_path_factory.mktemp("odd") / "tree")


@pytest.fixture(scope="module")
def real_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of pydicom and pydicom-data, by links that are files."""
    folder = tmp_path_factory.mktemp("real") / "tree"
    for number, source in enumerate(real_folders()):
        shutil.copytree(source, folder / str(number))
    return folder


def check_return(tree: Path, folder: Path, codec: str) -> Archive:
    """See that a tree is the same after it was packed and unpacked, and untouched itself."""
    before = describe_tree(tree)
    summary = pack(tree, folder / "archive", codec=codec, workers=0)
    assert describe_tree(tree) == before
    assert summary.files == sum(content is not None for content, *_ in before.values())
    assert sum(summary.forms.values()) == summary.files
    assert summary.files - summary.forms[codec] == sum(summary.reasons.values())
    unpacked = unpack(folder / "archive", folder / "back", workers=0)
    assert unpacked.files == summary.files
    assert describe_tree(folder / "back") == before
    assert verify(folder / "archive", workers=0, restore=True) == []
    return Archive.open(folder / "archive")


@pytest.mark.parametrize("codec", CODECS)
def test_an_odd_tree_returns_byte_for_byte(codec: str, odd_tree: Path, tmp_path: Path) -> None:
    index = check_return(odd_tree, tmp_path, codec).index.to_pylist()
    forms = {row["path"]: (row["form"], row["reason"]) for row in index}
    for name in ("plain", "signed", "twelve", "twelve-signed", "frames"):
        for syntax in ("implicit", "explicit", "big"):
            assert forms[f"{syntax}/{name}.dcm"] == (codec, None)
    for name in ("garbage", "padding", "preamble", "group-length", "no-meta-length"):
        assert forms[f"bytes/{name}.dcm"] == (codec, None)
    assert forms["bytes/cut.dcm"][1] == "odd-pixels"
    assert forms["bytes/no-preamble.dcm"][1] == "not-dicom"
    assert forms["high-bits.dcm"][1] == "high-bits"
    assert forms["notes/read me.txt"][0] == "zstd"


@pytest.mark.parametrize("codec", ["jpeg-ls", "htj2k"])
def test_real_files_return_byte_for_byte(codec: str, real_tree: Path, tmp_path: Path) -> None:
    archive = check_return(real_tree, tmp_path, codec)
    assert sum(form == codec for form in archive.index["form"].to_pylist()) > 30


@pytest.mark.parametrize("codec", ["jpeg-ls", "htj2k"])
def test_more_real_files_return_byte_for_byte(
    codec: str, shared_data: Path, tmp_path: Path
) -> None:
    check_return(shared_data / "dicom", tmp_path, codec)


def list_recompressed(tree: Path, codec: str) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(tree.rglob("*")):
        if path.is_file() and path.stat().st_size < 2**20:
            packed = pack_file(path.read_bytes(), CODECS[codec], "normal")
            if packed.form == codec:
                yield path, packed.content


def read_pixels(content: bytes) -> np.ndarray[Any, Any]:
    return pydicom.dcmread(io.BytesIO(content)).pixel_array


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("codec", STANDARD)
def test_others_read_the_same_pixels(
    codec: str, odd_tree: Path, real_tree: Path, tmp_path: Path
) -> None:
    if codec != "jpeg-ls":
        pytest.importorskip("openjpeg")
        pytest.importorskip("pylibjpeg")
    count = 0
    for tree in (odd_tree, real_tree):
        for path, content in list_recompressed(tree, codec):
            found, expected = read_pixels(content), read_pixels(path.read_bytes())
            assert found.dtype == expected.dtype.newbyteorder("="), path
            np.testing.assert_array_equal(found, expected, err_msg=str(path))
            count += 1
    assert count > 60


@pytest.mark.skipif(not shutil.which("dcmdump"), reason="dcmtk is not installed")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dcmtk_reads_what_is_recompressed(odd_tree: Path, real_tree: Path, tmp_path: Path) -> None:
    for tree in (odd_tree, real_tree):
        for path, content in list_recompressed(tree, "jpeg-ls"):
            packed, native = tmp_path / "packed.dcm", tmp_path / "native.dcm"
            packed.write_bytes(content)
            subprocess.run(["dcmdump", "-q", packed], check=True, stdout=subprocess.DEVNULL)
            subprocess.run(["dcmdjpls", packed, native], check=True)
            np.testing.assert_array_equal(
                read_pixels(native.read_bytes()), read_pixels(path.read_bytes()), err_msg=str(path)
            )


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["headers/implicit.dcm", "headers/explicit.dcm", "big/frames.dcm"])
def test_a_recompressed_header_has_the_same_values(name: str, odd_tree: Path) -> None:
    data = (odd_tree / name).read_bytes()
    packed = pack_file(data, CODECS["jpeg-ls"], "normal")
    before, after = (pydicom.dcmread(io.BytesIO(one)) for one in (data, packed.content))
    syntax = after.file_meta.TransferSyntaxUID
    assert syntax == CODECS["jpeg-ls"].syntax
    assert (
        after.file_meta.FileMetaInformationGroupLength
        == len(packed.content[144 : packed.content.index(b"\x08\x00", 144)])
        or after.file_meta.FileMetaInformationGroupLength > 0
    )
    for element in before.iterall():
        if element.tag != 0x7FE00010 and not element.tag.is_private:
            assert element.tag in {one.tag for one in after.iterall()}
    for element in before:
        if element.tag != 0x7FE00010 and element.VR != "UN":
            other = after[element.tag]
            assert other.VR in (element.VR, "UN")
            if other.VR == element.VR:
                assert other.value == element.value, element


def test_shards_are_zips_of_stored_files(odd_tree: Path, tmp_path: Path) -> None:
    pack(odd_tree, tmp_path / "archive", workers=0)
    with zipfile.ZipFile(tmp_path / "archive" / "shards" / "00001.zip") as shard:
        assert shard.testzip() is None
        assert {info.compress_type for info in shard.infolist()} == {zipfile.ZIP_STORED}
        assert "series/00.dcm" in shard.namelist()
        assert "notes/read me.txt.zst" in shard.namelist()


@pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not installed")
def test_the_zstd_tool_reads_compressed_members(odd_tree: Path, tmp_path: Path) -> None:
    pack(odd_tree, tmp_path / "archive", workers=0)
    with zipfile.ZipFile(tmp_path / "archive" / "shards" / "00001.zip") as shard:
        packed = shard.read("notes/read me.txt.zst")
    done = subprocess.run(["zstd", "-d", "-q", "-c"], input=packed, capture_output=True, check=True)
    assert done.stdout == (odd_tree / "notes" / "read me.txt").read_bytes()


def test_the_number_of_workers_changes_no_byte(
    real_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_PIECE_FILES", 20)
    for workers in (0, 2):
        assert pack(
            real_tree / "0", tmp_path / str(workers), workers=workers, shard_size=1 << 20
        ).made
    assert hash_files(tmp_path / "0") == hash_files(tmp_path / "2")
    assert len([*(tmp_path / "0" / "shards").iterdir()]) > 1
    assert unpack(tmp_path / "2", tmp_path / "back", workers=2).faults == []
    assert describe_tree(tmp_path / "back") == describe_tree(real_tree / "0")


def test_the_same_archive_is_known_again_and_another_is_not_replaced(
    odd_tree: Path, tmp_path: Path
) -> None:
    out = tmp_path / "archive"
    assert pack(odd_tree, out, workers=0).made
    before = hash_files(out)
    assert not pack(odd_tree, out, workers=0).made
    with pytest.raises(UsageError, match="--replace"):
        pack(odd_tree, out, codec="htj2k", workers=0)
    assert hash_files(out) == before
    unpack(out, tmp_path / "first", workers=0)
    assert pack(odd_tree, out, codec="htj2k", workers=0, replace_other=True).made
    assert verify(out, workers=0) == []
    unpack(out, tmp_path / "second", workers=0)
    assert describe_tree(tmp_path / "second") == describe_tree(tmp_path / "first")


def test_a_folder_of_others_and_the_tree_itself_are_refused(odd_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        pack(odd_tree, tmp_path, workers=0)
    with pytest.raises(UsageError, match="lies in the tree"):
        pack(odd_tree, odd_tree / "archive", workers=0)
    with pytest.raises(UsageError, match="jpeg-ls, htj2k"):
        pack(odd_tree, tmp_path / "out", codec="gif", workers=0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_one_study_is_unpacked_alone(odd_tree: Path, tmp_path: Path) -> None:
    pack(odd_tree, tmp_path / "archive", workers=0)
    where = "StudyInstanceUID = '2.25.8'"
    unpack(tmp_path / "archive", tmp_path / "study", where=where, workers=0)
    expected = hash_files(odd_tree / "series")
    assert hash_files(tmp_path / "study" / "series") == expected
    assert len(hash_files(tmp_path / "study")) == len(expected) == 12
    unpack(tmp_path / "archive", tmp_path / "packed", where=where, packed=True, workers=0)
    header = pydicom.dcmread(tmp_path / "packed" / "series" / "03.dcm")
    assert header.file_meta.TransferSyntaxUID == CODECS["jpeg-ls"].syntax
    for where, what in (("path = 'x'", "no file"), ("x y", "cannot answer")):
        with pytest.raises(UsageError, match=what):
            unpack(tmp_path / "archive", tmp_path / "none", where=where, workers=0)
    with pytest.raises(UsageError, match="exists already"):
        unpack(tmp_path / "archive", tmp_path / "study", workers=0)


def test_a_codec_that_errs_is_found_out(
    odd_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def err(frame: Any, bits: int, effort: str, rgb: bool) -> bytes:
        wrong = frame.copy()
        wrong.flat[-1] ^= 1
        return CODECS["htj2k"].encode(wrong, bits, effort, rgb)

    broken = members.Codec("jpeg-ls", CODECS["htj2k"].syntax, err, CODECS["htj2k"].decode)
    packed = pack_file((odd_tree / "explicit" / "plain.dcm").read_bytes(), broken, "normal")
    assert (packed.form, packed.reason) == ("zstd", "not-restored")


@pytest.mark.parametrize("codec", ["jpeg-ls", "jpegxl"])
def test_a_catalog_and_a_set_are_made_from_an_archive_in_place(
    codec: str, odd_tree: Path, tmp_path: Path
) -> None:
    pack(odd_tree, tmp_path / "archive", codec=codec, workers=0)
    hashes: list[set[str]] = []
    for root in (odd_tree, tmp_path / "archive"):
        home = Workspace(tmp_path / f"workspace-{root.name}")
        scan(home.catalog, [Root("local", root)], workers=0)
        normalise(Catalog.open(home.catalog), home.set("set"), Recipe(), workers=0)
        images = ImageSet.open(home.set("set")).table
        hashes.append({*images["pixels_sha256"]})
    # Of a file that strays, its recompressed form may be plain, and have an image more.
    assert hashes[0] <= hashes[1]
    assert len(hashes[0]) > 20


@pytest.mark.skipif(os.name != "posix", reason="needs links and permissions")
def test_links_are_left_out_and_counted(odd_tree: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(odd_tree / "series", tree)
    (tree / "link.dcm").symlink_to(tree / "00.dcm")
    (tree / "folder").symlink_to(tree)
    os.mkfifo(tree / "pipe")
    summary = pack(tree, tmp_path / "archive", workers=0)
    assert summary.left_out == {"link": 2, "no-plain-file": 1}
    assert summary.files == 12
    assert unpack(tmp_path / "archive", tmp_path / "back", workers=0).left_out == 3
    assert hash_files(tmp_path / "back") == hash_files(odd_tree / "series")


def test_value_representations_are_those_of_the_standard() -> None:
    from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

    assert {vr.encode() for vr in EXPLICIT_VR_LENGTH_32} == elements._LONG
    assert {vr.encode() for vr in STANDARD_VR} == {*elements._HEADS}


def test_a_process_that_packs_plain_files_need_not_load_pydicom() -> None:
    code = "import medkit.archive.batches, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pydicom", "requests", "sqlite3"} & {*done.stdout.split()}
