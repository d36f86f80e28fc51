"""What is asked of a server of images: keywords of DICOM and the values that they must have."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medkit.errors import SourceError, UsageError

if TYPE_CHECKING:
    from pydicom import Dataset

_TERM = re.compile(r"\s*([A-Za-z]+)\s*=\s*(?:'([^']*)'|\"([^\"]*)\"|([^\s'\"]+))\s*")
_AND = re.compile(r"and\b", re.IGNORECASE)
_LENGTH = 64  # of a UID: PS3.5, section 9.1
# Digits, says the standard; there are sets whose UIDs were replaced by hashes.
_UID = re.compile(r"[0-9A-Za-z]+(\.[0-9A-Za-z]+)*")


@dataclass(frozen=True)
class Series:
    """A series as a server tells of it.

    Attributes
    ----------
    study, uid : str
        StudyInstanceUID and SeriesInstanceUID.
    modality : str
        Modality (0008,0060); empty if it does not say.
    instances : int or None
        How many it says there are.
    """

    study: str
    uid: str
    modality: str = ""
    instances: int | None = None

    @property
    def key(self) -> str:
        """Both UIDs: there are series of one UID in two studies."""
        return f"{self.study}/{self.uid}"


def list_modalities(found: Iterable[Series]) -> tuple[str, ...]:
    """Return the values of Modality (0008,0060) that some series have."""
    return tuple(sorted({one.modality for one in found} - {""}))


def parse_condition(where: str) -> dict[str, str]:
    """Return what must match, by keyword, of ``PatientID='X' AND StudyDate='20200101-20201231'``.

    Matching is DICOM's own (PS3.4, section C.2.2.2): ``*`` and ``?`` in texts, ``-`` in dates,
    a backslash between UIDs.

    Raises
    ------
    UsageError
        If it is anything but equations joined by AND, or a keyword is not DICOM's.
    """
    from pydicom.datadict import tag_for_keyword

    found: dict[str, str] = {}
    rest = where.strip()
    while rest:
        term = _TERM.match(rest)
        if term is None:
            break
        keyword, *values = term.groups()
        if tag_for_keyword(keyword) is None or keyword in found:
            raise UsageError(f"--where: {keyword!r} is no keyword of DICOM, or stands there twice")
        found[keyword] = next(value for value in values if value is not None)
        rest = rest[term.end() :]
        joint = _AND.match(rest)
        if not joint:
            break
        rest = rest[joint.end() :] or "AND"
    if rest:
        raise UsageError(
            f"--where {where!r} cannot be asked of a server at {rest!r}; write equations joined "
            "by AND, as in PatientID='X*' AND Modality='CT' AND StudyDate='20200101-20201231'"
        )
    return found


def is_uid(text: str) -> bool:
    """Tell whether a text may be a UID, and is fit for the name of a file."""
    return len(text) <= _LENGTH and bool(_UID.fullmatch(text))


def read_identity(path: Path) -> tuple[str, str]:
    """Return SOPInstanceUID and SeriesInstanceUID of a file that came.

    Raises
    ------
    SourceError
        If it is no DICOM, or says no UID.
    """
    import pydicom

    tags = ["SOPInstanceUID", "SeriesInstanceUID"]
    try:
        # Forced: archives hand out data sets without the preamble as they got them.
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)
        instance, series = (read_text(header, tag) for tag in tags)
    except Exception as error:  # whatever a damaged file makes pydicom raise
        raise SourceError(f"what came is no DICOM: {type(error).__name__}") from None
    if not is_uid(instance) or not is_uid(series):
        raise SourceError("what came has no SOPInstanceUID or SeriesInstanceUID")
    return instance, series


def read_text(dataset: Dataset, keyword: str) -> str:
    """Return the text of an element as it was sent; pydicom would warn of what is not in order."""
    element = dataset.get_item(keyword) if keyword in dataset else None
    value = element.value if element is not None else ""
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return text.strip("\0 ")


def settle(
    series: Series,
    expected: Sequence[str],
    came: Collection[str],
    reasons: Mapping[str, str],
    *,
    leave_out: bool,
) -> list[str]:
    """Compare the instances that came with those that the server listed.

    Parameters
    ----------
    series : Series
        Whose they are.
    expected, came : sequence, collection of str
        SOPInstanceUIDs.
    reasons : mapping of str to str
        What the server said of those that it did not give.
    leave_out : bool
        Whether some may be missing.

    Returns
    -------
    list of str
        A line for each that is missing.

    Raises
    ------
    SourceError
        If some are missing that may not, or others came.
    """
    strange = sorted(set(came) - set(expected))
    if strange:
        raise SourceError(
            f"series {series.uid}: {len(strange)} instances come that the server does not list, "
            f"the first {strange[0]}"
        )
    missing = sorted(set(expected) - set(came))
    refused = [f"{uid}: {reasons.get(uid, 'it did not come')}" for uid in missing]
    if refused and not leave_out:
        raise SourceError(
            f"series {series.uid}: {len(refused)} of {len(set(expected))} instances that the "
            f"server lists do not come, the first {refused[0]}; --leave-out takes the others and "
            "records those"
        )
    return refused
