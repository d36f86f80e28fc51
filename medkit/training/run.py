"""A run: one trainer, cross-validated by person on one set; the host's side of it.

    runs/NAME/run.json              what was asked, with what, and how far it is
    runs/NAME/cohort.parquet        whose images were used, for `evaluate` to know them again
    runs/NAME/job.json, images.npy, fold-K/parts/       what the child is asked (`job`)
    runs/NAME/fold-K/               what it leaves (`result`)
    runs/NAME/log.txt               what it prints
    runs/NAME/predictions.parquet, metrics.json         out-of-fold

The same arguments go on with a run where it was; only times differ from an unbroken one.
"""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.cohort.folds import cut_validation
from medkit.cohort.leaks import check_leaks
from medkit.cohort.preparation import Prepared, prepare_folds
from medkit.engine import Progress, silent
from medkit.errors import MedkitError, TrainingError, UsageError
from medkit.images.soundness import check_set
from medkit.plugins import TrainerEntry, find_trainer, load_trainer
from medkit.statistics.intervals import choose_positive, summarise
from medkit.training.child import follow_child
from medkit.training.course import Course, wait
from medkit.training.environment import Environment, choose_environment
from medkit.training.head import is_linear, list_notes, solve_folds
from medkit.training.job import Job, derive_seed, fold_folder, write_parts
from medkit.training.params import parse_options
from medkit.training.record import find_earlier, hash_identity, tell_time
from medkit.training.result import (
    describe_predictions,
    is_sealed,
    read_looks,
    read_probabilities,
    summarise_looks,
    write_table,
)
from medkit.workspace import Workspace, dump_json, read_json, write_json

if TYPE_CHECKING:
    from medkit.cohort.folds import Folds

# Columns of the set by which `evaluate` knows an image or a person again.
_TRACES = ["image", "person", "split_group", "source_sha256", "pixels_sha256", "constant"]

# What must be equal for a run to be gone on with.
_IDENTITY = (
    *("plugin", "distribution", "version", "params", "set", "set_id", "label", "classes"),
    *("positive", "folds_key", "k", "seed", "validation_share", "device", "threads", "backend"),
    "versions",
)


@dataclass(frozen=True)
class Finished:
    """A run that is done.

    Attributes
    ----------
    folder : Path
        Of the run.
    record : dict
        Content of ``run.json``.
    metrics : dict
        Content of ``metrics.json``.
    repeated : bool
        True if it had been done before, with the same arguments, and nothing was to do.
    """

    folder: Path
    record: Mapping[str, Any]
    metrics: Mapping[str, Any]
    repeated: bool

    @property
    def name(self) -> str:
        """The run's name: that of its folder."""
        return self.folder.name


def train(
    workspace: Workspace,
    set_name: str,
    plugin: str,
    *,
    label: str,
    options: Mapping[str, str] | None = None,
    folds: int = 5,
    seed: int = 0,
    min_persons: int | None = None,
    classes: Sequence[str] | None = None,
    positive: str | None = None,
    validation_share: float = 0.15,
    name: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    allow_leaks: bool = False,
    command: Sequence[str] = (),
    progress: Progress = silent,
) -> Finished:
    """Cross-validate a trainer on a set, or go on where this was stopped.

    Parameters
    ----------
    workspace : Workspace
        Locked by the caller.
    set_name, plugin, label : str
        Names of an ImageSet, of an installed trainer, and of a label of the catalog.
    options : mapping of str to str
        The trainer's, as text.
    folds, seed : int
        How many, and what everything random follows from.
    min_persons, classes
        Passed to `medkit.cohort`: which classes take part.
    positive : str, optional
        Of two classes the one that sensitivity is about; by default the second in sorted order.
    validation_share : float
        Of the persons of each training part, to choose by; the host's linear head needs none.
    name : str, optional
        Of the run; made from the arguments by default.
    device, threads
        As `choose_environment` takes them.
    allow_leaks : bool
        Train although the same pixels stand on both sides of a fold; recorded.
    command : sequence of str
        What the user typed, for the record.

    Raises
    ------
    UsageError
        If an argument does not fit, or the name belongs to a run with other arguments.
    PluginError
        If the plugin is missing or broken.
    CohortError
        If folds cannot be made, or leaks stand.
    ImageSetError
        If a byte of the set is not as it was written; all are read before anything is fitted.
    TrainingError
        If a fold failed; the others are kept.
    """
    entry, trainer = find_trainer(plugin), load_trainer(plugin)
    _check_task(trainer, plugin)
    params = parse_options(trainer.Params, options or {})
    environment = choose_environment(device, threads)
    prepared = prepare_folds(workspace, set_name, label, folds, seed, min_persons, classes)
    check_leaks(prepared.leaks, allow_leaks)
    choose_positive(prepared.folds.classes, positive)
    share = 0.0 if is_linear(trainer) else validation_share
    record = {
        **_describe_task(prepared, share, positive),
        **_describe_trainer(entry, params, environment),
        "command": list(command),
    }
    record["name"] = name or _make_name(record)
    folder = workspace.run(record["name"])
    course = Course(folder, _resume(folder, record), progress)
    repeated = course.record["status"] == "done"
    if not repeated:
        check_set(prepared.image_set, progress)
        _follow(course, trainer, workspace, prepared, environment)
    return Finished(folder, course.record, read_json(folder / "metrics.json"), repeated)


