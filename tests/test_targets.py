"""What a user may name, and what is made of it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from medkit.catalog.roots import choose_roots
from medkit.catalog.scan import scan
from medkit.catalog.store import Catalog
from medkit.errors import SourceError, UsageError
from medkit.sources.fetching import fetch
from medkit.sources.targets import describe_target, plan_target
from medkit.workspace import Workspace


def test_a_phantom_that_the_user_got_is_read_by_its_rule(
    tmp_path: Path, workspace: Workspace
) -> None:
    path = tmp_path / "det_head_u2med.dat"
    path.write_bytes(bytes(range(128)) * (256 * 256))
    with pytest.raises(UsageError, match=r"nothing can fetch zubal-head but you; .* --from"):
        plan_target("zubal-head")
    with pytest.raises(UsageError, match="--spacing COLUMN,ROW,SLICE"):
        plan_target("zubal-head", own=str(path))
    done = fetch(plan_target("zubal-head", own=str(path), spacing="1.5,1.5,2"), workspace)
    assert done.files == 1
    scan(workspace.catalog, choose_roots(workspace, [], None, None, []), workers=0)
    with Catalog.open(workspace.catalog) as catalog:
        found = catalog.query(
            "SELECT count(*) AS frames, any_value(PixelSpacing) AS mm FROM frames"
        )
        assert found["frames"][0] == 128
        assert list(found["mm"][0]) == [1.5, 1.5]


def test_an_archive_that_the_user_got_has_the_facts_of_its_source(
    tmp_path: Path, workspace: Workspace, pydicom_files: Path
) -> None:
    path = tmp_path / "BRAINIX.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(pydicom_files / "MR_small.dcm", "BRAINIX/IM-0001.dcm")
    planned = plan_target("osirix", own=str(path), name="brainix")
    assert planned.source.licence.startswith("exclusively for research and teaching")
    done = fetch(planned, workspace)
    assert (done.source.name, done.files) == ("brainix", 1)
    assert "no commercial use" in done.source.licence


def test_a_share_link_that_leads_to_a_page_is_no_study(
    httpserver: HTTPServer, workspace: Workspace
) -> None:
    httpserver.expect_request("/").respond_with_data("<!doctype html>", content_type="text/html")
    url = httpserver.url_for("/?study=1.2.3")
    with pytest.raises(UsageError, match="--no-hash"):
        plan_target("dicom-library", own=url)
    with pytest.raises(SourceError, match="page"):
        fetch(plan_target("dicom-library", own=url, unchecked=True), workspace)
    assert workspace.names("raw") == []


@pytest.mark.parametrize(
    ("target", "wishes", "said"),
    [
        ("lidc-idri", {"own": "x.zip"}, "can be fetched; leave --from out"),
        ("pydicom-data", {"where": "x"}, "no parts to choose by --where"),
        ("pydicom-data", {"variant": "x"}, "it has one form alone"),
        ("pydicom-data", {"spacing": "1,1,1"}, "no rule that lacks a spacing"),
        ("pydicom-data", {"licence": "mine"}, "states its own licence"),
        ("zubal-head", {"own": "/no/such", "spacing": "1,1,1"}, "no known source"),
        ("zubal-head", {"own": __file__, "spacing": "a,b,c"}, "--spacing is 'a,b,c'"),
        ("idc:x", {"sha256": "0" * 64}, "--sha256 does not fit"),
        ("kaggle:competition/x", {"own": "y"}, "--from does not fit"),
        ("dimse://host:104", {}, "no address of an archive"),
        ("dimse://AET@host:104?port=3", {}, "no address of an archive"),
        ("dimse://AET:secret@host:104", {}, "no address of an archive"),
        ("dicomweb+https://", {}, "no address of DICOMweb"),
        ("dicomweb+https://h/x", {"where": "Modality>1"}, "cannot be asked of a server"),
        ("s3://key:secret@bucket/x", {}, "credentials"),
        ("nothing-of-the-kind", {"where": "x"}, "--where is for known sources"),
    ],
)
def test_what_does_not_fit_is_refused(target: str, wishes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        describe_target(target, **wishes)
    assert "secret" not in str(caught.value).replace(target, "")


def test_a_local_file_may_be_named_by_its_address(tmp_path: Path) -> None:
    assert describe_target(tmp_path.as_uri()) == describe_target(str(tmp_path))


def test_a_selection_has_a_name_of_its_own(workspace: Workspace) -> None:
    pytest.importorskip("idc_index_data")
    one = plan_target("visible-human", where="Modality = 'CT'", name="ct")
    assert (one.source.name, one.preflight.series) == ("ct", 11)
    assert one.request != plan_target("visible-human").request
    with pytest.raises(UsageError, match="no series of lung_phantom is left"):
        plan_target("lung-phantom", where="Modality = 'SEG'")  # it is a choice of CT already


def test_the_labels_of_a_source_are_offered(call_cli: Any, tmp_path: Path) -> None:
    """A descriptor's rule becomes the command that applies it, and the command works."""
    images = tmp_path / "set"
    images.mkdir()
    from PIL import Image

    for name in ("10_left", "10_right"):
        Image.new("L", (8, 8), len(name)).save(images / f"{name}.png")
    (images / "grades.csv").write_text("image,level\n10_left,0\n10_right,3\n")
    folder = tmp_path / "descriptors"
    folder.mkdir()
    lines = [
        'name = "eyes"', 'title = "Eyes"', 'version = "1"', 'licence = "CC0-1.0"',
        'protocol = "local"', f'path = "{images.as_posix()}"', 'person_regex = "([0-9]+)_"',
        '[[labels]]', 'name = "grade"', 'table = "grades.csv"', 'column = "level"',
        'on = "image"',
    ]  # fmt: skip
    (folder / "eyes.toml").write_text("\n".join(lines))
    home = tmp_path / "workspace"
    done = call_cli("fetch", "eyes", "-w", home, MEDKIT_CATALOGS=str(folder))
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("medkit label")]
    assert call_cli("catalog", "-w", home).exit_code == 0
    labelled = call_cli(*line.split()[1:], "-w", home, "--json")
    assert json.loads(labelled.stdout)["values"] == {"0": 1, "3": 1}


@pytest.mark.parametrize(
    ("protocol", "address"),
    [
        ("dicomweb", "dicomweb+https://127.0.0.1:1/web"),
        ("dicomweb", "dicomweb+http://169.254.169.254/web"),
        ("dimse", "dimse://AET@127.0.0.1:104"),
        ("dimse", "dimse://AET@10.1.2.3:104"),
        ("remote", "sftp://me@192.168.0.1/data"),
    ],
)
def test_a_descriptor_leads_to_no_private_network(
    protocol: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        'name = "trap"', 'title = "A trap"', 'version = "1"', 'licence = "CC0-1.0"',
        f'protocol = "{protocol}"', f'selection = "{address}"',
    ]  # fmt: skip
    (tmp_path / "trap.toml").write_text("\n".join(lines))
    monkeypatch.setenv("MEDKIT_CATALOGS", str(tmp_path))
    with pytest.raises(SourceError, match=r"for which nobody asked|which is not https"):
        plan_target("trap")
