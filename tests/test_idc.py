"""The Imaging Data Commons: what is planned from its index, and how its buckets are listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakeindex import install_index, write_index
from pytest_httpserver import HTTPServer

from medkit.errors import SourceError, UsageError
from medkit.sources import idc
from medkit.sources.descriptor import find_descriptor, list_descriptors
from medkit.sources.targets import plan_target

needs_index = pytest.mark.skipif(not idc.is_installed(), reason="idc-index-data is not installed")


# ---- The real index, v25; a later one may differ -------------------------------------------------

COLLECTIONS = {
    # series, instances, bytes, licence
    "nlm_visible_human_project": (39, 20_156, 312_479_602_546, "National Library of Medicine"),
    "lidc_idri": (15_116, 258_335, 136_547_857_534, "CC BY 3.0"),
    "cbis_ddsm": (6_775, 10_239, 163_512_966_728, "CC BY 3.0"),
    "prostate_3t": (64, 1_258, 297_715_610, "CC BY 3.0"),
    "pseudo_phi_dicom_data": (52, 3_386, 1_274_092_726, "CC BY 4.0"),
    "qin_pet_phantom": (44, 2_816, 246_305_000, "CC BY 3.0"),
}


def is_v25() -> bool:
    return idc.is_installed() and idc.read_version() == 25


@needs_index
@pytest.mark.skipif(not is_v25(), reason="the figures are of IDC v25")
@pytest.mark.parametrize("collection", COLLECTIONS)
def test_a_collection_is_planned_offline(collection: str) -> None:
    series, files, size, licence = COLLECTIONS[collection]
    planned = plan_target(f"idc:{collection}")
    facts = planned.preflight
    assert (facts.series, facts.files, facts.size) == (series, files, size)
    assert planned.source.licence.startswith(licence)
    assert len(facts.citations) >= 1
    assert facts.lossy == 0


@needs_index
def test_the_dry_run_prints_series_size_and_licence(run_cli: Any, tmp_path: Path) -> None:
    done = run_cli("fetch", "idc:nlm_visible_human_project", "--dry-run", "-w", tmp_path)
    assert done.exit_code == 0, done.stderr
    for words in ("39", "312.5 GB", "National Library of Medicine Terms"):
        assert words in done.stdout
    assert not (tmp_path / "raw").exists()


@needs_index
@pytest.mark.skipif(not is_v25(), reason="the figures are of IDC v25")
def test_the_shipped_descriptors_say_what_the_index_says() -> None:
    found = [one for one in list_descriptors().descriptors if one.protocol == "idc"]
    assert len(found) == 9
    for one in found:
        chosen = idc.choose(one.selection, one.where)
        assert (one.series_count, one.file_count, one.size_bytes) == (
            chosen.series,
            chosen.files,
            chosen.size,
        )
        assert one.licence == ", ".join(chosen.licences)
        assert one.modality == chosen.modalities


@needs_index
def test_the_person_rule_of_cbis_ddsm_finds_1566_people() -> None:
    import re

    one = find_descriptor("cbis-ddsm")
    assert one is not None
    with idc.open_index() as index:
        sql = "SELECT DISTINCT PatientID FROM idc WHERE collection_id = 'cbis_ddsm'"
        names = [name for (name,) in index.execute(sql).fetchall()]
    found = [re.findall(one.person_regex, name) for name in names]
    assert {len(each) for each in found} == {1}
    assert (len(names), len({each[0] for each in found})) == (6671, 1566)


@needs_index
def test_non_commercial_licences_are_counted() -> None:
    facts = plan_target("nsclc-radiomics").preflight
    assert any("NC" in name for name in facts.licences)
    assert sum(facts.licences.values()) == facts.series


# ---- An index of a few files ---------------------------------------------------------------------


@pytest.fixture
def objects(
    tmp_path: Path, pydicom_files: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, bytes]:
    names = ("CT_small.dcm", "MR_small.dcm", "JPGExtended.dcm")
    made = write_index(tmp_path, [pydicom_files / name for name in names])
    install_index(tmp_path, monkeypatch)
    return made


def test_a_condition_is_sql_over_the_index(objects: dict[str, bytes]) -> None:
    assert plan_target("idc:toy").preflight.series == 3
    chosen = plan_target("idc:TOY", where="Modality = 'CT' -- and no more")
    assert (chosen.preflight.series, chosen.source.modality) == (1, ("CT",))
    assert chosen.preflight.licences == {"CC BY-NC 4.0": 1}
    assert chosen.preflight.citations == ("Toy (2026). A & B",)
    assert plan_target("idc:toy").preflight.lossy == pytest.approx(1 / 3)
    assert chosen.request != plan_target("idc:toy").request


@pytest.mark.parametrize(
    ("target", "where", "said"),
    [
        ("idc:toys", "", "no collection 'toys'; near it: toy"),
        ("idc:toy", "Modality = 'XX'", "no series of toy is left"),
        ("idc:toy", "Modalty = 'CT'", '"Modalty" not found .* its columns are collection_id'),
        ("idc:toy", "true; SELECT 1", "cannot be asked of the index"),
        ("idc:toy", "EXISTS (FROM read_csv('/etc/passwd'))", "cannot be asked of the index"),
        ("idc:toy", "1=1) OR (1=1", ""),
    ],
)
def test_a_wrong_condition_is_refused_and_none_reaches_out(
    target: str, where: str, said: str, objects: dict[str, bytes]
) -> None:
    if not said:  # brackets that would leave the collection
        assert idc.choose("toy", where).series == 3
        return
    with pytest.raises(UsageError, match=said):
        plan_target(target, where=where)


def list_bucket(keys: dict[str, bytes], token: str = "") -> str:
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>{len(content)}</Size><ETag>&quot;0a&quot;</ETag>"
        "</Contents>"
        for key, content in keys.items()
    )
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<ListBucketResult xmlns="{space}">{entries}{more}</ListBucketResult>'


def test_a_series_is_listed_to_its_last_page(
    objects: dict[str, bytes], httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(idc.ENDPOINT, httpserver.url_for(""))
    for key, content in objects.items():
        prefix = f"{key.partition('/')[0]}/"
        first = {"list-type": "2", "prefix": prefix}
        page = httpserver.expect_request("/idc-open-data/", query_string=first)
        page.respond_with_data(list_bucket({}, "next"))
        page = httpserver.expect_request(
            "/idc-open-data/", query_string={**first, "continuation-token": "next"}
        )
        page.respond_with_data(list_bucket({key: content}))
    items = {item.path: item for item in plan_target("idc:toy").items()}
    assert {path: item.size for path, item in items.items()} == {
        key: len(content) for key, content in objects.items()
    }
    assert {item.hashes["s3-etag"] for item in items.values()} == {"0a"}
    assert list(items) == [item.path for item in plan_target("idc:toy").items()]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (list_bucket({}), "holds 0 instances, and the index says 1"),
        (list_bucket({"../x.dcm": b""}), "lists '../x.dcm', which is no instance"),
        ("<html>", "no listing"),
    ],
)
def test_a_listing_that_is_not_right_is_refused(
    answer: str,
    said: str,
    objects: dict[str, bytes],
    httpserver: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(idc.ENDPOINT, httpserver.url_for(""))
    httpserver.expect_request("/idc-open-data/").respond_with_data(answer)
    with pytest.raises(SourceError, match=said):
        list(plan_target("idc:toy").items())


def test_without_the_index_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "idc_index_data", None)
    with pytest.raises(UsageError, match=r"pip install medkit\[idc\]"):
        plan_target("idc:lidc_idri")
