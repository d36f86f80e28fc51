"""The child process: ``python -m medkit.training.worker FOLDER STEP ...``.

It reads ``job.json`` in the folder, does what is asked, and sends events to the host as JSON
lines. It ends when the host does.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.errors import MedkitError, TrainingError
from medkit.plugins import load_trainer
from medkit.training.contract import LabelledImages, RunContext
from medkit.training.features import compute_features, open_features
from medkit.training.featurestores import bound_features
from medkit.training.head import LinearModel, is_linear, read_spec
from medkit.training.job import Job, derive_seed, fold_folder, read_job, read_part
from medkit.training.params import restore_params
from medkit.training.result import make_model_folder, open_looks
from medkit.training.shares import Extract, compute_share, remove_shares, take_shares
from medkit.workspace import dump_json, read_json, write_json

if TYPE_CHECKING:
    from medkit.images.reader import Images

Rows = npt.NDArray[np.int64]
# What a trainer may know of an image besides its pixels. Path, folder and tags are not among it:
# they can be the label, also of an image of the test part.
_SHOWN = [
    *("image", "array", "row", "pixels_sha256", "slope", "intercept", "units", "full_low"),
    *("full_high", "WindowCenter", "WindowWidth", "VOILUTFunction", "fill_value", "pad_box"),
]
# What a trainer says of its features; None where it has none.
Spec = dict[str, Any] | None

# Seconds between two reports of progress: a pipe that nobody empties must not fill up.
_PACE = 0.1


class Host:
    """The host process, as this one sees it."""

    def __init__(self) -> None:
        # The pipe to the host is for events alone: whatever else is printed goes to the log.
        self._channel = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self._reported = self._noted = 0.0
        self._fold: int | None = None
        self._facts: dict[str, float] = {}
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        # os.read and not sys.stdin: Python cannot end while a thread holds the lock of stdin.
        while os.read(0, 1):
            self._stop.set()
        os._exit(1)  # the host has died, and nobody waits for what is done here

    def send(self, event: str, **facts: Any) -> None:
        """Send an event; it says which fold it is of, and what was held back goes before it."""
        if event == "started":
            self._fold = facts["fold"]
        self._flush()
        self._write({"event": event, "fold": self._fold, **facts})
        if event == "finished":
            self._fold = None

    def progress(self, done: int, total: int, unit: str) -> None:
        """Report progress, not too often."""
        now = time.monotonic()
        if done == total or now - self._reported >= _PACE:
            self._reported = now
            self.send("progress", done=int(done), total=int(total), unit=str(unit))

    def note(self, facts: Mapping[str, Any]) -> None:
        """Report how a fit stands, not too often; an epoch's last word and validation always."""
        if facts.get("epoch", self._facts.get("epoch")) != self._facts.get("epoch"):
            self._flush()
        self._facts |= {name: float(value) for name, value in facts.items()}
        if "validation_loss" in facts or time.monotonic() - self._noted >= _PACE:
            self._flush()

    def _flush(self) -> None:
        if self._facts:
            facts, self._facts, self._noted = self._facts, {}, time.monotonic()
            self._write({"event": "status", "fold": self._fold, "facts": _keep_finite(facts)})

    def _write(self, event: Mapping[str, Any]) -> None:
        with self._lock:
            os.write(self._channel, (json.dumps(event) + "\n").encode())

    def log(self, text: str) -> None:
        """Write a sentence to the run's log."""
        print(text, file=sys.stderr, flush=True)

    def stopping(self) -> bool:
        """Tell whether the user asked to stop."""
        return self._stop.is_set()


@dataclass(frozen=True)
class _Bench:
    """What every task works with."""

    folder: Path
    job: Job
    host: Host
    trainer: type[Any]

    def make_trainer(self) -> Any:
        return self.trainer(restore_params(self.trainer.Params, self.job.params))

    def make_context(self, folder: Path, purpose: object) -> RunContext:
        checkpoints = folder / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        device = self.job.environment["device"]
        return RunContext(
            seed=derive_seed(self.job.seed, self.job.plugin, purpose),
            folder=folder,
            checkpoints=checkpoints,
            # Of several GPUs one is seen here.
            device="cpu" if device == "cpu" else "gpu:0",
            threads=self.job.environment["threads"],
            log=self.host.log,
            progress=self.host.progress,
            facts=self.host.note,
            looks=open_looks(folder),
            stopping=self.host.stopping,
        )


