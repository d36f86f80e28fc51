"""Volumes without a header: a descriptor says what they are, and nothing is guessed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medkit.catalog.entries import Entries
from medkit.catalog.findings import Finding, ignore
from medkit.catalog.rawvolumes import add_raw, describe_raw
from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog
from medkit.images.imageset import ImageSet
from medkit.images.pixels import name_array, read_frame
from medkit.images.stacks import decode_slice
from medkit.sources.descriptor import RawRule
from medkit.workspace import Workspace

RANDOM = np.random.default_rng(0)
# As the head of the Zubal phantom: one byte a voxel, no header, columns fastest; smaller.
PHANTOM = RawRule("*.dat", "uint8", ((16, 12, 8), (16, 12, 9)), (1.1, 1.2, 1.4))


def describe(path: str, size: int, *rules: RawRule) -> Finding:
    finding = describe_raw(path, size, rules)
    assert finding is not None
    return finding


def list_rows(finding: Finding, **where: Any) -> list[dict[str, Any]]:
    assert finding.values is not None
    return [where | {"encapsulated": False} | finding.values | frame for frame in finding.frames]


def test_the_size_decides_the_shape(tmp_path: Path) -> None:
    voxels = RANDOM.integers(0, 200, (9, 12, 16)).astype(np.uint8)
    (tmp_path / "head.dat").write_bytes(voxels.tobytes())
    finding = describe("sub/head.dat", voxels.nbytes, PHANTOM)
    assert (finding.kind, finding.problems) == ("non-dicom", [])
    rows = list_rows(finding, root=str(tmp_path), path="head.dat")
    assert rows[0]["format"] == "raw"
    assert rows[0]["PixelSpacing"] == [1.2, 1.1]
    assert {row["ImagePositionPatient"] for row in rows} == {None}  # nobody said how it lies
    assert name_array(rows[0]) == "uint16x1"
    for row, expected in zip(rows, voxels, strict=True):
        frame = read_frame(row)
        np.testing.assert_array_equal(frame.values, expected)
        assert frame.fill == 0
        assert (frame.spacing.row, frame.spacing.column) == (1.2, 1.1)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("offset", [None, 1, 8])
def test_voxels_are_read_in_their_type_and_order(
    dtype: str, order: str, offset: int | None
) -> None:
    voxels = (RANDOM.normal(0, 1, (3, 5, 4)) * 100).astype(dtype)
    content = bytes(offset or 0) + voxels.astype(voxels.dtype.newbyteorder(order)).tobytes()
    rule = RawRule("*", dtype, ((4, 5, 3),), (1, 1, 1), order, offset)
    rows = list_rows(describe("x", len(content), rule))
    read = [decode_slice(io.BytesIO(content), row).values for row in rows]
    np.testing.assert_array_equal(read, voxels)


def test_slices_lie_along_the_normal_where_the_orientation_is_told() -> None:
    rule = RawRule("*", "uint8", ((4, 5, 3),), (1, 2, 3), orientation=(1, 0, 0, 0, 0, -1))
    rows = list_rows(describe("x", 60, rule))
    assert rows[0]["ImageOrientationPatient"] == [1, 0, 0, 0, 0, -1]
    assert [row["ImagePositionPatient"] for row in rows] == [[0, 0, 0], [0, 3, 0], [0, 6, 0]]


def test_what_no_rule_is_for_is_none_and_what_no_shape_fits_is_a_problem() -> None:
    assert describe_raw("README.txt", 1536, [PHANTOM]) is None
    assert describe_raw("head.dat", 1536, []) is None
    refused = describe("head.dat", 1537, PHANTOM)
    assert (refused.kind, refused.reason, refused.values) == ("problem", "raw-size", None)
    assert "0 of the shapes" in str(refused.detail)
    other = RawRule("head*", "uint16", ((16, 12, 4),), (1, 1, 1), "little")
    assert "2 of the shapes" in str(describe("head.dat", 1536, PHANTOM, other).detail)


def test_a_walk_is_told_what_the_rules_say() -> None:
    none = np.zeros(3, np.int64)
    link = ignore("link")
    entries = Entries(
        "s", "/r", ["a.dat", "b.dat", "c.txt"], np.full(3, 1536), none, none, {1: link}
    )
    told = add_raw(entries, [PHANTOM])
    assert {row: finding.kind for row, finding in told.findings.items()} == {
        0: "non-dicom",
        1: "ignored",  # what walking knows already holds
    }
    assert add_raw(entries, []) is entries


DESCRIPTOR = """
name = "phantoms"
title = "Two heads"
version = "1"
licence = "CC0-1.0"
protocol = "local"
size_bytes = 4361
path = '{folder}'
person_regex = '(head.)'
[[raw]]
files = "*.dat"
dtype = "uint8"
shapes = [[16, 16, 8], [16, 16, 9]]
spacing = [1.2, 1.2, 1.4]
orientation = [1, 0, 0, 0, 1, 0]
"""


def test_a_described_source_goes_all_the_way(
    workspace: Workspace, tmp_path: Path, call_cli: Callable[..., Any]
) -> None:
    tree, catalogs = tmp_path / "tree", tmp_path / "catalogs"
    for folder in (tree, catalogs):
        folder.mkdir()
    voxels = {
        f"head{slices}.dat": RANDOM.integers(0, 200, (slices, 16, 16)).astype(np.uint8)
        for slices in (8, 9)
    }
    for name, values in voxels.items():
        (tree / name).write_bytes(values.tobytes())
    (tree / "cut.dat").write_bytes(b"too short")
    (catalogs / "phantoms.toml").write_text(DESCRIPTOR.format(folder=tree))

    def call(*arguments: str) -> Any:
        here = ("-w", str(workspace.root))
        done = call_cli(*arguments, *here, MEDKIT_CATALOGS=str(catalogs))
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    call("fetch", "phantoms", "--json")
    scanned = call("catalog", "--json")
    assert (scanned["walked"], scanned["read"]) == (3, 0)  # none is opened
    assert scanned["counts"]["non-dicom"] == {"": 2}
    assert scanned["counts"]["problem"] == {"raw-size": 1}
    assert call("catalog", "--json")["snapshot"] == scanned["snapshot"]
    images = Catalog.open(workspace.catalog).select()
    assert images.groupby("path").size().to_dict() == {"head8.dat": 8, "head9.dat": 9}
    volumes = Catalog.open(workspace.catalog).table("volumes")
    assert sorted(volumes["slices"]) == [8, 9]
    assert volumes["slice_spacing"].tolist() == pytest.approx([1.4, 1.4])

    done = call("normalise", "a", "--size", "16", "--filter", "nearest", "--json")
    assert done["landed"] == 17
    found = ImageSet.open(workspace.set("a"))
    codes = found.images()
    for number, row in found.table.iterrows():
        real = codes.codes(number) * row["slope"] + row["intercept"]
        np.testing.assert_array_equal(real, voxels[row["path"]][row["frame"]])


def test_files_are_what_the_rules_of_today_say(tmp_path: Path) -> None:
    tree, catalog = tmp_path / "tree", tmp_path / "catalog"
    tree.mkdir()
    (tree / "a.dat").write_bytes(bytes(1536))
    (tree / "b.dat").write_bytes(bytes(range(256)))

    def run(*rules: RawRule) -> tuple[int, list[str], int]:
        summary = scan(catalog, [Root("s", tree, raw=rules)], workers=0)
        found = Catalog.open(catalog)
        return summary.read, found.table("files")["kind"].tolist(), len(found.select())

    one = RawRule("a.dat", "uint8", ((16, 12, 8),), (1, 1, 1))
    other = RawRule("*.dat", "uint8", ((16, 16, 6), (16, 16, 1)), (1, 1, 1))
    assert run() == (2, ["ignored", "ignored"], 0)
    assert run(one) == (0, ["non-dicom", "ignored"], 8)
    assert run(other) == (0, ["non-dicom", "non-dicom"], 7)
    last = RawRule("b.dat", "uint8", ((16, 16, 1),), (1, 1, 1))
    assert run(last) == (1, ["ignored", "non-dicom"], 1)  # nobody has read the first one since
