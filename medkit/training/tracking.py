"""Losses and metrics of a run in TensorBoard and MLflow, through their own libraries.

    runs/NAME/tensorboard/fold-K/       losses of a fold by epoch
    runs/NAME/tensorboard/              options and the metrics with their intervals
    mlflow.db                           in the workspace, where MLFLOW_TRACKING_URI names no other

What leaves is numbers by epoch, metrics, names and options. No image, path of an image, person or
class is among it: a class can be named by what stood in a file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from medkit.errors import UsageError
from medkit.training.child import Event
from medkit.training.course import Course

# What of a record may leave.
_TOLD = (
    *("name", "plugin", "distribution", "version", "set", "set_id", "label", "folds_key"),
    *("k", "seed", "validation_share", "device", "cards", "threads", "backend"),
)
_LOSSES = ("loss", "validation_loss")


class Writer(Protocol):
    """One place that losses and metrics are written to."""

    def add(self, fold: int, epoch: int, losses: Mapping[str, float]) -> None:
        """Write what an epoch of a fold came to."""
        ...

    def conclude(self, values: Mapping[str, float]) -> None:
        """Write the metrics of the run."""
        ...

    def close(self) -> None:
        """Be done, whether the run is or not."""
        ...


def check_logs(names: Sequence[str]) -> None:
    """Raise unless each can be written to.

    Raises
    ------
    UsageError
        If a name is unknown, or its library is not installed.
    """
    for name in names:
        if name not in _WRITERS:
            raise UsageError(f"unknown log {name!r}; use {' or '.join(_WRITERS)}")
        missing = [module for module in _NEEDS[name] if find_spec(module) is None]
        if missing:
            raise UsageError(
                f"--log {name} needs {', '.join(missing)}, which is not installed; "
                f"pip install 'medkit[{name}]'"
            )


@contextmanager
def track(names: Sequence[str], course: Course, root: Path) -> Iterator[Callable[[Any], None]]:
    """Write what a run says while it goes on; yield a function that takes its metrics.

    Parameters
    ----------
    names : sequence of str
        Of ``"tensorboard"`` and ``"mlflow"``.
    course : Course
        The run.
    root : Path
        Of the workspace.
    """
    tracking = _Tracking({name: _WRITERS[name](course, root) for name in names}, course)
    course.watchers = [*course.watchers, tracking.watch]
    try:
        yield tracking.conclude
    finally:
        tracking.each(lambda writer: writer.close())


@dataclass
class _Tracking:
    """Gathers what was said of an epoch, and writes it once the epoch is over."""

    writers: dict[str, Writer]
    course: Course
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)

    def watch(self, event: Event) -> None:
        fold = event.get("fold")
        if fold is None:
            return
        if event["event"] == "started":
            self.epochs.pop(fold, None)
        elif event["event"] == "settled":
            self._write(fold)
        elif event["event"] == "status":
            facts = {key: value for key, value in event["facts"].items() if value is not None}
            known = self.epochs.get(fold, {})
            if "epoch" in facts and facts["epoch"] != known.get("epoch", facts["epoch"]):
                self._write(fold)
            self.epochs.setdefault(fold, {}).update(facts)

    def _write(self, fold: int) -> None:
        facts = self.epochs.pop(fold, {})
        losses = {name: facts[name] for name in _LOSSES if name in facts}
        if losses and "epoch" in facts:
            self.each(lambda writer: writer.add(fold, int(facts["epoch"]), losses))

    def conclude(self, metrics: Mapping[str, Any]) -> None:
        self.each(lambda writer: writer.conclude(_flatten(metrics)))

    def each(self, act: Callable[[Writer], None]) -> None:
        for name, writer in list(self.writers.items()):
            try:
                act(writer)
            except Exception as error:  # a server that is gone must not cost the training
                del self.writers[name]
                self.course.record.setdefault("notes", []).append(
                    f"{name} took no more of this run's log: {type(error).__name__}: {error}"
                )


def _flatten(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics and the ends of their intervals that exist."""
    return {
        name if part == "value" else f"{name}/{part}": float(entry[part])
        for name, entry in metrics["metrics"].items()
        for part in ("value", "low", "high")
        if entry.get(part) is not None
    }


