"""The cases of the torture set: each writes its files, and returns the truth about them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torture import AXIAL, CORONAL, MR, NOT_PLACED, SAGITTAL, Frame, Tree, Truth

CASES: dict[str, Callable[[Tree], Truth]] = {}

PET = {"Modality": "PT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.128"}
ENHANCED_CT = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1"}
ENHANCED_MR = {"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.1"}
SCOUT = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
UNEVEN = {"uniform_slice_spacing": False}
MOMENTS, SLICES = range(3), range(4)


def build(folder: Path) -> dict[str, Truth]:
    """Write the whole set, a folder a case, and return the truth by the folder's name."""
    return {name: case(Tree(folder / name)) for name, case in CASES.items()}


def describe(name: str) -> str:
    """Return what a case is, in a few words."""
    return (CASES[name].__doc__ or "").rstrip(".")


def _case(function: Callable[[Tree], Truth]) -> Callable[[Tree], Truth]:
    CASES[function.__name__.replace("_", "-")] = function
    return function


def _sort(frames: list[Frame], offsets: list[int]) -> list[Frame]:
    return [frames[index] for index in np.argsort(offsets, kind="stable")]


@_case
def plain_ct(tree: Tree) -> Truth:
    """A plain CT stack."""
    return Truth([tree.stack(range(6))])


@_case
def plain_mr(tree: Tree) -> Truth:
    """A plain MR stack."""
    return Truth([tree.stack(range(6), **MR)])


@_case
def scout_marked(tree: Tree) -> Truth:
    """A scout inside a series, marked LOCALIZER."""
    scout = tree.add(3.5, shift=(0, 40, 0), orientation=SAGITTAL, **SCOUT)
    return Truth([tree.stack(range(5))], [scout])


@_case
def scout_unmarked(tree: Tree) -> Truth:
    """A scout inside a series, known by its orientation only."""
    scout = tree.add(3.5, orientation=CORONAL)
    return Truth([[scout], tree.stack(range(5))])


@_case
def scout_parallel(tree: Tree) -> Truth:
    """A scout inside a series, parallel to it, of larger pixels."""
    scout = tree.add(1.5, spacing=(4.0, 4.0), **SCOUT)
    return Truth([tree.stack(range(5))], [scout])


@_case
def scout_other_reference(tree: Tree) -> Truth:
    """An unmarked scout at the place of a slice, of another FrameOfReferenceUID."""
    scout = tree.add(2, FrameOfReferenceUID=tree.uid("another reference"))
    return Truth([[scout], tree.stack(range(5))])


@_case
def three_planes(tree: Tree) -> Truth:
    """A three-plane localiser that does not say so."""
    return Truth(
        [tree.stack((0, 5, 10), orientation=each, **MR) for each in (SAGITTAL, CORONAL, AXIAL)]
    )


@_case
def three_planes_marked(tree: Tree) -> Truth:
    """A three-plane localiser, marked."""
    planes = (SAGITTAL, CORONAL, AXIAL)
    stacks = [tree.stack((0, 5, 10), orientation=each, **MR, **SCOUT) for each in planes]
    return Truth([], [frame for stack in stacks for frame in stack])


@_case
def two_pixel_spacings(tree: Tree) -> Truth:
    """Two PixelSpacings in one series."""
    return Truth([tree.stack(range(4)), tree.stack(range(4, 8), spacing=(0.5, 0.5))])


@_case
def two_slice_spacings(tree: Tree) -> Truth:
    """Slices 1 mm apart, then 5 mm."""
    return Truth([tree.stack((0, 1, 2, 3, 8, 13, 18))], checks=UNEVEN)


@_case
def missing_slice(tree: Tree) -> Truth:
    """A missing slice."""
    return Truth([tree.stack((0, 1, 2, 4, 5, 6))], checks=UNEVEN)


@_case
def missing_thin_slice(tree: Tree) -> Truth:
    """A missing slice, the others 0.1 mm apart."""
    return Truth([tree.stack((0, 0.1, 0.2, 0.4, 0.5, 0.6), spacing=(0.1, 0.1))], checks=UNEVEN)


@_case
def micrometres(tree: Tree) -> Truth:
    """Micro-CT: slices 8 µm apart."""
    offsets = [0.008 * number for number in range(6)]
    return Truth([tree.stack(offsets, spacing=(0.008, 0.008))])


@_case
def copied_slice(tree: Tree) -> Truth:
    """A slice twice, byte for byte."""
    stack = tree.stack(range(5))
    # Of copies, the first by path stands.
    first, second = sorted([stack[2], tree.copy(stack[2])], key=lambda frame: frame.path)
    return Truth([[*stack[:2], first, *stack[3:]]], aliases=[second])


