"""Series that readers get wrong, a folder each, with the truth about every frame.

A voxel's value says which frame, row and column it is, so that what any reader makes of a folder
can be compared with the truth, voxel by voxel. File names follow no order. The cases themselves
are in `torture_cases`.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from medkit.catalog.store import Catalog
from medkit.testing import make_uid, write_dicom

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
MR = {
    "Modality": "MR",
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
    "RepetitionTime": 2000.0,
    "EchoTime": 10.0,
}
NOT_PLACED = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
ORIGIN = (-30.0, 20.0, 100.0)  # mm, of offset 0
SHAPE = (8, 6)
_PIXEL = 5  # between the values of two pixels, so that most interpolated values are of none
_FRAME = 256 * _PIXEL  # more than the pixels of a frame: values of two frames never meet

Floats = npt.NDArray[np.float64]
Key = tuple[str, int]  # path and number of a frame

# As IDC's volume_geometry_index names them.
CHECKS = (
    "single_orientation",
    "orthogonal_orientation",
    "unique_slice_positions",
    "consistent_in_plane_row",
    "consistent_in_plane_col",
    "consistent_pixel_spacing",
    "consistent_image_dimensions",
    "uniform_slice_spacing",
)


@dataclass(frozen=True)
class Frame:
    """What is true of one frame.

    Attributes
    ----------
    path : str
        Relative to the case's folder.
    frame : int
        Its number in the file, from 0.
    first : int
        The stored value of its first pixel; the others count up by fives, row by row.
    slope : float
        Real value = stored value * slope.
    position, orientation, spacing
        As ImagePositionPatient, ImageOrientationPatient, PixelSpacing; mm.
    placed : bool
        Whether the header has a position.
    """

    path: str
    frame: int
    first: int
    shape: tuple[int, int] = SHAPE
    slope: float = 1.0
    position: tuple[float, ...] = ORIGIN
    orientation: tuple[float, ...] = AXIAL
    spacing: tuple[float, float] = (1.0, 1.0)
    placed: bool = True

    @property
    def key(self) -> Key:
        return self.path, self.frame

    @property
    def pixels(self) -> npt.NDArray[np.int16]:
        """Its stored values."""
        steps = np.arange(math.prod(self.shape)).reshape(self.shape)
        return (self.first + _PIXEL * steps).astype(np.int16)

    def locate(self) -> Floats:
        """Return the place of each pixel's centre in the patient, (rows, columns, 3), mm."""
        rows, columns = np.indices(self.shape)[..., np.newaxis]
        along_row, along_column = np.reshape(self.orientation, (2, 3))
        return np.asarray(
            np.array(self.position)
            + columns * self.spacing[1] * along_row
            + rows * self.spacing[0] * along_column
        )


@dataclass(frozen=True)
class Truth:
    """What should become of a case.

    Attributes
    ----------
    volumes : sequence of sequence of Frame
        Each from the lowest position along its normal.
    outside : sequence of Frame
        In no volume.
    aliases : sequence of Frame
        Copies of another frame, which no one should see twice.
    checks : mapping
        Columns of the table ``volumes``: a volume of several slices is expected to pass all checks
        but for these. Of None nothing is expected.
    problems : mapping of str to sequence of Frame
        By code, the files that are to have it.
    told : bool, optional
        Whether the header tells the volumes apart. If not, the order of the images does, and every
        file must have the problem ``repeated-position``. None: nothing does, any division is a
        guess, and must be said to be one likewise.
    synthetic : bool
        Whether a UID is missing, and has a surrogate.
    """

    volumes: Sequence[Sequence[Frame]]
    outside: Sequence[Frame] = ()
    aliases: Sequence[Frame] = ()
    checks: Mapping[str, Any] = field(default_factory=dict)
    problems: Mapping[str, Sequence[Frame]] = field(default_factory=dict)
    told: bool | None = True
    synthetic: bool = False

    @property
    def frames(self) -> list[Frame]:
        return [*(frame for volume in self.volumes for frame in volume), *self.outside]

    def expect(self) -> dict[tuple[Key, ...], dict[str, Any]]:
        """Return what the row of each volume is to say, by its frames."""
        return {
            tuple(frame.key for frame in volume): _expect(volume, dict(self.checks))
            for volume in self.volumes
        }


@dataclass
class Found:
    """What the catalog says of a case; frames by path and number.

    Attributes
    ----------
    volumes : dict
        From its frames in the order of its slices to its row of the table ``volumes``.
    outside, aliases : set
        Frames in no volume; paths of copies.
    problems : dict of str to set of str
        From code to paths.
    synthetic : bool
        Whether a UID is a surrogate.
    """

    volumes: dict[tuple[Key, ...], dict[str, Any]] = field(default_factory=dict)
    outside: set[Key] = field(default_factory=set)
    aliases: set[str] = field(default_factory=set)
    problems: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    synthetic: bool = False


