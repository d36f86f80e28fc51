"""A finished run on other images, model locked: `evaluate` with labels, `predict` without.

evaluations/NAME/evaluation.json        what was asked, with what
evaluations/NAME/job.json, images.npy   what the child is asked
evaluations/NAME/K.npy                  what the model of fold K says
evaluations/NAME/predictions.parquet    the mean over the folds' models
evaluations/NAME/metrics.json           where there are labels
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medkit.catalog.store import Catalog
from medkit.cohort.folds import join_labels
from medkit.engine import Progress, silent
from medkit.errors import CohortError, TrainingError, UsageError
from medkit.images.imageset import ImageSet
from medkit.images.soundness import check_set
from medkit.plugins import find_trainer
from medkit.statistics.intervals import summarise
from medkit.training.child import Event, follow_child
from medkit.training.environment import Environment, choose_environment
from medkit.training.job import Job, fold_folder
from medkit.training.record import find_earlier, hash_identity, tell_time
from medkit.training.result import (
    check_seal,
    describe_predictions,
    read_probabilities,
    write_table,
)
from medkit.workspace import Workspace, hash_file, hash_json, read_json, write_json

_IDENTITY = (
    *("run", "models", "version", "set_id", "label", "cohort"),
    *("device", "threads", "backend", "versions"),
)


@dataclass(frozen=True)
class Applied:
    """A run that was applied to other images.

    Attributes
    ----------
    folder : Path
        In ``evaluations/``.
    record : dict
        Content of ``evaluation.json``.
    metrics : dict or None
        Content of ``metrics.json``; None without labels.
    repeated : bool
        True if it had been done before, with the same arguments, and nothing was to do.
    """

    folder: Path
    record: Mapping[str, Any]
    metrics: Mapping[str, Any] | None
    repeated: bool


@dataclass(frozen=True)
class _Order:
    """A finished run, and the images it is applied to."""

    workspace: Workspace
    run: Mapping[str, Any]
    image_set: ImageSet
    table: pd.DataFrame
    environment: Environment

    @property
    def models(self) -> list[Path]:
        """The folders of the run's folds."""
        folder = self.workspace.run(self.run["name"])
        return [fold_folder(folder, fold) for fold in range(self.run["k"])]


def evaluate(
    workspace: Workspace,
    run_name: str,
    set_name: str,
    *,
    label: str,
    name: str | None = None,
    allow_overlap: bool = False,
    device: str = "auto",
    threads: int | None = None,
    command: Sequence[str] = (),
    progress: Progress = silent,
) -> Applied:
    """Measure a finished run on another set, whose labels stand in the catalog.

    Model, classes and the choice of the most probable class are those of the run: nothing is
    fitted. Images of a class that the run does not know are set aside and counted.

    Parameters
    ----------
    workspace : Workspace
        Locked by the caller.
    run_name, set_name, label : str
        Names of a run, of an ImageSet, and of a label of the catalog.
    name : str, optional
        Of the evaluation; made from the arguments by default.
    allow_overlap : bool
        Measure although the run was trained on some of these persons or pictures; recorded.
    device, threads
        As `choose_environment` takes them.
    command : sequence of str
        What the user typed, for the record.

    Raises
    ------
    UsageError
        If the run is not finished, or the name belongs to another evaluation.
    CohortError
        If the run was trained on persons or pictures of this set.
    ImageSetError
        If a byte of the set is not as it was written.
    TrainingError
        If a model is damaged, or the child process failed.
    """
    run = _open_run(workspace, run_name)
    image_set = ImageSet.open(workspace.set(set_name))
    table, dropped = _join_known(image_set, Catalog.open(workspace.catalog).labels(label), run)
    overlap = _count_overlap(workspace.run(run_name), table)
    if overlap["images"] and not allow_overlap:
        raise CohortError(
            f"the run {run_name!r} was trained on {overlap['persons']} persons of {set_name!r} "
            f"({overlap['images']} of {len(table)} images), so a number on them would flatter; "
            "evaluate it on other persons, or use --allow-overlap, which is recorded"
        )
    order = _Order(workspace, run, image_set, table, choose_environment(device, threads))
    record = {"label": label, "dropped": dropped, "overlap": overlap, "command": list(command)}
    return _apply(order, record, name, progress)


def predict(
    workspace: Workspace,
    run_name: str,
    set_name: str,
    *,
    name: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    command: Sequence[str] = (),
    progress: Progress = silent,
) -> Applied:
    """Predict every image of a set with a finished run; as `evaluate`, without labels.

    How many of the images are of persons or pictures that the run was trained on is recorded:
    of these it is surer than of others.
    """
    run = _open_run(workspace, run_name)
    image_set = ImageSet.open(workspace.set(set_name))
    table = image_set.table
    overlap = _count_overlap(workspace.run(run_name), table)
    order = _Order(workspace, run, image_set, table, choose_environment(device, threads))
    record = {"label": None, "dropped": {}, "overlap": overlap, "command": list(command)}
    return _apply(order, record, name, progress)


