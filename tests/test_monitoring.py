"""How a run stands: the time left, what is shown, and what trackers are told."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faketrainer import CENTROID, install, make_workspace

from medkit.cli.terminal import show_training
from medkit.errors import UsageError
from medkit.training import run as training
from medkit.training import tracking
from medkit.training.child import Event
from medkit.training.monitoring import Outlook
from medkit.workspace import Workspace, read_json


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def begin(folds: int, settled: int = 0) -> Event:
    where = "the processors, 2 threads"
    return {"event": "begun", "folds": folds, "settled": settled, "where": where, "note": ""}


def tell(fold: int, **facts: float) -> Event:
    return {"event": "status", "fold": fold, "facts": facts}


def settle(fold: int, error: str | None = None) -> Event:
    status = "failed" if error else "done"
    return {"event": "settled", "fold": fold, "status": status, "seconds": 70.0, "error": error}


def test_the_time_left_is_that_of_all_folds_at_the_speed_so_far() -> None:
    clock = Clock()
    outlook = Outlook(clock)
    outlook.watch(begin(4))
    assert outlook.left is None
    outlook.watch({"event": "started", "fold": 0})
    clock.now += 10
    outlook.watch({"event": "progress", "fold": 0, "done": 1, "total": 2, "unit": "epochs"})
    assert outlook.share == pytest.approx(1 / 8)
    assert outlook.left == pytest.approx(70)
    outlook.watch(settle(0))
    outlook.watch({"event": "started", "fold": 1})
    clock.now += 20
    assert outlook.left == pytest.approx(90)


def test_what_was_done_before_a_resumption_tells_nothing_of_the_speed() -> None:
    clock = Clock()
    outlook = Outlook(clock)
    outlook.watch(begin(5, settled=3))
    outlook.watch({"event": "started", "fold": 3})
    clock.now += 30
    assert outlook.left is None
    outlook.watch(settle(3))
    assert outlook.left == pytest.approx(30)


def test_folds_at_once_are_both_described_and_both_count() -> None:
    outlook = Outlook(Clock())
    outlook.watch(begin(2))
    for fold in (1, 0):
        outlook.watch({"event": "started", "fold": fold})
    outlook.watch(tell(1, epoch=3, epochs=20, loss=0.4123, validation_loss=0.5, batch_size=32))
    outlook.watch(tell(1, images_per_second=1234.5))
    outlook.watch(tell(0, epoch=9, epochs=20, loss=None))  # type: ignore[arg-type]
    assert outlook.describe() == (
        "fold 1 of 2, epoch 10 of 20; fold 2 of 2, epoch 4 of 20, loss 0.412, validation 0.500, "
        "1,234 images/s, batch 32"
    )
    assert outlook.share == pytest.approx((3 + 9) / 40)


def test_where_there_is_no_terminal_a_line_comes_ever_more_seldom(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("medkit.training.monitoring.Outlook", lambda: Outlook(clock))
    with show_training("\x1b[31mcnn") as (progress, watch):
        watch(begin(2))
        watch({"event": "started", "fold": 0})
        for step in range(10_000):
            clock.now += 0.1
            watch(tell(0, epoch=step // 100, epochs=100, loss=1.0))
        watch(settle(0))
        progress(1, 2, "folds")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "\\x1b[31mcnn: 2 folds on the processors, 2 threads"
    assert lines[1] == "\\x1b[31mcnn: fold 1 of 2, epoch 1 of 100, loss 1.000"
    assert lines[-1].startswith("\\x1b[31mcnn: fold 1 of 2 done after 0:01:10, 0:")
    assert lines[-1].endswith(" left")
    assert 5 < len(lines) < 15  # of a thousand seconds


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_folds_the_time_left_and_what_a_fit_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen, clock = Screen(), Clock()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("medkit.training.monitoring.Outlook", lambda: Outlook(clock))
    with show_training("cnn") as (progress, watch):
        progress(3, 10, "images")
        watch(begin(4, settled=1) | {"where": "2 x Made Up", "note": "no \x1b[31mCUDA"})
        watch({"event": "started", "fold": 1})
        clock.now += 10
        watch(tell(1, epoch=5, epochs=10, loss=0.25))
    drawn = screen.getvalue()
    assert "cnn: 4 folds on 2 x Made Up, 1 are done" in drawn
    assert "note: no \\x1b[31mCUDA" in drawn
    assert "fold 2 of 4, epoch 6 of 10, loss 0.250" in drawn
    assert "1/4" in drawn
    assert "0:00:50 left" in drawn


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    site = tmp_path_factory.mktemp("site")
    install(site, "fake-centroid", CENTROID, names=("centroid",))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("MLFLOW_TRACKING_URI", "")
        yield Workspace(make_workspace(tmp_path_factory.mktemp("prepared")))


def train(home: Workspace, name: str, *logs: str, **changes: Any) -> training.Finished:
    arguments = {"label": "animal", "folds": 2, "threads": 1, "device": "cpu", **changes}
    return training.train(home, "set", "centroid", logs=logs, name=name, **arguments)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Fold 1 is killed in its second epoch."""
    if os.name != "posix":
        pytest.skip("ends a process by a POSIX signal")
    monkeypatch.setenv("FAKE_FAULT", "kill:1")
    return monkeypatch


