"""A finished run's models on images: the child predicts, the host averages, calibrates, decides.

evaluations/NAME/evaluation.json        what was asked, with what
evaluations/NAME/intake/                new images, as a set (`intake`)
evaluations/NAME/job.json, images.npy   what the child is asked
evaluations/NAME/K.npy                  what the model of fold K says
evaluations/NAME/predictions.parquet    the mean over the folds' models, calibrated and not
evaluations/NAME/refused.parquet        what was not predicted, and why
evaluations/NAME/metrics.json           where there are labels
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medkit.catalog.store import Catalog
from medkit.engine import Progress
from medkit.errors import CohortError, TrainingError, UsageError
from medkit.images.imageset import ImageSet
from medkit.images.soundness import check_set
from medkit.plugins import find_plugin
from medkit.statistics.calibration import measure_calibration
from medkit.statistics.truth import MULTICLASS, asks_several, read_truth
from medkit.training.child import Event, follow_child
from medkit.training.decision import Decision, Floats
from medkit.training.domain import RANGE, Verdict, find_domain, judge
from medkit.training.environment import Environment
from medkit.training.intake import REFUSED
from medkit.training.job import Job, fold_folder
from medkit.training.measurement import measure
from medkit.training.record import find_earlier, hash_identity, tell_time
from medkit.training.result import (
    check_seal,
    describe_predictions,
    read_probabilities,
    write_table,
)
from medkit.workspace import Workspace, hash_file, hash_json, read_json, write_json

# What must be equal for it to be the same again. Of new images it is where they lie: what lies
# there is seen when it is read.
_IDENTITY = (
    *("run", "models", "version", "set_id", "paths", "label", "cohort", "decision"),
    *("outside_domain", "device", "threads", "backend", "versions"),
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

    @property
    def predictions(self) -> pd.DataFrame:
        """A row an image that was predicted."""
        return pd.read_parquet(self.folder / "predictions.parquet")

    @property
    def refused(self) -> pd.DataFrame:
        """What was not predicted: path, frame, code, detail."""
        return pd.read_parquet(self.folder / "refused.parquet")


class Material(NamedTuple):
    """Images to predict.

    Attributes
    ----------
    image_set : ImageSet
        That has their pixels.
    table : DataFrame
        Those of its rows that are to be predicted, with ``label`` where it is known; ``path`` is
        where the file lies.
    catalog : Catalog or None
        That they are from.
    refused : DataFrame
        What cannot be read: `intake.REFUSED`.
    set_aside : dict of str to int
        Images, or files without any, that nobody wants predicted, by reason.
    overlap : dict of str to int
        Images and persons that the run was trained on.
    notes : list of str
        What should be known besides.
    """

    image_set: ImageSet
    table: pd.DataFrame
    catalog: Catalog | None
    refused: pd.DataFrame
    set_aside: Mapping[str, int]
    overlap: Mapping[str, int]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Order:
    """A finished run, and how it is to be applied.

    Attributes
    ----------
    run : dict
        Content of ``run.json``.
    outside : bool
        Predict also what lies outside the training domain.
    facts : dict
        What else the record says; ``on``, ``set``, ``set_id``, ``paths``, ``label`` and
        ``cohort`` say what it is applied to.
    """

    workspace: Workspace
    run: Mapping[str, Any]
    environment: Environment
    decision: Decision
    outside: bool
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run's."""
        return self.workspace.run(self.run["name"])

    @property
    def models(self) -> list[Path]:
        """The folders of the run's folds."""
        return [fold_folder(self.folder, fold) for fold in range(self.run["k"])]

    def describe(self) -> dict[str, Any]:
        """Return the record of what is asked."""
        run, entry = self.run, find_plugin("trainer", self.run["plugin"])
        return {
            "status": "running",
            "run": run["name"],
            "models": hash_json([hash_file(model / "done.json") for model in self.models]),
            "plugin": entry.name,
            "distribution": entry.distribution,
            "version": entry.version,
            "trained_with": run["version"],
            **{name: run[name] for name in ("params", "classes", "positive", "seed")},
            "task": run.get("task", MULTICLASS),
            "decision": self.decision.describe(),
            "outside_domain": self.outside,
            **self.environment.describe(),
            "started": tell_time(),
            **self.facts,
        }


