"""The persons that images are of.

A person is the unit that may never stand on both sides of a split. Two images are of one person
if they share (PatientID, IssuerOfPatientID, source), or a StudyInstanceUID, or are copies of one
instance; and so on from there. Identifiers are compared within a source, because ``1`` of one
hospital is not ``1`` of another. No path is part of a person's key, so that it is the same on
every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medkit.catalog.database import Database
from medkit.catalog.identity import compile_person_regex, match_person, name_usable
from medkit.catalog.runs import cut_between, gather

Integers = npt.NDArray[np.integer[Any]]

_BASES = ("csv", "person-regex", "PatientID", "study")  # the first that applies names a person's
_ODD = pa.schema([(name, pa.string()) for name in ("root", "PatientID", "identity")])

# What each profile says of its person.
_CLAIMS = """
CREATE TEMP TABLE claims AS
SELECT profile, source, root,
    -- What a plugin's reader found is worth less than what the user says.
    CASE WHEN told_patient IS NULL AND PatientID IS NOT NULL THEN 'PatientID' ELSE told_basis END
        AS basis,
    coalesce(told_patient, PatientID) AS patient, coalesce(told_patient, PatientID) AS identity,
    CASE WHEN told_patient IS NULL THEN coalesce(IssuerOfPatientID, '') ELSE '' END AS issuer,
    NULL AS study
FROM profiles WHERE NOT dicom
UNION ALL
SELECT profile, source, profiles.root,
    CASE WHEN odd.root IS NULL AND profiles.PatientID IS NOT NULL THEN 'PatientID'
        WHEN odd.identity IS NOT NULL THEN 'person-regex'
        WHEN StudyInstanceUID IS NOT NULL THEN 'study' END,
    profiles.PatientID, CASE WHEN odd.root IS NULL THEN profiles.PatientID ELSE odd.identity END,
    coalesce(IssuerOfPatientID, ''), StudyInstanceUID
FROM profiles LEFT JOIN odd ON profiles.root = odd.root AND profiles.PatientID = odd.PatientID
WHERE dicom
"""
# Nodes are numbered in the order of their names, those of patients first.
_PATIENTS = """
CREATE TEMP TABLE patients AS
SELECT row_number() OVER (ORDER BY source, issuer, identity) - 1 AS patient_node, *
FROM (SELECT DISTINCT source, issuer, identity FROM claims WHERE identity IS NOT NULL)
"""
_STUDIES = """
CREATE TEMP TABLE visits AS
SELECT (SELECT count(*) FROM patients) + row_number() OVER (ORDER BY study) - 1 AS study_node, study
FROM (SELECT DISTINCT study FROM claims WHERE study IS NOT NULL)
"""
_NODES = """
SELECT profile, coalesce(patient_node, -1) AS patient, coalesce(study_node, -1) AS study
FROM claims LEFT JOIN patients USING (source, issuer, identity) LEFT JOIN visits USING (study)
"""
_NAMES = (
    """
SELECT 'patient' AS kind, source, issuer, identity AS name FROM patients
WHERE patient_node IN (SELECT node FROM smallest) ORDER BY patient_node
""",
    """
SELECT 'study' AS kind, study AS name FROM visits
WHERE study_node IN (SELECT node FROM smallest) ORDER BY study_node
""",
)
_COUNTS = """
SELECT root, basis, sum(images)::BIGINT AS images
FROM claims JOIN owners USING (profile) GROUP BY root, basis ORDER BY root
"""
_MEMBERS = f"""
SELECT owner, list_position({[*_BASES]}, basis) - 1 AS basis, source,
    nullif(patient, '') AS patient, study, images
