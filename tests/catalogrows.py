"""Rows of the catalog's view ``images``, made with pydicom instead of the catalog."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pydicom
from pydicom.multival import MultiValue

KEYWORDS = (
    "Modality",
    "ImageType",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PixelPresentation",
    "PresentationLUTShape",
    "LossyImageCompression",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
)
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def make_row(path: Path, frame: int = 0, **changes: Any) -> dict[str, Any]:
    """Return the row of one frame of a DICOM file, with some values changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # real files stray from the standard
        header = pydicom.dcmread(path, force=True)
        row = {name: _plain(header.get(name)) for name in KEYWORDS}
        keyword = next((name for name in PIXELS if name in header), None)
    for name in ("WindowCenter", "WindowWidth"):
        if isinstance(row[name], list):
            row[name] = row[name][0]
    row |= {
        "root": str(path.parent),
        "path": path.name,
        "format": "dicom",
        "frame": frame,
        "TransferSyntaxUID": str(header.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2")),
        "has_modality_lut": "ModalityLUTSequence" in header,
        "pixel_keyword": keyword,
    }
    if keyword:
        element = header[keyword]
        row["encapsulated"] = element.is_undefined_length
        row["pixel_offset"] = element.file_tell
        row["pixel_length"] = -1 if element.is_undefined_length else len(element.value)
    return row | changes


def _plain(value: Any) -> Any:
    if isinstance(value, MultiValue):
        return [_plain(item) for item in value]
    if isinstance(value, pydicom.valuerep.DSfloat | pydicom.valuerep.IS):
        return float(value) if "." in str(value) or "e" in str(value).lower() else int(value)
    return None if value == "" else value
