"""Promise: no series of the torture set is divided wrongly without a word.

Reads each case (tests/torture_cases.py) with medkit, SimpleITK, dicom2nifti and dcm2niix, compares
every voxel that comes out with the truth, and prints docs/volumes.md's table.

A voxel's value says which frame, row and column it is of. What a reader made is wrong if a volume
holds images of two volumes or two copies of one, if a volume is in pieces or lacks images, or if a
voxel lies elsewhere than it does in the patient by more than a tenth of a pixel. It is silent if it
is wrong, nothing was raised, and no line of warning was printed beyond those that the same reader
prints for cases in which there is nothing to say, and which it reads rightly.

    pip install SimpleITK dicom2nifti dcm2niix nibabel
    python benchmarks/torture.py
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from torture import Found, Frame, Truth, list_flags, read_catalog
from torture_cases import build, describe

from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog

# As their own guides show them: every series of the folder, no options that change what is read.
SIMPLEITK = """
import sys
from pathlib import Path
import numpy as np
import SimpleITK as sitk
folder, made = sys.argv[1:]
for number, series in enumerate(sitk.ImageSeriesReader.GetGDCMSeriesIDs(folder)):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder, series))
    image = reader.Execute()
    width = image.GetDimension()  # 4 of a multi-frame file
    affine = np.eye(4)
    direction = np.reshape(image.GetDirection(), (width, width))[:3, :3]
    affine[:3, :3] = direction * image.GetSpacing()[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    values = sitk.GetArrayFromImage(image).T
    np.savez(Path(made) / f"{number:02d}.npz", values=values, affine=affine)
"""
DICOM2NIFTI = """
import sys
import dicom2nifti
dicom2nifti.convert_directory(*sys.argv[1:], compression=False, reorient=False)
"""
PEERS = {
    "SimpleITK": [sys.executable, "-c", SIMPLEITK, "FOLDER", "MADE"],
    "dicom2nifti": [sys.executable, "-c", DICOM2NIFTI, "FOLDER", "MADE"],
    "dcm2niix": [
        *(sys.executable, "-m", "dcm2niix", "-g", "i", "-b", "n", "-z", "n", "-f", "%s_%j"),
        *("-o", "MADE", "FOLDER"),
    ],
}
# A line without one of these words is no warning.
_WORDS = re.compile(
    "warn|error|exception|unable|only able|not |inconsist|incompat|varies|duplicate|ignor|skip",
    re.IGNORECASE,
)
_TOLERANCE = 0.1  # of a pixel
OTHER_VALUES = "with other values"


@dataclass(frozen=True)
class Made:
    """What a reader made of a case.

    Attributes
    ----------
    volumes : list of (ndarray, ndarray)
        Values by column, row and slice; from these to mm in the patient, (4, 4), as DICOM counts.
    lines : frozenset of str
        What it said.
    failed : bool
        Whether it ended with an error.
    """

    volumes: list[tuple[np.ndarray, np.ndarray]]
    lines: frozenset[str]
    failed: bool


def run_reader(command: Sequence[str], folder: Path, made: Path) -> Made:
    """Run a reader in a process of its own."""
    made.mkdir()
    places = {"FOLDER": str(folder), "MADE": str(made)}
    words = [places.get(word, word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=120)
    volumes = list(chain.from_iterable(map(read_volumes, sorted(made.iterdir()))))
    lines = (done.stdout + done.stderr).splitlines()
    said = frozenset(anonymise(line) for line in lines if _WORDS.search(line))
    return Made(volumes, said, done.returncode != 0)


def anonymise(line: str) -> str:
    """Return a line without what differs from case to case: names and numbers."""
    line = re.sub(r"\S*/\S*|[0-9a-f]{8}(\.dcm)?", "", line)
    return re.sub(r"-?\d+(\.\d+)?", "0", line).strip()


def read_volumes(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the volumes of a file, one for each moment of a 4-D one."""
    import nibabel

    if path.suffix == ".npz":
        held = np.load(path)
        values, affine = held["values"], held["affine"]
    elif path.suffix == ".nii":
        image = nibabel.load(path)
        values = image.get_fdata()
        affine = np.diag([-1, -1, 1, 1]) @ image.affine  # NIfTI counts to the other side
    else:
        return
    values = values.reshape(*values.shape, *[1] * (3 - values.ndim))
    for moment in np.moveaxis(values.reshape(*values.shape[:3], -1), -1, 0):
        yield moment, affine


def group_scouts(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Return parallel frames together: to stack scouts is no fault. Without a place: by file."""
    groups: dict[object, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[frame.orientation if frame.placed else frame.path].append(frame)
    return list(groups.values())


class Key:
    """From the value of a voxel to what is true of it.

    What may stand in one volume is a group: the true volumes, then frames of none, see
    `group_scouts`.
    """

    def __init__(self, truth: Truth) -> None:
        groups = [*truth.volumes, *group_scouts(truth.outside)]
        members = [(group, frame) for group, held in enumerate(groups) for frame in held]
        self.frames = [frame for _, frame in members]
        values = [frame.slope * frame.pixels.ravel() for frame in self.frames]
        numbers = [np.full(len(each), number) for number, each in enumerate(values)]
        order = np.argsort(np.concatenate(values))
        self._group = np.array([group for group, _ in members])
        self._values = np.concatenate(values)[order]
        self._frame = np.concatenate(numbers)[order]
        self._placed = np.array([frame.placed for frame in self.frames])[self._frame]
        self._places = np.concatenate([one.locate().reshape(-1, 3) for one in self.frames])[order]

    def find_faults(self, values: np.ndarray, affine: np.ndarray) -> tuple[set[int], set[str]]:
        """Return the frames that a volume holds, and what is wrong with it."""
        nearest = np.searchsorted(self._values, values - 1e-3).clip(max=len(self._values) - 1)
        known = np.isclose(self._values[nearest], values, rtol=1e-6, atol=1e-3)
        if not known.all():
            return set(), {OTHER_VALUES}
        voxels = nearest[known]
        places = np.argwhere(known) @ affine[:3, :3].T + affine[:3, 3]
        away = np.linalg.norm(places - self._places[voxels], axis=1)[self._placed[voxels]]
        pixel = min(min(frame.spacing) for frame in self.frames)
        held = set(self._frame[voxels].tolist())
        faults = {
            "mixed": len(set(self._group[[*held]].tolist())) > 1,
            "an image twice": len(np.unique(voxels)) < len(voxels),
            "misplaced": bool((away > _TOLERANCE * pixel).any()),
        }
        return held, {words for words, found in faults.items() if found}

    def find_losses(self, held: Sequence[set[int]], group: int) -> set[str]:
        """Return what befell one true volume, given the frames of each that was made."""
        wanted = set(np.flatnonzero(self._group == group).tolist())
        pieces = [frames for frames in held if frames & wanted]
        if len(wanted) < 2:  # one image, such as a scout, may be left out
            return set()
        if not pieces:
            return {"lost"}
        faults = {"in pieces": len(pieces) > 1, "images lost": not wanted <= set().union(*pieces)}
        return {words for words, found in faults.items() if found}


def find_faults(truth: Truth, made: Made) -> list[str]:
    """Return what is wrong with what a reader made, with how many volumes it befell."""
    key = Key(truth)
    judged = [key.find_faults(values, affine) for values, affine in made.volumes]
    held = [frames for frames, _ in judged]
    losses = [key.find_losses(held, group) for group in range(len(truth.volumes))]
    counts = Counter(chain.from_iterable([*(faults for _, faults in judged), *losses]))
    if not counts["lost"] and not counts["images lost"]:
        del counts[OTHER_VALUES]  # what a reader makes beside the images is no fault
    return [f"{count} {words}" for words, count in sorted(counts.items()) if count]


def is_plain(truth: Truth) -> bool:
    """Return whether there is nothing to say of a case."""
    return len(truth.volumes) == 1 and truth == Truth(truth.volumes)


def describe_sizes(sizes: Sequence[int]) -> str:
    """Return how many volumes of how many slices, in few words."""
    return " + ".join(
        f"{count}×{size}" if count > 1 else f"{size}"
        for size, count in sorted(Counter(sizes).items(), reverse=True)
    )


def judge(truth: Truth, made: Made, usual: frozenset[str]) -> str:
    """Return a reader's cell of the table.

    Parameters
    ----------
    usual : frozenset of str
        What it says where there is nothing to say.
    """
    sizes = describe_sizes([values.shape[2] for values, _ in made.volumes]) or "none"
    faults = find_faults(truth, made)
    if not faults:
        return f"right ({sizes})"
    words = ", ".join(faults)
    if made.failed or made.lines - usual:
        return f"said so ({sizes}: {words})"
    return f"**silent** ({sizes}: {words})"


def judge_medkit(truth: Truth, found: Found) -> str:
    """Return medkit's cell of the table: exact, or said that it is not, or silently wrong."""
    sizes = describe_sizes([len(volume) for volume in found.volumes]) or "none"
    expected = truth.expect()
    outside = {frame.key for frame in truth.outside}
    flags = sorted(list_flags(found))
    words = "; ".join([sizes, *flags])
    if set(found.volumes) == set(expected) and found.outside == outside:
        rows = [(found.volumes[volume], checks) for volume, checks in expected.items()]
        if all(row.items() >= checks.items() for row, checks in rows):
            return f"right ({words})"
    return f"said so ({words})" if flags else f"**silent** ({words})"


def read_with_medkit(folder: Path, catalog: Path) -> dict[str, Found]:
    """Return what one scan of the whole set says of each case."""
    scan(catalog, [Root("torture", folder)], workers=0)
    return read_catalog(Catalog.open(catalog))


def judge_peer(command: Sequence[str], cases: dict[str, Truth], work: Path) -> dict[str, str]:
    """Return the cells of one reader's column."""
    work.mkdir()
    made = {name: run_reader(command, work.parent / "set" / name, work / name) for name in cases}
    plain = [name for name, truth in cases.items() if is_plain(truth)]
    usual = frozenset().union(
        *(made[name].lines for name in plain if not find_faults(cases[name], made[name]))
    )
    return {name: judge(truth, made[name], usual) for name, truth in cases.items()}


def is_installed(name: str) -> bool:
    """Return whether a distribution is there."""
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def main() -> None:
    """Print the table, a line of sums, and the versions."""
    peers = {peer: command for peer, command in PEERS.items() if is_installed(peer)}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        cases = build(work / "set")
        found = read_with_medkit(work / "set", work / "catalog")
        medkit = {name: judge_medkit(truth, found[name]) for name, truth in cases.items()}
        columns = {peer: judge_peer(command, cases, work / peer) for peer, command in peers.items()}
    print_table({"medkit": medkit} | columns, list(cases))
    versions = [f"{name} {version(name)}" for name in ("medkit", *peers, "pydicom")]
    print(f"\nVersions: {', '.join(versions)}.")
    if absent := [peer for peer in PEERS if peer not in peers]:
        print(f"Not installed, and so not in the table: {', '.join(absent)}.")


def print_table(columns: dict[str, dict[str, str]], names: Sequence[str]) -> None:
    """Print a row for each case, and how often each reader was right, said so, or was silent."""
    print(f"| case | {' | '.join(columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    for name in names:
        print(f"| {describe(name)} | {' | '.join(cells[name] for cells in columns.values())} |")
    sums = []
    for cells in columns.values():
        counts = Counter(cell.split(" (")[0] for cell in cells.values())
        sums.append(
            f"{counts['right']} right, {counts['said so']} said so, {counts['**silent**']} silent"
        )
    print(f"| **{len(names)} cases** | {' | '.join(sums)} |")


if __name__ == "__main__":
    main()
