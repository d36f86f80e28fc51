"""DICOM values as the types of the catalog's columns.

pydicom reads; what it gives is taken as it is, or is a problem of code ``bad-value``. The first
of several values is taken where a column holds one, except for text, which keeps the backslash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue

if TYPE_CHECKING:
    from pydicom import Dataset

    from medkit.catalog.findings import Problem

# Value multiplicities that geometry relies on (PS3.6).
VALUE_COUNTS = {
    "PixelSpacing": 2,
    "ImagerPixelSpacing": 2,
    "NominalScannedPixelSpacing": 2,
    "PixelAspectRatio": 2,
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
}
_INTEGER_LIMIT = 2**63


def read_values(
    header: Dataset, fields: Iterable[pa.Field], problems: list[Problem]
) -> dict[str, Any]:
    """Return the values of those fields that are present, readable and not empty.

    Parameters
    ----------
    header : pydicom.Dataset
        A data set, or an item of a sequence.
    fields : iterable of pyarrow.Field
        Named by DICOM keyword; their types are the ones returned.
    problems : list
        Gets a row for each value that is there and cannot be read.
    """
    found = {}
    for wanted in fields:
        tag = tag_for_keyword(wanted.name)
        if tag is None or tag not in header:
            continue
        try:
            value = _convert(wanted.name, wanted.type, header[tag].value)
        except Exception as error:  # pydicom raises whatever hostile bytes bring it to
            problems.append(("bad-value", f"{wanted.name}: {type(error).__name__}: {error}"[:300]))
            continue
        if value is not None:
            found[wanted.name] = value
    return found


def read_items(header: Dataset, keyword: str, problems: list[Problem]) -> list[Dataset]:
    """Return the items of a sequence; none if it is missing or cannot be read."""
    try:
        return list(header.get(keyword) or [])
    except Exception as error:  # as above: a sequence is parsed when it is first touched
        problems.append(("bad-value", f"{keyword}: {type(error).__name__}"))
        return []


def clean_text(text: str) -> str:
    """Return text that can be stored as UTF-8: a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _convert(name: str, kind: pa.DataType, value: Any) -> Any:
    if value is None or value == "" or value == []:
        return None
    several = [*value] if isinstance(value, MultiValue) else [value]
    converted = _CONVERTERS[kind](several)
    count = VALUE_COUNTS.get(name)
    if count is not None and len(converted) != count:
        raise ValueError(f"has {len(converted)} values, not {count}")
    return converted


def _to_text(several: list[Any]) -> str:
    return "\\".join(_to_texts(several))


def _to_texts(several: list[Any]) -> list[str]:
    if any(isinstance(one, bytes) for one in several):
        raise TypeError("bytes where text was expected")
    return [clean_text(str(one)) for one in several]


def _to_integer(several: list[Any]) -> int:
    value = int(several[0])
    if value != several[0] and not isinstance(several[0], str):
        raise ValueError(f"{several[0]} is not a whole number")
    if not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
        raise ValueError("does not fit 64 bits")
    return value


def _to_number(several: list[Any]) -> float:
    return _to_numbers(several[:1])[0]


def _to_numbers(several: list[Any]) -> list[float]:
    numbers = [float(one) for one in several]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("is not finite")
    return numbers


_CONVERTERS: dict[pa.DataType, Callable[[list[Any]], Any]] = {
    pa.string(): _to_text,
    pa.int64(): _to_integer,
    pa.float64(): _to_number,
    pa.list_(pa.string()): _to_texts,
    pa.list_(pa.float64()): _to_numbers,
}
