"""Synthetic studies for tests: of medkit, and of the plugins that others write."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_MODALITY_CLASSES = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
}
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"


def write_dicom(
    path: Path,
    pixels: npt.NDArray[Any],
    *,
    transfer_syntax: str = EXPLICIT_LITTLE,
    **keywords: Any,
) -> Path:
    """Write one DICOM image.

    Parameters
    ----------
    path : Path
        Missing folders are made.
    pixels : ndarray of uint8, uint16 or int16, shape (rows, columns), (frames, rows, columns)
        or (rows, columns, 3)
        The stored values. A last axis of 3 is RGB.
    transfer_syntax : str
        A native one: explicit or implicit little-endian, explicit big-endian.
    **keywords
        DICOM keywords and values, above the defaults; ``None`` leaves an element out. UIDs that
        are not given follow from the pixels and from the names of the file and of its folder, so
        that the same tree is the same below any temporary folder.
    """
    import pydicom
    from pydicom.dataset import FileMetaDataset

    header = pydicom.Dataset()
    for keyword, value in (_describe(path, pixels) | keywords).items():
        if value is not None:
            setattr(header, keyword, value)
    big = transfer_syntax == "1.2.840.10008.1.2.2"
    stored = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    header.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    header["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.UID(transfer_syntax)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, header, enforce_file_format=True)
    return path


def write_cohort(
    folder: Path,
    *,
    persons: int = 12,
    per_person: int = 3,
    classes: Sequence[str] = ("CT", "MR"),
    size: int = 64,
    seed: int = 0,
) -> Path:
    """Write a tree of small DICOM images that a trainer can tell apart.

    Person i has the PatientID ``P00i``, one study and one series, and the modality
    ``classes[i % len(classes)]``, which shows as stripes of another direction and width under
    noise.

    Parameters
    ----------
    folder : Path
        Is made where it is missing.
    persons, per_person : int
        How many, and images of each.
    classes : sequence of str
        Modalities, dealt to the persons in turn.
    size : int
        Rows and columns.
    seed : int
        Noise, and the UIDs, follow from it.

    Returns
    -------
    Path
        The folder: ``P000/0.dcm``, ``P000/1.dcm``, ...
    """
    random = np.random.default_rng(seed)
    for person in range(persons):
        kind = person % len(classes)
        name = f"P{person:03d}"
        for number in range(per_person):
            write_dicom(
                folder / name / f"{number}.dcm",
                _draw_stripes(kind, size, random),
                PatientID=name,
                Modality=classes[kind],
                SOPClassUID=_MODALITY_CLASSES.get(classes[kind], _MODALITY_CLASSES["CR"]),
                StudyInstanceUID=make_uid(f"study {seed} {name}"),
                SeriesInstanceUID=make_uid(f"series {seed} {name}"),
                SOPInstanceUID=make_uid(f"instance {seed} {name} {number}"),
                FrameOfReferenceUID=make_uid(f"frame {seed} {name}"),
                InstanceNumber=number + 1,
                ImagePositionPatient=[0.0, 0.0, 5.0 * number],
            )
    return folder


def make_uid(text: str) -> str:
    """Return the same valid UID for the same text (PS3.5 B.2, the 2.25 form)."""
    return f"2.25.{int(hashlib.sha256(text.encode()).hexdigest()[:32], 16)}"


def _draw_stripes(kind: int, size: int, random: np.random.Generator) -> npt.NDArray[np.uint16]:
    rows, columns = np.mgrid[:size, :size] / size
    angle = np.pi * kind / 3
    phase = random.uniform(0, 2 * np.pi)
    wave = np.sin(
        2 * np.pi * (4 + 3 * kind) * (rows * np.cos(angle) + columns * np.sin(angle)) + phase
    )
    noisy = 2000 + 600 * wave + random.normal(0, 200, (size, size))
    return np.asarray(np.clip(noisy, 0, 4095), dtype=np.uint16)


def _describe(path: Path, pixels: npt.NDArray[Any]) -> dict[str, Any]:
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    bits = 8 * pixels.dtype.itemsize
    rows, columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    described: dict[str, Any] = {
        "SOPClassUID": _MODALITY_CLASSES["CT"],
        "Modality": "CT",
        "PatientName": "Synthetic^Person",
        "PatientID": "P000",
        "StudyDate": "20200101",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "ImagePositionPatient": [0.0, 0.0, 0.0],
        "PixelSpacing": [1.0, 1.0],
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "PlanarConfiguration": 0 if colour else None,
        "NumberOfFrames": pixels.shape[0] if pixels.ndim == 3 and not colour else None,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(np.issubdtype(pixels.dtype, np.signedinteger)),
    }
    drawn = hashlib.sha256(pixels.tobytes()).hexdigest()
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        described[keyword] = make_uid(f"{keyword} {path.parent.name}/{path.name} {drawn}")
    return described
