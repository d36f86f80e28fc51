"""What a fit leaves in the folder of its fold, and the seal that says it is whole.

    fold-K/model/            what the trainer saved
    fold-K/trainer.json      what saved it
    fold-K/predictions.npy   probabilities of the test part, shape (n, classes)
    fold-K/looks.jsonl       every look at the validation part
    fold-K/done.json         the seal: the SHA-256 of each of these

Nothing is unpickled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from medkit.errors import TrainingError, WorkspaceError
from medkit.statistics.truth import spell_truth
from medkit.workspace import hash_file, read_json, remove_folder, write_beside, write_json

Look = Mapping[str, Any]

_LOOKS = "looks.jsonl"


def make_model_folder(folder: Path) -> Path:
    """Return the folder for the model of a fold, new and empty."""
    remove_folder(folder / "model")
    (folder / "model").mkdir(parents=True)
    return folder / "model"


def read_probabilities(
    path: Path, rows: int, classes: int, several: bool = False
) -> npt.NDArray[np.float64]:
    """Return what a model predicted, rows summing to 1 in float64 unless labels are several.

    Raises
    ------
    TrainingError
        If it is not an array (rows, classes) of finite numbers from 0 to 1 whose rows sum to 1
        within 0.001, unless an image has several labels.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise TrainingError(f"the predictions cannot be read: {error}") from None
    if values.shape != (rows, classes) or values.dtype.kind != "f":
        raise TrainingError(
            f"predict_proba gave shape {values.shape} of {values.dtype}; "
            f"it must give floating-point numbers of shape {(rows, classes)}: images, classes"
        )
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).any(axis=1).sum())
        raise TrainingError(f"predict_proba gave NaN or infinity for {count} of {rows} images")
    return _normalise(values.astype(np.float64), several)


def _normalise(values: npt.NDArray[np.float64], several: bool) -> npt.NDArray[np.float64]:
    tolerance = 1e-3  # float16 and bfloat16 softmax sums are off by less
    if values.size and (values.min() < -tolerance or values.max() > 1 + tolerance):
        raise TrainingError(
            f"predict_proba gave values from {values.min():g} to {values.max():g}; "
            "probabilities lie between 0 and 1"
        )
    clipped: npt.NDArray[np.float64] = np.clip(values, 0, 1)
    if several:
        return clipped
    sums = values.sum(axis=1, keepdims=True)
    if np.abs(sums - 1).max(initial=0) > tolerance:
        raise TrainingError(
            f"predict_proba gave rows that sum to between {sums.min():g} and {sums.max():g}; "
            "the probabilities of an image sum to 1"
        )
    return np.asarray(clipped / clipped.sum(axis=1, keepdims=True), dtype=np.float64)


