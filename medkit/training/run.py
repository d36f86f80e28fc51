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

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.cohort.leaks import check_leaks
from medkit.cohort.preparation import MADE, Prepared, prepare_folds
from medkit.cohort.questions import Question
from medkit.cohort.split import Split
from medkit.engine import Progress, silent
from medkit.errors import MedkitError, TrainingError, UsageError
from medkit.images.soundness import check_set
from medkit.plugins import find_plugin, load_trainer
from medkit.statistics.aggregation import check_rule
from medkit.statistics.outcomes import choose_positive
from medkit.statistics.plugged import load_metrics
from medkit.statistics.truth import asks_several
from medkit.training.child import Event
from medkit.training.course import Course, Watcher, wait
from medkit.training.decision import calibrate_run
from medkit.training.domain import write_domain
from medkit.training.environment import Environment, describe_cards
from medkit.training.head import is_linear, list_notes, solve_folds
from medkit.training.job import Job, derive_seed, fold_folder
from medkit.training.measurement import COLUMNS, measure, read_outcomes
from medkit.training.params import parse_options, restore_params
from medkit.training.partition import Labelled
from medkit.training.record import (
    describe_task,
    describe_trainer,
    find_earlier,
    hash_identity,
    read_run,
)
from medkit.training.refits import check_repeats, refit, tell_cost
from medkit.training.result import (
    describe_optimism,
    describe_predictions,
    is_sealed,
    read_looks,
    read_probabilities,
    summarise_looks,
    write_table,
)
from medkit.training.scheduling import Place, compute_features, fit_folds, open_place
from medkit.training.sides import check_mirroring
from medkit.training.tracking import check_logs, track
from medkit.workspace import Workspace, read_json, write_json

if TYPE_CHECKING:
    from medkit.cohort.folds import Folds

# Columns of the set by which `evaluate` knows an image or a person again.
_TRACES = ["image", "person", "split_group", "source_sha256", "pixels_sha256", "constant"]

# Arguments that stand in a record under their own names.
_ASKED = (
    *("label", "seed", "classes", "positive", "validation_share", "aggregate", "refits"),
    *("separator", "device", "threads", "backend", "metric_plugins"),
)

# Trainers of ours that predict several labels an image.
_MULTILABEL = "softmax, cnn or inception"