@_case
def repeated_slice(tree: Tree) -> Truth:
    """A slice taken twice: another SOPInstanceUID and other pixels at one position."""
    stack = tree.stack(range(5))
    return Truth([stack, [tree.add(2)]], told=False)


@_case
def conflicting_slice(tree: Tree) -> Truth:
    """One SOPInstanceUID with two contents."""
    stack = tree.stack(range(5))
    uid = tree.uid("instance 3")
    other = tree.add(2, SOPInstanceUID=uid)
    return Truth([stack, [other]], problems={"duplicate-uid": [stack[2], other]}, told=False)


@_case
def gantry_tilt(tree: Tree) -> Truth:
    """A tilted gantry: each slice is shifted against the last one."""
    tilt = math.tan(math.radians(15))
    stack = [tree.add(5 * n, shift=(0, 5 * n * tilt, 0), GantryDetectorTilt=15.0) for n in range(6)]
    return Truth([stack], checks={"consistent_in_plane_col": False, "tilted": True})


@_case
def multi_echo(tree: Tree) -> Truth:
    """Three echoes."""
    echoes = (10.0, 30.0, 80.0)
    slices = [[tree.add(n, **(MR | {"EchoTime": echo})) for echo in echoes] for n in SLICES]
    return Truth([list(echo) for echo in zip(*slices, strict=True)])


@_case
def moments_by_identifier(tree: Tree) -> Truth:
    """4-D, told apart by TemporalPositionIdentifier."""
    slices = [
        [tree.add(n, TemporalPositionIdentifier=moment + 1, **MR) for moment in MOMENTS]
        for n in SLICES
    ]
    return Truth([list(moment) for moment in zip(*slices, strict=True)])


@_case
def moments_by_trigger(tree: Tree) -> Truth:
    """4-D, told apart by TriggerTime."""
    slices = [[tree.add(n, TriggerTime=40.0 * moment, **MR) for moment in MOMENTS] for n in SLICES]
    return Truth([list(moment) for moment in zip(*slices, strict=True)])


@_case
def moments_by_uneven_trigger(tree: Tree) -> Truth:
    """4-D by TriggerTime, which differs a little from slice to slice."""
    slices = [
        [tree.add(n, TriggerTime=40.0 * moment + n, **MR) for moment in MOMENTS] for n in SLICES
    ]
    return Truth([list(moment) for moment in zip(*slices, strict=True)])


@_case
def moments_by_acquisition(tree: Tree) -> Truth:
    """4-D, told apart by AcquisitionNumber; InstanceNumber says nothing."""
    return Truth(
        [tree.stack(SLICES, AcquisitionNumber=moment, InstanceNumber=1) for moment in MOMENTS]
    )


@_case
def acquisition_of_each_slice(tree: Tree) -> Truth:
    """AcquisitionNumber counts the slices of one volume."""
    return Truth([[tree.add(n, AcquisitionNumber=n + 1) for n in range(6)]])


@_case
def acquisition_of_each_image(tree: Tree) -> Truth:
    """4-D where AcquisitionNumber counts every image."""
    stacks = [[tree.add(n, AcquisitionNumber=4 * m + n, **MR) for n in SLICES] for m in MOMENTS]
    return Truth(stacks)


@_case
def b_values(tree: Tree) -> Truth:
    """Diffusion with DiffusionBValue."""
    return Truth([tree.stack(SLICES, DiffusionBValue=b, **MR) for b in (0.0, 500.0, 1000.0)])


@_case
def b_value_of_three_directions(tree: Tree) -> Truth:
    """Diffusion: one b of 0, three directions of one b-value."""
    plain = tree.stack(SLICES, DiffusionBValue=0.0, **MR)
    directions = [
        tree.stack(SLICES, DiffusionBValue=1000.0, DiffusionGradientOrientation=each, **MR)
        for each in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    ]
    guessed = [frame for stack in directions for frame in stack]
    return Truth([plain, *directions], problems={"repeated-position": guessed})


@_case
def repetitions_in_order(tree: Tree) -> Truth:
    """Repeated positions that only the order of InstanceNumber tells apart."""
    return Truth([tree.stack(SLICES, **MR) for _ in MOMENTS], told=False)


@_case
def repetitions_interleaved(tree: Tree) -> Truth:
    """Repeated positions, the repetitions of each one after the other."""
    slices = [[tree.add(n, **MR) for _ in MOMENTS] for n in SLICES]
    return Truth([list(turn) for turn in zip(*slices, strict=True)], told=False)


