"""From real servers, fetch, catalog and normalise come to what scanning the folder comes to.

Orthanc speaks DICOMweb, C-FIND, C-GET and C-MOVE; moto is S3, bare and in the layout of the
Imaging Data Commons; OpenSSH is SFTP. Tests of a server that is not installed are skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakeindex import install_index, write_index
from servers import Orthanc, find_port, put_objects, start_orthanc, start_s3, start_sshd

from medkit.catalog.roots import choose_roots
from medkit.catalog.scan import scan
from medkit.catalog.store import Catalog
from medkit.errors import SourceError
from medkit.images.imageset import ImageSet
from medkit.images.normalisation import Recipe, normalise
from medkit.sources.fetching import fetch
from medkit.sources.targets import plan_target
from medkit.workspace import Workspace

# Of pydicom's: series of several slices and persons, and one picture each of eight syntaxes.
FOLDERS = ("dicomdirtests/77654033", "dicomdirtests/98892003")
FILES = (
    "CT_small.dcm", "JPEG2000.dcm", "JPGExtended.dcm", "SC_rgb_rle.dcm", "image_dfl.dcm",
    "SC_rgb_small_odd_big_endian.dcm", "liver_1frame.dcm", "rtplan.dcm", "test-SR.dcm",
    "MR_small_RLE.dcm", _TWIN := "MR_small_jp2klossless.dcm", _BARE := "JPEGLSNearLossless_08.dcm",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a workspace came to; equal for equal images, wherever they were brought from."""

    instances: list[tuple[Any, ...]]
    persons: list[list[str]]
    volumes: list[tuple[Any, ...]]
    pixels: list[tuple[Any, ...]]
    refused: list[str]


