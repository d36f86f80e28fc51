"""Records of what was asked, ``run.json`` and ``evaluation.json``: is this the same again?"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medkit.cohort.split import list_lacking
from medkit.errors import UsageError
from medkit.statistics.truth import MULTICLASS, MULTILABEL
from medkit.training.course import wait
from medkit.workspace import Workspace, dump_json, hash_json, read_json

if TYPE_CHECKING:
    from medkit.cohort.preparation import Prepared
    from medkit.plugins import Plugin
    from medkit.training.environment import Environment


def find_earlier(
    path: Path, record: Mapping[str, Any], identity: Sequence[str]
) -> dict[str, Any] | None:
    """Return the record of an earlier start with the same arguments, or None if there is none.

    Parameters
    ----------
    path : Path
        Of the record.
    record : mapping
        What is asked now, as JSON reads back.
    identity : sequence of str
        The keys that must be equal for it to be the same.

    Raises
    ------
    UsageError
        If the record there is of other arguments; the message says which.
    """
    if not path.exists():
        return None
    earlier: dict[str, Any] = read_json(path)
    different = [
        f"{key} was {earlier.get(key)!r} and is now {record[key]!r}"
        for key in identity
        if earlier.get(key) != record[key]
    ]
    if different:
        raise UsageError(
            f"{path.parent.name!r} was made with other arguments: {'; '.join(different)}. Give "
            "another --name, or, if they can be had again, those arguments to go on with it."
        )
    return earlier


def hash_identity(record: Mapping[str, Any], identity: Sequence[str]) -> str:
    """Return 8 hexadecimal digits that differ where the arguments do."""
    return hash_json({key: record[key] for key in identity}, length=8)


def tell_time() -> str:
    """Return the time in UTC, as a record has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_task(prepared: Prepared, share: float, positive: str | None) -> dict[str, Any]:
    """Return what of a record tells of the images and the folds.

    Parameters
    ----------
    prepared : Prepared
        The set and its folds.
    share : float
        Of the persons of a training part, to choose by.
    positive : str, optional
        As it was asked for.
    """
    image_set, folds = prepared.image_set, prepared.folds
    return {
        "set": image_set.name,
        "set_id": image_set.id,
        "recipe": image_set.manifest["recipe"],
        "catalog_snapshot": image_set.manifest["catalog_snapshot"],
        "label": folds.label,
        "task": MULTILABEL if folds.several else MULTICLASS,
        "classes": list(folds.classes),
        "positive": positive,
        "folds_key": folds.key,
        "k": folds.k,
        "fold_names": folds.names,
        "held_out": folds.describe_held_out(),
        "seed": folds.seed,
        "validation_share": share,
        "dropped": prepared.cohort.dropped,
        "leaks": prepared.leaks.to_json(),
        "warnings": [
            f"class {name} was set aside: it has {persons} persons"
            for name, persons in prepared.cohort.small_classes.items()
        ]
        + list_lacking(folds.table, folds.names, folds.several),
        "folds": [wait(fold) for fold in range(folds.k)],
    }


def describe_trainer(entry: Plugin, params: Any, environment: Environment) -> dict[str, Any]:
    """Return what of a record tells of the trainer, and of where it works."""
    return {
        "plugin": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "isolated": entry.home is not None,
        "params": json.loads(dump_json(asdict(params))),  # as it reads back: tuples are lists
        **environment.describe(),
        "cards": [gpu.card for gpu in environment.gpus],
        "platform": platform.platform(),
        "weights": None,
        "features": None,
        "status": "running",
        "started": tell_time(),
        "seconds": 0.0,
    }


def read_run(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return the record of a run.

    Raises
    ------
    UsageError
        If there is none of that name; the message lists those that can be gone on with.
    """
    path = workspace.run(name) / "run.json"
    if not path.exists():
        started = (workspace.run(run) / "run.json" for run in workspace.names("runs"))
        left = [
            run.parent.name
            for run in started
            if run.exists() and read_json(run)["status"] != "done"
        ]
        raise UsageError(
            f"there is no run {name!r} in this workspace; that can be gone on with: "
            f"{', '.join(left) or 'none'}"
        )
    record: dict[str, Any] = read_json(path)
    return record