def list_flags(found: Found) -> set[str]:
    """Return in which words the catalog says that a case is not plain."""
    flags = set(found.problems)
    for row in found.volumes.values():
        if row["tilted"]:
            flags.add("tilted")
        if row["slices"] > 1:
            flags |= {f"not {check}" for check in CHECKS if not row[check]}
    return flags


def read_catalog(catalog: Catalog) -> dict[str, Found]:
    """Return what a catalog of the whole set says, by the name of the case."""
    found: dict[str, Found] = defaultdict(Found)
    volumes = {row["volume"]: row for row in catalog.table("volumes").to_dict("records")}
    for row in volumes.values():
        row["obliquity_degrees"] = round(row["obliquity_degrees"], 2)
    frames = _query(catalog, "frame, volume FROM images ORDER BY volume, slice")
    placed = frames["volume"].notna()
    for volume, part in frames[placed].groupby("volume"):
        keys = tuple(zip(part["path"], part["frame"], strict=True))
        found[part["case"].iloc[0]].volumes[keys] = volumes[volume]
    for row in frames[~placed].itertuples():
        found[row.case].outside.add((row.path, row.frame))
    kinds = "duplicate IS NOT DISTINCT FROM 'alias' AS alias, synthetic_uid"
    instances = _query(catalog, f"{kinds} FROM instances JOIN files USING (file)")
    for row in instances.itertuples():
        found[row.case].synthetic |= bool(row.synthetic_uid)
        if row.alias:
            found[row.case].aliases.add(row.path)
    for row in _query(catalog, "code FROM problems JOIN files USING (file)").itertuples():
        found[row.case].problems[row.code].add(row.path)
    return found


def _query(catalog: Catalog, rest: str) -> pd.DataFrame:
    """Return columns of tables that have a path, which is cut into case and file."""
    answer = catalog.query(f'SELECT path AS "case", path, {rest}')
    answer["case"] = answer["case"].str.partition("/")[0]
    answer["path"] = answer["path"].str.partition("/")[2]
    return answer


class Tree:
    """The folder of one case, being filled.

    Every file is of one patient, study, series and frame of reference, unless keywords say
    otherwise.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        self.name = folder.name

    def uid(self, text: str) -> str:
        """Return a UID of this case."""
        return make_uid(f"torture {self.name} {text}")

    def add(
        self,
        offset: float = 0.0,
        *,
        orientation: Sequence[float] = AXIAL,
        spacing: tuple[float, float] = (1.0, 1.0),
        shape: tuple[int, int] = SHAPE,
        shift: Sequence[float] = (0.0, 0.0, 0.0),
        signed: bool = True,
        **keywords: Any,
    ) -> Frame:
        """Write one image.

        Parameters
        ----------
        offset : float
            Of its position from `ORIGIN`, along its normal, mm.
        shift : sequence of float
            Of its position beside that, mm.
        signed : bool
            Whether its pixels are.
        **keywords
            DICOM keywords, above the defaults.
        """
        number = self._number()
        frame = Frame(
            f"{_scramble(self.name, number)}.dcm",
            0,
            _FRAME * number,
            shape,
            keywords.get("RescaleSlope", 1.0),
            _place(offset, orientation, shift),
            tuple(orientation),
            spacing,
            "ImagePositionPatient" not in keywords,
        )
        geometry = {
            "ImagePositionPatient": [*frame.position],
            "ImageOrientationPatient": [*frame.orientation],
            "PixelSpacing": [*frame.spacing],
        }
        pixels = frame.pixels if signed else frame.pixels.astype(np.uint16)
        self._write(frame.path, pixels, number, geometry | keywords)
        return frame

    def stack(self, offsets: Iterable[float], **options: Any) -> list[Frame]:
        """Write an image at each offset, in this order; see `add`."""
        return [self.add(offset, **options) for offset in offsets]

    def copy(self, frame: Frame) -> Frame:
        """Write the same bytes under another name."""
        name = f"{_scramble(self.name, self._number())}.dcm"
        shutil.copy(self.folder / frame.path, self.folder / name)
        return replace(frame, path=name)

    def multiframe(
        self,
        planes: Sequence[tuple[float, Sequence[float]]],
        *,
        echoes: Sequence[float] = (),
        **keywords: Any,
    ) -> list[Frame]:
        """Write one enhanced object with a frame for each (offset, orientation).

        Parameters
        ----------
        echoes : sequence of float
            EffectiveEchoTime of each frame, ms.
        """
        number = self._number()
        path = f"{_scramble(self.name, number)}.dcm"
        frames = [
            Frame(
                path,
                index,
                _FRAME * (number + index),
                position=_place(offset, orientation),
                orientation=tuple(orientation),
            )
            for index, (offset, orientation) in enumerate(planes)
        ]
        self.count += len(planes)
        groups = [_describe_plane(frame) for frame in frames]
        _add_content(groups, planes, echoes)
        values = {
            "ImagePositionPatient": None,
            "ImageOrientationPatient": None,
            "PixelSpacing": None,
            "SharedFunctionalGroupsSequence": [_describe_measures()],
            "PerFrameFunctionalGroupsSequence": groups,
            **_describe_dimensions(self.uid("dimensions"), bool(echoes)),
        }
        self._write(path, np.stack([frame.pixels for frame in frames]), number, values | keywords)
        return frames

    def cine(self, count: int, **keywords: Any) -> list[Frame]:
        """Write one object of several frames without a position."""
        number = self._number()
        path = f"{_scramble(self.name, number)}.dcm"
        frames = [
            Frame(path, index, _FRAME * (number + index), placed=False) for index in range(count)
        ]
        self.count += count
        pixels = np.stack([frame.pixels for frame in frames])
        self._write(path, pixels, number, NOT_PLACED | keywords)
        return frames

    def _number(self) -> int:
        self.count += 1
        return self.count

    def _write(self, path: str, pixels: Any, number: int, keywords: Mapping[str, Any]) -> None:
        common = {
            "PatientID": f"P-{self.name}",
            "StudyInstanceUID": self.uid("study"),
            "SeriesInstanceUID": self.uid("series"),
            "SOPInstanceUID": self.uid(f"instance {number}"),
            "FrameOfReferenceUID": self.uid("reference"),
            "SeriesNumber": 1,
            "InstanceNumber": number,
            "SliceThickness": 1.0,
            "Manufacturer": "Synthetic",
            "ProtocolName": "Torture",
            "PatientPosition": "HFS",
        }
        write_dicom(self.folder / path, pixels, **(common | dict(keywords)))


def _expect(volume: Sequence[Frame], named: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a volume: it passes all checks but for those named."""
    if len(volume) < 2:
        return {"slices": 1}  # no spacing to be uniform
    expected = dict.fromkeys(CHECKS, True) | {"tilted": False} | named
    passed = {"regularly_spaced_3d_volume": all(expected[check] for check in CHECKS)}
    several = {"slices": len(volume)} | passed | expected
    return {column: value for column, value in several.items() if value is not None}