@_case
def repetitions_without_order(tree: Tree) -> Truth:
    """Repeated positions without InstanceNumber: nothing tells them apart."""
    return Truth([tree.stack(SLICES, InstanceNumber=None, **MR) for _ in MOMENTS], told=None)


@_case
def repetitions_with_a_gap(tree: Tree) -> Truth:
    """Repeated positions in the order of InstanceNumber, one image lost."""
    return Truth([tree.stack(offsets, **MR) for offsets in (SLICES, (0, 1, 3), SLICES)], told=None)


@_case
def mosaic(tree: Tree) -> Truth:
    """Siemens mosaics: each image is tiled with the slices of one moment."""
    kind = {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], "Manufacturer": "SIEMENS"}
    tiled = tree.stack([0] * 4, shape=(16, 12), **MR, **kind)
    return Truth([], tiled, problems={"mosaic": tiled})


@_case
def mixed_signedness(tree: Tree) -> Truth:
    """Signed and unsigned pixels by turns."""
    return Truth([[tree.add(n, signed=n % 2 == 0) for n in range(6)]])


@_case
def mixed_sizes(tree: Tree) -> Truth:
    """Two sizes, in one place."""
    return Truth([tree.stack(range(5)), tree.stack((1.5, 2.5), shape=(10, 6))])


@_case
def numbers_reversed(tree: Tree) -> Truth:
    """InstanceNumber runs against the position."""
    return Truth([[tree.add(n, InstanceNumber=6 - n) for n in range(6)]])


@_case
def numbers_absent(tree: Tree) -> Truth:
    """No InstanceNumber."""
    return Truth([tree.stack(range(6), InstanceNumber=None)])


@_case
def numbers_all_one(tree: Tree) -> Truth:
    """Every InstanceNumber is 1."""
    return Truth([tree.stack(range(6), InstanceNumber=1)])


@_case
def numbers_interleaved(tree: Tree) -> Truth:
    """InstanceNumber in the order of an interleaved acquisition."""
    order = [0, 2, 4, 1, 3, 5]
    return Truth([_sort(tree.stack(order, **MR), order)])


@_case
def series_uid_absent(tree: Tree) -> Truth:
    """No SeriesInstanceUID."""
    return Truth([tree.stack(range(5), SeriesInstanceUID=None)], synthetic=True)


@_case
def series_uid_absent_twice(tree: Tree) -> Truth:
    """No SeriesInstanceUID, two SeriesNumbers."""
    return Truth(
        [tree.stack(range(4), SeriesInstanceUID=None, SeriesNumber=number) for number in (1, 2)],
        synthetic=True,
    )


@_case
def series_uid_in_two_studies(tree: Tree) -> Truth:
    """One SeriesInstanceUID in two studies."""
    return Truth([tree.stack(range(n, 8, 2), **_name_study(tree, n)) for n in range(2)])


@_case
def series_uid_of_two_patients(tree: Tree) -> Truth:
    """Two patients with one SeriesInstanceUID, in two studies."""
    return Truth(
        [
            tree.stack(range(n, 8, 2), **_name_study(tree, n), PatientID=name)
            for n, name in enumerate(("Q-one", "Q-two"))
        ]
    )


@_case
def study_uid_of_two_patients(tree: Tree) -> Truth:
    """Two patients with one StudyInstanceUID and one SeriesInstanceUID."""
    return Truth(
        [tree.stack(range(n, 8, 2), PatientID=name) for n, name in enumerate(("R-one", "R-two"))]
    )


@_case
def enhanced_ct(tree: Tree) -> Truth:
    """Enhanced multi-frame CT."""
    return Truth([tree.multiframe([(n, AXIAL) for n in range(6)], **ENHANCED_CT)])


@_case
def enhanced_scrambled(tree: Tree) -> Truth:
    """Enhanced multi-frame MR, its frames out of order."""
    order = [3, 0, 5, 1, 4, 2]
    frames = tree.multiframe([(n, AXIAL) for n in order], **ENHANCED_MR)
    return Truth([_sort(frames, order)])


@_case
def enhanced_two_stacks(tree: Tree) -> Truth:
    """Enhanced multi-frame MR, two stacks of two orientations in one file."""
    planes = [(n, each) for each in (AXIAL, SAGITTAL) for n in SLICES]
    frames = tree.multiframe(planes, **ENHANCED_MR)
    return Truth([frames[:4], frames[4:]])


@_case
def enhanced_two_echoes(tree: Tree) -> Truth:
    """Enhanced multi-frame MR, two echoes by turns."""
    return Truth(_add_echoes(tree, [20.0, 90.0] * 4))