def main(arguments: list[str]) -> int:
    """Do the job in a folder and return the exit code."""
    folder, steps = Path(arguments[0]), [int(step) for step in arguments[1:]]
    host = Host()
    try:
        job, numbers = read_job(folder)
        bench = _Bench(folder, job, host, load_trainer(job.plugin))
        _TASKS[job.task](bench, numbers, steps)
    except Exception as error:  # a trainer may raise anything; the host hears it and goes on
        traceback.print_exc()
        if not host.stopping():
            host.send("failed", error=_describe(error))
        return 1
    return 0


def _fit_folds(bench: _Bench, numbers: Rows, folds: list[int]) -> None:
    images, spec = _open_images(bench, numbers)
    for fold in folds:
        bench.host.send("started", fold=fold)
        _fit_fold(bench, fold, images, numbers, spec)
        bench.host.send("finished", fold=fold)


def _fit_fold(bench: _Bench, fold: int, images: Images, numbers: Rows, spec: Spec) -> None:
    folder = fold_folder(bench.folder, fold)
    trainer = bench.make_trainer()
    train, validation = (
        _gather(bench.job, folder, part, images, numbers) for part in ("train", "validation")
    )
    model = trainer.fit(train, validation, bench.make_context(folder, fold))
    if bench.host.stopping():
        raise TrainingError("stopped; the fold starts again, from its checkpoint if it has one")
    model.save(make_model_folder(folder))
    write_json(folder / "trainer.json", bench.job.describe_trainer(spec))
    # Predicted by the model as it is on disk: the number belongs to what evaluate will load.
    test = images.take(np.searchsorted(numbers, read_part(folder, "test")))
    _write_predictions(folder / "predictions.npy", trainer.load(folder / "model"), test)


def _gather(job: Job, folder: Path, part: str, images: Images, numbers: Rows) -> LabelledImages:
    chosen = read_part(folder, part)
    return LabelledImages(
        images.take(np.searchsorted(numbers, chosen)),
        read_part(folder, part, "labels"),
        read_part(folder, part, "persons"),
        tuple(job.classes),
        np.ones(len(chosen), dtype=np.float32),
    )


def _compute_features(bench: _Bench, numbers: Rows, part: list[int]) -> None:
    """Compute the features of all images; with steps K and N, the K-th of N shares of them."""
    images = _open_set(bench, numbers)
    if not part:
        _find_features(bench, images)
        remove_shares(bench.folder)
        return
    trainer = bench.make_trainer()
    spec = read_spec(trainer) or {}
    compute_share(
        images.with_view(**spec.get("view", {})),
        Path(bench.job.feature_store),
        bench.folder,
        (part[0], part[1]),
        bench.job.describe_features(spec),
        _prepare_extraction(bench, trainer),
        bench.host.progress,
    )


def _prepare_extraction(bench: _Bench, trainer: Any) -> Extract:
    context = bench.make_context(bench.folder / "features", "features")
    # The host is told of whole batches: progress inside one would jump to and fro.
    quiet = replace(context, progress=lambda done, total, unit: None)
    return lambda batch: trainer.features(batch, quiet)


def _predict(bench: _Bench, numbers: Rows, models: list[int]) -> None:
    """Predict with finished models: step K takes the K-th of the job's, and writes ``K.npy``."""
    images, spec = _open_images(bench, numbers)
    for number in models:
        model = _load_model(bench, number, spec)
        _write_predictions(bench.folder / f"{number}.npy", model, images)
        bench.host.send("finished", fold=number)


def _load_model(bench: _Bench, number: int, spec: Spec) -> Any:
    """Return the K-th of the job's finished models."""
    folder = Path(bench.job.models[number])
    _check_spec(spec, folder)
    trainer = bench.make_trainer()
    load = LinearModel.load if is_linear(trainer) else trainer.load
    return load(folder / "model")


