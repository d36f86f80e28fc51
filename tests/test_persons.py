"""Who is of one person, against a union-find that is written out, and on a million real series."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.catalog.database import Database
from medkit.catalog.identity import Node, match_person, name_usable, unite
from medkit.catalog.persons import Persons, compile_person_regex, iterate_persons, resolve_persons

COLUMNS = (
    "root", "source", "PatientID", "IssuerOfPatientID", "StudyInstanceUID", "told_basis",
    "told_patient",
)  # fmt: skip
RULES = {"/r": r"P_(\d)"}
IDS = ["A", "b", "é", "P_1x", "P_1y", "P_2", "anon", "0", "", None]


def resolve(rows: list[dict[str, Any]], copies: list[tuple[int, int]] = ()) -> dict[str, Any]:
    """Return the persons of some profiles: one of each, the table, and the warnings."""
    with Database.open({}) as database:
        table = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in COLUMNS}
        dicom = pa.array([row.get("told_basis") is None for row in rows], pa.bool_())
        profile = pa.array(range(len(rows)), pa.int64())
        database.register("profiles", pa.table({**table, "dicom": dicom, "profile": profile}))
        left, right = np.array(copies, np.int64).reshape(-1, 2).T
        images = np.ones(len(rows), np.int64)
        persons: Persons = resolve_persons(database, RULES, images, (left, right))
        tables = [*iterate_persons(database, persons.keys)]
    keys = [*persons.keys.to_pylist(), None]
    return {
        "person": [keys[number] for number in persons.owner],
        "table": [row for table in tables for row in table.to_pylist()],
        "warnings": persons.warnings,
    }


def list_nodes(row: dict[str, Any]) -> tuple[Node, ...]:
    """What one object says of its person, as a person would say it."""
    if row.get("told_basis"):
        return (("patient", row["source"], "", row["told_patient"]),)
    stated = row["PatientID"]
    rule = compile_person_regex(RULES[row["root"]]) if row["root"] in RULES else None
    matched = match_person(rule, stated) if rule and stated else None
    nodes: list[Node] = []
    if identity := matched or name_usable(stated):
        nodes.append(("patient", row["source"], row["IssuerOfPatientID"] or "", identity))
    if row["StudyInstanceUID"] is not None:
        nodes.append(("study", row["StudyInstanceUID"]))
    return tuple(nodes)


profiles = st.fixed_dictionaries(
    {
        "root": st.sampled_from(["/r", "/s"]),
        "source": st.sampled_from(["s", "t"]),
        "PatientID": st.sampled_from(IDS),
        "IssuerOfPatientID": st.sampled_from([None, "i"]),
        "StudyInstanceUID": st.sampled_from([None, "1", "2", "10", "é"]),
    }
)
pictures = st.fixed_dictionaries(
    {
        "root": st.just("/s"),
        "source": st.sampled_from(["s", "t"]),
        "told_basis": st.sampled_from(["csv", "person-regex"]),
        "told_patient": st.sampled_from(["A", "0"]),
    }
)


@given(st.lists(profiles | pictures, max_size=12), st.data())
def test_persons_are_the_connected_parts(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    pairs = st.tuples(*[st.integers(0, max(0, len(rows) - 1))] * 2)
    copies = data.draw(st.lists(pairs, max_size=2 if rows else 0))
    nodes = [list_nodes(row) for row in rows]
    ties = [(nodes[a][0], nodes[b][0]) for a, b in copies if nodes[a] and nodes[b]]
    smallest = unite([*filter(None, nodes), *ties])
    expected = [smallest[own[0]] if own else None for own in nodes]
    found = resolve(rows, copies)
    assert [person is None for person in found["person"]] == [one is None for one in expected]
    pairs_found = set(zip(found["person"], expected, strict=True))
    assert len(pairs_found) == len(set(expected)) == len(set(found["person"]))
    assert sum(row["images"] for row in found["table"]) == sum(map(bool, nodes))
    assert [row["person"] for row in found["table"]] == sorted({*found["person"]} - {None})


def test_a_key_follows_from_the_smallest_name_alone() -> None:
    rows = [
        {"root": "/x", "source": "s", "PatientID": "B", "StudyInstanceUID": "1"},
        {"root": "/x", "source": "s", "PatientID": "A", "StudyInstanceUID": "1"},
    ]
    found = resolve(rows)
    assert found["person"] == ["dd78ead740996f36"] * 2 == resolve(rows[1:])["person"] * 2
    assert found["table"] == [
        {
            "person": "dd78ead740996f36",
            "basis": "PatientID",
            "sources": ["s"],
            "patient_ids": ["A", "B"],
            "studies": 1,
            "images": 2,
        }
    ]


def test_what_the_user_should_know_is_counted() -> None:
    rows = [
        {"root": "/r", "source": "s", "PatientID": "P_1", "StudyInstanceUID": "1"},
        {"root": "/r", "source": "s", "PatientID": "odd", "StudyInstanceUID": "2"},
        {"root": "/r", "source": "s", "PatientID": "anon", "StudyInstanceUID": "3"},
        {"root": "/s", "source": "s"},
    ]
    warnings = resolve(rows)["warnings"]
    assert [warning.split(" images")[0] for warning in warnings] == [
        "1", "1", "the person rule 'P_(\\\\d)' matches no PatientID of 2"
    ]  # fmt: skip


def load_benchmark() -> Any:
    pytest.importorskip("idc_index_data", reason="the index of a million series is not installed")
    path = Path(__file__).parent.parent / "benchmarks" / "idc_persons.py"
    spec = importlib.util.spec_from_file_location("idc_persons", path)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    return benchmark


def test_no_person_of_the_imaging_data_commons_is_in_two_folds() -> None:
    benchmark = load_benchmark()
    with benchmark.open_index() as database:
        persons = benchmark.resolve(database)
        series = benchmark.read_series(database, persons)
    assert len(series) >= 1_044_191
    count = series.groupby("collection")[["PatientID", "person"]].nunique()
    assert count.loc["cbis_ddsm"].tolist() == [6671, 1566]
    nlst = series[series["collection"] == "nlst"].set_index("PatientID")
    assert nlst.loc[["108001", "123342"], "person"].nunique() == 1
    ddsm = series[series["collection"] == "cbis_ddsm"]
    split = benchmark.compare_splits(ddsm, ddsm["PatientID"].str[:4])
    assert split["persons on both sides"][0] == 0 < split["persons on both sides"][1]