def _follow(
    course: Course,
    trainer: Any,
    workspace: Workspace,
    prepared: Prepared,
    environment: Environment,
) -> None:
    """Bring a run to its end: inputs, folds, out-of-fold predictions and metrics."""
    began, spent = time.monotonic(), course.record["seconds"]
    try:
        _write_inputs(course, trainer, workspace, prepared, environment)
        if is_linear(trainer):
            _compute_features(course, environment)
            solve_folds(course, environment.threads)
        else:
            _fit_folds(course, environment)
        _conclude(course, prepared)
        if is_linear(trainer):
            course.record["warnings"] += list_notes(course)
    except MedkitError:
        course.record["status"] = "failed"
        raise
    finally:
        course.record["seconds"] = round(spent + time.monotonic() - began, 3)
        course.write()


def _describe_task(prepared: Prepared, share: float, positive: str | None) -> dict[str, Any]:
    image_set, folds = prepared.image_set, prepared.folds
    return {
        "set": image_set.name,
        "set_id": image_set.id,
        "recipe": image_set.manifest["recipe"],
        "catalog_snapshot": image_set.manifest["catalog_snapshot"],
        "label": folds.label,
        "classes": list(folds.classes),
        "positive": positive,
        "folds_key": folds.key,
        "k": folds.k,
        "seed": folds.seed,
        "validation_share": share,
        "dropped": prepared.cohort.dropped,
        "leaks": prepared.leaks.to_json(),
        "warnings": [
            f"class {name} was set aside: it has {persons} persons"
            for name, persons in prepared.cohort.small_classes.items()
        ],
        "folds": [wait(fold) for fold in range(folds.k)],
    }


def _describe_trainer(entry: TrainerEntry, params: Any, environment: Environment) -> dict[str, Any]:
    return {
        "plugin": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "params": json.loads(dump_json(asdict(params))),  # as it reads back: tuples are lists
        **environment.describe(),
        "platform": platform.platform(),
        "weights": None,
        "features": None,
        "status": "running",
        "started": tell_time(),
        "seconds": 0.0,
    }


def _check_task(trainer: Any, plugin: str) -> None:
    if "multiclass" not in trainer.tasks:
        raise UsageError(
            f"the trainer {plugin!r} does {', '.join(sorted(trainer.tasks))}; a label with one "
            "value an image needs one that does 'multiclass'"
        )


def _make_name(record: Mapping[str, Any]) -> str:
    """Return a name that says what the run is, and differs where its arguments do."""
    text = "-".join(str(record[key]) for key in ("set", "label", "plugin"))
    digest = hash_identity(record, _IDENTITY)
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', text)[:90]}-{digest}"