FROM claims JOIN owners USING (profile) WHERE owner >= 0 ORDER BY owner
"""
_PERSONS = (
    ("basis", "basis", "min"),
    ("sources", "source", "values"),
    ("patient_ids", "patient", "values"),
    ("studies", "study", "count_distinct"),
    ("images", "images", "sum"),
)


@dataclass(frozen=True)
class Persons:
    """Who the images are of.

    Attributes
    ----------
    owner : (n,) int32 array
        For each profile, the number of its person; -1 where it has none.
    keys : pyarrow.Array
        The keys of the persons, sorted.
    warnings : list of str
        What the user should know.
    """

    owner: npt.NDArray[np.int32]
    keys: pa.Array
    warnings: list[str]


def resolve_persons(
    database: Database,
    rules: Mapping[str, str],
    images: Integers,
    copies: tuple[Integers, Integers],
) -> Persons:
    """Decide who each profile's images are of.

    Parameters
    ----------
    database : Database
        With the table ``profiles``: ``profile`` (numbered from 0), ``root``, ``source``,
        ``dicom``, ``PatientID``, ``IssuerOfPatientID``, ``StudyInstanceUID``; and of pictures
        ``told_basis`` and ``told_patient``.
    rules : mapping of str to str
        From root to a regular expression, applied to the PatientIDs of DICOM objects; its first
        group, or else the whole match, is the person.
    images : (n,) integers
        How many images each profile has that count.
    copies : (integers, integers)
        Pairs of profiles: one has a copy of an instance of the other.
    """
    database.register("odd", _read_odd(database, rules))
    for statement in (_CLAIMS, _PATIENTS, _STUDIES):
        database.execute(statement)
    nodes = np.full((2, len(images)), -1, np.int32)
    for batch in database.batches(_NODES):
        nodes[:, batch.column(0).to_numpy()] = [one.to_numpy() for one in batch.columns[1:]]
    patients, studies = nodes
    first = np.where(patients >= 0, patients, studies)
    smallest, parts = _unite(
        int(nodes.max(initial=-1)) + 1,
        np.concatenate([patients, first[copies[0]]]),
        np.concatenate([studies, first[copies[1]]]),
    )
    database.register("smallest", pa.table({"node": smallest}))
    names = _iterate_names(database)
    keys = np.fromiter(map(_make_key, names), "S16")
    order = np.argsort(keys)
    numbers = np.append(np.argsort(order), -1).astype(np.int32)  # of no node, no person
    owner = numbers[np.append(parts, -1)[first]]
    database.register(
        "owners", pa.table({"profile": np.arange(len(images)), "owner": owner, "images": images})
    )
    return Persons(owner, pa.array(keys[order]).cast(pa.string()), _warn(database, rules))


def iterate_persons(database: Database, keys: pa.Array) -> Iterator[pa.Table]:
    """Yield the rows of the table ``persons``, after `resolve_persons`."""
    for members in cut_between(database.batches(_MEMBERS), "owner"):
        table = gather(members, "owner", _PERSONS)
        owner, basis, *columns = table.columns
        named = [keys.take(owner), pa.array(_BASES).take(basis), *columns]
        yield pa.table(named, names=["person", *table.column_names[1:]])


def _read_odd(database: Database, rules: Mapping[str, str]) -> pa.Table:
    """Return the PatientIDs that do not themselves identify, with what a rule makes of them."""
    compiled = {root: compile_person_regex(pattern) for root, pattern in rules.items()}

    def identify(root: str, stated: str) -> str | None:
        rule = compiled.get(root)
        return match_person(rule, stated) if rule is not None and stated else None

    sql = "SELECT DISTINCT root, PatientID FROM profiles WHERE dicom AND PatientID IS NOT NULL"
    pieces = [_ODD.empty_table()]
    for batch in database.batches(sql):
        roots, stated = (column.to_pylist() for column in batch.columns)
        found = pa.array(map(identify, roots, stated), pa.string())
        nobody = pa.array(name_usable(one) is None for one in stated)
        table = pa.table([*batch.columns, found], schema=_ODD)
        pieces.append(table.filter(pc.or_(found.is_valid(), nobody)))
    return pa.concat_tables(pieces)


def _unite(count: int, left: Integers, right: Integers) -> tuple[Integers, Integers]:
    """Return the smallest node of each connected part, ascending, and each node's part.

    Parameters
    ----------
    count : int
        Nodes.
    left, right : (n,) integers
        Pairs of nodes that belong together; -1 is none.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    tied = (left >= 0) & (right >= 0)
    ties = coo_array((np.ones(tied.sum(), bool), (left[tied], right[tied])), (count, count))
    number, parts = connected_components(ties, directed=False)
    smallest = np.full(number, count, np.int32)
    np.minimum.at(smallest, parts, np.arange(count, dtype=np.int32))
    order = np.argsort(smallest)
    return smallest[order], np.argsort(order)[parts]


def _iterate_names(database: Database) -> Iterator[list[str]]:
    """Yield the name of the smallest node of each person, in the order of the nodes."""
    for sql in _NAMES:
        for batch in database.batches(sql):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield [*row]


def _make_key(node: list[str]) -> str:
    return hashlib.sha256(json.dumps(node).encode()).hexdigest()[:16]


def _warn(database: Database, rules: Mapping[str, str]) -> list[str]:
    rows = [row for row in database.arrow(_COUNTS).to_pylist() if row["images"]]

    def count(*bases: str | None, root: str | None = None) -> int:
        return sum(
            int(row["images"])
            for row in rows
            if row["basis"] in bases and root in (None, row["root"])
        )

    warnings = []
    if studies := count("study"):
        warnings.append(
            f"{studies} images have no usable PatientID (blank, or one such as 'ANON'): "
            "each of their studies counts as a person of its own"
        )
    if nobody := count(None):
        warnings.append(
            f"{nobody} images have no person, and cannot be trained on: give a CSV with "
            "a patient_id column to 'medkit label', or --person-regex to 'medkit catalog'"
        )
    warnings += [
        f"the person rule {rules[root]!r} matches no PatientID of {unmatched} images; the whole "
        "PatientID, or the study, is taken there"
        for root in sorted(rules)
        if (unmatched := count("PatientID", "study", root=root))
    ]
    return warnings
