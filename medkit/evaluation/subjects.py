"""What is looked at: images of a set, their classes and persons, and who may be named."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.errors import UsageError
from medkit.evaluation.figures import COLOURS
from medkit.evaluation.inventory import tell
from medkit.evaluation.sheets import Label
from medkit.images.imageset import TABLE, ImageSet
from medkit.images.windows import split_windows
from medkit.workspace import Workspace

if TYPE_CHECKING:
    from medkit.images.reader import Images

Integers = npt.NDArray[np.int64]

NO_LABEL, NO_PERSON = "no label", "no person"
_SHORT = 8  # digits of a hash


@dataclass(frozen=True)
class Look:
    """How to look at a set.

    Parameters
    ----------
    label : str, optional
        A label of the catalog: its values are the classes. Without one, modalities are.
    count : int
        Thumbnails of a sheet.
    window : str
        One, as of `medkit.images.reader.View`; see `sheets.draw_thumbnails`.
    where : str, optional
        SQL condition on the set's table: only images that fulfil it.
    every : bool
        Whether sheets of all images are made too.
    sample : int
        Measure so many images at most, at even distances; 0 for all.
    anonymised : bool
        Whether persons, sources and labels are shown by pseudonyms, and paths not at all.

    Raises
    ------
    UsageError
        If one of them is not as said.
    """

    label: str | None = None
    count: int = 64
    window: str = "header"
    where: str | None = None
    every: bool = False
    sample: int = 0
    anonymised: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"a sheet has 1 image or more, not {self.count}")
        if self.sample < 0:
            raise UsageError(f"a sample is a number of images, or 0 for all, not {self.sample}")
        if len(split_windows(self.window)) != 1:
            raise UsageError(f"an eye looks through one window at a time, not {self.window!r}")


@dataclass(frozen=True)
class Names:
    """Shows what could name somebody, or its pseudonym: the one that ``medkit show`` gives it."""

    key: str | None

    def show(self, text: str) -> str:
        """Return a text, or what `medkit.catalog.pseudonyms` puts in its place."""
        if self.key is None or not text:
            return text
        return f"anon-{hashlib.sha256((self.key + text).encode()).hexdigest()[:16]}"

    def shorten(self, person: object) -> str:
        """Return enough of a person's key to tell it from others of a sheet."""
        if not isinstance(person, str):
            return NO_PERSON
        return self.show(person)[: _SHORT if self.key is None else _SHORT + 5]


@dataclass(frozen=True)
class Subject:
    """Images to look at, with the class and the person of each as they are shown."""

    image_set: ImageSet
    images: Images
    names: Names
    classes: list[str]
    persons: list[str]
    look: Look

    @property
    def table(self) -> pd.DataFrame:
        """The images' rows of the set's table."""
        return self.images.table

    def lines(self) -> list[str]:
        """Return the classes that have a histogram each: all, or one where they are too many."""
        return self.classes if len(set(self.classes)) <= COLOURS else [""] * len(self.classes)

    def sample(self) -> Integers:
        """Return positions of the images to measure."""
        images = len(self.images)
        count = min(self.look.sample or images, images)
        return np.unique(np.linspace(0, images - 1, count).round().astype(np.int64))

    def spell(self) -> str:
        """Return how they are looked at."""
        look = self.look
        by = "modality" if look.label is None else f"label {look.label}"
        parts = [f"window {look.window}", f"by {by}"]
        # A condition may hold what the pseudonyms hide.
        if look.where:
            parts.append("some, by a condition" if look.anonymised else f"where {look.where}")
        return " · ".join(parts)

    def label(self, position: int) -> Label:
        """Return what stands under one of them."""
        row = self.table.iloc[position]
        value = None if self.look.label is None else self.classes[position]
        return Label(
            number=int(row["image"]),
            modality=None if pd.isna(row["Modality"]) else str(row["Modality"]),
            value=value,
            person=self.persons[position],
            remark="constant" if row["constant"] else "",
        )


def prepare_subject(workspace: Workspace, name: str, look: Look) -> Subject:
    """Open a set and join what is to be said of its images.

    Raises
    ------
    UsageError
        If no image is there to be looked at, or the label or the condition is none.
    ImageSetError
        If the set is missing or damaged.
    """
    image_set = ImageSet.open(workspace.set(name))
    images = image_set.images()
    if look.where:
        images = images.take(_select(image_set, look.where))
    if not len(images):
        what = f"that fulfils {look.where!r}" if look.where else "to look at"
        raise UsageError(f"the set {name!r} has no image {what}")
    names = Names(_load_key(workspace) if look.anonymised else None)
    persons = [names.shorten(person) for person in images.table["split_group"]]
    return Subject(
        image_set, images, names, _classify(workspace, images, look, names), persons, look
    )


def _select(image_set: ImageSet, where: str) -> npt.NDArray[np.bool_]:
    """Return which images fulfil a condition."""
    from medkit.catalog.database import Database

    with Database.open({"images": [image_set.folder / TABLE]}) as database:
        # The line ends keep a comment in the condition from hiding what follows it.
        found = database.answer(f"SELECT image FROM images WHERE (\n{where}\n)")
    return image_set.table["image"].isin(found["image"].to_pylist()).to_numpy()


def _load_key(workspace: Workspace) -> str:
    from medkit.catalog.pseudonyms import load_key
    from medkit.catalog.store import Catalog

    return load_key(Catalog.open(workspace.catalog).folder)


def _classify(workspace: Workspace, images: Images, look: Look, names: Names) -> list[str]:
    """Return the class of each image."""
    if look.label is None:
        return [tell(modality) for modality in images.table["Modality"]]
    values = _read_label(workspace, look)
    found = [values.get(names.show(file)) for file in images.table["file"]]
    if not any(value is not None for value in found):
        raise UsageError(
            f"none of the {len(images):,} images has a value of the label {look.label!r}: "
            f"{len(values):,} files have one, none of them here"
        )
    return [NO_LABEL if value is None else value for value in found]


def _read_label(workspace: Workspace, look: Look) -> dict[str, str]:
    """Return the values of a label by file, both as pseudonyms if that is asked for."""
    from medkit.catalog.pseudonyms import stream
    from medkit.catalog.store import Catalog

    catalog = Catalog.open(workspace.catalog)
    known = catalog.labels(str(look.label))  # an error that lists the labels there are
    if look.anonymised:
        literal = "'" + str(look.label).replace("'", "''") + "'"
        question = f"SELECT file, value FROM labels WHERE name = {literal}"
        known = stream(catalog, question, anonymised=True).read_all().to_pandas()
    known = known.dropna(subset=["value"])
    return dict(zip(known["file"], known["value"].astype(str), strict=True))