def _open_run(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return the record of a finished run whose models are what was sealed."""
    folder = workspace.run(name)
    if not (folder / "run.json").exists():
        known = ", ".join(workspace.names("runs")) or "none"
        raise UsageError(f"there is no run {name!r} in this workspace; runs here: {known}")
    run: dict[str, Any] = read_json(folder / "run.json")
    if run["status"] != "done":
        raise UsageError(
            f"the run {name!r} is not finished ({run['status']}); give its 'medkit train' again"
        )
    for fold in range(run["k"]):
        check_seal(fold_folder(folder, fold))
    return run


def _join_known(
    image_set: ImageSet, labels: pd.DataFrame, run: Mapping[str, Any]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the set's rows with a label that the run knows, and what was set aside."""
    cohort = join_labels(image_set.table, labels)
    known = cohort.table["label"].isin(run["classes"])
    if not known.any():
        raise CohortError(
            f"no image of {image_set.name!r} has a class that the run knows: "
            f"{', '.join(run['classes'])}"
        )
    dropped = dict(cohort.dropped)
    if not known.all():
        dropped["class unknown to the run"] = int((~known).sum())
    chosen = cohort.table.loc[known, ["image", "label"]]
    return image_set.table.merge(chosen, on="image", validate="1:1"), dropped


def _count_overlap(run: Path, images: pd.DataFrame) -> dict[str, int]:
    """Count the images of persons or pictures that the run was trained on, and their persons."""
    trained = pd.read_parquet(run / "cohort.parquet")
    pictures = trained[~trained["constant"].astype(bool)]
    known = _is_among(images, trained, "person", "split_group")
    # With them are those whom pictures that came later have joined with them.
    seen = known | images["split_group"].isin(images.loc[known, "split_group"].dropna())
    seen |= _is_among(images, pictures, "source_sha256", "pixels_sha256")
    return {"images": int(seen.sum()), "persons": int(images.loc[seen, "split_group"].nunique())}


def _is_among(images: pd.DataFrame, others: pd.DataFrame, *columns: str) -> pd.Series[bool]:
    """Say which images have a value of one of these columns in common with any of the others."""
    common = {column: images[column].isin(others[column].dropna()) for column in columns}
    return pd.DataFrame(common, dtype=bool).any(axis=1)


def _apply(
    order: _Order, asked: Mapping[str, Any], name: str | None, progress: Progress
) -> Applied:
    record = {**asked, **_describe(order)}
    digest = hash_identity(record, _IDENTITY)
    record["name"] = name or f"{order.run['name'][:50]}-{order.image_set.name[:30]}-{digest}"
    folder = order.workspace.evaluation(record["name"])
    earlier = find_earlier(folder / "evaluation.json", record, _IDENTITY)
    if earlier is not None and earlier["status"] == "done":
        return Applied(folder, earlier, _read_metrics(folder), repeated=True)
    began = time.monotonic()
    check_set(order.image_set, progress)
    write_json(folder / "evaluation.json", record)
    _run_models(order, record, folder, progress)
    _conclude(order, folder)
    record |= {"status": "done", "seconds": round(time.monotonic() - began, 3)}
    write_json(folder / "evaluation.json", record)
    return Applied(folder, record, _read_metrics(folder), repeated=False)


def _describe(order: _Order) -> dict[str, Any]:
    run, table, entry = order.run, order.table, find_trainer(order.run["plugin"])
    return {
        "status": "running",
        "run": run["name"],
        "models": hash_json([hash_file(model / "done.json") for model in order.models]),
        "plugin": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "trained_with": run["version"],
        **{name: run[name] for name in ("params", "classes", "positive", "seed")},
        "set": order.image_set.name,
        "set_id": order.image_set.id,
        "cohort": hash_json(table.filter(["image", "label"]).to_numpy().tolist()),
        "images": len(table),
        **order.environment.describe(),
        "started": tell_time(),
    }


def _run_models(order: _Order, record: Mapping[str, Any], folder: Path, progress: Progress) -> None:
    """Have a child process predict with the model of each fold."""
    models = order.models
    job = Job.plan("predict", record, order.image_set, order.workspace, order.environment, models)
    job.write(folder, order.table["image"].to_numpy(np.int64))
    errors: list[str] = []

    def handle(event: Event) -> None:
        if event["event"] == "failed":
            errors.append(event["error"])
        elif event["event"] == "progress":
            progress(event["done"], event["total"], event["unit"])
        elif event["event"] == "finished":
            progress(event["fold"] + 1, len(models), "models")

    steps = [str(number) for number in range(len(models))]
    ended = follow_child(folder, steps, order.environment.variables(), handle)
    if errors or ended:
        raise TrainingError(f"{(*errors, ended)[0]}; more is in {folder / 'log.txt'}")


def _conclude(order: _Order, folder: Path) -> None:
    """Average the models, and measure them where there are labels."""
    run, table, classes = order.run, order.table, order.run["classes"]
    every = [
        read_probabilities(folder / f"{number}.npy", len(table), len(classes))
        for number in range(len(order.models))
    ]
    mean = np.mean(every, axis=0)
    write_table(folder / "predictions.parquet", describe_predictions(table, classes, mean))
    if "label" in table:
        metrics = summarise(
            np.searchsorted(classes, table["label"].to_numpy(str)),
            mean,
            table["split_group"].to_numpy(str),
            np.zeros(len(table), dtype=np.int64),
            classes,
            seed=run["seed"],
            positive=run["positive"],
        )
        write_json(folder / "metrics.json", metrics)


def _read_metrics(folder: Path) -> dict[str, Any] | None:
    path = folder / "metrics.json"
    metrics: dict[str, Any] | None = read_json(path) if path.exists() else None
    return metrics
