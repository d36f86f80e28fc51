"""Trees for the tests of archives: real files, and files that are odd in every way."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset

from medkit.testing import write_dicom

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"


def real_folders() -> Iterator[Path]:
    """Yield the folders of files that the packages pydicom and pydicom-data ship."""
    yield Path(pydicom.__file__).parent / "data" / "test_files"
    if (found := importlib.util.find_spec("data_store")) and found.submodule_search_locations:
        yield Path(next(iter(found.submodule_search_locations))) / "data"


def describe_tree(folder: Path) -> dict[bytes, tuple[Any, ...]]:
    """Return what there is in a tree: content, permissions and time of each path."""
    found = {}
    for path in folder.rglob("*"):
        state = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        name = os.fsencode(path.relative_to(folder))
        found[name] = (content, state.st_mode, state.st_mtime_ns)
    return found


def write_odd_tree(folder: Path) -> Path:
    """Write files that stray from the plain in one respect each."""
    random = np.random.default_rng(0)
    smooth = (np.add.outer(np.arange(61), np.arange(47)) * 20).astype(np.uint16)
    noisy = (smooth + random.integers(0, 9, smooth.shape)).astype(np.uint16)
    signed = (noisy.astype(np.int32) - 1200).astype(np.int16)
    stored = {"BitsStored": 12, "HighBit": 11}
    for name, syntax in (("implicit", IMPLICIT), ("explicit", EXPLICIT), ("big", BIG)):
        write_dicom(folder / name / "plain.dcm", noisy, transfer_syntax=syntax)
        write_dicom(folder / name / "signed.dcm", signed, transfer_syntax=syntax)
        write_dicom(folder / name / "twelve.dcm", noisy, transfer_syntax=syntax, **stored)
        write_dicom(folder / name / "twelve-signed.dcm", signed, transfer_syntax=syntax, **stored)
        write_dicom(
            folder / name / "frames.dcm",
            np.stack([noisy, noisy[::-1], smooth]),
            transfer_syntax=syntax,
        )
    odd = noisy[:, :47].astype(np.uint8)[:61]
    write_dicom(folder / "odd-length.dcm", odd)
    write_dicom(folder / "odd-length-frames.dcm", np.stack([odd, odd + 1, odd]))
    colours = np.stack([odd, odd // 2, 255 - odd], axis=-1)
    write_dicom(folder / "colours.dcm", colours)
    planes = np.moveaxis(colours, -1, 0)
    write_dicom(
        folder / "planes.dcm", planes, SamplesPerPixel=3, NumberOfFrames=None,
        PhotometricInterpretation="RGB", PlanarConfiguration=1, Rows=61, Columns=47,
    )  # fmt: skip
    wide = {"BitsStored": 12, "HighBit": 11}
    write_dicom(folder / "wide-colours.dcm", colours.astype(np.uint16) * 9, **wide)
    for bits in (5, 8):
        few = {"BitsStored": bits, "HighBit": bits - 1}
        write_dicom(folder / f"few-{bits}.dcm", (signed // 160).astype(np.int16), **few)
        write_dicom(folder / f"unsigned-{bits}.dcm", noisy % (1 << bits), **few)
    few = {"BitsStored": 6, "HighBit": 5}
    write_dicom(folder / "few-of-8.dcm", odd % 64, **few)
    write_dicom(folder / "ybr.dcm", colours, PhotometricInterpretation="YBR_FULL")
    overlaid = noisy | np.uint16(0x8000)
    write_dicom(folder / "high-bits.dcm", overlaid, **stored)
    write_dicom(folder / "empty-values.dcm", noisy, PatientID="", StudyDate="")
    for position in range(12):
        write_dicom(
            folder / "series" / f"{position:02d}.dcm",
            np.roll(noisy, position, axis=0),
            SeriesInstanceUID="2.25.7", StudyInstanceUID="2.25.8", InstanceNumber=position,
        )  # fmt: skip
    _write_odd_bytes(folder, (folder / "explicit" / "plain.dcm").read_bytes())
    _write_odd_headers(folder, noisy)
    _write_others(folder)
    return folder


def _write_odd_bytes(folder: Path, plain: bytes) -> None:
    pixels = plain.rfind(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    length = struct.pack("<HH2sHI", 0x7FE0, 0, b"UL", 4, len(plain) - pixels)
    made = {
        "garbage.dcm": plain + b"trailing garbage\0\xff",
        "padding.dcm": plain + struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, 6) + b"\0" * 6,
        "preamble.dcm": b"MM\0*" + b"\x01" * 124 + plain[128:],
        "no-preamble.dcm": plain[132:],
        "bad-magic.dcm": plain[:128] + b"DICN" + plain[132:],
        "cut.dcm": plain[:-100],
        "cut-header.dcm": plain[: pixels // 2],
        "group-length.dcm": plain[:pixels] + length + plain[pixels:],
        "no-meta-length.dcm": plain[:132] + plain[144:],
        "wrong-meta-length.dcm": plain[:140] + struct.pack("<I", 5) + plain[144:],
        "empty.dcm": b"",
        "head-only.dcm": plain[:132],
    }
    for name, content in made.items():
        (folder / "bytes").mkdir(exist_ok=True)
        (folder / "bytes" / name).write_bytes(content)


def _write_odd_headers(folder: Path, pixels: np.ndarray[Any, Any]) -> None:
    for syntax in (IMPLICIT, EXPLICIT):
        header = pydicom.dcmread(write_dicom(folder / "headers" / "nested.dcm", pixels))
        inner = pydicom.Dataset()
        inner.CodeValue, inner.CodeMeaning = "1", "deep"
        outer = pydicom.Dataset()
        outer.ConceptNameCodeSequence = [inner, pydicom.Dataset()]
        header.RequestAttributesSequence = [outer]
        header.ReferencedImageSequence = []
        block = header.private_block(0x0029, "MEDKIT TEST", create=True)
        block.add_new(0x01, "OB", b"\1\2\3\4")
        block.add_new(0x02, "SQ", [inner])
        block.add_new(0x03, "LO", "private")
        header.ImageComments = "x" * 10000
        header.add_new("RedPaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        header.add_new("SmallestImagePixelValue", "US", 3)
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        header.file_meta.PrivateInformationCreatorUID = "1.2.3"
        header.file_meta.PrivateInformation = b"\0\1"
        name = "implicit" if syntax == IMPLICIT else "explicit"
        pydicom.dcmwrite(
            folder / "headers" / f"{name}.dcm", header, enforce_file_format=True,
            implicit_vr=syntax == IMPLICIT, little_endian=True,
        )  # fmt: skip


def _write_others(folder: Path) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "read me.txt").write_text("patient list\n" * 500)
    (folder / "notes" / "noise.bin").write_bytes(np.random.default_rng(1).bytes(3000))
    (folder / "notes" / "none").write_bytes(b"")
    (folder / "empty" / "deeper").mkdir(parents=True)
    (folder / "notes" / "read me.txt").chmod(0o440)
    os.utime(folder / "notes" / "none", ns=(0, 123456789))
    os.utime(folder / "empty", ns=(0, 2**61))
    (folder / "empty").chmod(0o750)
