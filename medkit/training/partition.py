"""What a fit is given: who is trained on, who is chosen by, and images that are only predicted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.cohort.division import cut_validation
from medkit.statistics.truth import read_truth
from medkit.training.job import write_parts

if TYPE_CHECKING:
    from medkit.cohort.folds import Folds

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Labelled:
    """The images of a run, by number, with label and person of each.

    Attributes
    ----------
    images : ndarray of int64, shape (n,)
        Numbers, ascending.
    labels : ndarray of int64, shape (n,) or (n, c)
        As `medkit.statistics.truth.read_truth` gives them.
    persons : ndarray of str, shape (n,)
    folds : ndarray of int64, shape (n,)
        That each is tested in.
    """

    images: Ints
    labels: Ints
    persons: npt.NDArray[Any]
    folds: Ints

    @classmethod
    def read(cls, folds: Folds) -> Labelled:
        """Return the images of some folds."""
        table = folds.table.sort_values("image")
        return cls(
            table["image"].to_numpy(np.int64),
            read_truth(table["label"], folds.classes, folds.several),
            table["split_group"].to_numpy(str),
            table["fold"].to_numpy(np.int64),
        )

    def write(self, folder: Path, tested: npt.NDArray[np.bool_], share: float, seed: int) -> None:
        """Write the parts of one fit.

        Parameters
        ----------
        folder : Path
            Of the fit.
        tested : ndarray of bool, shape (n,)
            Which images are predicted; no label of theirs leaves the host.
        share : float
            Of the others' persons, to choose by; 0 for none.
        seed : int
            Of that choice.
        """
        rest = np.flatnonzero(~tested)
        held = np.zeros(len(rest), dtype=bool)
        if share:
            held = cut_validation(self.persons[rest], self.labels[rest], share, seed)
        parts: dict[str, dict[str, npt.NDArray[Any]]] = {
            part: {
                "images": self.images[rows],
                "labels": self.labels[rows],
                "persons": self.persons[rows],
            }
            for part, rows in (("train", rest[~held]), ("validation", rest[held]))
        }
        write_parts(folder, {**parts, "test": {"images": self.images[tested]}})