# What must be equal for a run to be gone on with.
_IDENTITY = (
    *("plugin", "distribution", "version", "params", "set", "set_id", "label", "classes"),
    *("positive", "folds_key", "k", "seed", "validation_share", "aggregate", "refits"),
    *("device", "threads", "backend", "versions"),
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
    params: Any = None,
    folds: int = 5,
    seed: int = 0,
    min_persons: int | None = None,
    classes: Sequence[str] | None = None,
    split: Split = MADE,
    positive: str | None = None,
    separator: str | None = None,
    validation_share: float = 0.15,
    aggregate: str = "mean",
    metric_plugins: Sequence[str] = (),
    refits: int = 0,
    name: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    backend: str | None = None,
    allow_leaks: bool = False,
    engine: str = "local",
    child_per_fold: bool = False,
    logs: Sequence[str] = (),
    command: Sequence[str] = (),
    progress: Progress = silent,
    watch: Watcher | None = None,
) -> Finished:
    """Cross-validate a trainer on a set, or go on where this was stopped.

    Parameters
    ----------
    workspace : Workspace
        Locked by the caller.
    set_name, plugin, label : str
        Names of an ImageSet, of an installed trainer, and of a label of the catalog. Several
        labels, with commas between, are predicted together, each by itself.
    options : mapping of str to str
        The trainer's, as text.
    params : object, optional
        The same as an instance of the trainer's ``Params``, in place of text.
    folds, seed : int
        How many, and what everything random follows from.
    min_persons, classes
        Passed to `medkit.cohort`: which classes take part.
    split : Split
        What is held out, what else is even, and folds that were given.
    positive : str, optional
        Of two classes the one that sensitivity is about; by default the second in sorted order.
    separator : str, optional
        Of a label whose values hold several names: see `medkit.cohort.questions.Question`.
    validation_share : float
        Of the persons of each training part, to choose by; the host's linear head needs none.
    aggregate : str
        How predictions of several images become one of a series, a study or a person: one of
        `medkit.statistics.aggregation.RULES`.
    metric_plugins : sequence of str
        Plugins whose metrics are measured beside medkit's own.
    refits : int
        Divisions into folds whose pairs are left out, for the procedure's own interval
        (`medkit.training.refits`); without any it is estimated from the number of folds.
    name : str, optional
        Of the run; made from the arguments by default.
    device, threads, backend
        As `choose_environment` takes them.
    allow_leaks : bool
        Train although the same pixels stand on both sides of a fold; recorded.
    engine : str
        Where folds are fitted, as `medkit.engine.open_cluster` takes it; the result is the same.
    child_per_fold : bool
        Fit every fold in a process of its own, also where one after the other is fitted.
    logs : sequence of str
        Of ``"tensorboard"`` and ``"mlflow"``: what losses and metrics are written to, besides.
    command : sequence of str
        What the user typed, for the record.
    progress : callable
        Is told of stages, and of folds that are done.
    watch : callable, optional
        Is told of every event: see `medkit.training.monitoring`.

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
    entry, kind = find_plugin("trainer", plugin), load_trainer(plugin)
    question = Question(label, separator)
    question.check()
    params = parse_options(kind.Params, options or {}) if params is None else params
    trainer = kind(params)
    _check_task(trainer, plugin, question, positive)
    check_logs(logs)
    with open_place(engine, child_per_fold) as place:
        environment = place.choose(device, threads, backend, plugin)
        chosen = (min_persons, classes, split)
        about = (set_name, label, folds, seed)
        prepared = prepare_folds(workspace, *about, *chosen, progress, separator)
        check_leaks(prepared.leaks, allow_leaks)
        choose_positive(prepared.folds.classes, positive)
        check_rule(aggregate, prepared.folds.classes, question.several)
        load_metrics(metric_plugins)  # what is missing is missed now, and not after the last fold
        check_repeats(refits, prepared.folds.k)
        share = 0.0 if is_linear(trainer) else validation_share
        record = {
            **describe_task(prepared, share, positive),
            "separator": separator,
            "split": split.describe(),
            **describe_trainer(entry, params, environment),
            "aggregate": aggregate,
            "refits": refits,
            "command": list(command),
            "metric_plugins": list(metric_plugins),
        }
        record["notes"] = [environment.note] if environment.note else []
        record["warnings"] += check_mirroring(params, prepared.image_set, workspace)
        record["name"] = name or _make_name(record)
        folder = workspace.run(record["name"])
        course = Course(folder, _resume(folder, record), progress, [watch] if watch else [])
        repeated = course.record["status"] == "done"
        if not repeated:
            check_set(prepared.image_set, progress)
            _write_inputs(course, trainer, workspace, prepared, environment)
            with track(logs, course, workspace.root) as conclude:
                _follow(course, trainer, prepared, place)
                conclude(read_json(folder / "metrics.json"))
            course.write()
    return Finished(folder, course.record, read_json(folder / "metrics.json"), repeated)


def resume(workspace: Workspace, name: str, **how: Any) -> Finished:
    """Go on with a run from its own record: what was asked stands there.

    Parameters
    ----------
    workspace : Workspace
        Locked by the caller.
    name : str
        Of the run.
    **how
        ``engine``, ``child_per_fold``, ``logs``, ``progress`` and ``watch``, as of `train`.

    Raises
    ------
    UsageError
        If there is no such run, or it was made with versions that are not installed now.
    """
    record = read_run(workspace, name)
    folder = workspace.run(name)
    if record["status"] == "done":
        return Finished(folder, record, read_json(folder / "metrics.json"), repeated=True)
    return train(
        workspace,
        record["set"],
        record["plugin"],
        params=restore_params(load_trainer(record["plugin"]).Params, record["params"]),
        folds=record["k"],
        split=Split(**record.get("split", {})),
        allow_leaks=not record["leaks"]["ok"],
        name=name,
        **{key: record[key] for key in _ASKED if key in record},
        **how,
    )


def _follow(course: Course, trainer: Any, prepared: Prepared, place: Place) -> None:
    """Bring a run to its end: folds, out-of-fold predictions and metrics."""
    began, spent = time.monotonic(), course.record["seconds"]
    left = course.list_left()
    course.tell(_describe_begin(course, place.environment))
    try:
        if not is_linear(trainer):
            fit_folds(course, place)
        elif left:
            compute_features(course, place, len(prepared.folds.table))
            solve_folds(course, course.record["threads"], place.engine)
        _conclude(course, trainer, prepared, place)
        if is_linear(trainer):
            # How a head was chosen makes no number wrong: all are of images that it never saw.
            course.record["notes"] = [*course.record.get("notes", []), *list_notes(course)]
    except MedkitError:
        course.record["status"] = "failed"
        raise
    finally:
        course.record["seconds"] = round(spent + time.monotonic() - began, 3)
        course.write()


def _describe_begin(course: Course, environment: Environment) -> Event:
    processors = f"the processors, {environment.threads} threads"
    return {
        "event": "begun",
        "folds": course.record["k"],
        "settled": course.record["k"] - len(course.list_left()),
        "where": describe_cards(environment.gpus) or processors,
        "note": "; ".join(filter(None, (environment.note, _tell_refits(course)))),
    }


def _tell_refits(course: Course) -> str:
    return tell_cost(course.record["k"], course.record["refits"])


def _check_task(trainer: Any, plugin: str, question: Question, positive: str | None) -> None:
    if question.several and positive is not None:
        raise UsageError("--positive is of two classes; of several labels each has its own answer")
    if question.task in trainer.tasks:
        return
    needed = "several labels an image need" if question.several else "a label of one value needs"
    raise UsageError(
        f"the trainer {plugin!r} does {', '.join(sorted(trainer.tasks))} with these options; "
        f"{needed} one that does {question.task!r}"
        + (f", such as {_MULTILABEL}; or train one label at a time" if question.several else "")
    )


def _list_identity(record: Mapping[str, Any]) -> list[str]:
    """Return what must be equal; runs without metrics of plugins have the names they always had."""
    return [*_IDENTITY, *(("metric_plugins",) if record["metric_plugins"] else ())]


def _make_name(record: Mapping[str, Any]) -> str:
    """Return a name that says what the run is, and differs where its arguments do."""
    text = "-".join(str(record[key]) for key in ("set", "label", "plugin"))
    digest = hash_identity(record, _list_identity(record))
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', text)[:90]}-{digest}"


def _resume(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return the record to go on with: that of an earlier start with these arguments, if any."""
    earlier = find_earlier(folder / "run.json", record, _list_identity(record))
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
    return {**earlier, "status": "running", "cards": record["cards"], "folds": folds}


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
    labelled = Labelled.read(folds)
    for fold in course.list_left():
        seed = derive_seed(folds.seed, "validation", fold)
        share = course.record["validation_share"]
        labelled.write(fold_folder(course.folder, fold), labelled.folds == fold, share, seed)