def open_run(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return the record of a finished run whose models are what was sealed.

    Raises
    ------
    UsageError
        If there is none, or it is not finished.
    TrainingError
        If a model is damaged.
    """
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


def apply(
    order: Order,
    name: str | None,
    gather: Callable[[Path], Material],
    progress: Progress,
) -> Applied:
    """Predict what there is to predict, or find that it was done before.

    Parameters
    ----------
    order : Order
        What is asked.
    name : str, optional
        Of the evaluation; made from what is asked by default.
    gather : callable
        Given the evaluation's folder, returns the images.
    progress : callable
        Told of files checked, and of what the child says.
    """
    record = order.describe()
    digest = hash_identity(record, _IDENTITY)
    record["name"] = name or f"{order.run['name'][:50]}-{record['on'][:30]}-{digest}"
    folder = order.workspace.evaluation(record["name"])
    earlier = find_earlier(folder / "evaluation.json", record, _IDENTITY)
    if earlier is None and record["paths"]:  # its name is taken before an intake is put there
        write_json(folder / "evaluation.json", record)
    began = time.monotonic()
    material = gather(folder)
    table, verdict = _keep_known(order, material)
    record |= _count(material, table, verdict)
    if earlier and earlier["status"] == "done" and earlier["content"] == record["content"]:
        return Applied(folder, earlier, _read_metrics(folder), repeated=True)
    check_set(material.image_set, progress)
    write_json(folder / "evaluation.json", record)
    probabilities = _run_models(order, record, material.image_set, table, folder, progress)
    _write_results(order, table, probabilities, folder)
    write_table(folder / "refused.parquet", _list_refused(material, verdict))
    record |= {"status": "done", "seconds": round(time.monotonic() - began, 3)}
    write_json(folder / "evaluation.json", record)
    return Applied(folder, record, _read_metrics(folder), repeated=False)


def _keep_known(order: Order, material: Material) -> tuple[pd.DataFrame, Verdict]:
    """Return what is to be predicted, with warnings, and what the training domain says of all.

    Raises
    ------
    CohortError
        If there are labels, and nothing to compare them with.
    """
    domain = find_domain(order.folder, order.run, order.workspace)
    rows = np.flatnonzero(material.image_set.table["image"].isin(material.table["image"]))
    verdict = judge(domain, material.image_set.images().take(rows), material.catalog)
    table = material.table.assign(warnings=verdict.warnings)
    if order.outside:
        verdict = verdict._replace(refused=verdict.refused[verdict.refused["code"] == RANGE])
    kept = np.ones(len(table), dtype=bool)
    kept[verdict.refused["position"].to_numpy(int)] = False
    table = table[kept]
    if "label" in table and table.empty:
        code, detail = verdict.refused[["code", "detail"]].iloc[0]
        raise CohortError(
            f"every image lies outside what the run was trained on, the first by its {code}: "
            f"{detail}; --outside-domain predicts them in spite of that, which is recorded"
        )
    return table.reset_index(drop=True), verdict


def _list_refused(material: Material, verdict: Verdict) -> pd.DataFrame:
    where = material.table.iloc[verdict.refused["position"].to_numpy(int)].reset_index(drop=True)
    outside = pd.DataFrame(
        {
            "path": where["path"],
            "frame": where["frame"].astype("Int64"),
            "code": "outside-domain",
            "detail": list(verdict.refused["code"] + ": " + verdict.refused["detail"]),
        }
    )
    both = [part for part in (material.refused, outside) if len(part)] or [material.refused]
    return pd.concat(both, ignore_index=True)[REFUSED]


def _count(material: Material, table: pd.DataFrame, verdict: Verdict) -> dict[str, Any]:
    """Return what becomes of everything that was found; the parts add up to it."""
    refused = _list_refused(material, verdict)
    shown = table.filter(["image", "label", "warnings"]).to_numpy().tolist()
    warned = Counter(
        one.partition(":")[0] for text in table["warnings"] if text for one in text.split("; ")
    )
    return {
        "content": hash_json(
            [material.image_set.id, shown, refused.astype(object).fillna("").to_numpy().tolist()]
        ),
        "images": len(table),
        "counts": {
            "found": len(table) + len(refused) + sum(material.set_aside.values()),
            "predicted": len(table),
            "refused": dict(Counter(refused["code"])),
            "set_aside": dict(material.set_aside),
        },
        "warnings": dict(warned),
        "overlap": dict(material.overlap),
        "notes": [*verdict.notes, *material.notes],
    }


def _run_models(
    order: Order,
    record: Mapping[str, Any],
    image_set: ImageSet,
    table: pd.DataFrame,
    folder: Path,
    progress: Progress,
) -> Floats:
    """Have a child process predict with the model of each fold; return the mean, shape (n, c)."""
    models, classes, several = order.models, order.run["classes"], asks_several(order.run)
    if not len(table):
        return np.empty((0, len(classes)))
    job = Job.plan("predict", record, image_set, order.workspace, order.environment, models)
    job.write(folder, table["image"].to_numpy(np.int64))
    errors: list[str] = []

    def handle(event: Event) -> None:
        if event["event"] == "failed":
            errors.append(event["error"])
        elif event["event"] == "progress":
            progress(event["done"], event["total"], event["unit"])
        elif event["event"] == "finished":
            progress(event["fold"] + 1, len(models), "models")

    steps = [str(number) for number in range(len(models))]
    ended = follow_child(
        folder, steps, order.environment.variables(), handle, order.environment.python
    )
    if errors or ended:
        raise TrainingError(f"{(*errors, ended)[0]}; more is in {folder / 'log.txt'}")
    every = [
        read_probabilities(folder / f"{number}.npy", len(table), len(classes), several)
        for number in range(len(models))
    ]
    return np.asarray(np.mean(every, axis=0), dtype=np.float64)


def _write_results(order: Order, table: pd.DataFrame, raw: Floats, folder: Path) -> None:
    """Write the predictions, and what they are worth where there are labels."""
    classes, calibrated = order.run["classes"], order.decision.calibrate(raw)
    described = describe_predictions(table, classes, calibrated, order.decision.decide(raw))
    described[["tile", "SOPInstanceUID"]] = table[["tile", "SOPInstanceUID"]]
    for column, name in enumerate(classes):
        described[f"raw:{name}"] = raw[:, column]
    described["warnings"] = table["warnings"].astype("string")
    if order.facts["paths"]:  # a set that grew has its images in the order that they came in
        described = described.sort_values(["path", "frame", "tile"], ignore_index=True)
    write_table(folder / "predictions.parquet", described)
    if "label" in table:
        write_json(folder / "metrics.json", _measure(order, table, raw, calibrated))


def _measure(order: Order, table: pd.DataFrame, raw: Floats, calibrated: Floats) -> dict[str, Any]:
    run, decision = order.run, order.decision
    labels = read_truth(table["label"], run["classes"], asks_several(run))
    metrics = measure(table, calibrated, run, threshold=decision.threshold)
    calibration = {
        "temperature": decision.temperature,
        "before": measure_calibration(labels, raw),
        "after": measure_calibration(labels, calibrated),
    }
    return {**metrics, "decision": decision.describe(), "calibration": calibration}


def _read_metrics(folder: Path) -> dict[str, Any] | None:
    path = folder / "metrics.json"
    metrics: dict[str, Any] | None = read_json(path) if path.exists() else None
    return metrics
