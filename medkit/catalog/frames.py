"""The frames of an image, each with its own geometry, rescale and window.

An enhanced multi-frame object says these in functional groups, one for each frame, or one shared
by all (PS3.3 C.7.6.16); any other says them once, for all frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medkit.catalog.schema import FRAMES
from medkit.catalog.values import read_items, read_values

if TYPE_CHECKING:
    from pydicom import Dataset

    from medkit.catalog.findings import Problem

# Functional group macros (PS3.3 C.7.6.16.2, C.8.13.5), and what a frame takes from each.
_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "FrameContentSequence": ("TemporalPositionIndex",),
    "MRDiffusionSequence": ("DiffusionBValue",),
}
# Where a single frame's header and a functional group call one thing by two names.
_NAMES = {"EffectiveEchoTime": "EchoTime", "TemporalPositionIndex": "TemporalPositionIdentifier"}
_KEYWORDS = [field for field in FRAMES if field.name[0].isupper()]
_GROUP_FIELDS = {
    sequence: [
        FRAMES.field(_NAMES.get(keyword, keyword)).with_name(keyword) for keyword in keywords
    ]
    for sequence, keywords in _GROUPS.items()
}


def read_frames(header: Dataset, count: int, problems: list[Problem]) -> list[dict[str, Any]]:
    """Return what is known of each of ``count`` frames, as columns of ``frames``."""
    common = read_values(header, _KEYWORDS, problems)
    shared = read_items(header, "SharedFunctionalGroupsSequence", problems)[:1]
    own = read_items(header, "PerFrameFunctionalGroupsSequence", problems)
    if not own and not shared:
        if count > 1:
            # One position cannot be that of several frames.
            common.pop("ImagePositionPatient", None)
        return [{"frame": frame, **common} for frame in range(count)]
    if own and len(own) != count:
        problems.append(("frame-groups", f"{len(own)} functional groups for {count} frames"))
    for item in shared:
        common |= _read_groups(item, problems)
    return [
        {
            "frame": frame,
            **common,
            **(_read_groups(own[frame], problems) if frame < len(own) else {}),
        }
        for frame in range(count)
    ]


def _read_groups(item: Dataset, problems: list[Problem]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for sequence, fields in _GROUP_FIELDS.items():
        for group in read_items(item, sequence, problems)[:1]:
            values = read_values(group, fields, problems)
            found |= {_NAMES.get(keyword, keyword): value for keyword, value in values.items()}
    return found
