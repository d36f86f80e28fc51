"""Which parts of an image a run's models decided by: asked of a child process once, then kept.

    runs/NAME/saliency/KEY.npy, KEY.json     the maps, and what they are

KEY is a hash of the models, of the images and of what is asked of them, so that a report that is
written again finds what the first one computed. How maps come about: `training.explanation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.errors import MedkitError, TrainingError
from medkit.evaluation.evidence import Evidence
from medkit.training.child import Event, follow_child
from medkit.training.environment import choose_environment
from medkit.training.explanation import ORDER, VERSION
from medkit.training.job import Job, fold_folder, read_array
from medkit.training.result import check_seal
from medkit.workspace import (
    Workspace,
    hash_file,
    hash_json,
    read_json,
    remove_folder,
    write_beside,
    write_json,
)

Floats = npt.NDArray[np.floating[Any]]

# Of probabilities, between the run and the models as they are now.
_AGREES = 1e-2
# From here on, shuffled weights give nearly the same map, so that it is of the image alone.
ALIKE = 0.5


@dataclass(frozen=True)
class Saliency:
    """What speaks for the predicted class, and where.

    Attributes
    ----------
    method : str
        As of `training.explanation`; empty where there is nothing.
    maps : dict of int to ndarray, shape (h, w)
        From the number of an image in its set to its map, which lies over the whole image: above
        0 what speaks for the predicted class, below 0 what speaks against it.
    alike : float or None
        The mean, over images, of the absolute rank correlation of a map with that of the same
        model after its weights were shuffled: near 0 the map depends on what was learned. None
        where the weights are hidden.
    shuffles : int
        How often they were shuffled.
    note : str
        Why there is nothing.
    """

    method: str = ""
    maps: Mapping[int, Floats] = field(default_factory=dict)
    alike: float | None = None
    shuffles: int = 0
    note: str = ""


def find_saliency(evidence: Evidence, workspace: Workspace, chosen: pd.DataFrame) -> Saliency:
    """Return the maps of some images of a run; where there can be none, the reason.

    Parameters
    ----------
    evidence : Evidence
        The run.
    workspace : Workspace
        Locked by the caller.
    chosen : DataFrame
        Rows of ``predictions.parquet``, few: each is explained by the model of its fold. The class
        to explain is that in ``asked``, by default the predicted one.
    """
    if chosen.empty:
        return Saliency(note="there is no picture to explain")
    if "asked" not in chosen:
        chosen = chosen.assign(asked=chosen["predicted"])
    chosen = chosen.sort_values("image")
    try:
        kept = _Kept.open(evidence, chosen)
        if not kept.is_whole():
            _compute(evidence, workspace, chosen, kept)
        return _judge(kept, chosen, evidence)
    except MedkitError as error:
        return Saliency(note=str(error))


@dataclass(frozen=True)
class _Kept:
    """What is kept of an answer: two files."""

    folder: Path
    key: str

    @classmethod
    def open(cls, evidence: Evidence, chosen: pd.DataFrame) -> _Kept:
        """Return the place for an answer, after a look at whether the models are as they were."""
        folds = [int(fold) for fold in sorted(chosen["fold"].unique())]
        models = [fold_folder(evidence.folder, fold) for fold in folds]
        for model in models:
            check_seal(model)
        asked = {
            "version": VERSION,
            "set": evidence.run["set_id"],
            "models": [hash_file(model / "done.json") for model in models],
            "images": chosen[["image", "fold", "asked"]].astype(str).to_numpy().tolist(),
        }
        return cls(evidence.folder / "saliency", hash_json(asked))

    @property
    def maps(self) -> Path:
        return self.folder / f"{self.key}.npy"

    @property
    def facts(self) -> Path:
        return self.folder / f"{self.key}.json"

    def is_whole(self) -> bool:
        if not (self.facts.is_file() and self.maps.is_file()):
            return False
        return bool(read_json(self.facts)["sha256"] == hash_file(self.maps))

    def write(self, maps: Floats, facts: Mapping[str, Any]) -> None:
        """Keep an answer, and forget those before it."""
        remove_folder(self.folder)
        self.folder.mkdir()
        with write_beside(self.maps) as beside, beside.open("wb") as file:
            np.save(file, maps.astype(np.float32), allow_pickle=False)
        write_json(self.facts, {**facts, "sha256": hash_file(self.maps)})


def _compute(evidence: Evidence, workspace: Workspace, chosen: pd.DataFrame, kept: _Kept) -> None:
    """Have a child process explain the images, fold by fold, and keep what it says."""
    assert evidence.image_set is not None
    run, work = evidence.run, kept.folder / "work"
    # On the processor, whatever the run was trained on: a few images, and the same everywhere.
    environment = choose_environment("cpu", run["threads"], run["backend"], run["plugin"])
    models = [fold_folder(evidence.folder, fold) for fold in range(run["k"])]
    job = Job.plan("explain", run, evidence.image_set, workspace, environment, models)
    job.write(work, chosen["image"].to_numpy(np.int64))
    targets = np.searchsorted(evidence.classes, chosen["asked"].to_numpy(str))
    order = {"folds": chosen["fold"].tolist(), "targets": targets.tolist()}
    write_json(work / ORDER, {**order, "several": evidence.several})
    folds = [int(fold) for fold in np.unique(chosen["fold"])]
    errors: list[str] = []

    def handle(event: Event) -> None:
        if event["event"] == "failed":
            errors.append(event["error"])

    steps, variables = [str(fold) for fold in folds], environment.variables()
    ended = follow_child(work, steps, variables, handle, environment.python)
    if errors or ended:
        raise TrainingError((*errors, ended)[0])
    kept.write(*_gather(work, folds, chosen, evidence))


def _gather(
    work: Path, folds: Sequence[int], chosen: pd.DataFrame, evidence: Evidence
) -> tuple[Floats, dict[str, Any]]:
    """Return the maps (1 + s, n, h, w) of all folds, and what they are."""
    every = {fold: read_array(work / f"{fold}-maps.npy") for fold in folds}
    methods = [read_json(work / f"{fold}-method.json")["method"] for fold in folds]
    shapes = {(len(maps), *maps.shape[2:]) for maps in every.values()}
    if len(shapes) > 1 or len({*methods}) > 1:
        raise TrainingError(f"the folds are explained differently: {', '.join(methods)}")
    (shuffled, rows, columns), numbers = shapes.pop(), chosen["fold"].to_numpy()
    maps = np.empty((shuffled, len(chosen), rows, columns))
    stated = np.empty((len(chosen), len(evidence.classes)))
    for fold in folds:
        maps[:, numbers == fold] = every[fold]
        stated[numbers == fold] = read_array(work / f"{fold}-probabilities.npy")
    known = chosen[[f"p:{name}" for name in evidence.classes]].to_numpy(np.float64)
    return maps, {"method": methods[0], "difference": float(np.abs(stated - known).max())}


def _judge(kept: _Kept, chosen: pd.DataFrame, evidence: Evidence) -> Saliency:
    facts, maps = read_json(kept.facts), read_array(kept.maps)
    if facts["difference"] > _AGREES:
        return Saliency(
            note="the models as they are here now give other probabilities than in the run, by up "
            f"to {facts['difference']:.2g}; what they would show is not what decided"
        )
    images = [int(image) for image in chosen["image"]]
    shuffles = len(maps) - 1
    return Saliency(
        facts["method"],
        dict(zip(images, maps[0], strict=True)),
        measure_likeness(maps) if shuffles else None,
        shuffles,
    )


def measure_likeness(maps: Floats) -> float | None:
    """Return the mean absolute rank correlation of maps with those of shuffled weights.

    Parameters
    ----------
    maps : ndarray, shape (1 + s, n, h, w)
        The first are the model's. Places that are 0 in all of an image's maps, as padding is, do
        not count, nor does a map that is the same everywhere; None where that is so of all.
    """
    found = [_correlate(maps[:, number]) for number in range(maps.shape[1])]
    known = np.concatenate(found)
    return float(np.abs(known).mean()) if len(known) else None


def _correlate(maps: Floats) -> Floats:
    """Return Spearman's correlation of the first map with each other one that has ranks."""
    used = (maps != 0).any(axis=0)
    if not used.any():
        return np.empty(0)
    ranks = pd.DataFrame(maps[:, used]).rank(axis=1).to_numpy()
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    lengths = np.sqrt((ranks[:1] ** 2).sum(axis=-1) * (ranks[1:] ** 2).sum(axis=-1))
    products = (ranks[:1] * ranks[1:]).sum(axis=-1)
    found: Floats = products[lengths > 0] / lengths[lengths > 0]
    return found
