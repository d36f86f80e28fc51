"""What the host asks of a child process: ``job.json``, and for each fold arrays beside it.

    runs/NAME/job.json
    runs/NAME/images.npy                   the images of the cohort, by number, ascending
    runs/NAME/fold-K/parts/PART.npy        images of a part: train, validation, test
    runs/NAME/fold-K/parts/PART-labels.npy, PART-persons.npy       of train and validation only

No file of a fold holds a label of its test part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.training.environment import Environment
from medkit.workspace import Workspace, hash_json, read_json, remove_folder, write_json

if TYPE_CHECKING:
    from medkit.images.imageset import ImageSet

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Job:
    """One job of a child process.

    Attributes
    ----------
    task : str
        ``"fit"`` folds, compute ``"features"`` only, and with finished models ``"predict"``,
        ``"explain"`` what they predict, or ``"export"`` them.
    plugin, distribution, version : str
        The trainer.
    params : dict
        Its options.
    set_folder, feature_store : str
        Where the ImageSet and the features lie.
    classes : list of str
        In the order of the columns.
    seed : int
        Of the run.
    environment : dict
        Device, threads, backend and versions, from `Environment.describe`.
    models : list of str
        Folders of finished folds, to predict with, to explain or to export.
    """

    task: str
    plugin: str
    distribution: str
    version: str
    params: dict[str, Any]
    set_folder: str
    feature_store: str
    classes: list[str]
    seed: int
    environment: dict[str, Any]
    models: list[str] = field(default_factory=list)

    @classmethod
    def plan(
        cls,
        task: str,
        record: Mapping[str, Any],
        image_set: ImageSet,
        workspace: Workspace,
        environment: Environment,
        models: Sequence[Path] = (),
    ) -> Job:
        """Return the job for what a record asks."""
        names = ("plugin", "distribution", "version", "params", "classes", "seed")
        return cls(
            task=task,
            **{name: record[name] for name in names},
            set_folder=str(image_set.folder.absolute()),
            feature_store=str(workspace.features.absolute()),
            environment=environment.describe(),
            models=[str(model.absolute()) for model in models],
        )

    def write(self, folder: Path, images: npt.NDArray[np.int64]) -> None:
        """Write the job and the images it is about."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "images.npy", images)
        write_json(folder / "job.json", asdict(self))

    def describe_features(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return all that features depend on besides the pixels.

        That is the trainer, or the extractor that it names: trainers of one extractor share them.
        """
        names = () if "extractor" in spec else ("plugin", "distribution", "version")
        maker = {name: getattr(self, name) for name in names}
        return {**maker, "environment": self.environment, "spec": spec}

    def describe_trainer(self, spec: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return what a model comes from; kept beside it."""
        names = ("plugin", "distribution", "version", "params", "classes")
        return {**{name: getattr(self, name) for name in names}, "feature_spec": spec}


def read_job(folder: Path) -> tuple[Job, npt.NDArray[np.int64]]:
    """Return the job of a folder and the numbers of its images."""
    return Job(**read_json(folder / "job.json")), read_array(folder / "images.npy")


def fold_folder(run: Path, fold: int) -> Path:
    """Return the folder of a fold."""
    return run / f"fold-{fold}"


def write_parts(folder: Path, parts: Mapping[str, Mapping[str, Array]]) -> None:
    """Write the parts of a fold.

    Parameters
    ----------
    folder : Path
        Of the fold.
    parts : mapping
        For each part ``"images"``, and for train and validation ``"labels"`` and ``"persons"``.
    """
    remove_folder(folder / "parts")
    (folder / "parts").mkdir(parents=True)
    for part, columns in parts.items():
        for column, values in columns.items():
            np.save(_part_file(folder, part, column), values, allow_pickle=False)


def read_part(folder: Path, part: str, column: str = "images") -> Array:
    """Return a column of a part of a fold."""
    return read_array(_part_file(folder, part, column))


def read_array(path: Path) -> Array:
    """Return the array of a ``.npy`` file; nothing is unpickled."""
    loaded: Array = np.load(path, allow_pickle=False)
    return loaded


def derive_seed(seed: int, *parts: object) -> int:
    """Return a seed below 2^31 that follows from a run's seed and from what it is for."""
    return int(hash_json([seed, *map(str, parts)]), 16) % 2**31


def _part_file(folder: Path, part: str, column: str) -> Path:
    suffix = "" if column == "images" else f"-{column}"
    return folder / "parts" / f"{part}{suffix}.npy"