def describe_predictions(
    table: pd.DataFrame,
    classes: Sequence[str],
    probabilities: npt.NDArray[np.float64],
    decided: npt.NDArray[np.integer[Any]],
) -> pd.DataFrame:
    """Return the content of ``predictions.parquet``.

    Parameters
    ----------
    table : DataFrame
        Columns image, file, path, frame, split_group, and label and fold where these are known.
    classes : sequence of str
        Names of the columns of ``probabilities``, shape (n, classes).
    decided : ndarray of int64, shape (n,) or (n, classes)
        The predicted class of each image, or which of several labels are predicted.
    """
    names = [
        name for name in ("image", "file", "path", "frame", "split_group", "label") if name in table
    ]
    described = table[names].rename(columns={"split_group": "person"})
    described["predicted"] = spell_truth(decided, classes)
    if "fold" in table:
        described["fold"] = table["fold"]
    for column, name in enumerate(classes):
        described[f"p:{name}"] = probabilities[:, column]
    return described


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet, atomically; equal rows give equal bytes."""
    # What pandas adds to the metadata names its own version.
    content = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata()
    with write_beside(path) as beside:
        pq.write_table(content, beside)


def seal_fold(folder: Path) -> None:
    """Hash what a fit left and write the seal; the checkpoints are no longer needed.

    Raises
    ------
    TrainingError
        If a file is a link: a model is what lies in its folder.
    """
    files = _hash_files(folder)
    remove_folder(folder / "checkpoints")
    write_json(folder / "done.json", {"files": files})


def check_seal(folder: Path) -> None:
    """Raise if the files of a fold are not those that were sealed.

    Raises
    ------
    TrainingError
        If one is missing, changed or was added.
    """
    try:
        sealed = read_json(folder / "done.json")["files"]
    except (WorkspaceError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder.name} is not finished: {error}") from None
    found = _hash_files(folder)
    changed = sorted(name for name in {*sealed, *found} if sealed.get(name) != found.get(name))
    if changed:
        raise TrainingError(
            f"{folder.name} is damaged: {', '.join(changed)} changed since it was finished; "
            "train again under another name"
        )


def is_sealed(folder: Path) -> bool:
    """Tell whether a fold is finished and unchanged."""
    try:
        check_seal(folder)
    except TrainingError:
        return False
    return True


def open_looks(folder: Path) -> Callable[[Look], None]:
    """Return a function that records looks in a fold's folder.

    The first look of a fit that goes on from a checkpoint takes the place of what had been seen
    from that epoch on, so that a fit that was killed records what an unbroken one does. It raises
    TrainingError on NaN and infinity.
    """
    path, fresh = folder / _LOOKS, True

    def record(look: Look) -> None:
        nonlocal fresh
        if not math.isfinite(look["value"]):
            raise TrainingError(
                f"the look at epoch {look['epoch']} has the value {look['value']}; "
                "a validation score is a finite number"
            )
        if fresh:
            kept = _before(read_looks(folder), look["epoch"])
            with write_beside(path) as beside:
                beside.write_text("".join(map(_spell, kept)), encoding="utf-8")
            fresh = False
        with path.open("a", encoding="utf-8") as file:
            file.write(_spell(look))

    return record


def read_looks(folder: Path) -> list[dict[str, Any]]:
    """Return the looks of the fold in a folder; a last line that a kill cut off is left out."""
    if not (folder / _LOOKS).exists():
        return []
    *whole, _ = (folder / _LOOKS).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in whole]


def summarise_looks(looks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many looks were taken, the best value seen, and that of the weights returned."""
    chosen = [look["value"] for look in looks if look["chosen"]]
    return {
        "number": len(looks),
        "best": max((look["value"] for look in looks), default=None),
        "chosen": chosen[-1] if chosen else None,
    }


def describe_optimism(
    looks: Sequence[Mapping[str, Any]], folds: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Set what was seen of validation parts beside what the test parts then said.

    What a look saw is the trainer's choice, higher is better. Nothing above 0 is taken for minus
    the log loss, anything else for the balanced accuracy.

    Parameters
    ----------
    looks : sequence of mapping
        By fold, as `summarise_looks` gives them, and the fold's number.
    folds : sequence of mapping
        As of ``metrics.json``.

    Returns
    -------
    dict or None
        Looks that were taken in all; means over folds of the best value seen, of that of the
        weights that were kept, and of the test part by these; best less test; and the same of each
        fold. None where nothing was looked at.
    """
    taken = [look for look in looks if look["number"]]
    if not taken:
        return None
    negative = all(look["best"] <= 0 for look in taken)
    metric, sign = ("log_loss", -1) if negative else ("balanced_accuracy", 1)
    tests = {fold["fold"]: fold["metrics"][metric] for fold in folds}
    rows = [
        {
            "fold": look["fold"],
            "looks": look["number"],
            "best": look["best"],
            "chosen": look["chosen"],
            "test": None if (test := tests[look["fold"]]) is None else sign * test,
        }
        for look in taken
    ]
    means = {name: _average(row[name] for row in rows) for name in ("best", "chosen", "test")}
    best, test = means["best"], means["test"]
    return {
        "looks": sum(look["number"] for look in taken),
        "metric": "minus log_loss" if negative else metric,
        **means,
        "optimism": None if best is None or test is None else best - test,
        "folds": rows,
    }


def _average(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _before(looks: list[dict[str, Any]], epoch: int) -> list[dict[str, Any]]:
    at = next((index for index, look in enumerate(looks) if look["epoch"] >= epoch), len(looks))
    return looks[:at]


def _spell(look: Look) -> str:
    return json.dumps(dict(look), sort_keys=True) + "\n"


def _hash_files(folder: Path) -> dict[str, str]:
    files = [folder / "trainer.json", folder / "predictions.npy", folder / _LOOKS]
    files += [path for path in (folder / "model").rglob("*") if not path.is_dir()]
    linked = [path.name for path in files if path.is_symlink()]
    if linked:
        raise TrainingError(f"{linked[0]!r} is a link; a model is what lies in its folder")
    return {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(files)
        if path.exists()
    }
