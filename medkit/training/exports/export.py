"""A finished run as one model for other runtimes: written, run, compared, and only then there.

    FOLDER/model.onnx, model.tflite or savedmodel/     from pixels to probabilities
    FOLDER/model.json                                  what it takes, gives and comes from
    FOLDER/README.md, SHA256SUMS

A child process writes it with TensorFlow, whichever backend the run was trained on, runs it in the
form's own runtime, and compares it with the models as medkit predicts with them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit import delivery
from medkit.engine import Progress, silent
from medkit.errors import TrainingError, UsageError
from medkit.images.exports.metadata import IDENTIFIERS, PLACES, describe_recipe
from medkit.images.imageset import IMAGES_SCHEMA, ImageSet
from medkit.statistics.truth import MULTICLASS
from medkit.training.application import open_run
from medkit.training.child import Event, follow_child
from medkit.training.decision import make_decision
from medkit.training.environment import Environment, choose_environment
from medkit.training.exports.documents import write_readme
from medkit.training.exports.joining import ALLOWED, ANSWER, ORDER
from medkit.training.exports.runtimes import INPUT, OUTPUT, describe_runtime, find_form
from medkit.training.job import Job, derive_seed, fold_folder
from medkit.workspace import (
    Workspace,
    hash_file,
    hash_json,
    read_json,
    remove_folder,
    sync,
    write_json,
)

FORMAT = 1
DESCRIPTION = "model.json"
IMAGES = 256

# What may differ between two exports that are the same all the same.
_CIRCUMSTANCES = ("versions",)
# What the recipe's condition may name, as when images are exported.
_TOLD = sorted({*IMAGES_SCHEMA.names} - {*IDENTIFIERS, *PLACES})


@dataclass(frozen=True)
class ExportedModel:
    """A run that was exported.

    Attributes
    ----------
    folder : Path
        Where it is.
    record : dict
        Content of ``model.json``.
    built : bool
        False if it was there already.
    """

    folder: Path
    record: Mapping[str, Any]
    built: bool


@dataclass(frozen=True)
class _Order:
    """A finished run, and what is wanted of it."""

    workspace: Workspace
    run: Mapping[str, Any]
    form: str
    folds: list[int]
    image_set: ImageSet
    environment: Environment

    @property
    def models(self) -> list[Path]:
        """The folders of the folds whose models are exported."""
        folder = self.workspace.run(self.run["name"])
        return [fold_folder(folder, fold) for fold in self.folds]


def export_model(
    workspace: Workspace,
    run_name: str,
    folder: Path,
    form: str,
    *,
    fold: int | None = None,
    replace: bool = False,
    threads: int | None = None,
    progress: Progress = silent,
) -> ExportedModel:
    """Write a finished run as one model from pixels to probabilities that needs no medkit.

    The mean of the folds' models is exported, as `medkit.training.prediction.predict` gives it,
    before calibration.

    Parameters
    ----------
    workspace : Workspace
        Locked by the caller.
    run_name : str
        A finished run.
    folder : Path
        Where to; it must not hold anything else. If it holds the same export, nothing is done.
    form : str
        ``"savedmodel"``, ``"onnx"`` or ``"litert"``.
    fold : int, optional
        Export the model of this fold alone.
    replace : bool
        Make it anew, in place of another export.
    threads : int, optional
        As `choose_environment` takes it.
    progress : callable
        Told of images whose features are computed.

    Raises
    ------
    UsageError
        If the run is not finished, there is no such form or fold, a package is missing, or the
        folder holds something else or lies among runs and sets.
    TrainingError
        If a model is damaged, the trainer cannot be exported, or what was written differs from
        the run's models by more than 1e-4; nothing is left in the folder then.
    """
    find_form(form)
    _check_place(workspace, folder)
    run = open_run(workspace, run_name)
    order = _Order(
        workspace,
        run,
        form,
        _choose_folds(run, fold),
        _open_set(workspace, run),
        choose_environment("cpu", threads, "tensorflow", run["plugin"]),
    )
    facts = _describe(order)
    standing = delivery.find_standing(folder, DESCRIPTION, facts, _CIRCUMSTANCES, replace)
    if standing is not None:
        return ExportedModel(folder, standing, built=False)
    work = delivery.name_work(folder)
    remove_folder(work)  # of an export that was killed
    try:
        record = _build(order, facts, work, progress)
        delivery.put_in_place(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return ExportedModel(folder, record, built=True)


def _check_place(workspace: Workspace, folder: Path) -> None:
    for kind in ("raw", "sets", "runs", "evaluations"):
        if folder.resolve().is_relative_to((workspace.root / kind).resolve()):
            raise UsageError(
                f"{folder} lies among the {kind} of the workspace, which holds nothing else "
                "there; choose another"
            )


def _choose_folds(run: Mapping[str, Any], fold: int | None) -> list[int]:
    if fold is None:
        return list(range(run["k"]))
    if fold not in range(run["k"]):
        raise UsageError(
            f"the run {run['name']!r} has no fold {fold}; its folds are 0 to {run['k'] - 1}"
        )
    return [fold]


def _open_set(workspace: Workspace, run: Mapping[str, Any]) -> ImageSet:
    image_set = ImageSet.open(workspace.set(run["set"]))
    if image_set.id != run["set_id"]:
        raise UsageError(
            f"the set {run['set']!r} is not the one that the run {run['name']!r} was trained on: "
            f"its id was {run['set_id']} and is now {image_set.id}. An export is compared with "
            "the run on images of its set: bring that set back"
        )
    return image_set


def _describe(order: _Order) -> dict[str, Any]:
    """Return what the export is made from."""
    run = order.run
    decision = make_decision(order.workspace.run(run["name"]), run)
    return {
        "format": FORMAT,
        "form": order.form,
        "run": run["name"],
        **{name: run[name] for name in ("plugin", "distribution", "version", "label")},
        "params": {name: _hide_place(value) for name, value in run["params"].items()},
        "folds": order.folds,
        "models": hash_json([hash_file(model / "done.json") for model in order.models]),
        **{name: run[name] for name in ("classes", "positive")},
        "set": {"name": run["set"], "id": run["set_id"]},
        "recipe": describe_recipe(order.image_set.manifest["recipe"], _TOLD),
        "weights": run["weights"],
        "calibration": {"method": "temperature", "temperature": decision.temperature},
        "versions": describe_runtime(order.form),
    }


def _hide_place(value: Any) -> Any:
    """Return an option, but of a path of this machine the last part."""
    local = isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~"))
    return Path(value).name if local else value


def _build(
    order: _Order, facts: Mapping[str, Any], work: Path, progress: Progress
) -> dict[str, Any]:
    """Have a child process write and compare the model, and write what stands beside it."""
    content = work / delivery.CONTENT
    content.mkdir(parents=True)
    images = _choose_images(order)
    write_json(work / ORDER, {"form": order.form, "content": str(content.absolute())})
    _run_child(order, work, images, progress)
    answer = read_json(work / ANSWER)
    record = {
        **facts,
        "task": order.run.get("task", MULTICLASS),
        "view": answer["view"],
        "input": {"name": INPUT, "shape": ["n", *answer["shape"]], "dtype": "float32"},
        "output": {"name": OUTPUT, "shape": ["n", len(facts["classes"])], "dtype": "float32"},
        "parity": {
            "images": len(images),
            "largest_difference": answer["difference"],
            "allowed": ALLOWED,
        },
        "files": _hash_files(content),
    }
    (content / "README.md").write_text(write_readme(record), encoding="utf-8", newline="\n")
    sync(content / "README.md")
    delivery.write_sums(content, DESCRIPTION)
    write_json(content / DESCRIPTION, record)
    return record


def _choose_images(order: _Order) -> npt.NDArray[np.int64]:
    """Return images of the run to compare on, 256 or all, ascending; the run's seed chooses."""
    folder = order.workspace.run(order.run["name"])
    known = pd.read_parquet(folder / "cohort.parquet", columns=["image"])["image"].to_numpy()
    random = np.random.default_rng(derive_seed(order.run["seed"], "export"))
    chosen = random.choice(np.sort(known), min(IMAGES, len(known)), replace=False)
    return np.sort(chosen).astype(np.int64)


def _run_child(
    order: _Order, work: Path, images: npt.NDArray[np.int64], progress: Progress
) -> None:
    job = Job.plan(
        "export", order.run, order.image_set, order.workspace, order.environment, order.models
    )
    job.write(work, images)
    errors: list[str] = []

    def handle(event: Event) -> None:
        if event["event"] == "failed":
            errors.append(event["error"])
        elif event["event"] == "progress":
            progress(event["done"], event["total"], event["unit"])

    steps = [str(number) for number in range(len(order.models))]
    ended = follow_child(
        work, steps, order.environment.variables(), handle, order.environment.python
    )
    if errors or ended:
        raise TrainingError((*errors, ended)[0])


def _hash_files(content: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of the model, which is on the disk then."""
    files = sorted(path for path in content.rglob("*") if path.is_file())
    for path in files:
        sync(path)
    return {path.relative_to(content).as_posix(): hash_file(path) for path in files}