@pytest.fixture(scope="module")
def source(pydicom_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, among them two of one UID, and a file that is none."""
    folder = tmp_path_factory.mktemp("source") / "images"
    for name in FOLDERS:
        shutil.copytree(pydicom_files / name, folder / name)
    for name in FILES:
        shutil.copy(pydicom_files / name, folder / name)
    (folder / "readme.txt").write_text("no image\n")
    return folder


def walk(target: Any, folder: Path) -> Outcome:
    """Fetch, catalog and normalise a target, as the three commands do; and fetch it again."""
    home = Workspace(folder)
    assert fetch(plan_target(str(target)), home).status in ("fetched", "registered")
    scan(home.catalog, choose_roots(home, [], None, None, []), workers=0)
    with Catalog.open(home.catalog) as catalog:
        normalise(catalog, home.set("set"), Recipe((16, 16)), workers=0)
    assert fetch(plan_target(str(target)), home).status == "already there"
    return read_outcome(home)


def read_outcome(home: Workspace) -> Outcome:
    with Catalog.open(home.catalog) as catalog:
        rows = catalog.query(
            "SELECT SOPInstanceUID, TransferSyntaxUID, Modality, Rows, NumberOfFrames, person "
            "FROM instances JOIN files USING (file) WHERE duplicate IS DISTINCT FROM 'alias' "
            "AND NOT vanished AND SOPInstanceUID IS NOT NULL"
        )
        volumes = catalog.query(
            "SELECT SeriesInstanceUID, slices, Rows, Columns, slice_spacing, "
            "regularly_spaced_3d_volume FROM volumes"
        )
    made = ImageSet.open(home.set("set"))
    of_person = defaultdict(list)
    for uid, person in rows[["SOPInstanceUID", "person"]].itertuples(index=False):
        of_person[person].append(uid)
    facts = list_rows(rows.drop(columns="person"))
    return Outcome(
        facts,
        sorted(sorted(uids) for uids in of_person.values()),
        list_rows(volumes),
        sorted(
            made.table[["SOPInstanceUID", "frame", "source_sha256"]].itertuples(
                index=False, name=None
            )
        ),
        sorted(made.refused["code"]),
    )


def list_rows(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    plain = table.astype(object).where(table.notna(), None)
    return sorted(plain.itertuples(index=False, name=None), key=repr)


@pytest.fixture(scope="module")
def scanned(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What scanning the folder comes to."""
    found = walk(source, tmp_path_factory.mktemp("scanned"))
    assert len(found.instances) > 25
    assert len(found.persons) > 5
    assert len(found.volumes) > 1
    assert len({row[1] for row in found.instances}) >= 7  # transfer syntaxes
    return found


# ---- Orthanc -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with start_orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture(scope="module")
def accepted(orthanc: Orthanc, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What scanning the files comes to that Orthanc accepts; what it does not is listed here."""
    folder = tmp_path_factory.mktemp("accepted") / "images"
    said = {}
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        name = path.relative_to(source).as_posix()
        said[name] = orthanc.store(path.read_bytes())
        if said[name] == "Success":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / name)
    # It takes no file without the UIDs of a study, and merges what has one SOPInstanceUID.
    assert {name for name, status in said.items() if not status} == {"readme.txt", _BARE}
    assert {name for name, status in said.items() if status == "AlreadyStored"} == {_TWIN}
    return walk(folder, tmp_path_factory.mktemp("walked"))


def test_dicomweb_brings_what_is_stored(
    orthanc: Orthanc, accepted: Outcome, tmp_path: Path
) -> None:
    assert walk(f"dicomweb+http://127.0.0.1:{orthanc.http}/dicom-web", tmp_path) == accepted


@pytest.mark.parametrize("how", ["C-GET", "C-MOVE"])
def test_dimse_brings_what_is_stored(
    how: str, orthanc: Orthanc, accepted: Outcome, tmp_path: Path
) -> None:
    pytest.importorskip("pynetdicom")
    receiver = f"?receiver={orthanc.ours}" if how == "C-MOVE" else ""
    address = f"dimse://ORTHANC@127.0.0.1:{orthanc.dicom}{receiver}"
    assert walk(address, tmp_path) == accepted


@pytest.mark.parametrize("protocol", ["dicomweb", "dimse"])
@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("Modality='CT'", {"CT"}),
        ("PatientID='77654033'", {"CT", "CR"}),
        ("PatientID='98*' AND Modality='MR'", {"MR"}),
    ],
)
def test_a_condition_chooses_series(
    protocol: str, where: str, expected: set[str], orthanc: Orthanc, accepted: Outcome
) -> None:
    if protocol == "dimse":
        pytest.importorskip("pynetdicom")
    address = {
        "dicomweb": f"dicomweb+http://127.0.0.1:{orthanc.http}/dicom-web",
        "dimse": f"dimse://ORTHANC@127.0.0.1:{orthanc.dicom}",
    }[protocol]
    planned = plan_target(address, where=where)
    assert set(planned.source.modality) == expected
    if where == "Modality='CT'":
        found = sum(row[2] == "CT" for row in accepted.instances)
        assert planned.preflight.files == found
    with pytest.raises(SourceError, match="has no series that match"):
        plan_target(address, where="PatientID='nobody at all'")


def test_what_a_server_lists_and_does_not_give_is_named(
    pydicom_files: Path,
    tmp_path: Path,
    run_cli: Callable[..., Any],
) -> None:
    """Orthanc cannot send this one by C-GET."""
    pytest.importorskip("pynetdicom")
    more = Path(pytest.importorskip("data_store").__path__[0]) / "data"
    with start_orthanc(tmp_path) as server:
        for path in (pydicom_files / "CT_small.dcm", more / "explicit_VR-UN.dcm"):
            assert server.store(path.read_bytes()) == "Success"
        ask = ["fetch", f"dimse://ORTHANC@127.0.0.1:{server.dicom}", "--yes", "-w", tmp_path / "w"]
        done = run_cli(*ask)
        assert done.exit_code == 1
        assert "1 of 2 objects cannot be brought" in done.stderr
        assert "0xC000; --leave-out" in done.stderr
        done = run_cli(*ask, "--leave-out")
        assert done.exit_code == 0, done.stderr
        assert "refused by the server, and left out: 1" in done.stdout
    lines = (tmp_path / "w" / "raw" / "ORTHANC" / "files.jsonl").read_text().splitlines()
    refused = [line["refused"] for line in map(json.loads, lines) if line.get("refused")]
    assert len(refused) == 1
    assert "8828356712501776637392831168989589: the archive answers" in refused[0][0]


# Dies at the sixth series, the first time; says how many it asked for, the second.
KILLED = """
import os, sys
from dataclasses import replace
from pathlib import Path
from medkit.sources.fetching import fetch
from medkit.sources.pace import Pace
from medkit.sources.targets import plan_target
from medkit.workspace import Workspace

address, folder, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
planned = plan_target(address, name="set")
((scheme, bring),) = planned.fillers.items()
asked = []

def count(item, folder, moved):
    asked.append(item.path)
    if len(asked) == limit:
        (folder / "half").write_bytes(b"x")
        os._exit(9)
    return bring(item, folder, moved)

fetch(replace(planned, fillers={scheme: count}), Workspace(Path(folder)), pace=Pace(workers=1))
print(len(asked), planned.preflight.series)
"""


@pytest.mark.parametrize("protocol", ["dicomweb", "dimse"])
def test_a_series_that_came_is_not_asked_for_again_after_a_kill(
    protocol: str, orthanc: Orthanc, accepted: Outcome, tmp_path: Path
) -> None:
    if protocol == "dimse":
        pytest.importorskip("pynetdicom")
    address = {
        "dicomweb": f"dicomweb+http://127.0.0.1:{orthanc.http}/dicom-web",
        "dimse": f"dimse://ORTHANC@127.0.0.1:{orthanc.dicom}",
    }[protocol]
    command = [sys.executable, "-c", KILLED, address, str(tmp_path)]
    assert subprocess.run([*command, "6"]).returncode == 9
    done = subprocess.run([*command, "0"], capture_output=True, text=True, check=True)
    asked, series = map(int, done.stdout.split())
    assert asked == series - 5
    files = tmp_path / "raw" / "set" / "files"
    brought = [path.stem for path in files.rglob("*") if path.is_file()]
    assert sorted(brought) == sorted({row[0] for row in accepted.instances})


def test_an_archive_that_does_not_know_us_is_told_apart(orthanc: Orthanc, tmp_path: Path) -> None:
    pytest.importorskip("pynetdicom")
    place = f"ORTHANC@127.0.0.1:{orthanc.dicom}"
    with pytest.raises(SourceError, match="refuses an association with MEDKIT; does it know"):
        plan_target(f"dimse://OTHER@127.0.0.1:{orthanc.dicom}")
    planned = plan_target(
        f"dimse://{place}?aet=NOBODY&receiver={find_port()}", where="Modality='SR'"
    )
    with pytest.raises(SourceError, match="does it know NOBODY at the address of this"):
        fetch(planned, Workspace(tmp_path))


# ---- Files far away ------------------------------------------------------------------------------


def test_sftp_brings_the_folder(
    source: Path, scanned: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_sshd(tmp_path) as (address, home):
        monkeypatch.setenv("HOME", str(home))
        assert walk(f"{address}{source}", tmp_path / "workspace") == scanned


def test_s3_brings_the_objects(
    source: Path, scanned: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3fs = pytest.importorskip("s3fs", reason="the driver of s3:// is not installed")
    import fsspec

    objects = {
        f"images/{path.relative_to(source).as_posix()}": path.read_bytes()
        for path in source.rglob("*")
        if path.is_file()
    }
    with start_s3() as endpoint:
        put_objects(endpoint, "bucket", objects)
        settings = {"endpoint_url": endpoint, "key": "key", "secret": "secret"}
        monkeypatch.setitem(fsspec.config.conf, "s3", settings)
        assert walk("s3://bucket/images", tmp_path) == scanned
        lines = (tmp_path / "raw" / "images" / "files.jsonl").read_text().splitlines()
        assert {json.loads(line)["reference"] for line in lines} == {"s3-etag"}
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_collection_of_idc_comes_from_its_bucket(
    source: Path, scanned: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [path for path in source.rglob("*") if path.is_file() and path.suffix != ".txt"]
    objects = write_index(tmp_path / "site", images)
    install_index(tmp_path / "site", monkeypatch)
    with start_s3() as endpoint:
        put_objects(endpoint, "idc-open-data", objects)
        monkeypatch.setenv("MEDKIT_IDC_ENDPOINT", endpoint)
        assert walk("idc:toy", tmp_path / "workspace") == scanned
        put_objects(endpoint, "idc-open-data", {f"{min(objects)[:36]}/0.dcm": b"one more"})
        with pytest.raises(SourceError, match="and the index says"):
            fetch(plan_target("idc:toy", name="second"), Workspace(tmp_path / "workspace"))