def _scramble(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _place(
    offset: float, orientation: Sequence[float], shift: Sequence[float] = (0.0, 0.0, 0.0)
) -> tuple[float, ...]:
    normal = np.cross(orientation[:3], orientation[3:])
    # What a header can hold: 16 characters (PS3.5 6.2, DS).
    return tuple(np.round(ORIGIN + offset * normal + shift, 6).tolist())


def _describe_plane(frame: Frame) -> Dataset:
    item, position, orientation = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = [*frame.position]
    orientation.ImageOrientationPatient = [*frame.orientation]
    item.PlanePositionSequence = [position]
    item.PlaneOrientationSequence = [orientation]
    return item


def _add_content(
    groups: Sequence[Dataset],
    planes: Sequence[tuple[float, Sequence[float]]],
    echoes: Sequence[float],
) -> None:
    """Say of each frame which stack, position and echo it is of (PS3.3 C.7.6.16.2.2)."""
    stacks = list(dict.fromkeys(orientation for _, orientation in planes))
    offsets = [sorted({offset for offset, of in planes if of == stack}) for stack in stacks]
    for index, (group, (offset, orientation)) in enumerate(zip(groups, planes, strict=True)):
        stack = stacks.index(orientation)
        content, echo = Dataset(), Dataset()
        content.StackID = str(stack + 1)
        content.InStackPositionNumber = offsets[stack].index(offset) + 1
        content.DimensionIndexValues = [stack + 1, content.InStackPositionNumber]
        if echoes:
            content.DimensionIndexValues.append(sorted({*echoes}).index(echoes[index]) + 1)
            echo.EffectiveEchoTime = echoes[index]
            group.MREchoSequence = [echo]
        group.FrameContentSequence = [content]


def _describe_dimensions(uid: str, echoes: bool) -> dict[str, Any]:
    """Return the module that says what DimensionIndexValues are (PS3.3 C.7.6.17)."""
    organization = Dataset()
    organization.DimensionOrganizationUID = uid
    pointers = [
        ("FrameContentSequence", "StackID"),
        ("FrameContentSequence", "InStackPositionNumber"),
        *([("MREchoSequence", "EffectiveEchoTime")] if echoes else []),
    ]
    return {
        "DimensionOrganizationSequence": [organization],
        "DimensionIndexSequence": [_point(uid, *pointer) for pointer in pointers],
    }


def _point(uid: str, group: str, keyword: str) -> Dataset:
    item = Dataset()
    item.DimensionOrganizationUID = uid
    item.DimensionIndexPointer = tag_for_keyword(keyword)
    item.FunctionalGroupPointer = tag_for_keyword(group)
    return item


def _describe_measures() -> Dataset:
    shared, measures = Dataset(), Dataset()
    measures.PixelSpacing = [1.0, 1.0]
    measures.SliceThickness = 1.0
    shared.PixelMeasuresSequence = [measures]
    return shared
