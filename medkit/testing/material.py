"""What the conformance kit shows to a trainer: images of three classes that are easy to tell apart.

They go the way of all images: DICOM files, a catalog, a set. So what a trainer gets is what it
gets from the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.catalog.roots import Root
from medkit.catalog.scan import scan
from medkit.catalog.store import Catalog
from medkit.images.imageset import ImageSet
from medkit.images.normalisation import Recipe, normalise
from medkit.testing.studies import write_dicom
from medkit.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

CLASSES = ("ant", "bee", "cow")
SIZE = 96  # rows and columns of an image
PERSONS, PER_PERSON = 24, 2
_QUARTERS = 4

Floats = npt.NDArray[np.floating]
Parts = dict[str, dict[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Material:
    """A set, and what is known of its images.

    Attributes
    ----------
    folder : Path
        Of the set.
    images : ndarray of int64, shape (n,)
        Their numbers in the set, ascending.
    labels : ndarray of int64, shape (n,)
        Indexes into `CLASSES`.
    persons : ndarray of int64, shape (n,)
        Whose images they are; a person has one class.
    """

    folder: Path
    images: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    persons: npt.NDArray[np.int64]

    def divide(
        self,
        quarter: int,
        *,
        lacking: int | None = None,
        validate: bool = True,
        several: bool = False,
    ) -> Parts:
        """Return the parts of a fold, as `medkit.training.job.write_parts` takes them.

        Parameters
        ----------
        quarter : int
            Of the persons, who are tested on; the next one is to choose by.
        lacking : int, optional
            A class that no image outside the test part has.
        validate : bool
            False leaves nothing to choose by.
        several : bool
            Whether labels are a row an image, 1, 0 or -1 for each class, as for multilabel.
        """
        labels = self._spread() if several else self.labels
        quarters = self.persons // len(CLASSES) % _QUARTERS
        known = self.labels != (-1 if lacking is None else lacking)
        test, choose = (quarters == (quarter + step) % _QUARTERS for step in (0, 1))
        parts: Parts = {"test": {"images": self.images[test]}}
        for part, mask in (
            ("train", known & ~test & ~(choose & validate)),
            ("validation", known & choose & validate),
        ):
            parts[part] = {
                "images": self.images[mask],
                "labels": labels[mask],
                "persons": np.char.mod("person %d", self.persons[mask]),
            }
        return parts

    def label(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the classes of some of the images."""
        return self.labels[np.searchsorted(self.images, images)]

    def _spread(self) -> npt.NDArray[np.int64]:
        """Return a row an image: of its class, here and there of the first too, or not known."""
        several = np.eye(len(CLASSES), dtype=np.int64)[self.labels]
        several[self.persons % 5 == 0, 0] = 1
        several[(self.persons % 7 == 0) & (self.labels != 1), 1] = -1
        return several


def make_material(folder: Path) -> tuple[Material, Material]:
    """Make a set in a new folder, and return its grey images and those in colour."""
    home = Workspace(folder / "workspace")
    random = np.random.default_rng(0)
    for person, number, colour in product(range(PERSONS), range(PER_PERSON), (False, True)):
        _write(folder / "tree", person, number, colour, random)
    scan(home.catalog, [Root("made-up", folder / "tree")], workers=0)
    where = home.set("made-up")
    normalise(Catalog.open(home.catalog), where, Recipe((SIZE, SIZE)), workers=0)
    table = ImageSet.open(where).table
    tinted = table["array"].str.endswith("x3").to_numpy(bool)
    return _choose(where, table.loc[~tinted]), _choose(where, table.loc[tinted])


def _choose(where: Path, table: pd.DataFrame) -> Material:
    persons = table["PatientID"].str.removeprefix("P").to_numpy(np.int64)
    return Material(where, table["image"].to_numpy(np.int64), persons % len(CLASSES), persons)


def _write(tree: Path, person: int, number: int, colour: bool, random: np.random.Generator) -> None:
    kind, name = person % len(CLASSES), f"P{person:03d}"
    pixels = np.asarray(np.clip(2000 + 1200 * draw_shape(kind, random), 0, 4095), dtype=np.uint16)
    if colour:
        tint = np.where(np.arange(3) == kind, 1.0, 0.6)
        pixels = np.asarray(pixels[..., None] / 16 * tint, dtype=np.uint8)
    write_dicom(
        tree / name / f"{number}-{'colour' if colour else 'grey'}.dcm",
        pixels,
        PatientID=name,
        Modality="US" if colour else "CR",
        SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{'6.1' if colour else '1'}",
        InstanceNumber=number + 1,
        WindowCenter=None if colour else 2048,
        WindowWidth=None if colour else 4096,
    )


def draw_shape(kind: int, random: np.random.Generator) -> Floats:
    """Return one image of a class, shape (SIZE, SIZE), about from -1 to 1.

    Each class has a corner of its own that is bright, stripes of a direction and width of their
    own, and a brightness: whatever a trainer looks at, it can learn.
    """
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    angle, phase = np.pi * kind / len(CLASSES), random.uniform(0, 2 * np.pi)
    along = rows * np.cos(angle) + columns * np.sin(angle)
    stripes = np.sin(2 * np.pi * (4 + 5 * kind) * along + phase)
    corner = ((rows > 0.5) == bool(kind & 1)) & ((columns > 0.5) == bool(kind & 2))
    noise = random.normal(0, 0.1, (SIZE, SIZE))
    return np.asarray(0.3 * (kind - 1) + 0.4 * stripes + 0.5 * corner + noise)
