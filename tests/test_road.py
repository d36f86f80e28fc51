"""The road on real DICOM: what is walked is accounted for, and what is damaged is found."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def road(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory, run_cli: Callable[..., Any]
) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """A workspace, and what catalog and normalise printed."""
    workspace = tmp_path_factory.mktemp("road")
    printed = []
    for command in (["catalog", shared_data / "dicom"], ["normalise", "set"]):
        done = run_cli(*command, "-w", workspace, "--json")
        assert done.exit_code == 0, done.stderr
        assert "Traceback" not in done.stderr
        printed.append(json.loads(done.stdout))
    return workspace, printed[0], printed[1]


def test_every_file_walked_is_one_thing(
    road: tuple[Path, dict[str, Any], dict[str, Any]], shared_data: Path
) -> None:
    _, catalog, _ = road
    walked = sum(path.is_file() for path in (shared_data / "dicom").rglob("*"))
    assert catalog["walked"] == walked
    assert sum(sum(reasons.values()) for reasons in catalog["counts"].values()) == walked


def test_every_selected_frame_lands_or_is_refused_by_name(
    road: tuple[Path, dict[str, Any], dict[str, Any]],
) -> None:
    _, _, summary = road
    assert summary["selected"] > 400
    assert summary["planned"] == summary["landed"] + sum(summary["refused"].values())


def test_a_flipped_byte_in_any_file_is_found_and_named(
    road: tuple[Path, dict[str, Any], dict[str, Any]],
    run_cli: Callable[..., Any],
    call_cli: Callable[..., Any],
) -> None:
    workspace, _, _ = road
    folder = workspace / "sets" / "set"
    assert run_cli("verify", "set", "-w", workspace).exit_code == 0
    positions = random.Random(0)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = bytearray(path.read_bytes())
        position = positions.randrange(len(content))
        content[position] ^= 1 << positions.randrange(8)
        original = path.read_bytes()
        path.write_bytes(content)
        done = call_cli("verify", "set", "-w", workspace, "--json")
        path.write_bytes(original)
        assert done.exit_code == 1, path
        relative = path.relative_to(folder).as_posix()
        assert relative in done.stdout
        if "/c/" in relative:
            assert '"image": ' in done.stdout
