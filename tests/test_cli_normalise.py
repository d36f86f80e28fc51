"""``medkit normalise`` and ``medkit verify``, from the catalog to a sound set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medkit.catalog.scan import Root, scan
from medkit.testing import write_cohort, write_dicom
from medkit.workspace import Workspace


@pytest.fixture
def cataloged(workspace: Workspace, tmp_path: Path) -> Workspace:
    tree = write_cohort(tmp_path / "tree", persons=2, per_person=2, size=16)
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_dicom(tree / "scout.dcm", np.ones((8, 8), np.uint16), **scout)
    short = write_dicom(tree / "short.dcm", np.ones((8, 8), np.uint16), PatientID="S")
    short.write_bytes(short.read_bytes()[:-2])
    scan(workspace.catalog, [Root("local", tree)], workers=0)
    return workspace


def test_a_set_is_made_and_verified(
    cataloged: Workspace, run_cli: Callable[..., Any], call_cli: Callable[..., Any]
) -> None:
    here = ("-w", cataloged.root)
    options = ("--size", 32, "--workers", 1)
    made = run_cli("normalise", "a", *options, *here, "--json")
    assert made.exit_code == 0, made.stderr
    summary = json.loads(made.stdout)
    assert summary == {
        "set": "a",
        "selected": 5,
        "planned": 5,
        "landed": 4,
        "refused": {"pixel-length": 1},
        "left_out": {"localizer": 1},
        "added": 4,
        "built": True,
    }
    again = call_cli("normalise", "a", *options, *here)
    assert again.exit_code == 0, again.stderr
    assert "a is there already" in again.stdout
    for text in ("5 frames selected", "landed", "refused: pixel-length", "1 left out", "localizer"):
        assert text in again.stdout
    other = call_cli("normalise", "a", "--size", 16, *here)
    assert other.exit_code == 2
    assert "size is [32, 32] there and [16, 16] here" in other.stderr

    sound = run_cli("verify", *here)
    assert (sound.exit_code, sound.stdout) == (0, "a: sound\n")
    shard = cataloged.set("a") / "pixels.zarr" / "uint16x1" / "c" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    damaged = call_cli("verify", "a", *here, "--json")
    assert damaged.exit_code == 1
    (fault,) = json.loads(damaged.stdout)["a"]
    assert (fault["file"], fault["image"]) == ("pixels.zarr/uint16x1/c/0/0/0", 0)


def test_a_wrong_wish_is_one_line(cataloged: Workspace, call_cli: Callable[..., Any]) -> None:
    wrong = call_cli("normalise", "a", "--geometry", "squash", "-w", cataloged.root)
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert (
        wrong.stderr == "error: no geometry is named 'squash'; use letterbox, stretch, crop, mm\n"
    )
    missing = call_cli("verify", "b", "-w", cataloged.root)
    assert missing.exit_code == 1
    assert "b: 1 fault\n" in missing.stdout
    assert "does not exist" in missing.stdout
    none = call_cli("verify", "-w", cataloged.root)
    assert none.exit_code == 2
    assert "there is no set in" in none.stderr


def test_a_set_grows_when_it_is_asked_to(
    cataloged: Workspace, tmp_path: Path, call_cli: Callable[..., Any]
) -> None:
    command = ("normalise", "a", "--size", 16, "--workers", 0, "-w", cataloged.root)
    assert call_cli(*command).exit_code == 0
    write_dicom(tmp_path / "tree" / "new.dcm", np.ones((8, 8), np.uint16), PatientID="N")
    scan(cataloged.catalog, [Root("local", tmp_path / "tree")], workers=0)
    without = call_cli(*command)
    assert without.exit_code == 2
    assert "from other frames (1 new); add them with --append, make it anew" in without.stderr
    grown = call_cli(*command, "--append")
    assert grown.exit_code == 0, grown.stderr
    for text in ("a has 1 image more", "6 frames selected", "refused: pixel-length"):
        assert text in grown.stdout
    again = call_cli(*command, "--append", "--json")
    assert json.loads(again.stdout) | {"left_out": 0} == {
        "set": "a",
        "selected": 6,
        "planned": 6,
        "landed": 5,
        "refused": {"pixel-length": 1},
        "left_out": 0,
        "added": 0,
        "built": False,
    }


def test_slices_are_chosen_and_what_they_are_for_is_said(
    cataloged: Workspace, call_cli: Callable[..., Any]
) -> None:
    command = ("normalise", "m", "--size", 16, "--workers", 0, "-w", cataloged.root)
    wrong = call_cli(*command, "--slices", "some")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "'some' is none; use all, every:K" in wrong.stderr
    projected = call_cli(*command, "--slices", "mip")
    assert projected.exit_code == 0, projected.stderr
    assert "5 frames selected, for 3 images" in projected.stdout