def _conclude(course: Course, trainer: Any, prepared: Prepared, place: Place) -> None:
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
        prepared.image_set.table[["image", "file", "path", "frame", *COLUMNS]], on="image"
    )
    folds, positive = table["fold"].to_numpy(), course.record["positive"]
    probabilities = _gather(course, folds)
    outcomes = read_outcomes(table, probabilities, course.record)
    write_table(
        course.folder / "predictions.parquet",
        describe_predictions(table, classes, probabilities, outcomes.decide()),
    )
    # What is locked now, for images that are still to come.
    calibrate_run(course.folder, outcomes.labels, probabilities, folds, classes, positive)
    numbers = table["image"].to_numpy(np.int64)
    write_domain(course.folder, Workspace(course.folder.parents[1]), prepared.image_set, numbers)
    refits = refit(course, trainer, prepared, place, probabilities)
    metrics = measure(table, probabilities, course.record, refits=refits)
    looks = _count_looks(course)
    optimism = describe_optimism(looks, metrics["folds"])
    write_json(course.folder / "metrics.json", {**metrics, "looks": looks, "optimism": optimism})
    course.record["status"] = "done"


def _gather(course: Course, folds: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the probabilities of all images, each from the fold it was tested in."""
    classes, several = len(course.record["classes"]), asks_several(course.record)
    gathered = np.empty((len(folds), classes))
    for fold in range(course.record["k"]):
        rows = np.flatnonzero(folds == fold)
        path = fold_folder(course.folder, fold) / "predictions.npy"
        gathered[rows] = read_probabilities(path, len(rows), classes, several)
    return gathered


def _count_looks(course: Course) -> list[dict[str, Any]]:
    """Return for each fold how often its validation part was looked at, and what was seen."""
    return [
        {"fold": fold, **summarise_looks(read_looks(fold_folder(course.folder, fold)))}
        for fold in range(course.record["k"])
    ]
