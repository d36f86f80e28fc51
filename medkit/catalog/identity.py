"""Who is who: UIDs for objects that lack them, identifiers that say nobody, and union-find."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable
from typing import Any

from medkit.catalog.findings import Finding
from medkit.errors import UsageError

# What stands in PatientID where there is none: compared in lower case, letters and digits only.
# '1' does not: it is the first person of many a set.
NOBODY = re.compile(
    "anon|anonym|anonymous|anonymized|anonymised|deidentified|default|dummy|hidden|id|na|nan|noid"
    "|nobody|none|noname|nopatientid|null|patient|patientid|removed|subject|test|unknown|0*|x*"
)

Node = tuple[str, ...]

# A picture stands alone, and so does one image of another format but these.
_ALONE = ("png", "jpeg", "tiff", "bmp")
_GROUPED = ("dicom", "nifti", "metaimage", "nrrd", "raw")


def fill_uids(values: dict[str, Any], finding: Finding, source: str, path: str) -> bool:
    """Give a DICOM object the UIDs that it lacks, in place, and say whether it lacked any.

    They follow from source, folder and header alone (PS3.5 B.2, the 2.25 form), so that a
    series without a UID stays together, and is the same after every scan. A file that holds a
    volume of another format is a series of its own.
    """
    if _stands_alone(values) or finding.reason == "dicomdir":
        return False
    own = [path] if values["format"] != "dicom" else []
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
            stated = (values.get(key) for key in keys)
            values[keyword] = _make_uid(keyword, source, folder, *stated, *own)
    if not values.get("SOPInstanceUID"):
        missing = True
        values["SOPInstanceUID"] = _make_uid("SOPInstanceUID", source, path)
    return missing


def _stands_alone(values: dict[str, Any]) -> bool:
    form = values["format"]
    return form in _ALONE or (form not in _GROUPED and values.get("NumberOfFrames") in (None, 1))


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


def match_person(rule: re.Pattern[str], text: str) -> str | None:
    """Return what a rule finds; '0' counts here, for the rule was written for these files."""
    found = rule.search(text)
    return (found.group(1 if rule.groups else 0) or None) if found else None


def name_usable(identifier: str | None) -> str | None:
    """Return an identifier, or None if it says nobody."""
    plain = "".join(sign for sign in (identifier or "").casefold() if sign.isalnum())
    return None if NOBODY.fullmatch(plain) else identifier


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