@_case
def enhanced_echoes_scrambled(tree: Tree) -> Truth:
    """Enhanced multi-frame MR, two echoes in an order that differs from slice to slice."""
    return Truth(_add_echoes(tree, [20.0, 90.0, 90.0, 20.0] * 2))


@_case
def turned_about_normal(tree: Tree) -> Truth:
    """Half the slices with both directions reversed: one normal, pixels turned by 180°."""
    turned = tuple(-value + 0.0 for value in AXIAL)
    return Truth([tree.stack(range(4)), tree.stack(range(4, 8), orientation=turned)])


@_case
def normal_flipped(tree: Tree) -> Truth:
    """Half the slices with the columns reversed: the normal points the other way."""
    flipped = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    lower = tree.stack(range(4))
    upper = tree.stack((-4, -5, -6, -7), orientation=flipped)
    return Truth([lower, upper[::-1]])


@_case
def oblique(tree: Tree) -> Truth:
    """An oblique stack."""
    turn = math.radians(20)
    plane = (1.0, 0.0, 0.0, 0.0, round(math.cos(turn), 6), round(math.sin(turn), 6))
    stack = tree.stack((0, 3, 6, 9, 12), orientation=plane, **MR)
    return Truth([stack], checks={"obliquity_degrees": 20.0})


@_case
def sagittal(tree: Tree) -> Truth:
    """A sagittal stack."""
    return Truth([tree.stack((0, 3, 6, 9, 12), orientation=SAGITTAL, **MR)])


@_case
def slice_location_lies(tree: Tree) -> Truth:
    """SliceLocation contradicts the position."""
    return Truth([[tree.add(n, SliceLocation=float(n * 5 % 6)) for n in range(6)]])


@_case
def position_absent_cr(tree: Tree) -> Truth:
    """Radiographs without a position."""
    kind = {"Modality": "CR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1"}
    return Truth([], tree.stack((0, 0, 0), **kind, **NOT_PLACED))


@_case
def position_absent_us(tree: Tree) -> Truth:
    """An ultrasound cine without a position."""
    kind = {"Modality": "US", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.3.1"}
    return Truth([], tree.cine(4, **kind))


@_case
def report_inside(tree: Tree) -> Truth:
    """A dose report without a position, inside a CT series."""
    report = tree.add(shape=(10, 10), ImageType=["DERIVED", "SECONDARY", "OTHER"], **NOT_PLACED)
    return Truth([tree.stack(range(5))], [report])


@_case
def pixels_not_square(tree: Tree) -> Truth:
    """Pixels that are not square."""
    return Truth([tree.stack((0, 3, 6, 9), spacing=(2.0, 0.5))])


@_case
def rounding_noise(tree: Tree) -> Truth:
    """Positions and orientations with rounding noise of 1e-4."""
    noise = np.random.default_rng(0).uniform(-1e-4, 1e-4, (8, 9))
    turn = math.radians(20)
    plane = np.array([1.0, 0.0, 0.0, 0.0, math.cos(turn), math.sin(turn)])
    normal = np.cross(plane[:3], plane[3:])
    stack = []
    for number, row in enumerate(noise):
        shift = 3.0 * number * normal + row[:3]
        directions = np.round(plane + row[3:], 8).tolist()
        stack.append(tree.add(orientation=directions, shift=shift.tolist(), **MR))
    return Truth([stack], checks={"single_orientation": None, "regularly_spaced_3d_volume": None})


@_case
def slope_of_each_slice(tree: Tree) -> Truth:
    """PET with a rescale slope for each slice."""
    slices = [
        tree.add(3 * n, RescaleSlope=1.0 + n / 4, RescaleIntercept=0.0, Units="BQML", **PET)
        for n in range(6)
    ]
    return Truth([slices])


@_case
def derived_beside_original(tree: Tree) -> Truth:
    """MPR images beside the originals that they were made of."""
    stack = tree.stack(range(5))
    derived = ["DERIVED", "SECONDARY", "MPR"]
    return Truth([stack, tree.stack((0.5, 1.5, 2.5), ImageType=derived)])


def _name_study(tree: Tree, number: int) -> dict[str, str]:
    return {"StudyInstanceUID": tree.uid(f"study {number}"), "StudyDate": f"202001{number + 1:02d}"}


def _add_echoes(tree: Tree, echoes: list[float]) -> list[list[Frame]]:
    """Add one object with two frames at each position, and return them by echo."""
    planes = [(index // 2, AXIAL) for index in range(len(echoes))]
    frames = tree.multiframe(planes, echoes=echoes, **ENHANCED_MR)
    return [
        [frame for frame, echo in zip(frames, echoes, strict=True) if echo == which]
        for which in sorted({*echoes})
    ]
