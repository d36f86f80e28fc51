"""Pseudonyms in answers that others may see."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medkit.catalog.labels import ImageRule, label_images
from medkit.catalog.listing import ask, look_up
from medkit.catalog.pseudonyms import load_key, stream
from medkit.catalog.scan import Root, scan
from medkit.catalog.schema import TABLES
from medkit.catalog.store import Catalog
from medkit.errors import CatalogError, UsageError
from medkit.testing import write_dicom

PIXELS = np.arange(16, dtype=np.uint16).reshape(4, 4)
NAMING = {
    "PatientID": "P-4711",
    "IssuerOfPatientID": "St-Elsewhere",
    "PatientName": "Muster^Erika",
    "PatientBirthDate": "19300405",
    "AccessionNumber": "ACC-1",
    "StudyDescription": "thorax of Erika",
    "SeriesDescription": "lung of Erika",
    "StudyDate": "20200317",
    "PatientAge": "094Y",
    "StudyInstanceUID": "1.2.3.4711",
    "SeriesInstanceUID": "1.2.3.4711.1",
    "FrameOfReferenceUID": "1.2.3.4711.2",
}
# What must be nowhere: of UIDs, the first digits are those of each.
SECRETS = ("4711", "Elsewhere", "Muster", "Erika", "19300405", "ACC", "0317", "094Y", "ward")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("pseudonyms")
    for number, modality in enumerate(["CT", "CT", "MR"]):
        write_dicom(
            folder / "ward" / "Erika" / f"{number}.dcm",
            PIXELS + number,
            **NAMING | {"Modality": modality, "SOPInstanceUID": f"1.2.3.4711.1.{number}"},
        )
    write_dicom(folder / "ward" / "other" / "x.dcm", PIXELS, PatientID="Q", PatientAge="050Y")
    (folder / "ward" / "Erika" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\1" * 9)
    home = folder / "catalog"
    scan(home, [Root("ward 7", folder / "ward")], workers=0, keep_identifiers=True)
    label_images(home, "where", ImageRule("folder"))
    label_images(home, "what", ImageRule("tag", "Modality"))
    label_images(home, "who", ImageRule("tag", "PatientID"))
    return Catalog.open(home)


def rows(answer: Any) -> list[dict[str, Any]]:
    return answer.read_all().to_pylist()


@pytest.mark.parametrize("table", ["images", *TABLES])
def test_no_table_tells_who_it_is(catalog: Catalog, table: str) -> None:
    plain = json.dumps(rows(look_up(catalog, table).batches))
    hidden = json.dumps(rows(look_up(catalog, table, anonymised=True).batches))
    # Of the digits of a pseudonym any four could be a secret's.
    told = re.sub(r"anon-[0-9a-f]{16}", "", hidden)
    assert [secret for secret in SECRETS if secret in told] == []
    # Keys that anyone could compute from a path or an identity are hidden as well.
    keys = {row["file"] for row in rows(look_up(catalog, "files").batches)}
    keys |= {row["person"] for row in rows(look_up(catalog, "persons").batches)}
    assert [key for key in keys if key in hidden] == []
    assert len(json.loads(hidden)) == len(json.loads(plain))


def test_codes_and_numbers_stay(catalog: Catalog) -> None:
    found = rows(
        look_up(
            catalog, "images", where="StudyDate = '2020' AND PatientAge <> '050Y'", anonymised=True
        ).batches
    )
    assert {row["Modality"] for row in found} == {"CT", "MR"}
    assert {(row["Rows"], row["PatientAge"], row["mtime_ns"]) for row in found} == {
        (4, "090Y", None)
    }
    labels = rows(look_up(catalog, "labels", anonymised=True).batches)
    values = {
        name: {row["value"] for row in labels if row["name"] == name}
        for name in ("what", "where", "who")
    }
    assert values["what"] >= {"CT", "MR"}
    assert all(value.startswith("anon-") for value in values["where"] | values["who"])


def test_equal_values_look_equal_in_every_table(catalog: Catalog) -> None:
    sql = """SELECT DISTINCT PatientID, patient_ids[1] AS listed, l.value
        FROM images JOIN persons USING (person) JOIN labels l USING (file)
        WHERE l.name = 'who' AND Modality = 'MR'"""
    (plain,) = rows(stream(catalog, sql, anonymised=False))
    (hidden,) = rows(stream(catalog, sql, anonymised=True))
    assert set(plain.values()) == {"P-4711"}
    assert len(set(hidden.values())) == 1


def test_an_alias_is_no_way_around(catalog: Catalog) -> None:
    sql = "WITH a AS (SELECT lower(PatientID) AS x FROM images) SELECT x FROM a, unnest([1])"
    assert {row["x"][:5] for row in rows(ask(catalog, sql, anonymised=True).batches)} == {"anon-"}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM main.images",
        "SELECT * FROM memory.main.images",
        "SELECT * FROM duckdb_views()",
        "SELECT sql FROM sqlite_master",
        "SELECT * FROM information_schema.views",
        "FROM read_parquet('files.parquet')",
        "FROM 'files.parquet'",
        "SUMMARIZE 'files.parquet'",
        "SELECT (SELECT count(*) FROM main.files)",
        "SELECT 1 WHERE EXISTS (FROM query('FROM main.files'))",
    ],
)
def test_nothing_but_the_pseudonyms_is_reached(catalog: Catalog, sql: str) -> None:
    with pytest.raises(UsageError, match="--anonymise-output"):
        ask(catalog, sql, anonymised=True)


@pytest.mark.parametrize("sql", ["SELECT", "DROP VIEW files", "SELECT 1; SELECT 2"])
def test_what_is_no_question_stays_none(catalog: Catalog, sql: str) -> None:
    with pytest.raises(UsageError, match="the catalog"):
        ask(catalog, sql, anonymised=True)


def test_the_key_is_drawn_once_and_is_private(tmp_path: Path) -> None:
    key = load_key(tmp_path)
    assert load_key(tmp_path) == key
    (path,) = tmp_path.iterdir()
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (tmp_path / "other").mkdir()
    assert load_key(tmp_path / "other") != key
    path.write_text(key[:10])
    with pytest.raises(CatalogError, match="damaged"):
        load_key(tmp_path)


def test_a_list_of_ids_cannot_be_looked_up(catalog: Catalog) -> None:
    found = rows(stream(catalog, "SELECT DISTINCT PatientID FROM images", anonymised=True))
    guesses = {hashlib.sha256(guess).hexdigest()[:16] for guess in (b"P-4711", b"Q")}
    assert guesses.isdisjoint({row["PatientID"].removeprefix("anon-") for row in found})