def _describe(record: Mapping[str, Any]) -> dict[str, str]:
    told = {name: record[name] for name in _TOLD if record.get(name) not in (None, [])}
    options = {f"option/{name}": value for name, value in record["params"].items()}
    return {name: str(value) for name, value in {**told, **options}.items()}


class _TensorBoard:
    """Event files, written by the record writer alone: all else there imports TensorFlow."""

    def __init__(self, course: Course, root: Path) -> None:
        self._folder = course.folder / "tensorboard"
        self._files: dict[str, Any] = {}
        text = json.dumps(_describe(course.record), indent=1)
        self._write("", 0, [self._spell_text("run", text)])

    def add(self, fold: int, epoch: int, losses: Mapping[str, float]) -> None:
        self._write_scalars(f"fold-{fold}", epoch, losses)

    def conclude(self, values: Mapping[str, float]) -> None:
        self._write_scalars("", 0, {f"metric/{name}": value for name, value in values.items()})

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _write_scalars(self, place: str, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        spelt = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(place, step, spelt)

    def _spell_text(self, tag: str, text: str) -> Any:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        plugin = SummaryMetadata.PluginData(plugin_name="text")
        content = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
        return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=content)

    def _write(self, place: str, step: int, values: Sequence[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event as Record
        from tensorboard.compat.proto.summary_pb2 import Summary

        file = self._files.get(place) or self._open(place, step)
        record = Record(wall_time=time.time(), step=step, summary=Summary(value=values))
        file.write(record.SerializeToString())
        file.flush()

    def _open(self, place: str, step: int) -> Any:
        from tensorboard.compat.proto.event_pb2 import Event as Record
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = self._folder / place
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.medkit"
        file = self._files[place] = RecordWriter((folder / name).open("wb"))
        version = Record(wall_time=time.time(), file_version="brain.Event:2")
        file.write(version.SerializeToString())
        # What an earlier start wrote from this step on is superseded: TensorBoard drops it.
        start = SessionLog(status=SessionLog.START)
        file.write(Record(wall_time=time.time(), step=step, session_log=start).SerializeToString())
        return file


class _MLflow:
    """A run of MLflow, gone on with where this run was begun before."""

    def __init__(self, course: Course, root: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        home = root.absolute()
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}"
        try:
            self._client = MlflowClient(tracking_uri=address)
            self._run = self._find(course) or self._begin(course, home)
        except (MlflowException, OSError) as error:
            raise UsageError(f"--log mlflow: {address} cannot be written to: {error}") from None
        self._done = False

    def _find(self, course: Course) -> str | None:
        from mlflow.exceptions import MlflowException

        try:
            known: str = self._client.get_run(course.record.get("mlflow", "none")).info.run_id
        except MlflowException:
            return None
        self._client.update_run(known, status="RUNNING")
        return known

    def _begin(self, course: Course, home: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "medkit")
        experiment = self._client.get_experiment_by_name(name)
        number = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(name, (home / "mlartifacts").as_uri())
        )
        run: str = self._client.create_run(number, run_name=course.folder.name).info.run_id
        for key, value in _describe(course.record).items():
            self._client.log_param(run, key, value)
        self._client.set_tag(run, "medkit.folder", str(course.folder.absolute()))
        course.record["mlflow"] = run
        course.write()
        return run

    def add(self, fold: int, epoch: int, losses: Mapping[str, float]) -> None:
        for name, value in losses.items():
            self._client.log_metric(self._run, f"fold-{fold}/{name}", value, step=epoch)

    def conclude(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value)
        self._done = True

    def close(self) -> None:
        self._client.set_terminated(self._run, "FINISHED" if self._done else "KILLED")


_WRITERS: dict[str, Callable[[Course, Path], Writer]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
}
_NEEDS = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
