"""Which files a rule of the journal speaks of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from medkit.catalog.journal import Record

Context = pd.DataFrame


def match_patients(records: Iterable[Record], context: Context) -> dict[str, str]:
    """Return the PatientID of each picture that a CSV named, the last one if named twice."""
    patients: dict[str, str] = {}
    pictures = context[context["format"] != "dicom"]
    for record in records:
        if record["type"] == "persons":
            found = join_rows(pictures, record["on"], record["rows"])
            patients |= dict(zip(found["file"], found["value"], strict=True))
    return patients


def match_labels(records: Iterable[Record], context: Context) -> pd.DataFrame:
    """Return the columns of ``labels`` for all that the journal says.

    A file may be there twice under one name with two values; see `split_conflicts`.
    """
    images = context[context["kind"].isin(["image", "non-dicom"])]
    copies = images[images["alias_of"].notna()]
    originals = dict(zip(copies["file"], copies["alias_of"], strict=True))
    found: dict[str, list[pd.DataFrame]] = {}
    for record in records:
        if record["type"] == "forget-label":
            found.pop(record["name"], None)
        elif record["type"] == "label":
            labels = match_label(record, images)
            # What is said of a copy is said of the image that stands for it.
            files = [originals.get(file, file) for file in labels["file"]]
            labels = labels.assign(file=files, name=record["name"], origin=record["origin"])
            found.setdefault(record["name"], []).append(labels)
    pieces = [piece for pieces in found.values() for piece in pieces]
    columns = ["name", "file", "value", "origin"]
    joined = pd.concat(pieces) if pieces else pd.DataFrame(columns=columns)
    return joined[columns].drop_duplicates(["name", "file", "value"])


def match_label(record: Record, images: Context) -> pd.DataFrame:
    """Return ``file`` and ``value`` of the images that one record labels."""
    if "rows" in record:
        return join_rows(images, record["on"], record["rows"])
    if record["source"] is not None:
        images = images[images["source"] == record["source"]]
    values = _RULES[record["rule"]](images, record["argument"])
    return pd.DataFrame({"file": images["file"], "value": values}).dropna()


def join_rows(context: Context, on: list[str], rows: list[list[str]]) -> pd.DataFrame:
    """Return ``file`` and ``value`` where the columns ``on`` are those of a row.

    Parameters
    ----------
    on : list of str
        Columns of the context.
    rows : list of list of str
        Values of those columns, and the value to give.
    """
    table = pd.DataFrame(rows, columns=[*on, "value"], dtype="string").drop_duplicates()
    return context[["file", *on]].merge(table, on=on)[["file", "value"]]


def split_conflicts(labels: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the labels of files that have one value under a name, and those of the others."""
    twice = labels.duplicated(["name", "file"], keep=False)
    return labels[~twice], labels[twice]


def _by_folder(images: Context, argument: None) -> pd.Series[str]:
    parents = images["path"].str.replace("!", "/").str.split("/").str[-2]
    return parents.astype("string")


def _by_tag(images: Context, keyword: str) -> pd.Series[str]:
    values = images[keyword]
    spelled = values.map(_spell, na_action="ignore")
    return spelled.astype("string").where(values.notna())


def _spell(value: Any) -> str:
    return str(value) if pd.api.types.is_scalar(value) else "\\".join(map(str, value))


def _by_regex(images: Context, pattern: str) -> pd.Series[str]:
    compiled = re.compile(pattern)

    def find(path: str) -> str | None:
        found = compiled.search(path)
        return found.group(1 if compiled.groups else 0) if found else None

    return images["path"].map(find).astype("string")


_RULES: dict[str, Callable[[Context, Any], pd.Series[str]]] = {
    "folder": _by_folder,
    "tag": _by_tag,
    "regex": _by_regex,
}
