"""A push that is killed, and run again, leaves the same bytes or the same instances over there."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from archivetrees import describe_tree
from servers import Orthanc, start_orthanc, start_s3, start_sshd
from test_archive_faults import KILLS, POSIX, hash_files, run_verb

from medkit.archive.pack import pack
from medkit.archive.push import pull
from medkit.testing import write_dicom

pytestmark = [POSIX, pytest.mark.soak]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree") / "tree"
    values = np.random.default_rng(0)
    for number in range(120):
        pixels = (values.normal(500, 200, (256, 256)) + number).astype(np.uint16)
        series = {"StudyInstanceUID": "2.25.8", "SeriesInstanceUID": f"2.25.{9 + number // 20}"}
        write_dicom(folder / f"{number}.dcm", pixels, **series)
    (folder / "notes.txt").write_text("no image\n")
    return folder


@pytest.fixture
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Yield a place of files of some kind, which processes of their own reach, too."""
    kind = request.param
    if kind == "folder":
        yield str(tmp_path / "there")
    elif kind == "sftp":
        with start_sshd(tmp_path) as (address, home):
            monkeypatch.setenv("HOME", str(home))
            yield f"{address}{tmp_path / 'there'}"
    else:
        s3fs = pytest.importorskip("s3fs", reason="the driver of s3:// is not installed")
        import fsspec

        with start_s3() as endpoint:
            options = {"endpoint_url": endpoint, "key": "key", "secret": "secret"}
            monkeypatch.setenv("FSSPEC_S3", json.dumps(options))
            monkeypatch.setitem(fsspec.config.conf, "s3", options)
            s3fs.S3FileSystem.clear_instance_cache()
            s3fs.S3FileSystem().call_s3("create_bucket", Bucket="killed")
            yield "s3://killed/there"
            s3fs.S3FileSystem.clear_instance_cache()


def kill_often(command: list[str], check: Any, begin: Any, seed: str) -> int:
    """Kill a command at some moments, and let it end; return how often it was killed in time."""
    moments, killed, tries = random.Random(seed), 0, 0
    seconds = 0.0
    while killed < KILLS and tries < 3 * KILLS:
        turn = begin(command, tries)
        tries += 1
        if not seconds:
            seconds = run_verb(turn) or 1
        else:
            ended = run_verb(turn, moments.uniform(0.3, 1) * seconds)
            killed += ended is None
            seconds = ended or seconds  # of a machine that is busier or idler than it was
            run_verb(turn)
        check(turn)
    return killed


@pytest.mark.parametrize("place", ["folder", "sftp", "s3"], indirect=True)
def test_a_killed_push_of_a_tree_goes_on_to_the_same_bytes(
    place: str, tree: Path, tmp_path: Path
) -> None:
    before = describe_tree(tree)
    pack(tree, tmp_path / "expected", shard_size=1 << 20, workers=0)
    expected = hash_files(tmp_path / "expected")
    options = ["--identified", "--shard-size", "1", "--workers", "0"]

    def begin(command: list[str], number: int) -> list[str]:
        folder = str(tmp_path / f"work-{number}")
        return ["push", str(tree), f"{place}-{number}", *command, "-w", folder]

    def check(command: list[str]) -> None:
        back = tmp_path / f"back-{Path(command[-1]).name}"
        pull(command[2], back)
        assert hash_files(back) == expected
        assert not [*Path(command[-1]).rglob("*.zip")]

    assert kill_often(options, check, begin, place[:4]) == KILLS
    assert describe_tree(tree) == before


def empty(orthanc: Orthanc) -> None:
    root = f"http://127.0.0.1:{orthanc.http}"
    for patient in requests.get(f"{root}/patients", timeout=60).json():
        requests.delete(f"{root}/patients/{patient}", timeout=60).raise_for_status()


@pytest.mark.parametrize("protocol", ["dicomweb", "dimse"])
def test_a_killed_push_to_a_server_goes_on_to_the_same_instances(
    protocol: str, tree: Path, tmp_path: Path
) -> None:
    before = describe_tree(tree)
    with start_orthanc(tmp_path) as orthanc:
        address = f"dicomweb+http://127.0.0.1:{orthanc.http}/dicom-web"
        if protocol == "dimse":
            pytest.importorskip("pynetdicom")
            address = f"dimse://ORTHANC@127.0.0.1:{orthanc.dicom}"

        def begin(command: list[str], number: int) -> list[str]:
            empty(orthanc)
            return [*command, "-w", str(tmp_path / f"work-{number}")]

        def check(command: list[str]) -> None:
            root = f"http://127.0.0.1:{orthanc.http}"
            assert len(requests.get(f"{root}/instances", timeout=60).json()) == 120
            (ledger,) = Path(command[-1]).rglob("ledger.jsonl")
            lines = [json.loads(line) for line in ledger.read_text().splitlines()]
            last = {line["uid"]: line["state"] for line in lines}
            assert [*last.values()] == ["verified"] * 120

        command = ["push", str(tree), address, "--identified"]
        assert kill_often(command, check, begin, protocol) == KILLS
    assert describe_tree(tree) == before