def _resume(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return the record to go on with: that of an earlier start with these arguments, if any."""
    earlier = find_earlier(folder / "run.json", record, _IDENTITY)
    if earlier is None:
        return record
    if earlier["status"] == "done":
        return earlier
    folds = [
        {**fold, "status": "done", "error": None}
        if is_sealed(fold_folder(folder, fold["fold"]))
        else wait(fold["fold"])
        for fold in earlier["folds"]
    ]
    return {**earlier, "status": "running", "folds": folds}


def _write_inputs(
    course: Course,
    trainer: Any,
    workspace: Workspace,
    prepared: Prepared,
    environment: Environment,
) -> None:
    course.write()
    task = "features" if is_linear(trainer) else "fit"
    job = Job.plan(task, course.record, prepared.image_set, workspace, environment)
    used = np.sort(prepared.folds.table["image"].to_numpy(np.int64))
    job.write(course.folder, used)
    table = prepared.image_set.table
    write_table(course.folder / "cohort.parquet", table.loc[table["image"].isin(used), _TRACES])
    _write_parts(course, prepared.folds)


def _write_parts(course: Course, folds: Folds) -> None:
    """Write what each fold that is left trains on, chooses by and is tested on."""
    table = folds.table.sort_values("image")
    images, groups = table["image"].to_numpy(np.int64), table["split_group"].to_numpy(str)
    labels = np.searchsorted(folds.classes, table["label"].to_numpy(str)).astype(np.int64)
    numbers = table["fold"].to_numpy()
    for fold in course.list_left():
        rest = np.flatnonzero(numbers != fold)
        held = np.zeros(len(rest), dtype=bool)
        if share := course.record["validation_share"]:
            seed = derive_seed(folds.seed, "validation", fold)
            held = cut_validation(groups[rest], labels[rest], share, seed)
        parts = {
            part: {"images": images[rows], "labels": labels[rows], "persons": groups[rows]}
            for part, rows in (("train", rest[~held]), ("validation", rest[held]))
        }
        # Of the test part no label leaves the host.
        parts["test"] = {"images": images[numbers == fold]}
        write_parts(fold_folder(course.folder, fold), parts)


def _compute_features(course: Course, environment: Environment) -> None:
    if course.list_left() and (reason := _run_child(course, [], environment)):
        raise TrainingError(f"{reason}; more is in {course.log}")


def _fit_folds(course: Course, environment: Environment) -> None:
    """Fit the folds that are left in child processes: another one wherever one died."""
    while left := course.list_left():
        reason = _run_child(course, left, environment) or "the child process left its work"
        if course.current is not None:
            course.fail(course.current, reason)
        elif left == course.list_left():
            # It did not come to its first fold, and nor would the next one.
            raise TrainingError(f"{reason}; more is in {course.log}")


def _run_child(course: Course, folds: Sequence[int], environment: Environment) -> str:
    """Run one child and return why it ended early; empty if it did not."""
    steps = [str(fold) for fold in folds]
    ended = follow_child(course.folder, steps, environment.variables(), course.handle)
    return course.error or ended


def _conclude(course: Course, prepared: Prepared) -> None:
    """Gather the folds into predictions and metrics.

    Raises
    ------
    TrainingError
        If one failed.
    """
    failed = [fold for fold in course.record["folds"] if fold["status"] == "failed"]
    if failed:
        raise TrainingError(
            f"{len(failed)} of {len(course.record['folds'])} folds of the run "
            f"{course.folder.name!r} failed; fold {failed[0]['fold']}: {failed[0]['error']}. "
            f"The others are kept, and the same command tries again; more is in {course.log}"
        )
    classes = course.record["classes"]
    table = prepared.folds.table.sort_values("image").merge(
        prepared.image_set.table[["image", "file", "path", "frame"]], on="image"
    )
    probabilities = _gather(course, table["fold"].to_numpy())
    write_table(
        course.folder / "predictions.parquet",
        describe_predictions(table, classes, probabilities),
    )
    metrics = summarise(
        np.searchsorted(classes, table["label"].to_numpy(str)),
        probabilities,
        table["split_group"].to_numpy(str),
        table["fold"].to_numpy(),
        classes,
        seed=course.record["seed"],
        positive=course.record["positive"],
    )
    write_json(course.folder / "metrics.json", {**metrics, "looks": _count_looks(course)})
    course.record["status"] = "done"


def _gather(course: Course, folds: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the probabilities of all images, each from the fold it was tested in."""
    classes = len(course.record["classes"])
    gathered = np.empty((len(folds), classes))
    for fold in range(course.record["k"]):
        rows = np.flatnonzero(folds == fold)
        path = fold_folder(course.folder, fold) / "predictions.npy"
        gathered[rows] = read_probabilities(path, len(rows), classes)
    return gathered


def _count_looks(course: Course) -> list[dict[str, Any]]:
    """Return for each fold how often its validation part was looked at, and what was seen."""
    return [
        {"fold": fold, **summarise_looks(read_looks(fold_folder(course.folder, fold)))}
        for fold in range(course.record["k"])
    ]