def test_tensorboard_reads_losses_by_fold_and_metrics(
    home: Workspace, broken: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    with pytest.raises(Exception, match="1 of 2 folds"):
        train(home, "board", "tensorboard")
    broken.delenv("FAKE_FAULT")
    done = train(home, "board", "tensorboard")
    for fold in range(2):
        scalars = read_events(done.folder / "tensorboard" / f"fold-{fold}")
        assert scalars["loss"] == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
        assert scalars["validation_loss"][-1] == (2, pytest.approx(2 / 3))
    told = read_events(done.folder / "tensorboard")
    entry = done.metrics["metrics"]["auc"]
    assert told["metric/auc"] == [(0, pytest.approx(entry["value"]))]
    assert told["metric/auc/low"] == [(0, pytest.approx(entry["low"]))]
    check_privacy(b"".join(path.read_bytes() for path in done.folder.rglob("*tfevents*")))


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the scalars of a folder, as TensorBoard's own loader keeps them."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("*tfevents*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    found.setdefault(value.tag, {})[event.step] = value.tensor.float_val[0]
    return {tag: sorted(values.items()) for tag, values in found.items()}


def check_privacy(content: bytes) -> None:
    for secret in (b"P000", b"zebra", b"yak", b"images/", b".dcm"):
        assert secret not in content


@pytest.mark.filterwarnings("ignore")  # of what MLflow asks of its own libraries
def test_mlflow_has_one_run_with_options_losses_and_metrics(
    home: Workspace, broken: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    with pytest.raises(Exception, match="1 of 2 folds"):
        train(home, "flow", "mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{home.root.absolute() / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'medkit'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"
    broken.delenv("FAKE_FAULT")
    done = train(home, "flow", "mlflow")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "flow")
    assert done.record["mlflow"] == run.info.run_id
    assert run.data.params["option/size"] == "32"
    assert run.data.params["plugin"] == "centroid"
    assert run.data.metrics["auc"] == done.metrics["metrics"]["auc"]["value"]
    history = client.get_metric_history(run.info.run_id, "fold-0/validation_loss")
    assert [(one.step, one.value) for one in history] == [(0, 2.0), (1, 1.0), (2, 2 / 3)]
    check_privacy(repr((run.data.params, run.data.metrics)).encode())


def test_a_log_that_cannot_be_written_is_an_error_before_anything_is_done(
    home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="unknown log 'wandb'; use tensorboard or mlflow"):
        train(home, "unknown", "wandb")
    monkeypatch.setattr("medkit.training.tracking.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'medkit\[tensorboard\]'"):
        train(home, "missing", "tensorboard")
    assert not home.run("missing").exists()


def test_a_tracker_that_stops_taking_does_not_stop_the_training(
    home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sulky:
        def __init__(self, course: Any, root: Path) -> None:
            pass

        def add(self, fold: int, epoch: int, losses: Any) -> None:
            raise OSError("the server is gone")

        conclude = close = add

    monkeypatch.setitem(tracking._WRITERS, "tensorboard", Sulky)
    monkeypatch.setattr("medkit.training.tracking.find_spec", lambda name: True)
    done = train(home, "sulky", "tensorboard")
    told = read_json(done.folder / "run.json")["notes"]
    assert told == ["tensorboard took no more of this run's log: OSError: the server is gone"]


def test_the_host_imports_no_backend_for_its_logs() -> None:
    pytest.importorskip("tensorboard")
    script = (
        "import sys\n"
        "from tensorboard.summary.writer.record_writer import RecordWriter\n"
        "from tensorboard.compat.proto.event_pb2 import Event\n"
        "from tensorboard.compat.proto.summary_pb2 import Summary\n"
        "import medkit.training.tracking\n"
        "assert not {'tensorflow', 'torch', 'jax'} & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
