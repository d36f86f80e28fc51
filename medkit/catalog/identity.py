"""Who is who: UIDs for objects that lack them, and the persons that images are of.

A person is the unit that may never stand on both sides of a split. Two images are of one person
if they share (PatientID, IssuerOfPatientID, source), or a StudyInstanceUID, or are copies of one
instance; and so on from there. Identifiers are compared within a source, because ``1`` of one
hospital is not ``1`` of another. No path is part of a person's key, so that it is the same on
every machine.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from medkit.catalog.findings import Finding
from medkit.errors import UsageError

# What stands in PatientID where there is none: compared in lower case, letters and digits only.
# '1' does not: it is the first person of many a set.
NOBODY = re.compile(
    "anon|anonym|anonymous|anonymized|anonymised|deidentified|default|dummy|hidden|id|na|nan|noid"
    "|nobody|none|noname|nopatientid|null|patient|patientid|removed|subject|test|unknown|0*|x*"
)
_BASES = ("csv", "person-regex", "PatientID", "study")  # the first that applies names a person's

Node = tuple[str, ...]


@dataclass(frozen=True)
class Persons:
    """Who the instances are of.

    Attributes
    ----------
    person, patient : list of str or None
        For each instance, in their order: the person's key, and the PatientID it goes by.
    table : DataFrame
        The table ``persons``.
    warnings : list of str
        What the user should know.
    """

    person: list[str | None]
    patient: list[str | None]
    table: pd.DataFrame
    warnings: list[str]


@dataclass(frozen=True)
class _Claim:
    """What one instance says of its person."""

    basis: str | None
    patient: str | None
    nodes: tuple[Node, ...]


def fill_uids(values: dict[str, Any], finding: Finding, source: str, path: str) -> bool:
    """Give a DICOM object the UIDs that it lacks, in place, and say whether it lacked any.

    They follow from source, folder and header alone (PS3.5 B.2, the 2.25 form), so that a
    series without a UID stays together, and is the same after every scan.
    """
    if values["format"] != "dicom" or finding.reason == "dicomdir":
        return False
    folder = path.rpartition("/")[0]
    parts = {
        "StudyInstanceUID": ("PatientID", "IssuerOfPatientID", "StudyDate", "AccessionNumber"),
        "SeriesInstanceUID": (
            "StudyInstanceUID",
            "SeriesNumber",
            "Modality",
            "Rows",
            "Columns",
            "FrameOfReferenceUID",
        ),
    }
    missing = False
    for keyword, keys in parts.items():
        if not values.get(keyword):
            missing = True
            values[keyword] = _make_uid(keyword, source, folder, *(values.get(key) for key in keys))
    if not values.get("SOPInstanceUID"):
        missing = True
        values["SOPInstanceUID"] = _make_uid("SOPInstanceUID", source, path)
    return missing


def compile_person_regex(pattern: str) -> re.Pattern[str]:
    """Return a person rule, compiled.

    Raises
    ------
    UsageError
        If it is no regular expression.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"the person rule {pattern!r} is no regular expression: {error}; "
            r"use one such as '(P\d+)_', whose first group is the person"
        ) from None


def resolve_persons(instances: pd.DataFrame, rules: Mapping[str, str]) -> Persons:
    """Decide who each instance is of.

    Parameters
    ----------
    instances : DataFrame
        The table ``instances`` with the columns ``root``, ``path`` and ``csv_patient`` beside.
    rules : mapping of str to str
        From root to a regular expression, applied to PatientID of DICOM objects and to the path
        of others; its first group, or else the whole match, is the person.
    """
    compiled = {root: compile_person_regex(pattern) for root, pattern in rules.items()}
    claims = [_claim(row, compiled) for row in instances.itertuples(index=False)]
    by_file = dict(zip(instances["file"], claims, strict=True))
    aliases = [
        (claim.nodes[0], by_file[original].nodes[0])
        for claim, original in zip(claims, instances["alias_of"], strict=True)
        if not pd.isna(original) and claim.nodes and by_file[original].nodes
    ]
    roots = unite([*(claim.nodes for claim in claims if claim.nodes), *aliases])
    person = [_make_person(roots[claim.nodes[0]]) if claim.nodes else None for claim in claims]
    return Persons(
        person,
        [claim.patient for claim in claims],
        _tabulate(instances, person, claims),
        _warn(instances, claims, rules),
    )