def _export(bench: _Bench, numbers: Rows, models: list[int]) -> None:
    """Write finished models as one in another form; the job's images are to compare on."""
    from medkit.training.exports.joining import write_joined

    images, spec = _open_images(bench, numbers)
    loaded = [_load_model(bench, number, spec) for number in models]
    threads = bench.job.environment["threads"]
    write_joined(bench.folder, bench.make_trainer(), loaded, spec, images, threads)


def _explain(bench: _Bench, numbers: Rows, models: list[int]) -> None:
    """Find by which parts of some images finished models decided; see `explanation`."""
    from medkit.training.explanation import Subject, read_order, write_maps

    trainer, images = bench.make_trainer(), _open_set(bench, numbers)
    spec, compute = read_spec(trainer), _prepare_extraction(bench, trainer)

    def extract(some: Images) -> Any:
        return compute(some.with_view(**(spec or {}).get("view", {})))

    for number in models:
        mine, targets = read_order(bench.folder, number)
        subject = Subject(
            trainer,
            partial(_load_model, bench, number, spec),
            None if spec is None else extract,
            images.take(mine),
            targets,
            bench.job.seed,
        )
        write_maps(bench.folder, number, subject)
        bench.host.send("finished", fold=number)


def _write_predictions(path: Path, model: Any, images: Images) -> None:
    np.save(path, np.asarray(model.predict_proba(images)), allow_pickle=False)


def _check_spec(spec: Spec, folder: Path) -> None:
    """Refuse features that are not those the model was trained on."""
    trained = read_json(folder / "trainer.json")["feature_spec"]
    if json.loads(dump_json(spec)) != trained:
        raise TrainingError(
            f"the model was trained on features {trained}, and this trainer gives {spec}: "
            "its version or its weights have changed"
        )


def _open_set(bench: _Bench, numbers: Rows) -> Images:
    from medkit.images.imageset import ImageSet

    images = ImageSet.open(Path(bench.job.set_folder)).images().take(numbers)
    return replace(images, table=images.table[_SHOWN])


def _open_images(bench: _Bench, numbers: Rows) -> tuple[Images, Spec]:
    """Return the job's images, with the trainer's features where it has any, and what these are."""
    images = _open_set(bench, numbers)
    found = _find_features(bench, images)
    if found is None:
        return images, None
    key, rows, spec = found
    return images.with_features(open_features(Path(bench.job.feature_store), key)[rows]), spec


def _find_features(bench: _Bench, images: Images) -> tuple[str, Rows, dict[str, Any]] | None:
    """Have the trainer's features computed, if it has any, and tell the host what fits start from.

    Returns
    -------
    tuple or None
        Their key, the row of each image, and what the trainer says of them.
    """
    trainer, found, told = bench.make_trainer(), None, None
    spec = read_spec(trainer)
    if spec is not None:
        origin, extract = bench.job.describe_features(spec), _prepare_extraction(bench, trainer)
        key, rows = compute_features(
            images.with_view(**spec.get("view", {})),
            Path(bench.job.feature_store),
            origin,
            take_shares(bench.folder, origin, extract),
            bench.host.progress,
        )
        if removed := bound_features(Path(bench.job.feature_store), key):
            bench.host.log(removed)
        np.save(bench.folder / "feature-rows.npy", rows)
        found, told = (key, rows, spec), {"key": key, "spec": spec}
    weights = getattr(trainer, "weights_used", None)
    bench.host.send("opened", features=told, weights=weights)
    return found


def _keep_finite(facts: Mapping[str, float]) -> dict[str, float | None]:
    """Return the facts with None for a loss that is no number, which JSON cannot spell."""
    return {name: value if math.isfinite(value) else None for name, value in facts.items()}


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, MedkitError) else f"{type(error).__name__}: {error}"


_TASKS: dict[str, Callable[[_Bench, Rows, list[int]], None]] = {
    "fit": _fit_folds,
    "features": _compute_features,
    "predict": _predict,
    "export": _export,
    "explain": _explain,
}

if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # Everything is written; libraries with threads of their own can crash while Python ends.
    os._exit(code)