def _claim(row: Any, rules: Mapping[str, re.Pattern[str]]) -> _Claim:
    rule = rules.get(row.root)
    if row.format != "dicom":
        basis, patient = "csv", _text(row.csv_patient)
        if patient is None and rule is not None:
            basis, patient = "person-regex", _match(rule, row.path)
        if patient is None:
            return _Claim(None, None, ())
        return _Claim(basis, patient, (("patient", row.source, "", patient),))
    stated = _text(row.PatientID)
    matched = _match(rule, stated) if rule is not None and stated else None
    basis, identity = ("person-regex", matched) if matched else ("PatientID", _usable(stated))
    nodes: list[Node] = []
    if identity:
        nodes.append(("patient", row.source, _text(row.IssuerOfPatientID) or "", identity))
    if study := _text(row.StudyInstanceUID):
        nodes.append(("study", study))
    return _Claim(basis if identity else "study" if nodes else None, stated, tuple(nodes))


def _match(rule: re.Pattern[str], text: str) -> str | None:
    """Return what a rule finds; '0' counts here, for the rule was written for these files."""
    found = rule.search(text)
    return (found.group(1 if rule.groups else 0) or None) if found else None


def _usable(identifier: str | None) -> str | None:
    """Return an identifier, or None if it says nobody."""
    plain = "".join(sign for sign in (identifier or "").casefold() if sign.isalnum())
    return None if NOBODY.fullmatch(plain) else identifier


def _text(value: Any) -> str | None:
    return None if pd.isna(value) else str(value)


def unite(groups: Iterable[tuple[Node, ...]]) -> dict[Node, Node]:
    """Return for each node the smallest one that it is connected with (union-find).

    Parameters
    ----------
    groups : iterable of tuple
        Nodes that belong together.
    """
    parents: dict[Node, Node] = {}

    def find(node: Node) -> Node:
        while (parent := parents.setdefault(node, node)) != node:
            parents[node] = parents[parent]
            node = parent
        return node

    for first, *others in groups:
        for other in [first, *others]:
            low, high = sorted((find(first), find(other)))
            parents[high] = low
    return {node: find(node) for node in parents}


def _make_uid(*parts: Any) -> str:
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(parts)).int}"


def _make_person(node: Node) -> str:
    return hashlib.sha256(json.dumps(node).encode()).hexdigest()[:16]


def _tabulate(
    instances: pd.DataFrame, person: list[str | None], claims: list[_Claim]
) -> pd.DataFrame:
    members: dict[str, list[tuple[_Claim, Any]]] = defaultdict(list)
    columns = instances[["source", "StudyInstanceUID", "counts"]]
    for key, claim, row in zip(person, claims, columns.itertuples(index=False), strict=True):
        if key is not None:
            members[key].append((claim, row))
    return pd.DataFrame(_describe(key, own) for key, own in members.items())


def _describe(person: str, members: list[tuple[_Claim, Any]]) -> dict[str, Any]:
    bases = {claim.basis for claim, _ in members}
    return {
        "person": person,
        "basis": next(basis for basis in _BASES if basis in bases),
        "sources": sorted({row.source for _, row in members}),
        "patient_ids": sorted({claim.patient for claim, _ in members if claim.patient}),
        "studies": len({row.StudyInstanceUID for _, row in members} - {pd.NA}),
        "images": sum(bool(row.counts) for _, row in members),
    }


def _warn(instances: pd.DataFrame, claims: list[_Claim], rules: Mapping[str, str]) -> list[str]:
    counts = {"study": 0, "nobody": 0}
    unmatched = dict.fromkeys(rules, 0)
    for claim, root, counted in zip(claims, instances["root"], instances["counts"], strict=True):
        if not counted:
            continue
        counts["study"] += claim.basis == "study"
        counts["nobody"] += claim.basis is None
        if root in unmatched:
            unmatched[root] += claim.basis in ("PatientID", "study")
    warnings = []
    if counts["study"]:
        warnings.append(
            f"{counts['study']} images have no usable PatientID (blank, or one such as 'ANON'): "
            "each of their studies counts as a person of its own"
        )
    if counts["nobody"]:
        warnings.append(
            f"{counts['nobody']} images have no person, and cannot be trained on: give a CSV with "
            "a patient_id column to 'medkit label', or --person-regex to 'medkit catalog'"
        )
    warnings += [
        f"the person rule {rules[root]!r} matches no PatientID of {count} images; the whole "
        "PatientID, or the study, is taken there"
        for root, count in sorted(unmatched.items())
        if count
    ]
    return warnings
